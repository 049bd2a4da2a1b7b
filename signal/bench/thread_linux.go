package bench

import (
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A thread reads for many clients: one epoll, one buffer, one thread of the system.
type thread struct {
	epoll     int
	stopped   atomic.Bool
	all, busy atomic.Int64
	latencies histogram // of run, until it ends or the crowd measures no more

	mu    sync.Mutex
	tills []*till // guarded by mu while clients connect: by the number that epoll tells
}

// nap is how long a thread that found few clients to read for lets others come up. A till
// wakes on a machine of its own; here the node would pay for waking it.
const nap = 200 * time.Microsecond

func newThread() (*thread, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &thread{epoll: fd}, os.NewSyscallError("epoll_create1", err)
}

// add takes the connection over, from Go's runtime too.
func (th *thread) add(t *till, conn net.Conn) error {
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) { t.fd, derr = syscall.Dup(int(fd)) }); err != nil {
		return err
	}
	if derr != nil {
		return os.NewSyscallError("dup", derr)
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	th.tills = append(th.tills, t)
	if t.deaf {
		return nil
	}
	e := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(len(th.tills) - 1)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(th.epoll, syscall.EPOLL_CTL_ADD, t.fd, &e))
}

// run reads until the crowd is closed.
func (th *thread) run(c *crowd) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var (
		events [512]syscall.EpollEvent
		buffer = make([]byte, 256<<10)
	)
	for _, t := range th.tills {
		if !t.deaf && len(t.part) > 0 { // came with the answers
			early := t.part
			t.part = nil
			th.read(t, early, time.Now().UnixNano())
		}
	}
	for few := false; !th.stopped.Load(); {
		if few {
			time.Sleep(nap)
		}
		n, err := syscall.EpollWait(th.epoll, events[:], 100)
		if err != nil && err != syscall.EINTR {
			c.fail(os.NewSyscallError("epoll_wait", err))
			return
		}
		few = n < len(events)/4
		for _, e := range events[:max(n, 0)] {
			t := th.tills[e.Fd]
			n, err := syscall.Read(t.fd, buffer)
			switch {
			case n > 0:
				th.read(t, buffer[:n], time.Now().UnixNano())
			case err == syscall.EAGAIN || err == syscall.EINTR:
			default:
				c.fail(errGone(t, err))
				return
			}
		}
	}
}

// stop ends the reading: from now on the figures do not change.
func (c *crowd) stop() {
	for _, th := range c.threads {
		th.stopped.Store(true)
	}
	c.reading.Wait()
}

// close ends everybody, without the system's waiting states.
func (c *crowd) close() {
	c.stop()
	for _, th := range c.threads {
		for _, t := range th.tills {
			_ = syscall.SetsockoptLinger(t.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
			_ = syscall.Close(t.fd)
		}
		_ = syscall.Close(th.epoll)
		th.tills = nil
	}
}

func pong(fd int) { _, _ = syscall.Write(fd, []byte{0x8a, 0x80, 0, 0, 0, 0}) }

// openFiles is how many this process may open.
func openFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(l.Cur)
}

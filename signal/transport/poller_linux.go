package transport

import (
	"context"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// A poller waits for all connections that nobody reads, and starts a reader for each that
// has something to read. A connection is looked at once (EPOLLONESHOT) and again when its
// reader says so, so it never has two readers. The system speaks of file descriptors,
// which are used again: each connection has a number of its own beside it, and what is
// said of an earlier one is not heard (TestChurn).
type poller struct {
	epoll int
	file  *os.File      // of epoll: the runtime waits for it like for any socket
	slots chan struct{} // readers at work; who waits for the rest of a message gives its slot up

	mu     sync.Mutex
	number int32           // guarded by mu: the last one given
	armed  map[int32]*conn // guarded by mu: by number
}

// newPoller returns a poller, which works while run does.
func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = syscall.SetNonblock(fd, true) // so that NewFile gives it to the runtime's own poller
	return &poller{
		epoll: fd, file: os.NewFile(uintptr(fd), "epoll"), armed: map[int32]*conn{},
		slots: make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
	}, nil
}

// arm makes the poller wait for the connection. Its reader calls it as its last act. It is
// false if the system has no room for another one (fs.epoll.max_user_watches): then the
// connection is told to come again (TestNoRoomToWatch).
func (p *poller) arm(c *conn) bool {
	const once = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT
	e := syscall.EpollEvent{Events: once, Fd: c.raw.fd}
	op := syscall.EPOLL_CTL_MOD
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.number == 0 {
		op = syscall.EPOLL_CTL_ADD
		for p.number++; p.number == 0 || p.armed[p.number] != nil; p.number++ {
		}
		c.number = p.number
		p.armed[c.number] = c
	}
	e.Pad = c.number
	return syscall.EpollCtl(p.epoll, op, int(c.raw.fd), &e) == nil
}

// forget ends what arm began: the descriptor is going to be closed.
func (p *poller) forget(c *conn) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.number != 0 {
		delete(p.armed, c.number)
		c.number = 0
	}
}

// run starts readers until ctx ends.
func (p *poller) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })()
	defer p.file.Close()
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var (
		events [128]syscall.EpollEvent
		n      int
	)
	for ctx.Err() == nil {
		if e := raw.Read(func(fd uintptr) bool {
			for n, err = syscall.EpollWait(int(fd), events[:], 0); err == syscall.EINTR; {
				n, err = syscall.EpollWait(int(fd), events[:], 0)
			}
			return n != 0
		}); e != nil {
			err = e
		}
		if err != nil && ctx.Err() == nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			c := p.armed[e.Pad]
			p.mu.Unlock()
			if c != nil {
				p.start(c)
			}
		}
		n = 0
	}
	return nil
}

// start gives the connection a reader.
func (p *poller) start(c *conn) {
	p.enter()
	go func() {
		over := c.serve()
		p.leave()
		if over {
			c.finish()
		}
	}()
}

func (p *poller) enter() { p.slots <- struct{}{} }
func (p *poller) leave() { <-p.slots }

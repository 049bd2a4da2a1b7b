package transport

import (
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// A raw is a socket's file descriptor, for system calls that return at once and that the
// scheduler need not know of (a write costs a fifth less so). It is -1 where the bytes on
// the socket are not ours: through TLS.
type raw struct{ fd int32 }

func rawOf(s net.Conn) raw {
	r := raw{-1}
	if tcp, ok := s.(*net.TCPConn); ok {
		if sc, err := tcp.SyscallConn(); err == nil {
			_ = sc.Control(func(fd uintptr) { r.fd = int32(fd) })
		}
	}
	return r
}

// write gives the socket what it takes. If that is not all, it may take more later.
func (r raw) write(p []byte) (n int, again bool) {
	if r.fd < 0 || len(p) == 0 {
		return 0, true
	}
	for {
		got, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(r.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(got), true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true
		default:
			return 0, false
		}
	}
}

// read returns what has come, or again when nothing has.
func (r raw) read(p []byte) (n int, again bool, err error) {
	if r.fd < 0 {
		return 0, true, nil
	}
	for {
		got, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(r.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return int(got), false, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true, nil
		default:
			return 0, false, errno
		}
	}
}

// unacked is how many bytes the socket holds that the client has not acknowledged.
func (r raw) unacked() int {
	var n int32
	if r.fd >= 0 {
		_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(r.fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	}
	return int(n)
}

var errNotRaw = errors.New("transport: not a socket of the system")

// wait is how to wait until the socket is writable.
func (r raw) wait(s net.Conn) (syscall.RawConn, error) {
	if r.fd < 0 {
		return nil, errNotRaw
	}
	return s.(*net.TCPConn).SyscallConn()
}

package transport

import (
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// A raw is a socket's file descriptor, for system calls that return at once and that the
// scheduler need not know of (a write costs a fifth less so).
type raw struct {
	fd  int32 // -1 where the bytes on the socket are not ours: through TLS
	tcp int32 // what is below fd, to be asked only; -1 where there is none
}

func rawOf(s net.Conn) raw {
	if tcp, ok := s.(*net.TCPConn); ok {
		fd := descriptor(tcp)
		return raw{fd, fd}
	}
	if below, ok := s.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		if tcp, ok := below.NetConn().(*net.TCPConn); ok {
			return raw{-1, descriptor(tcp)}
		}
	}
	return raw{-1, -1}
}

func descriptor(tcp *net.TCPConn) int32 {
	fd := int32(-1)
	if sc, err := tcp.SyscallConn(); err == nil {
		_ = sc.Control(func(n uintptr) { fd = int32(n) })
	}
	return fd
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
	if r.tcp >= 0 {
		_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(r.tcp), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
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

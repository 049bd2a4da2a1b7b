//go:build !linux

package transport

import (
	"errors"
	"net"
	"syscall"
)

// A raw is nothing here: connections are written by their flusher and read by a goroutine
// each (raw_linux.go).
type raw struct{ fd int32 }

func rawOf(net.Conn) raw { return raw{fd: -1} }

func (raw) write([]byte) (n int, again bool)           { return 0, true }
func (raw) read([]byte) (n int, again bool, err error) { return 0, true, nil }
func (raw) unacked() int                               { return 0 }

func (raw) wait(net.Conn) (syscall.RawConn, error) {
	return nil, errors.New("transport: not on this system")
}

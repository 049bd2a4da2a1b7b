//go:build !linux

package transport

import (
	"context"
	"errors"
)

// A poller is not made on this system: each connection has a goroutine (poller_linux.go).
type poller struct{}

func newPoller() (*poller, error) {
	return nil, errors.New("transport: this system has no epoll: readers are goroutines")
}

func (*poller) arm(*conn) bool            { return false }
func (*poller) forget(*conn)              {}
func (*poller) run(context.Context) error { return nil }
func (*poller) start(*conn)               {}
func (*poller) enter()                    {}
func (*poller) leave()                    {}

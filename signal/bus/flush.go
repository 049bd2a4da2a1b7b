package bus

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
)

// together is how many messages are handed on before they are written, at most: some tens
// of microseconds.
const together = 32

// A dial makes connections to Redis.
type dial func(ctx context.Context, network, addr string) (net.Conn, error)

// onceFlushing makes the connection flush before it reads. The client library reads from the
// socket only when it has handed on everything that came before, so the events that came
// in one piece are written in one piece, and none waits for another that may never come.
// It dials once: when the connection fails, the library would subscribe again by itself to
// what this bus then subscribes to anyway.
func onceFlushing(d dial, flush func()) dial {
	var dialed atomic.Bool
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errDialed
		}
		c, err := d(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return flushing{c, flush}, nil
	}
}

var errDialed = errors.New("this connection is over")

type flushing struct {
	net.Conn
	flush func()
}

func (f flushing) Read(p []byte) (int, error) {
	f.flush()
	return f.Conn.Read(p)
}

package bus

import (
	"context"
	"net"
)

// together is how many messages are handed on before they are written, at most: some tens
// of microseconds.
const together = 32

// A dial makes connections to Redis.
type dial func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer makes every connection flush before it reads. The client library reads from the
// socket only when it has handed on everything that came before, so the events that came
// in one piece are written in one piece, and none waits for another that may never come.
func (b *Bus) dialer(d dial) dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return flushing{c, b.flush}, nil
	}
}

type flushing struct {
	net.Conn
	flush func()
}

func (f flushing) Read(p []byte) (int, error) {
	f.flush()
	return f.Conn.Read(p)
}

package transport

import (
	"container/list"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/session"
)

const (
	// stuckAfter ends a client that has acknowledged nothing of what waits for so long.
	stuckAfter = 10 * time.Second
	// behindAfter ends a client that has been behind its rooms for so long.
	behindAfter = 60 * time.Second
	// endAfter is how long a client that is to be ended has to take what it was sent.
	endAfter = 10 * time.Second
	// farewell is how long a client has to answer our Close frame.
	farewell = 2 * time.Second
)

// A conn is one client's WebSocket. While it waits it is nothing but this, the session and
// the socket.
type conn struct {
	mu      sync.Mutex
	near    atomic.Bool // never set: Prepare reads it to have the mutex at hand
	raw     raw
	writing // guarded by mu (write.go)

	owner   *WebSocket
	session *session.Session
	visitor *visitor // guarded by mu; nil once it is known who that is
	socket  net.Conn
	counted bool         // by the door; set once
	heard   atomic.Int64 // clock at the client's last byte
	pinged  int64        // guarded by mu: what heard was at the last ping

	reading // of the reader (read.go)

	spoke   spoke         // guarded by owner.wheel
	waits   *list.Element // guarded by owner.attached: nil when not in it
	waiting int64         // guarded by owner.attached: clock since which it is in it
	index   int           // guarded by owner.mu: place in its list
}

// clock is nanoseconds since began, which nobody can set.
func clock() int64 { return int64(time.Since(began)) }

var began = time.Now()

// End closes the connection once what it has been given is written.
func (c *conn) End(code proto.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code == 0 && !c.closed {
		c.end(code, nil)
	}
}

// Welcome writes the frame that ends the time in which nobody knows who this is. What comes
// after it is sealed, if there is a sealing: nothing can come in between.
func (c *conn) Welcome(frame []byte, sealing *proto.Sealing) {
	c.known()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deaf() && !c.put(frame, keep) {
		c.end(proto.CloseSlow, nil)
	}
	c.sealing = sealing
}

// known says that the client counts no more among those who have not told who they are.
func (c *conn) known() {
	c.mu.Lock()
	visitor := c.visitor
	c.visitor = nil
	c.mu.Unlock()
	if visitor != nil {
		c.owner.visitors.forget(visitor)
	}
}

// Dismiss closes the connection with one last frame, or without; what waits for the client is not
// written, but for the rest of a frame that has begun. That holds for a connection that is ending
// too.
func (c *conn) Dismiss(last []byte, code proto.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.broken {
		return
	}
	if dropped := c.dropAlone(); c.code != 0 && !dropped { // our Close frame is on its way, or has gone
		return
	}
	if len(last) > 0 {
		c.put(last, keep)
	}
	c.end(code, nil)
}

// ending says whether nothing more is heard of the client.
func (c *conn) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code != 0
}

// close closes the socket, once.
func (c *conn) close() {
	_ = c.socket.Close()
	if c.counted {
		c.owner.door.left()
	}
}

// cut ends the connection now, without a word: its reader sees the end.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.broken = true
	tcp, ok := c.socket.(*net.TCPConn)
	if !ok {
		_ = c.socket.SetDeadline(began) // both its reader and its flusher see that
		return
	}
	if c.flushing {
		_ = tcp.SetLinger(0) // the system need not keep what nobody takes
	}
	_ = tcp.CloseWrite()
	_ = tcp.CloseRead()
}

// look judges the connection's deadlines, and says when the next one is.
func (c *conn) look(now int64) (next int64) {
	o := &c.owner.o
	next = now + int64(o.PingAfter)
	if at := c.session.Tick(time.Now()); !at.IsZero() {
		next = min(next, int64(at.Sub(began)))
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return next
	}
	stuck := c.flushing && c.stalled(now) >= o.StuckAfter
	heard := c.heard.Load()
	silent := time.Duration(now - heard)
	slow := c.late != 0 && time.Duration(now-c.late) >= behindAfter
	switch {
	case c.code != 0:
		next = c.ended + int64(farewell)
		if c.flushing {
			next = c.ended + int64(endAfter)
		}
		stuck = stuck || now >= next
	case silent >= o.DeadAfter:
		c.end(proto.CloseHeartbeat, nil)
	case stuck || slow:
		c.end(proto.CloseSlow, nil)
	case silent >= o.PingAfter:
		if c.pinged != heard && !c.flushing {
			c.pinged = heard
			c.ping()
		}
		next = min(next, heard+int64(o.DeadAfter))
	default:
		next = min(next, heard+int64(o.PingAfter), heard+int64(o.DeadAfter))
	}
	if c.flushing || c.late != 0 {
		next = min(next, now+int64(time.Second))
	}
	c.mu.Unlock()
	if stuck { // no Close frame would get through
		c.cut()
	}
	return next
}

// stalled is for how long the client has acknowledged nothing. It is called with mu held.
// What the socket takes is no measure: the system offers room again only when a third of
// its buffer is free, which a slow but steady client may need long for.
func (c *conn) stalled(now int64) time.Duration {
	if acked := c.sent - uint64(c.raw.unacked()); acked != c.acked {
		c.acked, c.moved = acked, now
		c.heard.Store(now) // who takes what it is sent lives
	}
	return time.Duration(now - c.moved)
}

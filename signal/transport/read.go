package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/session"
)

// Reading. One goroutine at a time reads a connection. Where the system tells who has sent
// something (poller_linux.go) it lives while there is something to read, and the
// connection waits without it; but only between two messages, because the library cannot
// be left in the middle of one. Elsewhere it lives as long as the connection. Either way
// the reader is who ends it: whatever happens to a connection, its socket becomes readable
// (cut), so finish is called in one place and only once (TestConformance, TestChurn).
type reading struct {
	polled   bool   // waits without a goroutine
	number   int32  // guarded by owner.poller: of its first arm, 0 before it
	vanished bool   // the client is not there any more
	frames   frames // where in them the reader is
	since    int64  // clock at the first byte of the present message
	controls session.Bucket
	early    []byte   // came with the handshake, not read yet
	reads    uint     // since ever; after some the reader lets others have its slot
	lib      *library // nil while parked: guarded by owner.attached while it waits
}

// messageTime is how long a client may take from the first byte of a message to its last.
const messageTime = 10 * time.Second

// readTurn is how many reads a connection has before others have their turn.
const readTurn = 16

var (
	errNothing = errors.New("transport: nothing to read") // and the connection may wait for it
	errEnding  = errors.New("transport: the connection is ending")
)

// serve reads until there is nothing to read, or until the connection is over.
func (c *conn) serve() (over bool) {
	c.owner.attached.take(c)
	for !c.ending() {
		if err := c.attach(); err != nil {
			c.End(proto.CloseInternal)
			break
		}
		// A context that never ends: one that does would drop the socket.
		_, b, err := c.lib.ws.Read(context.Background())
		switch {
		case err == nil:
			c.receive(b)
		case errors.Is(err, errNothing):
			c.owner.attached.put(c)
			if c.owner.poller.arm(c) {
				return false
			}
			c.owner.attached.take(c)
			c.End(proto.CloseInternal)
			return true
		default:
			c.End(codeOf(err))
		}
	}
	if !c.drain() {
		return !c.owner.poller.arm(c)
	}
	return true
}

// receive hands a message to the session. A fault of ours in there ends this connection, and no
// other one (TestPanic).
func (c *conn) receive(b []byte) {
	defer func() {
		if p := recover(); p != nil {
			c.owner.metrics.panics.Inc()
			what := fmt.Sprintf("%T", p) // its text may be the client's
			if err, ok := p.(runtime.Error); ok {
				what = err.Error()
			}
			c.owner.o.Log.Error("a frame broke its connection", zap.String("panic", what), zap.Stack("stack"))
			c.End(proto.CloseInternal)
		}
	}()
	c.owner.metrics.frames.Inc()
	if !utf8.Valid(b) { // which the library leaves to us (RFC 6455, section 8.1)
		c.End(proto.CloseBadUTF8)
		return
	}
	if c.owner.trust.over() { // whose word this is nobody knows until then
		if c.polled {
			c.owner.poller.leave()
		}
		c.owner.trust.wait()
		if c.polled {
			c.owner.poller.enter()
		}
	}
	if !c.ending() {
		c.session.Receive(b)
	}
}

// recv reads for the library.
func (c *conn) recv(p []byte) (int, error) {
	n, err := c.read(p)
	if err != nil {
		return 0, err
	}
	if c.ending() {
		return 0, errEnding
	}
	return n, nil
}

// read returns what has come. Between two messages it does not wait if the connection is
// polled; in the middle of one it waits until its time is over.
func (c *conn) read(p []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
	} else {
		if c.reads++; c.polled && c.reads%readTurn == 0 { // who never stops talking must not keep others from it
			c.owner.poller.leave()
			c.owner.poller.enter()
		}
		var again bool
		n, again, err = c.raw.read(p)
		switch {
		case again && c.polled && (c.frames.between() || c.ending()):
			return 0, errNothing
		case again:
			n, err = c.wait(p)
		case n == 0 && err == nil:
			err = io.EOF
		}
	}
	if err != nil {
		c.vanished = !errors.Is(err, os.ErrDeadlineExceeded)
		return 0, err
	}
	c.heard.Store(clock())
	most := c.owner.o.FrameBytes
	now := c.session.MessageBytes(most)
	err = c.frames.follow(p[:n], int64(now))
	if err == errTooBig && now < most {
		c.session.TooLong()
	}
	if c.frames.fresh {
		c.frames.fresh, c.since = false, clock()
	}
	if c.frames.controls > 0 && err == nil {
		err = c.mayControl()
	}
	return n, err
}

// mayControl says whether the client may send as many pings and pongs as it does (RELIABILITY 4.3,
// inputs 27 and 47).
func (c *conn) mayControl() error {
	for o := c.owner.o.Session; c.frames.controls > 0; c.frames.controls-- {
		if !c.controls.Allow(o.Limits.Controls, clock()) && o.Over("controls", zap.String("client_id", string(c.session.ID()))) {
			return errControls
		}
	}
	return nil
}

// wait reads and waits for it, without holding up other connections.
func (c *conn) wait(p []byte) (int, error) {
	if !c.frames.between() && !c.ending() { // else cut ends it
		_ = c.socket.SetReadDeadline(began.Add(time.Duration(c.since)).Add(c.owner.o.MessageTime))
		defer func() { _ = c.socket.SetReadDeadline(time.Time{}) }()
	}
	if c.polled {
		c.owner.poller.leave()
		defer c.owner.poller.enter()
	}
	return c.socket.Read(p)
}

// drain waits until both sides have said Close, or the client is gone. What it says
// meanwhile is not listened to, but read: a socket that is closed with unread bytes is
// reset, and the client might not get our Close frame.
func (c *conn) drain() (over bool) {
	var p [512]byte
	for {
		c.mu.Lock()
		c.peerClosed = c.frames.closed
		over := c.vanished || c.broken || c.peerClosed && !c.flushing
		c.mu.Unlock()
		if over {
			return true
		}
		if _, err := c.read(p[:]); errors.Is(err, errNothing) {
			return false
		}
	}
}

// finish is the reader's last act.
func (c *conn) finish() {
	w := c.owner
	c.session.Close()
	c.known()
	w.wheel.remove(c)
	w.poller.forget(c)
	c.mu.Lock()
	c.closed = true
	code := c.code
	c.mu.Unlock()
	c.close()
	if c.lib != nil {
		c.lib.release()
		c.lib = nil
	}
	w.ended(c, code)
}

// codeOf is the code with which to answer a failed read. Where the library has sent
// a Close frame already, that one counts.
func codeOf(err error) proto.CloseCode {
	if status := websocket.CloseStatus(err); status != -1 {
		return proto.CloseCode(status) // the client's own
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return proto.CloseHeartbeat // in the middle of a message
	case errors.Is(err, errControls):
		return proto.CloseRate
	case errors.Is(err, errTooBig), errors.Is(err, errFragments):
		return proto.CloseTooBig
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ETIMEDOUT):
		return proto.CloseGoingAway // nobody is there to read it
	}
	return proto.CloseProtocol
}

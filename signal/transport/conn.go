package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"nhooyr.io/websocket"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/session"
)

const (
	// outbound is what a connection holds for a client that reads too slowly (S4-084).
	outbound = 1 << 20
	// stuckAfter ends a client whose socket did not take one frame in so long. It is more
	// than the ten seconds without progress that would be enough, because a blocked write
	// hides progress: the kernel wakes it when a third of its buffer is free, which a slow
	// but steady reader may need twenty seconds for.
	stuckAfter = 30 * time.Second
	// behindAfter ends a client that has been behind by more than lag for so long.
	behindAfter = 60 * time.Second
	lag         = outbound / 8
	// endAfter is how long a client that is to be ended has to take what it was sent.
	endAfter = 10 * time.Second
	// farewell is how long a client has to answer our Close frame.
	farewell = 2 * time.Second
)

// A conn is one client's WebSocket. One goroutine reads; another lives while there
// is something to write, so Write never waits and an idle client costs no writer.
type conn struct {
	ws      *websocket.Conn
	socket  *socket
	owner   *WebSocket
	session *session.Session

	mu      sync.Mutex
	queue   [][]byte        // guarded by mu: not yet given to the socket
	bytes   int             // guarded by mu: of queue and of what is being written
	writing bool            // guarded by mu: the writer lives
	since   time.Time       // guarded by mu: when the writer began, or its present frame
	behind  time.Time       // guarded by mu: since when bytes is more than lag; zero while it is not
	code    proto.CloseCode // guarded by mu: with which it ends; 0 while it does not
	ended   time.Time       // guarded by mu: when code was set
	pinged  int64           // guarded by mu: what heard was at the last ping
}

// Write takes an event, unless the client is too far behind or has ended.
func (c *conn) Write(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.take(frame)
}

// Send takes an answer. A client that does not read its answers is ended.
func (c *conn) Send(frame []byte) {
	c.mu.Lock()
	taken := c.take(frame) || c.code != 0
	c.mu.Unlock()
	if !taken {
		c.End(proto.CloseSlow)
	}
}

// take is called with mu held.
func (c *conn) take(frame []byte) bool {
	if c.code != 0 || c.bytes > 0 && c.bytes+len(frame) > outbound {
		return false
	}
	c.queue = append(c.queue, frame)
	if c.bytes += len(frame); c.bytes > lag && c.behind.IsZero() {
		c.behind = time.Now()
	}
	c.startWriter()
	return true
}

// startWriter is called with mu held.
func (c *conn) startWriter() {
	if !c.writing {
		c.writing = true
		c.since = time.Now() // tick must not judge by the frame before
		c.owner.running.Go(c.write)
	}
}

// End closes the connection once what it has been given is written.
func (c *conn) End(code proto.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code != 0 {
		return
	}
	c.code, c.ended = code, time.Now()
	c.startWriter()
}

// ending says whether nothing more is heard of the client.
func (c *conn) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code != 0
}

// cut ends the connection now, without a word.
func (c *conn) cut() { _ = c.socket.Close() }

// write gives the queue to the socket and ends; if the connection is to end, it ends
// that too, after the queue and with a Close frame. It writes on a context without an
// end, because one that ends would drop the socket: tick watches instead.
func (c *conn) write() {
	for {
		c.mu.Lock()
		frames := c.queue
		c.queue = nil
		code := c.code
		if len(frames) == 0 && code == 0 {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if len(frames) == 0 {
			c.close(code)
			c.finish()
			return
		}
		for _, f := range frames {
			c.mu.Lock()
			c.since = time.Now()
			c.mu.Unlock()
			if err := c.ws.Write(context.Background(), websocket.MessageText, f); err != nil {
				c.End(proto.CloseGoingAway) // so that nothing more is taken
				_ = c.ws.CloseNow()         // so that the reader sees it
				c.finish()
				return
			}
			c.mu.Lock()
			if c.bytes -= len(f); c.bytes <= lag {
				c.behind = time.Time{}
			}
			c.mu.Unlock()
		}
	}
}

// close says goodbye and does not wait long for an answer: the library would wait
// ten seconds, or for ever when the client has stalled in the middle of a frame.
func (c *conn) close(code proto.CloseCode) {
	impatient := time.AfterFunc(farewell, c.cut)
	defer impatient.Stop()
	_ = c.ws.Close(websocket.StatusCode(code), code.Reason())
	c.cut()
}

// read hands frames to the session until the connection ends.
func (c *conn) read() {
	w := c.owner
	for {
		// A context that never ends: one that does would drop the socket.
		_, b, err := c.ws.Read(context.Background())
		if err != nil {
			c.End(codeOf(err))
			break
		}
		w.metrics.frames.Inc()
		if !utf8.Valid(b) { // which the library leaves to us (RFC 6455, section 8.1)
			c.End(proto.CloseBadUTF8)
			break
		}
		if c.ending() {
			break
		}
		c.session.Receive(b)
	}
	c.session.Close()
}

// finish is the writer's last act, and it ends every connection.
func (c *conn) finish() {
	w := c.owner
	w.mu.Lock()
	delete(w.conns, c)
	w.mu.Unlock()
	c.mu.Lock()
	code := c.code
	c.mu.Unlock()
	if said := c.socket.closedWith(); said != 0 {
		code = said
	}
	w.metrics.closed.WithLabelValues(label(code)).Inc()
	w.o.Log.Info("session ended", zap.String("client_id", string(c.session.ID())), zap.Uint16("code", uint16(code)))
}

// codeOf is the code with which to answer a failed read. Where the library has sent
// a Close frame already, that one counts.
func codeOf(err error) proto.CloseCode {
	if status := websocket.CloseStatus(err); status != -1 {
		return proto.CloseCode(status) // the client's own
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return proto.CloseSlow // a pong that could not be written for five seconds: the library's own bound
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ETIMEDOUT) {
		return proto.CloseGoingAway // nobody is there to read it
	}
	return proto.CloseProtocol
}

// tick looks at the deadlines of the connection.
func (c *conn) tick(now time.Time) {
	c.session.Tick(now)
	c.mu.Lock()
	heard, code := c.socket.heard.Load(), c.code
	silent := now.Sub(began) - time.Duration(heard)
	stuck := c.writing && now.Sub(c.since) > c.owner.o.StuckAfter || code != 0 && now.Sub(c.ended) > endAfter
	slow := !c.behind.IsZero() && now.Sub(c.behind) > behindAfter
	ping := code == 0 && silent >= c.owner.o.PingAfter && c.pinged != heard
	if ping {
		c.pinged = heard
	}
	c.mu.Unlock()
	switch {
	case stuck: // no Close frame would get through
		c.End(proto.CloseSlow)
		c.cut()
	case code == 0 && silent >= c.owner.o.DeadAfter:
		c.End(proto.CloseHeartbeat)
	case slow:
		c.End(proto.CloseSlow)
	case ping:
		c.owner.start(c.ping)
	}
}

// ping asks for a sign of life. It is the pong's bytes that count, not its content.
func (c *conn) ping() {
	ctx, cancel := context.WithTimeout(context.Background(), DeadAfter)
	defer cancel()
	_ = c.ws.Ping(ctx)
}

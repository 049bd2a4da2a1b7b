package transport

import (
	"container/list"
	"net/http"
	"sync"
	"time"
)

// Parking. The library costs a connection some 8 KiB and a goroutine, though most
// connections say nothing for minutes. So a connection that waits between two messages
// gives it up, and gets a new one when it says something: 11 µs for both. Those that spoke
// last keep theirs for a few seconds, so that talkative clients do not pay.
//
// Whose library it is must never be in doubt: while a connection waits, the set's mutex
// decides between its reader, who takes the connection out, and whoever parks it. A
// connection is put into the set before the poller is told to look at it, so its next
// reader always finds it decided (TestParking).
type attached struct {
	mu    sync.Mutex
	order list.List // guarded by mu: of *conn that wait, the latest at the front
	most  int
}

const (
	attachedMost = 256
	attachedFor  = 5 * time.Second
)

// put says that the connection waits, and parks the one that has waited longest if they
// are too many.
func (a *attached) put(c *conn) {
	a.mu.Lock()
	c.waits, c.waiting = a.order.PushFront(c), clock()
	var l *library
	if a.order.Len() > a.most {
		l = a.park()
	}
	a.mu.Unlock()
	if l != nil {
		l.release()
	}
}

// take gives the connection back to its reader.
func (a *attached) take(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.waits != nil {
		a.order.Remove(c.waits)
		c.waits = nil
	}
}

// park takes out who has waited longest. It is called with mu held.
func (a *attached) park() *library {
	c := a.order.Remove(a.order.Back()).(*conn)
	l := c.lib
	c.waits, c.lib = nil, nil
	return l
}

// sweep parks those who have waited for some seconds.
func (a *attached) sweep(now int64) {
	for {
		a.mu.Lock()
		back := a.order.Back()
		if back == nil || now-back.Value.(*conn).waiting < int64(attachedFor) {
			a.mu.Unlock()
			return
		}
		l := a.park()
		a.mu.Unlock()
		l.release()
	}
}

func (a *attached) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.order.Len()
}

// attach gets a parked connection its library, over a handshake that is made up.
func (c *conn) attach() (err error) {
	if c.lib == nil {
		made := &capture{ResponseWriter: discard{}, lib: &library{conn: c}}
		c.lib, err = accept(made, handshake, c.owner.o.FrameBytes)
	}
	return err
}

// handshake is RFC 6455's example, section 1.3.
var handshake = &http.Request{
	Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	},
}

// discard is where the answer to that handshake goes.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

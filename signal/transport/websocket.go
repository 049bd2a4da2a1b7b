// Package transport makes a session's connection of whatever carries frames: a
// WebSocket, in this version. It is the only one that knows the WebSocket library.
package transport

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/session"
)

// The heartbeat (S4-077, S4-078): a client that says nothing for a while is pinged,
// and is dead when it does not answer that either. Any byte counts as life.
const (
	PingAfter = 25 * time.Second
	DeadAfter = 35 * time.Second
)

// How connections are read.
const (
	ReadersAuto      = "auto"      // by epoll where there is one
	ReadersEpoll     = "epoll"     // by a goroutine while there is something to read
	ReadersGoroutine = "goroutine" // by a goroutine each
)

// Options of a WebSocket.
type Options struct {
	Session     *session.Options
	FrameBytes  int // largest frame from a client; a larger one ends it with 1009
	Origins     auth.Origins
	PagesOnly   bool           // who says no Origin is refused
	Proxies     []netip.Prefix // whose word on a client's address counts
	PingAfter   time.Duration  // of silence; 0 is PingAfter
	DeadAfter   time.Duration  // of silence; 0 is DeadAfter
	StuckAfter  time.Duration  // that the client takes nothing of what waits for it; 0 is 10 s
	MessageTime time.Duration  // from the first byte of a message to its last; 0 is 10 s
	Readers     string         // one of Readers…; empty is ReadersAuto
	Log         *zap.Logger
	Registerer  prometheus.Registerer
}

// A WebSocket upgrades requests and keeps the connections. It works while Run does.
type WebSocket struct {
	o        Options
	metrics  *metrics
	poller   *poller // nil when each connection has a goroutine
	wheel    wheel
	attached attached
	trust    trust
	visitors visitors
	door     Door
	changes  atomic.Uint64 // connections that came or went

	mu       sync.Mutex
	conns    []*conn        // guarded by mu
	expected int            // guarded by mu: handshakes under way, which may become conns
	closing  bool           // guarded by mu: nobody is let in
	running  sync.WaitGroup // connections, and their flushers
}

// New returns a WebSocket without connections.
func New(o Options) *WebSocket {
	if o.PingAfter == 0 {
		o.PingAfter = PingAfter
	}
	if o.DeadAfter == 0 {
		o.DeadAfter = DeadAfter
	}
	if o.StuckAfter == 0 {
		o.StuckAfter = stuckAfter
	}
	if o.MessageTime == 0 {
		o.MessageTime = messageTime
	}
	w := &WebSocket{o: o, attached: attached{most: attachedMost}, wheel: wheel{at: clock() / int64(tickTime)}}
	w.door.init(w)
	w.visitors.limits, w.visitors.trusted, w.visitors.log = &o.Session.Limits, o.Proxies, o.Log
	if o.Readers != ReadersGoroutine {
		var err error
		if w.poller, err = newPoller(); err != nil {
			if o.Readers == ReadersEpoll {
				o.Log.Warn("a goroutine reads each connection", zap.Error(err))
			}
			w.poller = nil
		}
	}
	w.metrics = newMetrics(o.Registerer, w)
	return w
}

// Run reads and looks after deadlines until ctx ends, then returns nil. It must outlive
// Shutdown, which ends the connections through it.
func (w *WebSocket) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if w.poller != nil {
		g.Go(func() error { return w.poller.run(ctx) })
	}
	g.Go(func() error { return w.tidy(ctx) })
	g.Go(func() error {
		tick := time.NewTicker(tickTime)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now := clock()
				for _, c := range w.wheel.due(now) {
					w.wheel.set(c, c.look(now))
				}
				w.attached.sweep(now)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// Admits says whether a request that is not for a WebSocket, and costs as much, is within the rate
// of its address.
func (w *WebSocket) Admits(r *http.Request) bool {
	at := w.visitors.address(r)
	return w.visitors.ask(at, clock()) || !w.o.Session.Over(limitHandshakes, zap.Stringer("client_address", at))
}

// Address names where a request comes from, as limits count it; empty when nobody knows.
func (w *WebSocket) Address(r *http.Request) string {
	if at := w.visitors.address(r); at.IsValid() {
		return at.String()
	}
	return ""
}

// Trusted says whether nobody on this node can be revoked without its knowing.
func (w *WebSocket) Trusted() bool { return !w.trust.over() }

// Revoke takes back from all clients what revocations cover.
func (w *WebSocket) Revoke(all []proto.Revocation) {
	for _, c := range w.all() {
		c.session.Revoke(all)
	}
}

// Shutdown ends every connection with 1001, and waits for them until ctx ends; then
// it cuts the rest.
func (w *WebSocket) Shutdown(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	for _, c := range w.all() {
		if w.trust.over() { // what waits for it may be for nobody any more
			c.Dismiss(nil, proto.CloseGoingAway)
		} else {
			c.End(proto.CloseGoingAway)
		}
	}
	if w.trust.begun() { // else nobody is in, and nobody is let in
		w.trust.renew(forEver)
	}
	done := make(chan struct{})
	go func() { w.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, c := range w.all() {
			c.cut()
		}
		<-done
		return ctx.Err()
	}
}

// ServeHTTP upgrades a request to a WebSocket and returns; a goroutine reads on.
func (w *WebSocket) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if status, why := refused(r); status != 0 {
		w.metrics.handshake.Inc()
		if status == http.StatusUpgradeRequired {
			rw.Header().Set("Upgrade", "websocket")
			rw.Header().Set("Sec-WebSocket-Version", "13")
		}
		rw.Header().Set("Connection", "close") // or a body would be waited for
		http.Error(rw, why, status)
		return
	}
	if !w.allowed(r) {
		w.metrics.origin.Inc()
		http.Error(rw, "this Origin is not allowed to connect", http.StatusForbidden)
		return
	}
	if w.isClosing() {
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "this node is shutting down", http.StatusServiceUnavailable)
		return
	}
	if !w.trust.begun() { // revoked tokens could not be told from others
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "this node does not know yet what is revoked", http.StatusServiceUnavailable)
		return
	}
	at := w.visitors.address(r)
	visitor, limit := w.visitors.enter(at, clock())
	if full := w.expect(); limit == "" && full {
		limit = limitConnections
	}
	if limit != "" && w.o.Session.Over(limit, zap.Stringer("client_address", at)) {
		w.forget(visitor)
		status := http.StatusTooManyRequests
		if limit == limitEarly || limit == limitConnections {
			status = http.StatusServiceUnavailable // others would be let in no more
		}
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "too many: "+limit, status)
		return
	}
	captured := &capture{ResponseWriter: rw, lib: &library{}, hijack: w.hijack}
	if _, err := accept(captured, r, w.o.FrameBytes); err != nil {
		w.metrics.handshake.Inc()
		w.forget(visitor)
		if c := captured.lib.conn; c != nil {
			c.close()
		}
		return // Accept has answered
	}
	c := captured.lib.conn
	c.lib = captured.lib
	c.visitor = visitor
	c.session = session.New(w.o.Session, c)
	if !w.add(c) {
		c.lib.release()
		c.close()
		c.session.Close()
		w.visitors.forget(visitor)
		return
	}
	w.metrics.opened.Inc()
	w.wheel.soon(c)
	c.authenticate(r)
	if c.polled {
		w.poller.start(c)
		return
	}
	go func() {
		c.serve()
		c.finish()
	}()
}

// hijack takes the connection over from net/http and makes a conn of it.
func (w *WebSocket) hijack(made *capture) error {
	s, rw, err := http.NewResponseController(made.ResponseWriter).Hijack()
	if err != nil {
		return err
	}
	c := &conn{owner: w, socket: s, raw: rawOf(s), counted: w.door.upgraded(s)}
	if err := rw.Writer.Flush(); err != nil { // the 101
		c.close()
		return err
	}
	c.heard.Store(clock())
	c.polled = w.poller != nil && c.raw.fd >= 0
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		c.early = bytes.Clone(early) // net/http's buffer is not kept for it
	}
	made.lib.conn = c
	return nil
}

// add lets an expected connection in, unless the node is shutting down.
func (w *WebSocket) add(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected--
	if w.closing {
		return false
	}
	c.index = len(w.conns)
	w.conns = append(w.conns, c)
	w.running.Add(1)
	w.changes.Add(1)
	return true
}

// ended is the end of a connection that was let in.
func (w *WebSocket) ended(c *conn, code proto.CloseCode) {
	w.mu.Lock()
	last := len(w.conns) - 1
	w.conns[c.index] = w.conns[last]
	w.conns[c.index].index = c.index
	w.conns[last] = nil
	w.conns = w.conns[:last]
	w.mu.Unlock()
	w.changes.Add(1)
	w.metrics.closed.WithLabelValues(label(code)).Inc()
	w.o.Log.Info("session ended", zap.String("client_id", string(c.session.ID())), zap.Uint16("code", uint16(code)))
	w.running.Done()
}

// expect says whether the node has as many connections as it may, those included whose handshake is
// under way. One more is expected all the same, until add or forget.
func (w *WebSocket) expect() (full bool) {
	most := w.o.Session.Limits.Connections
	w.mu.Lock()
	defer w.mu.Unlock()
	full = most > 0 && len(w.conns)+w.expected >= most
	w.expected++
	return full
}

// forget says that a handshake came to nothing.
func (w *WebSocket) forget(who *visitor) {
	w.visitors.forget(who)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected--
}

func (w *WebSocket) isClosing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing
}

func (w *WebSocket) all() []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.conns)
}

func (w *WebSocket) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// allowed says whether the page that asks may connect. Programs send no Origin and
// are let in, unless only pages are wanted: they could send any.
func (w *WebSocket) allowed(r *http.Request) bool {
	given := r.Header.Values("Origin")
	if len(given) == 0 {
		return !w.o.PagesOnly
	}
	return w.o.Origins.Allow(given[0], r.Host)
}

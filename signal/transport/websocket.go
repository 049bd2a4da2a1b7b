// Package transport makes a session's connection of whatever carries frames: a
// WebSocket, in this version. It is the only one that knows the WebSocket library,
// which is deprecated under this path in favour of github.com/coder/websocket with
// the same API: moving is one import here and one line in go.mod.
package transport

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"nhooyr.io/websocket"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/session"
)

// The heartbeat (S4-077, S4-078): a client that says nothing for a while is pinged,
// and is dead when it does not answer that either. Any byte counts as life.
const (
	PingAfter = 25 * time.Second
	DeadAfter = 35 * time.Second
)

// sweep is how often deadlines are looked at, all connections at once, so that
// none needs a timer.
const sweep = 250 * time.Millisecond

// Options of a WebSocket.
type Options struct {
	Session    *session.Options
	FrameBytes int           // largest frame from a client; a larger one ends it with 1009
	Origins    []string      // that pages may come from; "*" is any, none is the node's own host
	PingAfter  time.Duration // of silence; 0 is PingAfter
	DeadAfter  time.Duration // of silence; 0 is DeadAfter
	StuckAfter time.Duration // that the socket takes nothing of a frame; 0 is 30 s
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// A WebSocket upgrades requests and keeps the connections. It works while Run does.
type WebSocket struct {
	o       Options
	metrics *metrics

	mu      sync.Mutex
	conns   map[*conn]bool // guarded by mu
	closing bool           // guarded by mu: nobody is let in
	running sync.WaitGroup // a reader for each connection, writers, pings
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
	o.Origins = slices.Clone(o.Origins)
	for i, origin := range o.Origins {
		o.Origins[i] = strings.ToLower(origin)
	}
	w := &WebSocket{o: o, conns: map[*conn]bool{}}
	w.metrics = newMetrics(o.Registerer, w)
	return w
}

// Run looks after deadlines until ctx ends, then returns nil.
func (w *WebSocket) Run(ctx context.Context) error {
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, c := range w.all() {
				c.tick(now)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Shutdown ends every connection with 1001, and waits for them until ctx ends; then
// it cuts the rest.
func (w *WebSocket) Shutdown(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	for _, c := range w.all() {
		c.End(proto.CloseGoingAway)
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
	captured := &capture{ResponseWriter: rw}
	// The origin is judged above: exactly, with scheme and port.
	ws, err := websocket.Accept(captured, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		w.metrics.handshake.Inc()
		return // Accept has answered
	}
	ws.SetReadLimit(int64(w.o.FrameBytes))
	c := &conn{ws: ws, socket: captured.socket, owner: w}
	c.session = session.New(w.o.Session, c)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing { // meanwhile
		_ = ws.CloseNow()
		c.session.Close()
		return
	}
	w.conns[c] = true
	w.running.Go(c.read)
	w.metrics.opened.Inc()
}

// start runs something beside a connection, unless Shutdown may have stopped waiting.
func (w *WebSocket) start(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closing {
		w.running.Go(f)
	}
}

func (w *WebSocket) isClosing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing
}

func (w *WebSocket) all() []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.conns))
}

func (w *WebSocket) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// allowed says whether the page that asks may connect. Programs send no Origin and
// are let in: they could send any.
func (w *WebSocket) allowed(r *http.Request) bool {
	given := r.Header.Values("Origin")
	if len(given) == 0 {
		return true
	}
	if len(given) > 1 {
		return false
	}
	if len(w.o.Origins) > 0 {
		return slices.Contains(w.o.Origins, "*") || slices.Contains(w.o.Origins, strings.ToLower(given[0]))
	}
	u, err := url.Parse(given[0])
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

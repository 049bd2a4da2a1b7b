package transport

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// A Door is where all connections of the public address come in, whatever they are for. Those that are not
// authenticated WebSockets are bounded, of an address and in all, as the latter are before they have told who
// they are; beyond that the one goes that has been idle for longest, and only if none is idle the new one. Some
// descriptors are kept for Redis, for the admin address and for tills (TestDoor).
type Door struct {
	w       *WebSocket
	most    int          // connections of any kind; 0 is no limit
	sockets atomic.Int64 // connections that have become WebSockets

	mu   sync.Mutex
	here map[net.Conn]*guest // guarded by mu: all others
	of   map[netip.Addr]int  // guarded by mu: how many of them have an address
	idle list.List           // guarded by mu: of *guest between two requests; the idlest at the back, here and below
	new  list.List           // guarded by mu: of *guest that have asked for nothing yet
}

// A guest is a connection that is not a WebSocket, or not yet.
type guest struct {
	conn net.Conn
	from netip.Addr    // not valid where many clients may share it
	came int64         // clock
	in   *list.List    // idle or new; nil while a request is answered
	at   *list.Element // in it
}

// descriptors is how many connections this process may have, with some left for all else.
func descriptors() int {
	const least, part = 64, 10
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 0
	}
	all := int(limit.Cur)
	return max(all-max(least, all/part), all/2)
}

// Limits of a Door, as the operator reads them in signal_limited_total.
const (
	limitPlain        = "plain_connections"
	limitAddressPlain = "address_plain_connections"
	limitDescriptors  = "descriptors"
)

// Door is the door of a server that has w as one of its handlers. The server must tell it of its connections'
// states.
func (w *WebSocket) Door() *Door { return &w.door }

func (d *Door) init(w *WebSocket) {
	d.w, d.most = w, descriptors()
	d.here, d.of = map[net.Conn]*guest{}, map[netip.Addr]int{}
}

// Listen returns a listener that lets in whom the door lets in.
func (d *Door) Listen(l net.Listener) net.Listener { return entrance{l, d} }

type entrance struct {
	net.Listener
	door *Door
}

func (e entrance) Accept() (net.Conn, error) {
	for {
		c, err := e.Listener.Accept()
		if err != nil || e.door.enter(c) {
			return c, err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // nothing of it is to stay
		}
		_ = c.Close()
	}
}

// enter reports whether a connection may come in.
func (d *Door) enter(c net.Conn) bool {
	g := &guest{conn: c, from: d.address(c), came: clock()}
	limits := &d.w.o.Session.Limits
	d.mu.Lock()
	defer d.mu.Unlock()
	plain, all := len(d.here), len(d.here)+int(d.sockets.Load())
	most := limits.Early
	if d.most > 0 && (most == 0 || most > d.most/2) {
		most = d.most / 2 // the other half is for tills
	}
	over := func(limit string) bool {
		return d.w.o.Session.Over(limit, zap.Stringer("client_address", g.from)) || limit == limitDescriptors
	}
	switch { // an address that has as many as it may gives up one of its own
	case limits.AddressEarly > 0 && g.from.IsValid() && d.of[g.from] >= limits.AddressEarly && over(limitAddressPlain):
		if !d.dismiss(g.from) {
			return false
		}
	case d.most > 0 && all >= d.most && over(limitDescriptors), most > 0 && plain >= most && over(limitPlain):
		if !d.dismiss(netip.Addr{}) {
			return false
		}
	}
	d.here[c] = g
	d.of[g.from]++
	g.list(&d.new)
	return true
}

// address is that of a connection, unless it may be a proxy's.
func (d *Door) address(c net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	v := &d.w.visitors
	if ip := at.Addr().Unmap(); err == nil && !v.trusts(ip) && (len(v.trusted) > 0 || !ip.IsLoopback() && !ip.IsPrivate()) {
		return network(ip)
	}
	return netip.Addr{}
}

// list puts the guest into a list, or with nil into none. It is called with mu held.
func (g *guest) list(l *list.List) {
	if g.in != nil {
		g.in.Remove(g.at)
	}
	if g.in, g.at = l, nil; l != nil {
		g.at = l.PushFront(g)
	}
}

// asksWithin is how long a connection that has just come is not taken for idle: its request may be on its way.
const asksWithin = time.Second

// dismiss closes the connection that has been idle for longest, of an address if one is given. It is called
// with mu held.
func (d *Door) dismiss(whose netip.Addr) bool {
	for _, l := range [...]*list.List{&d.idle, &d.new} {
		for e := l.Back(); e != nil; e = e.Prev() {
			g := e.Value.(*guest)
			if l == &d.new && time.Duration(clock()-g.came) < asksWithin {
				break
			}
			if !whose.IsValid() || g.from == whose {
				d.forget(g)
				_ = g.conn.Close()
				return true
			}
		}
	}
	return false
}

// forget is called with mu held.
func (d *Door) forget(g *guest) {
	g.list(nil)
	delete(d.here, g.conn)
	if d.of[g.from]--; d.of[g.from] == 0 {
		delete(d.of, g.from)
	}
}

// State is for http.Server's ConnState.
func (d *Door) State(c net.Conn, s http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.here[c]
	if g == nil {
		return
	}
	switch s {
	case http.StateActive:
		g.list(nil)
	case http.StateIdle:
		g.list(&d.idle)
	case http.StateClosed:
		d.forget(g)
	}
}

// upgraded says that a connection has become a WebSocket, and reports whether it came in here. If so, left says
// that it has ended.
func (d *Door) upgraded(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.here[c]
	if g != nil {
		d.forget(g)
		d.sockets.Add(1)
	}
	return g != nil
}

func (d *Door) left() { d.sockets.Add(-1) }

// plain is how many connections there are that are no WebSockets.
func (d *Door) plain() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.here)
}

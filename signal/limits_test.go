package signal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// knock is a handshake from a loopback address, with more headers; it returns the status, and the
// connection if there is one.
func knock(ctx context.Context, from, to, header string) (status int, s net.Conn, err error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	if s, err = d.DialContext(ctx, "tcp", to); err != nil {
		return 0, nil, err
	}
	_ = s.SetDeadline(time.Now().Add(wstest.Patience))
	_, err = fmt.Fprintf(s, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", to, header)
	var line [12]byte
	if err == nil {
		_, err = s.Read(line[:])
	}
	if err == nil {
		_, err = fmt.Sscanf(string(line[:]), "HTTP/1.1 %d", &status)
	}
	if err != nil || status != http.StatusSwitchingProtocols {
		_ = s.Close()
	}
	return status, s, err
}

// TestClientAddress: whose handshakes are counted together, behind which proxies (RELIABILITY 4.3,
// input 85).
func TestClientAddress(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	cfg.LimitHandshakes = config.Rate{PerSecond: 0.001, Burst: 1}
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/31"), netip.MustParsePrefix("10.0.0.0/8")}
	n := run(t, cfg)
	for i, v := range []struct {
		why, from, forwarded string
		status               int
	}{
		{"a new address", "127.0.1.1", "", 101},
		{"the same", "127.0.1.1", "", 429},
		{"another one", "127.0.1.2", "", 101},
		{"a client behind a proxy", "127.0.0.2", "203.0.113.1", 101},
		{"another one behind it", "127.0.0.2", "203.0.113.2", 101},
		{"the first one through another proxy", "127.0.0.3", "203.0.113.1", 429},
		{"the first one, which lies at the left", "127.0.0.2", "203.0.113.77, 203.0.113.1", 429},
		{"the first one through two proxies", "127.0.0.2", "203.0.113.78, 203.0.113.1, 10.1.2.3", 429},
		{"garbage at the right is the proxy's own address", "127.0.0.2", "203.0.113.79, 1' OR 1=1", 101},
		{"again", "127.0.0.2", "203.0.113.80, x", 429},
		{"one of IPv6", "127.0.0.2", "2001:db8:1:2:3::4", 101},
		{"its neighbour in the same /64", "127.0.0.2", "2001:db8:1:2:5::6", 429},
		{"one in another /64", "127.0.0.2", "2001:db8:1:3::4", 101},
		{"IPv4 in IPv6", "127.0.0.2", "::ffff:203.0.113.2", 429},
		{"a proxy that is not listed is a client", "127.0.2.1", "203.0.113.1", 101},
		{"whatever it says", "127.0.2.1", "127.0.0.1", 429},
	} {
		header := ""
		if v.forwarded != "" {
			header = "X-Forwarded-For: " + v.forwarded + "\r\n"
		}
		status, s, err := knock(t.Context(), v.from, n.addr(), header)
		if err != nil || status != v.status {
			t.Errorf("%d. %s: %d %v, want %d", i, v.why, status, err, v.status)
		}
		if s != nil {
			_ = s.Close()
		}
	}
	// Where none is listed, private ones are not counted, or all their clients would share a limit.
	cfg.TrustedProxies = nil
	n = run(t, cfg)
	for i, header := range []string{"X-Forwarded-For: 203.0.113.1\r\n", "X-Forwarded-For: 203.0.113.1\r\n", "", ""} {
		status, s, err := knock(t.Context(), "127.0.3.1", n.addr(), header)
		if want := []int{101, 101, 101, 429}[i]; err != nil || status != want {
			t.Errorf("%d. %q where no proxy is listed: %d %v, want %d", i, header, status, err, want)
		}
		if s != nil {
			_ = s.Close()
		}
	}
	if said := strings.Count(n.log.String(), "APP_ENV_SIGNAL_TRUSTED_PROXIES"); said != 1 {
		t.Errorf("the proxy that is not listed was warned of %d times, want once", said)
	}
}

// TestCrowd: ten thousand sockets from two hundred addresses that never tell who they are
// (RELIABILITY 4.3, inputs 23, 24 and 82). The limits hold meanwhile, somebody who is known goes
// on, and in the end the node has what it had.
func TestCrowd(t *testing.T) {
	srv := redistest.Start(t)
	p := startProcess(t, srv, "APP_ENV_SIGNAL_LIMIT_HANDSHAKES=1000/1000", "APP_ENV_SIGNAL_LIMIT_ADDRESS_EARLY=25", "APP_ENV_SIGNAL_LIMIT_EARLY=4000")
	crowd := func() map[int]int {
		var (
			g      errgroup.Group
			mu     sync.Mutex
			got    = map[int]int{}
			most   atomic.Int64
			inside []net.Conn
		)
		g.SetLimit(20) // the first addresses are refused for themselves, the last since the node has too many
		for a := range 200 {
			g.Go(func() error {
				for range 50 {
					status, s, err := knock(t.Context(), fmt.Sprintf("127.1.%d.%d", a/100, 1+a%100), p.addr, "")
					mu.Lock()
					if got[status]++; err != nil {
						t.Error(err)
					} else if status == http.StatusSwitchingProtocols {
						inside = append(inside, s)
					}
					mu.Unlock()
				}
				return nil
			})
		}
		watched := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				most.Store(max(most.Load(), int64(p.measure(t).connections)))
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}()
		_ = g.Wait()
		close(done)
		<-watched
		if most.Load() > 4001 {
			t.Errorf("%d connections at a time, want at most 4001", most.Load())
		}
		for _, s := range inside { // each is ended with 4001, whatever it was
			var b bytes.Buffer
			_, err := b.ReadFrom(s)
			if !bytes.Contains(b.Bytes(), []byte{0x0f, 0xa1}) { // 4001
				t.Fatalf("a socket that said nothing ended with %q, %v", b.Bytes(), err)
			}
			_ = s.Close()
		}
		return got
	}
	till := wstest.Login(t, p.addr, token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"}), "r")
	crowd()
	redistest.Wait(t, func() bool { return p.measure(t).connections == 1 }, "all to be gone")
	before := p.measure(t)
	got := crowd()
	if got[101]+got[429]+got[503] != 10_000 || got[429] == 0 || got[503] == 0 {
		t.Errorf("answers by status %v, want 10,000, some refused by either limit", got)
	}
	till.Send("publish", map[string]any{"room": "r", "event": "still here"}, "p")
	if f, err := till.Next(); err != nil {
		t.Errorf("who is known was ended: %v %v", f, err)
	}
	var after resources
	if !redistest.Eventually(func() bool {
		after = p.measure(t)
		return after.connections == 1 && after.heap <= before.heap*1.05+64<<10 && after.goroutines <= before.goroutines+2
	}) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	t.Logf("answers by status %v; heap %.0f KiB before, %.0f after (%+.1f %%)", got, before.heap/1024, after.heap/1024, 100*(after.heap/before.heap-1))
}

// TestConnectionsLimit: of many that come at once a node lets in as many as it may, and no more.
func TestConnectionsLimit(t *testing.T) {
	cfg := settings(redistest.Start(t).Settings())
	cfg.LimitConnections = 10
	n := run(t, cfg)
	var in, out atomic.Int64
	var coming sync.WaitGroup
	for range 40 {
		coming.Go(func() {
			c, r, err := wstest.Dial(t.Context(), n.addr(), nil)
			switch {
			case err == nil:
				t.Cleanup(c.Cut)
				in.Add(1)
			case r != nil && r.StatusCode == http.StatusServiceUnavailable:
				out.Add(1)
			}
		})
	}
	coming.Wait()
	if in.Load() != 10 || out.Load() != 30 {
		t.Errorf("%d are let in, %d told to come later, want 10 and 30", in.Load(), out.Load())
	}
}

// TestUserLimits: what all connections of a user, or of a tenant, do together.
func TestUserLimits(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	cfg.LimitUserConnections = 2
	cfg.LimitUserPublishes = config.Rate{PerSecond: 0.001, Burst: 3}
	cfg.LimitConnections = 4
	n := run(t, cfg)
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	first, second := wstest.Login(t, n.addr(), tok), wstest.Login(t, n.addr(), tok)
	third := wstest.Connect(t, n.addr())
	third.Send("authenticate", map[string]any{"token": tok}, "a")
	if e := third.Expect(t, "error").Error(); e.Code != proto.CodeConnections || !strings.Contains(e.Detail, "user_connections") {
		t.Errorf("the third connection is told %+v", e)
	}
	third.ExpectClose(t, proto.CloseConnections)
	first.Close()
	redistest.Wait(t, func() bool {
		c, _, err := wstest.Dial(t.Context(), n.addr(), nil)
		if err != nil {
			return false
		}
		t.Cleanup(c.Cut)
		return c.Login(tok) == nil
	}, "room for another connection after one has gone")
	fourth := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"*"}, proto.Grants{"*"}))
	for i := range 4 {
		c := []*wstest.Client{second, fourth}[i/3] // the fourth is another user's
		c.Send("publish", map[string]any{"room": "r", "event": "e"}, "p")
		c.Expect(t, "ack")
	}
	second.Send("publish", map[string]any{"room": "r", "event": "e"}, "p")
	if e := second.Expect(t, "error").Error(); e.Code != proto.CodeRateLimited || !strings.Contains(e.Detail, "user_publishes") {
		t.Errorf("the fourth event of a user is answered %+v", e)
	}
	wstest.Connect(t, n.addr())
	if _, r, err := wstest.Dial(t.Context(), n.addr(), nil); err == nil || r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("the fifth connection of a node for four: %v", errors.Join(err))
	}
}

// TestDoor: whatever comes in at the public address counts, and what has been idle for longest makes way: a crowd of
// connections that ask for nothing keeps out neither tills nor the operator, nor the node from Redis.
func TestDoor(t *testing.T) {
	path, err := binary(true)
	if err != nil {
		t.Fatal(err)
	}
	srv := redistest.Start(t)
	p := launchAs(t, []string{"/bin/sh", "-c", `ulimit -n 300; exec "$0" serve`, path}, srv.Settings(), "APP_ENV_SIGNAL_TRUSTED_PROXIES=10.9.8.0/24", "APP_ENV_SIGNAL_LIMIT_ADDRESS_EARLY=50")
	redistest.Wait(t, func() bool { status, _ := get(t, p.admin, "/readyz"); return status == 200 }, "the node to be ready")
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	ask := func(from string) net.Conn { // and keeps the connection
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(t.Context(), "tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(wstest.Patience))
		_, _ = io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
		var b [512]byte
		if n, err := c.Read(b[:]); err != nil || !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 200")) {
			t.Fatalf("from %s: %q, %v", from, b[:n], err)
		}
		return c
	}
	gone := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(wstest.Patience))
		_, err := io.Copy(io.Discard, c) // behind what of the answer has not been read
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	first := ask("127.0.0.2")
	for range 50 { // of one address
		ask("127.0.0.2")
	}
	if !gone(first) {
		t.Error("the idlest of 51 connections of an address is still there")
	}
	other := ask("127.0.0.3")
	for i := range 300 { // of many
		ask(fmt.Sprintf("127.0.1.%d", 1+i%200))
	}
	if !gone(other) {
		t.Error("the idlest of all connections is still there")
	}
	var tills []*wstest.Client
	for range 60 {
		tills = append(tills, wstest.Login(t, p.addr, tok, "r"))
	}
	if status, _ := get(t, p.admin, "/readyz"); status != 200 {
		t.Errorf("the node is not ready: %d", status)
	}
	if n, err := strconv.Atoi(scrape(t, p.admin, "signal_plain_connections")); err != nil || n == 0 || n > 150 {
		t.Errorf("%d connections that are no WebSockets, want at most half of all that it may have", n)
	}
	e := emitter.New(srv.Settings())
	defer e.Close()
	if _, err := e.SendToRoom(t.Context(), "r", "n", 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range tills {
		c.Expect(t, "n")
	}
}

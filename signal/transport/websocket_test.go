package transport_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hub"
	"github.com/signal-team/signal/signal/session"
	"github.com/signal-team/signal/signal/transport"
	"github.com/signal-team/signal/signal/transport/wstest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// deaf is a bus that hears every room at once, and nothing in it.
type deaf struct{ hub *hub.Hub }

func (d *deaf) Subscribe(r proto.Room) { go d.hub.Subscribed(r) }
func (d *deaf) Unsubscribe(proto.Room) {}

func (d *deaf) Read(r proto.Room, since proto.Position, order bool) {
	began := proto.Position{Epoch: proto.Incarnation([]byte("abcdefgh")), Tag: proto.Tag([]byte("0123456789ab"))}
	go d.hub.Replied(r, since, order, proto.Page{Found: proto.Fresh, Top: began})
}

// A server is a transport with all that it needs, but Redis.
type server struct {
	*transport.WebSocket
	hub  *hub.Hub
	addr string
	reg  *prometheus.Registry
	tls  bool
}

// each runs a suite for every way in which connections are read and written.
func each(t *testing.T, suite func(t *testing.T, serve func(func(*transport.Options)) *server)) {
	for name, v := range map[string]struct {
		readers string
		secure  bool
	}{
		"epoll":     {transport.ReadersEpoll, false},
		"goroutine": {transport.ReadersGoroutine, false},
		"TLS":       {transport.ReadersAuto, true},
	} {
		t.Run(name, func(t *testing.T) {
			if v.readers == transport.ReadersEpoll && runtime.GOOS != "linux" {
				t.Skip("no epoll on this system")
			}
			t.Parallel()
			suite(t, func(change func(*transport.Options)) *server {
				return serveBy(t, v.secure, func(o *transport.Options) {
					o.Readers = v.readers
					if change != nil {
						change(o)
					}
				})
			})
		})
	}
}

func serve(t *testing.T, change func(*transport.Options)) *server { return serveBy(t, false, change) }

func serveBy(t *testing.T, secure bool, change func(*transport.Options)) *server {
	t.Helper()
	reg, d := prometheus.NewRegistry(), &deaf{}
	d.hub = hub.New(d, reg)
	o := transport.Options{
		Session: &session.Options{
			Revoked: &auth.Revoked{},
			Node:    proto.NewNodeID(), Hub: d.hub, Verifier: auth.None{}, AuthTimeout: 5 * time.Second,
			Heartbeat: transport.PingAfter, Log: zap.NewNop(), Metrics: session.NewMetrics(reg),
		},
		FrameBytes: 64 << 10, Log: zap.NewNop(), Registerer: reg,
	}
	if change != nil {
		change(&o)
	}
	w := transport.New(o)
	w.Trust(time.Hour)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.Run(ctx) }()
	go func() { ended <- d.hub.Run(ctx) }()
	srv := httptest.NewUnstartedServer(w)
	srv.Config.MaxHeaderBytes = 16 << 10 // as a node has it
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.Shutdown(grace); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		stop()
		<-ended
		<-ended
		srv.Close()
	})
	return &server{w, d.hub, srv.Listener.Addr().String(), reg, secure}
}

// A raw is a client that writes bytes.
type raw struct {
	id proto.ClientID // once logged in
	net.Conn
	r *bufio.Reader
}

const upgrade = "GET /ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

// ask sends a request and reads the answer's head.
func (s *server) ask(t *testing.T, request string) (*raw, *http.Response) {
	t.Helper()
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(wstest.Patience))
	_, _ = io.WriteString(c, request)
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{Conn: c, r: r}, answer
}

func (s *server) dial() (net.Conn, error) {
	if s.tls {
		return tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	}
	return net.Dial("tcp", s.addr)
}

func (s *server) open(t *testing.T) *raw {
	t.Helper()
	c, answer := s.ask(t, upgrade+"\r\n")
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade answered by %s", answer.Status)
	}
	return c
}

// frame is a client's frame: first byte, then payload, masked (RFC 6455, section 5.2).
func frame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// next reads a server's frame.
func (c *raw) next(t *testing.T) (first byte, payload []byte) {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		t.Fatalf("no frame: %v", err)
	}
	n := int(head[1])
	if n == 126 {
		var l [2]byte
		_, _ = io.ReadFull(c.r, l[:])
		n = int(binary.BigEndian.Uint16(l[:]))
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		t.Fatal(err)
	}
	return head[0], payload
}

// closes wants a Close frame with the code, and nothing after it.
func (c *raw) closes(t *testing.T, code proto.CloseCode) {
	t.Helper()
	for {
		first, payload := c.next(t)
		if first&0x0f != 8 {
			continue
		}
		if got := proto.CloseCode(binary.BigEndian.Uint16(payload)); got != code {
			t.Errorf("closed with %d %q, want %d", got, payload[2:], code)
		}
		break
	}
	_, _ = c.Write(frame(0x88, "\x03\xe8"))
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
		t.Errorf("after the Close frame came %q", rest)
	}
}

func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: a\r\n", i)
	}
	return b.String()
}

func TestHandshake(t *testing.T) {
	s := serve(t, func(o *transport.Options) { o.Origins = []string{"https://App.example.com"} })
	without := func(line string) string { return strings.Replace(upgrade, line, "", 1) }
	for name, v := range map[string]struct {
		request string
		status  int
		header  string // of the answer, "Name: value"
	}{
		"RFC 6455, section 1.3": {upgrade, 101, "Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		"allowed Origin":        {upgrade + "Origin: https://app.example.com\r\n", 101, ""},
		"foreign Origin":        {upgrade + "Origin: https://evil.example\r\n", 403, ""},
		"suffix":                {upgrade + "Origin: https://app.example.com.evil.io\r\n", 403, ""},
		"other port":            {upgrade + "Origin: https://app.example.com:8443\r\n", 403, ""},
		"other scheme":          {upgrade + "Origin: http://app.example.com\r\n", 403, ""},
		"null Origin":           {upgrade + "Origin: null\r\n", 403, ""},
		"two Origins":           {upgrade + "Origin: https://app.example.com\r\nOrigin: https://evil.example\r\n", 400, ""},
		"HTTP/1.0":              {strings.Replace(upgrade, "HTTP/1.1", "HTTP/1.0", 1), 400, ""},
		"a body":                {upgrade + "Content-Length: 1\r\n", 400, ""},
		"a chunked body":        {upgrade + "Transfer-Encoding: chunked\r\n", 400, ""},
		"both lengths":          {upgrade + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", 400, ""},
		"a token in the query":  {strings.Replace(upgrade, " HTTP", "?token=eyJ HTTP", 1), 400, ""},
		"20 KiB of a header":    {upgrade + "X-Long: " + strings.Repeat("a", 24<<10) + "\r\n", 431, ""},
		"1,000 headers":         {upgrade + manyHeaders(1000), 431, ""},
		"200 subprotocols":      {upgrade + "Sec-WebSocket-Protocol: " + strings.Repeat("x, ", 200) + "y\r\n", 101, "Sec-Websocket-Protocol: "},
		"our subprotocol":       {upgrade + "Sec-WebSocket-Protocol: x, signal.v1\r\n", 101, "Sec-Websocket-Protocol: signal.v1"},
		"a token is not echoed": {upgrade + "Sec-WebSocket-Protocol: signal-token.eyJ, signal.v1\r\n", 101, "Sec-Websocket-Protocol: signal.v1"},
		"a key of garbage":      {strings.Replace(upgrade, "dGhlIHNhbXBsZSBub25jZQ==", "!!!", 1), 400, ""},
		"POST":                  {strings.Replace(upgrade, "GET", "POST", 1), 405, ""},
		"no key":                {without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, ""},
		"short key":             {strings.Replace(upgrade, "dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 1), 400, ""},
		"no Upgrade":            {without("Upgrade: websocket\r\n"), 426, "Upgrade: websocket"},
		"version 12":            {strings.Replace(upgrade, ": 13", ": 12", 1), 426, "Sec-Websocket-Version: 13"},
		"no extension":          {upgrade + "Sec-WebSocket-Extensions: permessage-deflate\r\n", 101, "Sec-Websocket-Extensions: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, answer := s.ask(t, v.request+"\r\n")
			header, want, _ := strings.Cut(v.header, ": ")
			if answer.StatusCode != v.status || header != "" && answer.Header.Get(header) != want {
				t.Errorf("answered by %s %v", answer.Status, answer.Header)
			}
		})
	}
	// Without a list, a page of the same host may connect.
	s = serve(t, nil)
	for origin, status := range map[string]int{"https://node": 101, "http://NODE": 101, "https://node:1": 403, "https://other": 403, "%": 403} {
		if _, answer := s.ask(t, upgrade+"Origin: "+origin+"\r\n\r\n"); answer.StatusCode != status {
			t.Errorf("same host: %s answered by %s, want %d", origin, answer.Status, status)
		}
	}
}

// TestHeartbeat: who answers pings lives, who does not is ended with 4002.
func TestHeartbeat(t *testing.T) {
	s := serve(t, func(o *transport.Options) { o.PingAfter, o.DeadAfter = 300*time.Millisecond, 3*time.Second })
	c := s.open(t)
	_, _ = c.Write(frame(0x81, `{"event":"authenticate","data":{"token":"u1"}}`))
	for pings := 0; pings < 12; { // longer than DeadAfter
		if first, payload := c.next(t); first == 0x89 {
			pings++
			_, _ = c.Write(frame(0x8a, string(payload)))
		} else if first == 0x88 {
			t.Fatalf("a client that answers is ended: %q", payload)
		}
	}
	c.closes(t, proto.CloseHeartbeat) // answers no more
}

// TestSlowClient: one that does not read is ended, and costs the others nothing.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *transport.Options) { o.StuckAfter = 3 * time.Second })
	slow := s.open(t)
	_, _ = slow.Write(frame(0x81, `{"event":"authenticate","data":{"token":"slow"}}`))
	quick := wstest.Login(t, s.addr, "quick")
	m := proto.Message{Event: proto.Event{Event: "big", Data: []byte(`"` + strings.Repeat("x", 60<<10) + `"`)}}
	const events = 400 // 24 MiB: more than the socket and our buffer hold
	for i := range events {
		s.hub.Receive(proto.Broadcasts, m)
		s.hub.Flush()
		if f := quick.Expect(t, "big"); len(f.Data) != len(m.Data) {
			t.Fatalf("event %d has %d bytes", i, len(f.Data))
		}
	}
	redistest.Wait(t, func() bool {
		return testutil.GatherAndCompare(s.reg, strings.NewReader(`
			# HELP signal_connections Connections, authenticated or not.
			# TYPE signal_connections gauge
			signal_connections 1
		`), "signal_connections") == nil
	}, "the slow client to be ended")
	if err := testutil.GatherAndCompare(s.reg, strings.NewReader(`
		# HELP signal_connections_closed_total Connections that ended, by close code: one of the table in proto, or other when the client chose it.
		# TYPE signal_connections_closed_total counter
		signal_connections_closed_total{code="4010"} 1
	`), "signal_connections_closed_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(s.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

// TestStalledClients end within the bound, whatever they stopped in the middle of:
// the library's own close would wait for them.
func TestStalledClients(t *testing.T) {
	s := serve(t, nil)
	for name, bytes := range map[string][]byte{
		"says nothing":           nil,
		"in a frame":             frame(0x81, "xxxxxxxx")[:9],
		"in a header":            {0x81},
		"in a fragmented frame":  frame(0x01, "x"),
		"in a control frame":     frame(0x89, "abc")[:4],
		"does not answer Close":  frame(0x81, "x"),
		"in a large frame":       frame(0x81, strings.Repeat("x", 60<<10))[:1000],
		"with a frame after all": frame(0x81, `{"event":"authenticate","data":{"token":"u1"}}`),
	} {
		t.Run(name, func(t *testing.T) { _, _ = s.open(t).Write(bytes) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond) // the library would take five seconds
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, answer := s.ask(t, upgrade+"\r\n"); answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" {
		t.Errorf("during shutdown: %s", answer.Status)
	}
}

func TestManyAnswersAtOnce(t *testing.T) {
	s := serve(t, nil)
	c := wstest.Login(t, s.addr, "u1")
	const n = 500
	go func() {
		for i := range n {
			c.Send("nonsense", i, fmt.Sprint(i))
		}
	}()
	for i := range n {
		if f := c.Expect(t, "error"); f.Error().Ref != fmt.Sprint(i) {
			t.Fatalf("answer %d is to %q", i, f.Error().Ref)
		}
	}
}

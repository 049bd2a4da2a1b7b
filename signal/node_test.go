package signal_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/transport/wstest"
)

const secret = "0123456789abcdef0123456789abcdef"

// A log is everything that a test's nodes have logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// settings are those of a node on loopback, on ports of its own.
func settings(at emitter.Settings) signal.Config {
	return signal.Config{
		Redis: at, Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Auth: "jwt", JWTSecret: secret, JWTAudience: "signal",
		JWTMaxLifetime: time.Hour, APIKey: secret, DefaultRooms: []string{"ws-default", "ws-notification"}, Limits: "on", LimitRooms: 200, LimitEarlyFrames: 4, LimitEarlyBytes: 8 << 10,
		FrameBytes: 64 << 10, Ignis: "listen", AuthTimeout: 5 * time.Second, LogLevel: "debug",
	}
}

// A node is a running signal.Node of a test.
type node struct {
	*signal.Node
	log  *log
	stop func() // and wait
}

func run(t testing.TB, cfg signal.Config) *node {
	t.Helper()
	l := &log{}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(l), zap.DebugLevel)
	n, err := signal.New(cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if secret := leaked.FindString(l.String()); secret != "" {
			t.Errorf("the log has %.20s…", secret)
		}
	})
	t.Cleanup(stop)
	redistest.Wait(t, func() bool { return n.Ready() == nil }, "the node to be ready")
	return &node{n, l, stop}
}

func (n *node) addr() string { return n.Addr().String() }

// metric is what a metric without labels says.
func (n *node) metric(t testing.TB, name string) string {
	return scrape(t, n.AdminAddr().String(), name)
}

func scrape(t testing.TB, admin, name string) string {
	t.Helper()
	_, metrics := get(t, admin, "/metrics")
	_, after, _ := strings.Cut(metrics, "\n"+name+" ")
	value, _, _ := strings.Cut(after, "\n")
	return value
}

func token(t testing.TB, user string, rooms, publish proto.Grants) string {
	t.Helper()
	s, err := signal.AuthOptions(settings(emitter.Settings{})).Issue(proto.UserID(user), time.Minute, rooms, publish)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signed(t *testing.T, key string, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestConversation is a till of the original: connect, authenticate, join, hear,
// leave, with the original's frames.
func TestConversation(t *testing.T) { onAll(t, conversation) }

func conversation(t *testing.T, srv server) {
	n := run(t, settings(srv.Settings()))
	c := wstest.Connect(t, n.addr())
	c.Raw(`{"event":"heartbeat"}`) // allowed before
	c.Raw(`{"event":"authenticate","data":{"type":"Bearer","token":"` + token(t, "u1", proto.Grants{"orders", "order:*"}, nil) + `"}}`)
	var hello proto.Connected
	if err := json.Unmarshal(c.Expect(t, "connected").Data, &hello); err != nil || hello.UserID != "u1" || hello.Node != n.ID() || hello.Heartbeat != 25_000 {
		t.Fatalf("connected %+v, %v", hello, err)
	}
	if at, err := time.Parse("2006-01-02T15:04:05.000Z", hello.Time); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time %q, %v; want ISO 8601 as the original writes it", hello.Time, err)
	}
	var system []proto.Room
	for done := false; !done; {
		var j proto.Joined
		if err := json.Unmarshal(c.Expect(t, "joined").Data, &j); err != nil {
			t.Fatal(err)
		}
		for _, r := range j.Rooms {
			system = append(system, r.Room)
		}
		done = j.Done
	}
	if len(system) != 4 || !strings.Contains(fmt.Sprint(system), "$user") || !strings.Contains(fmt.Sprint(system), "ws-notification") {
		t.Errorf("in the rooms %q without asking", system)
	}
	c.Raw(`{"event":"join","data":{"rooms":["orders","order:42","secret","a}b","$user:u2","ws:x"]},"id":"7"}`)
	denied := map[proto.Room]proto.ErrorCode{}
	joined := map[proto.Room]bool{}
	for done := false; !done; {
		f := c.Expect(t, "joined")
		var j proto.Joined
		if err := json.Unmarshal(f.Data, &j); err != nil || f.ID != "7" {
			t.Fatalf("%s %q, %v", f.Data, f.ID, err)
		}
		for _, r := range j.Rooms {
			joined[r.Room] = true
		}
		for _, d := range j.Denied {
			denied[d.Room] = d.Code
		}
		done = j.Done
	}
	want := map[proto.Room]proto.ErrorCode{"secret": proto.CodeForbidden, "a}b": proto.CodeBadName, "$user:u2": proto.CodeReserved, "ws:x": proto.CodeReserved}
	if len(joined) != 2 || fmt.Sprint(denied) != fmt.Sprint(want) {
		t.Errorf("joined %v, denied %v", joined, denied)
	}
	for _, to := range []proto.Target{proto.ToRoom("orders"), proto.ToUser("u1"), proto.ToEveryone(), proto.ToClient(hello.ID), proto.ToRoom("ws-default")} {
		r, err := n.Send(t.Context(), to, "order.paid", json.RawMessage(`{"id":42}`))
		if err != nil || r.Receivers != 1 {
			t.Fatalf("%s: %+v, %v", to, r, err)
		}
		if f := c.Expect(t, "order.paid"); string(f.Data) != `{"id":42}` || f.EventID != r.EventID || f.Room != to.Room().Public() || f.Time == 0 {
			t.Errorf("%s: frame %+v", to, f)
		}
	}
	c.Raw(`{"event":"leave","data":{"rooms":["orders","ws-default","never"]},"id":"8"}`)
	if f := c.Expect(t, "left"); string(f.Data) != `{"rooms":["orders","ws-default"]}` || f.ID != "8" {
		t.Errorf("left %s %q", f.Data, f.ID)
	}
	for _, room := range []proto.Room{"orders", "ws-default", "ws-notification"} {
		if _, err := n.SendToRoom(t.Context(), room, "after", room); err != nil {
			t.Fatal(err)
		}
	}
	if f := c.Expect(t, "after"); f.Room != "ws-notification" {
		t.Errorf("after leaving it hears of %q", f.Room)
	}
}

func TestPublish(t *testing.T) { onAll(t, publish) }

func publish(t *testing.T, srv server) {
	n := run(t, settings(srv.Settings()))
	sender := wstest.Login(t, n.addr(), token(t, "u1", nil, proto.Grants{"chat:*"}))
	hearer := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"chat:*"}, nil), "chat:1")
	for i := range 20 {
		sender.Send("publish", map[string]any{"room": "chat:1", "event": "said", "data": i, "eventId": fmt.Sprint("m", i)}, fmt.Sprint("p", i))
	}
	for i := range 20 {
		var ack proto.Ack
		f := sender.Expect(t, "ack")
		if err := json.Unmarshal(f.Data, &ack); err != nil || f.ID != fmt.Sprint("p", i) || !strings.HasPrefix(string(ack.EventID), "c:") || ack.Receivers != 1 {
			t.Fatalf("ack %d is %q %s", i, f.ID, f.Data)
		}
		if f := hearer.Expect(t, "said"); string(f.Data) != fmt.Sprint(i) || f.EventID != ack.EventID {
			t.Fatalf("event %d is %s %s", i, f.Data, f.EventID)
		}
	}
	for data, code := range map[string]proto.ErrorCode{
		`{"room":"other","event":"e"}`:                  proto.CodeForbidden,
		`{"room":"$broadcast","event":"e"}`:             proto.CodeReserved,
		`{"room":"chat:1","event":"connected"}`:         proto.CodeReserved,
		`{"room":"chat:1","event":""}`:                  proto.CodeBadName,
		`{"room":"chat:1","event":"e","eventId":"a b"}`: proto.CodeBadName,
		`{"room":"chat:1"}`:                             proto.CodeBadName,
		`{"room":7,"event":"e"}`:                        proto.CodeBadRequest,
		`[]`:                                            proto.CodeBadRequest,
		`{"room":"chat:1","event":"e","eventId":"` + strings.Repeat("x", 128) + `"}`: proto.CodeBadRequest,
	} {
		sender.Raw(`{"event":"publish","data":` + data + `,"id":"bad"}`)
		if e := sender.Expect(t, "error").Error(); e.Code != code || e.Ref != "bad" || e.Detail == "" {
			t.Errorf("%s: %+v, want %s", data, e, code)
		}
	}
}

// TestBadFrames sends what no client should. Each is answered with what was wrong,
// the connection lives on, and nobody else notices.
func TestBadFrames(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	good := token(t, "u1", proto.Grants{"orders"}, nil)
	other := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"orders"}, nil), "orders")
	c := wstest.Login(t, n.addr(), good)
	for name, v := range map[string]struct {
		frame   string
		code    proto.ErrorCode
		message string
		detail  string
	}{
		"not JSON":             {`hello`, proto.CodeBadRequest, "Invalid message format", "not JSON"},
		"empty":                {``, proto.CodeBadRequest, "Invalid message format", "empty"},
		"null":                 {`null`, proto.CodeBadRequest, "Invalid message format", "null"},
		"list":                 {`[]`, proto.CodeBadRequest, "Invalid message format", "list"},
		"no event":             {`{"data":{}}`, proto.CodeBadRequest, "Invalid message format", "event is missing"},
		"event is a number":    {`{"event":1}`, proto.CodeBadRequest, "Invalid message format", "a number"},
		"twice the event":      {`{"event":"join","event":"leave"}`, proto.CodeBadRequest, "Invalid message format", "twice"},
		"deep":                 {`{"event":"a","data":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`, proto.CodeBadRequest, "Invalid message format", "deeper"},
		"unknown event":        {`{"event":"chat:message","data":1}`, proto.CodeUnknownEvent, "Unknown event", "may send"},
		"encrypted":            {`{"event":"encrypted","data":{}}`, proto.CodeUnknownEvent, "Unknown event", ""},
		"rooms is a string":    {`{"event":"join","data":{"rooms":"abc"}}`, proto.CodeBadRequest, "Invalid message format", "rooms is a string"},
		"rooms is null":        {`{"event":"join","data":{"rooms":null}}`, proto.CodeBadRequest, "Invalid message format", "rooms is null"},
		"rooms are lists":      {`{"event":"leave","data":{"rooms":[["a"]]}}`, proto.CodeBadRequest, "Invalid message format", "a room is a list"},
		"join without data":    {`{"event":"join"}`, proto.CodeBadRequest, "Invalid message format", "data is missing"},
		"201 rooms":            {`{"event":"join","data":{"rooms":["r0"` + many(200) + `]}}`, proto.CodeTooManyRooms, "Too many rooms in one frame", ""},
		"event with $":         {`{"event":"$x"}`, proto.CodeReserved, "Reserved name", `"$"`},
		"10 KiB event":         {`{"event":"` + strings.Repeat("x", 10<<10) + `"}`, proto.CodeBadName, "Bad name", "256"},
		"the same token again": {`{"event":"authenticate","data":{"token":"` + good + `"}}`, proto.CodeAlreadyAuthenticated, "Already authenticated", ""},
		"a bad token again":    {`{"event":"authenticate","data":{"token":"x"}}`, proto.CodeAuthFailed, "Authentication failed", ""},
		"another user's token": {`{"event":"authenticate","data":{"token":"` + token(t, "u3", nil, nil) + `"}}`, proto.CodeAuthFailed, "Authentication failed", "another user"},
		"no token again":       {`{"event":"authenticate"}`, proto.CodeBadRequest, "Invalid message format", "data is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			c.Raw(v.frame)
			e := c.Expect(t, "error").Error()
			if e.Code != v.code || e.Message != v.message || !strings.Contains(e.Detail, v.detail) {
				t.Errorf("error %+v, want %s %q with %q", e, v.code, v.message, v.detail)
			}
		})
	}
	if _, err := n.SendToRoom(t.Context(), "orders", "still here", 1); err != nil {
		t.Fatal(err)
	}
	other.Expect(t, "still here")
	if said := n.log.String(); strings.Contains(said, good) || strings.Contains(said, "hello") {
		t.Error("the log has a token or a payload")
	}
}

// TestFrameSize: 64 KiB are taken, one byte more ends the connection with 1009.
func TestFrameSize(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", nil, nil))
	head := `{"event":"nothing","id":"x","data":"`
	frame := head + strings.Repeat("x", 64<<10-len(head)-2) + `"}`
	c.Raw(frame)
	if e := c.Expect(t, "error").Error(); e.Code != proto.CodeUnknownEvent || e.Ref != "x" {
		t.Errorf("%d bytes: %+v", len(frame), e)
	}
	c.Raw(frame + " ")
	if _, err := c.Next(); err == nil {
		t.Error("65,537 bytes are answered")
	} else if code, _ := wstest.Closed(err); code != proto.CloseTooBig {
		t.Errorf("65,537 bytes: %v, want close code 1009", err)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"r%d"`, i+1)
	}
	return b.String()
}

func TestRoomLimit(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"r*"}, nil))
	count := func(list string) (joined, denied int) {
		c.Raw(`{"event":"join","data":{"rooms":[` + list + `]},"id":"x"}`)
		for done := false; !done; {
			var j proto.Joined
			_ = json.Unmarshal(c.Expect(t, "joined").Data, &j)
			joined += len(j.Rooms)
			for _, d := range j.Denied {
				if d.Code != proto.CodeRoomLimit {
					t.Errorf("denied %+v", d)
				}
				denied++
			}
			done = j.Done
		}
		return joined, denied
	}
	if j, d := count(`"r0"` + many(198)); j != 199 || d != 0 {
		t.Errorf("199 rooms: %d joined, %d denied", j, d)
	}
	if j, d := count(`"rx","ry","r0"`); j != 2 || d != 1 {
		t.Errorf("two more, and one again: %d joined, %d denied; want the 201st denied", j, d)
	}
}

// TestLongLists: a join or a leave that names more rooms than it may is a mistake, and who is refused for going too fast
// and never listens is ended: refusals are not free.
func TestLongLists(t *testing.T) {
	cfg := settings(redistest.Start(t).Settings())
	cfg.LimitErrors = 10
	cfg.LimitJoins, cfg.LimitPublishes = config.Rate{PerSecond: 20, Burst: 100}, config.Rate{PerSecond: 1, Burst: 1}
	n := run(t, cfg)
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	names := `"r0"` + many(8_000)
	for name, c := range map[string]struct {
		frame string
		code  proto.CloseCode
		after int // so many answers
	}{
		"join":    {`{"event":"join","data":{"rooms":[` + names + `]}}`, proto.CloseBadRequests, 10},
		"leave":   {`{"event":"leave","data":{"rooms":[` + names + `]}}`, proto.CloseBadRequests, 10},
		"publish": {`{"event":"publish","data":{"room":"r","event":"n"}}`, proto.CloseRate, 1 + 100},
	} {
		t.Run(name, func(t *testing.T) {
			till := wstest.Login(t, n.addr(), tok)
			for range c.after + 20 {
				till.Raw(c.frame)
			}
			for answers := 0; ; answers++ {
				_, err := till.Next()
				if code, _ := wstest.Closed(err); code == c.code {
					if answers < c.after || answers > c.after+2 {
						t.Errorf("ended after %d answers, want %d", answers, c.after)
					}
					return
				} else if err != nil || answers > c.after+10 {
					t.Fatalf("after %d answers %v, want the close code %d", answers, err, c.code)
				}
			}
		})
	}
}

// TestEarlyLength: what a stranger announces is judged by the header, before a byte of it has come.
func TestEarlyLength(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	for announced, refused := range map[uint16]bool{8 << 10: false, 8<<10 + 1: true, 60_000: true} {
		status, s, err := knock(t.Context(), "127.0.0.1", n.addr(), "")
		if err != nil || status != http.StatusSwitchingProtocols {
			t.Fatal(status, err)
		}
		defer s.Close()
		head := []byte{0x81, 0x80 | 126, byte(announced >> 8), byte(announced)}
		if _, err := s.Write(append(head, 1, 2, 3, 4)); err != nil { // and the mask
			t.Fatal(err)
		}
		if !refused { // the rest may come
			_, err := s.Write(bytes.Repeat([]byte{0}, int(announced)))
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = s.SetReadDeadline(time.Now().Add(wstest.Patience))
		var said bytes.Buffer
		for !bytes.Contains(said.Bytes(), []byte{0x03, 0xf1}) && !bytes.Contains(said.Bytes(), []byte(proto.CodeBadRequest)) { // 1009
			var b [512]byte
			k, err := s.Read(b[:])
			if said.Write(b[:k]); err != nil {
				t.Fatalf("%d bytes announced: %q, %v", announced, said.Bytes(), err)
			}
		}
		if got := bytes.Contains(said.Bytes(), []byte("early_bytes: 8192")); got != refused {
			t.Errorf("%d bytes announced: told %q, want refused %t", announced, said.Bytes(), refused)
		}
	}
}

func TestAuthentication(t *testing.T) {
	cfg := settings(redistest.Start(t).Settings())
	n := run(t, cfg)
	cfg.AuthTimeout = 300 * time.Millisecond
	hasty := run(t, cfg)
	now := time.Now()
	for name, tok := range map[string]string{
		"expired":  signed(t, secret, jwt.MapClaims{"sub": "u1", "aud": "signal", "exp": now.Add(-time.Minute).Unix()}),
		"foreign":  signed(t, "another secret of thirty-two byte", jwt.MapClaims{"sub": "u1", "aud": "signal", "exp": now.Add(time.Minute).Unix()}),
		"unsigned": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSJ9.",
		"missing":  "",
	} {
		t.Run(name, func(t *testing.T) {
			c := wstest.Connect(t, n.addr())
			c.Send("authenticate", map[string]string{"token": tok}, "a")
			c.Send("join", map[string]any{"rooms": []string{"orders"}}, "b")
			if e := c.Expect(t, "error").Error(); e.Message != "Authentication failed" || e.Ref != "a" || e.Detail == "" {
				t.Errorf("error %+v", e)
			}
			c.ExpectClose(t, proto.CloseAuthFailed)
		})
	}
	t.Run("not authenticated", func(t *testing.T) {
		c := wstest.Connect(t, hasty.addr())
		c.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
		if e := c.Expect(t, "error").Error(); e.Message != "Not authenticated" || e.Code != proto.CodeUnauthenticated || e.Ref != "j" {
			t.Errorf("error %+v", e)
		}
		if _, err := hasty.Broadcast(t.Context(), "early", 1); err != nil { // nothing is delivered before
			t.Fatal(err)
		}
		c.ExpectClose(t, proto.CloseAuthTimeout)
	})
	if strings.Contains(n.log.String(), "eyJ") {
		t.Error("the log has a token")
	}
}

// TestRates: who asks too often is refused, or ended, and told which limit it was; in a dry run it
// is only counted.
func TestRates(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	cfg.LimitFrames, cfg.LimitJoins, cfg.LimitPublishes = config.Rate{PerSecond: 1, Burst: 30}, config.Rate{PerSecond: 0.1, Burst: 3}, config.Rate{PerSecond: 0.1, Burst: 4}
	cfg.LimitErrors = 5
	strict := run(t, cfg)
	cfg.Limits = "dry"
	dry := run(t, cfg)
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	told := func(c *wstest.Client) (limited int, code proto.CloseCode) {
		for {
			f, err := c.Next()
			switch {
			case err != nil:
				code, _ = wstest.Closed(err)
				return limited, code
			case f.Event == "error" && bytes.Contains(f.Data, []byte(proto.CodeRateLimited)):
				limited++
			case f.ID == "last":
				return limited, 0
			}
		}
	}
	for name, c := range map[string]struct {
		n       int
		say     func(*wstest.Client, int)
		limited int
		code    proto.CloseCode
	}{
		"joins": {5, func(c *wstest.Client, i int) { c.Send("join", map[string]any{"rooms": []string{"r"}}, fmt.Sprint(i)) }, 2, 0},
		"publishes": {6, func(c *wstest.Client, i int) {
			c.Send("publish", map[string]any{"room": "r", "event": "n"}, fmt.Sprint(i))
		}, 2, 0},
		"frames": {40, func(c *wstest.Client, _ int) { c.Send("heartbeat", nil, "") }, 1, proto.CloseRate},
		"errors": {6, func(c *wstest.Client, _ int) { c.Raw("null") }, 1, proto.CloseBadRequests},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []*node{strict, dry} {
				till := wstest.Login(t, n.addr(), tok)
				for i := range c.n {
					c.say(till, i)
				}
				till.Send("leave", map[string]any{"rooms": []string{}}, "last")
				limited, code := told(till)
				if n == strict && (limited != c.limited || code != c.code) || n == dry && (limited != 0 || code != 0) {
					t.Errorf("dry %t: %d refused, closed with %d; want %d and %d", n == dry, limited, code, c.limited, c.code)
				}
			}
			_, metrics := get(t, dry.AdminAddr().String(), "/metrics")
			if !strings.Contains(metrics, fmt.Sprintf("signal_limited_total{limit=%q}", name)) {
				t.Error("a dry run does not count")
			}
		})
	}
	for name, say := range map[string]func(*wstest.Client){
		"frames before authentication": func(c *wstest.Client) {
			for range 5 {
				c.Send("join", map[string]any{"rooms": []string{"r"}}, "")
			}
		},
		"a large one": func(c *wstest.Client) { c.Raw(`{"event":"authenticate","data":"` + strings.Repeat("a", 9<<10) + `"}`) },
	} {
		c := wstest.Connect(t, strict.addr())
		say(c)
		want := proto.CloseBadRequests
		if name == "a large one" {
			want = proto.CloseTooBig
		}
		if _, code := told(c); code != want {
			t.Errorf("%s: closed with %d, want %d", name, code, want)
		}
	}
}

// TestTokenOfTheHandshake: a token may come with the handshake, and is judged like one in the first
// frame.
func TestTokenOfTheHandshake(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	good := token(t, "u1", nil, nil)
	for name, c := range map[string]struct {
		header http.Header
		code   proto.CloseCode // 0 if it is let in
	}{
		"Authorization": {http.Header{"Authorization": {"Bearer " + good}}, 0},
		"a subprotocol": {http.Header{"Sec-Websocket-Protocol": {"signal.v1", "signal-token." + good}}, 0},
		"a bad one":     {http.Header{"Authorization": {"Bearer " + good[:len(good)-4]}}, proto.CloseAuthFailed},
		"a cookie":      {http.Header{"Cookie": {"token=" + good}}, 0},
	} {
		client, answer, err := wstest.Dial(t.Context(), n.addr(), c.header)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if said := fmt.Sprint(answer.Header); strings.Contains(said, good[:20]) {
			t.Errorf("%s: the answer has the token: %s", name, said)
		}
		if name == "a cookie" { // is none
			client.Send("join", map[string]any{"rooms": []string{"orders"}}, "")
			if f := client.Expect(t, "error"); !bytes.Contains(f.Data, []byte(proto.CodeUnauthenticated)) {
				t.Errorf("%s: %s", name, f.Data)
			}
		} else if c.code == 0 {
			client.Expect(t, "connected")
		} else {
			client.Expect(t, "error")
			client.ExpectClose(t, c.code)
		}
		client.Cut()
	}
	if strings.Contains(n.log.String(), good[:20]) {
		t.Error("a token is in the log")
	}
}

// TestKeysAtAnAddress: a client whose key is not known yet waits for it, says nothing else
// meanwhile, and may try again when the address does not answer.
func TestKeysAtAnAddress(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan int, 10) // with a status, when the test says so
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(<-answers)
		fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}))
	defer keys.Close()
	start := func() *node {
		cfg := settings(redistest.Start(t).Settings())
		cfg.JWTSecret, cfg.JWTKeys = "", keys.URL
		return run(t, cfg)
	}
	made := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": "u1", "aud": "signal", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()})
	made.Header["kid"] = "k"
	tok, err := made.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	for status, expect := range map[int]func(*wstest.Client){
		200: func(c *wstest.Client) { c.Expect(t, "connected") },
		500: func(c *wstest.Client) {
			if f := c.Expect(t, "error"); !bytes.Contains(f.Data, []byte(proto.CodeAuthError)) {
				t.Errorf("told %s", f.Data)
			}
			c.ExpectClose(t, proto.CloseTryAgain)
		},
	} {
		n := start() // which asks for the keys at its start
		c := wstest.Connect(t, n.addr())
		c.Send("authenticate", map[string]any{"token": tok}, "")
		c.Send("authenticate", map[string]any{"token": tok}, "2")
		if f := c.Expect(t, "error"); !bytes.Contains(f.Data, []byte(proto.CodeBusy)) || f.ID != "2" {
			t.Errorf("a second token meanwhile: %s", f.Raw)
		}
		c.Send("join", map[string]any{"rooms": []string{"orders"}}, "3")
		if f := c.Expect(t, "error"); !bytes.Contains(f.Data, []byte(proto.CodeBusy)) {
			t.Errorf("a join meanwhile: %s", f.Raw)
		}
		answers <- status
		expect(c)
		n.stop()
	}
}

// TestRefresh takes a newer token of the same user: its rights count from now on.
func TestRefresh(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"a", "b"}, nil), "a", "b")
	c.Send("authenticate", map[string]string{"token": token(t, "u1", proto.Grants{"b", "c"}, nil)}, "r")
	left, refreshed := false, false
	for range 2 {
		f, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		left = left || f.Event == "left" && string(f.Data) == `{"rooms":["a"]}`
		refreshed = refreshed || f.Event == "refreshed" && f.ID == "r"
	}
	if !left || !refreshed {
		t.Errorf("left a %t, refreshed %t", left, refreshed)
	}
	for _, room := range []proto.Room{"a", "b"} {
		if _, err := n.SendToRoom(t.Context(), room, "e", 1); err != nil {
			t.Fatal(err)
		}
	}
	if f := c.Expect(t, "e"); f.Room != "b" {
		t.Errorf("still hears %q", f.Room)
	}
}

// TestRouting is the truth table of sendToClient: here or elsewhere, known or not,
// with Redis and without (S1-28).
func TestRouting(t *testing.T) { onEach(t, routing) }

func routing(t *testing.T, srv redistest.Redis) {
	a, b := run(t, settings(srv.Settings())), run(t, settings(srv.Settings()))
	tok := token(t, "u1", nil, nil)
	here, there := wstest.Login(t, a.addr(), tok), wstest.Login(t, b.addr(), tok)
	gone := proto.NewClientID(proto.NewNodeID())
	for name, v := range map[string]struct {
		to        proto.ClientID
		hears     *wstest.Client
		published int
		err       error
	}{
		"here":              {here.ID, here, 0, nil},
		"on another node":   {there.ID, there, 1, nil},
		"was here":          {proto.NewClientID(a.ID()), nil, 0, emitter.ErrNoReceiver},
		"its node is gone":  {gone, nil, 1, emitter.ErrNoReceiver},
		"not a client's id": {"x", nil, 0, emitter.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			published := srv.Publishes(t)
			r, err := a.SendToClient(t.Context(), v.to, "e", 1)
			if !errors.Is(err, v.err) || err == nil && r.Receivers != 1 {
				t.Errorf("receipt %+v, %v; want %v", r, err, v.err)
			}
			if v.hears != nil {
				v.hears.Expect(t, "e")
			}
			if n := published(); n != v.published {
				t.Errorf("%d publishes at Redis, want %d", n, v.published)
			}
		})
	}
	if _, err := a.SendToClient(t.Context(), here.ID, "e", 1, emitter.Except(here.ID)); !errors.Is(err, emitter.ErrNoReceiver) {
		t.Errorf("a client that is left out: %v", err)
	}
	for _, to := range []proto.ClientID{here.ID, there.ID} {
		if _, err := a.SendToClient(t.Context(), to, "e", strings.Repeat("x", 200<<10)); !errors.Is(err, emitter.ErrTooLarge) {
			t.Errorf("200 KiB to a client on either node: %v, want ErrTooLarge", err)
		}
	}
	srv.Kill()
	if _, err := a.SendToClient(t.Context(), here.ID, "e", 1); err != nil {
		t.Errorf("here, without Redis: %v", err)
	}
	here.Expect(t, "e")
	if _, err := a.SendToClient(t.Context(), there.ID, "e", 1); !errors.Is(err, emitter.ErrUnavailable) {
		t.Errorf("elsewhere, without Redis: %v, want ErrUnavailable", err)
	}
}

func TestAPI(t *testing.T) { onAll(t, sendByHTTP) }

func sendByHTTP(t *testing.T, srv server) {
	a, b := run(t, settings(srv.Settings())), run(t, settings(srv.Settings()))
	c := wstest.Login(t, b.addr(), token(t, "u1", proto.Grants{"orders"}, nil), "orders")
	post := func(key, body string) (int, map[string]any) {
		t.Helper()
		q, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.addr()+"/api/send?canary=hidden", strings.NewReader(body))
		if key != "" {
			q.Header.Set("Authorization", key)
		}
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var v map[string]any
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return r.StatusCode, v
	}
	key := "Bearer " + secret
	for _, to := range []string{`{"client":"` + string(c.ID) + `"}`, `{"user":"u1"}`, `{"room":"orders"}`, `{"all":true}`} {
		status, v := post(key, `{"to":`+to+`,"event":"e","data":{"a":1},"eventId":"id-1","live":true}`)
		if status != 200 || v["eventId"] != "id-1" || v["receivers"].(float64) < 1 {
			t.Errorf("%s: %d %v", to, status, v)
		}
		if f := c.Expect(t, "e"); string(f.Data) != `{"a":1}` || f.EventID != "id-1" {
			t.Errorf("%s: frame %+v", to, f)
		}
	}
	for name, v := range map[string]struct {
		key, body string
		status    int
		code      proto.ErrorCode
	}{
		"no key":              {"", `{}`, 401, proto.CodeUnauthenticated},
		"wrong key":           {"Bearer x", `{}`, 401, proto.CodeAuthFailed},
		"no JSON":             {key, `x`, 400, proto.CodeBadRequest},
		"no target":           {key, `{"event":"e"}`, 400, proto.CodeBadRequest},
		"two targets":         {key, `{"to":{"room":"a","user":"b"},"event":"e"}`, 400, proto.CodeBadRequest},
		"typo":                {key, `{"to":{"room":"a"},"evnt":"e"}`, 400, proto.CodeBadRequest},
		"bad room":            {key, `{"to":{"room":"$broadcast"},"event":"e"}`, 400, proto.CodeBadRequest},
		"two documents":       {key, `{"to":{"all":true},"event":"e"}{}`, 400, proto.CodeBadRequest},
		"a key in capitals":   {key, `{"to":{"ROOM":"a"},"event":"e"}`, 400, proto.CodeBadRequest},
		"a folded key":        {key, `{"to":{"u\u017fer":"a"},"event":"e"}`, 400, proto.CodeBadRequest},
		"a key twice":         {key, `{"to":{"room":"a","room":"b"},"event":"e"}`, 400, proto.CodeBadRequest},
		"not UTF-8":           {key, `{"to":{"room":"a` + "\xff" + `"},"event":"e"}`, 400, proto.CodeBadRequest},
		"half a pair":         {key, `{"to":{"room":"a\ud800"},"event":"e"}`, 400, proto.CodeBadRequest},
		"garbage behind":      {key, `{"to":{"all":true},"event":"e"}]x`, 400, proto.CodeBadRequest},
		"empty":               {key, ``, 400, proto.CodeBadRequest},
		"an event of nodes":   {key, `{"to":{"all":true},"event":"connected"}`, 400, proto.CodeBadRequest},
		"1 MiB":               {key, `{"to":{"all":true},"event":"e","data":"` + strings.Repeat("x", 1<<20) + `"}`, 413, proto.CodeTooLarge},
		"gone client":         {key, `{"to":{"client":"` + string(proto.NewClientID(b.ID())) + `"},"event":"e"}`, 404, proto.CodeNoReceiver},
		"gone client of mine": {key, `{"to":{"client":"` + string(proto.NewClientID(a.ID())) + `"},"event":"e"}`, 404, proto.CodeNoReceiver},
		"gone node":           {key, `{"to":{"client":"` + string(proto.NewClientID(proto.NewNodeID())) + `"},"event":"e"}`, 404, proto.CodeNoReceiver},
	} {
		t.Run(name, func(t *testing.T) {
			if status, p := post(v.key, v.body); status != v.status || p["code"] != string(v.code) || p["detail"] == "" {
				t.Errorf("%d %v, want %d %s", status, p, v.status, v.code)
			}
		})
	}
	if said := a.log.String(); strings.Contains(said, "hidden") || strings.Contains(said, secret) {
		t.Error("the log has a query string or a key")
	}
	srv.Kill()
	if status, p := post(key, `{"to":{"room":"a"},"event":"e"}`); status != 503 || p["code"] != "unavailable" {
		t.Errorf("without Redis: %d %v", status, p)
	}
}

func get(t testing.TB, addr, path string) (int, string) {
	t.Helper()
	r, err := http.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestOperators(t *testing.T) {
	cfg := settings(redistest.Start(t).Settings())
	cfg.APIKey = ""
	n := run(t, cfg)
	wstest.Login(t, n.addr(), token(t, "u1", nil, nil))
	admin := n.AdminAddr().String()
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "signal_clients 1\n", "/debug/pprof/cmdline": ""} {
		if status, body := get(t, admin, path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.300s", path, status, body)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/ws/", "/WS"} {
		if status, _ := get(t, n.addr(), path); status != 404 {
			t.Errorf("clients get %s: %d, want 404", path, status)
		}
	}
	r, err := http.Post("http://"+n.addr()+"/api/send", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != 403 {
		t.Errorf("POST /api/send without a configured key: %d, want 403", r.StatusCode)
	}
	if status, body := get(t, n.addr(), "/api/send"); status != 405 || !strings.Contains(body, "method") {
		t.Errorf("GET /api/send: %d %s", status, body)
	}
}

// TestAlerts: what the alerts look at is there.
func TestAlerts(t *testing.T) {
	rules, err := os.ReadFile("../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n := run(t, settings(redistest.Start(t).Settings()))
	_, metrics := get(t, n.AdminAddr().String(), "/metrics")
	var names []string
	for _, expr := range regexp.MustCompile(`(?m)^\s+expr: .*$`).FindAllString(string(rules), -1) {
		names = append(names, regexp.MustCompile(`signal_\w+`).FindAllString(expr, -1)...)
	}
	if len(names) < 10 {
		t.Errorf("they look at %v", names)
	}
	for _, name := range names {
		if !strings.Contains(metrics, "# TYPE "+name+" ") {
			t.Errorf("%s is no metric", name)
		}
	}
}

func TestShutdown(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", nil, nil))
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	c.ExpectClose(t, proto.CloseGoingAway)
	<-stopped
	if _, _, err := wstest.Dial(t.Context(), n.addr(), nil); err == nil {
		t.Error("a stopped node lets clients in")
	}
}

// TestShutdownIsBounded: nobody can keep a node from ending, nor make that a failure.
func TestShutdownIsBounded(t *testing.T) {
	n := run(t, settings(redistest.Start(t).Settings()))
	for _, request := range []struct{ addr, text string }{
		{n.addr(), "POST /api/send HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"},
		{n.AdminAddr().String(), "GET /debug/pprof/trace?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n"},
	} {
		c, err := net.Dial("tcp", request.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, request.text); err != nil {
			t.Fatal(err)
		}
	}
	stalled := wstest.Login(t, n.addr(), token(t, "u1", nil, nil)) // and reads no more
	data := strings.Repeat("x", 100<<10)
	for i := 0; ; i++ {
		if _, err := n.SendToClient(t.Context(), stalled.ID, "e", data); err != nil {
			break
		}
	}
	began := time.Now()
	n.stop() // wants no error
	t.Logf("ended within %s", time.Since(began).Round(time.Millisecond))
}

// TestNewcomersAreToldToo: who connects while Redis is away hears so, and is in its rooms
// when Redis is back.
func TestNewcomersAreToldToo(t *testing.T) { onAll(t, newcomersAreToldToo) }

func newcomersAreToldToo(t *testing.T, srv server) {
	n := run(t, settings(srv.Settings()))
	tok := token(t, "u1", proto.Grants{"orders"}, nil)
	old := wstest.Login(t, n.addr(), tok, "orders")
	srv.Kill()
	old.Expect(t, "degraded")
	c := wstest.Connect(t, n.addr())
	c.Send("authenticate", map[string]string{"token": tok}, "")
	c.Expect(t, "connected")
	c.Expect(t, "degraded")
	for i := range 40 { // one is under way already
		c.Send("join", map[string]any{"rooms": []string{"orders"}}, fmt.Sprint(i))
	}
	for i := 31; i < 40; i++ {
		if e := c.Expect(t, "error").Error(); e.Code != proto.CodeBusy || e.Ref != fmt.Sprint(i) {
			t.Errorf("join %d while 32 wait: %+v", i, e)
		}
	}
	srv.Restart()
	restored, done := false, 0
	for done < 32 || !restored {
		f, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		var j proto.Joined
		_ = json.Unmarshal(f.Data, &j)
		restored = restored || f.Event == "restored"
		if f.Event == "joined" && j.Done {
			done++
		}
	}
	if _, err := n.SendToRoom(t.Context(), "orders", "e", 1); err != nil {
		t.Fatal(err)
	}
	until(t, c, "e") // after a resync of what was lost
}

func TestEmbeddedNode(t *testing.T) {
	cfg := settings(emitter.Settings{Mode: emitter.Embedded, Addrs: []string{"127.0.0.1:0"}})
	n := run(t, cfg)
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"orders"}, nil), "orders")
	if _, err := n.SendToRoom(t.Context(), "orders", "e", 1); err != nil {
		t.Fatal(err)
	}
	c.Expect(t, "e")
}

func TestNewRefuses(t *testing.T) {
	if _, err := signal.New(signal.Config{}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "APP_ENV_SIGNAL_ADDR must be") {
		t.Errorf("an empty configuration: %v", err)
	}
	n := run(t, settings(redistest.Start(t).Settings()))
	cfg := settings(emitter.Settings{})
	cfg.Addr = n.addr()
	if _, err := signal.New(cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address in use: %v", err)
	}
}

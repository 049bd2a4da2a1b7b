package session_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hub"
	"github.com/signal-team/signal/signal/session"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// A conn records what the client is sent. Its fields are read when all is quiet.
type conn struct {
	mu     sync.Mutex
	frames []string
	code   proto.CloseCode

	revoked auth.Revoked // the node's
}

func (c *conn) Write(b *hub.Batch) int {
	for _, e := range b.Entries {
		c.Answer(e.Frame)
	}
	return len(b.Entries)
}
func (c *conn) Prepare()           {}
func (c *conn) CaughtUp()          {}
func (c *conn) Send(b []byte) bool { c.Answer(b); return true }
func (c *conn) Answer(b []byte) {
	b = proto.Payload(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, string(b))
}
func (c *conn) Welcome(b []byte, _ *proto.Sealing) { c.Answer(b) }
func (c *conn) Dismiss(last []byte, code proto.CloseCode) {
	c.Answer(last)
	c.End(code)
}
func (c *conn) End(code proto.CloseCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code == 0 {
		c.code = code
	}
}

// A slow Redis: each event waits for one token.
type slow struct {
	tokens chan struct{}
	mu     sync.Mutex
	data   []string
}

func (s *slow) SendToRoom(ctx context.Context, _ proto.Room, _ proto.EventName, data any, _ ...emitter.Option) (emitter.Receipt, error) {
	select {
	case <-s.tokens:
	case <-ctx.Done():
		return emitter.Receipt{}, emitter.ErrUnavailable
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = append(s.data, string(data.(json.RawMessage)))
	return emitter.Receipt{EventID: "e-1", Receivers: 1}, nil
}

// nothing is a bus that hears nothing.
type nothing struct{}

func (nothing) Subscribe(proto.Room)   {}
func (nothing) Unsubscribe(proto.Room) {}

func (nothing) Read(proto.Room, proto.Position, bool) {}

// with runs a test with one session, in a bubble with a clock of its own.
func with(t *testing.T, test func(*testing.T, *session.Session, *conn, *slow)) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		h := hub.New(nothing{}, reg)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		c, p := &conn{}, &slow{tokens: make(chan struct{})}
		s := session.New(&session.Options{
			Node: proto.NewNodeID(), Hub: h, Revoked: &c.revoked, Verifier: auth.None{}, Publisher: p,
			AuthTimeout: 5 * time.Second, Heartbeat: 25 * time.Second, Log: zap.NewNop(), Metrics: session.NewMetrics(reg),
		}, c)
		defer func() {
			s.Close()
			stop()
			<-ended
		}()
		test(t, s, c, p)
	})
}

const hello = `{"event":"authenticate","data":{"token":"u1"}}`

func TestAuthenticationTimeout(t *testing.T) {
	for name, v := range map[string]struct {
		frame string
		after time.Duration
		code  proto.CloseCode
	}{
		"silent, just before": {"", 5*time.Second - 1, 0},
		"silent":              {"", 5 * time.Second, proto.CloseAuthTimeout},
		"only heartbeats":     {`{"event":"heartbeat"}`, 5 * time.Second, proto.CloseAuthTimeout},
		"authenticated":       {hello, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			with(t, func(t *testing.T, s *session.Session, c *conn, _ *slow) {
				if v.frame != "" {
					s.Receive([]byte(v.frame))
				}
				time.Sleep(v.after)
				s.Tick(time.Now())
				if c.code != v.code {
					t.Errorf("ended with %d, want %d", c.code, v.code)
				}
			})
		})
	}
}

// TestSlowRedisStopsNoReader: a client's events wait for Redis, its frames do not; they
// keep their order, and the 33rd is told to wait.
func TestSlowRedisStopsNoReader(t *testing.T) {
	with(t, func(t *testing.T, s *session.Session, c *conn, p *slow) {
		s.Receive([]byte(hello))
		for i := range 40 {
			s.Receive(fmt.Appendf(nil, `{"event":"publish","data":{"room":"a","event":"e","data":%d},"id":"%d"}`, i, i))
		}
		synctest.Wait()
		busy := 0
		for _, f := range c.frames {
			if strings.Contains(f, `"busy"`) {
				busy++
			}
		}
		if busy != 8 {
			t.Errorf("%d of 40 are told to wait, want 8", busy)
		}
		for range 20 {
			p.tokens <- struct{}{}
		}
		synctest.Wait()
		for i, d := range p.data {
			if d != fmt.Sprint(i) {
				t.Fatalf("event %d carries %s", i, d)
			}
		}
		if acks := strings.Count(strings.Join(c.frames, "\n"), `"ack"`); acks != 20 || len(p.data) != 20 {
			t.Errorf("%d acks for %d events, want 20", acks, len(p.data))
		}
		s.Close() // does not wait for the other twelve
		if len(p.data) != 20 {
			t.Errorf("%d events after the end", len(p.data)-20)
		}
	})
}

// TestQueuedEvents: what a client has sent and is not on its way when it is revoked is not published.
func TestQueuedEvents(t *testing.T) {
	for _, r := range []proto.Revocation{{User: "u1", At: 1 << 60}, {User: "u1", Room: "a", At: 1 << 60}} {
		with(t, func(t *testing.T, s *session.Session, c *conn, p *slow) {
			s.Receive([]byte(hello))
			for i := range 10 {
				s.Receive(fmt.Appendf(nil, `{"event":"publish","data":{"room":"a","event":"e","data":%d},"id":"%d"}`, i, i))
			}
			synctest.Wait()
			s.Revoke(c.revoked.Add([]proto.Revocation{r}))
			close(p.tokens)
			synctest.Wait()
			if len(p.data) != 1 { // that was under way
				t.Errorf("revoked %+v: then %d events are published", r, len(p.data))
			}
		})
	}
}

// A slowJudge needs a moment for tokens that begin with "later", and then allows nothing.
type slowJudge struct{ gate chan struct{} }

func (v slowJudge) Verify(token string) (auth.Identity, error) {
	if strings.HasPrefix(token, "later") {
		return auth.Identity{}, fmt.Errorf("%w: %w", auth.ErrRefused, auth.ErrLater)
	}
	return auth.None{}.Verify(token)
}

func (v slowJudge) Await(_ context.Context, token string) (auth.Identity, error) {
	<-v.gate
	id, err := auth.None{}.Verify(token)
	id.User, id.Rooms = "u1", nil
	return id, err
}

// TestNarrowedMeanwhile: a join that is under way while a newer token takes rooms back brings
// nobody into them. A dry run says in its log when a client is beyond a limit: with the rooms
// judged and none entered, which is when the newer token comes here.
func TestNarrowedMeanwhile(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := hub.New(nothing{}, reg)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = h.Run(ctx) }()
	judge, c := slowJudge{make(chan struct{})}, &conn{}
	refreshed := sync.OnceFunc(func() {
		close(judge.gate)
		redistest.Wait(t, func() bool { return c.has(`"refreshed"`) }, "the newer token to count")
	})
	log := zaptest.NewLogger(t, zaptest.WrapOptions(zap.Hooks(func(zapcore.Entry) error {
		refreshed()
		return nil
	})))
	s := session.New(&session.Options{
		Node: proto.NewNodeID(), Hub: h, Revoked: &c.revoked, Verifier: judge, AuthTimeout: time.Minute, Log: log, Metrics: session.NewMetrics(reg),
		Limits: session.Limits{Rooms: 1, DryRun: true},
	}, c)
	defer s.Close()
	s.Receive([]byte(hello))
	s.Receive([]byte(`{"event":"authenticate","data":{"token":"later"},"id":"refresh"}`))
	s.Receive([]byte(`{"event":"join","data":{"rooms":["a","b"]}}`))
	if !c.has(`"refreshed"`) {
		t.Fatal("the token did not come while the join was under way")
	}
	// This bus brings nobody into a room, so an answer to both is that both are denied.
	redistest.Wait(t, func() bool { return c.has(`"done":true`) }, "it to be out of the rooms that its token does not allow")
}

func (c *conn) has(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.frames, func(f string) bool { return strings.Contains(f, text) })
}

func TestNothingAfterARefusal(t *testing.T) {
	with(t, func(t *testing.T, s *session.Session, c *conn, _ *slow) {
		s.Receive([]byte(`{"event":"authenticate"}`)) // None refuses nobody, but there is no data
		s.Receive([]byte(hello))
		synctest.Wait()
		if len(c.frames) != 1 || !strings.Contains(c.frames[0], "Authentication failed") || c.code != proto.CloseAuthFailed {
			t.Errorf("frames %q, code %d", c.frames, c.code)
		}
	})
}

// FuzzReceive: whatever comes first, nobody is heard before they have told who they
// are.
func FuzzReceive(f *testing.F) {
	for _, s := range []string{hello, `{"event":"join","data":{"rooms":["a"]}}`, `{"event":"leave","data":{"rooms":["a"]},"id":"1"}`,
		`{"event":"publish","data":{"room":"a","event":"e"}}`, `null`, `{"event":"heartbeat"}`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		with(t, func(t *testing.T, s *session.Session, c *conn, _ *slow) {
			s.Receive([]byte(first))
			s.Receive([]byte(second))
			synctest.Wait()
			for i, frame := range c.frames {
				if !json.Valid([]byte(frame)) || i == 0 && !strings.HasPrefix(frame, `{"event":"connected"`) && !strings.HasPrefix(frame, `{"event":"error"`) {
					t.Fatalf("answer %d to %q, %q is %s", i, first, second, frame)
				}
			}
		})
	})
}

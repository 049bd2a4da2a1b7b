package emitter_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

func TestMain(m *testing.M) { redistest.Main(m, examplesOn) }

const nobody proto.ClientID = "abcdefg2.abcdefghijklmno7"

func open(t *testing.T, s emitter.Settings) *emitter.Emitter {
	t.Helper()
	e := emitter.New(s)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// listen subscribes to channels and returns what arrives next on one of them.
func listen(t *testing.T, at emitter.Settings, channels ...string) func(channel string) *redis.Message {
	t.Helper()
	rdb := at.Open()
	t.Cleanup(func() { _ = rdb.Close() })
	subscribe := rdb.Subscribe
	if at.Ways() == emitter.Sharded {
		subscribe = rdb.SSubscribe
	}
	subs := map[string]*redis.PubSub{}
	for _, c := range channels {
		subs[c] = subscribe(t.Context(), c)
		t.Cleanup(func() { _ = subs[c].Close() })
		if _, err := subs[c].Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return func(channel string) *redis.Message {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
		defer cancel()
		m, err := subs[channel].ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func TestSend(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			e, next := open(t, srv.Settings()), listen(t, srv.Settings(), "sg:{orders}:ch", "sg:{$user:u1}:ch", "sg:{$broadcast}:ch", "sg:{$node:abcdefg2}:ch")
			raw := json.RawMessage("{\"a\" :\n [1, \"<&>\"]}")
			for _, c := range []struct {
				target  proto.Target
				channel string
				data    any
				wire    string
			}{
				{proto.ToRoom("orders"), "sg:{orders}:ch", raw, string(raw)},
				{proto.ToUser("u1"), "sg:{$user:u1}:ch", map[string]string{"a": "<&>"}, `{"a":"<&>"}`},
				{proto.ToEveryone(), "sg:{$broadcast}:ch", nil, "null"},
				{proto.ToClient(nobody), "sg:{$node:abcdefg2}:ch", 7, "7"},
			} {
				r, err := e.Send(t.Context(), c.target, "order.paid", c.data, emitter.EventID("order-42"), emitter.Except(nobody), emitter.Live())
				if err != nil || r.EventID != "order-42" || r.Receivers != 1 {
					t.Fatalf("%s: receipt %+v, %v", c.target, r, err)
				}
				m, err := proto.DecodeMessage([]byte(next(c.channel).Payload))
				if err != nil || string(m.Data) != c.wire || m.EventID != "order-42" || m.Time == 0 || len(m.Except) != 1 {
					t.Errorf("%s: %+v, %v", c.target, m, err)
				}
			}
			if s := e.Stats(); s != (emitter.Stats{Sent: 4}) {
				t.Errorf("stats %+v, want 4 sent", s)
			}
		})
	}
}

func TestSendSharded(t *testing.T) {
	srv := redistest.Start(t)
	s := srv.Settings()
	s.PubSub = emitter.Sharded
	rdb := srv.Client()
	defer rdb.Close()
	sub := rdb.SSubscribe(t.Context(), "sg:{orders}:ch")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := open(t, s).SendToRoom(t.Context(), "orders", "a", 1); err != nil || r.Receivers != 1 {
		t.Errorf("receipt %+v, %v, want one receiver", r, err)
	}
}

func TestNobodyThere(t *testing.T) {
	e := open(t, redistest.Start(t).Settings())
	if r, err := e.SendToRoom(t.Context(), "orders", "a", 1); err != nil || r.Receivers != 0 {
		t.Errorf("room without members: %+v, %v; want no error and no receivers", r, err)
	}
	if r, err := e.SendToClient(t.Context(), nobody, "a", 1); !errors.Is(err, emitter.ErrNoReceiver) || r.EventID == "" {
		t.Errorf("client of a node that is gone: %+v, %v; want ErrNoReceiver", r, err)
	}
	if s := e.Stats(); s != (emitter.Stats{Sent: 2, Unheard: 2}) {
		t.Errorf("stats %+v, want both counted as unheard", s)
	}
}

func TestBadEvents(t *testing.T) {
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	published := srv.Publishes(t)
	for name, c := range map[string]struct {
		target proto.Target
		event  proto.EventName
		data   any
		opts   []emitter.Option
		want   error
		says   string
	}{
		"no target":            {proto.Target{}, "a", 1, nil, emitter.ErrInvalid, "target"},
		"system room":          {proto.ToRoom("$broadcast"), "a", 1, nil, emitter.ErrInvalid, `"$"`},
		"user with $":          {proto.ToUser("$x"), "a", 1, nil, emitter.ErrInvalid, `"$"`},
		"room of another slot": {proto.ToRoom("a}b{c"), "a", 1, nil, emitter.ErrInvalid, "'}'"},
		"no event":             {proto.ToRoom("a"), "", 1, nil, emitter.ErrInvalid, "empty"},
		"foreign client id":    {proto.ToClient("5f0c2f6e"), "a", 1, nil, emitter.ErrInvalid, "<node>.<random>"},
		"not JSON":             {proto.ToRoom("a"), "a", json.RawMessage("{"), nil, emitter.ErrInvalid, "JSON"},
		"empty raw":            {proto.ToRoom("a"), "a", json.RawMessage{}, nil, emitter.ErrInvalid, "empty"},
		"two values":           {proto.ToRoom("a"), "a", json.RawMessage("1 2"), nil, emitter.ErrInvalid, "JSON"},
		"not UTF-8":            {proto.ToRoom("a"), "a", json.RawMessage("\"\xff\""), nil, emitter.ErrInvalid, "UTF-8"},
		"a channel":            {proto.ToRoom("a"), "a", make(chan int), nil, emitter.ErrInvalid, "chan"},
		"a node's event":       {proto.ToRoom("a"), "connected", 1, nil, emitter.ErrInvalid, "reserved"},
		"except a user":        {proto.ToRoom("a"), "a", 1, []emitter.Option{emitter.Except("u1")}, emitter.ErrInvalid, "<node>.<random>"},
		"a question of nobody": {proto.ToClient(nobody), "a", 1, []emitter.Option{emitter.Asking("q1")}, emitter.ErrInvalid, "<node>.<random>"},
		"event id with spaces": {proto.ToRoom("a"), "a", 1, []emitter.Option{emitter.EventID("a b")}, emitter.ErrInvalid, "' '"},
		"a client's event id":  {proto.ToRoom("a"), "a", 1, []emitter.Option{emitter.EventID("c:1")}, emitter.ErrInvalid, `"c:"`},
		"1 MiB":                {proto.ToRoom("a"), "a", strings.Repeat("x", 1<<20), nil, emitter.ErrTooLarge, "131072"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Send(t.Context(), c.target, c.event, c.data, c.opts...)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v that says %s", err, c.want, c.says)
			}
		})
	}
	if n := published(); n != 0 {
		t.Errorf("%d bad events reached Redis", n)
	}
}

func TestClientsIDIsItsOwn(t *testing.T) {
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	r1, err1 := e.SendToRoom(t.Context(), "a", "a", 1, emitter.FromClient("u1", "order-42-paid"))
	r2, err2 := e.SendToRoom(t.Context(), "a", "a", 1, emitter.FromClient("u2", "order-42-paid"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if r1.EventID == r2.EventID || !strings.HasPrefix(string(r1.EventID), "c:") || !strings.HasSuffix(string(r1.EventID), ":order-42-paid") {
		t.Errorf("ids %q and %q: want them marked, and apart by user", r1.EventID, r2.EventID)
	}
	mark, _, _ := strings.Cut(strings.TrimPrefix(string(r1.EventID), "c:"), ":")
	if b, err := base64.RawURLEncoding.DecodeString(mark); err != nil || len(b) < 16 {
		t.Errorf("users are kept apart by %d bytes (%v), want 16", len(b), err)
	}
	for _, user := range []proto.UserID{"user-2jmemrf", "cashier-7"} { // the same in 32 bits of SHA-256
		if _, err := e.SendToRoom(t.Context(), "b", proto.EventName(user), 1, emitter.FromClient(user, "order-42-paid")); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	if _, err := e.SendToRoom(t.Context(), "a", "a", 1, emitter.FromClient("u1", "a b")); !errors.Is(err, emitter.ErrInvalid) {
		t.Errorf("a bad id of a client: %v", err)
	}
}

func TestRedisAway(t *testing.T) {
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	srv.Kill()
	if _, err := e.SendToRoom(t.Context(), "a", "a", 1); !errors.Is(err, emitter.ErrUnavailable) {
		t.Errorf("no Redis: %v, want ErrUnavailable", err)
	}
	if s := e.Stats(); s.Failed != 1 {
		t.Errorf("stats %+v, want one failed", s)
	}
	srv.Restart()
	if _, err := e.SendToRoom(t.Context(), "a", "a", 1); err != nil {
		t.Errorf("Redis is back: %v", err)
	}
	srv.Pause()
	defer srv.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := e.SendToRoom(ctx, "a", "a", 1); !errors.Is(err, emitter.ErrUnavailable) || (!errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded)) {
		t.Errorf("Redis hangs: %v, want ErrUnavailable at the caller's deadline", err)
	}
}

func TestPassword(t *testing.T) {
	srv := redistest.Start(t, "--requirepass", "hunter2")
	s := srv.Settings()
	if _, err := open(t, s).SendToRoom(t.Context(), "a", "a", 1); !errors.Is(err, emitter.ErrRefused) {
		t.Errorf("no password: %v, want ErrRefused", err)
	}
	s.Password = "hunter2"
	if _, err := open(t, s).SendToRoom(t.Context(), "a", "a", 1); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if said := fmt.Sprintf("%v %+v %#v %s", s, s, s, s.Password); strings.Contains(said, "hunter2") {
		t.Errorf("settings print the password: %s", said)
	}
}

// TestMayNotPublish: an emitter whose user may write and not publish, or not on our channels, is
// refused before it has kept an event.
func TestMayNotPublish(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		servers := []*redistest.Server{}
		switch r := srv.(type) {
		case *redistest.Server:
			servers = append(servers, r)
		case *redistest.Cluster:
			servers = r.Servers
		}
		for _, s := range servers {
			rdb := s.Client()
			defer rdb.Close()
			if err := rdb.Do(t.Context(), "ACL", "SETUSER", "sale", "on", ">pw", "~sg:*", "+@all", "resetchannels", "&other:*").Err(); err != nil {
				t.Fatal(err)
			}
		}
		at := srv.Settings()
		at.Username, at.Password = "sale", "pw"
		e := open(t, at)
		began := time.Now()
		for what, err := range map[string]error{
			"check": e.Check(t.Context()),
			"send":  func() error { _, err := e.SendToRoom(t.Context(), "a", "a", 1); return err }(),
		} {
			if !errors.Is(err, emitter.ErrRefused) || !strings.Contains(err.Error(), "NOPERM") || !strings.Contains(err.Error(), "sg:*") {
				t.Errorf("%s, %s: %v, want ErrRefused that says what is missing", name, what, err)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: that took %s", name, took)
		}
		other := open(t, srv.Settings())
		if at, err := other.Position(t.Context(), "a"); err != nil || at.Sequence != 0 {
			t.Errorf("%s: the room is at %s, %v", name, at, err)
		}
	}
}

// TestElsewhere: an emitter on another Redis, or in another database, than the nodes is told
// that nobody is there; one of another deployment or another way of publishing may not start.
func TestElsewhere(t *testing.T) {
	srv, another := redistest.Start(t), redistest.Start(t)
	ours := srv.Settings()
	ours.Deployment = "shop"
	if _, _, err := open(t, ours).Lease(t.Context(), proto.NewNodeID(), time.Minute, "test"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, ours).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		at   func(*emitter.Settings)
		want error
	}{
		"another Redis":    {func(s *emitter.Settings) { s.Addrs = another.Settings().Addrs }, emitter.ErrNoNodes},
		"another database": {func(s *emitter.Settings) { s.DB = 1 }, emitter.ErrNoNodes},
		"another shop":     {func(s *emitter.Settings) { s.Deployment = "other" }, emitter.ErrDisagrees},
		"another way":      {func(s *emitter.Settings) { s.PubSub = emitter.Sharded }, emitter.ErrDisagrees},
		"another mode":     {func(s *emitter.Settings) { s.Mode = emitter.Cluster }, emitter.ErrDisagrees},
	} {
		at := ours
		c.at(&at)
		e := open(t, at)
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
		err := e.Check(ctx)
		if err == nil {
			_, err = e.Ping(ctx)
		}
		cancel()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestAgree(t *testing.T) {
	srv := redistest.Start(t)
	first := open(t, srv.Settings())
	if err := first.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := srv.Settings()
	s.PubSub = emitter.Sharded
	second := open(t, s)
	for name, err := range map[string]error{
		"check": second.Check(t.Context()),
		"send":  func() error { _, err := second.SendToRoom(t.Context(), "a", "a", 1); return err }(),
	} {
		if !errors.Is(err, emitter.ErrDisagrees) || !strings.Contains(err.Error(), `pubsub is "classic" there`) || !strings.Contains(err.Error(), "APP_ENV_WEBSOCKET_REDIS_PUBSUB") {
			t.Errorf("%s: %v, want ErrDisagrees that says what differs", name, err)
		}
	}
	rdb := srv.Client()
	defer rdb.Close()
	rdb.HSet(t.Context(), "sg:{$ctl}:cfg", "protocol", "99")
	if err := open(t, srv.Settings()).Check(t.Context()); !errors.Is(err, emitter.ErrDisagrees) || !strings.Contains(err.Error(), `protocol is "99" there`) {
		t.Errorf("another version: %v, want ErrDisagrees that says so", err)
	}
}

// A Redis that cannot be written to, for now, publishes all the same.
func TestFullRedis(t *testing.T) {
	for name, args := range map[string][]string{"full": {"--maxmemory", "1"}, "without replicas": {"--min-replicas-to-write", "1"}} {
		t.Run(name, func(t *testing.T) {
			if err := open(t, redistest.Start(t, args...).Settings()).Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What could not be written down while Redis was full is made up for: nobody can come
// meanwhile and disagree without a word.
func TestAgreeAfterFull(t *testing.T) {
	srv := redistest.Start(t, "--maxmemory", "1")
	first := open(t, srv.Settings())
	if err := first.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	s := srv.Settings()
	s.PubSub = emitter.Sharded
	if err := open(t, s).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := first.SendToRoom(t.Context(), "a", "a", 1); !errors.Is(err, emitter.ErrDisagrees) {
		t.Errorf("the first one: %v, want ErrDisagrees", err)
	}
}

func TestNotRedisFault(t *testing.T) {
	e := open(t, redistest.Start(t).Settings())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.SendToRoom(ctx, "a", "a", 1, nil); !errors.Is(err, context.Canceled) || errors.Is(err, emitter.ErrUnavailable) {
		t.Errorf("a cancelled call: %v", err)
	}
	_ = e.Close()
	if _, err := e.SendToRoom(t.Context(), "a", "a", 1); !errors.Is(err, emitter.ErrClosed) || errors.Is(err, emitter.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSettingsFromEnv(t *testing.T) {
	for name, v := range map[string]string{"MODE": "mesh", "ADDRS": "nohost", "DB": "-1", "TLS": "maybe", "PREFIX": "a{b", "PUBSUB": "loud"} {
		t.Setenv(emitter.EnvPrefix+name, v)
	}
	_, err := emitter.SettingsFromEnv()
	for _, name := range []string{"MODE", "ADDRS", "DB", "TLS", "PREFIX", "PUBSUB"} {
		if err == nil || !strings.Contains(err.Error(), emitter.EnvPrefix+name+" must be") {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
	for name, v := range map[string]string{"MODE": "single", "ADDRS": "", "HOST": "redis.local", "PORT": "6380", "DB": "3", "TLS": "true", "PREFIX": "x", "PUBSUB": "sharded"} {
		t.Setenv(emitter.EnvPrefix+name, v)
	}
	s, err := emitter.SettingsFromEnv()
	if err != nil || s.Addr() != "redis.local:6380" || s.DB != 3 || s.TLS == nil || s.Layout().Prefix != "x" || s.Ways() != emitter.Sharded {
		t.Errorf("settings %+v, %v", s, err)
	}
	for _, v := range []struct{ name, value, says string }{
		{"ADDRS", "a:1", "both set"}, {"HOST", "", "ADDRS"}, {"PORT", "", ""}, {"ADDRS", "a:1,b:2", "one host:port"},
		{"ADDRS", "", ""}, {"HOST", "127.0.0.1:6379", "the port belongs"}, {"HOST", "", ""}, {"PREFIX", "sg", "PREFIX of its own"},
	} {
		t.Setenv(emitter.EnvPrefix+v.name, v.value)
		_, err := emitter.SettingsFromEnv()
		if v.says != "" && v.value != "" && (err == nil || !strings.Contains(err.Error(), v.says)) {
			t.Errorf("%s=%q: %v, want %q", v.name, v.value, err, v.says)
		}
	}
}

// TestImports keeps producers thin (S1-07): proto and go-redis, nothing else.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{range .Imports}}{{.}}\n{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		first, _, _ := strings.Cut(p, "/")
		if strings.Contains(first, ".") && p != "github.com/signal-team/signal/proto" && !strings.HasPrefix(p, "github.com/redis/go-redis/v9") {
			t.Errorf("emitter imports %s", p)
		}
	}
	// What comes along: nobody's server.
	out, err = exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := "github.com/redis/go-redis/v9 github.com/signal-team/signal/proto github.com/signal-team/signal/emitter github.com/cespare/xxhash/v2 go.uber.org/atomic golang.org/x/sys"
	for _, m := range strings.Fields(string(out)) {
		if !strings.Contains(allowed, m) {
			t.Errorf("emitter brings along %s", m)
		}
	}
}

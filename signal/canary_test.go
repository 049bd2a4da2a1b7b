package signal_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// leaked finds what must stand in no log: tokens, and the secrets of the tests' nodes.
var leaked = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}\.|` + regexp.QuoteMeta(secret) + `|` + regexp.QuoteMeta(hookSecret))

// TestCanaries puts a word that stands nowhere else into every place of a secret: tokens, tickets,
// cookies, addresses, payloads, passwords and keys; says it in every way that is refused too; and
// looks for it in all that the node says of itself. What all other tests' nodes say is looked
// through by them (run, launch) and by scripts/test.
func TestCanaries(t *testing.T) {
	const canary = "kanarienvogel"
	var place []string // the i-th canary is place[i]
	bird := func(where string) string {
		place = append(place, where)
		return fmt.Sprintf("%s%04d", canary, len(place)-1)
	}
	password := bird("the password of Redis")
	srv := redistest.Start(t)
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "node", "on", ">"+password, "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, bird("an answer that is no JSON"))
	}))
	defer hook.Close()
	jwtSecret, apiKey := bird("the secret of tokens")+strings.Repeat("x", 32), bird("the API key")+strings.Repeat("x", 16)
	signingKey := bird("a signing key") + strings.Repeat("x", 32)
	p := launch(t, must(binary(true)), srv.Settings(),
		emitter.EnvPrefix+"USERNAME=node", emitter.EnvPrefix+"PASSWORD="+password, emitter.EnvPrefix+"SIGNING_KEYS=k:"+signingKey,
		"APP_ENV_SIGNAL_IGNIS=off", "APP_ENV_SIGNAL_LOG_LEVEL=debug", "APP_ENV_SIGNAL_JWT_SECRET="+jwtSecret, "APP_ENV_SIGNAL_API_KEY="+apiKey,
		"APP_ENV_SIGNAL_HOOK_SECRET="+bird("the secret of hooks")+strings.Repeat("x", 16), "APP_ENV_SIGNAL_ROOMS_URL="+hook.URL+"/?"+bird("the query of an address"),
		"APP_ENV_SIGNAL_ACCESS_SECRET="+bird("the secret of access tokens")+strings.Repeat("x", 32), "APP_ENV_SIGNAL_ACCESS_COOKIE=session")
	redistest.Wait(t, func() bool { status, _ := get(t, p.admin, "/readyz"); return status == 200 }, "the node to be ready")
	token := func(where string, claims jwt.MapClaims) string {
		c := jwt.MapClaims{"sub": "u1", "aud": "signal", "iat": 1, "exp": 9_999_999_999, "rooms": []string{"orders"}, "publish": []string{"orders"}, "x": bird(where)}
		for k, v := range claims {
			c[k] = v
		}
		return must(jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(jwtSecret)))
	}
	for i, say := range []func(c *wstest.Client){
		func(c *wstest.Client) {
			c.Send("authenticate", map[string]any{"token": token("a claim that lives too long", nil)}, "")
		},
		func(c *wstest.Client) {
			c.Send("authenticate", map[string]any{"token": bird("a token that is none")}, "")
		},
		func(c *wstest.Client) {
			c.Send("authenticate", map[string]any{"ticket": bird("a ticket that is none")}, "")
		},
		func(c *wstest.Client) {
			c.Send(bird("an event before authentication"), bird("its data"), bird("its id"))
		},
		func(c *wstest.Client) { c.Raw(bird("a frame that is no JSON")) },
		func(c *wstest.Client) { c.Raw(`{"event":"` + bird("an event twice") + `","event":"x"}`) },
	} {
		c := wstest.Connect(t, p.addr)
		say(c)
		if _, err := c.Next(); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	user := proto.UserID("u1")
	good := must(jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user, "aud": "signal", "iat": unixNow(), "exp": unixNow() + 600, "rooms": []string{"orders"}, "publish": []string{"orders"}, "x": bird("a claim of a good token"),
	}).SignedString([]byte(jwtSecret)))
	c := wstest.Connect(t, p.addr)
	if err := c.Login(good, "orders"); err != nil {
		t.Fatal(err)
	}
	c.Send("publish", map[string]any{"room": "orders", "event": "e", "data": bird("a payload")}, "p")
	c.Send("publish", map[string]any{"room": "forbidden", "event": "e", "data": bird("a payload that may not be sent")}, "p")
	c.Send("join", map[string]any{"rooms": []string{"asked for"}}, "j")
	c.Raw(`{"event":"encrypted","data":{"iv":"` + bird("an iv") + `","ct":"x"}}`)
	for range 5 {
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range [][]string{
		{"GET", "/ws?token=" + bird("a token in an address")}, {"GET", "/ws?ticket=" + bird("a ticket in an address")},
		{"GET", "/replay/orders?fromSeq=" + bird("a query"), "Authorization", "Bearer " + bird("a bearer")},
		{"GET", "/snapshot/orders", "Authorization", "Basic " + bird("another scheme"), "Cookie", "session=" + bird("a cookie")},
		{"POST", "/api/send", "Authorization", "Bearer " + bird("a wrong API key")}, {"POST", "/api/send", "Authorization", "Bearer " + apiKey},
		{"POST", "/realtime/token", "Authorization", "Bearer " + bird("an access token")}, {"POST", "/realtime/token", "Cookie", "session=" + bird("a cookie"), "Origin", "http://" + p.addr},
		{"GET", "/realtime/bootstrap?room=" + bird("a room"), "Authorization", "Bearer " + good}, {"GET", "/" + bird("a path")}, {"BREW", "/ws", "X", bird("a header")},
	} {
		r, err := http.NewRequestWithContext(t.Context(), q[0], "http://"+p.addr+q[1], strings.NewReader(bird("a body")))
		if err != nil {
			t.Fatal(err)
		}
		for i := 2; i < len(q); i += 2 {
			r.Header.Set(q[i], q[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	raw, err := rdb.Publish(t.Context(), "sg:{orders}:ch", "E1 e-1\n{\"event\":\"e\",\"data\":\""+bird("an unsigned event")+"\"}").Result()
	if err != nil || raw != 1 {
		t.Fatalf("%d heard it, %v", raw, err)
	}
	srv.Kill()
	srv.Restart() // without the user: the node is refused, and says so
	redistest.Wait(t, func() bool { return strings.Contains(p.said(), "no Redis") || strings.Contains(p.said(), "WRONGPASS") }, "the node to say that it is refused")
	said := map[string]string{"log": p.said()}
	for _, path := range []string{"/metrics", "/readyz", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
		_, said[path] = get(t, p.admin, path)
	}
	for where, text := range said {
		for _, m := range regexp.MustCompile(canary+`(\d{4})`).FindAllStringSubmatch(text, -1) {
			var i int
			_, _ = fmt.Sscan(strings.TrimLeft(m[1], "0"), &i)
			t.Errorf("%s has %s", where, place[i])
		}
		if len(text) < 3 {
			t.Errorf("%s says %q", where, text)
		}
	}
	if len(place) < 35 {
		t.Errorf("%d places", len(place))
	}
}

// A listener keeps what a process says.
type listener struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *listener) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *listener) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

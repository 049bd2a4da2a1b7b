package signal_test

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// An application answers what nodes ask it, and counts.
type application struct {
	*httptest.Server
	asked  atomic.Int64
	answer func(w http.ResponseWriter, question map[string]any)
}

const hookSecret = "the application and the nodes know it"

// startApplication wants every question to be signed.
func startApplication(t *testing.T, answer func(http.ResponseWriter, map[string]any)) *application {
	t.Helper()
	a := &application{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		body, err := io.ReadAll(r.Body)
		var at int64
		if _, err := fmt.Sscanf(r.Header.Get(hook.Signature), "t=%d,", &at); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
			t.Errorf("signed at %q: %v", r.Header.Get(hook.Signature), err)
		}
		if want := hook.Sign([]byte(hookSecret), time.Unix(at, 0), body); !hmac.Equal([]byte(want), []byte(r.Header.Get(hook.Signature))) {
			t.Error("the signature is not ours")
		}
		var q map[string]any
		if err != nil || json.Unmarshal(body, &q) != nil || r.Method != http.MethodPost {
			t.Errorf("asked with %s %v", r.Method, err)
		}
		a.answer(w, q)
	}))
	t.Cleanup(a.Close)
	return a
}

// reply answers with JSON.
func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// TestAuthByAsking: the application says whose a token is; that it does not answer lets nobody in,
// and lets them try again.
func TestAuthByAsking(t *testing.T) {
	srv := redistest.Start(t)
	stuck := make(chan struct{})
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		switch q["token"] {
		case "good":
			reply(w, map[string]any{"userId": "u1", "rooms": []string{"orders"}, "tenant": "t1", "expires": time.Now().Add(time.Minute).Unix(), "metadata": 1})
		case "no":
			w.WriteHeader(http.StatusUnauthorized)
		case "stuck":
			<-stuck
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		case "elsewhere":
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		case "garbage":
			_, _ = io.WriteString(w, `{"userId": "u1"`)
		case "large":
			_, _ = io.WriteString(w, `{"userId": "`+strings.Repeat("x", 1<<20)+`"}`)
		case "nobody":
			reply(w, map[string]any{"rooms": []string{"*"}})
		case "past":
			reply(w, map[string]any{"userId": "u1", "expires": time.Now().Add(-time.Hour).Unix()})
		}
	})
	t.Cleanup(func() { close(stuck) })
	cfg := settings(srv.Settings())
	cfg.Auth, cfg.AuthURL, cfg.HookSecret = "ask", app.URL, hookSecret
	n := run(t, cfg)
	for token, code := range map[string]proto.CloseCode{
		"no": proto.CloseAuthFailed, "past": proto.CloseAuthFailed, "": proto.CloseAuthFailed, strings.Repeat("x", 5_000): proto.CloseAuthFailed,
		"stuck": proto.CloseTryAgain, "500": proto.CloseTryAgain, "elsewhere": proto.CloseTryAgain, "garbage": proto.CloseTryAgain,
		"large": proto.CloseTryAgain, "nobody": proto.CloseTryAgain,
	} {
		t.Run(fmt.Sprintf("%.9s", token), func(t *testing.T) {
			t.Parallel()
			c := wstest.Connect(t, n.addr())
			c.Send("authenticate", map[string]any{"token": token}, "a")
			c.Expect(t, "error")
			c.ExpectClose(t, code)
		})
	}
	c := wstest.Login(t, n.addr(), "good", "orders")
	c.Send("join", map[string]any{"rooms": []string{"stock"}}, "j")
	var j proto.Joined
	if f := c.Expect(t, "joined"); json.Unmarshal(f.Data, &j) != nil || len(j.Denied) != 1 {
		t.Errorf("a room that the application did not name: %s", f.Data)
	}
	req, _ := http.NewRequest(http.MethodGet, "http://"+n.addr()+"/replay/orders?fromSeq=1", nil)
	req.Header.Set("Authorization", "Bearer good")
	if r, err := http.DefaultClient.Do(req); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("history for a token that the application knows: %v %v", r.StatusCode, err)
	}
}

// TestPermissions: rooms that a token does not allow are asked for, all of a frame at once, and
// what the application allows is kept.
func TestPermissions(t *testing.T) {
	srv := redistest.Start(t)
	var (
		mu      sync.Mutex
		asked   [][]any
		refuse  atomic.Bool
		hold    = make(chan struct{})
		holding atomic.Bool
	)
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		rooms, _ := q["rooms"].([]any)
		mu.Lock()
		asked = append(asked, rooms)
		mu.Unlock()
		if holding.Load() {
			<-hold
		}
		switch {
		case slices.Contains(rooms, any("broken")):
			_, _ = io.WriteString(w, "no JSON")
		default: // everything of the shop, and what was not asked for
			var allowed []string
			if !slices.Contains(rooms, any("another")) {
				allowed = append(allowed, "another")
			}
			for _, r := range rooms {
				if strings.HasPrefix(r.(string), "shop:") {
					allowed = append(allowed, r.(string))
				}
			}
			reply(w, map[string]any{"rooms": allowed, "publish": []string{"shop:1"}, "expires": time.Now().Add(time.Minute).Unix()})
		}
	})
	cfg := settings(srv.Settings())
	cfg.RoomsURL, cfg.HookSecret = app.URL, hookSecret
	n := run(t, cfg)
	tok := func() string { return token(t, "u1", proto.Grants{"own"}, proto.Grants{}) }
	joined := func(c *wstest.Client, id string) (in, denied []proto.Room) {
		t.Helper()
		for {
			var j proto.Joined
			f := c.Expect(t, "joined")
			if f.ID != id || json.Unmarshal(f.Data, &j) != nil {
				t.Fatalf("joined %s %s", f.ID, f.Data)
			}
			for _, r := range j.Rooms {
				in = append(in, r.Room)
			}
			for _, r := range j.Denied {
				denied = append(denied, r.Room)
			}
			if j.Done {
				slices.Sort(in)
				slices.Sort(denied)
				return in, denied
			}
		}
	}
	c := wstest.Login(t, n.addr(), tok())
	c.Send("join", map[string]any{"rooms": []string{"own", "shop:1", "shop:2", "other", "bad name{", "ws-default"}}, "j")
	if in, denied := joined(c, "j"); !slices.Equal(in, []proto.Room{"own", "shop:1", "shop:2", "ws-default"}) || !slices.Equal(denied, []proto.Room{"bad name{", "other"}) {
		t.Errorf("joined %v, denied %v", in, denied)
	}
	mu.Lock()
	if len(asked) != 1 || len(asked[0]) != 3 { // own and ws-default need not be asked for
		t.Errorf("asked %v", asked)
	}
	mu.Unlock()
	c.Send("publish", map[string]any{"room": "shop:1", "event": "e"}, "p")
	for range 2 { // in any order
		if f, err := c.Next(); err != nil || f.Event != "e" && f.Event != "ack" {
			t.Fatalf("a publish that the application allows: %s %v", f.Raw, err)
		}
	}
	c.Send("publish", map[string]any{"room": "shop:2", "event": "e"}, "p")
	if e := c.Expect(t, "error").Error(); e.Code != proto.CodeForbidden {
		t.Errorf("published: %+v", e)
	}
	c.Send("join", map[string]any{"rooms": []string{"another"}}, "j")
	if in, _ := joined(c, "j"); len(in) > 0 {
		t.Errorf("joined %v, which was not asked for then", in)
	}
	// Over HTTP it is asked too.
	for path, want := range map[string]int{
		"/replay/shop:7?fromSeq=1": 404, "/snapshot/shop:8": 404, "/realtime/bootstrap?room=shop:9&room=own": 200,
		"/replay/elsewhere?fromSeq=1": 403, "/realtime/bootstrap?room=elsewhere": 403, "/snapshot/broken": 503,
	} {
		if status, said := ask(t, n, path, tok()); status != want {
			t.Errorf("%s: %d %s, want %d", path, status, said, want)
		}
	}
	// What comes while the application is asked keeps its place behind it.
	holding.Store(true)
	c.Send("join", map[string]any{"rooms": []string{"shop:3"}}, "1")
	c.Send("leave", map[string]any{"rooms": []string{"shop:3"}}, "2")
	c.Send("join", map[string]any{"rooms": []string{"shop:4", "broken"}}, "3")
	c.Send("heartbeat", nil, "")
	holding.Store(false)
	close(hold)
	if in, denied := joined(c, "1"); len(in)+len(denied) != 1 { // it may be overtaken
		t.Errorf("joined %v, denied %v", in, denied)
	}
	if f := c.Expect(t, "left"); f.ID != "2" {
		t.Errorf("left %s", f.ID)
	}
	var third proto.Joined
	if f := c.Expect(t, "joined"); json.Unmarshal(f.Data, &third) != nil || len(third.Denied) != 2 || third.Denied[0].Code != proto.CodeUnavailable {
		t.Errorf("an application that answers garbage: %s", f.Data)
	}
	// With a new token what is not known any more is asked for again: a no ends it at once, no answer
	// after some seconds, and then it is said that it may be tried again.
	var down atomic.Bool
	short := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		switch {
		case refuse.Load():
			w.WriteHeader(http.StatusForbidden)
		case down.Load():
			w.WriteHeader(http.StatusInternalServerError)
		default:
			reply(w, map[string]any{"rooms": q["rooms"], "expires": time.Now().Unix() + 1})
		}
	})
	cfg.RoomsURL = short.URL
	n2 := run(t, cfg)
	d := wstest.Login(t, n2.addr(), tok(), "own", "shop:1")
	var early []wstest.Frame // came between two refreshes
	next := func() (f wstest.Frame, err error) {
		if len(early) > 0 {
			f, early = early[0], early[1:]
			return f, nil
		}
		return d.Next()
	}
	refresh := func() {
		asked := short.asked.Load()
		redistest.Wait(t, func() bool { // what was granted has run out
			d.Send("authenticate", map[string]any{"token": token(t, "u1", proto.Grants{"own"}, proto.Grants{"own", fmt.Sprint("n", time.Now().UnixNano())})}, "r")
			for {
				f, err := d.Next()
				if err != nil {
					t.Fatal(err)
				}
				if f.Event == "refreshed" {
					break
				}
				early = append(early, f)
			}
			return short.asked.Load() > asked
		}, "the application to be asked again")
	}
	refresh() // still allowed
	d.Send("publish", map[string]any{"room": "own", "event": "between"}, "")
	for range 2 {
		if f, err := next(); err != nil || f.Event != "between" && f.Event != "ack" {
			t.Fatalf("told %s %s %v", f.Event, f.Data, err)
		}
	}
	down.Store(true)
	refresh()
	for _, want := range []string{`"denied":[{"room":"shop:1","code":"unavailable"}]`, `{"rooms":["shop:1"]}`} {
		if f, err := next(); err != nil || f.ID != "" || !strings.Contains(string(f.Data), want) {
			t.Errorf("told %s %s %v, want %s", f.Event, f.Data, err, want)
		}
	}
	down.Store(false)
	d.Send("join", map[string]any{"rooms": []string{"shop:1"}}, "j")
	if in, _ := joined(d, "j"); len(in) != 1 {
		t.Errorf("joined %v", in)
	}
	refuse.Store(true)
	refresh()
	if f, err := next(); err != nil || f.Event != "left" || f.ID != "" {
		t.Errorf("told %s %v, want that it has left by itself", f.Raw, err)
	}
}

// TestReconnectsAskNobody: clients that come back ask the application nothing while what it has
// allowed lives: two thousand users, or ten thousand if there is time.
func TestReconnectsAskNobody(t *testing.T) {
	users := 2_000
	if long {
		users = 10_000
	}
	srv := redistest.Start(t)
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		reply(w, map[string]any{"rooms": q["rooms"], "expires": time.Now().Add(time.Hour).Unix()})
	})
	cfg := settings(srv.Settings())
	cfg.RoomsURL, cfg.HookSecret = app.URL, hookSecret
	n := run(t, cfg)
	var unsaid atomic.Int64 // the machine stood still for as long as the application has
	all := func() {
		var g sync.WaitGroup
		next := atomic.Int64{}
		for range 16 {
			g.Go(func() {
				for i := next.Add(1); i <= int64(users) && !t.Failed(); i = next.Add(1) {
					come := func() error {
						c, _, err := wstest.Dial(t.Context(), n.addr(), nil)
						if err != nil {
							return err
						}
						defer c.Cut()
						return c.Login(token(t, fmt.Sprint("u", i), proto.Grants{}, proto.Grants{}), proto.Room(fmt.Sprint("shop:", i%100)))
					}
					err := come()
					for try := 0; err != nil && strings.Contains(err.Error(), string(proto.CodeUnavailable)) && try < 3; try++ {
						unsaid.Add(1)
						err = come()
					}
					if err != nil {
						t.Errorf("user %d: %v", i, err)
					}
				}
			})
		}
		g.Wait()
	}
	all()
	if asked := app.asked.Load(); asked < int64(users) || asked > int64(users)+unsaid.Load() {
		t.Errorf("%d users asked %d times at first, %d times in vain", users, asked, unsaid.Load())
	}
	before := app.asked.Load()
	began := time.Now()
	all()
	if asked := app.asked.Load() - before; asked != 0 {
		t.Errorf("%d users who came back asked %d times", users, asked)
	}
	t.Logf("%d users came back in %v", users, time.Since(began))
}

// TestTokenExchange: POST /realtime/token gives who is logged in to the application a token for a
// few minutes, which knows no more than the access token; or a ticket, which is good once.
func TestTokenExchange(t *testing.T) {
	srv := redistest.Start(t)
	const accessSecret = "of the application, of at least thirty-two bytes"
	cfg := settings(srv.Settings())
	cfg.AccessSecret, cfg.AccessAudience, cfg.AccessCookie, cfg.TokenLifetime = accessSecret, "app", "sid", 2*time.Minute
	cfg.JWTMaxLifetime = 5 * time.Minute
	cfg.AllowedOrigins = []string{"https://app.example.com", "*"}
	n := run(t, cfg)
	access := func(claims jwt.MapClaims) string {
		all := jwt.MapClaims{"sub": "u1", "aud": "app", "exp": time.Now().Add(time.Hour).Unix(), "sid": "s1", "tenant": "t1", "rooms": []string{"orders"}}
		for k, v := range claims {
			all[k] = v
		}
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(accessSecret))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	type answer struct {
		Token, Ticket string
		Expires       int64
		Code          string
	}
	ask := func(method, body string, header ...string) (*http.Response, answer) {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+n.addr()+"/realtime/token", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		said, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer said.Body.Close()
		var a answer
		_ = json.NewDecoder(said.Body).Decode(&a)
		return said, a
	}
	good := access(nil)
	for name, v := range map[string]struct {
		method, body string
		status       int
		header       []string
	}{
		"GET":                              {"GET", "", 405, []string{"Authorization", "Bearer " + good}},
		"nothing":                          {"POST", "", 401, nil},
		"a bearer":                         {"POST", "", 200, []string{"Authorization", "Bearer " + good}},
		"garbage":                          {"POST", "", 401, []string{"Authorization", "Bearer x"}},
		"of another audience":              {"POST", "", 401, []string{"Authorization", "Bearer " + access(jwt.MapClaims{"aud": "another"})}},
		"expired":                          {"POST", "", 401, []string{"Authorization", "Bearer " + access(jwt.MapClaims{"exp": 1})}},
		"one of ours":                      {"POST", "", 401, []string{"Authorization", "Bearer " + token(t, "u1", nil, nil)}},
		"a cookie from an allowed page":    {"POST", "{}", 200, []string{"Cookie", "sid=" + good, "Origin", "https://app.example.com"}},
		"a cookie from another page":       {"POST", "{}", 403, []string{"Cookie", "sid=" + good, "Origin", "https://evil.example.com"}},
		"a cookie without origin":          {"POST", "{}", 403, []string{"Cookie", "sid=" + good}},
		"a cookie with two":                {"POST", "{}", 403, []string{"Cookie", "sid=" + good, "Origin", "https://app.example.com", "Origin", "https://evil.example.com"}},
		"another cookie":                   {"POST", "{}", 401, []string{"Cookie", "other=" + good, "Origin", "https://app.example.com"}},
		"a bearer from another page":       {"POST", "{}", 200, []string{"Authorization", "Bearer " + good, "Origin", "https://evil.example.com"}},
		"a body that is none":              {"POST", "x", 400, []string{"Authorization", "Bearer " + good}},
		"a body with something else in it": {"POST", `{"user":"u2"}`, 400, []string{"Authorization", "Bearer " + good}},
	} {
		r, a := ask(v.method, v.body, v.header...)
		if r.StatusCode != v.status || v.status == 200 && a.Token == "" || v.status != 200 && (a.Code == "" || r.Header.Get("Content-Type") != "application/problem+json") {
			t.Errorf("%s: %d %+v, want %d", name, r.StatusCode, a, v.status)
		}
		if v.status == 405 && r.Header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", name, r.Header.Get("Allow"))
		}
		if cookies := r.Header.Get("Access-Control-Allow-Credentials") == "true"; cookies && !slices.Contains(v.header, "https://app.example.com") {
			t.Errorf("%s: cookies of a page that is not named", name)
		}
	}
	_, a := ask("POST", "", "Authorization", "Bearer "+good)
	if life := time.Until(time.Unix(a.Expires, 0)); life > 2*time.Minute || life < time.Minute {
		t.Errorf("the token lives for %v", life)
	}
	if _, soon := ask("POST", "", "Authorization", "Bearer "+access(jwt.MapClaims{"exp": time.Now().Add(20 * time.Second).Unix()})); time.Until(time.Unix(soon.Expires, 0)) > 20*time.Second {
		t.Error("the token outlives the access token")
	}
	c := wstest.Login(t, n.addr(), a.Token, "orders")
	c.Send("join", map[string]any{"rooms": []string{"stock"}}, "j")
	if f := c.Expect(t, "joined"); !strings.Contains(string(f.Data), "forbidden") {
		t.Errorf("a room that the access token does not name: %s", f.Data)
	}
	// A ticket is good once, in an address.
	_, a = ask("POST", `{"ticket":true}`, "Authorization", "Bearer "+good)
	if a.Ticket == "" || a.Token != "" {
		t.Fatalf("a ticket is answered %+v", a)
	}
	for i, want := range []string{"connected", "error"} {
		c := dialPath(t, n.addr(), "/ws?ticket="+url.QueryEscape(a.Ticket))
		f := c.Expect(t, want)
		if i == 1 && f.Error().Code != proto.CodeAuthFailed {
			t.Errorf("a ticket that was taken: %s", f.Data)
		}
	}
	for _, bad := range []string{"x", strings.Repeat("A", 26), strings.Repeat("A", 5_000), "sg:{$ctl}:cfg"} {
		c := dialPath(t, n.addr(), "/ws?ticket="+url.QueryEscape(bad))
		if f := c.Expect(t, "error"); f.Error().Code != proto.CodeAuthFailed {
			t.Errorf("%.30s: %s", bad, f.Data)
		}
		c.ExpectClose(t, proto.CloseAuthFailed)
	}
	// Who is revoked exchanges nothing, also with a login of before.
	old := access(jwt.MapClaims{"iat": time.Now().Add(-time.Minute).Unix()})
	if err := n.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool {
		r, _ := ask("POST", "", "Authorization", "Bearer "+old)
		return r.StatusCode == http.StatusUnauthorized
	}, "the revoked to be refused")
	if log := n.log.String(); strings.Contains(log, a.Ticket) || strings.Contains(log, "eyJ") {
		t.Error("the log has a ticket or a token")
	}
}

func dialPath(t *testing.T, addr, path string) *wstest.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wstest.Patience)
	defer cancel()
	c, _, err := wstest.DialPath(ctx, addr, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Cut)
	return c
}

// TestBootstrap: what a page is told before it connects is where it then goes on.
func TestBootstrap(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	tok := token(t, "u1", proto.Grants{"orders"}, proto.Grants{})
	get := func(query string) (status int, said struct {
		Addresses []string
		UserID    proto.UserID
		Rooms     proto.Grants
		Heartbeat int
		Positions map[proto.Room]*proto.Position
		Limits    map[string]float64
	}) {
		t.Helper()
		r, _ := http.NewRequest(http.MethodGet, "http://"+n.addr()+"/realtime/bootstrap"+query, nil)
		r.Header.Set("Authorization", "Bearer "+tok)
		r.Header.Set("X-Forwarded-Proto", "https")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		_ = json.NewDecoder(answer.Body).Decode(&said)
		return answer.StatusCode, said
	}
	if _, said := get("?room=orders"); len(said.Positions) != 5 || said.Positions["orders"] != nil {
		t.Errorf("untouched rooms are at %v", said.Positions)
	}
	rdb := srv.Client()
	defer rdb.Close()
	if keys := rdb.Keys(t.Context(), "sg:*:at").Val(); len(keys) > 0 {
		t.Errorf("a question has written %v", keys)
	}
	events := []func() (emitter.Receipt, error){
		func() (emitter.Receipt, error) { return n.SendToRoom(t.Context(), "orders", "missed", 1) },
		func() (emitter.Receipt, error) { return n.SendToUser(t.Context(), "u1", "missed", 2) },
		func() (emitter.Receipt, error) { return n.Broadcast(t.Context(), "missed", 3) },
	}
	for _, e := range events { // before the page asks
		if _, err := e(); err != nil {
			t.Fatal(err)
		}
	}
	status, said := get("?room=orders")
	if status != 200 || said.UserID != "u1" || !slices.Equal(said.Addresses, []string{"wss://" + n.addr() + "/ws"}) || said.Heartbeat != 25_000 ||
		!slices.Equal(said.Rooms, proto.Grants{"orders"}) || said.Limits["rooms"] != 200 || len(said.Positions) != 5 {
		t.Errorf("%d %+v", status, said)
	}
	for _, e := range events {
		if _, err := e(); err != nil {
			t.Fatal(err)
		}
	}
	c := wstest.Login(t, n.addr(), tok)
	var since []map[string]any
	for _, r := range []proto.Room{"orders", "$user", "$broadcast"} {
		since = append(since, map[string]any{"room": r, "since": said.Positions[r]})
	}
	c.Send("join", map[string]any{"rooms": since}, "j")
	for missed := 0; missed < 3; {
		f, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Event == "missed" {
			missed++
		} else if f.Event == "joined" && strings.Contains(string(f.Data), `"recovered":false`) {
			t.Fatalf("joined %s", f.Data)
		}
	}
	for query, want := range map[string]int{"?room=stock": 403, "?room=%24user": 400, "?room=a%7Bb": 400, "": 200} {
		if status, _ := get(query); status != want {
			t.Errorf("%q: %d, want %d", query, status, want)
		}
	}
	if r, err := http.Get("http://" + n.addr() + "/realtime/bootstrap"); err != nil || r.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %v %v", r.StatusCode, err)
	}
}

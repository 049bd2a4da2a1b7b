package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hook"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

var options = auth.Options{Secret: secret, Audience: "signal", MaxLifetime: 15 * time.Minute, Rooms: proto.Grants{"lobby"}}

// sign makes a token of any kind with the claims of a good one, changed by change.
func sign(t *testing.T, method jwt.SigningMethod, key any, change func(h map[string]any, c jwt.MapClaims)) string {
	t.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "u1", "aud": "signal", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()})
	if change != nil {
		change(token.Header, token.Claims.(jwt.MapClaims))
	}
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerify(t *testing.T) {
	with := func(key string, value any) string {
		return sign(t, jwt.SigningMethodHS256, secret, func(_ map[string]any, c jwt.MapClaims) { c[key] = value })
	}
	without := func(key string) string {
		return sign(t, jwt.SigningMethodHS256, secret, func(_ map[string]any, c jwt.MapClaims) { delete(c, key) })
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jwt.SigningMethodHS256, secret, nil)
	now := time.Now()
	for name, c := range map[string]struct {
		token string
		ok    bool
	}{
		"good":                {good, true},
		"expired 20 s ago":    {with("exp", now.Add(-20*time.Second).Unix()), true},
		"audience in a list":  {with("aud", []string{"x", "signal"}), true},
		"no iat":              {without("iat"), false},
		"jku is not followed": {sign(t, jwt.SigningMethodHS256, secret, func(h map[string]any, _ jwt.MapClaims) { h["jku"] = "http://127.0.0.1:1/" }), true},
		"none given":          {"", false},
		"expired 31 s ago":    {with("exp", now.Add(-31*time.Second).Unix()), false},
		"no exp":              {without("exp"), false},
		"exp is text":         {with("exp", "tomorrow"), false},
		"nbf in 60 s":         {with("nbf", now.Add(time.Minute).Unix()), false},
		"iat in 5 min":        {with("iat", now.Add(5*time.Minute).Unix()), false},
		"30 days":             {with("exp", now.Add(720*time.Hour).Unix()), false},
		"another audience":    {with("aud", "other"), false},
		"no audience":         {without("aud"), false},
		"no sub":              {without("sub"), false},
		"empty sub":           {with("sub", ""), false},
		"sub with }":          {with("sub", "a}b"), false},
		"sub with $":          {with("sub", "$broadcast"), false},
		"long sub":            {with("sub", strings.Repeat("a", 2000)), false},
		"rooms is text":       {with("rooms", "orders"), false},
		"foreign key":         {sign(t, jwt.SigningMethodHS256, []byte("another secret of thirty-two byte"), nil), false},
		"HS512":               {sign(t, jwt.SigningMethodHS512, secret, nil), false},
		"ES256":               {sign(t, jwt.SigningMethodES256, ec, nil), false},
		"unsigned":            {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), false},
		"alg nOnE":            {strings.Replace(good, good[:strings.Index(good, ".")], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"nOnE"}`)), 1), false},
		"signature cut":       {good[:len(good)-4], false},
		"dots":                {strings.Repeat(".", 4000), false},
		"longer than 4 KiB":   {good + strings.Repeat("a", auth.MaxToken), false},
		"trailing newline":    {good + "\n", false},
		"not a token":         {"hello", false},
		"crit":                {critical(t), false},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := auth.New(options).Verify(c.token)
			switch {
			case c.ok && (err != nil || id.User != "u1"):
				t.Errorf("identity %+v, %v; want it accepted", id, err)
			case !c.ok && !errors.Is(err, auth.ErrRefused):
				t.Errorf("identity %+v, %v; want ErrRefused", id, err)
			case !c.ok && len(c.token) > 10 && strings.Contains(err.Error(), c.token[:10]):
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
	if _, err := (*auth.Verifier)(nil).Verify(good); !errors.Is(err, auth.ErrRefused) {
		t.Errorf("no verifier: %v", err)
	}
}

// Tills of the original go on with the application's own token: no audience, a long
// life, rights by configuration.
func TestApplicationToken(t *testing.T) {
	o := auth.Options{Secret: secret, Rooms: proto.Grants{"orders"}}
	token := sign(t, jwt.SigningMethodHS256, secret, func(_ map[string]any, c jwt.MapClaims) {
		delete(c, "aud")
		c["exp"] = time.Now().Add(720 * time.Hour).Unix()
	})
	if id, err := auth.New(o).Verify(token); err != nil || !id.Rooms.Allow("orders") || id.Publish.Allow("orders") {
		t.Errorf("identity %+v, %v", id, err)
	}
}

func TestGrants(t *testing.T) {
	token, err := options.Issue("u1", time.Minute, proto.Grants{"orders", "order:*"}, proto.Grants{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := auth.New(options).Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	for room, ok := range map[proto.Room]bool{"orders": true, "order:42": true, "order:": true, "order": false, "orders2": false, "lobby": false} {
		if id.Rooms.Allow(room) != ok {
			t.Errorf("room %q: allowed %t", room, !ok)
		}
	}
	if id.Publish.Allow("orders") {
		t.Error("an empty list of publish allows something")
	}
	token, _ = options.Issue("u1", time.Minute, nil, nil)
	if id, _ := auth.New(options).Verify(token); !id.Rooms.Allow("lobby") || id.Rooms.Allow("orders") {
		t.Errorf("a token without rooms: %v, want those of the configuration", id.Rooms)
	}
	again, _ := auth.New(options).Verify(token)
	if other, _ := (auth.None{}).Verify("u1"); !again.Same(again) || again.Same(other) || other.User != "u1" || !other.Rooms.Allow("x") {
		t.Error("Same, or None")
	}
	for _, bad := range []proto.Grants{{"a*b"}, {""}, {"$user:*"}, {"a}b"}} {
		if bad.Check() == nil {
			t.Errorf("grants %q are accepted", bad)
		}
		if _, err := options.Issue("u1", time.Minute, bad, nil); err == nil {
			t.Errorf("a token with %q is issued", bad)
		}
	}
}

// critical is a token whose header has something that must be understood.
func critical(t *testing.T) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "u1", "aud": "signal", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	})
	tok.Header["crit"], tok.Header["x"] = []string{"x"}, 1
	s, err := tok.SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestIssued: where the lifetime of tokens does not matter one need not say when it was issued,
// and is in every revocation's reach then; an issuer whose clock is ahead does not escape one.
func TestIssued(t *testing.T) {
	now := time.Now()
	for name, v := range map[string]struct {
		claims jwt.MapClaims
		issued int64
	}{
		"none":  {jwt.MapClaims{}, 0},
		"past":  {jwt.MapClaims{"iat": now.Add(-time.Hour).Unix()}, now.Add(-time.Hour).Unix() * 1000},
		"ahead": {jwt.MapClaims{"iat": now.Add(20 * time.Second).Unix()}, now.UnixMilli()},
	} {
		v.claims["sub"], v.claims["exp"] = "u1", now.Add(time.Minute).Unix()
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, v.claims).SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		id, err := auth.New(auth.Options{Secret: secret}).Verify(s)
		if err != nil || id.Issued < v.issued || id.Issued > v.issued+5_000 {
			t.Errorf("%s: issued at %d, %v; want %d", name, id.Issued, err, v.issued)
		}
	}
}

// TestExchangeKeepsTheLogin: what revokes the token for which another one was given revokes that one
// too, however much later it was made.
func TestExchangeKeepsTheLogin(t *testing.T) {
	o := auth.Options{Secret: secret, Audience: "signal", MaxLifetime: 5 * time.Minute}
	login := time.Now().Add(-8 * time.Hour)
	for what, issued := range map[string]int64{"8 h ago": login.UnixMilli(), "nobody knows when": 0} {
		s, err := o.Exchange(auth.Identity{Bearer: proto.Bearer{User: "u1", Token: "t-1", Session: "s-1", Issued: issued}, Expires: time.Now().Add(2 * time.Minute).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		id, err := auth.New(o).Verify(s)
		if err != nil || id.Issued > login.UnixMilli() || id.Token != "t-1" || id.Session != "s-1" {
			t.Errorf("logged in %s: %+v, %v", what, id, err)
		}
		for _, r := range []proto.Revocation{{User: "u1", At: login.Add(time.Hour).UnixMilli()}, {Token: "t-1"}, {Session: "s-1"}} {
			if !r.Covers(id.Bearer) {
				t.Errorf("logged in %s: %+v does not cover it", what, r)
			}
		}
	}
}

// TestAskedIdentity: the moment of an asked identity is no later than the question, whatever the
// application says.
func TestAskedIdentity(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"userId":"u1","issued":%d,"expires":%d}`, time.Now().UnixMilli(), time.Now().Add(time.Hour).Unix())
	}))
	defer app.Close()
	before := time.Now().UnixMilli()
	id, err := auth.NewAsker(hook.NewAddress(app.URL, nil, hook.AskTimeout, func(string) {}), auth.Options{MaxLifetime: time.Minute}).Await(t.Context(), "token")
	if err != nil || id.Issued < before || id.Issued > time.Now().UnixMilli() || id.Expires > time.Now().Add(time.Minute).Unix() {
		t.Errorf("%+v, %v; asked at %d", id, err, before)
	}
}

// TestForgottenPermissions: what is revoked is asked for again, and an answer to a question of before
// is not kept.
func TestForgottenPermissions(t *testing.T) {
	hold, arrived := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if held.Load() {
			close(arrived)
			<-hold
		}
		_, _ = io.WriteString(w, `{"rooms":["a","b"],"publish":["a"],"expires":99999999999999}`)
	}))
	defer app.Close()
	p := auth.NewPermissions(hook.NewAddress(app.URL, nil, hook.RoomsTimeout, func(string) {}))
	id := auth.Identity{Bearer: proto.Bearer{User: "u1", Session: "s", Tenant: "t"}}
	for _, r := range []proto.Revocation{{User: "u1"}, {Session: "s"}, {Tenant: "t"}, {User: "u1", Room: "a"}} {
		if allowed, err := p.Ask(t.Context(), id, []proto.Room{"a", "b"}); err != nil || len(allowed) != 2 || !p.Join(id.Bearer, "a") || !p.Publish(id.Bearer, "a") || p.Publish(id.Bearer, "b") {
			t.Fatalf("allowed %v, %v", allowed, err)
		}
		if p.Join(proto.Bearer{User: "u1", Session: "s", Tenant: "another"}, "a") || p.Join(proto.Bearer{User: "u2", Session: "s", Tenant: "t"}, "a") {
			t.Error("somebody else has it too")
		}
		p.Forget([]proto.Revocation{{User: "u2"}, {User: "u1", Room: "c"}})
		if !p.Join(id.Bearer, "a") {
			t.Error("forgotten for another one's sake")
		}
		p.Forget([]proto.Revocation{r})
		if p.Join(id.Bearer, "a") || p.Join(id.Bearer, "b") != (r.Room != "") {
			t.Errorf("%+v: kept", r)
		}
	}
	held.Store(true)
	asked := make(chan error)
	go func() { _, err := p.Ask(t.Context(), id, []proto.Room{"a"}); asked <- err }()
	<-arrived
	p.Forget([]proto.Revocation{{User: "u1", Room: "a"}})
	close(hold)
	if err := <-asked; err == nil || p.Join(id.Bearer, "a") {
		t.Errorf("an answer to a question of before counts: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	token, _ := options.Issue("u1", time.Hour, nil, nil)
	f.Add(token)
	f.Add("a.b.c")
	v := auth.New(options)
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := v.Verify(s); err == nil && (id.User.Check() != nil || s != token) {
			t.Fatalf("accepted %q", s)
		}
	})
}

// TestOneReading: a token that two readers would read differently is refused, or read by exact keys.
func TestOneReading(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	v := auth.New(auth.Options{Secret: key, Audience: "signal"})
	sign := func(header, claims string) string {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	const header = `{"alg":"HS256","typ":"JWT"}`
	rest := fmt.Sprintf(`"aud":"signal","exp":%d`, time.Now().Add(time.Minute).Unix())
	for name, c := range map[string]struct {
		header, claims string
		user           proto.UserID // none is refused
	}{
		"plain":                   {header, `{"sub":"u1",` + rest + `}`, "u1"},
		"another key in capitals": {header, `{"sub":"u1","SUB":"admin","Rooms":["*"],` + rest + `}`, "u1"},
		"only in capitals":        {header, `{"SUB":"admin",` + rest + `}`, ""},
		"folded":                  {header, `{"sub":"u1","room\u017f":["*"],` + rest + `}`, "u1"},
		"twice":                   {header, `{"sub":"u1","sub":"admin",` + rest + `}`, ""},
		"twice, escaped":          {header, `{"sub":"u1","su\u0062":"admin",` + rest + `}`, ""},
		"not UTF-8":               {header, `{"sub":"u` + "\xff" + `",` + rest + `}`, ""},
		"half a pair":             {header, `{"sub":"u\ud800",` + rest + `}`, ""},
		"alg twice":               {`{"alg":"none","alg":"HS256"}`, `{"sub":"u1",` + rest + `}`, ""},
		"header not UTF-8":        {`{"alg":"HS256","x":"` + "\xff" + `"}`, `{"sub":"u1",` + rest + `}`, ""},
	} {
		id, err := v.Verify(sign(c.header, c.claims))
		if c.user == "" && !errors.Is(err, auth.ErrRefused) || c.user != "" && (err != nil || id.User != c.user || len(id.Rooms) > 0) {
			t.Errorf("%s: %+v, %v; want the user %q", name, id, err, c.user)
		}
	}
}

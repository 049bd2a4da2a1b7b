package signal_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
)

// TestHeaders: no answer is kept, framed or taken for a page, and pages of allowed origins alone
// read one; what another page may send is a question that changes nothing.
func TestHeaders(t *testing.T) {
	srv := redistest.Start(t)
	start := func(change func(*signal.Config)) *node {
		cfg := settings(srv.Settings())
		change(&cfg)
		return run(t, cfg)
	}
	listed := start(func(c *signal.Config) { c.AllowedOrigins = []string{"https://app.example.com"} })
	anyPage := start(func(c *signal.Config) { c.AllowedOrigins = []string{"*"} })
	own := start(func(*signal.Config) {})
	tok := token(t, "u1", proto.Grants{"orders"}, nil)
	ask := func(n *node, method, path string, header map[string]string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.addr()+path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			r.Header.Set(k, v)
		}
		said, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = said.Body.Close()
		return said
	}
	for _, path := range []string{"/livez", "/readyz", "/nothing", "/ws", "/replay/orders?fromSeq=1", "/snapshot/orders", "/realtime/bootstrap", "/realtime/token", "/api/send"} {
		r := ask(listed, http.MethodGet, path, map[string]string{"Authorization": "Bearer " + tok})
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if r.StatusCode >= 400 && path != "/ws" && r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d is %s", path, r.StatusCode, r.Header.Get("Content-Type"))
		}
	}
	for what, v := range map[string]struct {
		on          *node
		origin      string
		may, cookie bool
	}{
		"a listed page":            {listed, "https://app.example.com", true, true},
		"another page":             {listed, "https://evil.example.com", false, false},
		"nobody's page":            {listed, "null", false, false},
		"any page":                 {anyPage, "https://evil.example.com", true, false},
		"a page of the same host":  {own, "http://" + own.addr(), true, false},
		"a page of another":        {own, "https://evil.example.com", false, false},
		"with a path":              {own, "http://" + own.addr() + "/x", false, false},
		"a page of another scheme": {listed, "http://app.example.com", false, false},
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			r := ask(v.on, method, "/replay/orders?fromSeq=1", map[string]string{
				"Origin": v.origin, "Authorization": "Bearer " + tok, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization",
			})
			allowed, cookies := r.Header.Get("Access-Control-Allow-Origin"), r.Header.Get("Access-Control-Allow-Credentials") == "true"
			if (allowed == v.origin) != v.may || !v.may && allowed != "" || cookies != v.cookie {
				t.Errorf("%s, %s: Allow-Origin %q, cookies %t", what, method, allowed, cookies)
			}
			if vary := strings.Join(r.Header.Values("Vary"), ","); !strings.Contains(vary, "Origin") {
				t.Errorf("%s, %s: Vary %q: a cache would give it to others", what, method, vary)
			}
		}
	}
	if r := ask(listed, http.MethodOptions, "/api/send", map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "DELETE"}); r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a method that nothing takes is allowed")
	}
}

// TestRebinding: what needs no key is answered only under this machine's own names.
func TestRebinding(t *testing.T) {
	cfg := settings(redistest.Start(t).Settings())
	keyed := run(t, cfg)
	cfg.Auth, cfg.JWTSecret, cfg.JWTAudience, cfg.JWTMaxLifetime = "none", "", "", 0
	open := run(t, cfg)
	for _, c := range []struct {
		addr, path, host string
		refused          bool
	}{
		{keyed.AdminAddr().String(), "/metrics", "evil.example", true},
		{keyed.AdminAddr().String(), "/debug/pprof/heap", "evil.example:9090", true},
		{keyed.AdminAddr().String(), "/metrics", "localhost:1", false},
		{keyed.AdminAddr().String(), "/metrics", "127.0.0.1", false},
		{keyed.AdminAddr().String(), "/metrics", "[::1]:9090", false},
		{keyed.addr(), "/livez", "evil.example", false}, // a proxy may pass it on, and tokens are needed
		{open.addr(), "/livez", "evil.example", true},
		{open.addr(), "/ws", "evil.example", true},
		{open.addr(), "/livez", "signal.localhost", false},
	} {
		r, _ := http.NewRequest(http.MethodGet, "http://"+c.addr+c.path, nil)
		r.Host = c.host
		r.Header.Set("Origin", "http://"+c.host)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if got := answer.StatusCode == http.StatusMisdirectedRequest; got != c.refused {
			t.Errorf("%s as %s: %s, want refused %t", c.path, c.host, answer.Status, c.refused)
		}
	}
}

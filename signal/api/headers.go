package api

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/cors"

	"github.com/signal-team/signal/proto"
)

// harden says of every answer that it is data and for whoever asked: no browser is to keep it,
// take it for a page, frame it or hand it to another site.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// local answers only who calls this machine by its own name, if it is for this machine alone: the page of another
// site, whose name suddenly leads here (DNS rebinding), says its own.
func local(only bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		if !only {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u := url.URL{Host: r.Host}
			host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
			if ip, err := netip.ParseAddr(host); host != "" && host != "localhost" && !strings.HasSuffix(host, ".localhost") && (err != nil || !ip.IsLoopback()) {
				problem(w, http.StatusMisdirectedRequest, proto.CodeForbidden, "this address is for its own machine: call it localhost")
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// cors lets pages of the allowed origins read answers, and nobody's page anything else. Cookies
// come along for those alone that are allowed by name.
func (o Options) cors() func(http.Handler) http.Handler {
	rules := func(credentials bool, allow func(r *http.Request, origin string) bool) func(http.Handler) http.Handler {
		return cors.Handler(cors.Options{
			AllowOriginFunc: allow, AllowCredentials: credentials,
			AllowedMethods: []string{http.MethodGet, http.MethodPost}, AllowedHeaders: []string{"Authorization", "Content-Type"},
			ExposedHeaders: []string{"Retry-After"}, MaxAge: int(10 * time.Minute / time.Second),
		})
	}
	named := rules(true, func(_ *http.Request, origin string) bool { return o.Origins.Names(origin) })
	others := rules(false, func(r *http.Request, origin string) bool { return o.Origins.Allow(origin, r.Host) })
	return func(next http.Handler) http.Handler {
		a, b := named(next), others(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/ws": // judges origins itself
				next.ServeHTTP(w, r)
			case o.Origins.Names(r.Header.Get("Origin")):
				a.ServeHTTP(w, r)
			default:
				b.ServeHTTP(w, r)
			}
		})
	}
}

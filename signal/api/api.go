// Package api speaks HTTP with services and operators. Errors are problem documents
// (RFC 9457) whose code is one of the table in proto.
package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// A Sender sends an event, and knows whether a client took it.
type Sender interface {
	Send(ctx context.Context, to proto.Target, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error)
}

// A Revoker takes back what tokens allow.
type Revoker interface {
	Revoke(context.Context, proto.Revocation) error
}

// Options of the endpoints.
type Options struct {
	WebSocket   http.Handler // GET /ws
	Sender      Sender
	Historian   Historian
	Verifier    Verifier          // of those who ask for history, or how to begin
	Permissions *auth.Permissions // the same
	Revoked     *auth.Revoked     // the same
	Revoker     Revoker
	Refused     func(error)              // gets why a token was refused
	Admits      func(*http.Request) bool // a request that is to be asked about is within the rate of its address
	Budget      Budget
	Trusted     func() bool // nobody is revoked without this node knowing of it
	Exchange    Exchange
	Tickets     TicketKeeper
	Facts       Facts
	Origins     auth.Origins   // of pages that may read answers
	Key         emitter.Secret // of POST /api/…; empty closes them
	Local       bool           // the public address answers to this machine's own name alone
	AdminLocal  bool           // the admin address does
	Ready       func() error   // why new clients should go elsewhere, or nil
	Gatherer    prometheus.Gatherer
}

// Public is what clients and services reach.
func Public(o Options) http.Handler {
	r := chi.NewRouter()
	r.Use(bounded, harden, local(o.Local), o.cors())
	r.Handle("/ws", o.WebSocket)
	service := r.With(key(o.Key), affords())
	service.Post("/api/send", send(o.Sender))
	service.Post("/api/revoke", revoke(o.Revoker))
	history(r, o)
	realtime(r, o)
	problems(r)
	health(r, func() error { // why is for the operator
		if o.Ready() != nil {
			return errors.New("new clients should go to another node")
		}
		return nil
	})
	return r
}

// Admin is what operators reach: on a private address, without a key.
func Admin(o Options) http.Handler {
	r := chi.NewRouter()
	r.Use(bounded, harden, local(o.AdminLocal))
	health(r, o.Ready)
	r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{}))
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	problems(r)
	return r
}

// health answers whether the process lives, and whether it wants new clients. The
// load balancer asks on the public address too.
func health(r chi.Router, ready func() error) {
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	r.Get("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, err.Error())
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
}

func problems(r chi.Router) {
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusNotFound, proto.CodeNotFound, "there is nothing at this path")
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, q *http.Request) {
		for _, method := range [...]string{http.MethodGet, http.MethodPost} {
			if r.Match(chi.NewRouteContext(), method, q.URL.Path) {
				w.Header().Add("Allow", method)
			}
		}
		problem(w, http.StatusMethodNotAllowed, proto.CodeBadRequest, "this path does not take this method")
	})
}

// key lets in who has the API key.
func key(want emitter.Secret) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			given, isBearer := bearer(r)
			a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
			switch {
			case want == "":
				problem(w, http.StatusForbidden, proto.CodeForbidden, "this endpoint is closed: APP_ENV_SIGNAL_API_KEY is not set")
			case !isBearer:
				w.Header().Set("WWW-Authenticate", "Bearer")
				problem(w, http.StatusUnauthorized, proto.CodeUnauthenticated, "the API key belongs into Authorization: Bearer")
			case subtle.ConstantTimeCompare(a[:], b[:]) != 1:
				w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
				problem(w, http.StatusUnauthorized, proto.CodeAuthFailed, "wrong API key")
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// A request is the body of POST /api/send.
type request struct {
	To      to               `json:"to"`
	Event   proto.EventName  `json:"event"`
	Data    json.RawMessage  `json:"data"`
	EventID proto.EventID    `json:"eventId"`
	Except  []proto.ClientID `json:"except"`
	Live    bool             `json:"live"`
}

type to struct {
	Client proto.ClientID `json:"client"`
	User   proto.UserID   `json:"user"`
	Room   proto.Room     `json:"room"`
	All    bool           `json:"all"`
}

// target is the one that is given.
func (t to) target() (target proto.Target, err error) {
	n := 0
	one := func(given bool, is proto.Target) {
		if given {
			target = is
			n++
		}
	}
	one(t.Client != "", proto.ToClient(t.Client))
	one(t.User != "", proto.ToUser(t.User))
	one(t.Room != "", proto.ToRoom(t.Room))
	one(t.All, proto.ToEveryone())
	if n != 1 {
		err = errors.New(`to must have exactly one of "client", "user", "room" and "all": true`)
	}
	return target, err
}

// read reads a body of at most so many bytes, or answers what is wrong with it.
func read(w http.ResponseWriter, r *http.Request, most int64, into any) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	switch {
	case err == nil && len(b) == 0:
		err = errors.New("it is empty")
	case err == nil:
		err = proto.DecodeKnown(b, into)
	}
	if _, big := errors.AsType[*http.MaxBytesError](err); big {
		problem(w, http.StatusRequestEntityTooLarge, proto.CodeTooLarge, fmt.Sprintf("at most %d bytes are allowed", most))
	} else if err != nil {
		problem(w, http.StatusBadRequest, proto.CodeBadRequest, "body: "+err.Error())
	}
	return err == nil
}

func send(s Sender) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q request
		if !read(w, r, emitter.MaxEvent, &q) {
			return
		}
		target, err := q.To.target()
		if err != nil {
			problem(w, http.StatusBadRequest, proto.CodeBadRequest, "body: "+err.Error())
			return
		}
		opts := []emitter.Option{emitter.Except(q.Except...)}
		if q.EventID != "" {
			opts = append(opts, emitter.EventID(q.EventID))
		}
		if q.Live {
			opts = append(opts, emitter.Live())
		}
		receipt, err := s.Send(r.Context(), target, q.Event, q.Data, opts...)
		switch {
		case err == nil:
			write(w, http.StatusOK, "application/json", receipt)
		case errors.Is(err, emitter.ErrEventIDReused):
			problem(w, http.StatusConflict, proto.CodeReused, "the room had another event under this id within the last two minutes")
		case errors.Is(err, emitter.ErrTooLarge):
			problem(w, http.StatusRequestEntityTooLarge, proto.CodeTooLarge, err.Error())
		case errors.Is(err, emitter.ErrInvalid):
			problem(w, http.StatusBadRequest, proto.CodeBadRequest, err.Error())
		case errors.Is(err, emitter.ErrNoReceiver):
			problem(w, http.StatusNotFound, proto.CodeNoReceiver, "the client is not connected")
		default:
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, unavailable(target))
		}
	}
}

// revoke answers 204 when the revocation is written down: all nodes know of it within two seconds at most.
func revoke(e Revoker) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			User    proto.UserID `json:"user"`
			Session string       `json:"session"`
			Token   string       `json:"token"`
			Tenant  string       `json:"tenant"`
			Room    proto.Room   `json:"room"`
			Reason  string       `json:"reason"`
		}
		if !read(w, r, emitter.MaxEvent, &q) {
			return
		}
		err := e.Revoke(r.Context(), proto.Revocation{User: q.User, Session: q.Session, Token: q.Token, Tenant: q.Tenant, Room: q.Room, Reason: q.Reason})
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		case errors.Is(err, emitter.ErrInvalid):
			problem(w, http.StatusBadRequest, proto.CodeBadRequest, err.Error())
		default:
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, "Redis does not take the revocation")
		}
	}
}

// unavailable says what may be wrong; the log and /readyz know more.
func unavailable(to proto.Target) string {
	if to.Kind() == proto.KindClient {
		return "Redis does not take the event, or the node of the client does not answer"
	}
	return "Redis does not take the event"
}

// problem answers with an RFC 9457 document.
func problem(w http.ResponseWriter, status int, code proto.ErrorCode, detail string) {
	write(w, status, "application/problem+json", map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "code": code, "detail": detail,
	})
}

func write(w http.ResponseWriter, status int, kind string, v any) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // no browser reads these types as a page
	_ = e.Encode(v)
}

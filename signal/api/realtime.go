package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// An Exchange gives who is logged in to the application a short-lived token for this node.
type Exchange struct {
	Access Verifier // of the application's access tokens; nil closes the endpoint
	Cookie string   // that may carry one; empty: none does
	Issue  auth.Options
	Life   time.Duration // of the token, at most; never longer than the access token's
}

// A TicketKeeper keeps a token until somebody comes with its ticket.
type TicketKeeper interface {
	KeepTicket(ctx context.Context, id proto.TicketID, token emitter.Secret, lasts time.Duration) error
}

// ticketLife is how long a ticket is good: for one connect.
const ticketLife = 30 * time.Second

// A Locator knows where rooms are.
type Locator interface {
	Read(ctx context.Context, reads []emitter.Read) []emitter.Page
}

// Facts are what a page is told before it connects.
type Facts struct {
	Addresses    []string // of GET /ws; none: where the page asked
	DefaultRooms []proto.Room
	Rooms        int // a connection may join, and name in one frame; 0 is no limit, here and below
	FrameBytes   int
	Frames       float64 // a second; and so on
	Joins        float64
	Publishes    float64
	Heartbeat    time.Duration
	AuthTimeout  time.Duration
}

func realtime(r chi.Router, o Options) {
	r.Post("/realtime/token", o.admitted(o.exchange))
	r.Get("/realtime/bootstrap", o.admitted(o.bootstrap))
}

// tokenBody is the longest body of POST /realtime/token.
const tokenBody = 1 << 10

// judgeTime bounds how long a token may take to be judged.
const judgeTime = 4 * time.Second

// bearer is the token in Authorization.
func bearer(r *http.Request) (token string, given bool) {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	return token, found && strings.EqualFold(scheme, "Bearer") // RFC 9110, section 11.1
}

// identify says who the bearer of a token is, or answers that.
func (o Options) identify(w http.ResponseWriter, r *http.Request, v Verifier, token string) (who auth.Identity, ok bool) {
	if !o.Trusted() {
		unanswered(w)
		return who, false
	}
	who, err := v.Verify(token)
	if errors.Is(err, auth.ErrLater) {
		if !o.Admits(r) {
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusTooManyRequests, proto.CodeRateLimited, "too many: handshakes")
			return who, false
		}
		ctx, cancel := context.WithTimeout(r.Context(), judgeTime)
		defer cancel()
		who, err = v.Await(ctx, token)
	}
	if err == nil {
		if _, revoked := o.Revoked.Judge(who.Bearer); !revoked {
			return who, true
		}
		err = fmt.Errorf("%w: it is revoked", auth.ErrRefused)
	}
	o.Refused(err)
	if !errors.Is(err, auth.ErrRefused) {
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, proto.CodeAuthError, "the token could not be judged")
		return who, false
	}
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	problem(w, http.StatusUnauthorized, proto.CodeAuthFailed, err.Error())
	return who, false
}

// client says which client asks, or answers that it is none.
func (o Options) client(w http.ResponseWriter, r *http.Request) (who auth.Identity, ok bool) {
	token, given := bearer(r)
	if !given {
		noBearer(w)
		return who, false
	}
	return o.identify(w, r, o.Verifier, token)
}

func noBearer(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	problem(w, http.StatusUnauthorized, proto.CodeUnauthenticated, "the token belongs into Authorization: Bearer")
}

// exchange answers an access token with a token for this node, or with a ticket for one. A
// browser sends a cookie whoever's page asks, so a cookie counts only from a page whose origin
// is allowed by name.
func (o Options) exchange(w http.ResponseWriter, r *http.Request) {
	x := o.Exchange
	if x.Access == nil {
		problem(w, http.StatusForbidden, proto.CodeForbidden, "this endpoint is closed: no APP_ENV_SIGNAL_ACCESS_… is set")
		return
	}
	access, given := bearer(r)
	if c, err := r.Cookie(x.Cookie); !given && err == nil && x.Cookie != "" {
		origin := r.Header.Values("Origin")
		if len(origin) != 1 || !o.Origins.Names(origin[0]) && (len(o.Origins) > 0 || !o.Origins.Allow(origin[0], r.Host)) {
			problem(w, http.StatusForbidden, proto.CodeForbidden, "a cookie is good from a page of APP_ENV_SIGNAL_ALLOWED_ORIGINS alone")
			return
		}
		access, given = c.Value, true
	}
	if !given {
		noBearer(w)
		return
	}
	var q struct {
		Ticket bool `json:"ticket"`
	}
	if r.ContentLength != 0 && !read(w, r, tokenBody, &q) {
		return
	}
	who, ok := o.identify(w, r, x.Access, access)
	if !ok {
		return
	}
	done, ok := o.enter(w, who.User, false)
	if !ok {
		return
	}
	defer done()
	if latest := time.Now().Add(x.Life).Unix(); who.Expires == 0 || who.Expires > latest {
		who.Expires = latest
	}
	token, err := x.Issue.Exchange(who)
	if err != nil {
		problem(w, http.StatusInternalServerError, proto.CodeUnavailable, "the token cannot be made")
		return
	}
	said := struct {
		Token   string         `json:"token,omitempty"`
		Ticket  proto.TicketID `json:"ticket,omitempty"`
		Expires int64          `json:"expires"`
	}{Token: token, Expires: who.Expires}
	if q.Ticket {
		said.Token, said.Ticket = "", proto.NewTicketID()
		said.Expires = min(said.Expires, time.Now().Add(ticketLife).Unix())
		if err := o.Tickets.KeepTicket(r.Context(), said.Ticket, emitter.Secret(token), ticketLife); err != nil {
			unanswered(w)
			return
		}
	}
	write(w, http.StatusOK, "application/json", said)
}

// bootstrap tells a page with a token of this node what it needs to begin: where to connect, in
// which rooms it may be, where those that it names with ?room= are now, and what it may ask for.
func (o Options) bootstrap(w http.ResponseWriter, r *http.Request) {
	who, ok := o.client(w, r)
	if !ok {
		return
	}
	done, ok := o.enter(w, who.User, false)
	if !ok {
		return
	}
	defer done()
	rooms := slices.Concat([]proto.Room{proto.Broadcasts}, o.Facts.DefaultRooms)
	if who.User != "" {
		rooms = append(rooms, proto.UserRoom(who.User))
	}
	var named []proto.Room
	if most := o.Facts.Rooms; most > 0 && len(r.URL.Query()["room"]) > most {
		problem(w, http.StatusBadRequest, proto.CodeTooManyRooms, "more rooms than a connection may join")
		return
	}
	for _, name := range r.URL.Query()["room"] {
		room := proto.Room(name)
		if err, bad := errors.AsType[*proto.NameError](room.Check()); bad {
			problem(w, http.StatusBadRequest, err.Code, err.Error())
			return
		}
		named = append(named, room)
	}
	if !o.allowed(w, r, who, named...) {
		return
	}
	rooms = append(rooms, named...)
	if most := o.Facts.Rooms; most > 0 && len(rooms) > most {
		problem(w, http.StatusBadRequest, proto.CodeTooManyRooms, "more rooms than a connection may join")
		return
	}
	rooms = slices.DeleteFunc(rooms, func(r proto.Room) bool { return o.Revoked.Room(who.Bearer, r) })
	reads := make([]emitter.Read, len(rooms))
	for i, room := range rooms {
		reads[i] = emitter.Read{Room: room, Look: true}
	}
	positions := map[proto.Room]*proto.Position{}
	for i, p := range o.Historian.Read(r.Context(), reads) {
		if p.Err != nil {
			unanswered(w)
			return
		}
		if positions[rooms[i].Public()] = nil; p.Found != proto.None {
			positions[rooms[i].Public()] = &p.Top
		}
	}
	f := o.Facts
	write(w, http.StatusOK, "application/json", map[string]any{
		"addresses": o.addresses(r), "userId": who.User, "expires": who.Expires,
		"rooms": orNone(who.Rooms), "publish": orNone(who.Publish), "defaultRooms": f.DefaultRooms, "positions": positions,
		"heartbeat": f.Heartbeat.Milliseconds(), "authTimeout": f.AuthTimeout.Milliseconds(),
		"limits": map[string]any{
			"rooms": f.Rooms, "frameBytes": f.FrameBytes, "framesPerSecond": f.Frames, "joinsPerSecond": f.Joins, "publishesPerSecond": f.Publishes,
		},
	})
}

func orNone(g proto.Grants) proto.Grants {
	if g == nil {
		return proto.Grants{}
	}
	return g
}

// addresses are where the page connects to: unless it is configured, where it asked, which is by
// TLS unless nothing says so.
func (o Options) addresses(r *http.Request) []string {
	if len(o.Facts.Addresses) > 0 {
		return o.Facts.Addresses
	}
	scheme := "ws"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" || r.Header.Get("X-Forwarded-Proto") == "wss" {
		scheme = "wss"
	}
	return []string{scheme + "://" + r.Host + "/ws"}
}

// allowed says whether a client may be in all of the rooms, perhaps after the application has been
// asked, or answers that it may not.
func (o Options) allowed(w http.ResponseWriter, r *http.Request, who auth.Identity, rooms ...proto.Room) bool {
	unknown := slices.DeleteFunc(slices.Clone(rooms), func(room proto.Room) bool { return o.mayJoin(who, room) || o.Revoked.Room(who.Bearer, room) })
	if len(unknown) > 0 && o.Permissions != nil && who.User != "" {
		if _, err := o.Permissions.Ask(r.Context(), who, unknown); err != nil {
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, "the application does not say whether this is allowed")
			return false
		}
	}
	for _, room := range rooms {
		if !o.mayJoin(who, room) {
			problem(w, http.StatusForbidden, proto.CodeForbidden, "not allowed: the room "+string(room))
			return false
		}
	}
	return true
}

// mayJoin says whether it is known that a client may be in a room.
func (o Options) mayJoin(who auth.Identity, room proto.Room) bool {
	return (slices.Contains(o.Facts.DefaultRooms, room) || who.Rooms.Allow(room) || o.Permissions.Join(who.Bearer, room)) && !o.Revoked.Room(who.Bearer, room)
}

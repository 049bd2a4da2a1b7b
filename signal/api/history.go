package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// A Historian knows what is kept of a room.
type Historian interface {
	Locator
	Snapshot(ctx context.Context, room proto.Room) (emitter.Snapshot, proto.Page, error)
}

// A Verifier says who the bearer of a token is.
type Verifier interface {
	Verify(token string) (auth.Identity, error)
	Await(ctx context.Context, token string) (auth.Identity, error) // when that says auth.ErrLater
}

// history is for clients' pages: what was missed, and the present state.
func history(r chi.Router, o Options) {
	r.Get("/replay/*", o.admitted(o.inRoom("/replay/", replay(o.Historian, o.Budget))))
	r.Get("/snapshot/*", o.admitted(o.inRoom("/snapshot/", snapshot(o.Historian))))
}

// A roomHandler answers for a room that the client may join.
type roomHandler func(w http.ResponseWriter, r *http.Request, who auth.Identity, room proto.Room)

// inRoom lets in who has a token that allows the room, or one of the default rooms. The
// room is the rest of the path, and may have slashes.
func (o Options) inRoom(prefix string, next roomHandler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, ok := o.client(w, r)
		if !ok {
			return
		}
		done, ok := o.enter(w, who.User, prefix == "/replay/")
		if !ok {
			return
		}
		defer done()
		room := proto.Room(strings.TrimPrefix(r.URL.Path, prefix))
		switch {
		case room == proto.Broadcasts:
		case room == proto.OwnUser && who.User != "":
			room = proto.UserRoom(who.User)
		default:
			if err, ok := errors.AsType[*proto.NameError](room.Check()); ok {
				problem(w, http.StatusBadRequest, err.Code, err.Error())
				return
			}
			if !o.allowed(w, r, who, room) {
				return
			}
		}
		next(w, r, who, room)
	}
}

// replay answers with the events after ?since=<position>, or from ?fromSeq=<number> on, as
// the frames that clients get. What is not kept any more is 410, with the reason.
//
// It reads and writes one page after the other, as fast as the client takes them: a history of any
// length costs the node a page. The answer ends at its position, which is where the room is unless
// the user has had as much as it may, or a minute has passed: then the client asks again from there.
func replay(h Historian, b Budget) roomHandler {
	return func(w http.ResponseWriter, r *http.Request, who auth.Identity, room proto.Room) {
		q := r.URL.Query()
		since, err := proto.ParsePosition(q.Get("since"))
		from, ferr := strconv.ParseUint(q.Get("fromSeq"), 10, 53)
		switch {
		case q.Has("since") == q.Has("fromSeq"):
			problem(w, http.StatusBadRequest, proto.CodeBadRequest, "exactly one of since and fromSeq must be given")
			return
		case q.Has("since") && err != nil:
			problem(w, http.StatusBadRequest, proto.CodeBadPosition, "since: "+err.Error())
			return
		case q.Has("fromSeq") && (ferr != nil || from == 0):
			problem(w, http.StatusBadRequest, proto.CodeBadRequest, "fromSeq must be a number from 1 on")
			return
		}
		if b.Replayed(who.User, 0) > 0 {
			tooMany(w, http.StatusTooManyRequests, "replay_bytes")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		next := emitter.Read{Room: room, Since: since.String(), From: from, Look: true, All: true}
		page := h.Read(ctx, []emitter.Read{next})[0]
		switch {
		case page.Err != nil:
			unanswered(w)
			return
		case page.Found == proto.None:
			problem(w, http.StatusNotFound, proto.CodeNotFound, "nobody has sent to this room, or not for a day")
			return
		case page.Found != proto.OK:
			gone(w, page.Found, page.Top)
			return
		}
		name, _ := json.Marshal(room.Public())
		w.Header().Set("Content-Type", "application/json")
		out := append(append(append(make([]byte, 0, 4<<10), `{"room":`...), name...), `,"events":[`...)
		at, first := page.Top, true // unless there are events
		for page.Err == nil && page.Found == proto.OK && len(page.Events) > 0 {
			for _, m := range page.Events {
				if m.Room = room; !first {
					out = append(out, ',')
				}
				out, at, first = proto.AppendEvent(out, m.Event), m.Position, false
			}
			if _, err := w.Write(out); err != nil {
				return // it has gone, or takes too little
			}
			wait := b.Replayed(who.User, len(out))
			if out = out[:0]; at == page.Top || wait > 0 {
				break // or it has had as much as it may: it asks again from here
			}
			page = h.Read(ctx, []emitter.Read{{Room: room, Since: at.String(), Look: true, All: true}})[0]
		}
		out = append(append(append(out, `],"position":"`...), at.String()...), "\"}\n"...)
		_, _ = w.Write(out)
	}
}

// snapshot answers with the state that a service has set, and the position to join from.
func snapshot(h Historian) roomHandler {
	return func(w http.ResponseWriter, r *http.Request, _ auth.Identity, room proto.Room) {
		s, now, err := h.Snapshot(r.Context(), room)
		switch {
		case errors.Is(err, emitter.ErrNoSnapshot):
			problem(w, http.StatusNotFound, proto.CodeNotFound, "no service has set a snapshot of this room")
		case err != nil:
			unanswered(w)
		case now.Found == proto.None: // it begins anew with the next event, or with who joins it
			gone(w, proto.Epoch, now.Top)
		case now.Found != proto.OK:
			gone(w, now.Found, now.Top)
		default:
			write(w, http.StatusOK, "application/json", struct {
				Room proto.Room `json:"room"`
				emitter.Snapshot
			}{room.Public(), s})
		}
	}
}

// gone says that nobody can go on from a position, and where the room is.
func gone(w http.ResponseWriter, why proto.Found, top proto.Position) {
	reason := map[proto.Found]string{
		proto.Epoch:   "the room has begun anew since",
		proto.Rewound: "that is ahead of the room: nobody has sent so much, or Redis lost its last events",
		proto.Forked:  "the position is on a branch that Redis lost",
		proto.Behind:  "more has happened since than is worth a replay",
		proto.Trimmed: "what has happened since is not kept any more",
	}[why]
	document := map[string]any{
		"type": "about:blank", "title": http.StatusText(http.StatusGone), "status": http.StatusGone,
		"code": proto.CodeGone, "detail": reason, "reason": why,
	}
	if !top.IsZero() {
		document["position"] = top
	}
	write(w, http.StatusGone, "application/problem+json", document)
}

func unanswered(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, "Redis does not answer")
}

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
	Kept(ctx context.Context, room proto.Room) ([]proto.Message, proto.Position, error)
	Snapshot(ctx context.Context, room proto.Room) (emitter.Snapshot, proto.Page, error)
}

// A Verifier says who the bearer of a token is.
type Verifier interface {
	Verify(token string) (auth.Identity, error)
	Await(ctx context.Context, token string) (auth.Identity, error) // when that says auth.ErrLater
}

// history is for clients' pages: what was missed, and the present state.
func history(r chi.Router, o Options) {
	r.Get("/replay/*", o.inRoom("/replay/", replay(o.Historian)))
	r.Get("/snapshot/*", o.inRoom("/snapshot/", snapshot(o.Historian)))
}

// A roomHandler answers for a room that the client may join.
type roomHandler func(w http.ResponseWriter, r *http.Request, room proto.Room)

// inRoom lets in who has a token that allows the room, or one of the default rooms. The
// room is the rest of the path, and may have slashes.
func (o Options) inRoom(prefix string, next roomHandler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, ok := o.client(w, r)
		if !ok {
			return
		}
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
		next(w, r, room)
	}
}

// replay answers with the events after ?since=<position>, or from ?fromSeq=<number> on, as
// the frames that clients get. What is not kept any more is 410, with the reason.
func replay(h Historian) roomHandler {
	return func(w http.ResponseWriter, r *http.Request, room proto.Room) {
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
		events, top, err := h.Kept(r.Context(), room)
		if err != nil {
			unanswered(w)
			return
		}
		if top.IsZero() {
			problem(w, http.StatusNotFound, proto.CodeNotFound, "nobody has sent to this room, or not for a day")
			return
		}
		if q.Has("since") {
			from = since.Sequence + 1
		}
		var found proto.Found
		events, found = after(events, top, since, from)
		if found != proto.OK {
			gone(w, found, top)
			return
		}
		frames := make([]json.RawMessage, len(events))
		for i, m := range events {
			frames[i] = proto.AppendEvent(nil, m.Event)
		}
		write(w, http.StatusOK, "application/json", map[string]any{"room": room.Public(), "position": top, "events": frames})
	}
}

// after are the events from a number on. If since is a position, they must follow it.
func after(events []proto.Message, top, since proto.Position, from uint64) ([]proto.Message, proto.Found) {
	switch {
	case !since.IsZero() && since.Epoch != top.Epoch:
		return nil, proto.Epoch
	case from > top.Sequence+1:
		return nil, proto.Rewound
	case from == top.Sequence+1 && (since.IsZero() || since == top):
		return nil, proto.OK
	case from == top.Sequence+1:
		return nil, proto.Forked
	case len(events) == 0 || from < events[0].Position.Sequence:
		return nil, proto.Trimmed
	}
	events = events[from-events[0].Position.Sequence:]
	if !since.IsZero() && !events[0].Follows(since) {
		return nil, proto.Forked
	}
	return events, proto.OK
}

// snapshot answers with the state that a service has set, and the position to join from.
func snapshot(h Historian) roomHandler {
	return func(w http.ResponseWriter, r *http.Request, room proto.Room) {
		s, now, err := h.Snapshot(r.Context(), room)
		switch {
		case errors.Is(err, emitter.ErrNoSnapshot):
			problem(w, http.StatusNotFound, proto.CodeNotFound, "no service has set a snapshot of this room")
		case err != nil:
			unanswered(w)
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
	write(w, http.StatusGone, "application/problem+json", map[string]any{
		"type": "about:blank", "title": http.StatusText(http.StatusGone), "status": http.StatusGone,
		"code": proto.CodeGone, "detail": reason, "reason": why, "position": top,
	})
}

func unanswered(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	problem(w, http.StatusServiceUnavailable, proto.CodeUnavailable, "Redis does not answer")
}

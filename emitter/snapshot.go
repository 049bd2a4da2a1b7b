package emitter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// A Snapshot is the state of a room as a service wrote it down, and where the room was
// then: who takes both and joins from the position misses nothing.
type Snapshot struct {
	Position proto.Position  `json:"position"`
	Time     int64           `json:"time"` // milliseconds since 1970 at the service
	Data     json.RawMessage `json:"data"`
}

// ErrNoSnapshot means that nobody has set one for the room, or that a day has passed since.
var ErrNoSnapshot = errors.New("emitter: the room has no snapshot")

// SetSnapshot keeps the present state of a room, for clients that load it with
// GET /snapshot/{room}, for a day. at must have been taken, with Position, before the data
// was read, or events between the two are missing in both. A position that is not on the
// room's chain is ErrInvalid, and one that is too old for what is kept of the room too:
// read again, and set it again.
func (e *Emitter) SetSnapshot(ctx context.Context, room proto.Room, data any, at proto.Position) error {
	fail := func(err error) error { return fmt.Errorf("emitter: snapshot of room %q: %w", room, err) }
	raw, err := encode(data)
	if err := errors.Join(room.Check(), err); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	if len(raw) > MaxEvent {
		return fail(fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(raw), MaxEvent))
	}
	if at.IsZero() {
		return fail(fmt.Errorf("%w: it has no position", ErrInvalid))
	}
	if err := e.agree(ctx); err != nil {
		return fail(err)
	}
	p := e.Read(ctx, []Read{{Room: room, Since: at.String(), Look: true}})[0]
	switch {
	case p.Err != nil:
		return fail(p.Err)
	case p.Found != proto.OK:
		return fail(fmt.Errorf("%w: position %s: %s", ErrInvalid, at, p.Found))
	}
	b, err := json.Marshal(Snapshot{at, time.Now().UnixMilli(), raw})
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	b = e.sign(room, "snapshot", b)
	if err := e.settle(ctx, room, e.layout.Snapshot(room), func(server redis.UniversalClient) error {
		return server.Set(ctx, e.layout.Snapshot(room), b, positionAge).Err()
	}); err != nil {
		return fail(err)
	}
	return nil
}

// Snapshot is the last one that was set, for nodes. The page says whether clients can join
// from its position, and where the room is.
func (e *Emitter) Snapshot(ctx context.Context, room proto.Room) (s Snapshot, now proto.Page, err error) {
	fail := func(err error) (Snapshot, proto.Page, error) {
		return Snapshot{}, now, fmt.Errorf("emitter: snapshot of room %q: %w", room, err)
	}
	b, err := e.rdb.Get(ctx, e.layout.Snapshot(room)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return fail(ErrNoSnapshot)
	case err != nil:
		return fail(Classify(err))
	}
	if err := errors.Join(e.check(room, "snapshot", b), json.Unmarshal(b, &s)); err != nil || s.Position.IsZero() {
		return fail(ErrNoSnapshot) // not one of ours
	}
	p := e.Read(ctx, []Read{{Room: room, Since: s.Position.String(), Look: true}})[0]
	if p.Err != nil {
		return fail(p.Err)
	}
	return s, p.Page, nil
}

package emitter

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

//go:embed read.lua
var readSource string

var readScript = redis.NewScript(readSource)

// A Read asks what follows a position of a room.
type Read struct {
	Room  proto.Room
	Since string // "" asks for the room's position alone, and makes one for a room without
	From  uint64 // instead of Since: the number of the first event that is wanted, in whatever incarnation
	Look  bool   // writes nothing: a room without a position is proto.None
	All   bool   // all that is kept, not only what is worth a replay to a client that comes back
}

// A Page is the answer to a Read.
type Page struct {
	proto.Page
	Err error // Redis did not answer; the rest is empty
}

// The most that is replayed, and that stands in one page.
const (
	MostReplayed = 256
	pageEvents   = 16
	PageBytes    = 128 << 10 // but one event at least
	emptyAge     = 3600      // seconds that a room without an event keeps its incarnation
)

// Read reads what follows positions, for nodes, in one round trip.
func (e *Emitter) Read(ctx context.Context, reads []Read) []Page {
	pages := make([]Page, len(reads))
	answers := make([]*redis.Cmd, len(reads))
	_, perr := e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, r := range reads {
			c := e.reading(r)
			answers[i] = readScript.EvalSha(ctx, p, c.keys, c.args...)
		}
		return nil
	})
	for i, a := range answers {
		said, aerr := answer(a, perr)
		if redis.HasErrorPrefix(aerr, "NOSCRIPT") { // somebody has made Redis forget
			c := e.reading(reads[i])
			said, aerr = readScript.Eval(ctx, e.rdb, c.keys, c.args...).Result()
		}
		if aerr != nil {
			pages[i].Err = e.doubt(aerr)
			continue
		}
		pages[i] = e.page(reads[i], said)
	}
	return pages
}

func (e *Emitter) reading(r Read) call {
	most := min(max(e.at.History(r.Room).Events, 1), MostReplayed)
	if r.All {
		most = 2 * MaxHistoryEvents
	}
	since, epoch := r.Since, proto.NewEpoch()
	if r.From > 0 {
		since = strconv.FormatUint(r.From-1, 10)
	}
	if r.Look {
		epoch = ""
	}
	return call{
		[]string{e.layout.Position(r.Room), e.layout.Log(r.Room)},
		[]any{since, most, pageEvents, PageBytes, epoch, emptyAge},
	}
}

// page reads the answer of the script, and trusts it in nothing that the node's order
// rests on: every event must follow the one before it.
func (e *Emitter) page(r Read, answer any) Page {
	bad := func(format string, a ...any) Page {
		return Page{Err: fmt.Errorf("%w: room %q: %w", ErrRefused, r.Room, fmt.Errorf(format, a...))}
	}
	said, ok := answer.([]any)
	if !ok || len(said) != 3 {
		return bad("unexpected answer of the script")
	}
	found, _ := said[0].(string)
	top, _ := said[1].(string)
	lines, _ := said[2].([]any)
	var p Page
	if p.Found = proto.Found(found); p.Found == proto.None {
		return p
	}
	var err error
	if p.Top, err = proto.ParsePosition(top); err != nil {
		return bad("%w", err)
	}
	if p.Found != proto.OK {
		return p
	}
	var at proto.Position // zero before the first event of one that is asked for by its number
	if r.From == 0 {
		if at, err = proto.ParsePosition(r.Since); err != nil {
			return bad("%w", err)
		}
	}
	for _, line := range lines {
		s, _ := line.(string)
		b := []byte(s)
		m, err := proto.DecodeMessage(b)
		if err == nil {
			err = e.signer.Check(r.Room, m.EventID, b)
		}
		if at.IsZero() && m.Position.Epoch == p.Top.Epoch && m.Position.Sequence == r.From {
			at = m.Before()
		}
		if err != nil || !m.Follows(at) {
			return Page{Page: proto.Page{Found: proto.Trimmed, Top: p.Top}} // somebody else writes to the log
		}
		p.Events, at = append(p.Events, m), m.Position
	}
	if len(lines) == 0 && r.From == p.Top.Sequence+1 {
		return p
	}
	if at.Sequence >= p.Top.Sequence && at != p.Top || len(lines) == 0 && at != p.Top {
		return Page{Page: proto.Page{Found: proto.Trimmed, Top: p.Top}}
	}
	return p
}

// Positions tells, for nodes, where rooms are, in one round trip. Each answer is judged alone: is gets
// the zero position of a room that Redis knows nothing of, and why one cannot be told. What is
// ErrUnavailable, of any room, is returned too.
func (e *Emitter) Positions(ctx context.Context, rooms []proto.Room, is func(r proto.Room, at proto.Position, err error)) (unavailable error) {
	answers := make([]*redis.SliceCmd, len(rooms))
	_, perr := e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, r := range rooms {
			answers[i] = p.MGet(ctx, e.layout.Position(r)) // unlike GET it knows no key of another type
		}
		return nil
	})
	for i, a := range answers {
		said, err := a.Result()
		if err == nil && len(said) != 1 { // not asked: see answer
			err = cmp.Or(perr, fmt.Errorf("%w: it answered %v to MGET", ErrRefused, said))
		}
		if err = e.doubt(err); errors.Is(err, ErrUnavailable) {
			unavailable = err
		}
		var at proto.Position
		if err == nil {
			s, _ := said[0].(string)
			at, _ = proto.ParsePosition(s) // what is none is made anew by a read
		}
		is(rooms[i], at, err)
	}
	return unavailable
}

// Renew keeps the positions of rooms for another hour, for nodes. Each answer is judged alone: the
// error is ErrUnavailable, of any room, or else ErrRefused.
func (e *Emitter) Renew(ctx context.Context, rooms []proto.Room) (failed error) {
	answers := make([]*redis.BoolCmd, len(rooms))
	_, _ = e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, r := range rooms {
			answers[i] = p.ExpireGT(ctx, e.layout.Position(r), emptyAge*time.Second)
		}
		return nil
	})
	for _, a := range answers {
		if err := e.doubt(a.Err()); err != nil && !errors.Is(failed, ErrUnavailable) {
			failed = err
		}
	}
	return failed
}

// Position is where a durable room is. Take it first, then read your own data, then call
// SetSnapshot with both: what happens in between comes after the position, and again to
// who loads the snapshot, but is never missing in it.
func (e *Emitter) Position(ctx context.Context, room proto.Room) (proto.Position, error) {
	if err := room.Check(); err != nil {
		return proto.Position{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := e.agree(ctx); err != nil {
		return proto.Position{}, fmt.Errorf("emitter: position of room %q: %w", room, err)
	}
	p := e.Read(ctx, []Read{{Room: room}})[0]
	if p.Err != nil {
		return proto.Position{}, fmt.Errorf("emitter: position of room %q: %w", room, p.Err)
	}
	return p.Top, nil
}

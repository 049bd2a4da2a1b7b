package emitter

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// The script numbers an event, chains it to the one before, keeps it and publishes it, in
// one step: whoever reads the room's log after it has subscribed finds an event there,
// or hears it, or both.
//
//go:embed publish.lua
var publishSource string

var publishScript = redis.NewScript(publishSource)

const (
	patience    = 10 * time.Second // of a durable event for Redis
	firstPause  = 50 * time.Millisecond
	longPause   = time.Second
	positionAge = 24 * time.Hour // after the last event; as long, a room keeps its incarnation
	onceAge     = 2 * time.Minute
)

// durable publishes an event of a room. While Redis is away it tries again under the same
// id, which Redis takes once.
func (e *Emitter) durable(ctx context.Context, room proto.Room, m proto.Message) (Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := Receipt{EventID: m.EventID}
	call := e.call(room, m)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := e.once(ctx, call, &r)
		if !errors.Is(err, ErrUnavailable) {
			return r, err
		}
		select {
		case <-time.After(pause/2 + mrand.N(pause)):
		case <-ctx.Done():
			return r, err
		}
	}
}

// A call is the arguments of the script.
type call struct {
	keys []string
	args []any
}

func (e *Emitter) call(room proto.Room, m proto.Message) call {
	verb := "PUBLISH"
	if e.at.Ways() == Sharded {
		verb = "SPUBLISH"
	}
	h := e.at.History(room)
	return call{
		[]string{e.layout.Position(room), e.layout.Log(room), e.layout.Once(room, m.EventID)},
		[]any{e.layout.Channel(room), verb, string(m.EventID), proto.Fingerprint(m.Event), proto.AppendBody(nil, m), h.Events,
			seconds(h.Age), seconds(positionAge), seconds(onceAge), proto.NewEpoch()},
	}
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// once publishes, and puts what Redis said into r.
func (e *Emitter) once(ctx context.Context, c call, r *Receipt) error {
	if err := e.agree(ctx); err != nil {
		return err
	}
	answer, err := publishScript.Run(ctx, e.rdb, c.keys, c.args...).Result()
	if err != nil {
		return Classify(err)
	}
	said, ok := answer.([]any)
	if !ok || len(said) != 3 {
		return fmt.Errorf("%w: it answered %v to the script", ErrRefused, answer)
	}
	what, _ := said[0].(string)
	at, _ := said[1].(string)
	receivers, _ := said[2].(int64)
	if what == "reused" {
		return ErrEventIDReused
	}
	if r.Position, err = proto.ParsePosition(at); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	r.Duplicate, r.Receivers = what == "duplicate", int(receivers)
	return nil
}

// load is for a new connection: a replica that was promoted has no scripts, and one that
// is missing would put the calls of a pipeline out of order.
func load(ctx context.Context, c *redis.Conn) error {
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ScriptLoad(ctx, publishSource)
		p.ScriptLoad(ctx, readSource)
		p.ScriptLoad(ctx, rollSource)
		return nil
	})
	return err
}

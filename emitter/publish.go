package emitter

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// The script numbers events of a room, chains each to the one before, keeps and publishes
// them, in one step: whoever reads the room's log after it has subscribed finds an event
// there, or hears it, or both.
//
//go:embed publish.lua
var publishSource string

var publishScript = redis.NewScript(publishSource)

const (
	positionAge = 24 * time.Hour // after the last event; as long, a room keeps its incarnation
	onceAge     = 2 * time.Minute
)

// A call is the arguments of a script.
type call struct {
	keys []string
	args []any
}

// call publishes events of a room, to the original's servers too if they are mirrored.
func (e *Emitter) call(room proto.Room, events []*sending, mirrored bool) call {
	verb := "PUBLISH"
	if e.at.Ways() == Sharded {
		verb = "SPUBLISH"
	}
	original := ""
	if mirrored {
		original = proto.IgnisChannel(room)
	}
	h := e.at.History(room)
	c := call{
		append(make([]string, 0, 2+len(events)), e.layout.Position(room), e.layout.Log(room)),
		append(make([]any, 0, 5+4*len(events)), e.layout.Channel(room), verb,
			fmt.Sprint(h.Events, " ", seconds(h.Age), " ", seconds(positionAge), " ", seconds(onceAge)), proto.NewEpoch(), original),
	}
	for _, s := range events {
		c.keys = append(c.keys, e.layout.Once(room, s.receipt.EventID))
		c.args = append(c.args, string(s.receipt.EventID), s.print, s.body)
		if mirrored {
			c.args = append(c.args, proto.AppendIgnis(nil, s.to, s.event))
		}
	}
	return c
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// published puts what the script said into the receipts, which count once the answer is proven.
func (e *Emitter) published(events []*sending, said any) error {
	answers, ok := said.([]any)
	if !ok || len(answers) != 3*len(events) {
		return fmt.Errorf("%w: it answered %v to the script", ErrRefused, said)
	}
	for i, s := range events {
		what, _ := answers[3*i].(string)
		at, _ := answers[3*i+1].(string)
		receivers, _ := answers[3*i+2].(int64)
		if s.err = nil; what == "reused" {
			s.err = ErrEventIDReused
			continue
		}
		position, err := proto.ParsePosition(at)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if what == "duplicate" && s.receipt.Position == position {
			continue // that was this very call, whose answer did not count: see proof
		}
		s.receipt.Position, s.receipt.Duplicate, s.receipt.Receivers = position, what == "duplicate", e.receivers(receivers)
	}
	return nil
}

// load is for a new connection: a replica that was promoted has no scripts, and one that
// is missing would put the calls of a pipeline out of order.
func load(ctx context.Context, c *redis.Conn) error {
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ScriptLoad(ctx, publishSource)
		p.ScriptLoad(ctx, readSource)
		p.ScriptLoad(ctx, rollSource)
		p.ScriptLoad(ctx, leaseSource)
		p.ScriptLoad(ctx, occupySource)
		p.ScriptLoad(ctx, revokeSource)
		return nil
	})
	return err
}

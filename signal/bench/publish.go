package bench

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A publisher puts events on Redis in the form that the emitter has, those of one call in
// one pipeline: so many services publish at the same time. It costs as little as it can:
// what it takes of the machine, the node lacks.
type publisher struct {
	rdb    *redis.Client
	layout proto.Layout
	verb   string
}

func newPublisher(at emitter.Settings) *publisher {
	verb := "publish"
	if at.Ways() == emitter.Sharded {
		verb = "spublish"
	}
	return &publisher{at.Open(), at.Layout(), verb}
}

func (p *publisher) close() { _ = p.rdb.Close() }

func (p *publisher) send(ctx context.Context, events []event) error {
	_, err := p.rdb.Pipelined(context.WithoutCancel(ctx), func(pipe redis.Pipeliner) error {
		now := time.Now().UnixMilli()
		for _, e := range events {
			m := proto.Message{Event: proto.Event{Event: eventName, Data: e.data, EventID: e.id, Time: now}, Client: e.to.client}
			if e.to.channel == "" {
				e.to.channel = p.channel(e.to)
			}
			pipe.Do(ctx, p.verb, e.to.channel, proto.AppendMessage(nil, m))
		}
		return nil
	})
	return err
}

func (p *publisher) channel(to *target) string {
	if node, ok := to.client.Node(); ok {
		return p.layout.Inbox(node)
	}
	return p.layout.Channel(to.name)
}

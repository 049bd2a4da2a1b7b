package bench

import (
	"context"
	"encoding/json"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A publisher puts events on Redis in the form that the emitter has, those of one call in
// one pipeline: so many services publish at the same time.
type publisher struct {
	rdb    *redis.Client
	layout proto.Layout
	ways   emitter.PubSub
}

func newPublisher(at emitter.Settings) *publisher {
	return &publisher{at.Open(), at.Layout(), at.Ways()}
}

func (p *publisher) close() { _ = p.rdb.Close() }

func (p *publisher) send(ctx context.Context, events []event) error {
	_, err := p.rdb.Pipelined(context.WithoutCancel(ctx), func(pipe redis.Pipeliner) error {
		for _, e := range events {
			to, channel := proto.ToRoom(e.to.name), p.layout.Channel(e.to.name)
			if e.to.client != "" {
				node, _ := e.to.client.Node()
				to, channel = proto.ToClient(e.to.client), p.layout.Inbox(node)
			}
			m, err := emitter.Message(to, eventName, json.RawMessage(e.data))
			if err != nil {
				return err
			}
			b := proto.AppendMessage(nil, m)
			if p.ways == emitter.Sharded {
				pipe.SPublish(ctx, channel, b)
			} else {
				pipe.Publish(ctx, channel, b)
			}
		}
		return nil
	})
	return err
}

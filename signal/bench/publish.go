//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A publisher puts events on Redis in the form that the emitter has, those of one call in
// one pipeline: so many services publish at the same time. It costs as little as it can:
// what it takes of the machine, the node lacks.
type publisher struct {
	addr   string
	rdb    redis.UniversalClient
	layout proto.Layout
	verb   string
}

func newPublisher(at emitter.Settings) *publisher {
	verb := "publish"
	if at.Ways() == emitter.Sharded {
		verb = "spublish"
	}
	return &publisher{at.Addr(), at.Open(), at.Layout(), verb}
}

func (p *publisher) close() { _ = p.rdb.Close() }

// check says whether Redis is there.
func (p *publisher) check(ctx context.Context) error { return p.named(p.rdb.Ping(ctx).Err()) }

func (p *publisher) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redis on %s: %w", p.addr, err)
}

func (p *publisher) send(ctx context.Context, events []event) error {
	answers, err := p.rdb.Pipelined(context.WithoutCancel(ctx), func(pipe redis.Pipeliner) error {
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
	for _, a := range answers {
		if n, err := a.(*redis.Cmd).Int(); err == nil && n == 0 {
			return p.named(errors.New("no node heard an event: is this the Redis of the nodes?"))
		}
	}
	return p.named(err)
}

func (p *publisher) channel(to *target) string {
	if node, ok := to.client.Node(); ok {
		return p.layout.Inbox(node)
	}
	return p.layout.Channel(to.name)
}

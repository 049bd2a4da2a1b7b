package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// original looks for servers and emitters of the original on this Redis, and says which step of
// docs/MOVING.md one is at.
func (d *diagnosis) original(ctx context.Context, e *emitter.Emitter, nodes int, servers []member) {
	old, mirrored := d.oldServers(ctx, servers), d.at.Mirror
	if old < 0 {
		return
	}
	if required, err := e.Mirrored(ctx); err == nil {
		mirrored = required
	}
	if old == 0 && !mirrored && os.Getenv(emitter.IgnisEnv) != "listen" {
		return // nobody is moving
	}
	step := func(which, what string) { fmt.Fprintf(d.out, "         -> %s of docs/MOVING.md: %s\n", which, what) }
	switch {
	case old > 0 && nodes > 0 && !mirrored:
		d.finds("APP_ENV_SIGNAL_IGNIS=mirror for all nodes and emitters: step 1 of docs/MOVING.md",
			"the original: %d servers listen, beside %d nodes, and what is sent here does not reach their clients", old, nodes)
	case mirrored:
		d.ok("the original: %d servers listen, beside %d nodes; what is sent here is mirrored to them", old, nodes)
	default:
		d.ok("the original: %d servers listen, beside %d nodes", old, nodes)
	}
	theirs, ours, err := d.watch(ctx)
	if err != nil {
		d.ok("the original: what it sends is not to be seen with these rights (%v)", err)
		return
	}
	d.ok("the original: in %s its emitters or servers sent %d events, ours %d", d.listen, theirs, ours)
	switch {
	case nodes == 0:
		step("step 1", "start nodes with APP_ENV_SIGNAL_IGNIS=mirror beside its servers")
	case old > 0 && !mirrored:
	case old > 0 && theirs > 0:
		step("steps 2 and 3", "move the tills, then the producers that still use the original's emitter")
	case old > 0:
		step("steps 2 to 4", fmt.Sprintf("when the tills have moved, and no producer of the original is left (none was heard in %s, which proves little: --listen 10m), end its servers one after the other", d.listen))
	case mirrored:
		step("step 5", fmt.Sprintf("no server of the original is left: restart the nodes without APP_ENV_SIGNAL_IGNIS=mirror, then HSET '%s' mirror off", d.at.Layout().Config()))
	case theirs > 0:
		step("step 3", "there are still producers that use the original's emitter: move them; until then nodes must listen")
	default:
		step("step 5", "nothing of the original was heard: if that stays so, APP_ENV_SIGNAL_IGNIS=off")
	}
}

// oldServers is how many servers of the original listen, -1 if that is not to be seen. Each hears all
// rooms, so Redis says how many have got what is published to one that nobody else hears.
func (d *diagnosis) oldServers(ctx context.Context, servers []member) (n int) {
	for _, s := range servers {
		rdb := redis.NewClient(d.at.Options(s.addr))
		channel, message := proto.IgnisProbe()
		got, err := rdb.Publish(ctx, channel, message).Result()
		_ = rdb.Close()
		if err != nil {
			d.ok("%s: whether servers of the original listen is not to be seen (%v)", s.addr, err)
			return -1
		}
		n += int(got)
	}
	return n
}

// watch counts what comes on the original's channels: by whom.
func (d *diagnosis) watch(ctx context.Context) (theirs, ours int, err error) {
	rdb := d.at.Open()
	defer rdb.Close()
	sub := rdb.PSubscribe(ctx, proto.IgnisAll()...)
	defer sub.Close()
	ctx, cancel := context.WithTimeout(ctx, d.listen)
	defer cancel()
	for {
		said, err := sub.Receive(ctx)
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return theirs, ours, nil
		}
		if err != nil {
			return 0, 0, err
		}
		m, is := said.(*redis.Message)
		if is = is && !proto.IsIgnisProbe(m.Channel); is && proto.IsMirror([]byte(m.Payload)) {
			ours++
		} else if is {
			theirs++
		}
	}
}

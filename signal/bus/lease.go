package bus

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A node holds a lease on Redis, by the clock of Redis, so that everyone knows which nodes
// live. One that ends gives it up; one that is killed has it for another few seconds; one that
// stood still for longer gets another generation.
const (
	leaseEvery = 5 * time.Second
	leaseLasts = 15 * time.Second
)

// nodes is how many live, as of the last lease.
func (b *Bus) nodes() int {
	if live := b.live.Load(); live != nil {
		return len(*live)
	}
	return 0
}

// tellAgain writes down once more what was written down at the start; whether that goes well, the next
// lease tells.
func (b *Bus) tellAgain(ctx context.Context, tell func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_ = tell(ctx)
}

// keepLease renews the lease until ctx ends, then gives it up.
func (b *Bus) keepLease(ctx context.Context) {
	every := time.NewTicker(leaseEvery)
	defer every.Stop()
	var generation int64
	for said := false; ; {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		now, live, err := b.emitter.Lease(bounded, b.node, leaseLasts, b.version)
		cancel()
		switch {
		case errors.Is(err, emitter.ErrRefused) && !said:
			said = true
			b.log.Warn("lease not renewed", zap.Error(err))
		case err == nil:
			if generation != 0 && now != generation {
				b.log.Warn("the lease had ended: for a while this node was not known to live")
				b.tellAgain(ctx, b.check) // Redis may have lost all that was written down
			}
			generation = now
			b.tellAgain(ctx, b.emitter.Enforce) // somebody may have deleted it
			var nodes []proto.NodeID
			for _, n := range live {
				nodes = append(nodes, n.ID)
			}
			b.live.Store(&nodes)
		}
		select {
		case <-every.C:
		case <-b.back: // a Redis that came back empty knows of no node
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _, _ = b.emitter.Lease(bounded, b.node, 0, b.version) // else it ends by itself
			return
		}
	}
}

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

// keepLease renews the lease until ctx ends, then gives it up.
func (b *Bus) keepLease(ctx context.Context) {
	every := time.NewTicker(leaseEvery)
	defer every.Stop()
	var generation int64
	for said := false; ; {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		now, live, err := b.emitter.Lease(bounded, b.node, leaseLasts, b.version)
		if err == nil {
			if generation != 0 && now != generation {
				b.log.Warn("the lease had ended: for a while this node was not known to live")
			}
			generation = now
			var nodes []proto.NodeID
			for _, n := range live {
				nodes = append(nodes, n.ID)
			}
			b.live.Store(&nodes)
			err = b.emitter.Enforce(bounded) // Redis may have lost it, or somebody have deleted it
		}
		cancel()
		if !said && (errors.Is(err, emitter.ErrRefused) || errors.Is(err, emitter.ErrDisagrees)) {
			said = true
			b.log.Warn("lease not renewed, or how Redis is used not written down", zap.Error(err))
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

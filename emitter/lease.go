package emitter

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

//go:embed lease.lua
var leaseSource string

var leaseScript = redis.NewScript(leaseSource)

// ErrNoNodes means that Redis is there and no node of Signal listens to it: none runs, or
// this service is set up for another Redis or prefix than the nodes.
var ErrNoNodes = errors.New("emitter: no node listens to this Redis")

// A LiveNode is a node whose lease has not ended.
type LiveNode struct {
	ID         proto.NodeID
	Generation int64 // larger than that of every lease before: a node that was paused for long has a new one
	Version    string
}

// Ping says how many nodes listen on this Redis. An error is ErrNoNodes, or why Redis does
// not answer. It is a question of one round trip, for the start or the readiness of a
// service; a node that was killed counts for another 15 seconds.
func (e *Emitter) Ping(ctx context.Context) (nodes int, err error) {
	if err := e.agree(ctx); err != nil {
		return 0, fmt.Errorf("emitter: ping: %w", err)
	}
	live, err := e.Nodes(ctx)
	if err == nil && len(live) == 0 {
		err = ErrNoNodes
	}
	if err != nil {
		return 0, fmt.Errorf("emitter: ping: %w", err)
	}
	return len(live), nil
}

// Nodes are the nodes that live, in the order of their leases.
func (e *Emitter) Nodes(ctx context.Context) ([]LiveNode, error) {
	_, live, err := e.lease(ctx, "", 0, "")
	return live, err
}

// Lease says, for nodes, that this one lives for a while. It returns the lease's generation,
// and all nodes that live. With no time it gives the lease up.
func (e *Emitter) Lease(ctx context.Context, n proto.NodeID, lasts time.Duration, version string) (generation int64, live []LiveNode, err error) {
	return e.lease(ctx, n, lasts, version)
}

func (e *Emitter) lease(ctx context.Context, n proto.NodeID, lasts time.Duration, version string) (generation int64, live []LiveNode, err error) {
	said, err := leaseScript.Run(ctx, e.rdb, []string{e.layout.Nodes()}, string(n), lasts.Milliseconds(), version).Slice()
	if err != nil {
		return 0, nil, e.doubt(err)
	}
	bad := fmt.Errorf("%w: it answered %v to the script", ErrRefused, said)
	if len(said) != 2 {
		return 0, nil, bad
	}
	generation, _ = said[0].(int64)
	all, _ := said[1].([]any)
	for _, one := range all {
		words, _ := one.([]any)
		if len(words) != 3 {
			return 0, nil, bad
		}
		id, _ := words[0].(string)
		g, _ := words[1].(int64)
		v, _ := words[2].(string)
		live = append(live, LiveNode{proto.NodeID(id), g, v})
	}
	slices.SortFunc(live, func(a, b LiveNode) int { return cmp.Compare(a.Generation, b.Generation) })
	return generation, live, nil
}

package emitter

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// While the original's servers run beside nodes of ours, what is sent goes to their channels too,
// by PUBLISH also on a cluster, in a form that our own nodes pass over. A durable event goes there
// in the same step in which it is numbered, so that one that is sent again is not heard there
// twice either (TestMirror).

// A mirrored is an event for the original's servers; none of its channel is empty.
type mirrored struct {
	channel string
	message []byte
}

// mirror publishes to the original's servers, and says how many there are. On a cluster nobody
// knows: it is -1.
func (e *Emitter) mirror(ctx context.Context, m mirrored) (servers int, err error) {
	if err := e.agree(ctx); err != nil {
		return 0, err
	}
	n, err := e.rdb.Publish(ctx, m.channel, m.message).Result()
	if e.at.Mode == Cluster {
		n = -1
	}
	return int(n), e.doubt(err)
}

// Mirrored says whether everyone must mirror, since a node does.
func (e *Emitter) Mirrored(ctx context.Context) (bool, error) {
	said, err := e.rdb.HGet(ctx, e.layout.Config(), mirrors).Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return said == "required", e.doubt(err)
}

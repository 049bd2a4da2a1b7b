package emitter

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// ErrDisagrees means that the others on this Redis use another protocol version
// or another way of publishing. They would hear nothing of this participant, and
// nothing would say so: it must not start. Its text says what differs.
var ErrDisagrees = errors.New("emitter: this Redis is used in another way")

// Agree says whether this participant fits to the others on its Redis. The first
// one ever writes down how the Redis is used, everyone after it must agree.
// An error is ErrDisagrees, ErrRefused, or ErrUnavailable when Redis did not answer.
func (s Settings) Agree(ctx context.Context, rdb redis.UniversalClient) error {
	key := s.Layout().Config()
	ours := []struct{ field, value, set string }{
		{"protocol", strconv.Itoa(proto.Version), "another version of Signal"},
		{"pubsub", string(s.Ways()), EnvPrefix + "PUBSUB"},
	}
	var theirs *redis.MapStringStringCmd
	_, err := rdb.TxPipelined(ctx, func(p redis.Pipeliner) error { // first come, all fields at once
		for _, o := range ours {
			p.HSetNX(ctx, key, o.field, o.value)
		}
		theirs = p.HGetAll(ctx, key)
		return nil
	})
	if err != nil {
		return classify(fmt.Errorf("read %s: %w", key, err))
	}
	var errs []error
	for _, o := range ours {
		if is := theirs.Val()[o.field]; is != o.value {
			errs = append(errs, fmt.Errorf("%w: %s is %q there (%s) and %q here (%s); "+
				"make them equal, or stop everyone on this Redis and delete the key", ErrDisagrees, o.field, is, key, o.value, o.set))
		}
	}
	return errors.Join(errs...)
}

package emitter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// Fields that a node writes when it needs something of everyone.
const (
	signed  = "signed" // only what is signed counts: who has no key is refused
	mirrors = "mirror" // there are servers of the original: everyone mirrors
)

// ErrDisagrees means that the others on this Redis use another protocol version
// or another way of publishing. They would hear nothing of this participant, and
// nothing would say so: it must not start. Its text says what differs.
var ErrDisagrees = errors.New("emitter: this Redis is used in another way")

// Agree says whether this participant fits to the others on its Redis. The first
// one ever writes down how the Redis is used, everyone after it must agree; later
// ones only read. An error is ErrDisagrees, ErrRefused, or ErrUnavailable when Redis
// did not answer.
func (s Settings) Agree(ctx context.Context, rdb redis.UniversalClient) error {
	_, err := s.agree(ctx, rdb, true)
	return err
}

// agree also says whether ours now stands there. A Redis that refuses writes for a while,
// a full one say, publishes all the same: then it is to be asked again.
func (s Settings) agree(ctx context.Context, rdb redis.UniversalClient, write bool) (written bool, err error) {
	key := s.Layout().Config()
	ours := map[string]string{"protocol": strconv.Itoa(proto.Version), "pubsub": string(s.Ways())}
	if s.Deployment != "" {
		ours["deployment"] = s.Deployment
	}
	theirs, err := rdb.HGetAll(ctx, key).Result()
	if err := s.agreesOnMode(ctx, rdb, err); err != nil {
		return false, err
	}
	if err != nil {
		return false, Classify(fmt.Errorf("read %s: %w", key, err))
	}
	written = true
	for field, value := range ours {
		if _, known := theirs[field]; known {
			continue
		}
		if !write {
			theirs[field] = value
			continue
		}
		err := rdb.HSetNX(ctx, key, field, value).Err()
		if said, answered := errors.AsType[redis.Error](err); answered && passing(said.Error()) {
			theirs[field], written = value, false
			continue
		}
		if err == nil { // ours counts, or that of somebody who was quicker
			theirs[field], err = rdb.HGet(ctx, key, field).Result()
		}
		if err != nil {
			return false, Classify(fmt.Errorf("write %s: %w", key, err))
		}
	}
	if theirs[signed] == "required" && len(s.SigningKeys) == 0 {
		return false, fmt.Errorf("%w: events must be signed there, and have no key here; set %sSIGNING_KEYS, or delete the field %s of %s if no node signs any more",
			ErrDisagrees, EnvPrefix, signed, key)
	}
	set := map[string]string{"protocol": "another version of Signal", "pubsub": EnvPrefix + "PUBSUB", "deployment": EnvPrefix + "DEPLOYMENT"}
	var errs []error
	for _, field := range slices.Sorted(maps.Keys(ours)) {
		if theirs[field] != ours[field] {
			errs = append(errs, fmt.Errorf("%w: %s is %q there (%s) and %q here (%s); "+
				"make them equal, or stop everyone on this Redis and delete the key", ErrDisagrees, field, theirs[field], key, ours[field], set[field]))
		}
	}
	return written, errors.Join(errs...)
}

// agreesOnMode says whether this is the kind of Redis that it is taken for, after a first
// command that said err. One server of a cluster, taken for a single Redis, would work for
// some rooms.
func (s Settings) agreesOnMode(ctx context.Context, rdb redis.UniversalClient, err error) error {
	if s.Mode == Cluster {
		if err != nil && strings.Contains(err.Error(), "cluster support disabled") {
			return fmt.Errorf("%w: it is no cluster; set %sMODE=single", ErrDisagrees, EnvPrefix)
		}
		return nil
	}
	info, err := rdb.Info(ctx, "cluster").Result() // whoever may not ask is believed
	if err == nil && strings.Contains(info, "cluster_enabled:1") {
		return fmt.Errorf("%w: it is a cluster; set %sMODE=cluster", ErrDisagrees, EnvPrefix)
	}
	return nil
}

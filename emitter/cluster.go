package emitter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/signal-team/signal/proto"
)

// On a cluster each room is on one master, by the hash of its name. The library follows when
// a slot moves, and learns of a dead master only from those that are alive: so whoever meets
// an error here lets it ask them again at once. What is sent to one master never waits for
// another (TestOtherMastersGoOn).

// Open makes a client for this Redis. It connects when it is first used.
//
// The library's own retries are off: it cannot know that a PUBLISH whose answer
// was lost has been delivered, and would deliver it twice.
func (s Settings) Open() redis.UniversalClient { return s.open(nil) }

func (s Settings) open(connected func(context.Context, *redis.Conn) error) redis.UniversalClient {
	o := s.Options(s.Addr())
	if s.Mode != Cluster {
		o.OnConnect = connected
		return redis.NewClient(o)
	}
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: append([]string{s.Addr()}, s.Addrs...), OnConnect: connected,
		Username: o.Username, Password: o.Password, Protocol: o.Protocol, TLSConfig: o.TLSConfig,
		MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries, DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		ContextTimeoutEnabled: o.ContextTimeoutEnabled, DisableIdentity: o.DisableIdentity, MaintNotificationsConfig: o.MaintNotificationsConfig,
		DisableRoutingPolicies: true, ClusterStateReloadInterval: 2 * time.Second,
	})
}

// Options are those of a client for one server of this Redis, for a node that adds to them.
func (s Settings) Options(addr string) *redis.Options {
	return &redis.Options{
		Addr:                     addr,
		Username:                 s.Username,
		Password:                 string(s.Password),
		TLSConfig:                s.TLS, // the name in the certificate is the address' host
		DB:                       s.DB,
		Protocol:                 2,
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              time.Second,
		ReadTimeout:              2 * time.Second,
		WriteTimeout:             2 * time.Second,
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// master is the server that has the key: the only one, or a master of the cluster. It waits
// for Redis only before it has been reached for the first time.
func (e *Emitter) master(ctx context.Context, key string) (*redis.Client, error) {
	if c, ok := e.rdb.(*redis.ClusterClient); ok {
		return c.MasterForKey(ctx, key)
	}
	return e.rdb.(*redis.Client), nil
}

// Master is the address of the server that has a room, for nodes.
func (e *Emitter) Master(ctx context.Context, r proto.Room) (string, error) {
	c, err := e.master(ctx, e.layout.Position(r))
	if err != nil {
		return "", Classify(err)
	}
	return c.Options().Addr, nil
}

// Masters asks the cluster who its masters are, for nodes, and lets all that is sent from
// now on go by the answer.
func (e *Emitter) Masters(ctx context.Context) ([]string, error) {
	c, ok := e.rdb.(*redis.ClusterClient)
	if !ok {
		return []string{e.at.Addr()}, nil
	}
	found := make(chan string, maxMasters)
	err := c.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		select {
		case found <- c.Options().Addr:
			return nil
		default:
			return errors.New("more than 1000 masters")
		}
	})
	close(found)
	var masters []string
	for addr := range found {
		masters = append(masters, addr)
	}
	return masters, Classify(err)
}

const maxMasters = 1000 // of which Redis itself advises

// doubt lets the library ask who has which slot after an error, which it passes on: a dead
// master sends no MOVED.
func (e *Emitter) doubt(err error) error {
	err = Classify(err)
	if errors.Is(err, ErrClosed) && e.ctx.Err() == nil { // one of the library's own clients, for a server that it has forgotten
		err = fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	if errors.Is(err, ErrUnavailable) {
		if c, ok := e.rdb.(*redis.ClusterClient); ok {
			c.ReloadState(context.Background())
		}
	}
	return err
}

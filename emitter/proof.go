package emitter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// On a cluster an answer alone is no proof that what it acknowledges exists. A master that stood
// still, and whose replica has taken its place meanwhile, answers when it wakes, before it hears that
// it is a master no more; then it drops what it took. And one that stops, or dies, right after an answer may not have
// told its replica yet. So an answer counts only when
//
//   - a replica of the server has what it wrote (WAIT, in the same round trip), which no replica has that took its
//     place before; or, where no replica answers,
//   - another server of the cluster still calls it a master, asked after the answer, or in the second before.
//
// Otherwise the event is sent again under the same id, to whoever is the master by then: a master
// that has the event already answers with its position (TestAckExists). docs/adr/0014 has what this costs, and which
// losses remain.
const (
	proofLasts = time.Second            // the other servers' word: they replace nobody that was silent for less
	proofRenew = proofLasts / 2         // when it is asked for again, in the background
	proofWait  = 250 * time.Millisecond // for a replica, and for the other servers
)

var errUnproven = errors.New("the server that answered does not prove that it still is the master")

// A proof is what is known of one server.
type proof struct {
	mu    sync.Mutex
	kept  time.Time     // guarded by mu: a replica has all that was written until then
	named time.Time     // guarded by mu: no replica answered, and the others called it a master; not before then
	alone bool          // guarded by mu: they named no replica of it
	why   error         // guarded by mu: why the last proof was not given
	ended chan struct{} // guarded by mu: closed when the one that is being asked for is over; nil while none is
}

// waits reports whether to wait for a replica behind what is written.
func (p *proof) waits(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.alone && now.Sub(p.named) >= proofLasts
}

// proven says why an answer that came at a moment, from the server that has a room, does not count; nil is
// that it does. Unless the others' word is there it waits for a proof, and lets begin run one.
func (e *Emitter) proven(ctx context.Context, server *redis.Client, room proto.Room, answered time.Time, begin func(func())) error {
	if e.at.Mode != Cluster {
		return nil
	}
	p := e.proofOf(server)
	for waited := false; ; waited = true {
		p.mu.Lock()
		counts := !answered.After(p.kept) || answered.Sub(p.named) < proofLasts
		ended, why := p.ended, p.why
		begins := ended == nil && (!counts && !(waited && why != nil) || counts && answered.Sub(p.named) >= proofRenew && answered.After(p.kept))
		if begins {
			ended = make(chan struct{})
			p.ended = ended
		}
		p.mu.Unlock()
		if begins {
			begin(func() { e.prove(e.ctx, p, server, room) })
		}
		switch {
		case counts:
			return nil
		case e.ctx.Err() != nil:
			return ErrClosed
		case waited && !begins && why != nil:
			return e.doubt(fmt.Errorf("%w: %w", errUnproven, why))
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %w", ErrUnavailable, errUnproven, ctx.Err())
		}
	}
}

// settle runs something that writes at the server that has a room's key, and returns nil if its answer
// counts.
func (e *Emitter) settle(ctx context.Context, room proto.Room, key string, write func(redis.UniversalClient) error) error {
	server, err := e.master(ctx, key)
	if err == nil {
		err = write(server)
	}
	if to := redirected(err); to != "" { // the slot is on its way to another server, or there: the library follows
		if server, err = e.server(ctx, to); err == nil {
			err = write(e.rdb)
		}
	}
	if err != nil {
		return e.doubt(err)
	}
	return e.proven(ctx, server, room, time.Now(), func(prove func()) { prove() })
}

// redirected is the address to which an error sends; empty for any other.
func redirected(err error) string {
	if to, asked := redis.IsAskError(err); asked {
		return to
	}
	to, _ := redis.IsMovedError(err)
	return to
}

// server is the master at an address, after the cluster has been asked who its masters are.
func (e *Emitter) server(ctx context.Context, addr string) (*redis.Client, error) {
	found := make(chan *redis.Client, maxMasters)
	err := e.rdb.(*redis.ClusterClient).ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		if c.Options().Addr == addr {
			found <- c
		}
		return nil
	})
	select {
	case c := <-found:
		return c, nil
	default:
		return nil, fmt.Errorf("%w: no master at %s: %w", ErrUnavailable, addr, cmp.Or(err, errUnproven))
	}
}

func (e *Emitter) proofOf(server *redis.Client) *proof {
	known, _ := e.proofs.LoadOrStore(server.Options().Addr, &proof{})
	return known.(*proof)
}

// prove asks for a proof.
func (e *Emitter) prove(ctx context.Context, p *proof, server *redis.Client, room proto.Room) {
	ctx, cancel := context.WithTimeout(ctx, roundTrip)
	defer cancel()
	p.mu.Lock()
	alone := p.alone
	p.mu.Unlock()
	asked := time.Now()
	replicas, err := e.replicated(ctx, server, room, !alone)
	named := time.Time{}
	if err == nil && replicas == 0 {
		named = time.Now()
		alone, err = e.named(ctx, server)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why = err; err == nil {
		p.alone, p.named = alone, named
		if replicas > 0 {
			p.kept = asked
		}
	}
	close(p.ended)
	p.ended = nil
}

// replicated lets the server write, and is how many replicas have that, if they are waited for. A user that may not
// ask for that has none.
func (e *Emitter) replicated(ctx context.Context, server *redis.Client, room proto.Room, waits bool) (replicas int64, err error) {
	var set *redis.StatusCmd
	var wait *redis.Cmd
	_, perr := server.Pipelined(ctx, func(p redis.Pipeliner) error {
		set = p.Set(ctx, e.layout.Proof(room), "", proofLasts)
		if waits {
			wait = p.Do(ctx, "wait", 1, proofWait.Milliseconds())
		}
		return nil
	})
	if err := set.Err(); redirected(err) != "" {
		return 0, nil // it lives, and the slot is on its way
	} else if err != nil || !waits {
		return 0, cmp.Or(err, perr)
	}
	return waited(wait, perr)
}

// waited is what WAIT has answered, in a pipeline that failed with perr, or nil. A user that may not ask knows of no
// replica.
func waited(wait *redis.Cmd, perr error) (replicas int64, err error) {
	said, err := answer(wait, perr)
	if no, refused := errors.AsType[redis.Error](err); refused && !passing(no.Error()) {
		return 0, nil
	}
	replicas, _ = said.(int64)
	return replicas, err
}

// named asks the other servers whether this one is still a master: most of those that answer must say so. alone means
// that none of them names a replica of it. Where there is no other master no replica is elected, and its own word counts.
func (e *Emitter) named(ctx context.Context, server *redis.Client) (alone bool, err error) {
	addr := server.Options().Addr
	if masters, err := e.Masters(ctx); err != nil {
		return false, err
	} else if len(masters) == 1 && masters[0] == addr {
		shards, _ := server.ClusterShards(ctx).Result()
		its, replicas := e.shardOf(shards, addr)
		return its && replicas == 0, nil
	}
	var (
		mu                      sync.Mutex
		named, denied, replicas int
	)
	err = e.rdb.(*redis.ClusterClient).ForEachShard(ctx, func(ctx context.Context, other *redis.Client) error {
		if other.Options().Addr == addr {
			return nil
		}
		bounded, cancel := context.WithTimeout(ctx, proofWait)
		defer cancel()
		shards, err := other.ClusterShards(bounded).Result()
		if err != nil {
			return nil // it tells nothing
		}
		its, follow := e.shardOf(shards, addr)
		mu.Lock()
		defer mu.Unlock()
		if !its {
			denied++
			return nil
		}
		named++
		replicas += follow
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case named == 0 && denied == 0:
		return false, fmt.Errorf("%w: no other server answers", errUnproven)
	case named <= denied:
		return false, fmt.Errorf("%w: of %d others %d name another one", errUnproven, named+denied, denied)
	}
	return replicas == 0, nil
}

// shardOf reports whether a shard has the server at an address as its master, and how many replicas it has.
func (e *Emitter) shardOf(shards []redis.ClusterShard, addr string) (its bool, replicas int) {
	for _, shard := range shards {
		its, replicas = false, 0
		for _, n := range shard.Nodes {
			switch {
			case n.Health == "fail":
			case n.Role != "master":
				replicas++
			case len(shard.Slots) > 0:
				its = its || e.isAt(n, addr)
			}
		}
		if its {
			return true, replicas
		}
	}
	return false, 0
}

// isAt reports whether a server that another one names is the one at an address: behind an address that is
// translated, the others know its port.
func (e *Emitter) isAt(n redis.Node, addr string) bool {
	host, port, _ := net.SplitHostPort(addr)
	said := n.Port
	if e.at.TLS != nil && n.TLSPort != 0 {
		said = n.TLSPort
	}
	if strconv.FormatInt(said, 10) != port {
		return false
	}
	for _, name := range [...]string{n.Endpoint, n.IP, n.Hostname} {
		ip := net.ParseIP(name)
		if name == host || ip != nil && ip.IsLoopback() {
			return true
		}
	}
	return n.Endpoint == "" && n.IP == ""
}

package emitter

import (
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
func (e *Emitter) settle(ctx context.Context, room proto.Room, key string, write func(*redis.Client) error) error {
	server, err := e.master(ctx, key)
	if err == nil {
		err = write(server)
	}
	if err != nil {
		return e.doubt(err)
	}
	return e.proven(ctx, server, room, time.Now(), func(prove func()) { prove() })
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
	replicas, err := int64(0), error(nil)
	if !alone {
		replicas, err = e.replicated(ctx, server, room)
	}
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

// replicated is how many replicas have what the server writes now. A user that may not ask for that has
// none.
func (e *Emitter) replicated(ctx context.Context, server *redis.Client, room proto.Room) (replicas int64, err error) {
	var set *redis.StatusCmd
	var wait *redis.Cmd
	_, perr := server.Pipelined(ctx, func(p redis.Pipeliner) error {
		set = p.Set(ctx, e.layout.Proof(room), "", proofLasts)
		wait = p.Do(ctx, "wait", 1, proofWait.Milliseconds())
		return nil
	})
	if err := set.Err(); err != nil {
		if _, moving := redis.IsAskError(err); moving { // the slot is on its way to another server: who has what is asked
			return 0, nil
		}
		return 0, err
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

// named asks the other servers whether this one is still a master. alone means that none of them names a
// replica of it.
func (e *Emitter) named(ctx context.Context, server *redis.Client) (alone bool, err error) {
	addr := server.Options().Addr
	var (
		mu                      sync.Mutex
		others, named, replicas int
	)
	err = e.rdb.(*redis.ClusterClient).ForEachShard(ctx, func(ctx context.Context, other *redis.Client) error {
		if other.Options().Addr == addr {
			return nil
		}
		mu.Lock()
		others++
		mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, proofWait)
		defer cancel()
		shards, err := other.ClusterShards(bounded).Result()
		if err != nil {
			return nil // it tells nothing
		}
		mu.Lock()
		defer mu.Unlock()
		for _, shard := range shards {
			follow, its := 0, false
			for _, n := range shard.Nodes {
				switch {
				case n.Role != "master" && n.Health != "fail":
					follow++
				case n.Role == "master" && n.Health != "fail" && len(shard.Slots) > 0:
					its = its || e.isAt(n, addr)
				}
			}
			if its {
				named++
				replicas += follow
				return nil
			}
		}
		return errUnproven // it names another one
	})
	switch {
	case err != nil:
		return false, err
	case others > 0 && named == 0:
		return false, fmt.Errorf("%w: no other server answers", errUnproven)
	}
	return replicas == 0, nil
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

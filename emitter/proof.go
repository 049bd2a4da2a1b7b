package emitter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// On a cluster an answer alone is no proof that what it acknowledges exists. A master that stood
// still, and whose replica has taken its place meanwhile, answers when it wakes, before it hears that
// it is a master no more; then it drops what it took. So an answer counts only with a proof, at most
// proofLasts older than the answer or younger, that the server was a master then:
//
//   - a replica of it has what it has just written (WAIT), which no replica has that has taken its
//     place; or, where no replica answers,
//   - another server of the cluster, asked after the answer, still calls it a master.
//
// Without a proof the event is sent again under the same id, to whoever is the master by then: a master
// that has the event already answers with its position (TestAckExists). The others take a server's place
// only when it has been silent for cluster-node-timeout and half a second more, so a proof may be as old as
// proofLasts as long as that timeout is not much shorter: signal doctor looks at it.
//
// docs/adr/0014 has what this costs, and which losses remain.
const (
	proofLasts = time.Second
	proofRenew = proofLasts / 2         // a busy emitter renews it in the background
	proofWait  = 250 * time.Millisecond // for a replica, and for the other servers
)

var errUnproven = errors.New("the server that answered does not prove that it still is the master")

// A proof is that of one server.
type proof struct {
	mu    sync.Mutex
	at    time.Time     // guarded by mu: when the last one that was given was asked for
	alone bool          // guarded by mu: the cluster named no replica of it then
	why   error         // guarded by mu: of the last one that was not given
	ended chan struct{} // guarded by mu: closed when the one that is being asked for is over; nil while none is
}

// proven says why an answer that came at a moment, from the server that has a room, does not count; nil is
// that it does. It waits for a proof only if there is none from the second before, and lets begin run one.
func (e *Emitter) proven(ctx context.Context, server *redis.Client, room proto.Room, answered time.Time, begin func(func())) error {
	if e.at.Mode != Cluster {
		return nil
	}
	p := e.proofOf(server)
	for waited := false; ; waited = true {
		p.mu.Lock()
		age, ended, why := answered.Sub(p.at), p.ended, p.why
		begins := ended == nil && age >= proofRenew && !(waited && (why != nil || age < proofLasts))
		if begins {
			ended = make(chan struct{})
			p.ended = ended
		}
		p.mu.Unlock()
		if begins {
			begin(func() { e.prove(e.ctx, p, server, room) })
		}
		if age < proofLasts {
			return nil
		}
		if waited && !begins && why != nil {
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
	if err == nil && replicas == 0 {
		alone, err = e.named(ctx, server)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alone, p.why = alone, err; err == nil {
		p.at = asked
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
	replicas, err = wait.Int64()
	if said, refused := errors.AsType[redis.Error](err); refused && !passing(said.Error()) {
		return 0, nil
	}
	if err == nil { // not asked: see answer
		err = perr
	}
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
		slots, err := other.ClusterSlots(bounded).Result()
		if err != nil {
			return nil // it tells nothing
		}
		mu.Lock()
		defer mu.Unlock()
		for _, s := range slots {
			if len(s.Nodes) > 0 && sameServer(s.Nodes[0].Addr, addr) {
				named++
				replicas += len(s.Nodes) - 1
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

// sameServer reports whether a server that others call said is the one at an address: behind an
// address that is translated, they know its port.
func sameServer(said, addr string) bool {
	if said == addr {
		return true
	}
	host, port, _ := net.SplitHostPort(said)
	_, known, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return port == known && (host == "" || ip != nil && ip.IsLoopback())
}

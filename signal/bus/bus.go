// Package bus brings what was published on Redis to this node.
//
// It listens on one connection to each master (link.go), with a receive loop of its own, which
// notices within three seconds that nobody answers any more, within five that nothing arrives
// (canary.go), connects anew and subscribes again. On a cluster each room is heard from the
// master that has it, and follows when its slot moves (route.go). (go-redis' Channel and its
// own resubscription notice neither a dead master, nor a half-open connection, nor a slot that
// has moved.) While a Redis is away the node keeps its clients; live events published
// meanwhile are lost, and the metrics say for how long.
package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// linger is how long a room is heard after its last member has left, so that a
// page that is loaded again costs no subscription.
const linger = 10 * time.Second

// A Receiver gets what the bus brings. Its calls must not wait.
type Receiver interface {
	// Receive gets an event of a room, in the room's order.
	Receive(proto.Room, proto.Message)
	// Flush says that nothing more is at hand: what was received can be written.
	Flush()
	// Subscribed says that the room is heard from now on.
	Subscribed(proto.Room)
	// Replied gets what Redis answered to a Read, once for each.
	Replied(r proto.Room, since proto.Position, order bool, p proto.Page)
	// Tick comes once a second.
	Tick()
	// Due appends the rooms to be checked now: all, or those that have had no event since
	// it was last called. At is where a room is, zero when that is not known; when Redis has
	// it elsewhere, Checked is told.
	Due(dst []proto.Room, all bool) []proto.Room
	At(proto.Room) proto.Position
	Checked(r proto.Room, top proto.Position)
	// ReceiveClient gets an event for one client.
	ReceiveClient(proto.ClientID, proto.Event)
	// SendToClient writes an event to one client now, and says whether it took it.
	SendToClient(proto.ClientID, proto.Event) bool
	// Lost says that rooms are not heard any more, until Subscribed says so.
	Lost([]proto.Room)
	// Degraded says that Redis has been away for a while, or is back.
	Degraded(bool)
}

// A Judge gets what is revoked. Its calls must not wait.
type Judge interface {
	// Revoke gets revocations, some perhaps again, and returns those that it did not know.
	Revoke([]proto.Revocation) (fresh []proto.Revocation)
	// All are those that it knows.
	All() []proto.Revocation
	// Forget drops those before a moment, which cover no token that lives.
	Forget(before time.Time)
	// Trust says that for so long nothing is revoked that it has not been told of.
	Trust(time.Duration)
}

// A Bus is made by New and works while Run does.
type Bus struct {
	node    proto.NodeID
	version string
	at      emitter.Settings
	layout  proto.Layout
	inbox   proto.Room // to this node alone
	ignis   bool
	emitter *emitter.Emitter
	signer  *proto.Signer
	judge   Judge
	keep    time.Duration
	flush   func() // of Run's Receiver
	log     *zap.Logger
	metrics *metrics

	routes  routes
	live    atomic.Pointer[[]proto.NodeID] // nodes, as of the last lease; nil before
	revoked chan struct{}                  // holds one: somebody has said that there is a revocation
	judged  atomic.Int64                   // clock at which the revocations were last begun to be read, with success; 0 before

	back     chan struct{} // holds one: all that was down is up again
	answers  chan proto.Answer
	returned chan comeback // connections of other nodes whose client has come back here
	notices  *hook.Outbox  // nil: nobody is told
	crowd    crowd
	began    time.Time
	health   health

	mu   sync.Mutex
	asks map[proto.AskID]chan int // guarded by mu: questions without an answer
}

// Options say what a Bus is of.
type Options struct {
	Node       proto.NodeID
	Version    string // of this program, for the others
	Redis      emitter.Settings
	Ignis      bool             // also hear the channels of the original
	Emitter    *emitter.Emitter // on the same Redis
	Judge      Judge
	Notices    *hook.Outbox  // is told which rooms are occupied; may be nil
	Keep       time.Duration // how long a revocation may cover a token that lives
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// New returns a Bus.
func New(o Options) *Bus {
	b := &Bus{
		node: o.Node, version: o.Version, at: o.Redis, layout: o.Redis.Layout(), inbox: proto.NodeRoom(o.Node), ignis: o.Ignis,
		emitter: o.Emitter, signer: o.Emitter.Signer(), judge: o.Judge, keep: o.Keep, revoked: make(chan struct{}, 1), log: o.Log, answers: make(chan proto.Answer, 1024), returned: make(chan comeback, 4096), notices: o.Notices, back: make(chan struct{}, 1), began: time.Now(), asks: map[proto.AskID]chan int{},
	}
	b.routes.init()
	b.routes.want(b.inbox, true)
	b.routes.want(proto.Control, true)
	b.metrics = newMetrics(o.Registerer, b)
	return b
}

// Subscribe wants a room to be heard: see hub.Subscriber.
func (b *Bus) Subscribe(r proto.Room) {
	b.routes.want(r, true)
	if b.notices != nil {
		b.crowd.enters(r)
	}
}

// Unsubscribe undoes one Subscribe. The room is heard for another ten seconds.
func (b *Bus) Unsubscribe(r proto.Room) {
	b.routes.want(r, false)
	if b.notices != nil {
		b.crowd.leaves(r, time.Now())
	}
}

// Ready says why new clients should go to another node, or nil.
func (b *Bus) Ready() error {
	if err := b.health.ready(time.Now()); err != nil {
		return err
	}
	if read := b.judged.Load(); read == 0 {
		return errors.New("the revocations have not been read yet")
	} else if age := time.Duration(b.clock() - read); age > unreadMost {
		return fmt.Errorf("the revocations have not been read for %v", age.Round(time.Second))
	}
	return nil
}

// Run listens and hands to dst until ctx ends, then returns nil. It outlives a lost
// Redis. It returns an error at once if this node may not work on this Redis: the
// others there use it in another way, or Redis refuses the node.
func (b *Bus) Run(ctx context.Context, dst Receiver) error {
	b.flush = dst.Flush
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { b.answer(ctx); return nil })
	g.Go(func() error { b.watch(ctx, dst); return nil })
	g.Go(func() error { b.renew(ctx); return nil })
	g.Go(func() error { b.followRevoked(ctx); return nil })
	g.Go(func() error { b.trust(ctx); return nil })
	g.Go(func() error { b.tellCrowds(ctx); return nil })
	g.Go(func() error { b.tellReturned(ctx); return nil })
	g.Go(func() error { return b.route(ctx, dst) })
	return g.Wait()
}

// clock is nanoseconds since the bus began.
func (b *Bus) clock() int64 { return int64(time.Since(b.began)) }

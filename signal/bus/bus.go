// Package bus brings what was published on Redis to this node.
//
// It listens on one connection with a receive loop of its own, which notices within
// three seconds that nobody answers any more, connects anew and subscribes again.
// (go-redis' Channel and its own resubscription notice neither a dead master nor a
// half-open connection.) While Redis is away the node keeps its clients; live events
// published meanwhile are lost, and the metrics say for how long.
package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

const (
	// linger is how long a room is heard after its last member has left, so that a
	// page that is loaded again costs no subscription.
	linger = 10 * time.Second
	// silence is how long nothing may come, then how long an answer to a ping may take.
	silence = 1500 * time.Millisecond
)

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
	// Lost says that nothing is heard any more, until Subscribed says so of a room.
	Lost()
	// Degraded says that Redis has been away for a while, or is back.
	Degraded(bool)
}

// A Bus is made by New and works while Run does.
type Bus struct {
	node    proto.NodeID
	at      emitter.Settings
	layout  proto.Layout
	own     string // the channel of this node's inbox
	ignis   bool
	rdb     *redis.Client
	emitter *emitter.Emitter
	flush   func() // of Run's Receiver
	log     *zap.Logger
	metrics *metrics

	subs    subscriptions
	reads   reads
	roll    emitter.Roll // of watch alone
	due     []proto.Room // of watch alone
	answers chan proto.Answer
	began   time.Time
	heard   atomic.Int64 // when something last came, nanoseconds since began
	health  health

	mu   sync.Mutex
	asks map[proto.AskID]chan int // guarded by mu: questions without an answer
}

// New returns a Bus for a node, on the Redis that at describes. With ignis it also
// hears the channels of the original. It answers through e.
func New(node proto.NodeID, at emitter.Settings, ignis bool, e *emitter.Emitter, log *zap.Logger, reg prometheus.Registerer) *Bus {
	b := &Bus{
		node: node, at: at, layout: at.Layout(), own: at.Layout().Inbox(node), ignis: ignis, emitter: e, log: log,
		answers: make(chan proto.Answer, 1024), began: time.Now(),
		asks: map[proto.AskID]chan int{},
	}
	o := at.Options()
	o.Dialer = b.dialer(redis.NewDialer(o))
	b.rdb = redis.NewClient(o)
	b.subs.init()
	b.reads.wake = make(chan struct{}, 1)
	b.metrics = newMetrics(reg, b)
	return b
}

// Subscribe wants a room to be heard: see hub.Subscriber.
func (b *Bus) Subscribe(r proto.Room) { b.subs.want(r) }

// Unsubscribe undoes one Subscribe. The room is heard for another ten seconds.
func (b *Bus) Unsubscribe(r proto.Room) { b.subs.drop(r, time.Now()) }

// Ready says why new clients should go to another node, or nil.
func (b *Bus) Ready() error { return b.health.ready(time.Now()) }

// Run listens and hands to dst until ctx ends, then returns nil. It outlives a lost
// Redis. It returns an error at once if this node may not work on this Redis: the
// others there use it in another way, or Redis refuses the node.
func (b *Bus) Run(ctx context.Context, dst Receiver) error {
	defer b.rdb.Close()
	b.flush = dst.Flush
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { b.answer(ctx); return nil })
	g.Go(func() error { b.readLog(ctx, dst); return nil })
	g.Go(func() error { b.watch(ctx, dst); return nil })
	g.Go(func() error { return b.run(ctx, dst) })
	return g.Wait()
}

func (b *Bus) run(ctx context.Context, dst Receiver) error {
	for try := 0; ctx.Err() == nil; try++ {
		err := b.once(ctx, dst, func() {
			try = 0
			away, told := b.health.restored(time.Now())
			b.log.Info("Redis is there", zap.String("redis_addr", b.at.Addr()), zap.Duration("away", away))
			if told {
				dst.Degraded(false)
			}
		})
		if ctx.Err() != nil {
			break
		}
		if !b.health.wasUp() && (errors.Is(err, emitter.ErrDisagrees) || errors.Is(err, emitter.ErrRefused)) {
			return fmt.Errorf("redis on %s: %w", b.at.Addr(), err)
		}
		interrupted, say, tell := b.health.lost(time.Now(), err)
		if interrupted {
			b.metrics.interruptions.Inc()
		}
		if say {
			b.log.Warn("no Redis", zap.String("redis_addr", b.at.Addr()), zap.Error(err))
		}
		if tell {
			dst.Degraded(true)
		}
		pause(ctx, try)
	}
	return nil
}

// pause waits before the next try: soon, because everyone waits for it, and at
// random, because every node does the same.
func pause(ctx context.Context, try int) {
	d := min(50*time.Millisecond<<min(try, 3), 250*time.Millisecond)
	select {
	case <-time.After(d/2 + rand.N(d/2)):
	case <-ctx.Done():
	}
}

// once listens on one connection until it fails.
func (b *Bus) once(ctx context.Context, dst Receiver, up func()) error {
	if err := b.at.Agree(ctx, b.rdb); err != nil {
		return err
	}
	ps := b.rdb.Subscribe(ctx) // connects with the first channel
	defer ps.Close()
	// A blocked read does not see ctx end, only its socket closing.
	defer context.AfterFunc(ctx, func() { _ = ps.Close() })()
	b.subs.reset()
	b.heard.Store(int64(time.Since(b.began)))

	ctx, stop := context.WithCancel(ctx)
	wrote := make(chan error, 1)
	go func() {
		err := b.write(ctx, ps, dst)
		_ = ps.Close() // the reader shall not wait for what was not asked
		wrote <- err
	}()
	err := b.read(ctx, ps, dst, up)
	_ = ps.Close()
	stop()
	if werr := <-wrote; werr != nil && !errors.Is(werr, context.Canceled) && !errors.Is(werr, redis.ErrClosed) {
		err = werr // the cause; the reader only saw a closed socket
	}
	b.subs.lost()
	dst.Lost() // when nobody is left who could say Subscribed
	return emitter.Classify(err)
}

// write subscribes to what is wanted: to this node's own channels first, then to rooms
// as they come and go. Between, it watches whether anything comes: a read with a timeout
// would lose a message of which only a part has arrived.
func (b *Bus) write(ctx context.Context, ps *redis.PubSub, dst Receiver) error {
	subscribe, unsubscribe := ps.Subscribe, ps.Unsubscribe
	if b.at.Ways() == emitter.Sharded {
		subscribe, unsubscribe = ps.SSubscribe, ps.SUnsubscribe
	}
	if err := subscribe(ctx, b.own); err != nil {
		return err
	}
	if b.ignis {
		if err := ps.PSubscribe(ctx, proto.IgnisPatterns(b.node)...); err != nil {
			return err
		}
	}
	watch := time.NewTicker(silence / 3)
	defer watch.Stop()
	var (
		pinged   int64     // what heard was at the last ping
		pingedAt time.Time // when that was
	)
	for {
		w := b.subs.next(time.Now())
		for _, r := range w.heard {
			dst.Subscribed(r)
		}
		err := each(ctx, w.subscribe, b.layout.Channel, subscribe)
		if b.ignis {
			err = errors.Join(err, each(ctx, w.subscribe, proto.IgnisChannel, ps.Subscribe))
			err = errors.Join(err, each(ctx, w.unsubscribe, proto.IgnisChannel, ps.Unsubscribe))
		}
		if err = errors.Join(err, each(ctx, w.unsubscribe, b.layout.Channel, unsubscribe)); err != nil {
			return err
		}
		if w.more {
			continue
		}
		select {
		case <-b.subs.wake:
		case now := <-watch.C:
			switch heard := b.heard.Load(); {
			case heard == pinged && now.Sub(pingedAt) > silence: // silent long before, too
				return errSilent
			case heard != pinged && now.Sub(b.began)-time.Duration(heard) > silence:
				pinged, pingedAt = heard, now
				if err := ps.Ping(ctx); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// each sends one command with the channels of all rooms.
func each(ctx context.Context, rooms []proto.Room, channel func(proto.Room) string, send func(context.Context, ...string) error) error {
	if len(rooms) == 0 {
		return nil
	}
	names := make([]string, len(rooms))
	for i, r := range rooms {
		names[i] = channel(r)
	}
	return send(ctx, names...)
}

var errSilent = errors.New("nothing came for 3 s, not even the answer to a ping")

// read hands on what comes until the connection fails. It reads without a timeout: write
// closes the connection when it has fallen silent.
func (b *Bus) read(ctx context.Context, ps *redis.PubSub, dst Receiver, up func()) error {
	own := 1 // channels of this node that are not confirmed
	if b.ignis {
		own += len(proto.IgnisPatterns(b.node))
	}
	defer dst.Flush()
	for isUp, messages := false, 0; ; {
		v, err := ps.Receive(ctx)
		if err != nil {
			return err
		}
		b.heard.Store(int64(time.Since(b.began)))
		switch v := v.(type) {
		case *redis.Message:
			b.receive(dst, v)
			if messages++; messages%together == 0 {
				dst.Flush()
			}
		case *redis.Subscription:
			if v.Kind == "psubscribe" || v.Channel == b.own {
				own--
			} else if room, heard := b.confirmed(v); heard {
				dst.Subscribed(room)
			}
			if !isUp && own == 0 && b.subs.settled() {
				isUp = true
				up()
			}
		}
	}
}

// confirmed takes note of what Redis says to a subscription. The room is heard when
// its channels are: ours, and the original's.
func (b *Bus) confirmed(s *redis.Subscription) (room proto.Room, heard bool) {
	switch s.Kind {
	case "subscribe", "ssubscribe":
		room, ok := b.layout.Room(s.Channel)
		if !ok {
			room, ok = proto.IgnisRoom(s.Channel)
		}
		if !ok {
			return "", false
		}
		need := 1
		if b.ignis {
			need = 2
		}
		return room, b.subs.confirm(room, need)
	}
	return "", false
}

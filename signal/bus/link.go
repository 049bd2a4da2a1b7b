package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// silence is how long nothing may come, then how long an answer to a ping may take.
const silence = 1500 * time.Millisecond

// A link listens on one connection: to the only Redis, to a master of a cluster for the
// rooms that it has, or to any of them for what all of them hear. It connects again until its
// server is none of the cluster's masters any more. What it asks of Redis beside that, in
// read.go and check.go, waits for no other server than its own.
type link struct {
	bus  *Bus
	addr string
	kind kind
	made time.Time

	subs   subscriptions
	reads  reads
	checks checks
	canary canary
	heard  atomic.Int64 // when something last came, nanoseconds since the bus began

	stop  context.CancelFunc // of run
	ended chan struct{}      // closed when run has
}

func (b *Bus) newLink(addr string, k kind) *link {
	l := &link{bus: b, addr: addr, kind: k, made: time.Now(), ended: make(chan struct{})}
	l.subs.init()
	l.reads.wake = make(chan struct{}, 1)
	l.checks.wake = make(chan struct{}, 1)
	l.canary.init(!l.tells())
	return l
}

// tells says whether what this link hears makes a room heard: our channel, not the original's.
func (l *link) tells() bool { return l.kind != originals }

// A naming is a way in which rooms are called on Redis.
type naming struct {
	channel                func(proto.Room) string
	room                   func(channel string) (proto.Room, bool)
	subscribe, unsubscribe func(*redis.PubSub, context.Context, ...string) error
	single                 bool // channel in a command: those of a cluster are of many slots
}

var originalNaming = naming{
	proto.IgnisChannel, proto.IgnisRoom, (*redis.PubSub).Subscribe, (*redis.PubSub).Unsubscribe, false,
}

// names are those that are subscribed for each room. The room is heard when the last one is
// confirmed: Redis answers in the order in which it was asked.
func (l *link) names() []naming {
	b := l.bus
	own := naming{b.layout.Channel, b.layout.Room, (*redis.PubSub).Subscribe, (*redis.PubSub).Unsubscribe, false}
	if b.at.Ways() == emitter.Sharded {
		own.subscribe, own.unsubscribe, own.single = (*redis.PubSub).SSubscribe, (*redis.PubSub).SUnsubscribe, b.sharded()
	}
	switch l.kind {
	case ours:
		return []naming{own}
	case originals:
		return []naming{originalNaming}
	}
	return []naming{originalNaming, own}
}

// run listens until ctx ends, then returns nil. It outlives a lost Redis. It returns an error
// if Redis refuses a node that has never been up.
func (l *link) run(ctx context.Context, dst Receiver) error {
	defer close(l.ended)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { l.readLog(ctx, dst); return nil })
	g.Go(func() error { l.look(ctx, dst); return nil })
	g.Go(func() error { return l.listen(ctx, dst) })
	return g.Wait()
}

func (l *link) listen(ctx context.Context, dst Receiver) error {
	b := l.bus
	for try := 0; ctx.Err() == nil; try++ {
		err := l.once(ctx, dst, func() {
			try = 0
			b.restored(l, dst)
		})
		if ctx.Err() != nil {
			break
		}
		if !b.health.wasUp() && (errors.Is(err, emitter.ErrDisagrees) || errors.Is(err, emitter.ErrRefused)) {
			return fmt.Errorf("redis on %s: %w", l.addr, err)
		}
		if b.lost(l, err) {
			dst.Degraded(true)
		}
		b.routes.doubt()
		pause(ctx, try)
	}
	return nil
}

// lost takes note of a connection or a try that failed, and says whether clients are to be
// told.
func (b *Bus) lost(l *link, err error) (tell bool) {
	interrupted, say, tell := b.health.lost(l, time.Now(), err)
	if interrupted {
		b.metrics.interruptions.Inc()
	}
	if say {
		addr, hears := b.at.Addr(), ""
		if l != nil {
			addr, hears = l.addr, l.kind.String()
		}
		b.log.Warn("no Redis", zap.String("redis_addr", addr), zap.String("hears", hears), zap.Error(err))
	}
	return tell
}

// restored takes note that a link hears all that it shall, or is needed no more.
func (b *Bus) restored(l *link, dst Receiver) {
	all, away, told := b.health.restored(l, time.Now())
	if all {
		b.log.Info("Redis is there", zap.Float64("away_seconds", away.Seconds()))
		signal(b.back)
	}
	if told {
		dst.Degraded(false)
	}
}

// pause waits before the next try: soon, because everyone waits for it, and at
// random, because every node does the same.
func pause(ctx context.Context, try int) {
	d := min(50*time.Millisecond<<min(try, 3), 250*time.Millisecond)
	wait(ctx, d/2+rand.N(d/2))
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// once listens on one connection until it fails.
func (l *link) once(ctx context.Context, dst Receiver, up func()) error {
	b := l.bus
	if err := l.agree(ctx); err != nil {
		return err
	}
	o := b.at.Options(l.addr)
	o.Dialer = onceFlushing(redis.NewDialer(o), b.flush)
	rdb := redis.NewClient(o)
	defer rdb.Close()
	ps := rdb.Subscribe(ctx) // connects with the first channel
	defer ps.Close()
	// A blocked read does not see ctx end, only its socket closing.
	defer context.AfterFunc(ctx, func() { _ = ps.Close() })()
	l.subs.reset()
	l.heard.Store(b.clock())
	l.canary.reset()

	ctx, stop := context.WithCancel(ctx)
	wrote, sang := make(chan error, 1), make(chan error, 1)
	go func() {
		err := l.write(ctx, ps, dst)
		_ = ps.Close() // the reader shall not wait for what was not asked
		wrote <- err
	}()
	go func() {
		err := l.sing(ctx)
		_ = ps.Close()
		sang <- err
	}()
	err := l.read(ctx, ps, dst, up)
	_ = ps.Close()
	stop()
	for _, other := range []error{<-wrote, <-sang} {
		if other != nil && !errors.Is(other, context.Canceled) && !errors.Is(other, redis.ErrClosed) && !errors.Is(other, errDialed) {
			err = other // the cause; the reader only saw a closed socket
		}
	}
	b.routes.moving.Lock()
	defer b.routes.moving.Unlock()
	if rooms := l.subs.lost(); l.tells() {
		dst.Lost(rooms) // when nobody is left who could say Subscribed
	}
	return emitter.Classify(err)
}

// agree asks whether this node still fits to the others, who may be others by now. On a
// cluster one master knows.
func (l *link) agree(ctx context.Context) error {
	b := l.bus
	if addr, err := b.emitter.Master(ctx, proto.Control); err != nil || addr != l.addr {
		return err
	}
	return b.check(ctx)
}

// write subscribes to rooms as they come and go. Between, it watches whether anything
// comes: a read with a timeout would lose a message of which only a part has arrived.
func (l *link) write(ctx context.Context, ps *redis.PubSub, dst Receiver) error {
	b, names := l.bus, l.names()
	if l.kind != ours {
		if err := ps.PSubscribe(ctx, proto.IgnisPatterns(b.node)...); err != nil {
			return err
		}
	}
	if err := l.perch(ctx, ps); err != nil {
		return err
	}
	watch := time.NewTicker(silence / 3)
	defer watch.Stop()
	var (
		pinged   int64     // what heard was at the last ping
		pingedAt time.Time // when that was
	)
	for {
		w := l.subs.next(time.Now())
		for _, r := range w.heard {
			l.hears(r, dst)
		}
		for _, n := range names {
			if err := errors.Join(n.each(ctx, ps, w.subscribe, n.subscribe), n.each(ctx, ps, w.unsubscribe, n.unsubscribe)); err != nil {
				return err
			}
		}
		if w.more {
			continue
		}
		select {
		case <-l.subs.wake:
		case <-l.canary.astray:
			if err := l.perch(ctx, ps); err != nil {
				return err
			}
		case now := <-watch.C:
			switch heard := l.heard.Load(); {
			case heard == pinged && now.Sub(pingedAt) > silence: // silent long before, too
				return errSilent
			case heard != pinged && b.clock()-heard > int64(silence):
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

// each sends one command with the channels of all rooms, or one for each.
func (n *naming) each(ctx context.Context, ps *redis.PubSub, rooms []proto.Room, send func(*redis.PubSub, context.Context, ...string) error) error {
	if len(rooms) == 0 {
		return nil
	}
	names := make([]string, len(rooms))
	for i, r := range rooms {
		if names[i] = n.channel(r); n.single {
			if err := send(ps, ctx, names[i]); err != nil {
				return err
			}
		}
	}
	if n.single {
		return nil
	}
	return send(ps, ctx, names...)
}

var errSilent = errors.New("nothing came for 3 s, not even the answer to a ping")

// read hands on what comes until the connection fails. It reads without a timeout: write
// closes the connection when it has fallen silent.
func (l *link) read(ctx context.Context, ps *redis.PubSub, dst Receiver, up func()) error {
	b := l.bus
	defer dst.Flush()
	for isUp, messages := false, 0; ; {
		v, err := ps.Receive(ctx)
		if _, moved := redis.IsMovedError(err); moved { // a room whose slot is elsewhere: which, it does not say
			l.subs.retry()
			b.routes.doubt()
			continue
		}
		if redis.HasErrorPrefix(err, "NOPERM") {
			err = fmt.Errorf("%s (its user on Redis needs &%s:*, and allchannels to hear the original, or APP_ENV_SIGNAL_IGNIS=off): %w", l.kind, b.layout.Prefix, err)
		}
		if err != nil {
			return err
		}
		l.heard.Store(b.clock())
		switch v := v.(type) {
		case *redis.Message:
			if v.Channel == l.canary.channel() {
				l.canary.heard(v.Payload, b.metrics)
				break
			}
			b.receive(dst, v)
			if messages++; messages%together == 0 {
				dst.Flush()
			}
		case *redis.Subscription:
			l.subscribed(v, dst)
		}
		if !isUp && l.canary.alive() && l.subs.settled() {
			isUp = true
			up()
		}
	}
}

// subscribed takes note of what Redis says to a subscription, or that it gives up one
// because the slot has moved.
func (l *link) subscribed(s *redis.Subscription, dst Receiver) {
	last := l.counts()
	switch s.Kind {
	case "subscribe", "ssubscribe":
		if s.Channel == l.canary.channel() {
			l.canary.perched()
		} else if room, ok := last.room(s.Channel); ok && l.subs.confirm(room) {
			l.hears(room, dst)
		}
	case "sunsubscribe":
		if s.Channel == l.canary.channel() {
			l.canary.lost()
		} else if room, ok := last.room(s.Channel); !ok || !l.gone(room, dst) {
			return // as we asked
		}
		l.bus.routes.doubt()
	}
}

// gone takes note that the server has given up a room by itself, if that is so.
func (l *link) gone(room proto.Room, dst Receiver) bool {
	l.bus.routes.moving.Lock()
	defer l.bus.routes.moving.Unlock()
	gone := l.subs.gone(room)
	if gone && l.tells() {
		dst.Lost([]proto.Room{room})
	}
	return gone
}

// counts is the name whose confirmation makes a room heard.
func (l *link) counts() naming {
	names := l.names()
	return names[len(names)-1]
}

// hears tells that a room is heard, if its events come here.
func (l *link) hears(room proto.Room, dst Receiver) {
	if l.tells() && room != l.bus.inbox && room != proto.Control {
		dst.Subscribed(room)
	}
}

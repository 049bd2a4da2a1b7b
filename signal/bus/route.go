package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

const (
	// mastersEvery is how often a cluster is asked who its masters are; after a doubt at once,
	// but not more often than doubtEvery.
	mastersEvery = 2 * time.Second
	doubtEvery   = 50 * time.Millisecond
	// looks at all rooms after a doubt: the first answer may be older than what it was about.
	looks = 2
)

// routes are the links, and which of them hears which room. One goroutine makes links and
// moves rooms between them when slots move or a replica takes its master's place;
// the others only note what they want, or that they doubt (TestSlotsMove, TestMasterIsKilled).
type routes struct {
	wake     chan struct{} // holds one: something is wanted
	doubtful chan struct{} // holds one: a slot may have moved

	// moving is held while rooms go from one link to another and dst is told so: else a link that has lost its
	// connection could tell it of a room that another one hears by then.
	moving sync.Mutex

	mu     sync.RWMutex // taken after the hub's locks, before a link's
	wanted []want       // guarded by mu: in the order of the calls
	links  []*link      // guarded by mu
}

// A want is one Subscribe, or Unsubscribe.
type want struct {
	room proto.Room
	more bool
}

// A kind says what a link hears of a room.
type kind int

const (
	ours      kind = iota // our channel of the room
	both                  // ours, and the original's
	originals             // the original's alone
)

// String says what is heard, for the log.
func (k kind) String() string {
	return [...]string{"ours", "ours and the original's", "the original's"}[k]
}

// kinds are those of this node's links.
func (b *Bus) kinds() []kind {
	switch {
	case !b.ignis:
		return []kind{ours}
	case b.sharded():
		return []kind{ours, originals}
	}
	return []kind{both}
}

// sharded says whether each room is heard from the master that has it.
func (b *Bus) sharded() bool { return b.at.Mode == emitter.Cluster && b.at.Ways() == emitter.Sharded }

func (r *routes) init() { r.wake, r.doubtful = make(chan struct{}, 1), make(chan struct{}, 1) }

func (r *routes) want(room proto.Room, more bool) {
	r.mu.Lock()
	r.wanted = append(r.wanted, want{room, more})
	r.mu.Unlock()
	signal(r.wake)
}

// doubt lets the masters be asked for again.
func (r *routes) doubt() { signal(r.doubtful) }

func (r *routes) all() []*link {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.links)
}

// with is the link that a room is with, or the first one that could be. It is called with
// mu held.
func (r *routes) with(room proto.Room) (first *link) {
	for _, l := range r.links {
		if l.kind == originals {
			continue
		}
		if l.subs.has(room) {
			return l
		}
		if first == nil {
			first = l
		}
	}
	return first
}

// needs says whether somebody wants a room.
func (r *routes) needs(room proto.Room) bool {
	r.moving.Lock()
	defer r.moving.Unlock()
	return slices.ContainsFunc(r.all(), func(l *link) bool { return l.tells() && l.subs.wanted(room) })
}

// size is how many rooms are heard or shall be.
func (r *routes) size() (n int) {
	for _, l := range r.all() {
		if l.kind != originals {
			n += l.subs.size()
		}
	}
	return n
}

// route works until ctx ends, then returns nil, or with the error of a link.
func (b *Bus) route(ctx context.Context, dst Receiver) error {
	if err := b.reach(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	found := make(chan topology)
	g.Go(func() error { b.keepLease(ctx); return nil }) // who is refused does not live
	g.Go(func() error { b.askMasters(ctx, found); return nil })
	g.Go(func() error {
		for {
			select {
			case t := <-found:
				b.follow(ctx, dst, g, t)
			case <-b.routes.wake:
			case <-ctx.Done():
				return nil
			}
			b.serve(ctx)
		}
	})
	return g.Wait()
}

// A topology is who the masters are.
type topology struct {
	masters []string
	doubted bool // slots may have moved between them
}

// askMasters asks the cluster now and then, and when somebody doubts, until ctx ends. Nobody
// waits for it: a server that hangs is asked too.
func (b *Bus) askMasters(ctx context.Context, found chan<- topology) {
	every := time.NewTicker(mastersEvery)
	defer every.Stop()
	for doubts := looks; ; {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		masters, err := b.emitter.Masters(bounded)
		cancel()
		if err != nil || len(masters) == 0 {
			if ctx.Err() == nil {
				b.log.Warn("the cluster does not say who its masters are", zap.Error(err))
			}
		} else {
			select {
			case found <- topology{masters, doubts > 0}:
				doubts = max(doubts-1, 0)
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-b.routes.doubtful:
			doubts = looks
			wait(ctx, doubtEvery)
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// check says whether this node fits to the others, and tells them if they must sign, or mirror.
func (b *Bus) check(ctx context.Context) error {
	if err := b.emitter.Check(ctx); err != nil {
		return err
	}
	return b.emitter.Enforce(ctx)
}

// reach waits for Redis to answer for the first time, and to agree.
func (b *Bus) reach(ctx context.Context) error {
	for try := 0; ; try++ {
		err := b.check(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, emitter.ErrDisagrees) || errors.Is(err, emitter.ErrRefused) {
			return fmt.Errorf("redis on %s: %w", b.at.Addr(), err)
		}
		b.lost(nil, err)
		pause(ctx, try)
	}
}

// serve gives rooms that are wanted to their links. Before there is one they wait.
func (b *Bus) serve(ctx context.Context) {
	links := b.routes.all()
	if len(links) == 0 {
		return
	}
	b.routes.mu.Lock()
	wanted := b.routes.wanted
	b.routes.wanted = nil
	b.routes.mu.Unlock()
	for _, w := range wanted {
		for _, k := range b.kinds() {
			i := slices.IndexFunc(links, func(l *link) bool { return l.kind == k && l.subs.has(w.room) })
			switch {
			case i >= 0 && !w.more:
				links[i].subs.drop(w.room, time.Now())
			case i >= 0:
				links[i].subs.want(w.room, 1)
			case w.more:
				b.home(ctx, links, w.room, k).subs.want(w.room, 1)
			}
		}
	}
}

// home is the link that a room is to be with. While nobody knows, it is any: Redis will say
// that the room is not there.
func (b *Bus) home(ctx context.Context, links []*link, room proto.Room, k kind) (home *link) {
	var addr string
	if k == ours && b.sharded() {
		addr, _ = b.emitter.Master(ctx, room)
	}
	for _, l := range links {
		if l.kind == k && (home == nil || l.addr == addr) {
			home = l
		}
	}
	return home
}

// follow makes the links what the cluster is now. Rooms are looked at when they have changed,
// or when somebody doubts.
func (b *Bus) follow(ctx context.Context, dst Receiver, g *errgroup.Group, t topology) {
	made, gone := b.relink(t.masters)
	for _, l := range gone {
		l.stop()
	}
	for _, l := range made {
		b.health.expect(l, time.Now())
		var linkCtx context.Context
		linkCtx, l.stop = context.WithCancel(ctx)
		g.Go(func() error { return l.run(linkCtx, dst) })
	}
	for _, l := range gone {
		b.log.Info("listens to this Redis no more", zap.String("redis_addr", l.addr), zap.Stringer("heard", l.kind), zap.Strings("masters", t.masters))
	}
	if len(made)+len(gone) > 0 || t.doubted {
		b.move(ctx, dst, gone)
	}
	for _, l := range gone {
		g.Go(func() error { b.bury(l, dst); return nil })
	}
}

// bury waits for a link whose rooms are others' now: it may wait for its server, and they do
// not.
func (b *Bus) bury(l *link, dst Receiver) {
	<-l.ended
	b.restored(l, dst)
	for _, r := range l.reads.drain() {
		b.Read(r.room, r.since, r.order)
	}
}

// relink takes out the links whose server is none of the masters any more, and makes those
// that are missing.
func (b *Bus) relink(masters []string) (made, gone []*link) {
	b.routes.mu.Lock()
	defer b.routes.mu.Unlock()
	var links []*link
	for _, k := range b.kinds() {
		want := masters
		if k != ours || !b.sharded() {
			want = []string{b.anyOf(masters, k)}
		}
		for _, addr := range want {
			i := slices.IndexFunc(b.routes.links, func(l *link) bool { return l.kind == k && l.addr == addr })
			if i >= 0 {
				links = append(links, b.routes.links[i])
				continue
			}
			l := b.newLink(addr, k)
			links, made = append(links, l), append(made, l)
		}
	}
	for _, l := range b.routes.links {
		if !slices.Contains(links, l) {
			gone = append(gone, l)
		}
	}
	b.routes.links = links
	return made, gone
}

// anyOf is the master to listen to for what is published classically, which comes from every
// server: the present one while it answers. It is called with routes.mu held.
func (b *Bus) anyOf(masters []string, k kind) string {
	i := slices.IndexFunc(b.routes.links, func(l *link) bool { return l.kind == k })
	if i >= 0 {
		now := b.routes.links[i]
		if slices.Contains(masters, now.addr) && (len(masters) == 1 || !b.health.failing(now, time.Now())) {
			return now.addr
		}
		masters = slices.DeleteFunc(slices.Clone(masters), func(addr string) bool { return addr == now.addr })
	}
	return masters[rand.IntN(len(masters))]
}

// move gives each room to the link that it is to be with, and asks again for what a server
// has refused or given up.
func (b *Bus) move(ctx context.Context, dst Receiver, gone []*link) {
	links := b.routes.all()
	for _, l := range slices.Concat(gone, links) {
		for _, room := range l.subs.all() {
			to := b.home(ctx, links, room, l.kind)
			if to == l {
				continue
			}
			b.routes.moving.Lock()
			wanted, heard := l.subs.take(room)
			if heard && l.tells() {
				dst.Lost([]proto.Room{room})
			}
			if wanted > 0 {
				b.metrics.moved.Inc()
				to.subs.want(room, wanted)
			}
			b.routes.moving.Unlock()
		}
		l.subs.again()
		l.canary.again()
	}
}

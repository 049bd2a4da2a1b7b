package bus

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// Where Redis has rooms. A message that was lost on the way is missed even if it was its
// room's last: every few seconds it is looked where quiet rooms are. Each link looks after its
// own rooms.
const (
	checkEvery  = 4 // seconds: what was lost comes within twice that
	checkAtOnce = 500
	pausedAfter = 3 * time.Second // of a second that has taken so long
	renewEvery  = 20 * time.Minute
)

// checks are what a link has to look after.
type checks struct {
	wake chan struct{} // holds one: due is handed over
	busy atomic.Bool   // since due was handed over
	due  []proto.Room  // of watch, or of look while busy
	roll emitter.Roll  // of look
}

// watch counts the seconds. A second that took much longer means that this process, or its
// machine, stood still: what was sent to it meanwhile may be gone without a word, so all
// rooms are looked after at once.
func (b *Bus) watch(ctx context.Context, dst Receiver) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var due []proto.Room
	last := time.Now()
	for n := 1; ; n++ {
		select {
		case <-second.C:
		case <-ctx.Done():
			return
		}
		stood := time.Since(last)
		last = time.Now()
		dst.Tick()
		paused := stood > pausedAfter
		if paused {
			b.metrics.pauses.Inc()
			b.log.Warn("the process stood still", zap.Duration("for", stood))
		}
		if paused || n%checkEvery == 0 {
			due = dst.Due(due[:0], paused)
			b.handOut(due)
			clear(due) // keep no name alive
		}
	}
}

// handOut gives each link the rooms that it is to look after. One that still looks after the
// last ones gets none: they are due again.
func (b *Bus) handOut(due []proto.Room) {
	b.routes.mu.RLock()
	defer b.routes.mu.RUnlock()
	for _, r := range due {
		if l := b.routes.with(r); !l.checks.busy.Load() {
			l.checks.due = append(l.checks.due, r)
		}
	}
	for _, l := range b.routes.links {
		if !l.checks.busy.Load() && len(l.checks.due) > 0 {
			l.checks.busy.Store(true)
			signal(l.checks.wake)
		}
	}
}

// look looks after rooms until ctx ends.
func (l *link) look(ctx context.Context, dst Receiver) {
	for {
		select {
		case <-l.checks.wake:
		case <-ctx.Done():
			return
		}
		for batch := range slices.Chunk(l.checks.due, checkAtOnce) {
			if errors.Is(l.check(ctx, dst, batch), emitter.ErrUnavailable) {
				break // they are due again
			}
		}
		clear(l.checks.due) // keep no name alive
		l.checks.due = l.checks.due[:0]
		l.checks.busy.Store(false)
	}
}

// check looks after some rooms. What is wrong with one of them costs the others nothing: it is
// counted, and read, which tells its members, or the log why it cannot be (TestPoisonedRoom).
func (l *link) check(ctx context.Context, dst Receiver, batch []proto.Room) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, r := range batch {
		l.checks.roll.Add(r, dst.At(r))
	}
	all, err := l.checks.roll.Call(ctx, l.bus.emitter)
	if all || errors.Is(err, emitter.ErrUnavailable) {
		return err
	}
	return l.bus.emitter.Positions(ctx, batch, func(r proto.Room, at proto.Position, err error) {
		if errors.Is(err, emitter.ErrUnavailable) {
			return // it is due again
		}
		if err != nil {
			l.bus.metrics.unchecked.Inc()
		}
		dst.Checked(r, at)
	})
}

// renew keeps, until ctx ends, the positions of rooms with members, so that a room in which
// nothing happens does not begin anew under them.
func (b *Bus) renew(ctx context.Context) {
	every := time.NewTicker(renewEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		for _, l := range b.routes.all() {
			for batch := range slices.Chunk(l.subs.all(), checkAtOnce) {
				bounded, cancel := context.WithTimeout(ctx, readTimeout)
				err := b.emitter.Renew(bounded, batch)
				cancel()
				if err != nil && ctx.Err() == nil {
					b.log.Warn("positions not renewed", zap.String("redis_addr", l.addr), zap.Error(err))
				}
				if errors.Is(err, emitter.ErrUnavailable) {
					break // in good time again: they live for an hour
				}
			}
		}
	}
}

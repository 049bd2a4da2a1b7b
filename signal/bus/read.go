package bus

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// What of Redis is read beside what it publishes: the events after a position, when a room
// or a client lacks some, and the positions of quiet rooms, to find out whether one does.
const (
	readsAtOnce  = 64
	checkAtOnce  = 500
	checkEvery   = 4               // seconds: what was lost comes within twice that
	pausedAfter  = 3 * time.Second // of a second that has taken so long
	readTimeout  = 2 * time.Second
	readAgain    = 100 * time.Millisecond // while Redis is away; twice as long each time
	readAgainMax = 2 * time.Second
	renewEvery   = 1200 // seconds
)

// A read is what somebody waits for. While Redis does not answer, it stays.
type read struct {
	room  proto.Room
	since proto.Position
	order bool
}

// reads are queued, and read some at a time.
type reads struct {
	wake chan struct{} // holds one: the queue is not empty

	mu      sync.Mutex
	queue   []read        // guarded by mu
	refused map[read]bool // guarded by mu: to be asked again after a while
}

// Read asks what follows a position of a room: see hub.Subscriber.
func (b *Bus) Read(r proto.Room, since proto.Position, order bool) {
	b.reads.mu.Lock()
	b.reads.queue = append(b.reads.queue, read{r, since, order})
	b.reads.mu.Unlock()
	select {
	case b.reads.wake <- struct{}{}:
	default:
	}
}

func (q *reads) next() []read {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.queue), readsAtOnce)
	batch := q.queue[:n:n]
	if q.queue = q.queue[n:]; len(q.queue) == 0 {
		q.queue = nil
	}
	return batch
}

// readLog answers reads until ctx ends.
func (b *Bus) readLog(ctx context.Context, dst Receiver) {
	pause := readAgain
	for {
		batch := b.reads.next()
		if len(batch) == 0 {
			select {
			case <-b.reads.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if b.readBatch(ctx, dst, batch) {
			pause = readAgain
			continue
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, readAgainMax)
		case <-ctx.Done():
			return
		}
	}
}

// readBatch says whether Redis answered. What it did not answer is queued again; a room
// that it refuses to read waits, and the others do not wait for it.
func (b *Bus) readBatch(ctx context.Context, dst Receiver, batch []read) (answered bool) {
	asked := make([]emitter.Read, len(batch))
	for i, r := range batch {
		asked[i] = emitter.Read{Room: r.room, Since: r.since.String()}
	}
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var failed error // said once, for all rooms
	for i, p := range b.emitter.Read(bounded, asked) {
		r := batch[i]
		switch {
		case errors.Is(p.Err, emitter.ErrRefused):
			b.refused(r, p.Err)
			continue
		case p.Err != nil:
			failed = p.Err
			b.Read(r.room, r.since, r.order)
			continue
		}
		b.metrics.reads.WithLabelValues(string(p.Found)).Inc()
		dst.Replied(r.room, r.since, r.order, p.Page)
	}
	if failed != nil && ctx.Err() == nil {
		b.log.Warn("rooms not read", zap.Int("rooms", len(batch)), zap.Error(failed))
	}
	return failed == nil
}

// refused asks again later, once for all who want the same, and as long as somebody is in
// the room.
func (b *Bus) refused(r read, err error) {
	b.reads.mu.Lock()
	defer b.reads.mu.Unlock()
	if b.reads.refused[r] {
		return
	}
	if b.reads.refused == nil {
		b.reads.refused = map[read]bool{}
	}
	b.reads.refused[r] = true
	b.log.Warn("room not read", zap.String("room", string(r.room)), zap.Error(err))
	time.AfterFunc(readAgainMax, func() {
		b.reads.mu.Lock()
		delete(b.reads.refused, r)
		b.reads.mu.Unlock()
		if b.subs.wanted(r.room) {
			b.Read(r.room, r.since, r.order)
		}
	})
}

// watch counts the seconds. Every few of them it looks where quiet rooms are, so that a
// message which was lost on the way is missed even if it was the room's last. A second that
// took much longer means that this process, or its machine, stood still: what was sent to
// it meanwhile may be gone without a word, so all rooms are looked after at once.
func (b *Bus) watch(ctx context.Context, dst Receiver) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	last := time.Now()
	for n := 1; ; n++ {
		select {
		case <-second.C:
		case <-ctx.Done():
			return
		}
		stood := time.Since(last)
		dst.Tick()
		if stood > pausedAfter {
			b.metrics.pauses.Inc()
			b.log.Warn("the process stood still", zap.Duration("for", stood))
			b.check(ctx, dst, true)
		} else if n%checkEvery == 0 {
			b.check(ctx, dst, false)
		}
		if n%renewEvery == 0 {
			b.renew(ctx)
		}
		last = time.Now()
	}
}

// check looks where rooms are: all, or those whose turn it is. What Redis does not answer
// has its turn again.
func (b *Bus) check(ctx context.Context, dst Receiver, all bool) {
	b.due = dst.Due(b.due[:0], all)
	for batch := range slices.Chunk(b.due, checkAtOnce) {
		if b.checkBatch(ctx, dst, batch) != nil {
			break
		}
	}
	clear(b.due) // keep no name alive
}

func (b *Bus) checkBatch(ctx context.Context, dst Receiver, batch []proto.Room) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, r := range batch {
		b.roll.Add(r, dst.At(r))
	}
	if all, err := b.roll.Call(ctx, b.emitter); all || err != nil {
		return err
	}
	at, err := b.emitter.Positions(ctx, batch)
	if err != nil {
		return err
	}
	for i, r := range batch {
		dst.Checked(r, at[i])
	}
	return nil
}

// renew keeps the positions of rooms with members, so that a room in which nothing happens
// does not begin anew under them.
func (b *Bus) renew(ctx context.Context) {
	for batch := range slices.Chunk(b.subs.all(), checkAtOnce) {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		err := b.emitter.Renew(bounded, batch)
		cancel()
		if err != nil && ctx.Err() == nil {
			b.log.Warn("positions not renewed", zap.Error(err))
			return // in good time again: they live for an hour
		}
	}
}

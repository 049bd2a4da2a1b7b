package bus

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// What is read of Redis when a room or a client lacks events: those after a position. Each
// link reads for its own rooms, some at a time: Redis serves nobody else meanwhile, so fewer where
// events are long (TestAttack/B4).
const (
	readsMost    = 64
	batchBytes   = 256 << 10 // of the answers, as of those before
	readTimeout  = 2 * time.Second
	readAgain    = 100 * time.Millisecond // while Redis is away; twice as long each time
	readAgainMax = 2 * time.Second
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
	rooms   []read        // guarded by mu: for the order of a room
	queue   []read        // guarded by mu: others
	refused map[read]bool // guarded by mu: to be asked again after a while
}

// Read asks what follows a position of a room: see hub.Subscriber.
func (b *Bus) Read(r proto.Room, since proto.Position, order bool) {
	b.routes.mu.RLock()
	defer b.routes.mu.RUnlock() // a link that is taken out meanwhile hands on what it has
	b.routes.with(r).reads.add(read{r, since, order})
}

func (q *reads) add(r read) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.order {
		q.rooms = append(q.rooms, r)
	} else {
		q.queue = append(q.queue, r)
	}
	signal(q.wake)
}

// drain takes all that waits.
func (q *reads) drain() []read {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := append(q.rooms, q.queue...)
	q.rooms, q.queue = nil, nil
	return all
}

// next takes at most so many: first those on which a whole room waits, but one of the others at least.
func (q *reads) next(most int) (batch []read) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch = take(&q.rooms, max(most-min(len(q.queue), 1), 1))
	return append(batch, take(&q.queue, max(most-len(batch), 1))...)
}

func take(queue *[]read, most int) []read {
	n := min(len(*queue), most)
	some := (*queue)[:n:n]
	if *queue = (*queue)[n:]; len(*queue) == 0 {
		*queue = nil
	}
	return some
}

// readLog answers reads until ctx ends.
func (l *link) readLog(ctx context.Context, dst Receiver) {
	pause, most := readAgain, readsMost
	for {
		batch := l.reads.next(most)
		if ctx.Err() != nil {
			for _, r := range batch {
				l.reads.add(r)
			}
			return
		}
		if len(batch) == 0 {
			select {
			case <-l.reads.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		began := time.Now()
		if bytes, answered := l.readBatch(ctx, dst, batch); answered {
			pause = readAgain
			switch {
			case bytes > batchBytes:
				most = max(len(batch)/2, 1)
				wait(ctx, time.Since(began)) // others have their turn
			case len(batch) >= most:
				most = min(2*most, readsMost)
			}
			continue
		}
		wait(ctx, pause)
		pause = min(2*pause, readAgainMax)
	}
}

// readBatch says whether Redis answered, and with how many bytes. What it did not answer is queued
// again; a room that it refuses to read waits, and the others do not wait for it.
func (l *link) readBatch(ctx context.Context, dst Receiver, batch []read) (bytes int, answered bool) {
	b := l.bus
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
			l.refused(r, p.Err)
			continue
		case p.Err != nil:
			failed = p.Err
			l.reads.add(r)
			continue
		}
		b.metrics.reads.WithLabelValues(string(p.Found)).Inc()
		for i := range p.Events {
			bytes += len(p.Events[i].Data)
		}
		dst.Replied(r.room, r.since, r.order, p.Page)
	}
	if failed != nil && ctx.Err() == nil {
		b.log.Warn("rooms not read", zap.Int("rooms", len(batch)), zap.Error(failed))
	}
	return bytes, failed == nil
}

// refused asks again later, once for all who want the same, and as long as somebody is in
// the room.
func (l *link) refused(r read, err error) {
	l.reads.mu.Lock()
	defer l.reads.mu.Unlock()
	if l.reads.refused[r] {
		return
	}
	if l.reads.refused == nil {
		l.reads.refused = map[read]bool{}
	}
	l.reads.refused[r] = true
	l.bus.log.Warn("room not read", zap.String("room", string(r.room)), zap.Error(err))
	time.AfterFunc(readAgainMax, func() {
		l.reads.mu.Lock()
		delete(l.reads.refused, r)
		l.reads.mu.Unlock()
		if l.bus.routes.needs(r.room) {
			l.bus.Read(r.room, r.since, r.order)
		}
	})
}

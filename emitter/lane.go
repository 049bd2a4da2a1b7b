package emitter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// Durable events wait in lanes. A room is always in the same lane, which has one call for it
// under way at a time: so the events of a room are published in the order in which this
// emitter was given them, also when Redis goes away in between and they are tried again.
// What comes while a call is under way goes with the next one: the more there is, the less
// each costs (BenchmarkPublish). A lane has a goroutine while it has events.
const (
	lanes      = 16
	callEvents = 64 // the most of one room in one call
	callBytes  = 256 << 10
	callRooms  = 64 // the most in one round trip

	patience   = 10 * time.Second // of a durable event for Redis
	roundTrip  = 5 * time.Second
	firstPause = 50 * time.Millisecond
	longPause  = time.Second
)

// The most that waits in an Emitter for Redis; what comes then is ErrQueueFull at once.
const (
	MaxQueued      = 10_000   // events
	MaxQueuedBytes = 16 << 20 // of their data
)

// A sending is an event that waits.
type sending struct {
	ctx     context.Context // of its caller: when it ends, nobody waits for the event any more
	room    proto.Room
	print   string
	body    []byte
	receipt Receipt
	err     error
	done    chan struct{} // closed when receipt or err is there, or nothing will be
	dropped bool          // nothing will be
}

// A lane is the rooms of one hash.
type lane struct {
	emitter *Emitter

	mu      sync.Mutex
	waiting map[proto.Room][]*sending // guarded by mu
	order   []proto.Room              // guarded by mu: rooms in waiting, the longest first
	running bool                      // guarded by mu
	last    error                     // guarded by mu: why Redis did not take what waits
	closed  bool                      // guarded by mu
}

var laneSeed = maphash.MakeSeed()

// durable publishes an event of a room. While Redis is away it is tried again under the same
// id, which Redis takes once.
func (e *Emitter) durable(ctx context.Context, room proto.Room, m proto.Message) (Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s := &sending{
		ctx: ctx, room: room, print: proto.Fingerprint(m.Event), body: proto.AppendBody(nil, m),
		receipt: Receipt{EventID: m.EventID}, done: make(chan struct{}),
	}
	l := &e.lanes[maphash.String(laneSeed, string(room))%lanes]
	if err := l.add(s); err != nil {
		return Receipt{EventID: m.EventID}, err
	}
	select {
	case <-s.done:
		if !s.dropped {
			return s.receipt, s.err
		}
	case <-ctx.Done():
	}
	return Receipt{EventID: m.EventID}, l.gaveUp(s)
}

// gaveUp is the error of an event for which its sender waits no longer. If it is not under
// way, it makes room for others.
func (l *lane) gaveUp(s *sending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting[s.room], s); i >= 0 {
		l.emitter.forget(s)
		if l.waiting[s.room] = slices.Delete(l.waiting[s.room], i, i+1); len(l.waiting[s.room]) == 0 {
			delete(l.waiting, s.room)
			l.order = slices.DeleteFunc(l.order, func(r proto.Room) bool { return r == s.room })
		}
	}
	switch err := s.ctx.Err(); {
	case errors.Is(err, context.Canceled):
		return err
	case l.last != nil:
		return fmt.Errorf("%w: %w", l.last, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

// add lets an event wait, and wakes the lane.
func (l *lane) add(s *sending) error {
	e := l.emitter
	events, bytes := e.queued.Add(1), e.queuedBytes.Add(int64(len(s.body)))
	if events > MaxQueued || bytes > MaxQueuedBytes {
		e.forget(s)
		return ErrQueueFull
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		e.forget(s)
		return ErrClosed
	}
	if l.waiting == nil {
		l.waiting = map[proto.Room][]*sending{}
	}
	if len(l.waiting[s.room]) == 0 {
		l.order = append(l.order, s.room)
	}
	l.waiting[s.room] = append(l.waiting[s.room], s)
	if !l.running {
		l.running = true
		e.running.Go(l.run)
	}
	return nil
}

// close takes no more events.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

func (e *Emitter) forget(s *sending) {
	e.queued.Add(-1)
	e.queuedBytes.Add(-int64(len(s.body)))
}

// run publishes until nothing waits.
func (l *lane) run() {
	for calls := l.next(); len(calls) > 0; calls = l.next() {
		l.publish(calls)
	}
}

// next takes what waits, at most what goes in one round trip; nothing when the lane rests.
func (l *lane) next() (calls [][]*sending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(calls) == 0 && len(l.order) > 0 {
		rooms := l.order[:min(len(l.order), callRooms)]
		l.order = l.order[len(rooms):]
		for _, room := range rooms {
			if c := l.call(room); len(c) > 0 {
				calls = append(calls, c)
			}
		}
	}
	if len(calls) == 0 {
		l.running, l.order, l.waiting = false, nil, nil // a quiet emitter keeps nothing
	}
	return calls
}

// call takes a room's events for one call. It is called with mu held.
func (l *lane) call(room proto.Room) []*sending {
	all := slices.DeleteFunc(l.waiting[room], l.abandoned)
	n, bytes := 0, 0
	for n < len(all) && n < callEvents && (n == 0 || bytes+len(all[n].body) <= callBytes) {
		bytes += len(all[n].body)
		n++
	}
	if n < len(all) {
		l.waiting[room] = all[n:]
		l.order = append(l.order, room)
	} else {
		delete(l.waiting, room)
	}
	return all[:n:n]
}

// abandoned ends an event for which its sender waits no longer.
func (l *lane) abandoned(s *sending) bool {
	if s.ctx.Err() == nil {
		return false
	}
	s.dropped = true
	l.end(s)
	return true
}

// publish tries until Redis has answered to every call.
func (l *lane) publish(calls [][]*sending) {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		if calls = l.once(calls); len(calls) == 0 {
			return
		}
		select {
		case <-time.After(pause/2 + mrand.N(pause)):
		case <-l.emitter.ctx.Done():
		}
	}
}

// once is one round trip, and returns what is to be tried again.
func (l *lane) once(calls [][]*sending) (again [][]*sending) {
	e := l.emitter
	ctx, cancel := context.WithTimeout(e.ctx, roundTrip)
	defer cancel()
	if err := e.agree(ctx); err != nil {
		for _, events := range calls {
			again = l.failed(again, events, err)
		}
		return again
	}
	made := make([]call, len(calls))
	answers := make([]*redis.Cmd, len(calls))
	_, perr := e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, events := range calls {
			made[i] = e.call(events[0].room, events)
			answers[i] = publishScript.EvalSha(ctx, p, made[i].keys, made[i].args...)
		}
		return nil
	})
	for i, events := range calls {
		said, err := answer(answers[i], perr)
		if redis.HasErrorPrefix(err, "NOSCRIPT") { // somebody has made Redis forget
			said, err = publishScript.Eval(ctx, e.rdb, made[i].keys, made[i].args...).Result()
		}
		if err = Classify(err); err == nil {
			err = published(events, said)
		}
		if err != nil {
			again = l.failed(again, events, err)
			continue
		}
		for _, s := range events {
			l.end(s)
		}
	}
	if len(again) == 0 {
		l.failing(nil)
	}
	return again
}

func (l *lane) failing(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
}

// answer is that of a command in a pipeline which failed with perr, or nil. When a new
// connection is refused (Redis is loading, say), the pipeline says so and the command does not.
func answer(a *redis.Cmd, perr error) (any, error) {
	said, err := a.Result()
	if said == nil && err == nil {
		err = perr
	}
	return said, err
}

// failed ends events with an error, or adds those to again that are worth another try. For
// whom nobody waits is dropped: its sender has been told that nobody knows.
func (l *lane) failed(again [][]*sending, events []*sending, err error) [][]*sending {
	if l.emitter.ctx.Err() != nil {
		err = ErrClosed
	}
	l.failing(err)
	var rest []*sending
	for _, s := range events {
		switch {
		case !errors.Is(err, ErrUnavailable):
			s.err = err
			l.end(s)
		case !l.abandoned(s):
			rest = append(rest, s)
		}
	}
	if len(rest) == 0 {
		return again
	}
	return append(again, rest)
}

func (l *lane) end(s *sending) {
	l.emitter.forget(s)
	close(s.done)
}

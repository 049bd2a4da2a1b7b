package emitter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// Durable events wait in lanes. A room is always in the same lane, which has one call for it
// under way at a time: so the events of a room are published in the order in which this
// emitter was given them, also when Redis goes away in between and they are tried again.
// What comes while a call is under way goes with the next one: the more there is, the less
// each costs (BenchmarkPublish). A lane has a goroutine for each master of the cluster, while
// there are events for it: a master that is away holds up its own rooms alone
// (TestOtherMastersGoOn).
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
	MaxQueuedBytes = 16 << 20 // of their messages
)

// A sending is an event that waits.
type sending struct {
	room    proto.Room
	print   string
	body    []byte
	event   proto.Message // and whose, for the original
	to      proto.Target
	receipt Receipt
	err     error
	done    chan struct{} // closed when receipt or err is there
	left    atomic.Bool   // nobody waits for it any more
}

// timers are those of senders: one each costs a tenth of an event.
var timers = sync.Pool{New: func() any { return time.NewTimer(patience) }}

// A lane is the rooms of one hash.
type lane struct {
	emitter *Emitter

	mu      sync.Mutex
	waiting map[proto.Room][]*sending      // guarded by mu: a room is in it, maybe with none, until the call for it is over
	ready   map[*redis.Client][]proto.Room // guarded by mu: by master, whose goroutine runs while its entry is there
	last    error                          // guarded by mu: why Redis did not take what waits
	closed  bool                           // guarded by mu
}

var laneSeed = maphash.MakeSeed()

// durable publishes an event of a room. While Redis is away it is tried again under the same
// id, which Redis takes once.
func (e *Emitter) durable(ctx context.Context, to proto.Target, m proto.Message, body []byte) (Receipt, error) {
	room, none := to.Room(), Receipt{EventID: m.EventID}
	m.Data = within(body, m.Data)
	s := &sending{room: room, print: proto.Fingerprint(m.Event), body: body, event: m, to: to, receipt: none, done: make(chan struct{})}
	l := &e.lanes[maphash.String(laneSeed, string(room))%lanes]
	if err := ctx.Err(); err != nil {
		return none, l.gaveUp(s, err)
	}
	if err := l.add(s); err != nil {
		return none, err
	}
	t := timers.Get().(*time.Timer)
	t.Reset(patience)
	defer timers.Put(t)
	defer t.Stop()
	select {
	case <-s.done:
		return s.receipt, s.err
	case <-ctx.Done():
		return none, l.gaveUp(s, ctx.Err())
	case <-t.C:
		return none, l.gaveUp(s, errPatience)
	}
}

var errPatience = fmt.Errorf("gave up after %s", patience)

// gaveUp is the error of an event for which its sender waits no longer, and why. If it is not
// under way, it makes room for others.
func (l *lane) gaveUp(s *sending, why error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.left.Store(true)
	if i := slices.Index(l.waiting[s.room], s); i >= 0 {
		l.emitter.forget(s)
		l.waiting[s.room] = slices.Delete(l.waiting[s.room], i, i+1)
	}
	switch {
	case errors.Is(why, context.Canceled):
		return why
	case l.last != nil:
		return fmt.Errorf("%w: %w", l.last, why)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, why)
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
		l.waiting, l.ready = map[proto.Room][]*sending{}, map[*redis.Client][]proto.Room{}
	}
	before, busy := l.waiting[s.room]
	l.waiting[s.room] = append(before, s)
	if !busy {
		l.queue(s.room)
	}
	return nil
}

// queue lets a room wait for its master, and wakes that one's goroutine. It is called with
// mu held.
func (l *lane) queue(room proto.Room) {
	var master *redis.Client // nobody's before Redis has been reached, when to ask would be to wait
	if l.emitter.agreed.Load() || l.emitter.unsure.Load() > 0 {
		master, _ = l.emitter.master(l.emitter.ctx, l.emitter.layout.Position(room))
	}
	l.queueFor(master, room)
}

// queueFor is queue for a master that is known. It is called with mu held.
func (l *lane) queueFor(master *redis.Client, room proto.Room) {
	rooms, running := l.ready[master]
	l.ready[master] = append(rooms, room)
	if !running {
		l.emitter.running.Go(func() { l.run(master) })
	}
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

// run publishes to one master until nothing waits for it.
func (l *lane) run(master *redis.Client) {
	for calls := l.next(master); len(calls) > 0; calls = l.next(master) {
		l.publish(master, calls)
	}
}

// next takes what waits, at most what goes in one round trip; nothing when the goroutine is
// to end.
func (l *lane) next(master *redis.Client) (calls [][]*sending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(calls) == 0 && len(l.ready[master]) > 0 {
		ready := l.ready[master]
		rooms := ready[:min(len(ready), callRooms)]
		l.ready[master] = ready[len(rooms):]
		for _, room := range rooms {
			if c := l.call(room); len(c) > 0 {
				calls = append(calls, c)
			}
		}
	}
	if len(calls) == 0 {
		if delete(l.ready, master); len(l.ready)+len(l.waiting) == 0 {
			l.waiting, l.ready = nil, nil // a quiet emitter keeps nothing
		}
	}
	return calls
}

// call takes a room's events for one call. It is called with mu held.
func (l *lane) call(room proto.Room) []*sending {
	all := l.waiting[room]
	n, bytes := 0, 0
	for n < len(all) && n < callEvents && (n == 0 || bytes+len(all[n].body) <= callBytes) {
		bytes += len(all[n].body)
		n++
	}
	if l.waiting[room] = all[n:]; n == 0 {
		delete(l.waiting, room)
	}
	return all[:n:n]
}

// called says that the call for a room is over: the next one may begin, at whichever master
// has the room now.
func (l *lane) called(room proto.Room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting[room]) == 0 {
		delete(l.waiting, room)
		return
	}
	l.queue(room)
}

// abandoned ends an event, under way until now, for which its sender waits no longer.
func (l *lane) abandoned(s *sending) bool {
	if !s.left.Load() {
		return false
	}
	l.end(s)
	return true
}

// publish tries until each call is answered, or has gone to another master's goroutine.
func (l *lane) publish(master *redis.Client, calls [][]*sending) {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		if calls = l.once(master, calls); len(calls) == 0 {
			return
		}
		select {
		case <-time.After(pause/2 + mrand.N(pause)):
		case <-l.emitter.ctx.Done():
		}
	}
}

// once is one round trip, and returns what is to be tried again.
func (l *lane) once(master *redis.Client, calls [][]*sending) (again [][]*sending) {
	e := l.emitter
	ctx, cancel := context.WithTimeout(e.ctx, roundTrip)
	defer cancel()
	fail := func(calls [][]*sending, err error) {
		for _, events := range calls {
			again = l.failed(again, events, err)
		}
	}
	if err := e.agree(ctx); err != nil {
		fail(calls, err)
		return again
	}
	calls, lost, err := l.keep(ctx, master, calls)
	if fail(lost, err); len(calls) == 0 {
		return again
	}
	mirrored, _ := e.mirrors(ctx)
	made := make([]call, len(calls))
	answers := make([]*redis.Cmd, len(calls))
	var wait *redis.Cmd
	_, perr := master.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, events := range calls {
			made[i] = e.call(events[0].room, events, mirrored)
			answers[i] = publishScript.EvalSha(ctx, p, made[i].keys, made[i].args...)
		}
		if e.at.Mode == Cluster && e.proofOf(master).waits(time.Now()) {
			wait = p.Do(ctx, "wait", 1, proofWait.Milliseconds())
		}
		return nil
	})
	moved, answered := false, time.Now()
	kept := wait != nil && isKept(wait, perr, answers)
	var unproven error
	for i, events := range calls {
		said, err := answer(answers[i], perr)
		by, to := master, redirected(err)
		switch {
		case redis.HasErrorPrefix(err, "NOSCRIPT"): // somebody has made Redis forget
			said, err = publishScript.Eval(ctx, master, made[i].keys, made[i].args...).Result()
			answered, kept = time.Now(), false
		case redis.HasErrorPrefix(err, "ASK"): // the slot is on its way to another server, which the library finds
			if by, err = e.server(ctx, to); err == nil {
				said, err = publishScript.Eval(ctx, e.rdb, made[i].keys, made[i].args...).Result()
				answered, kept = time.Now(), false
			}
		case to != "":
			moved = true
		}
		if err = e.doubt(err); err == nil {
			err = e.published(events, said)
		}
		if err == nil && !kept && unproven != nil && by == master {
			err = unproven // as of the call before
		} else if err == nil && !kept {
			if err = e.proven(ctx, by, events[0].room, answered, e.running.Go); by == master {
				unproven = err
			}
		}
		if err != nil {
			again = l.failed(again, events, err)
			continue
		}
		for _, s := range events {
			l.end(s)
		}
		l.called(events[0].room)
	}
	if moved {
		_, _ = e.Masters(ctx) // by which the next try goes
	}
	if len(again) == 0 {
		l.failing(nil)
	}
	return again
}

// isKept reports whether a replica has all that the calls of a pipeline wrote and found: the WAIT behind them counts
// from the last write of its connection, so one of them must have written.
func isKept(wait *redis.Cmd, perr error, answers []*redis.Cmd) bool {
	if replicas, err := waited(wait, perr); err != nil || replicas == 0 {
		return false
	}
	return slices.ContainsFunc(answers, func(a *redis.Cmd) bool {
		said, _ := a.Slice()
		return slices.Contains(said, any("new"))
	})
}

// keep returns the calls that are for the master, and those of which nobody knows whose they are, and
// why. Those of another master go to its goroutine.
func (l *lane) keep(ctx context.Context, master *redis.Client, calls [][]*sending) (its, lost [][]*sending, err error) {
	for _, events := range calls {
		room := events[0].room
		now, merr := l.emitter.master(ctx, l.emitter.layout.Position(room))
		switch {
		case merr != nil:
			lost, err = append(lost, events), l.emitter.doubt(merr)
		case now == master:
			its = append(its, events)
		default:
			l.mu.Lock()
			l.waiting[room] = append(events, l.waiting[room]...)
			l.queueFor(now, room)
			l.mu.Unlock()
		}
	}
	return its, lost, err
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
	switch {
	case l.emitter.ctx.Err() != nil:
		err = ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: %s", ErrUnavailable, err) // the deadline was ours, not the sender's
	}
	l.failing(err)
	var rest []*sending
	for _, s := range events {
		switch {
		case !errors.Is(err, ErrUnavailable):
			s.receipt, s.err = Receipt{EventID: s.receipt.EventID}, err
			l.end(s)
		case !l.abandoned(s):
			rest = append(rest, s)
		}
	}
	if len(rest) == 0 {
		l.called(events[0].room)
		return again
	}
	return append(again, rest)
}

func (l *lane) end(s *sending) {
	l.emitter.forget(s)
	close(s.done)
}

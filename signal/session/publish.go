package session

import (
	"context"
	"errors"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// outstanding is how many events of one client may be on their way to Redis.
const outstanding = 32

// A publish is an event on its way, and the frame that it came in.
type publish struct {
	proto.Publish
	user proto.UserID
	ref  string
}

// A lane does what a client wants one after the other, so that its order is kept. Its goroutine
// lives while there is something to do.
type lane[T any] struct {
	ctx     context.Context    // of what is done; ends with the session
	stop    context.CancelFunc // drops what has not begun yet
	running *sync.WaitGroup    // the goroutine
	dropped func(T)            // gets what is never done, since the session has ended

	mu    sync.Mutex
	queue []T // guarded by mu: the first one is being done
}

// newLane counts its goroutine among those that run.
func newLane[T any](running *sync.WaitGroup, dropped func(T)) *lane[T] {
	l := &lane[T]{running: running, dropped: dropped}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// take queues something, unless too much waits.
func (l *lane[T]) take(p T, do func(T)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= outstanding {
		return false
	}
	if l.queue = append(l.queue, p); len(l.queue) == 1 {
		l.running.Go(func() { l.run(do) })
	}
	return true
}

// first queues something before all that waits, however much that is.
func (l *lane[T]) first(p T, do func(T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue = slices.Insert(l.queue, min(1, len(l.queue)), p); len(l.queue) == 1 {
		l.running.Go(func() { l.run(do) })
	}
}

// busy says whether something is being done.
func (l *lane[T]) busy() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0
}

// run does what is queued, and ends.
func (l *lane[T]) run(do func(T)) {
	for {
		l.mu.Lock()
		p := l.queue[0]
		l.mu.Unlock()
		do(p)
		l.mu.Lock()
		if l.queue = l.queue[1:]; len(l.queue) == 0 || l.ctx.Err() != nil {
			rest := l.queue
			l.queue = nil
			l.mu.Unlock()
			for _, p := range rest {
				l.dropped(p)
			}
			return
		}
		l.mu.Unlock()
	}
}

func (s *Session) publish(f proto.Frame) {
	if s.publishesTooMuch(f) {
		return
	}
	p, err := f.Publish()
	if err != nil {
		s.refuse(err)
		return
	}
	who, _ := s.who()
	one := publish{p, who.User, f.ID}
	if !s.o.publishing.enter(one.user, len(one.Data)) {
		s.fail(proto.CodeBusy, "16 MiB of clients' events wait for Redis on this node, or 2 MiB of this user's", one.ref)
		return
	}
	if s.o.Permissions != nil && !who.Publish.Allow(p.Room) && (s.isAsking() || !s.mayPublish(who, p.Room) && slices.Contains(s.client.Load().Rooms(), p.Room)) {
		one.Data = slices.Clone(one.Data) // it is the reader's
		s.ask(ask{id: f.ID, publish: &one})
		return
	}
	s.enqueue(one)
}

// publishesTooMuch answers a publish, or an event of the client's own, that is beyond a rate of the connection.
// Its content has not been read yet.
func (s *Session) publishesTooMuch(f proto.Frame) bool {
	r, l := s.rarely(), &s.o.Limits
	return s.tooOften(&r.publishes, l.Publishes, "publishes", f.ID) || s.tooMuch(&s.seldom().publishBytes, l.PublishBytes, len(f.Data), "publish_bytes", f.ID)
}

// published makes room for others: the event is on its way no more.
func (s *Session) published(p publish) { s.o.publishing.leave(p.user, len(p.Data)) }

// mayPublish says what is known without asking.
func (s *Session) mayPublish(who auth.Identity, r proto.Room) bool {
	return (who.Publish.Allow(r) || s.o.Permissions.Publish(who.Bearer, r)) && !s.o.Revoked.Room(who.Bearer, r)
}

// enqueue publishes an event behind those before it, if the client may.
func (s *Session) enqueue(p publish) {
	who, _ := s.who()
	if !s.mayPublish(who, p.Room) {
		s.published(p)
		s.o.Metrics.denied.Inc()
		s.fail(proto.CodeForbidden, "publish to this room", p.ref)
		return
	}
	if s.publishesTooOften(who.Bearer, len(p.Data), p.ref) {
		s.published(p)
		return
	}
	r := s.rarely()
	s.mu.Lock()
	if r.lane == nil {
		r.lane = newLane(&sync.WaitGroup{}, s.published)
	}
	s.mu.Unlock()
	if !r.lane.take(p, s.publishOne) {
		s.published(p)
		s.fail(proto.CodeBusy, "32 events are on their way: wait for their acks", p.ref)
	}
}

func (s *Session) publishOne(p publish) {
	defer s.published(p)
	who, _ := s.who()
	if _, revoked := s.o.Revoked.Judge(who.Bearer); revoked || s.o.Revoked.Room(who.Bearer, p.Room) { // meanwhile
		s.fail(proto.CodeForbidden, "publish to this room", p.ref)
		return
	}
	r, err := s.o.Publisher.SendToRoom(s.rare.lane.ctx, p.Room, p.Event, p.Data, emitter.FromClient(p.user, p.EventID))
	switch {
	case err == nil:
		s.answer(proto.EventAck, proto.Ack{
			EventID: r.EventID, Receivers: r.Receivers, Sequence: r.Position.Sequence, Position: r.Position, Duplicate: r.Duplicate,
		}, p.ref)
	case errors.Is(err, emitter.ErrEventIDReused):
		s.fail(proto.CodeReused, err.Error(), p.ref)
	case errors.Is(err, emitter.ErrTooLarge):
		s.fail(proto.CodeTooLarge, err.Error(), p.ref)
	case errors.Is(err, emitter.ErrInvalid):
		s.fail(proto.CodeBadRequest, err.Error(), p.ref)
	default: // Redis, whose words are for the operator
		if s.rare.lane.ctx.Err() == nil {
			s.log(p.user).Warn("publish failed", zap.String("room", string(p.Room)), zap.Error(err))
		}
		s.fail(proto.CodeUnavailable, "the event may not have been sent", p.ref)
	}
}

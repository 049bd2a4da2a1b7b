package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// messages are the clients' own events that wait for the application. They outlive their session: who
// says something and goes has said it.
type messages struct {
	backlog
	running sync.WaitGroup // lanes

	mu   sync.Mutex
	ctx  context.Context    // guarded by mu
	stop context.CancelFunc // guarded by mu: of those that are on their way
}

// until is the context of what is asked: it ends with the node.
func (m *messages) until() context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		m.ctx, m.stop = context.WithCancel(context.Background())
	}
	return m.ctx
}

// A said is an event of a client's own on its way to the application, and when it came.
type said struct {
	hook.Message
	at time.Time
}

// message hands an event of the client's own to the application, behind those before it.
func (s *Session) message(f proto.Frame) {
	if s.o.Messages == nil {
		s.wrong()
		s.fail(proto.CodeUnknownEvent, "a client may send authenticate, join, leave, publish, heartbeat and encrypted; its own events need APP_ENV_SIGNAL_MESSAGE_URL", f.ID)
		return
	}
	if name, bad := errors.AsType[*proto.NameError](f.Event.CheckSent()); bad {
		s.wrong()
		s.fail(name.Code, name.Error(), f.ID)
		return
	}
	if s.publishesTooMuch(f) {
		return
	}
	who, _ := s.who()
	if s.publishesTooOften(who.Bearer, len(f.Data), f.ID) {
		return
	}
	if s.o.Spared() {
		s.o.MessageDropped("spared")
		s.failLater("the application does not answer: this one was not taken", f.ID)
		return
	}
	now := time.Now()
	m := hook.Message{
		ID: proto.NewEventID(), Time: now.UnixMilli(), Client: s.id, User: who.User, Session: who.Session, Tenant: who.Tenant,
		Event: f.Event, Data: slices.Clone(f.Data), Frame: f.ID,
	}
	all := &s.o.messages
	if !all.enter(who.User, len(m.Data)) {
		s.o.MessageDropped("full")
		s.failLater(fmt.Sprintf("%d events or 16 MiB wait for the application, or 2 MiB of this user's: this one was not taken", backlogEvents), f.ID)
		return
	}
	if s.rare.messages == nil {
		s.rare.messages = newLane(&all.running, func(said) {}) // it is never stopped
	}
	if !s.rare.messages.take(said{m, now}, s.messageOne) {
		all.leave(who.User, len(m.Data))
		s.o.MessageDropped("busy")
		s.fail(proto.CodeBusy, "32 events wait for the application: wait for their answers", f.ID)
	}
}

// messageOne runs in the lane. What has waited there for too long the application is not asked about: a slow
// one answers the first of many, and the others are told soon.
func (s *Session) messageOne(m said) {
	defer s.o.messages.leave(m.User, len(m.Data))
	who, _ := s.who()
	if _, revoked := s.o.Revoked.Judge(who.Bearer); revoked { // meanwhile
		s.fail(proto.CodeForbidden, string(m.Event), m.Frame)
		return
	}
	ctx, cancel := context.WithDeadline(s.o.messages.until(), m.at.Add(hook.MessageTimeout))
	defer cancel()
	var answer hook.Answer
	err := ctx.Err()
	if err == nil {
		answer, err = s.o.Messages.Message(ctx, m.Message)
	}
	detail := "the application does not answer: it may have taken the event"
	if err == nil {
		if err = s.checkAnswer(answer); err != nil {
			detail = "the application's answer cannot be used: it has taken the event"
		}
	}
	switch {
	case errors.Is(err, hook.ErrRefused):
		s.fail(proto.CodeForbidden, err.Error(), m.Frame)
	case errors.Is(err, hook.ErrInvalid):
		s.fail(proto.CodeBadRequest, err.Error(), m.Frame)
	case err != nil:
		s.o.MessageDropped("failed")
		s.log(m.User).Warn("the application does not take a client's event", zap.String("event", string(m.Event)), zap.Error(err))
		s.failLater(detail, m.Frame)
	default:
		for _, e := range answer.Events {
			s.o.Hub.SendToClient(s.id, proto.Event{Event: e.Event, EventID: proto.NewEventID(), Data: e.Data, Time: time.Now().UnixMilli()})
		}
		if m.Frame != "" {
			var data any // nothing, rather than null
			if answer.Data != nil {
				data = answer.Data
			}
			s.answer(proto.EventAck, data, m.Frame)
		}
	}
}

// checkAnswer says what is wrong with an answer of the application's.
func (s *Session) checkAnswer(a hook.Answer) (err error) {
	for _, e := range a.Events {
		err = errors.Join(err, e.Event.CheckSent())
		if e.Data != nil {
			err = errors.Join(err, proto.CheckData(e.Data))
		}
	}
	if a.Data != nil {
		err = errors.Join(err, proto.CheckData(a.Data))
	}
	return err
}

// failLater is fail with unavailable, and when to try again.
func (s *Session) failLater(detail, ref string) {
	s.o.Metrics.errors.Inc()
	e := proto.NewError(proto.CodeUnavailable, detail, ref)
	e.RetryAfter = hook.RetryAfter.Milliseconds()
	s.answer(proto.EventError, e, ref)
}

// Finish waits until the application has what clients have said; what it has not when ctx ends is dropped.
// No session lives any more.
func (o *Options) Finish(ctx context.Context) error {
	o.messages.until()
	defer context.AfterFunc(ctx, o.messages.stop)()
	o.messages.running.Wait()
	return ctx.Err()
}

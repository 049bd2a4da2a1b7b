package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hub"
)

func (s *Session) authenticate(f proto.Frame) {
	// A newer token has its rooms judged, as a join has.
	if s.client.Load() != nil && s.tooOften(&s.rarely().joins, s.o.Limits.Joins, "joins", f.ID) {
		return
	}
	a, err := f.Authenticate()
	if err != nil && s.client.Load() != nil {
		s.refuse(err)
		return
	}
	if s.judging() != nil {
		s.fail(proto.CodeBusy, "a token is being judged", f.ID)
		return
	}
	if err == nil && a.Ticket != "" {
		s.await(f, a, s.redeem)
		return
	}
	identity, verr := s.o.Verifier.Verify(a.Token)
	if err == nil && errors.Is(verr, auth.ErrLater) {
		s.await(f, a, func(ctx context.Context, a proto.Authenticate) (auth.Identity, error) {
			return s.o.Verifier.Await(ctx, a.Token)
		})
		return
	}
	s.judged(f, a, identity, errors.Join(err, verr))
}

// redeem judges the token that a ticket stands for.
func (s *Session) redeem(ctx context.Context, a proto.Authenticate) (auth.Identity, error) {
	token, err := s.o.Tickets.TakeTicket(ctx, a.Ticket)
	if errors.Is(err, emitter.ErrNoTicket) {
		return auth.Identity{}, fmt.Errorf("%w: %w", auth.ErrRefused, err)
	}
	if err != nil {
		return auth.Identity{}, err
	}
	identity, err := s.o.Verifier.Verify(string(token))
	if errors.Is(err, auth.ErrLater) {
		return s.o.Verifier.Await(ctx, string(token))
	}
	return identity, err
}

// A waiting is a token that is being judged in a goroutine of its own: the client's other frames
// are read meanwhile, and another token is not.
type waiting struct {
	stop context.CancelFunc
	over chan struct{} // closed
}

// judging is the token that is being judged, or nil.
func (s *Session) judging() *waiting {
	if s.rare == nil {
		return nil
	}
	return s.rare.waits.Load()
}

// awaitTime bounds how long a token may take.
const awaitTime = 4 * time.Second

func (s *Session) await(f proto.Frame, a proto.Authenticate, judge func(context.Context, proto.Authenticate) (auth.Identity, error)) {
	ctx, stop := context.WithTimeout(context.Background(), awaitTime)
	w := &waiting{stop, make(chan struct{})}
	r := s.rarely()
	r.waits.Store(w)
	f.Data = nil // it is the reader's
	go func() {
		defer close(w.over)
		defer stop()
		identity, err := judge(ctx, a)
		if ctx.Err() != context.Canceled {
			s.judged(f, a, identity, err)
		}
		r.waits.Store(nil)
	}()
}

// judged goes on when it is known what a token is worth.
func (s *Session) judged(f proto.Frame, a proto.Authenticate, identity auth.Identity, err error) {
	if s.client.Load() != nil {
		s.refresh(f, identity, err)
		return
	}
	if err != nil {
		code, ends := proto.CodeAuthFailed, proto.CloseAuthFailed
		if !errors.Is(err, auth.ErrRefused) {
			if _, bad := errors.AsType[*proto.FrameError](err); !bad { // nobody says what it is worth
				code, ends = proto.CodeAuthError, proto.CloseTryAgain
			}
		}
		s.o.Refused(err, zap.String("client_id", string(s.id)))
		s.fail(code, detail(code, err), f.ID)
		s.conn.End(ends)
		s.refused.Store(true)
		return
	}
	s.is(identity) // before Revoked is asked: see there
	if reason, revoked := s.o.Revoked.Judge(identity.Bearer); revoked {
		s.o.Metrics.refused.Inc()
		s.dismiss(reason)
		s.refused.Store(true)
		return
	}
	sealing, offer, err := s.seal(a)
	if err != nil {
		s.o.Metrics.refused.Inc()
		s.fail(proto.CodeEncryption, err.Error(), f.ID)
		s.conn.End(proto.CloseEncryption)
		s.refused.Store(true)
		return
	}
	if !s.enter(identity.User) {
		most := s.o.Limits.UserConnections
		s.o.Metrics.refused.Inc()
		s.fail(proto.CodeConnections, fmt.Sprintf("user_connections: %d of one user", most), f.ID)
		s.conn.End(proto.CloseConnections)
		s.refused.Store(true)
		return
	}
	s.conn.Welcome(proto.EncodeFrame(proto.EventConnected, proto.Connected{
		ID: s.id, UserID: identity.User, Time: proto.ISOTime(time.Now()), Node: s.o.Node,
		Heartbeat: int(s.o.Heartbeat / time.Millisecond), Expires: identity.Expires, Offer: offer,
	}, f.ID), sealing)
	client := s.o.Hub.Add(s.id, a.Previous, s.conn)
	s.client.Store(client)
	rooms := append([]proto.Room{proto.Broadcasts}, s.o.DefaultRooms...)
	if identity.User != "" {
		rooms = append(rooms, proto.UserRoom(identity.User))
	}
	asked := make([]hub.JoinRoom, 0, len(rooms))
	var denied []proto.DeniedRoom
	for _, r := range rooms {
		if s.o.Revoked.Room(identity.Bearer, r) {
			denied = append(denied, proto.DeniedRoom{Room: r, Code: proto.CodeForbidden})
			continue
		}
		asked = append(asked, hub.JoinRoom{Room: r})
	}
	client.Join("", asked, denied)
	s.leaveLost(asked)
	s.o.Notices.Connected(s.notice(a.Previous))
}

var errOther = errors.New("the token is of another user")

// detail is what a client is told: what failed on our side is for the operator.
func detail(code proto.ErrorCode, err error) string {
	if code == proto.CodeAuthError {
		return "the token could not be judged"
	}
	return err.Error()
}

// refresh takes a newer token of the same user: rooms that it does not allow any
// more are left.
func (s *Session) refresh(f proto.Frame, identity auth.Identity, err error) {
	before, _ := s.who()
	switch {
	case err == nil && identity.Same(before):
		s.fail(proto.CodeAlreadyAuthenticated, "with this very token", f.ID)
		return
	case err == nil && identity.User != before.User:
		err = errOther
	}
	if err != nil {
		code := proto.CodeAuthFailed
		if !errors.Is(err, auth.ErrRefused) && !errors.Is(err, errOther) {
			code = proto.CodeAuthError
		}
		s.wrong()
		s.fail(code, detail(code, err), f.ID)
		return
	}
	s.is(identity)
	if reason, revoked := s.o.Revoked.Judge(identity.Bearer); revoked {
		s.dismiss(reason)
		return
	}
	var lost, ask []proto.Room
	for _, r := range s.client.Load().Rooms() {
		switch {
		case !s.asked(r):
		case s.o.Revoked.Room(identity.Bearer, r):
			lost = append(lost, r)
		case !s.mayJoin(identity, r) && s.o.Permissions != nil:
			ask = append(ask, r)
		case !s.mayJoin(identity, r):
			lost = append(lost, r)
		}
	}
	if len(lost) > 0 {
		s.client.Load().Leave("", lost)
	}
	s.answer(proto.EventRefreshed, proto.Refreshed{Expires: identity.Expires}, f.ID)
	if len(ask) > 0 {
		s.askAgain(ask)
	}
}

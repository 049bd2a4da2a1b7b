// Package session holds one client's conversation: it authenticates, then it joins,
// leaves and publishes, or says what only the application understands, within limits, and
// every frame gets its answer.
//
//	connecting ──authenticate──▶ authenticated ──┐
//	    │ 5 s, or a bad token                    │ either side ends it
//	    └──────────────▶ ended ◀─────────────────┘
//
// It knows neither sockets nor HTTP nor Redis. It never waits: rooms take effect and
// events are published while the next frame is read, so a slow Redis stops no reader.
// Before it is authenticated a client gets nothing but errors.
package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hook"
	"github.com/signal-team/signal/signal/hub"
)

// A Conn carries the frames of one client. No call waits.
type Conn interface {
	hub.Conn
	// Welcome is Answer for the frame that says that the client is authenticated.
	// What comes after it is sealed, if there is a sealing.
	Welcome(frame []byte, sealing *proto.Sealing)
	// End closes the connection with a code, once; later calls change nothing.
	End(proto.CloseCode)
	// Dismiss is End for who shall get nothing of what waits, but one last frame.
	Dismiss(last []byte, code proto.CloseCode)
}

// A Publisher is the emitter.
type Publisher interface {
	SendToRoom(ctx context.Context, room proto.Room, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error)
}

// A Verifier says who the bearer of a token is. Verify does not wait; an error that wraps
// auth.ErrLater means that Await, which may wait, knows more.
type Verifier interface {
	Verify(token string) (auth.Identity, error)
	Await(ctx context.Context, token string) (auth.Identity, error)
}

// Tickets give the token of a client that comes with a ticket, once.
type Tickets interface {
	TakeTicket(context.Context, proto.TicketID) (emitter.Secret, error)
}

// Options are the same for all sessions of a node.
type Options struct {
	Node        proto.NodeID
	Hub         *hub.Hub
	Verifier    Verifier
	Tickets     Tickets
	Permissions *auth.Permissions // nil: what the token allows
	Revoked     *auth.Revoked
	Publisher   Publisher
	Messages    hook.Messages // nil: clients have no events of their own
	// MessageDropped counts what the application never took, and why: busy, full, spared, failed.
	MessageDropped func(reason string)
	Spared         func() bool // the application is not worth asking now
	Notices        *hook.Outbox
	DefaultRooms   []proto.Room
	Limits         Limits
	AuthTimeout    time.Duration // from the connect to a good authenticate
	Encryption     Encryption
	Heartbeat      time.Duration // told to the client: after so much silence it is pinged
	Log            *zap.Logger
	Metrics        *Metrics

	users      users
	requests   requests
	replays    requests
	messages   messages
	publishing backlog // clients' events for Redis
}

// A Session is one conversation. Receive, and Close after it, are called by one
// goroutine; Tick may come from another.
type Session struct {
	o     *Options
	id    proto.ClientID
	conn  Conn
	since int64 // Unix nanoseconds

	client atomic.Pointer[hub.Client] // nil until authenticated, set by Receive

	mu       sync.Mutex
	known    bool          // guarded by mu: there is an identity, before there is a client
	identity auth.Identity // guarded by mu; set by Receive. Behind a pointer it would cost ten times its bytes: among garbage

	refused atomic.Bool // nothing more is heard

	// Of Receive's goroutine alone.
	early  uint16 // frames before it was authenticated
	frames Bucket
	rare   *rare // nil until it is needed

}

// New begins a conversation over conn. Close ends it.
func New(o *Options, conn Conn) *Session {
	return &Session{o: o, id: proto.NewClientID(o.Node), conn: conn, since: time.Now().UnixNano()}
}

// log is made when something is to be said: a session that is quiet costs no logger.
func (s *Session) log(user proto.UserID) *zap.Logger {
	return s.o.Log.With(zap.String("client_id", string(s.id)), zap.String("user_id", string(user)))
}

// who is the client, if it has told.
func (s *Session) who() (i auth.Identity, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity, s.known
}

func (s *Session) is(i auth.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity, s.known = i, true
}

// ID is the client's id, also before it is authenticated.
func (s *Session) ID() proto.ClientID { return s.id }

// Tick ends a client that has not told who it is in time, and one whose token has expired. It
// returns when it wants to be called again; zero is never.
func (s *Session) Tick(now time.Time) (next time.Time) {
	if who, known := s.who(); known {
		if who.Expires == 0 {
			return time.Time{}
		}
		next = time.Unix(who.Expires, 0).Add(auth.Leeway)
		if !now.Before(next) {
			s.conn.End(proto.CloseExpired)
		}
		return next
	}
	next = time.Unix(0, s.since).Add(s.o.AuthTimeout)
	if !now.Before(next) {
		s.conn.End(proto.CloseAuthTimeout)
	}
	return next
}

// Drained says that the connection takes events again: see hub.Conn.
func (s *Session) Drained() {
	if c := s.client.Load(); c != nil {
		c.Drained()
	}
}

// Receive takes a frame from the client. What is wrong with it is answered; nothing
// but a refused token ends the connection.
func (s *Session) Receive(b []byte) {
	if s.refused.Load() || s.tooMany(b, Clock()) {
		return
	}
	f, err := s.decode(b)
	if err != nil {
		s.refuse(err)
		return
	}
	switch f.Event {
	case proto.EventHeartbeat: // any byte counts as life, and the transport counts bytes
		return
	case proto.EventAuthenticate:
		s.authenticate(f)
		return
	}
	if w := s.judging(); w != nil && s.client.Load() == nil {
		if _, known := s.who(); !known {
			s.fail(proto.CodeBusy, "a token is being judged: wait for connected", f.ID)
			return
		}
		<-w.over // connected may have come to the client already: nothing waits from here on
	}
	if s.client.Load() == nil {
		s.wrong()
		s.fail(proto.CodeUnauthenticated, "authenticate first", f.ID)
		return
	}
	switch f.Event {
	case proto.EventJoin:
		s.join(f)
	case proto.EventLeave:
		s.leave(f)
	case proto.EventPublish:
		s.publish(f)
	default:
		s.message(f)
	}
}

// Close ends the conversation: the client is forgotten, and what it has not yet
// published is dropped. It waits for an event that is on its way.
func (s *Session) Close() {
	r := s.rarely()
	if w := r.waits.Load(); w != nil {
		w.stop()
		<-w.over
	}
	if r.asking != nil { // which may yet begin to publish
		r.asking.stop()
		r.asking.running.Wait()
	}
	if r.lane != nil {
		r.lane.stop()
	}
	if c := s.client.Load(); c != nil {
		c.Close()
		who, _ := s.who()
		if n := c.Replayed(); n > 0 { // what its last joins cost is not forgotten with it
			s.o.users.spend(spending{limitReplayBytes, string(who.User)}, s.o.Limits.ReplayBytes, n)
		}
		s.leaves(who.User)
		s.o.Notices.Disconnected(s.notice(""))
	}
	if r.lane != nil {
		r.lane.running.Wait()
	}
}

// notice tells of the client.
func (s *Session) notice(previous proto.ClientID) hook.Notice {
	who, _ := s.who()
	return hook.Notice{Client: s.id, Previous: previous, User: who.User, Session: who.Session, Tenant: who.Tenant}
}

// Revoke takes back what revocations cover. It may be called from any goroutine.
func (s *Session) Revoke(all []proto.Revocation) {
	who, known := s.who()
	if !known {
		return // it will be judged when it has told who it is
	}
	for _, r := range all {
		switch {
		case !r.Covers(who.Bearer):
		case r.Room == "":
			s.dismiss(r.Reason)
			return
		default:
			if c := s.client.Load(); c != nil && slices.Contains(c.Rooms(), r.Room) {
				c.Leave("", []proto.Room{r.Room})
				s.answer(proto.EventRoomRevoked, proto.RoomRevoked{Room: r.Room, Reason: r.Reason}, "")
			}
		}
	}
}

// dismiss ends a client whose access is revoked: what waits for it is not written.
func (s *Session) dismiss(reason string) {
	s.conn.Dismiss(proto.EncodeFrame(proto.EventRevoked, proto.Revoked{Reason: reason}, ""), proto.CloseRevoked)
}

func (s *Session) isDefault(r proto.Room) bool { return slices.Contains(s.o.DefaultRooms, r) }

// asked says whether a client can only be in the room because it asked for it.
func (s *Session) asked(r proto.Room) bool { return r.Check() == nil && !s.isDefault(r) }

func (s *Session) join(f proto.Frame) {
	if s.tooOften(&s.rarely().joins, s.o.Limits.Joins, "joins", f.ID) { // before its content is read, as everywhere
		return
	}
	asked, ok := s.rooms(f)
	if !ok {
		return
	}
	if s.mustAsk(asked) {
		s.ask(ask{id: f.ID, join: asked})
		return
	}
	s.enterRooms(f.ID, asked, nil)
}

// enterRooms joins the rooms that the client may join. Of those in unsaid the application did not
// say whether it may.
func (s *Session) enterRooms(id string, asked []proto.JoinRoom, unsaid []proto.Room) {
	var (
		rooms  []hub.JoinRoom
		denied []proto.DeniedRoom
		have   = map[proto.Room]bool{}
		count  int // of rooms that the client asked for
	)
	// What was replayed before is paid for now: nobody can foresee what a join costs.
	broke := anySince(asked) && s.replayedTooMuch()
	for _, r := range s.client.Load().Rooms() {
		have[r] = true
		if s.asked(r) {
			count++
		}
	}
	for _, a := range asked {
		room, code := s.judge(a.Room)
		since, err := proto.Position{}, error(nil)
		if a.Since != "" {
			since, err = proto.ParsePosition(a.Since)
		}
		if code == "" && err != nil {
			code = proto.CodeBadPosition
		}
		if code == proto.CodeForbidden && slices.Contains(unsaid, room) {
			code = proto.CodeUnavailable
		}
		if code == "" && !have[room] {
			if count++; s.o.Limits.Rooms > 0 && count > s.o.Limits.Rooms && s.over("rooms") {
				code = proto.CodeRoomLimit
			}
		}
		if code == "" && !have[room] && s.churns() && s.over("rooms_entered") {
			code = proto.CodeRateLimited
		}
		if code == "" && a.Since != "" && (broke || s.goesOn() && s.over("rooms_gone_on")) {
			code = proto.CodeRateLimited
		}
		if code != "" {
			denied = append(denied, proto.DeniedRoom{Room: a.Room, Code: code})
			continue
		}
		rooms = append(rooms, hub.JoinRoom{Room: room, Since: since})
	}
	s.o.Metrics.denied.Add(float64(len(denied)))
	if !s.client.Load().Join(id, rooms, denied) {
		s.fail(proto.CodeBusy, "32 joins wait for their rooms: wait for their answers", id)
	}
	s.leaveLost(rooms)
}

// replayedTooMuch reports whether the client's user has been given more of histories than its rate allows.
func (s *Session) replayedTooMuch() bool {
	who, _ := s.who()
	return s.o.Replayed(who.User, s.client.Load().Replayed()) > 0
}

// leaveLost takes the client out of rooms that were taken back, by a revocation or with a newer
// token, before it could be seen in them.
func (s *Session) leaveLost(rooms []hub.JoinRoom) {
	who, _ := s.who()
	for _, r := range rooms {
		if s.o.Revoked.Room(who.Bearer, r.Room) || s.asked(r.Room) && !s.mayJoin(who, r.Room) {
			s.client.Load().Leave("", []proto.Room{r.Room})
		}
	}
}

// judge says which room a client means by a name, or why it may not be in it. The system's
// rooms have it from the start; it names them to go on from a position.
func (s *Session) judge(r proto.Room) (proto.Room, proto.ErrorCode) {
	who, _ := s.who()
	switch {
	case r == proto.Broadcasts:
		return r, ""
	case r == proto.OwnUser && who.User != "":
		return proto.UserRoom(who.User), ""
	}
	if err, ok := errors.AsType[*proto.NameError](r.Check()); ok {
		return r, err.Code
	}
	if !s.isDefault(r) && !s.mayJoin(who, r) || s.o.Revoked.Room(who.Bearer, r) {
		return r, proto.CodeForbidden
	}
	return r, ""
}

func (s *Session) leave(f proto.Frame) {
	if s.tooOften(&s.seldom().leaves, s.o.Limits.Joins, "leaves", f.ID) {
		return
	}
	asked, ok := s.rooms(f)
	if !ok {
		return
	}
	rooms := make([]proto.Room, 0, len(asked))
	for _, a := range asked {
		if a.Room.Check() == nil { // the system's own are not left
			rooms = append(rooms, a.Room)
		}
	}
	if s.isAsking() { // behind the joins before it
		s.ask(ask{id: f.ID, leave: rooms})
		return
	}
	s.client.Load().Leave(f.ID, rooms)
}

func (s *Session) rooms(f proto.Frame) ([]proto.JoinRoom, bool) {
	asked, err := f.Rooms(s.o.Limits.RoomsPerFrame)
	if e, ok := errors.AsType[*proto.FrameError](err); ok && e.Code == proto.CodeTooManyRooms && !s.over("rooms_per_frame") {
		asked, err = f.Rooms(0)
	}
	if err != nil {
		s.refuse(err)
		return nil, false
	}
	return asked, true
}

// refuse answers a frame that cannot be read.
func (s *Session) refuse(err error) {
	s.wrong()
	if e, ok := errors.AsType[*proto.FrameError](err); ok {
		s.fail(e.Code, e.Detail, e.ID)
		return
	}
	s.fail(proto.CodeBadRequest, err.Error(), "")
}

func (s *Session) fail(code proto.ErrorCode, detail, ref string) {
	s.o.Metrics.errors.Inc()
	s.answer(proto.EventError, proto.NewError(code, detail, ref), ref)
}

func (s *Session) answer(event proto.EventName, data any, id string) {
	s.conn.Answer(proto.EncodeFrame(event, data, id))
}

// Package session holds one client's conversation: it authenticates, then it joins,
// leaves and publishes, within limits, and every frame gets its answer.
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
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
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
	Node         proto.NodeID
	Hub          *hub.Hub
	Verifier     Verifier
	Tickets      Tickets
	Permissions  *auth.Permissions // nil: what the token allows
	Revoked      *auth.Revoked
	Publisher    Publisher
	DefaultRooms []proto.Room
	Limits       Limits
	AuthTimeout  time.Duration // from the connect to a good authenticate
	Encryption   Encryption
	Heartbeat    time.Duration // told to the client: after so much silence it is pinged
	Log          *zap.Logger
	Metrics      *Metrics

	users users
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

// A rare is what an idle client does without.
type rare struct {
	joins, publishes Bucket
	errors, entered  Bucket                  // the latter of rooms; guarded by Session.mu
	lane             *lane[publish]          // nil until it publishes
	asking           *lane[ask]              // guarded by Session.mu until it is made; nil until the application is asked for rooms
	sealing          *proto.Sealing          // nil unless the connection is encrypted; set before there is a client
	seals            bool                    // the client has sealed a frame
	waits            atomic.Pointer[waiting] // a token is being judged; nil if none is
}

func (s *Session) rarely() *rare {
	if s.rare == nil {
		s.rare = &rare{}
	}
	return s.rare
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
	if s.isJudged() && s.client.Load() == nil {
		s.fail(proto.CodeBusy, "a token is being judged: wait for connected", f.ID)
		return
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
		s.wrong()
		s.fail(proto.CodeUnknownEvent, "a client may send authenticate, join, leave, publish and heartbeat", f.ID)
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
	if r.lane != nil {
		r.lane.stop()
	}
	if r.asking != nil {
		r.asking.stop()
	}
	if c := s.client.Load(); c != nil {
		c.Close()
		who, _ := s.who()
		s.leaves(who.User)
	}
	if r.lane != nil {
		r.lane.running.Wait()
	}
	if r.asking != nil {
		r.asking.running.Wait()
	}
}

func (s *Session) authenticate(f proto.Frame) {
	a, err := f.Authenticate()
	if err != nil && s.client.Load() != nil {
		s.refuse(err)
		return
	}
	if s.isJudged() {
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

// isJudged says whether a token is being judged.
func (s *Session) isJudged() bool { return s.rare != nil && s.rare.waits.Load() != nil }

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
	if len(ask) > 0 {
		s.askAgain(ask)
	}
	s.answer(proto.EventRefreshed, proto.Refreshed{Expires: identity.Expires}, f.ID)
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
	asked, ok := s.rooms(f)
	if !ok || s.tooOften(&s.rarely().joins, s.o.Limits.Joins, "joins", f.ID) {
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
			} else if s.churns() && s.over("rooms_entered") {
				code = proto.CodeRateLimited
			}
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
	asked, err := f.Rooms()
	if err != nil {
		s.refuse(err)
		return nil, false
	}
	if most := s.o.Limits.RoomsPerFrame; most > 0 && len(asked) > most && s.over("rooms_per_frame") {
		s.fail(proto.CodeTooManyRooms, fmt.Sprintf("%d, at most %d are allowed", len(asked), most), f.ID)
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

package session

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// An ask is a join whose rooms the application is asked for, or what stands behind such a one.
type ask struct {
	id    string // of the frame
	join  []proto.JoinRoom
	leave []proto.Room
	again []proto.Room // to be left unless the application allows them still

	publish *publish // nil, or an event for a room of which only the application knows whether it may
}

// mayJoin says what is known without asking.
func (s *Session) mayJoin(who auth.Identity, r proto.Room) bool {
	return who.Rooms.Allow(r) || s.o.Permissions.Join(who.Bearer, r)
}

// mustAsk says whether the application is to be asked for a room, or is being asked for earlier
// ones.
func (s *Session) mustAsk(asked []proto.JoinRoom) bool {
	return s.o.Permissions != nil && (len(s.unknown(asked)) > 0 || s.isAsking())
}

// isAsking says whether a join waits for the application: what comes after it waits behind it.
func (s *Session) isAsking() bool {
	if s.rare == nil {
		return false
	}
	s.mu.Lock()
	l := s.rare.asking
	s.mu.Unlock()
	return l.busy()
}

// unknown are the rooms that only the application can allow.
func (s *Session) unknown(asked []proto.JoinRoom) (rooms []proto.Room) {
	who, _ := s.who()
	if who.User == "" {
		return nil
	}
	for _, a := range asked {
		if s.asked(a.Room) && !s.mayJoin(who, a.Room) && !s.o.Revoked.Room(who.Bearer, a.Room) {
			rooms = append(rooms, a.Room)
		}
	}
	return rooms
}

func (s *Session) ask(a ask) {
	r := s.rarely()
	s.mu.Lock()
	if r.asking == nil {
		r.asking = newLane(&sync.WaitGroup{}, s.unasked)
	}
	s.mu.Unlock()
	if a.again != nil { // rights that a newer token takes back do not wait
		r.asking.first(a, s.askOne)
		return
	}
	if !r.asking.take(a, s.askOne) {
		s.unasked(a)
		s.fail(proto.CodeBusy, "32 frames wait for the application: wait for their answers", a.id)
	}
}

// unasked is for what is never asked.
func (s *Session) unasked(a ask) {
	if a.publish != nil {
		s.published(*a.publish)
	}
}

// askAgain asks for rooms that the client is in, once its token is a new one.
func (s *Session) askAgain(rooms []proto.Room) { s.ask(ask{again: rooms}) }

// askOne runs in the lane. What the application does not allow is refused as what the token does
// not allow; what it does not answer for, in a way that says so.
func (s *Session) askOne(a ask) {
	who, _ := s.who()
	client, ctx := s.client.Load(), s.rare.asking.ctx
	rooms := s.unknown(a.join)
	for _, r := range a.again {
		if !s.mayJoin(who, r) {
			rooms = append(rooms, r)
		}
	}
	if a.publish != nil && !s.mayPublish(who, a.publish.Room) && !s.o.Revoked.Room(who.Bearer, a.publish.Room) {
		rooms = append(rooms, a.publish.Room)
	}
	var unsaid error // of the application
	for try := 0; len(rooms) > 0; try++ {
		if _, unsaid = s.o.Permissions.Ask(ctx, who, rooms); unsaid == nil || ctx.Err() != nil {
			break
		}
		s.log(who.User).Warn("the application does not say which rooms a client may join", zap.Int("rooms", len(rooms)), zap.Error(unsaid))
		if a.again == nil || try == len(againAfter) { // who is in a room stays there for some seconds more
			break
		}
		select {
		case <-time.After(againAfter[try]):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		s.unasked(a)
		return
	}
	switch {
	case a.again != nil:
		lost := slices.DeleteFunc(rooms, func(r proto.Room) bool { return s.mayJoin(who, r) })
		if len(lost) == 0 {
			return
		}
		if unsaid != nil {
			j := proto.Joined{Rooms: []proto.JoinedRoom{}, Done: true}
			for _, r := range lost {
				j.Denied = append(j.Denied, proto.DeniedRoom{Room: r, Code: proto.CodeUnavailable})
			}
			s.answer(proto.EventJoined, j, "")
		}
		client.Leave("", lost)
	case a.publish != nil && unsaid != nil:
		s.unasked(a)
		s.fail(proto.CodeUnavailable, "the application does not say whether this is allowed: the event was not sent", a.id)
	case a.publish != nil:
		s.enqueue(*a.publish)
	case a.leave != nil:
		client.Leave(a.id, a.leave)
	default:
		if unsaid == nil {
			rooms = nil
		}
		s.enterRooms(a.id, a.join, rooms)
	}
}

// againAfter is how long a client stays in its rooms after a refresh while the application does not
// say whether it may: then it is told that it may join again.
var againAfter = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

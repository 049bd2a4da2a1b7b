package bus

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
)

// batch is how many rooms one command names at most.
const batch = 512

// subscriptions are the rooms that somebody wants to be heard, and how far that has
// come on the present connection. The hub says what it wants, the bus' writer asks
// Redis for it, its reader confirms.
type subscriptions struct {
	wake chan struct{} // holds one: next has something

	mu    sync.Mutex
	on    bool                         // guarded by mu: there is a connection
	rooms map[proto.Room]*subscription // guarded by mu
	owed  int                          // guarded by mu: of those wanted at the reset, not confirmed yet
	ask   []proto.Room                 // guarded by mu: to be asked for
	tell  []proto.Room                 // guarded by mu: wanted again while still heard
	idle  []idle                       // guarded by mu: unwanted, the earliest first
}

type subscription struct {
	wanted   int
	unwanted time.Time // since when wanted is 0
	state    state
	owed     bool // wanted at the reset, not confirmed yet
}

type state int

const (
	unknown state = iota // to be asked for
	asking               // asked for, not confirmed yet
	hearing              // confirmed
)

type idle struct {
	room  proto.Room
	since time.Time
}

// work is what the writer shall do next.
type work struct {
	subscribe, unsubscribe, heard []proto.Room
	more                          bool // call again at once
}

func (s *subscriptions) init() {
	s.wake = make(chan struct{}, 1)
	s.rooms = map[proto.Room]*subscription{}
}

// want wants a room, for so many.
func (s *subscriptions) want(r proto.Room, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	if sub == nil {
		sub = &subscription{}
		s.rooms[r] = sub
		if s.on {
			s.ask = append(s.ask, r)
		}
	} else if sub.state == hearing {
		s.tell = append(s.tell, r)
	}
	sub.wanted += n
	s.wakeUp()
}

func (s *subscriptions) drop(r proto.Room, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	if sub.wanted--; sub.wanted > 0 {
		return
	}
	if !s.on {
		delete(s.rooms, r)
		return
	}
	sub.unwanted = now
	s.idle = append(s.idle, idle{r, now})
}

func (s *subscriptions) wakeUp() { signal(s.wake) }

// take takes a room out, and says for how many it was wanted and whether it was heard.
func (s *subscriptions) take(r proto.Room) (wanted int, heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	if sub == nil {
		return 0, false
	}
	delete(s.rooms, r)
	s.paid(sub)
	return sub.wanted, sub.state == hearing
}

// gone says that the server has given up a room by itself, and whether it was heard: what we
// have asked for is not in the table any more, or asked for again.
func (s *subscriptions) gone(r proto.Room) (heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	if sub == nil || sub.state != hearing {
		return false
	}
	sub.state = unknown
	return true
}

// retry forgets what was asked for and is not confirmed: one of it was refused.
func (s *subscriptions) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.rooms {
		if sub.state == asking {
			sub.state = unknown
		}
	}
}

// again asks for all that is neither heard nor asked for.
func (s *subscriptions) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on {
		return
	}
	s.ask = s.ask[:0]
	for r, sub := range s.rooms {
		if sub.state == unknown {
			s.ask = append(s.ask, r)
		}
	}
	s.wakeUp()
}

// lost ends a connection: until reset, only what is wanted is remembered. It returns that.
func (s *subscriptions) lost() (rooms []proto.Room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = false
	s.ask, s.tell, s.idle, s.owed = nil, nil, nil, 0
	for r, sub := range s.rooms {
		if sub.wanted == 0 {
			delete(s.rooms, r)
			continue
		}
		sub.state, sub.owed = unknown, false
		rooms = append(rooms, r)
	}
	return rooms
}

// reset begins with a new connection, on which nothing is heard.
func (s *subscriptions) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = true
	for r, sub := range s.rooms {
		sub.owed = true
		s.owed++
		s.ask = append(s.ask, r)
	}
	s.wakeUp()
}

// next says what to do now. It is called at least twice a second.
func (s *subscriptions) next(now time.Time) (w work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.ask), batch)
	for _, r := range s.ask[:n] {
		if sub := s.rooms[r]; sub != nil && sub.state == unknown {
			sub.state = asking
			w.subscribe = append(w.subscribe, r)
		}
	}
	if s.ask = s.ask[n:]; len(s.ask) == 0 {
		s.ask = nil
	}
	for _, r := range s.tell {
		if sub := s.rooms[r]; sub != nil && sub.state == hearing { // else it has gone elsewhere
			w.heard = append(w.heard, r)
		}
	}
	s.tell = nil
	for len(s.idle) > 0 && len(w.unsubscribe) < batch {
		i := s.idle[0]
		sub := s.rooms[i.room]
		if sub != nil && sub.wanted == 0 && sub.unwanted.Equal(i.since) {
			if i.since.Add(linger).After(now) || sub.state == asking { // a confirmation on its way must not meet a later one
				break
			}
			delete(s.rooms, i.room)
			s.paid(sub)
			if sub.state == hearing {
				w.unsubscribe = append(w.unsubscribe, i.room)
			}
		}
		s.idle = s.idle[1:]
	}
	if len(s.idle) == 0 {
		s.idle = nil // after many it is large
	}
	w.more = len(s.ask) > 0 || len(w.unsubscribe) == batch
	return w
}

// confirm says that the room is heard, and whether that is news.
func (s *subscriptions) confirm(r proto.Room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	if sub == nil || sub.state != asking {
		return false
	}
	sub.state = hearing
	s.paid(sub)
	return true
}

// paid is called with mu held.
func (s *subscriptions) paid(sub *subscription) {
	if sub.owed {
		sub.owed = false
		s.owed--
	}
}

// settled says whether everything is heard that was wanted at the reset. Rooms that were
// joined since do not count: while clients come, some room is always being asked for.
func (s *subscriptions) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed == 0
}

// has says whether the room is here.
func (s *subscriptions) has(r proto.Room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[r] != nil
}

// wanted says whether somebody wants a room.
func (s *subscriptions) wanted(r proto.Room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.rooms[r]
	return sub != nil && sub.wanted > 0
}

// all are the rooms that are wanted, or were until just now.
func (s *subscriptions) all() []proto.Room {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.rooms))
}

func (s *subscriptions) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rooms)
}

package hub

import (
	"math/bits"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A local is a room with members on this node: its order (room.Room), who reads it,
// and who waits until it is heard. Its fields but name are guarded by mu.
//
// The wake-up cannot be lost: receive appends and notes in one step, take clears the
// note and takes in one step, both under mu.
type local struct {
	name proto.Room

	mu      sync.Mutex
	room    room.Room
	members int
	heard   bool              // the bus listens to it
	closed  bool              // the last member has left: it is not used again
	waiting map[*member][]add // until heard

	listening uint64        // bit i: shard i has members
	noted     uint64        // bit i: shard i knows that there is news
	taken     []room.Cursor // by shard: how far it has got
}

// receive appends the event and says which shards are to be told.
func (l *local) receive(m proto.Message) (news uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Receive(m)
	news = l.listening &^ l.noted
	l.noted |= news
	if l.listening == 0 {
		l.room.Forget(l.room.Head()) // everyone is still on the way in
	}
	return news
}

// enter counts a member in, unless the room is closed.
func (l *local) enter(m *member) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.members++
	m.local = l
	return true
}

// await says whether the add may go to its shard now; if not, opened returns it.
func (l *local) await(a add) (now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard {
		return true
	}
	if l.waiting == nil {
		l.waiting = map[*member][]add{}
	}
	l.waiting[a.member] = append(l.waiting[a.member], a)
	return false
}

// opened says that the bus listens to the room, and returns who has waited for it.
func (l *local) opened() (waited []add) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = true
	for _, adds := range l.waiting {
		waited = append(waited, adds...)
	}
	l.waiting = nil
	return waited
}

// lost says that the bus does not listen any more.
func (l *local) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = false
}

// leave counts a member out, and returns its adds that have waited in vain.
func (l *local) leave(m *member) (stranded []add, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stranded = l.waiting[m]
	delete(l.waiting, m)
	l.members--
	l.closed = l.members == 0
	return stranded, l.closed
}

// listen makes shard i a reader from now on: the instant at which a join takes
// effect.
func (l *local) listen(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening |= 1 << i
	l.noted &^= 1 << i
	l.taken[i] = l.room.Head()
}

// ignore ends what listen began.
func (l *local) ignore(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening &^= 1 << i
	l.noted &^= 1 << i
	l.trim()
}

// take clears shard i's note and gives it what is new since it last took.
func (l *local) take(dst []room.Entry, i int) (_ []room.Entry, missed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted &^= 1 << i
	dst, missed = l.room.From(dst, l.taken[i])
	l.taken[i] = l.room.Head()
	l.trim()
	return dst, missed
}

// trim forgets what all readers have taken.
func (l *local) trim() {
	least := l.room.Head()
	for set := l.listening; set != 0; set &= set - 1 {
		least = min(least, l.taken[bits.TrailingZeros64(set)])
	}
	l.room.Forget(least)
}

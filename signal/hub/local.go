package hub

import (
	"math"
	"math/bits"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A local is a room with members on this node: its order (room.Room), who reads it,
// and who waits until it is heard. Its fields but name are guarded by mu.
//
// The wake-up cannot be lost: receive appends and notes in one step, take clears the
// note and takes in one step, both under mu (TestWakeUp).
type local struct {
	name   proto.Room
	budget *budget

	mu      sync.Mutex
	room    room.Room
	members int
	heard   bool              // the bus listens to it
	closed  bool              // the last member has left: it is not used again
	waiting map[*member][]add // until heard

	listening uint64        // bit i: shard i has members
	noted     uint64        // bit i: shard i knows that there is news
	taken     []room.Cursor // by shard: how far it has got
	least     []room.Cursor // by shard: how far the slowest of its members has got; none without such
	kept      int           // bytes, as the budget knows
}

// none is the least cursor where nobody is behind.
const none room.Cursor = math.MaxUint64

func newLocal(name proto.Room, shards int, b *budget) *local {
	cursors := make([]room.Cursor, 2*shards)
	return &local{name: name, budget: b, taken: cursors[:shards:shards], least: cursors[shards:]}
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

// head is the instant at which a join takes effect.
func (l *local) head() room.Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room.Head()
}

// listen makes shard i a reader from now on, and says from where.
func (l *local) listen(i int) room.Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening |= 1 << i
	l.noted &^= 1 << i
	l.taken[i], l.least[i] = l.room.Head(), none
	return l.taken[i]
}

// ignore ends what listen began, and returns what took returns.
func (l *local) ignore(i int) (victims []*local) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening &^= 1 << i
	l.noted &^= 1 << i
	return l.trim()
}

// take clears shard i's note and gives what is new since its last pass, at most the
// bytes of one batch; there may be more.
func (l *local) take(dst []room.Entry, i int) (entries []room.Entry, from room.Cursor, missed int, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted &^= 1 << i
	entries, missed = l.room.From(dst, l.taken[i], l.room.Head(), batchBytes)
	from = l.taken[i] + room.Cursor(missed)
	return entries, from, missed, from+room.Cursor(len(entries)) < l.room.Head()
}

// between gives what stands between two cursors, at most the bytes of one batch.
func (l *local) between(dst []room.Entry, from, to room.Cursor) (entries []room.Entry, missed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room.From(dst, from, to, batchBytes)
}

// took says how far shard i has got, and its slowest member. It returns the rooms that
// must be released for it.
func (l *local) took(i int, at, least room.Cursor) (victims []*local) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken[i], l.least[i] = at, least
	return l.trim()
}

// release forgets what is only kept for members that are behind.
func (l *local) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken, _ := l.readers()
	l.room.Forget(taken)
	l.keep(0)
}

// trim forgets what all readers have taken. It is called with mu held.
func (l *local) trim() (victims []*local) {
	taken, least := l.readers()
	l.room.Forget(min(taken, least))
	if least < taken {
		return l.keep(l.room.Bytes())
	}
	return l.keep(0)
}

// readers is how far the slowest shard has got, and the slowest member of any. It is
// called with mu held.
func (l *local) readers() (taken, least room.Cursor) {
	taken, least = l.room.Head(), none
	for set := l.listening; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		taken, least = min(taken, l.taken[i]), min(least, l.least[i])
	}
	return taken, least
}

// keep is called with mu held: the budget has a lock of its own, under which nothing
// else is locked.
func (l *local) keep(bytes int) (victims []*local) {
	if bytes == l.kept {
		return nil
	}
	l.kept = bytes
	return l.budget.note(l, bytes)
}

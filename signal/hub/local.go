package hub

import (
	"math"
	"math/bits"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A local is a room with members on this node: its order (room.Room), who reads it,
// and who waits: for the room to be open, that is heard and its position known, or for
// what Redis knows of a position. Its fields but name and hub are guarded by mu.
//
// The wake-up cannot be lost: receive appends and notes in one step, take clears the
// note and takes in one step, both under mu (TestWakeUp).
type local struct {
	name proto.Room
	hub  *Hub

	mu      sync.Mutex
	room    room.Room
	members int
	heard   bool                    // the bus listens to it
	closed  bool                    // the last member has left: it is not used again
	waiting []add                   // until it is open
	asked   map[proto.Position]*ask // of Redis
	past    *past                   // what a read has brought lately, or nil
	active  bool                    // a durable event came since the last check
	noticed notice                  // of the read that is out
	counted bool                    // as healed, since it was noticed

	listening uint64        // bit i: shard i has members
	noted     uint64        // bit i: shard i knows that there is news
	taken     []room.Cursor // by shard: how far it has got
	least     []room.Cursor // by shard: how far the slowest of its members has got; none without such
	kept      int           // bytes, as the budget knows
}

// none is the least cursor where nobody is behind.
const none room.Cursor = math.MaxUint64

func newLocal(name proto.Room, h *Hub) *local {
	shards := len(h.shards)
	cursors := make([]room.Cursor, 2*shards)
	return &local{name: name, hub: h, taken: cursors[:shards:shards], least: cursors[shards:]}
}

// receive gives the event to the room and says which shards are to be told.
func (l *local) receive(m proto.Message) (news uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !m.Position.IsZero() {
		l.active = true
	}
	if !l.room.Receive(m) {
		l.read(byMessage)
		return 0
	}
	return l.news()
}

// news notes that there are new entries and says which shards are to be told. It is called
// with mu held.
func (l *local) news() (news uint64) {
	news = l.listening &^ l.noted
	l.noted |= news
	if l.listening == 0 {
		l.room.Forget(l.room.Head() - min(l.room.Head(), l.retained())) // everyone is still on the way in
	}
	return news
}

// A notice is what a doubt was raised by.
type notice uint8

const (
	byMessage notice = iota
	byCheck
	byConnection
	byClient
	notices
	bySame = notices // another page
)

// read asks Redis for what the room wants to know. It is called with mu held, after
// everything that may raise a doubt.
func (l *local) read(by notice) {
	if !l.heard {
		return // what is read before the room is heard could miss what comes in between
	}
	if since, wanted := l.room.Read(); wanted {
		if by != bySame {
			l.noticed, l.counted = by, false
		}
		l.hub.bus.Read(l.name, since, true)
	}
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

// await returns what the shard is to do for the add now; if nothing, that will be among what
// opened or replied return.
func (l *local) await(a add) (ready []command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.heard {
		l.waiting = append(l.waiting, a)
		return nil
	}
	ready = l.judge(a)
	l.read(byClient)
	return ready
}

// judge says how the add takes effect, or lets it wait for Redis. It is called with mu held.
func (l *local) judge(a add) (ready []command) {
	v, now := l.room.Join(a.since)
	switch {
	case now:
		a.verdict = v
		return []command{a}
	case !l.room.Opened():
		l.waiting = append(l.waiting, a)
		l.room.Open(a.since)
		return nil
	}
	if known := l.recall(a.since); known != nil {
		a.verdict = l.room.Recalled(a.since)
		return []command{a, page{local: l, since: a.since, verdict: a.verdict, entries: known, members: []*member{a.member}}}
	}
	next := l.ask(a.since)
	next.adds = append(next.adds, a)
	return nil
}

// opened says that the bus listens to the room, and returns who goes in at once.
func (l *local) opened() (ready []command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = true
	l.room.Reopen()
	ready = l.admit()
	l.read(byConnection)
	return ready
}

// admit judges those who wait for the room to be open. It is called with mu held.
func (l *local) admit() (ready []command) {
	waited := l.waiting
	l.waiting = nil
	for _, a := range waited {
		ready = append(ready, l.judge(a)...)
	}
	return ready
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
	l.waiting, stranded = split(l.waiting, m, stranded)
	for _, a := range l.asked {
		a.now.adds, stranded = split(a.now.adds, m, stranded)
		a.next.adds, stranded = split(a.next.adds, m, stranded)
	}
	l.members--
	if l.closed = l.members == 0; l.closed {
		l.trim() // less is kept: nobody has to make way
	}
	return stranded, l.closed
}

// split takes a member's adds out of adds.
func split(adds []add, m *member, out []add) (rest, _ []add) {
	rest = adds[:0]
	for _, a := range adds {
		if a.member == m {
			out = append(out, a)
		} else {
			rest = append(rest, a)
		}
	}
	clear(adds[len(rest):])
	return rest, out
}

// listen makes shard i a reader from now on, and says from where.
func (l *local) listen(i int) (room.Cursor, proto.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening |= 1 << i
	l.noted &^= 1 << i
	l.taken[i], l.least[i] = l.room.Head(), none
	return l.taken[i], l.room.At()
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
func (l *local) take(dst []room.Entry, i int) (entries []room.Entry, from room.Cursor, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted &^= 1 << i
	entries, from = l.room.From(dst, l.taken[i], l.room.Head(), batchBytes)
	return entries, from, from+room.Cursor(len(entries)) < l.room.Head()
}

// seek says where a reader goes on, and gives what stands between it and the shard's cursor,
// at most the bytes of one batch. What is on Redis it asks for: then page comes.
func (l *local) seek(dst []room.Entry, m *member, from room.Reader, end room.Cursor) (entries []room.Entry, to room.Reader, lost proto.Found, missed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to, lost, missed = l.room.Seek(from)
	switch {
	case lost != "":
	case to.InLog:
		if entries = l.recall(to.At); entries != nil {
			break
		}
		next := l.ask(to.At)
		next.members = append(next.members, m)
		m.own.asked = true
	default:
		entries, _ = l.room.From(dst, to.Cursor, end, batchBytes)
	}
	return entries, to, lost, missed
}

// took says how far shard i has got, and its slowest member. It returns the rooms that
// must be released for it.
func (l *local) took(i int, at, least room.Cursor) (victims []*local) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken[i], l.least[i] = at, least
	return l.trim()
}

// release forgets what is only kept for members that are behind or may come back.
func (l *local) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken, _ := l.readers()
	l.room.Forget(taken)
	l.past = nil
	l.keep(0)
}

// trim forgets what all readers have taken, but what clients may come back for. It is called
// with mu held.
func (l *local) trim() (victims []*local) {
	taken, least := l.readers()
	kept := taken - min(taken, l.retained())
	l.room.Forget(min(kept, least))
	if l.closed {
		l.past = nil // nobody comes for it, and no check lets it fade
	}
	bytes := l.past.size()
	if kept < taken || least < taken {
		bytes += l.room.Bytes()
	}
	return l.keep(bytes)
}

// retained is how many entries stay for clients that come back. A room of one member keeps
// none: who comes back alone asks Redis.
func (l *local) retained() room.Cursor {
	if l.members < 2 || !l.room.Durable() {
		return 0
	}
	return room.Retained
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
	return l.hub.budget.note(l, bytes)
}

// size is the number of members.
func (l *local) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.members
}

// due says whether the room's position is to be checked: it is heard, and since the last time
// no event has shown that it is where Redis is.
func (l *local) due(all bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	active := l.active
	l.active = false
	l.fade()
	return l.heard && l.room.Opened() && (all || !active)
}

// checked says where Redis has the room.
func (l *local) checked(top proto.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Checked(top)
	l.read(byCheck)
}

package hub

import (
	"context"
	"runtime"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A shard is one goroutine that writes events to its clients. Others leave notes and
// commands for it; it alone knows who is in which room, so a pass needs no lock.
//
// Commands keep their order and are never dropped, so an answer (joined, left) stands
// where it belongs among the room's events: a join writes its answer before any event
// of the room, a leave after the last one (TestInterleavings). What is to be written
// stands in one queue, rooms with news and clients that have drained, and each has its
// turn of a few writes: a room that is busy or large delays the others by one turn, not
// by all its members (TestBusyRoomYields).
type shard struct {
	index   int
	metrics *metrics
	alone   bool          // nobody else has a processor while it writes
	wake    chan struct{} // holds one: there is something to do

	mu       sync.Mutex
	news     []*local  // guarded by mu: rooms with something new
	commands []command // guarded by mu
	drained  []*Client // guarded by mu: their connections take frames again

	// Of run's goroutine alone.
	parts   map[*local]*part
	queue   queue
	spare   []*pass // not under way
	writes  int     // since the processor was last given away
	reply   *reply  // of adds: not written yet
	joined  []proto.JoinedRoom
	counted counts
	later   []*member // the socket took only a part of the last page
}

// turn is how many writes a room or a client has before the next one has its turn, and
// another thread the processor: at some microseconds each, so much is what the others wait.
// With 128 quiet rooms beside a busy one have a third more latency (median); fewer than 32
// gain nothing.
const turn = 32

// Work has a turn: it writes up to turn times and says whether it wants another one.
type work interface{ turn(*shard) (again bool) }

// counts are what a turn has done, brought to the metrics at its end.
type counts struct{ delivered, slow, fromRing int }

// A command is an add or a remove.
type command interface{ do(*shard) }

// An add makes a member hear its room, and says so.
type add struct {
	member  *member // nil when the reply names no room that is joined
	name    proto.Room
	since   proto.Position // from where the client wants to go on; zero from now on
	verdict room.Verdict   // how it takes effect
	reply   *reply
}

// A reply is the answer to one join frame: joined frames, as its rooms take effect.
// Only the client's shard touches it.
type reply struct {
	client *Client
	id     string
	denied []proto.DeniedRoom
	left   int // rooms without an answer
}

// A remove ends memberships, and says so if reply is set.
type remove struct {
	client  *Client
	members []*member
	names   []proto.Room
	id      string
	reply   bool
}

func newShard(index int, m *metrics) *shard {
	return &shard{index: index, metrics: m, alone: runtime.GOMAXPROCS(0) == 1, wake: make(chan struct{}, 1), parts: map[*local]*part{}}
}

// note says that there is news in a room. The shard sees it when it is woken, or before.
func (s *shard) note(l *local) {
	s.mu.Lock()
	s.news = append(s.news, l)
	s.mu.Unlock()
}

func (s *shard) command(c command) {
	s.mu.Lock()
	s.commands = append(s.commands, c)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *shard) drain(c *Client) {
	s.mu.Lock()
	s.drained = append(s.drained, c)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *shard) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakeForNews wakes the shard if rooms have news.
func (s *shard) wakeForNews() {
	s.mu.Lock()
	news := len(s.news) > 0
	s.mu.Unlock()
	if news {
		s.wakeUp()
	}
}

func (s *shard) run(ctx context.Context) {
	var (
		news     []*local
		commands []command
		drained  []*Client
	)
	for {
		s.mu.Lock()
		news, s.news = s.news, news[:0]
		commands, s.commands = s.commands, commands[:0]
		drained, s.drained = s.drained, drained[:0]
		s.mu.Unlock()
		for _, c := range commands {
			c.do(s)
		}
		s.answer()
		for _, c := range drained {
			s.ready(c)
		}
		for _, l := range news {
			if p := s.parts[l]; p != nil { // else the last one here has left
				s.hasNews(p)
			}
		}
		busy := len(news)+len(commands)+len(drained) > 0
		clear(news) // keep no room and no client alive
		clear(commands)
		clear(drained)
		if w := s.queue.pop(); w != nil {
			if w.turn(s) {
				s.queue.push(w)
			}
			s.count()
			continue
		}
		if busy {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// count brings what was counted to the metrics, and after a turn's writes lets those run who
// wait for the processor. A write to a socket does not: a busy shard would keep it until the
// kernel takes it away, milliseconds later. It goes to the threads of the machine (the bus, or
// Redis and clients beside the node), not to Go's scheduler, which would wake a thread to go on
// with cold caches (4 % of a delivery); unless the shard has the only processor of the program.
// ADR 0010.
func (s *shard) count() {
	s.metrics.delivered.Add(float64(s.counted.delivered))
	s.metrics.slow.Add(float64(s.counted.slow))
	s.metrics.fromRing.Add(float64(s.counted.fromRing))
	s.counted = counts{}
	if s.writes < turn {
		return
	}
	if s.writes = 0; s.alone {
		runtime.Gosched()
	} else {
		yield()
	}
}

func (a add) do(s *shard) {
	if s.reply != a.reply {
		s.answer()
		s.reply = a.reply
	}
	if a.member == nil {
		return
	}
	a.reply.left--
	if a.member.gone.Load() {
		a.reply.denied = append(a.reply.denied, proto.DeniedRoom{Room: a.name.Public(), Code: proto.CodeSuperseded})
		return
	}
	s.join(a.member, a.verdict)
	s.metrics.joined(a.verdict)
	joined := proto.JoinedRoom{Room: a.name.Public(), Position: a.verdict.At, Recovered: a.verdict.Found == proto.OK, Replayed: a.verdict.Replayed}
	if !joined.Recovered {
		joined.Reason = a.verdict.Found
	}
	s.joined = append(s.joined, joined)
}

// join makes a member go on from where the verdict says. Who joins again goes back there.
func (s *shard) join(m *member, v room.Verdict) {
	p := s.parts[m.local]
	if p == nil {
		p = &part{local: m.local}
		p.at, p.position = m.local.listen(s.index)
		s.parts[m.local] = p
	}
	if m.index < 0 {
		m.index = int32(len(p.members))
		p.members = append(p.members, m)
		p.size++
	}
	if !v.InLog && v.Cursor == p.at && p.pass == nil {
		if m.own != nil {
			p.catchUp(m)
		}
		return
	}
	p.leaveBehind(m, v.Reader)
	m.own.live, m.own.asked = v.Live, v.InLog // the page comes with the verdict
	m.list()
	if !m.client.blocked {
		s.ready(m.client)
	}
}

// answer writes the joined frame of the adds so far.
func (s *shard) answer() {
	r := s.reply
	if r == nil {
		return
	}
	frame := proto.Joined{Rooms: s.joined, Denied: []proto.DeniedRoom{}, Done: r.left == 0}
	if r.denied != nil && frame.Done {
		frame.Denied = r.denied
	}
	if frame.Rooms == nil {
		frame.Rooms = []proto.JoinedRoom{}
	}
	if frame.Done {
		r.client.open.Add(-1)
	}
	if len(frame.Rooms) > 0 || frame.Done {
		r.client.conn.Answer(proto.EncodeFrame(proto.EventJoined, frame, r.id))
	}
	s.reply, s.joined = nil, s.joined[:0]
}

func (r remove) do(s *shard) {
	s.answer()
	for _, m := range r.members {
		s.leave(m)
	}
	if r.reply {
		for i, name := range r.names {
			r.names[i] = name.Public()
		}
		r.client.conn.Answer(proto.EncodeFrame(proto.EventLeft, proto.Left{Rooms: r.names}, r.id))
	}
}

func (s *shard) leave(m *member) {
	if m.index < 0 {
		return // its add is late, and will find it gone
	}
	p := s.parts[m.local]
	if m.own != nil {
		p.catchUp(m)
		if len(p.own) == 0 {
			s.took(p) // the room need not keep anything
		}
	}
	p.remove(m)
	if p.size == 0 && p.pass == nil {
		s.close(p)
	}
}

// close forgets a room of which nobody is here any more.
func (s *shard) close(p *part) {
	delete(s.parts, p.local)
	release(p.local.ignore(s.index))
}

// A part is the members of a room that are in one shard. All of them have got as far as
// at, but those in own, who have a cursor of their own.
type part struct {
	local    *local
	members  []*member // in any order; nil where one has left during a pass
	size     int       // members without the nils
	at       room.Cursor
	position proto.Position // of the room there
	own      []*member      // in any order
	queued   bool           // it stands in the shard's queue
	news     bool           // there may be something new
	pass     *pass          // under way, or nil
}

// remove takes m out. During a pass the others keep their places.
func (p *part) remove(m *member) {
	p.size--
	if p.pass != nil {
		p.members[m.index] = nil
	} else {
		last := len(p.members) - 1
		p.members[m.index] = p.members[last]
		p.members[m.index].index = m.index
		p.members[last] = nil
		p.members = p.members[:last]
	}
	m.index = -1
}

// compact closes the gaps that a pass has left.
func (p *part) compact() {
	if p.size == len(p.members) {
		return
	}
	kept := p.members[:0]
	for _, m := range p.members {
		if m != nil {
			m.index = int32(len(kept))
			kept = append(kept, m)
		}
	}
	clear(p.members[len(kept):])
	p.members = kept
}

// leaveBehind gives m a cursor of its own, or another one.
func (p *part) leaveBehind(m *member, at room.Reader) {
	if m.own == nil {
		m.own = &own{place: int32(len(p.own))}
		p.own = append(p.own, m)
	}
	m.own.Reader = at
}

// catchUp says that m is where its part is.
func (p *part) catchUp(m *member) {
	last, place := len(p.own)-1, m.own.place
	p.own[place] = p.own[last]
	p.own[place].own.place = place
	p.own[last] = nil
	p.own = p.own[:last]
	m.own = nil
}

// least is the cursor of the slowest member that reads the ring, or none.
func (p *part) least() room.Cursor {
	least := none
	for _, m := range p.own {
		if !m.own.InLog {
			least = min(least, m.own.Cursor)
		}
	}
	return least
}

// A queue is first in, first out.
type queue struct {
	work []work
	head int
}

func (q *queue) push(w work) { q.work = append(q.work, w) }

func (q *queue) pop() work {
	if q.head == len(q.work) {
		return nil
	}
	w := q.work[q.head]
	q.work[q.head] = nil
	q.head++
	if q.head > len(q.work)/2 {
		n := copy(q.work, q.work[q.head:])
		clear(q.work[n:])
		q.work, q.head = q.work[:n], 0
	}
	return w
}

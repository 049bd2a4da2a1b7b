package hub

import (
	"context"
	"slices"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A shard is one goroutine that writes events to its clients. Others leave notes and
// commands for it; it alone knows who is in which room, so a pass needs no lock.
//
// Commands keep their order and are never dropped, so an answer (joined, left) stands
// where it belongs among the room's events: a join writes its answer before any event
// of the room, a leave after the last one.
type shard struct {
	index   int
	metrics *metrics
	wake    chan struct{} // holds one: there is something to do

	mu       sync.Mutex
	news     []*local  // guarded by mu: rooms with something new
	commands []command // guarded by mu

	// Of run's goroutine alone.
	parts   map[*local]*part
	entries []room.Entry // of a pass
	reply   *reply       // of adds: not written yet
	joined  []proto.JoinedRoom
}

// A part is the members of a room that are in one shard.
type part struct {
	members []*member
}

// A command is an add or a remove.
type command interface{ do(*shard) }

// An add makes a member hear its room, and says so.
type add struct {
	member *member // nil when the reply names no room that is joined
	name   proto.Room
	reply  *reply
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
	return &shard{index: index, metrics: m, wake: make(chan struct{}, 1), parts: map[*local]*part{}}
}

// note says that there is news in a room.
func (s *shard) note(l *local) {
	s.mu.Lock()
	s.news = append(s.news, l)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *shard) command(c command) {
	s.mu.Lock()
	s.commands = append(s.commands, c)
	s.mu.Unlock()
	s.wakeUp()
}

func (s *shard) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shard) run(ctx context.Context) {
	var (
		news     []*local
		commands []command
	)
	for {
		s.mu.Lock()
		news, s.news = s.news, news[:0]
		commands, s.commands = s.commands, commands[:0]
		s.mu.Unlock()
		for _, c := range commands {
			c.do(s)
		}
		s.answer()
		for _, l := range news {
			s.pass(l)
		}
		clear(news) // keep no room and no client alive
		clear(commands)
		if len(news)+len(commands) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// pass writes what is new in a room to its members in this shard.
//
// Hot path: 0 allocs, whatever the number of members (TestDeliverAllocs).
func (s *shard) pass(l *local) {
	p := s.parts[l]
	if p == nil {
		return // the last one here has left
	}
	entries, missed := l.take(s.entries[:0], s.index)
	taken, refused := 0, 0
	for _, m := range p.members {
		for i := range entries {
			e := &entries[i]
			switch {
			case m.gone.Load() || e.Except != nil && slices.Contains(e.Except, m.client.id):
			case m.client.conn.Write(e.Frame):
				taken++
			default:
				refused++
			}
		}
	}
	s.metrics.delivered.Add(float64(taken))
	s.metrics.refused.Add(float64(refused))
	s.metrics.overflown.Add(float64(missed * len(p.members)))
	clear(entries)
	s.entries = entries
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
	s.join(a.member)
	s.joined = append(s.joined, proto.JoinedRoom{Room: a.name.Public(), Reason: proto.ReasonLive})
}

func (s *shard) join(m *member) {
	if m.index >= 0 {
		return // joined again
	}
	p := s.parts[m.local]
	if p == nil {
		p = &part{}
		s.parts[m.local] = p
		m.local.listen(s.index)
	}
	m.index = len(p.members)
	p.members = append(p.members, m)
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
		r.client.conn.Send(proto.AppendFrame(nil, proto.EventJoined, frame, r.id))
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
		r.client.conn.Send(proto.AppendFrame(nil, proto.EventLeft, proto.Left{Rooms: r.names}, r.id))
	}
}

func (s *shard) leave(m *member) {
	if m.index < 0 {
		return // its add is late, and will find it gone
	}
	p := s.parts[m.local]
	last := len(p.members) - 1
	p.members[m.index] = p.members[last]
	p.members[m.index].index = m.index
	p.members[last] = nil
	p.members = p.members[:last]
	m.index = -1
	if last == 0 {
		delete(s.parts, m.local)
		m.local.ignore(s.index)
	}
}

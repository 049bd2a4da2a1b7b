package hub

import (
	"slices"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// batchBytes is the most that a batch joins, but a single frame is never split.
const batchBytes = 64 << 10

// A pass writes what is new in a room to its members in one shard: the frames are joined
// once, and each member costs one write. It has its turns like any work; between two of
// them a member that leaves makes a gap and one that joins has a cursor of its own, so
// the members that the pass counts by stay where they are. The shard's cursor moves when
// the pass ends, and only then do members with a cursor of their own that have caught up
// go on with the others (TestOrderWhileMembersComeAndGo).
//
// Hot path: 0 allocations, whatever the number of members (TestDeliverAllocs).
type pass struct {
	batch  Batch
	except []proto.ClientID // of any of the entries
	resync bool             // one of the entries is one
	from   room.Cursor      // of the first entry
	before proto.Position   // of the room there
	next   int              // of the part's members
	near   int              // up to where they are prepared
	end    int              // who came later is none of the pass'
	more   bool             // there was more than one batch
	joined []byte           // buffer of batch.Joined
}

// to is where the pass ends.
func (p *pass) to() room.Cursor { return p.from + room.Cursor(len(p.batch.Entries)) }

// join makes one buffer of the entries. A single frame needs none.
func (p *pass) join() {
	if e := p.batch.Entries; len(e) == 1 {
		p.batch.Joined = e[0].Frame
		return
	}
	p.joined = p.joined[:0]
	for i := range p.batch.Entries {
		p.joined = append(p.joined, p.batch.Entries[i].Frame...)
	}
	p.batch.Joined = p.joined
}

// after is where the room is after so many entries that begin at a position.
func after(at proto.Position, entries []room.Entry) proto.Position {
	for i := len(entries) - 1; i >= 0; i-- {
		if p := entries[i].Position; !p.IsZero() {
			return p
		}
	}
	return at
}

// part is what stands between two entries.
func (b *Batch) part(from, to int) Batch {
	skip, size := 0, 0
	for i := range b.Entries[:to] {
		if n := len(b.Entries[i].Frame); i < from {
			skip += n
		} else {
			size += n
		}
	}
	return Batch{b.Entries[from:to], b.Joined[skip : skip+size]}
}

// borrow returns a pass that is not under way.
func (s *shard) borrow() *pass {
	if n := len(s.spare); n > 0 {
		p := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return p
	}
	return &pass{}
}

// giveBack keeps a pass for the next one, and nothing of what it wrote.
func (s *shard) giveBack(p *pass) {
	clear(p.batch.Entries)
	clear(p.except)
	*p = pass{batch: Batch{Entries: p.batch.Entries[:0]}, except: p.except[:0], joined: p.joined[:0]}
	s.spare = append(s.spare, p)
}

// hasNews queues a room.
func (s *shard) hasNews(p *part) {
	p.news = true
	if !p.queued {
		p.queued = true
		s.queue.push(p)
	}
}

// turn begins a pass or goes on with it.
func (p *part) turn(s *shard) (again bool) {
	if p.pass == nil && !p.begin(s) {
		p.queued = false
		return false
	}
	pass := p.pass
	for most := s.writes + turn; pass.next < pass.end && s.writes < most; pass.next++ {
		if pass.next == pass.near {
			pass.near = min(pass.near+ahead, pass.end)
			prepare(p.members[pass.next:pass.near])
		}
		if m := p.members[pass.next]; m != nil && m.own == nil {
			s.write(m, pass)
		}
	}
	if pass.next < pass.end {
		return true
	}
	p.finish(s)
	p.queued = p.news && p.size > 0
	return p.queued
}

// ahead is how many members are prepared at a time.
const ahead = 8

// prepare reads a word of each member and of its connection. With thousands of members
// none is in the processor's cache, and a system call lets it wait for one after the other;
// here it waits for all at once (7 % of a delivery in signal bench fanout).
func prepare(members []*member) {
	for _, m := range members {
		if m != nil {
			m.gone.Load()
		}
	}
	for _, m := range members {
		if m != nil {
			m.conn.Prepare()
		}
	}
}

// begin takes what is new.
func (p *part) begin(s *shard) bool {
	p.news = false
	if p.size == 0 {
		return false
	}
	pass := s.borrow()
	pass.batch.Entries, pass.from, pass.more = p.local.take(pass.batch.Entries, s.index)
	entries := pass.batch.Entries
	if len(entries) == 0 {
		s.giveBack(pass)
		return false
	}
	if pass.from > p.at && entries[0].Resync == "" {
		p.allBehind(s, pass.from)
	}
	for i := range entries {
		pass.except = append(pass.except, entries[i].Except...)
		pass.resync = pass.resync || entries[i].Resync != ""
	}
	pass.before = p.position
	pass.join()
	pass.next, pass.near, pass.end = 0, 0, len(p.members)
	p.pass = pass
	return true
}

// allBehind is for a shard that was too slow for the ring: those who were where it was have
// to ask Redis for what fell off.
func (p *part) allBehind(s *shard, from room.Cursor) {
	for _, m := range p.members {
		if m != nil && m.own == nil {
			p.leaveBehind(m, room.Reader{Cursor: p.at, At: p.position})
			m.list()
			if !m.client.blocked {
				s.ready(m.client)
			}
		}
	}
	p.at = from
}

// write gives the batch to one member. That its connection is blocked, the connection
// itself says: looking at the client would cost as much as asking.
func (s *shard) write(m *member, p *pass) {
	var taken int
	switch {
	case m.gone.Load():
		return
	case p.resync || len(p.except) > 0 && m.isOneOf(p.except):
		taken = s.writeEach(m, &p.batch, 0)
	default:
		s.writes++
		taken = m.conn.Write(&p.batch)
		s.counted.delivered += taken
	}
	if taken < len(p.batch.Entries) {
		s.block(m, room.Reader{Cursor: p.from + room.Cursor(taken), At: after(p.before, p.batch.Entries[:taken])})
	}
}

func (m *member) isOneOf(clients []proto.ClientID) bool {
	return slices.Contains(clients, m.client.id) || m.client.was != nil && slices.Contains(clients, *m.client.was)
}

// writeEach writes entries that may look different to this member: of a durable event that
// it is left out of it gets a skip, so that it knows how far the room is; a resync says when
// to ask for the present state; of live events it gets none before the first live one. It
// returns how many it has got, or was not to get.
func (s *shard) writeEach(m *member, b *Batch, live int) (taken int) {
	for i := 0; i < len(b.Entries); {
		var part Batch
		end := i + 1
		switch e := &b.Entries[i]; {
		case e.Resync != "":
			part = single(s.resync(m, e.Resync, e.Position), e)
		case !m.gets(e, i, live) && e.Position.IsZero():
			i++
			continue
		case !m.gets(e, i, live):
			part = single(proto.EncodeFrame(proto.EventSkip, proto.Skip{Room: m.local.name.Public(), Position: e.Position}, ""), e)
		default:
			for end < len(b.Entries) && b.Entries[end].Resync == "" && m.gets(&b.Entries[end], end, live) {
				end++
			}
			part = b.part(i, end)
		}
		s.writes++
		n := m.conn.Write(&part)
		s.counted.delivered += n
		if i += n; i < end {
			return i
		}
	}
	return len(b.Entries)
}

// gets says whether the member gets an event as it is.
func (m *member) gets(e *room.Entry, i, live int) bool {
	return !m.isOneOf(e.Except) && (i >= live || !e.Position.IsZero())
}

// single is a batch of one frame that is only this member's.
func single(frame []byte, e *room.Entry) Batch {
	return Batch{[]room.Entry{{Frame: frame, Position: e.Position}}, frame}
}

// finish moves the shard's cursor to where the pass has come, with those who have a
// cursor of their own and can follow.
func (p *part) finish(s *shard) {
	pass := p.pass
	p.pass = nil
	p.compact()
	for i := len(p.own) - 1; i >= 0; i-- { // backwards: catchUp takes from the end
		if m := p.own[i]; m.client.blocked || m.client.queued {
			m.list()
		} else if !s.follow(m, pass) {
			m.list()
			s.ready(m.client)
		}
	}
	p.at, p.position = pass.to(), after(pass.before, pass.batch.Entries)
	for i := len(p.own) - 1; i >= 0; i-- {
		if m := p.own[i]; !m.own.InLog && m.own.Cursor == p.at && !m.client.blocked {
			p.catchUp(m)
		}
	}
	p.news = p.news || pass.more
	s.giveBack(pass)
	if p.size == 0 {
		s.close(p)
		return
	}
	s.took(p)
}

// took tells the room how far this shard has got.
func (s *shard) took(p *part) { release(p.local.took(s.index, p.at, p.least())) }

// follow writes to a member with a cursor of its own what of the pass it does not have. It is
// false if the member lacks more than that.
func (s *shard) follow(m *member, p *pass) bool {
	o := m.own
	switch {
	case m.gone.Load():
		return true
	case o.InLog || o.Cursor < p.from:
		return false
	case o.Cursor >= p.to():
		return true
	}
	rest := p.batch.part(int(o.Cursor-p.from), len(p.batch.Entries))
	s.advance(m, &rest)
	return true
}

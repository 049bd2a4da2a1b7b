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
	from   room.Cursor      // of the first entry
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
		if m := p.members[pass.next]; m != nil && !m.own {
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
	entries, from, missed, more := p.local.take(pass.batch.Entries, s.index)
	if missed > 0 {
		s.counted.overflown += missed * (p.size - len(p.own))
		p.at = from // of those who go with it
	}
	pass.batch.Entries, pass.from, pass.more = entries, from, more
	if len(entries) == 0 {
		s.giveBack(pass)
		return false
	}
	for i := range entries {
		pass.except = append(pass.except, entries[i].Except...)
	}
	pass.join()
	pass.next, pass.near, pass.end = 0, 0, len(p.members)
	p.pass = pass
	return true
}

// write gives the batch to one member. That its connection is blocked, the connection
// itself says: looking at the client would cost as much as asking.
func (s *shard) write(m *member, p *pass) {
	var taken int
	switch {
	case m.gone.Load():
		return
	case len(p.except) > 0 && slices.Contains(p.except, m.client.id):
		taken = s.writeExcept(m, &p.batch)
	default:
		s.writes++
		taken = m.conn.Write(&p.batch)
		s.counted.delivered += taken
	}
	if taken < len(p.batch.Entries) {
		s.block(m, p.from+room.Cursor(taken))
	}
}

// writeExcept writes the entries that the member is not left out of. It returns how many
// it has got, or was not to get.
func (s *shard) writeExcept(m *member, b *Batch) (taken int) {
	for i := 0; i < len(b.Entries); {
		if slices.Contains(b.Entries[i].Except, m.client.id) {
			i++
			continue
		}
		end := i + 1
		for end < len(b.Entries) && !slices.Contains(b.Entries[end].Except, m.client.id) {
			end++
		}
		part := b.part(i, end)
		s.writes++
		n := m.conn.Write(&part)
		s.counted.delivered += n
		if i += n; i < end {
			return i
		}
	}
	return len(b.Entries)
}

// finish moves the shard's cursor to where the pass has come, with those who have a
// cursor of their own and can follow.
func (p *part) finish(s *shard) {
	pass := p.pass
	p.pass = nil
	p.compact()
	for i := len(p.own) - 1; i >= 0; i-- { // backwards: catchUp takes from the end
		if m := p.own[i]; !m.client.blocked && !m.client.queued {
			s.follow(m, pass)
		} else {
			m.list()
		}
	}
	p.at = pass.to()
	for i := len(p.own) - 1; i >= 0; i-- {
		if m := p.own[i]; m.cursor == p.at && !m.client.blocked {
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

// follow writes to a member with a cursor of its own what of the pass it does not have.
func (s *shard) follow(m *member, p *pass) {
	if m.cursor >= p.to() || m.gone.Load() {
		return
	}
	if m.cursor < p.from { // it joined during the pass before, and then the ring overflowed
		s.counted.overflown += int(p.from - m.cursor)
		m.cursor = p.from
	}
	rest := p.batch.part(int(m.cursor-p.from), len(p.batch.Entries))
	taken := s.writeExcept(m, &rest)
	m.cursor += room.Cursor(taken)
	if taken < len(rest.Entries) {
		s.block(m, m.cursor)
	}
}

package hub

import (
	"math/rand/v2"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// Who is behind. A member whose connection did not take all of a batch, or that joined from
// an earlier position, has a cursor of its own. While its connection is blocked it is left
// alone; then its client has its turns, in which each room of its list is served from
// the member's cursor to the shard's. What fell off the ring meanwhile is on Redis: the
// member waits for a page, and if Redis has it no more it is told so. What was live is
// counted and lost. Of a page that the socket takes only in part the rest is dropped, and
// the member asks for it again, but not in the same second: a socket that takes little at a
// time costs Redis one read a second (TestOneReadASecond). So a slow client costs a cursor,
// and the others nothing (TestSlowClientCostsTheOthersNothing, TestBehindServedInOrder).

// block says that the member's connection takes nothing more until it has drained.
func (s *shard) block(m *member, at room.Reader) {
	m.client.blocked = true
	s.parts[m.local].leaveBehind(m, at)
	m.list()
}

// list lets the member be served when its client has a turn. Every member with a cursor of
// its own is listed, or follows the pass at its end, or waits for a page.
func (m *member) list() {
	if !m.listed {
		m.listed = true
		m.client.behind = append(m.client.behind, m)
	}
}

// ready queues a client whose connection takes frames.
func (s *shard) ready(c *Client) {
	c.blocked = false
	if !c.queued {
		c.queued = true
		s.queue.push(c)
	}
}

// turn serves the rooms in which the client is behind, one after the other.
func (c *Client) turn(s *shard) (again bool) {
	most := s.writes + turn
	for !c.blocked && len(c.behind) > 0 && s.writes < most {
		last := len(c.behind) - 1
		m := c.behind[last]
		c.behind[last] = nil
		c.behind = c.behind[:last]
		m.listed = false
		if m.index >= 0 && m.own != nil && !m.gone.Load() {
			s.serve(m)
		}
	}
	if c.blocked {
		c.queued = false
		return false
	}
	if len(c.behind) > 0 {
		return true
	}
	c.queued = false
	c.conn.CaughtUp()
	return false
}

// serve writes one batch of what the member does not have, up to where its part is.
func (s *shard) serve(m *member) {
	p, o := s.parts[m.local], m.own
	if o.asked || o.later && o.InLog {
		return // the page serves it
	}
	if o.InLog || o.Cursor < p.at {
		pass := s.borrow()
		defer s.giveBack(pass)
		entries, to, lost, missed := p.local.seek(pass.batch.Entries, m, o.Reader, p.at)
		s.counted.slow += missed
		o.Reader = to
		switch {
		case lost != "":
			s.tell(m, lost)
			return
		case to.InLog && len(entries) == 0:
			return // until the page comes
		case to.InLog:
			s.metrics.fromLog.Inc()
			pass.batch.Entries = append(pass.batch.Entries, entries...) // they are not the pass' own
			pass.join()
			at := o.Cursor
			whole := s.advance(m, &pass.batch)
			if o.Cursor = at; whole { // only a time
				m.list()
			}
			return
		}
		pass.batch.Entries = entries
		if len(entries) > 0 {
			s.counted.fromRing++
			pass.join()
			if !s.advance(m, &pass.batch) {
				return
			}
		}
		if o.Cursor < p.at {
			m.list() // another batch
			return
		}
	}
	if o.Cursor == p.at && p.pass == nil {
		p.catchUp(m)
		if len(p.own) == 0 {
			s.took(p) // the room need not keep anything
		}
	} // else the pass under way serves it at its end
}

// advance writes what comes after the member's cursor, and says whether it took all.
func (s *shard) advance(m *member, b *Batch) bool {
	o := m.own
	live := 0
	if o.live > o.Cursor {
		live = int(o.live - o.Cursor)
	}
	taken := s.writeEach(m, b, live)
	o.Cursor += room.Cursor(taken)
	o.At = after(o.At, b.Entries[:taken])
	if taken < len(b.Entries) {
		s.block(m, o.Reader)
		return false
	}
	return true
}

// tell says to a member that events may be missing before where it is now.
func (s *shard) tell(m *member, why proto.Found) {
	m.conn.Answer(s.resync(m, why, m.own.At))
	m.list()
}

// resyncs is how many clients a second shall ask an application for its present state.
const resyncs = 500

// resync tells a member that events may be missing. Where there are many, each gets another
// time to wait, or all would ask the application at once.
func (s *shard) resync(m *member, why proto.Found, at proto.Position) []byte {
	s.metrics.resyncs.Inc()
	spread := m.local.size() * 1000 / resyncs // milliseconds
	return proto.EncodeFrame(proto.EventResync, proto.Resync{
		Room: m.local.name.Public(), Position: at, Reason: why, After: rand.IntN(spread + 1),
	}, "")
}

// A page is what Redis has after a position, for the members of one shard that wait for it.
type page struct {
	local   *local
	since   proto.Position
	verdict room.Verdict
	entries []room.Entry
	members []*member
}

// of is the page for one shard.
func (g page) of(shard int) page {
	all := g.members
	g.members = nil
	for _, m := range all {
		if m.client.shard.index == shard {
			g.members = append(g.members, m)
		}
	}
	return g
}

// do serves the members.
func (g page) do(s *shard) {
	s.answer()
	p := pass{batch: Batch{Entries: g.entries}}
	p.join()
	kib := uint32(len(p.batch.Joined)+1023) >> 10
	for _, m := range g.members {
		o := m.own
		if o == nil || !o.asked || o.At != g.since || m.gone.Load() {
			continue // it has left, or gone elsewhere
		}
		o.asked = false
		switch {
		case g.verdict.Found != proto.OK:
			o.Reader = g.verdict.Reader
			s.tell(m, g.verdict.Found)
		case !g.verdict.InLog: // the ring has it by now
			o.Reader = g.verdict.Reader
			m.list()
		default:
			s.metrics.fromLog.Inc()
			m.client.replayed.Add(kib)
			at := o.Cursor
			whole := s.advance(m, &p.batch)
			o.Cursor = at // only a time
			switch {
			case len(g.entries) == 0: // the room is behind it: its news come here too
			case whole:
				m.list()
			case !o.later:
				o.later = true
				s.later = append(s.later, m)
			}
		}
		if !m.client.blocked {
			s.ready(m.client)
		}
	}
}

// A tick is the beginning of another second.
type tick struct{}

func (tick) do(s *shard) {
	s.answer()
	for _, m := range s.later {
		if m.own == nil || !m.own.later {
			continue // it has left, or caught up otherwise
		}
		m.own.later = false
		m.list()
		if !m.client.blocked {
			s.ready(m.client)
		}
	}
	clear(s.later)
	s.later = s.later[:0]
}

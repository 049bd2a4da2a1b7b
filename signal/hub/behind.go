package hub

import "github.com/signal-team/signal/signal/room"

// Who is behind. A member whose connection did not take all of a batch gets a cursor of
// its own and is left alone until the connection has drained; then its client has its
// turns, in which each room of its list is served from the member's cursor to the
// shard's. What fell off the ring meanwhile is counted and lost, since it is live. So a
// slow client costs a cursor, and the others nothing (TestSlowClientCostsTheOthersNothing,
// TestBehindServedInOrder).

// block says that the member's connection takes nothing more until it has drained.
func (s *shard) block(m *member, at room.Cursor) {
	m.client.blocked = true
	s.behind(m, at)
}

// behind gives the member a cursor of its own, from which it is served later.
func (s *shard) behind(m *member, at room.Cursor) {
	p := s.parts[m.local]
	if m.own {
		m.cursor = at
	} else {
		p.leaveBehind(m, at)
	}
	m.list()
}

// list lets the member be served when its client has a turn. Every member with a cursor of
// its own is either listed or follows the pass at its end.
func (m *member) list() {
	if !m.listed {
		m.listed = true
		m.client.behind = append(m.client.behind, m)
	}
}

// ready queues a client whose connection has drained.
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
		if m.index >= 0 && m.own && !m.gone.Load() {
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
	p := s.parts[m.local]
	if m.cursor < p.at {
		pass := s.borrow()
		defer s.giveBack(pass)
		entries, missed := p.local.between(pass.batch.Entries, m.cursor, p.at)
		s.counted.slow += missed
		m.cursor += room.Cursor(missed)
		pass.batch.Entries = entries
		if len(entries) > 0 {
			pass.join()
			taken := s.writeExcept(m, &pass.batch)
			m.cursor += room.Cursor(taken)
			if taken < len(entries) {
				s.block(m, m.cursor)
				return
			}
		}
		if m.cursor < p.at {
			m.list() // another batch
			return
		}
	}
	if m.cursor == p.at && p.pass == nil {
		p.catchUp(m)
		if len(p.own) == 0 {
			s.took(p) // the room need not keep anything
		}
	} // else the pass under way serves it at its end
}

package checker

import "github.com/signal-team/signal/proto"

// A Chain is one room as Redis has it, in memory: it does what publish.lua and read.lua do, in
// pages of four.
type Chain struct {
	Base  proto.Position // before the first of Log
	Log   []proto.Message
	Keeps int // the most that Log holds
}

// Top is where the room is.
func (c *Chain) Top() proto.Position {
	if len(c.Log) == 0 {
		return c.Base
	}
	return c.Log[len(c.Log)-1].Position
}

// Publish takes an event and says what is to be heard of it.
func (c *Chain) Publish(e proto.Event, except ...proto.ClientID) proto.Message {
	top := c.Top()
	m := proto.Message{Event: e, Except: except, Previous: top.Tag}
	m.Position = Next(top, proto.Fingerprint(e))
	c.Log = append(c.Log, m)
	c.Trim(c.Keeps)
	return m
}

// Trim forgets all but the last events.
func (c *Chain) Trim(keeps int) {
	if n := len(c.Log) - keeps; n > 0 {
		c.Base, c.Log = c.Log[n-1].Position, c.Log[n:]
	}
}

// Rewind loses the last events.
func (c *Chain) Rewind(n int) { c.Log = c.Log[:max(len(c.Log)-n, 0)] }

// Read says what follows a position.
func (c *Chain) Read(since proto.Position) proto.Page {
	top := c.Top()
	p := proto.Page{Found: proto.OK, Top: top}
	switch {
	case since.IsZero():
		p.Found = proto.Fresh
	case since.Epoch != top.Epoch:
		p.Found = proto.Epoch
	case since.Sequence > top.Sequence:
		p.Found = proto.Rewound
	case since == top:
	case since.Sequence == top.Sequence:
		p.Found = proto.Forked
	case since.Sequence < c.Base.Sequence:
		p.Found = proto.Trimmed
	default:
		next := c.Log[since.Sequence-c.Base.Sequence:]
		if next[0].Previous != since.Tag {
			p.Found = proto.Forked
			break
		}
		p.Events = append(p.Events, next[:min(len(next), 4)]...)
	}
	return p
}

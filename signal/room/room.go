// Package room is one room's order on this node: a ring of the last frames, and for
// every reader a cursor that says how far it has got in them.
//
// A Room is a pure state machine. It does no I/O, knows no clock, starts no goroutine
// and holds no lock: the hub does, and drives it. In this version every event is
// live, so the ring holds only what some reader has not taken yet.
package room

import (
	"slices"

	"github.com/signal-team/signal/proto"
)

// The most that a ring holds. A reader that is further behind has missed what fell
// off, and is told how much.
const (
	MaxEntries = 256
	MaxBytes   = 1 << 20
)

// A Cursor is a place between two entries: the number of all entries before it.
type Cursor uint64

// An Entry is one event in the ring, encoded once for everyone.
type Entry struct {
	Frame  []byte           // shared by all readers: nobody changes it
	Except []proto.ClientID // who shall not get it
}

// A Room is ready to use when zero.
type Room struct {
	ring  []Entry
	first Cursor // of ring[0]
	bytes int    // of all frames in ring
}

// Receive puts an event at the end.
//
// Hot path: the frame and nothing else is allocated, whatever the number of members.
func (r *Room) Receive(m proto.Message) {
	size := len(m.Event.Event) + len(m.Data) + len(m.Room) + len(m.EventID) + len(m.Position) + 128
	e := Entry{proto.AppendEvent(make([]byte, 0, size), m.Event), m.Except}
	r.ring = append(r.ring, e)
	r.bytes += len(e.Frame)
	for len(r.ring) > MaxEntries || r.bytes > MaxBytes && len(r.ring) > 1 {
		r.Forget(r.first + 1)
	}
}

// Head is the place after the last entry. A join takes effect there: its reader
// gets what comes later and nothing from before.
func (r *Room) Head() Cursor { return r.first + Cursor(len(r.ring)) }

// From appends to dst what stands behind c, and says how much of it is gone.
func (r *Room) From(dst []Entry, c Cursor) (_ []Entry, missed int) {
	if c < r.first {
		missed = int(r.first - c)
		c = r.first
	}
	return append(dst, r.ring[c-r.first:]...), missed
}

// Forget drops what stands before c: every reader has taken it.
func (r *Room) Forget(c Cursor) {
	if c <= r.first {
		return
	}
	n := int(min(c, r.Head()) - r.first)
	for _, e := range r.ring[:n] {
		r.bytes -= len(e.Frame)
	}
	r.ring = slices.Delete(r.ring, 0, n)
	r.first += Cursor(n)
}

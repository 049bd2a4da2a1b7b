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
// off, and is told how much. Bytes are what costs memory; entries are many enough for
// a stalled processor to cost no event (docs/adr/0004-ring-bounded-by-bytes.md).
const (
	MaxEntries = 8192
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
	gone  int    // of ring: forgotten, and moved out when they are the larger part
	first Cursor // of ring[gone]
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
	for r.size() > MaxEntries || r.bytes > MaxBytes && r.size() > 1 {
		r.Forget(r.first + 1)
	}
}

func (r *Room) size() int { return len(r.ring) - r.gone }

// Head is the place after the last entry. A join takes effect there: its reader
// gets what comes later and nothing from before.
func (r *Room) Head() Cursor { return r.first + Cursor(r.size()) }

// From appends to dst what stands behind c, and says how much of it is gone.
func (r *Room) From(dst []Entry, c Cursor) (_ []Entry, missed int) {
	if c < r.first {
		missed = int(r.first - c)
		c = r.first
	}
	return append(dst, r.ring[r.gone+int(c-r.first):]...), missed
}

// Forget drops what stands before c: every reader has taken it.
func (r *Room) Forget(c Cursor) {
	for ; r.first < c && r.size() > 0; r.first++ {
		r.bytes -= len(r.ring[r.gone].Frame)
		r.ring[r.gone] = Entry{}
		r.gone++
	}
	if r.gone > len(r.ring)/2 {
		r.ring = slices.Delete(r.ring, 0, r.gone)
		r.gone = 0
	}
}

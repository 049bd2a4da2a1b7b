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
	e := Entry{proto.EncodeEvent(m.Event), m.Except}
	r.ring = append(r.ring, e)
	r.bytes += len(e.Frame)
	for r.size() > MaxEntries || r.bytes > MaxBytes && r.size() > 1 {
		r.Forget(r.first + 1)
	}
}

func (r *Room) size() int { return len(r.ring) - r.gone }

// Bytes is the length of all frames in the ring.
func (r *Room) Bytes() int { return r.bytes }

// Head is the place after the last entry. A join takes effect there: its reader
// gets what comes later and nothing from before.
func (r *Room) Head() Cursor { return r.first + Cursor(r.size()) }

// From appends to dst what stands between c and end, and says how much of it is gone:
// what it appends begins at c+missed. It stops before it has more than most bytes, but
// not before the first entry.
func (r *Room) From(dst []Entry, c, end Cursor, most int) (_ []Entry, missed int) {
	if c < r.first {
		missed = int(min(r.first, end) - c)
		c = r.first
	}
	for i, bytes := c, 0; i < end; i++ {
		e := r.ring[r.gone+int(i-r.first)]
		if bytes += len(e.Frame); bytes > most && i > c {
			break
		}
		dst = append(dst, e)
	}
	return dst, missed
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
	if len(r.ring) == 0 && cap(r.ring) > keptCap {
		r.ring = nil // a burst is over: a quiet room costs nothing
	}
}

// keptCap is the capacity that an empty ring keeps, so that a room that is written to
// now and then allocates no entries.
const keptCap = 16

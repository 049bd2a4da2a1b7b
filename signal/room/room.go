// Package room is one room's order on this node: the position up to which its chain of
// durable events is known, a ring of the last frames, and for every reader a cursor that
// says how far it has got in them.
//
// A Room is a pure state machine. It does no I/O, knows no clock, starts no goroutine
// and holds no lock: the hub does, and drives it. What comes in is a message (Receive),
// Redis' answer to a read (Replied), its position (Checked) and a doubt (Doubt). What
// comes out is entries in the ring, and reads that are wanted (Reads).
//
//	            Receive: the next of the chain            Receive: anything else,
//	           ┌────────────────────┐                      Checked: elsewhere, Doubt
//	opening ──▶│  at, ring: in order│──────────────────────────────┐
//	   │ read  └────────────────────┘◀── Replied: what is missing ─┴─▶ reading: what comes
//	   └──────────────▲                  or a resync, then what was kept      is kept
//
// So a message may be lost anywhere before it comes here: the next one, or the next
// check, finds that out, and a read brings what is missing or says that nobody has it.
package room

import (
	"slices"

	"github.com/signal-team/signal/proto"
)

// The most that a ring holds. A reader that is further behind has missed what fell
// off, and is told how much (docs/adr/0004-ring-bounded-by-bytes.md).
const (
	MaxEntries = 8192
	MaxBytes   = 1 << 20
)

// Retained is how many entries stay for clients that come back, after all readers have
// taken them.
const Retained = 256

// waiting is the most that is kept while a read is out, and not more than MaxBytes of it.
const waiting = 256

// A Cursor is a place between two entries: the number of all entries before it.
type Cursor uint64

// An Entry is one event in the ring, encoded once for everyone, or a resync.
type Entry struct {
	Frame    []byte           // shared by all readers: nobody changes it; nil for a resync
	Except   []proto.ClientID // who shall not get it
	Position proto.Position   // of the room after it; zero for a live event
	Resync   proto.Found      // why events may be missing before it; empty for an event
}

// Bytes is what the entry costs a ring: its frame, and the list of those that it leaves out, which
// may be as long.
func (e *Entry) Bytes() int { return len(e.Frame) + listBytes(e.Except) }

// listBytes is the size of a list of ids.
func listBytes(ids []proto.ClientID) (n int) {
	const header = 16 // of a string
	for _, id := range ids {
		n += header + len(id)
	}
	return n
}

// A Room is ready to use when zero. Most rooms are a user's and quiet, so what only others
// need is made when they need it.
type Room struct {
	first Cursor         // of the ring
	at    proto.Position // after the last durable entry; zero before the first read was answered
	ring  *ring          // nil before the first entry
	lost  *loss          // the last one; nil without
	heal  *healing       // nil while nothing is in doubt
	state state
	open  bool // at has been where Redis had the room
	deaf  bool // at may be from before a time in which nothing was heard
}

type ring struct {
	entries []Entry
	gone    int            // of entries: forgotten, and moved out when they are the larger part
	bytes   int            // of all entries
	durable int            // entries with a position
	base    proto.Position // before the first entry
}

// A loss is a resync: who is before it is told of it.
type loss struct {
	after Cursor // the place right after it
	why   proto.Found
}

// A healing is a read that is wanted or out.
type healing struct {
	since proto.Position
	kept  []proto.Message // arrived meanwhile
	bytes int             // of kept
}

type state uint8

const (
	known   state = iota // at is where the chain was when last heard of; when at is zero, nothing is known
	doubted              // a read is wanted
	reading              // a read is out
	again                // a read is out, and another one is wanted
)

// Receive puts an event at the end, or keeps it until a read has said what is missing.
// What is there already is dropped.
//
// Hot path: the frame and nothing else is allocated, whatever the number of members.
func (r *Room) Receive(m proto.Message) (news bool) {
	switch {
	case m.Position.IsZero():
		r.append(entry(m))
		return true
	case r.state == known && !r.at.IsZero():
		return r.judge(m)
	case len(r.healing().kept) < waiting && r.heal.bytes < MaxBytes:
		r.heal.kept = append(r.heal.kept, m)
		r.heal.bytes += len(m.Data) + listBytes(m.Except)
	default:
		r.Doubt()
	}
	return false
}

func (r *Room) healing() *healing {
	if r.heal == nil {
		r.heal = &healing{}
	}
	return r.heal
}

// judge takes the next event of the chain. Any other one that the chain does not show to
// be old is a reason to read: a gap, a fork, a new incarnation.
func (r *Room) judge(m proto.Message) (news bool) {
	switch {
	case m.Follows(r.at):
		r.append(entry(m))
		return true
	case !r.Has(m.Position):
		r.Doubt()
	}
	return false
}

func entry(m proto.Message) Entry {
	return Entry{Frame: proto.EncodeEvent(m.Event), Except: m.Except, Position: m.Position}
}

// Entries are the events of a page for readers that are behind the ring.
func Entries(events []proto.Message) []Entry {
	all := make([]Entry, len(events))
	for i, m := range events {
		all[i] = entry(m)
	}
	return all
}

func (r *Room) append(e Entry) {
	if r.ring == nil {
		r.ring = &ring{base: r.at}
	}
	r.ring.entries = append(r.ring.entries, e)
	r.ring.bytes += e.Bytes()
	if !e.Position.IsZero() {
		r.at = e.Position
		r.ring.durable++
	}
	for r.size() > MaxEntries || r.ring.bytes > MaxBytes && r.size() > 1 {
		r.Forget(r.first + 1)
	}
}

// Has says whether a position is where the room is or was, as far as the ring shows.
func (r *Room) Has(p proto.Position) bool {
	_, ok := r.find(p)
	return ok
}

// find is the cursor right after a position.
func (r *Room) find(p proto.Position) (Cursor, bool) {
	if p.Epoch != r.at.Epoch || p.Sequence > r.at.Sequence || p.Sequence < r.base().Sequence {
		return 0, false
	}
	ring := r.entries()
	// The numbers of the chain have no gaps: so many entries at least come after it.
	for i := len(ring) - 1 - int(r.at.Sequence-p.Sequence); i >= 0; i-- {
		switch e := &ring[i]; {
		case e.Position == p:
			return r.first + Cursor(i) + 1, true
		case !e.Position.IsZero() && e.Position.Sequence <= p.Sequence:
			return 0, false
		}
	}
	return r.first, p == r.base()
}

// Doubt says that something may be missing: a read is wanted, from where the room is.
func (r *Room) Doubt() {
	switch r.state {
	case known:
		if r.healing(); !r.at.IsZero() {
			r.heal.since = r.at
		}
		r.state = doubted
	case reading:
		r.state = again
	}
}

// Reopen says that nothing was heard for a while. Joins wait until a read has told what is
// missing: nobody shall join at a place that the room is about to leave.
func (r *Room) Reopen() {
	r.deaf = true
	r.Doubt()
}

// Checked says where Redis has the room. Elsewhere may only mean that an event has come
// since, or that Redis lost its last ones: a read tells.
func (r *Room) Checked(top proto.Position) {
	if r.open && top != r.at {
		r.Doubt()
	}
}

// Open asks for the room's position, before which nothing else counts. Who joins an open
// room from a position may want what follows it: the read brings it for all of them.
func (r *Room) Open(since proto.Position) {
	if !r.at.IsZero() || r.state == reading || r.state == again {
		return
	}
	r.state = doubted
	if h := r.healing(); h.since.IsZero() || h.since.Epoch == since.Epoch && since.Sequence < h.since.Sequence {
		h.since = since
	}
}

// Read is the read that is wanted, once: from now on it is out. A zero position asks where
// the room is.
func (r *Room) Read() (since proto.Position, wanted bool) {
	if r.state != doubted {
		return since, false
	}
	r.state = reading
	return r.heal.since, true
}

// Replied takes the answer to Read. What was kept meanwhile is judged after it.
func (r *Room) Replied(since proto.Position, p proto.Page) {
	if r.state != reading && r.state != again || since != r.heal.since {
		return
	}
	doubt := r.state == again
	r.deaf = r.deaf && doubt
	r.state = known
	switch {
	case p.Found == proto.OK && (r.at.IsZero() || r.at == since):
		if r.at.IsZero() {
			r.begin(since)
		}
		for _, m := range p.Events {
			if m.Follows(r.at) { // the reader of Redis has seen to it
				r.judge(m)
			}
		}
		more := r.at != p.Top // another page
		r.open = r.open || !more
		doubt = doubt || more
	case r.open:
		r.lose(p.Found, p.Top)
	default:
		r.Forget(r.Head()) // what the pages before brought
		r.begin(p.Top)
		r.open = true
	}
	kept := r.heal.kept
	r.heal = nil
	for _, m := range kept {
		r.Receive(m)
	}
	if doubt {
		r.Doubt()
	}
}

func (r *Room) begin(at proto.Position) {
	r.at = at
	if r.ring != nil {
		r.ring.base = at
	}
}

// base is where the room was before the first entry in the ring.
func (r *Room) base() proto.Position {
	if r.ring == nil {
		return r.at
	}
	return r.ring.base
}

// lose says to all readers that events may be missing, and begins anew at a position.
func (r *Room) lose(why proto.Found, at proto.Position) {
	r.Forget(r.Head())
	r.begin(at)
	r.append(Entry{Position: at, Resync: why})
	r.lost = &loss{r.Head(), why}
}

// At is where the room is; zero before anything is known of it.
func (r *Room) At() proto.Position { return r.at }

// Opened says that the room's position is known, so that clients can join.
func (r *Room) Opened() bool { return r.open && !r.deaf }

func (r *Room) entries() []Entry {
	if r.ring == nil {
		return nil
	}
	return r.ring.entries[r.ring.gone:]
}

func (r *Room) size() int { return len(r.entries()) }

// Bytes is what all entries of the ring cost.
func (r *Room) Bytes() int {
	if r.ring == nil {
		return 0
	}
	return r.ring.bytes
}

// Durable says whether the ring holds what a client may come back for.
func (r *Room) Durable() bool { return r.ring != nil && r.ring.durable > 0 }

// Head is the place after the last entry.
func (r *Room) Head() Cursor { return r.first + Cursor(r.size()) }

// A Verdict says how a join takes effect.
type Verdict struct {
	Reader               // the member gets what comes after it
	Found    proto.Found // OK: it has missed nothing, or gets what it missed
	Replayed int         // events up to where the room is now
	Live     Cursor      // the member's live events begin there
}

// Join says how a join takes effect now. It is not ok before the room is open, and
// when only Redis can tell of the position from which the client wants to go on.
func (r *Room) Join(since proto.Position) (v Verdict, ok bool) {
	switch {
	case !r.Opened():
		return v, false
	case since.IsZero():
		return r.verdict(r.Head(), r.at, proto.Fresh), true
	}
	c, ok := r.find(since)
	v = r.verdict(c, since, proto.OK)
	v.Replayed = int(r.at.Sequence - since.Sequence)
	return v, ok
}

// Joined says how a join takes effect for which Redis was asked, after it was asked for:
// an older answer would not know what happened since.
func (r *Room) Joined(since proto.Position, p proto.Page) Verdict {
	if v, ok := r.Join(since); ok {
		return v
	}
	r.Checked(p.Top)
	if p.Found != proto.OK {
		return r.verdict(r.Head(), r.at, p.Found)
	}
	return r.replay(since, p.Top)
}

// Recalled says how a join takes effect for which it is still known what followed since, at
// an earlier read. What is on the chain after that, the next read tells.
func (r *Room) Recalled(since proto.Position) Verdict { return r.replay(since, r.at) }

func (r *Room) replay(since, top proto.Position) Verdict {
	v := r.verdict(r.Head(), since, proto.OK)
	v.InLog, v.Replayed = true, int(top.Sequence-since.Sequence)
	return v
}

func (r *Room) verdict(c Cursor, at proto.Position, found proto.Found) Verdict {
	return Verdict{Reader: Reader{Cursor: c, At: at}, Found: found, Live: r.Head()}
}

// A Reader has a cursor of its own. It has got all entries before Cursor or, when it is
// InLog, all events up to At; Cursor then only says since when.
type Reader struct {
	Cursor Cursor
	At     proto.Position
	InLog  bool // what comes next is on Redis
}

// Seek says where a reader goes on. A reader that has missed a resync is to be told of it,
// if lost is not empty, and goes on from the end; of live events that it can get no more,
// missed is the number. A reader that has more than the room is InLog too: the room is late,
// or the reader on a branch that Redis has lost.
func (r *Room) Seek(from Reader) (to Reader, lost proto.Found, missed int) {
	resync := Cursor(0)
	if r.lost != nil {
		resync = r.lost.after
	}
	switch {
	case from.Cursor < resync && (from.InLog || r.first >= resync):
		return Reader{Cursor: r.Head(), At: r.at}, r.lost.why, 0
	case !from.InLog && from.Cursor >= r.first:
		return from, "", 0
	case !from.InLog && from.Cursor < resync:
		return Reader{Cursor: resync - 1, At: from.At}, "", 0 // the resync itself comes next
	}
	if !from.InLog && from.At.Epoch == r.at.Epoch {
		missed = int(r.first-from.Cursor) - int(r.base().Sequence-from.At.Sequence)
	}
	if c, ok := r.find(from.At); ok {
		return Reader{Cursor: c, At: from.At}, "", missed
	}
	from.InLog = true
	return from, "", missed
}

// From appends to dst what stands between c and end, and says from where on: what is gone is
// left out. It stops before it has more than most bytes, but not before the first entry.
func (r *Room) From(dst []Entry, c, end Cursor, most int) (_ []Entry, from Cursor) {
	from = min(max(c, r.first), max(c, end))
	for i, bytes := from, 0; i < end; i++ {
		e := r.ring.entries[r.ring.gone+int(i-r.first)]
		if bytes += len(e.Frame); bytes > most && i > from {
			break
		}
		dst = append(dst, e)
	}
	return dst, from
}

// Forget drops what stands before c: every reader has taken it.
func (r *Room) Forget(c Cursor) {
	g := r.ring
	if g == nil {
		return
	}
	for ; r.first < c && r.size() > 0; r.first++ {
		e := &g.entries[g.gone]
		g.bytes -= e.Bytes()
		if !e.Position.IsZero() {
			g.base = e.Position
			g.durable--
		}
		*e = Entry{}
		g.gone++
	}
	if g.gone > len(g.entries)/2 {
		g.entries = slices.Delete(g.entries, 0, g.gone)
		g.gone = 0
	}
	if len(g.entries) == 0 && cap(g.entries) > keptCap {
		g.entries = nil // a burst is over: a quiet room costs nothing
	}
}

// keptCap is the capacity that an empty ring keeps, so that a room that is written to
// now and then allocates no entries.
const keptCap = 16

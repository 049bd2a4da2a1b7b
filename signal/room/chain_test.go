package room_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
	"github.com/signal-team/signal/signal/room"
)

// A history is a room on Redis, one on a node, and what is on its way between them.
type history struct {
	r room.Room

	checker.Chain                 // what Redis has
	ever          []proto.Message // what was ever published
	ids           int

	out    bool // a read is
	since  proto.Position
	answer *proto.Page // once it has been executed

	heard   proto.Position // of what the room has received, the last; zero once Redis has lost something
	readers []*reader
}

// newHistory is a room without events, which nobody knows anything of yet.
func newHistory() *history {
	h := &history{Chain: checker.Chain{Base: checker.First(proto.Incarnation([]byte("epochaaa"))), Keeps: math.MaxInt}}
	h.r.Open(proto.Position{})
	return h
}

// A reader is a member that follows the room.
type reader struct {
	room.Reader
	at   proto.Position
	told int
}

func (h *history) publish() proto.Message {
	h.ids++
	m := h.Publish(proto.Event{Event: "e", EventID: proto.EventID(fmt.Sprint(h.ids)), Data: json.RawMessage("1"), Room: "r"})
	h.ever = append(h.ever, m)
	return m
}

func (h *history) hear(m proto.Message) {
	h.r.Receive(m)
	h.heard = m.Position
}

// lose is Redis without its last events, without its log, or anew.
func (h *history) lose(t *rapid.T) {
	h.heard = proto.Position{}
	switch rapid.IntRange(0, 3).Draw(t, "how") {
	case 0:
		h.ids++
		h.Base, h.Log = checker.First(proto.Incarnation([]byte(fmt.Sprintf("epoch%c%c%c", 'a'+h.ids%26, 'a'+h.ids/26%26, 'a'+h.ids/676%26)))), nil
	case 1:
		h.Trim(0)
	default:
		h.Rewind(rapid.IntRange(1, 5).Draw(t, "lost"))
	}
}

// ask begins the room's read, if it wants one.
func (h *history) ask(t *rapid.T) {
	since, wanted := h.r.Read()
	if !wanted {
		return
	}
	if h.out {
		t.Fatal("a second read while one is out")
	}
	h.out, h.since, h.answer = true, since, nil
}

func (h *history) execute() {
	if h.out && h.answer == nil {
		p := h.Chain.Read(h.since)
		h.answer = &p
	}
}

func (h *history) reply() {
	if h.out && h.answer != nil {
		h.out = false
		h.r.Replied(h.since, *h.answer)
	}
}

// settle answers until nothing is wanted.
func (h *history) settle(t *rapid.T) {
	for range 10_000 {
		h.ask(t)
		if !h.out {
			return
		}
		h.execute()
		h.reply()
	}
	t.Fatal("it never has enough")
}

func (h *history) join(since proto.Position) {
	if v, ok := h.r.Join(since); ok {
		h.readers = append(h.readers, &reader{Reader: v.Reader, at: v.At})
	}
}

// read gives a reader some of what it does not have, and wants it to be the next of the chain.
func (h *history) read(t *rapid.T, r *reader) {
	to, lost, missed := h.r.Seek(r.Reader)
	if missed != 0 {
		t.Fatalf("%d live events are missed, and there was none", missed)
	}
	r.Reader = to
	switch {
	case lost != "":
		r.at = to.At
		r.told++
	case to.InLog:
		p := h.Chain.Read(to.At)
		v := h.r.Joined(to.At, p)
		if v.Found != proto.OK {
			r.Reader, r.at = v.Reader, v.At
			r.told++
			return
		}
		if r.Reader = v.Reader; v.InLog {
			h.take(t, r, room.Entries(p.Events))
		}
	default:
		entries, from := h.r.From(nil, to.Cursor, h.r.Head(), math.MaxInt)
		if from != to.Cursor {
			t.Fatalf("it is sent from %d to %d, and there is nothing before %d", r.Cursor, to.Cursor, from)
		}
		h.take(t, r, entries)
		r.Cursor = h.r.Head()
	}
}

func (h *history) take(t *rapid.T, r *reader, entries []room.Entry) {
	for _, e := range entries {
		switch {
		case e.Resync != "":
			r.told++
		case e.Position.Epoch != r.at.Epoch || e.Position.Sequence != r.at.Sequence+1:
			t.Fatalf("after %s comes %s", r.at, e.Position)
		}
		r.at = e.Position
		r.At = e.Position
	}
}

// end lets everything arrive that is on its way, and looks once where Redis is.
func (h *history) end(t *rapid.T) {
	h.execute()
	h.reply()
	h.settle(t)
	if at := h.r.At(); !h.heard.IsZero() && at.Epoch == h.heard.Epoch && at.Sequence < h.heard.Sequence {
		t.Fatalf("it has received %s, and stays at %s", h.heard, at)
	}
	h.r.Checked(h.Top())
	h.settle(t)
	if h.r.At() != h.Top() {
		t.Fatalf("Redis is at %s, and it stays at %s", h.Top(), h.r.At())
	}
	for _, r := range h.readers {
		for range 1_000 {
			if h.read(t, r); r.at == h.Top() {
				break
			}
			h.settle(t)
		}
		if r.at != h.Top() {
			t.Fatalf("Redis is at %s, and a reader at %s", h.Top(), r.at)
		}
	}
}

// TestDroppedWhileReading: more arrives while a read is out than is kept. The room knows that it
// has dropped something, without a look at Redis.
func TestDroppedWhileReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		h.settle(t)
		h.r.Doubt()
		h.ask(t)
		h.execute()
		for range rapid.IntRange(300, 900).Draw(t, "events") {
			h.hear(h.publish())
		}
		h.reply()
		h.end(t)
	})
}

// TestBehindAResync: who is behind a resync goes on with it, or is told of it once it is gone, and what
// Redis has lost before it is not missed.
func TestBehindAResync(t *testing.T) {
	h := newHistory()
	settle := func() {
		for since, wanted := h.r.Read(); wanted; since, wanted = h.r.Read() {
			h.r.Replied(since, h.Chain.Read(since))
		}
	}
	settle()
	behind := room.Reader{Cursor: h.r.Head(), At: h.r.At()}
	for range 4 {
		h.hear(h.publish())
	}
	h.Rewind(2)
	h.r.Doubt()
	settle()
	h.r.Forget(behind.Cursor + 2)
	to, lost, missed := h.r.Seek(behind)
	if lost != "" || missed != 0 || to.InLog {
		t.Fatalf("it goes on at %+v, lost %q, missed %d", to, lost, missed)
	}
	if next, _ := h.r.From(nil, to.Cursor, h.r.Head(), math.MaxInt); len(next) == 0 || next[0].Resync != proto.Rewound {
		t.Errorf("next come %+v, want the resync", next)
	}
	h.r.Forget(h.r.Head())
	for _, inLog := range []bool{false, true} {
		behind.InLog = inLog
		if to, lost, missed := h.r.Seek(behind); lost != proto.Rewound || missed != 0 || to.InLog || to.At != h.Top() {
			t.Errorf("in the log %t: it goes on at %+v, lost %q, missed %d", inLog, to, lost, missed)
		}
	}
}

// TestChain: whatever arrives, is lost, comes twice or late, and whatever Redis forgets, a
// reader gets the chain event by event or is told; what was received is there after the reads
// that the room wants, and with one look at Redis the room is where Redis is.
func TestChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		any := func(t *rapid.T) *reader {
			if len(h.readers) == 0 {
				t.Skip()
			}
			return rapid.SampledFrom(h.readers).Draw(t, "reader")
		}
		t.Repeat(map[string]func(*rapid.T){
			"heard":   func(t *rapid.T) { h.hear(h.publish()) },
			"unheard": func(t *rapid.T) { h.publish() },
			"burst": func(t *rapid.T) {
				for range rapid.IntRange(2, 600).Draw(t, "events") {
					h.hear(h.publish())
				}
			},
			"again": func(t *rapid.T) {
				if len(h.ever) > 0 {
					h.r.Receive(rapid.SampledFrom(h.ever).Draw(t, "event"))
				}
			},
			"lose":    h.lose,
			"doubt":   func(t *rapid.T) { h.r.Doubt() },
			"reopen":  func(t *rapid.T) { h.r.Reopen() },
			"checked": func(t *rapid.T) { h.r.Checked(h.Top()) },
			"ask": func(t *rapid.T) {
				if h.ask(t); rapid.Bool().Draw(t, "executed at once") {
					h.execute()
				}
			},
			"execute": func(t *rapid.T) { h.execute() },
			"reply":   func(t *rapid.T) { h.reply() },
			"settle":  h.settle,
			"join":    func(t *rapid.T) { h.join(proto.Position{}) },
			"back":    func(t *rapid.T) { h.join(any(t).at) },
			"read":    func(t *rapid.T) { h.read(t, any(t)) },
			"forget": func(t *rapid.T) {
				h.r.Forget(room.Cursor(rapid.Uint64Range(0, uint64(h.r.Head())).Draw(t, "before")))
			},
		})
		h.end(t)
	})
}

package room_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

func event(n int) proto.Message {
	return proto.Message{Event: proto.Event{Event: "e", Data: fmt.Append(nil, n), Room: "r"}}
}

// TestReaders checks every reader against a plain list of all frames, in random
// orders of receiving, taking and forgetting.
func TestReaders(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var (
			r      room.Room
			all    []string
			cursor [3]room.Cursor
		)
		for range 40 {
			switch who := rnd.IntN(len(cursor)); rnd.IntN(4) {
			case 0: // a reader takes
				got, from := r.From(nil, cursor[who], r.Head(), math.MaxInt)
				missed := int(from - cursor[who])
				if missed+len(got) != len(all)-int(cursor[who]) {
					t.Fatalf("seed %d: reader at %d of %d got %d and missed %d", seed, cursor[who], len(all), len(got), missed)
				}
				for i, e := range got {
					if want := all[len(all)-len(got)+i]; string(proto.Payload(e.Frame)) != want {
						t.Fatalf("seed %d: frame %s, want %s", seed, e.Frame, want)
					}
				}
				if missed > 0 && len(got) < room.MaxEntries {
					t.Fatalf("seed %d: missed %d although the ring holds only %d", seed, missed, len(got))
				}
				cursor[who] = r.Head()
				r.Forget(min(cursor[0], cursor[1], cursor[2]))
			default:
				for range rnd.IntN(600) {
					r.Receive(event(len(all)))
					all = append(all, fmt.Sprintf(`{"event":"e","data":%d,"room":"r","schemaVersion":1}`, len(all)))
				}
			}
		}
	}
}

func TestJoinTakesEffectAtTheHead(t *testing.T) {
	var r room.Room
	r.Receive(event(1))
	at := r.Head()
	r.Receive(event(2))
	if got, from := r.From(nil, at, r.Head(), math.MaxInt); len(got) != 1 || from != at || !strings.Contains(string(got[0].Frame), `"data":2`) {
		t.Errorf("after the join: %q, from %d; want the second event only", got, from)
	}
}

// TestExceptCounts: who is left out is in the account of the ring's bytes.
func TestExceptCounts(t *testing.T) {
	var r room.Room
	except := make([]proto.ClientID, 4500)
	for i := range except {
		except[i] = proto.NewClientID("abcdefg2")
	}
	for range 20 {
		r.Receive(proto.Message{Event: proto.Event{Event: "e", Data: []byte("1")}, Except: except})
	}
	got, _ := r.From(nil, 0, r.Head(), math.MaxInt)
	if one := len(except) * len(except[0]); r.Bytes() < len(got)*one || len(got)*one > room.MaxBytes {
		t.Errorf("%d entries that leave out %d clients each cost %d bytes", len(got), len(except), r.Bytes())
	}
	r.Forget(r.Head())
	if r.Bytes() != 0 {
		t.Errorf("an empty ring costs %d bytes", r.Bytes())
	}
}

// TestKeptIsBoundedInBytes: what arrives while a read is out is kept up to a number of bytes; what
// comes then is read.
func TestKeptIsBoundedInBytes(t *testing.T) {
	var r room.Room
	r.Open(proto.Position{})
	since, _ := r.Read()
	big := []byte(`"` + strings.Repeat("x", 100<<10) + `"`)
	at, _ := proto.ParsePosition("kQzTmWbR.0.0123456789ab")
	top := at
	for i := range 20 {
		at.Sequence = uint64(i + 1)
		r.Receive(proto.Message{Event: proto.Event{Event: "e", Data: big, Position: at}, Previous: at.Tag})
	}
	r.Replied(since, proto.Page{Found: proto.Fresh, Top: top})
	if n := r.Head(); n == 0 || n > 12 {
		t.Errorf("%d of 20 events of 100 KiB were kept", n)
	}
	if _, wanted := r.Read(); !wanted {
		t.Error("what was dropped is not asked for")
	}
}

func TestRingIsBoundedInBytes(t *testing.T) {
	var r room.Room
	big := proto.Message{Event: proto.Event{Event: "e", Data: []byte(`"` + strings.Repeat("x", 100<<10) + `"`)}}
	for range 20 {
		r.Receive(big)
	}
	got, from := r.From(nil, 0, r.Head(), math.MaxInt)
	missed := int(from)
	if bytes := len(got) * len(got[0].Frame); bytes > room.MaxBytes || missed != 20-len(got) || len(got) < 8 {
		t.Errorf("%d frames of %d bytes are kept, %d missed", len(got), len(got[0].Frame), missed)
	}
}

package proto_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
)

var signing = []proto.SigningKey{
	{ID: "new", Secret: []byte("0123456789abcdef0123456789abcdef")},
	{ID: "old", Secret: []byte("fedcba9876543210fedcba9876543210")},
}

func signed(keys []proto.SigningKey, room proto.Room, id proto.EventID) []byte {
	m := proto.Message{Event: proto.Event{Event: "e", EventID: id, Data: []byte(`{"sig":"x"}`)}}
	return proto.NewSigner(keys).Sign(room, id, proto.AppendMessage(nil, m))
}

func TestSigner(t *testing.T) {
	s := proto.NewSigner(signing)
	good := signed(signing, "orders", "e-1")
	for name, v := range map[string]struct {
		room    proto.Room
		id      proto.EventID
		message []byte
		ok      bool
	}{
		"good":            {"orders", "e-1", good, true},
		"the other key":   {"orders", "e-1", signed(signing[1:], "orders", "e-1"), true},
		"another room":    {"order", "e-1", good, false},
		"another id":      {"orders", "e-2", good, false},
		"moved boundary":  {"orders\x00e", "-1", good, false},
		"unknown key":     {"orders", "e-1", signed([]proto.SigningKey{{ID: "x", Secret: signing[0].Secret}}, "orders", "e-1"), false},
		"key's name only": {"orders", "e-1", signed([]proto.SigningKey{{ID: "new", Secret: signing[1].Secret}}, "orders", "e-1"), false},
		"unsigned":        {"orders", "e-1", signed(nil, "orders", "e-1"), false},
		"changed":         {"orders", "e-1", bytes.Replace(good, []byte(`"x"`), []byte(`"y"`), 1), false},
		"cut":             {"orders", "e-1", good[:len(good)-1], false},
		"longer":          {"orders", "e-1", append(bytes.Clone(good), ' '), false},
		"nothing":         {"orders", "e-1", nil, false},
	} {
		if err := s.Check(v.room, v.id, v.message); (err == nil) != v.ok || err != nil && !errors.Is(err, proto.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m, err := proto.DecodeMessage(good); err != nil || m.EventID != "e-1" || string(m.Data) != `{"sig":"x"}` {
		t.Errorf("a signed message is %+v, %v", m, err)
	}
	largest := proto.Message{Event: proto.Event{Event: "e", EventID: "e-1", Data: []byte(`"` + strings.Repeat("x", proto.MaxMessage-30) + `"`)}}
	if b := proto.AppendMessage(nil, largest); len(b) > proto.MaxMessage {
		t.Fatalf("%d bytes", len(b))
	} else if _, err := proto.DecodeMessage(s.Sign("orders", "e-1", b)); err != nil {
		t.Errorf("the largest event, signed: %v", err)
	}
	for _, k := range []proto.SigningKey{{}, {ID: "a b", Secret: signing[0].Secret}, {ID: "k", Secret: []byte("short")}, {ID: strings.Repeat("k", 17), Secret: signing[0].Secret}} {
		if k.Check() == nil {
			t.Errorf("a key %+v is accepted", k)
		}
	}
}

// FuzzSigner: whatever comes, what was not signed for a room is not good there.
func FuzzSigner(f *testing.F) {
	s := proto.NewSigner(signing)
	good := signed(signing, "orders", "e-1")
	f.Add("orders", "e-1", good)
	f.Add("orders", "e-1", []byte("\n{\"sig\":\"new.\"}"))
	f.Fuzz(func(t *testing.T, room, id string, message []byte) {
		err := s.Check(proto.Room(room), proto.EventID(id), message)
		if err == nil && (room != "orders" || id != "e-1" || !bytes.Equal(proto.Body(message), proto.Body(good))) {
			t.Fatalf("%q is good for %q as %q", message, room, id)
		}
	})
}

func BenchmarkSigner(b *testing.B) {
	s := proto.NewSigner(signing)
	m := signed(signing, "orders", "e-1")
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Check("orders", "e-1", m); err != nil {
			b.Fatal(err)
		}
	}
}

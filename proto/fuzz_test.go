package proto_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/signal-team/signal/proto"
)

func FuzzDecodeFrame(f *testing.F) {
	for _, v := range load(f).Frames {
		f.Add([]byte(v.Frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := proto.DecodeFrame(b)
		if err != nil {
			if e, ok := errors.AsType[*proto.FrameError](err); !ok || e.Code == "" || e.Detail == "" {
				t.Fatalf("an error without a class: %#v", err)
			}
			return
		}
		if !utf8.Valid(b) || !json.Valid(b) || frame.Event == "" || (frame.Data != nil && !json.Valid(frame.Data)) {
			t.Fatalf("accepted %q as %+v", b, frame)
		}
		var same struct{ Event string }
		if err := json.Unmarshal(b, &same); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", b, err)
		}
		_, _ = frame.Rooms(200)
		_, _ = frame.Publish()
		_, _ = frame.Authenticate()
	})
}

func FuzzDecodeMessage(f *testing.F) {
	for _, v := range load(f).Messages {
		f.Add([]byte(v.Message))
	}
	for _, v := range load(f).Ignis {
		f.Add([]byte(v.Message))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = proto.DecodeAnswer(b)
		if target, _, err := proto.DecodeIgnis(b); err == nil && target.Check() != nil {
			t.Fatalf("accepted %q for %s", b, target)
		}
		m, err := proto.DecodeMessage(b)
		if err != nil {
			if !errors.Is(err, proto.ErrMalformed) {
				t.Fatalf("an error without a class: %v", err)
			}
			return
		}
		if frame := proto.AppendEvent(nil, m.Event); !utf8.Valid(frame) || !json.Valid(frame) {
			t.Fatalf("%q makes the frame %q", b, frame)
		}
		if !m.Position.IsZero() {
			return
		}
		again, err := proto.DecodeMessage(proto.AppendMessage(nil, m))
		if err != nil || again.EventID != m.EventID || !bytes.Equal(again.Data, m.Data) || len(again.Except) != len(m.Except) {
			t.Fatalf("decode of encode: %+v, %v, want %+v", again, err, m)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, v := range load(f).Names {
		f.Add(v.Name)
	}
	l := proto.Layout{Prefix: "sg"}
	f.Fuzz(func(t *testing.T, s string) {
		if proto.Room(s).Check() != nil {
			return
		}
		// What is accepted never changes a slot, a pattern or another room's channel.
		if s[0] == '$' || len(s) > proto.MaxName || strings.ContainsAny(s, "{}*?[]\\\r\n\x00") || !utf8.ValidString(s) {
			t.Fatalf("room %q is accepted", s)
		}
		if r, ok := l.Room(l.Channel(proto.Room(s))); !ok || string(r) != s {
			t.Fatalf("room %q has the channel of %q", s, r)
		}
	})
}

// FuzzCheckData holds our scanner against encoding/json.
func FuzzCheckData(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `[1,-0.5e+3,{"a":[true,false,null]},"\u00e9\n\"ü"]`, ` { "a" : 1 , "b" : [ ] } `, `{"a":1,}`, `[1,]`, `01`, `1.`, `-`,
		`1e`, `"\x"`, `"\u12"`, "\"\x1f\"", "\"\xff\"", `nul`, `truee`, `{"a"}`, `{a:1}`, `[1 2]`, `{} {}`, ``, ` `, `"`, `"\`, "\"\xed\xa0\x80\"",
		strings.Repeat("[", 32) + strings.Repeat("]", 32), strings.Repeat("[", 33) + strings.Repeat("]", 33), strings.Repeat(`{"a":`, 40),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := proto.CheckData(b)
		switch good := utf8.Valid(b) && json.Valid(b); {
		case !good && err == nil:
			t.Fatalf("accepted %q", b)
		case good && err != nil && !strings.Contains(err.Error(), "nested deeper"):
			t.Fatalf("refused %q: %v", b, err)
		}
	})
}

// FuzzPosition: what is taken is written again to the letter, and fits into a message.
func FuzzPosition(f *testing.F) {
	for _, s := range []string{"kQzTmWbR.17.9f3a0c61b2de", "abcdefgh.0.000000000000", "abcdefgh.9007199254740991.ffffffffffff", "abcdefgh.01.ffffffffffff", "..", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := proto.ParsePosition(s)
		if err != nil {
			if _, ok := errors.AsType[*proto.NameError](err); !ok {
				t.Fatalf("an error without a class: %v", err)
			}
			return
		}
		if p.String() != s || p.IsZero() {
			t.Fatalf("%q is read as %q", s, p)
		}
		m, err := proto.DecodeMessage([]byte("S1 " + p.Epoch.String() + " " + strings.Split(s, ".")[1] + " 0123456789ab " + p.Tag.String() + " e-1\n{\"event\":\"e\"}"))
		if (err == nil) != (p.Sequence > 0) || err == nil && m.Position != p {
			t.Fatalf("%q in a message: %v, %v", s, m.Position, err)
		}
	})
}

// FuzzRevocation: what is in the log is a revocation of one, or none; it is read as it was written.
func FuzzRevocation(f *testing.F) {
	f.Add([]byte(`{"user":"u1","room":"orders","reason":"over","at":1}`))
	f.Add([]byte(`{"session":"s"}`))
	f.Add([]byte(`{"tenant":"t","reason":"` + strings.Repeat("\xff", 300) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := proto.DecodeRevocation(b)
		if err != nil {
			if !errors.Is(err, proto.ErrMalformed) {
				t.Fatalf("an error without a class: %v", err)
			}
			return
		}
		if again, err := proto.DecodeRevocation(r.Encode()); err != nil || again != r {
			t.Fatalf("%+v, %v, was %+v", again, err, r)
		}
		if r.Covers(proto.Bearer{}) && r.User == "" && r.Tenant == "" {
			t.Fatalf("%+v covers somebody without a name", r)
		}
	})
}

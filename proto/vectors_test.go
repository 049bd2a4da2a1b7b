package proto_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
)

// vectors is testdata/vectors.json.
type vectors struct {
	Names []struct {
		Kind, Name string
		OK         bool
		Code       proto.ErrorCode
	}
	Frames []struct {
		Frame, Event, Data, ID string
		Error                  proto.ErrorCode
	}
	Joins []struct {
		Data  string
		Rooms []proto.Room
		Error proto.ErrorCode
	}
	Events []struct {
		Event    proto.EventName
		Data     string
		Room     proto.Room
		EventID  proto.EventID
		Sequence uint64
		Position string
		Time     int64
		Frame    string
	}
	Messages []struct {
		Message            string
		EventID            proto.EventID
		Event              proto.EventName
		Data               string
		Time               int64
		Except             []proto.ClientID
		Client             proto.ClientID
		Ask                proto.AskID
		Sequence           uint64
		Position, Previous string
		Canonical, Error   bool
	}
	Ignis []struct {
		Message, Target, Data string
		Event                 proto.EventName
		Except                []proto.ClientID
		Error                 bool
	}
}

func load(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func check(kind, name string) error {
	switch kind {
	case "room":
		return proto.Room(name).Check()
	case "user":
		return proto.UserID(name).Check()
	case "event":
		return proto.EventName(name).Check()
	case "eventId":
		return proto.EventID(name).Check()
	default:
		return proto.ClientID(name).Check()
	}
}

func TestNameVectors(t *testing.T) {
	for _, v := range load(t).Names {
		err := check(v.Kind, v.Name)
		name, isName := errors.AsType[*proto.NameError](err)
		switch {
		case v.OK && err != nil:
			t.Errorf("%s %q: %v, want it accepted", v.Kind, v.Name, err)
		case !v.OK && (!isName || name.Code != v.Code):
			t.Errorf("%s %q: %v, want code %s", v.Kind, v.Name, err, v.Code)
		}
	}
	for _, long := range []string{strings.Repeat("a", proto.MaxName+1), "\xff"} {
		if proto.Room(long).Check() == nil {
			t.Errorf("room %q is accepted", long)
		}
	}
	if err := proto.Room(strings.Repeat("a", proto.MaxName)).Check(); err != nil {
		t.Errorf("a room of %d bytes: %v", proto.MaxName, err)
	}
}

func TestFrameVectors(t *testing.T) {
	for _, v := range load(t).Frames {
		f, err := proto.DecodeFrame([]byte(v.Frame))
		if v.Error != "" {
			if e, ok := errors.AsType[*proto.FrameError](err); !ok || e.Code != v.Error || e.Detail == "" {
				t.Errorf("%q: %v, want %s with a detail", v.Frame, err, v.Error)
			}
			continue
		}
		if err != nil || string(f.Event) != v.Event || string(f.Data) != v.Data || f.ID != v.ID {
			t.Errorf("%q: event %q data %q id %q err %v", v.Frame, f.Event, f.Data, f.ID, err)
		}
	}
	if _, err := proto.DecodeFrame([]byte("{\"event\":\"a\",\"data\":\"\xff\"}")); err == nil {
		t.Error("a frame that is not UTF-8 is accepted")
	}
}

func TestJoinVectors(t *testing.T) {
	for _, v := range load(t).Joins {
		rooms, err := proto.Frame{Event: "join", Data: json.RawMessage(v.Data)}.Rooms(0)
		if v.Error != "" {
			if e, ok := errors.AsType[*proto.FrameError](err); !ok || e.Code != v.Error || e.Detail == "" {
				t.Errorf("%q: %v, want %s with a detail", v.Data, err, v.Error)
			}
			continue
		}
		var names []proto.Room
		for _, r := range rooms {
			names = append(names, r.Room)
		}
		if err != nil || !slices.Equal(names, v.Rooms) {
			t.Errorf("%q: rooms %q err %v, want %q", v.Data, names, err, v.Rooms)
		}
	}
}

func TestEventVectors(t *testing.T) {
	for _, v := range load(t).Events {
		e := proto.Event{Event: v.Event, Room: v.Room, EventID: v.EventID, Time: v.Time}
		if v.Position != "" {
			var err error
			if e.Position, err = proto.ParsePosition(v.Position); err != nil || e.Position.Sequence != v.Sequence {
				t.Errorf("%q: %v, %v", v.Position, e.Position, err)
			}
		}
		if v.Data != "" {
			e.Data = json.RawMessage(v.Data)
		}
		if got := string(proto.AppendEvent(nil, e)); got != v.Frame {
			t.Errorf("frame\n %s, want\n %s", got, v.Frame)
		}
	}
}

func TestMessageVectors(t *testing.T) {
	for _, v := range load(t).Messages {
		m, err := proto.DecodeMessage([]byte(v.Message))
		if v.Error {
			if !errors.Is(err, proto.ErrMalformed) {
				t.Errorf("%q: %v, want ErrMalformed", v.Message, err)
			}
			continue
		}
		if err != nil || m.EventID != v.EventID || m.Event.Event != v.Event || string(m.Data) != v.Data || m.Time != v.Time ||
			!slices.Equal(m.Except, v.Except) || m.Client != v.Client || m.Ask != v.Ask ||
			m.Position.Sequence != v.Sequence || m.Position.String() != v.Position || m.Previous.String() != v.Previous {
			t.Errorf("%q: %+v, %v", v.Message, m, err)
		}
		if v.Canonical {
			if got := string(proto.AppendMessage(nil, m)); got != v.Message {
				t.Errorf("encode of decode\n %s, want\n %s", got, v.Message)
			}
		}
	}
	big := "E1 a\n{\"event\":\"a\",\"data\":\"" + strings.Repeat("x", proto.MaxMessage) + "\"}"
	if _, err := proto.DecodeMessage([]byte(big)); !errors.Is(err, proto.ErrMalformed) {
		t.Errorf("a message of %d bytes: %v", len(big), err)
	}
}

func TestIgnisVectors(t *testing.T) {
	for _, v := range load(t).Ignis {
		target, m, err := proto.DecodeIgnis([]byte(v.Message))
		if v.Error {
			if !errors.Is(err, proto.ErrMalformed) {
				t.Errorf("%q: %v, want ErrMalformed", v.Message, err)
			}
			continue
		}
		if err != nil || target.String() != v.Target || m.Event.Event != v.Event || string(m.Data) != v.Data || !slices.Equal(m.Except, v.Except) {
			t.Errorf("%q: %s %+v, %v", v.Message, target, m, err)
		}
	}
}

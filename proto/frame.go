package proto

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// SchemaVersion stands in every event frame (S4-043). It grows when a reader of
// the version before could misunderstand a frame; added keys do not raise it.
const SchemaVersion = 1

// MaxFrameID is the longest id of a client's frame in bytes.
const MaxFrameID = 128

// The events with a meaning of their own, from the client and to it. Every other
// event belongs to the application.
const (
	EventAuthenticate EventName = "authenticate"
	EventJoin         EventName = "join"
	EventLeave        EventName = "leave"
	EventPublish      EventName = "publish"
	EventHeartbeat    EventName = "heartbeat"

	EventConnected EventName = "connected"
	EventRefreshed EventName = "refreshed"
	EventJoined    EventName = "joined"
	EventLeft      EventName = "left"
	EventAck       EventName = "ack"
	EventError     EventName = "error"
	EventDegraded  EventName = "degraded"
	EventRestored  EventName = "restored"
	EventResync    EventName = "resync"
	EventSkip      EventName = "skip"
	EventEncrypted EventName = "encrypted" // in both directions

	EventRevoked     EventName = "auth.revoked"
	EventRoomRevoked EventName = "room.access.revoked"
)

// spoken are the events that nodes say by themselves, or will: nobody else may send one,
// or a client could not tell which is which. The last two are for what is to come.
var spoken = []EventName{
	EventConnected, EventRefreshed, EventJoined, EventLeft, EventAck, EventError, EventDegraded, EventRestored, EventResync, EventSkip,
	EventEncrypted, EventRevoked, EventRoomRevoked, "presence", "reconnect",
}

// CheckSent says whether somebody may send an event of this name to clients.
func (n EventName) CheckSent() error {
	if slices.Contains(spoken, n) {
		return &NameError{"event", string(n), "is reserved for what nodes say", CodeReserved}
	}
	return n.Check()
}

// A Frame is what a client sends: {"event": …, "data"?: …, "id"?: …}.
type Frame struct {
	Event EventName
	Data  json.RawMessage // as sent; nil if there is none
	ID    string          // repeated in the answer; at most MaxFrameID bytes
}

// A FrameError says what is wrong with a client's frame, in words for whoever
// wrote the client. It never quotes the frame, which may hold a token.
type FrameError struct {
	Code   ErrorCode
	Detail string
	ID     string // of the frame, if that much could be read
}

func (e *FrameError) Error() string { return e.Code.Message() + ": " + e.Detail }

// DecodeFrame reads a client's frame. Its error is a *FrameError.
func DecodeFrame(b []byte) (Frame, error) {
	var f Frame
	named := false
	err := eachField(b, MaxDepth, func(key string, value []byte) (err error) {
		switch key {
		case "event":
			var s string
			if s, err = stringOf("event", value); err == nil {
				f.Event, named = EventName(s), true
			}
		case "data":
			f.Data = value
		case "id":
			var id string
			switch id, err = stringOf("id", value); {
			case err == nil && len(id) > MaxFrameID:
				err = fmt.Errorf("id is longer than %d bytes", MaxFrameID)
			case err == nil:
				f.ID = id
			}
		}
		return err
	})
	if err == nil && !named {
		err = errors.New("event is missing")
	}
	if err == nil {
		err = f.Event.Check() // last: the answer has the frame's id
	}
	if err != nil {
		return Frame{}, asFrameError(err, "frame ", f.ID)
	}
	return f, nil
}

// asFrameError keeps the class of a name's error and calls everything else a bad
// request. An error that begins with a verb gets its subject.
func asFrameError(err error, subject, id string) *FrameError {
	if e, ok := errors.AsType[*FrameError](err); ok {
		return e
	}
	if name, ok := errors.AsType[*NameError](err); ok {
		return &FrameError{name.Code, name.Error(), id}
	}
	detail := err.Error()
	for _, verb := range [...]string{"is ", "has "} {
		if len(detail) > len(verb) && detail[:len(verb)] == verb {
			detail = subject + detail
		}
	}
	return &FrameError{CodeBadRequest, detail, id}
}

// An Authenticate is the data of the first frame. Further keys are the
// application's.
type Authenticate struct {
	Token     string
	Ticket    TicketID // instead of the token
	Previous  ClientID // of the client's connection before this one, or empty
	PublicKey string   // that the client offers for encryption, or empty
}

// Authenticate reads the data of an authenticate frame.
func (f Frame) Authenticate() (a Authenticate, err error) {
	err = f.fields(func(key string, value []byte) (err error) {
		var s string
		switch key {
		case "token":
			a.Token, err = stringOf("token", value)
		case "ticket":
			if s, err = stringOf("ticket", value); err == nil {
				a.Ticket = TicketID(s)
				err = a.Ticket.Check()
			}
		case "publicKey":
			a.PublicKey, err = stringOf("publicKey", value)
		case "previous":
			if s, err = stringOf("previous", value); err == nil {
				a.Previous = ClientID(s)
				err = a.Previous.Check()
			}
		}
		return err
	})
	return a, err
}

// A JoinRoom is one room that a client asks for: its name, or the name with the
// position from which the client wants what it missed.
type JoinRoom struct {
	Room  Room
	Since string
}

// Rooms reads the data of a join or leave frame: {"rooms": ["a", {"room": "b",
// "since": "<position>"}]}, at most so many; 0 is any number. The names are not checked: each is
// accepted or refused by itself. A room that is named twice counts once. Of a list that is too
// long no more is read than it takes to see that.
func (f Frame) Rooms(most int) (rooms []JoinRoom, err error) {
	given := false
	err = f.fields(func(key string, value []byte) error {
		if key != "rooms" {
			return nil
		}
		given = true
		if value[0] != '[' {
			return fmt.Errorf("rooms is %s, not a list of names", typeOf(value[0]))
		}
		seen, named := map[Room]bool{}, 0
		return eachItem(value, func(item []byte) error {
			if named++; most > 0 && named > most {
				return &FrameError{CodeTooManyRooms, fmt.Sprintf("more than the %d that are allowed", most), f.ID}
			}
			r, err := joinRoom(item)
			if err == nil && !seen[r.Room] {
				seen[r.Room] = true
				rooms = append(rooms, r)
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, err
	case !given:
		return nil, &FrameError{CodeBadRequest, "rooms is missing", f.ID}
	}
	return rooms, nil
}

func joinRoom(b []byte) (r JoinRoom, err error) {
	if b[0] == '"' {
		s, err := unquote(b)
		return JoinRoom{Room: Room(s)}, err
	}
	if b[0] != '{' {
		return r, fmt.Errorf("a room is %s, not a name", typeOf(b[0]))
	}
	err = eachField(b, MaxDepth, func(key string, value []byte) (err error) {
		var s string
		switch key {
		case "room":
			s, err = stringOf("room", value)
			r.Room = Room(s)
		case "since":
			r.Since, err = stringOf("since", value)
		}
		return err
	})
	return r, err
}

// A Publish is a client's event for a room.
type Publish struct {
	Room    Room
	Event   EventName
	Data    json.RawMessage
	EventID EventID // chosen by the client, or empty
}

// Publish reads and checks the data of a publish frame.
func (f Frame) Publish() (p Publish, err error) {
	err = f.fields(func(key string, value []byte) (err error) {
		var s string
		switch key {
		case "room":
			s, err = stringOf("room", value)
			p.Room = Room(s)
		case "event":
			s, err = stringOf("event", value)
			p.Event = EventName(s)
		case "data":
			p.Data = value
		case "eventId":
			if s, err = stringOf("eventId", value); err == nil {
				p.EventID = EventID(s)
				err = p.EventID.Check()
			}
		}
		return err
	})
	if err == nil {
		if err = errors.Join(p.Room.Check(), p.Event.CheckSent()); err != nil {
			err = asFrameError(err, "publish ", f.ID)
		}
	}
	return p, err
}

func (f Frame) fields(field func(key string, value []byte) error) error {
	if f.Data == nil {
		return &FrameError{CodeBadRequest, "data is missing", f.ID}
	}
	if err := eachField(f.Data, MaxDepth, field); err != nil {
		return asFrameError(err, "data ", f.ID)
	}
	return nil
}

// An Event is what happened: a name and any JSON value, and where it belongs.
type Event struct {
	Event    EventName
	Data     json.RawMessage // one JSON value; nil when there is none
	Room     Room            // empty when it goes to one client
	EventID  EventID
	Position Position // zero for a live event
	Time     int64    // milliseconds since 1970 at the sender; 0 when unknown
}

// AppendEvent appends the frame that tells a client of e. It only copies: the
// bytes of Data are the sender's.
func AppendEvent(dst []byte, e Event) []byte {
	dst = append(dst, `{"event":`...)
	dst = appendString(dst, string(e.Event))
	if e.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	if e.Room != "" {
		dst = append(dst, `,"room":`...)
		dst = appendString(dst, string(e.Room.Public()))
	}
	if e.EventID != "" {
		dst = append(dst, `,"eventId":`...)
		dst = appendString(dst, string(e.EventID))
	}
	if !e.Position.IsZero() {
		dst = append(dst, `,"sequence":`...)
		dst = strconv.AppendUint(dst, e.Position.Sequence, 10)
		dst = append(dst, `,"position":"`...)
		dst = append(e.Position.Append(dst), '"')
	}
	if e.Time != 0 {
		dst = append(dst, `,"time":`...)
		dst = strconv.AppendInt(dst, e.Time, 10)
	}
	dst = append(dst, `,"schemaVersion":`...)
	dst = strconv.AppendInt(dst, SchemaVersion, 10)
	return append(dst, '}')
}

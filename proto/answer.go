package proto

import (
	"encoding/json"
	"time"
)

// The frames that a node says by itself. They are off the hot path and few, so
// plain structs say what stands in them.

// A Connected tells a client who it is. Until it comes, nothing else does.
type Connected struct {
	ID        ClientID `json:"id"`
	UserID    UserID   `json:"userId,omitempty"`
	Time      string   `json:"time"` // ISO 8601, UTC, milliseconds
	Node      NodeID   `json:"node"`
	Heartbeat int      `json:"heartbeat"`         // milliseconds of silence after which the node pings
	Expires   int64    `json:"expires,omitempty"` // of the token, seconds since 1970
	Offer              // empty unless the client offered a public key
}

// ISOTime is t as the original writes it: 2026-03-28T09:15:02.123Z.
func ISOTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// A Refreshed answers an authenticate with a newer token of the same user.
type Refreshed struct {
	Expires int64 `json:"expires,omitempty"`
}

// A Joined names rooms that have taken effect: from this frame on the client
// hears them. The last one that answers a frame has Done.
type Joined struct {
	Rooms  []JoinedRoom `json:"rooms"`
	Denied []DeniedRoom `json:"denied"`
	Done   bool         `json:"done"`
}

// A JoinedRoom is one room of a Joined. Position is where the client stands before what
// follows: where it wanted to go on if it recovered, so that being cut in the middle of
// the replayed events loses nothing. A client that did not recover takes the present
// state from the application, and then goes on from Position.
type JoinedRoom struct {
	Room      Room     `json:"room"`
	Position  Position `json:"position"`
	Recovered bool     `json:"recovered"`        // nothing was missed, or it follows
	Reason    Found    `json:"reason,omitempty"` // why it did not recover
	Replayed  int      `json:"replayed"`         // events that follow
}

// A Resync says that events of a room may be missing before Position. The client waits
// After milliseconds, takes Position as its own, and then the present state from the
// application. The other order would lose what happens in between.
type Resync struct {
	Room     Room     `json:"room"`
	Position Position `json:"position"`
	Reason   Found    `json:"reason"`
	After    int      `json:"after"`
}

// A Skip says that the room went on with an event that this client does not get.
type Skip struct {
	Room     Room     `json:"room"`
	Position Position `json:"position"`
}

// A DeniedRoom is a room that was not joined, and why.
type DeniedRoom struct {
	Room Room      `json:"room"`
	Code ErrorCode `json:"code"`
}

// A Left names the rooms from which nothing more comes.
type Left struct {
	Rooms []Room `json:"rooms"`
}

// An Ack answers a publish.
type Ack struct {
	EventID   EventID  `json:"eventId"`
	Receivers int      `json:"receivers"` // nodes that listen to the room
	Sequence  uint64   `json:"sequence"`
	Position  Position `json:"position"`
	Duplicate bool     `json:"duplicate"` // it had been published before
}

// An Error says what was wrong with a frame. Code and Message are a line of the
// table Errors; Detail says more, in words.
type Error struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
	Detail  string    `json:"detail,omitempty"`
	Ref     string    `json:"ref,omitempty"` // id of the frame that was wrong
	// RetryAfter is how long to wait before the same may succeed, in milliseconds; 0 when nobody knows.
	RetryAfter int64 `json:"retryAfter,omitempty"`
}

// NewError is the error with its text from the table.
func NewError(code ErrorCode, detail, ref string) Error {
	return Error{Code: code, Message: code.Message(), Detail: detail, Ref: ref}
}

// AppendFrame appends the frame {"event","data","id"}; id repeats the id of the
// frame that this one answers and is left out when empty.
func AppendFrame(dst []byte, event EventName, data any, id string) []byte {
	dst = append(dst, `{"event":`...)
	dst = appendString(dst, string(event))
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			panic("proto: a frame of our own cannot be encoded: " + err.Error())
		}
		dst = append(dst, `,"data":`...)
		dst = append(dst, b...)
	}
	if id != "" {
		dst = append(dst, `,"id":`...)
		dst = appendString(dst, id)
	}
	return append(dst, '}')
}

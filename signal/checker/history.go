// Package checker says whether what happened in a test to senders, clients and Redis is what
// Signal promises: that nothing durable is lost, repeated or out of order without the client
// being told, and that no client is told of a loss that was none.
//
// A History is written down by everyone who takes part, while it happens; Check reads it
// when all is over. It knows nothing of how Signal works but the chain: from an event's
// content and the place before it follows its own place, so what senders, clients and Redis
// say can be held against each other.
package checker

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
)

// A Kind is what a Record tells of.
type Kind string

// Of a sender, of a client, of those who break things, and of the end.
const (
	Sending Kind = "sending" // ID, Room, Print, Except
	Sent    Kind = "sent"    // ID, Room, Position, Duplicate
	Failed  Kind = "failed"  // ID, Room: refused; who does not know says nothing

	Joining Kind = "joining" // Client, Room, Join, Position: since, or zero
	Joined  Kind = "joined"  // Client, Room, Join, Position, Reason: ok when recovered
	Event   Kind = "event"   // Client, Room, ID, Position, Print
	Skip    Kind = "skip"    // Client, Room, Position
	Resync  Kind = "resync"  // Client, Room, Position, Reason
	Gone    Kind = "gone"    // Client, Room or none: it is not in the room, or in none, until it joins again

	Loss   Kind = "loss"   // Redis lost what it had from Began on; of Room, or of all
	Fork   Kind = "fork"   // from Began on Redis may have told clients what it dropped afterwards; of what it acknowledged it lost nothing
	Trim   Kind = "trim"   // Redis lost a room's log, and nothing else
	Revoke Kind = "revoke" // Client may hear nothing any more
	Final  Kind = "final"  // Room, Position, Log: what Redis has at the end, when all is quiet
)

// A Record is one thing that happened. At is the time since any moment before, the same for
// all who take part.
type Record struct {
	At   time.Duration `json:"at"`
	Kind Kind          `json:"kind"`
	Room proto.Room    `json:"room,omitempty"`

	Client   string         `json:"client,omitempty"` // a till, over all its connections
	Join     string         `json:"join,omitempty"`   // which of its joins
	ID       proto.EventID  `json:"id,omitempty"`
	Position proto.Position `json:"position,omitzero"`
	Print    string         `json:"print,omitempty"` // proto.Fingerprint of the event

	Except    []string         `json:"except,omitempty"` // tills that are left out
	Duplicate bool             `json:"duplicate,omitempty"`
	Reason    proto.Found      `json:"reason,omitempty"`
	Began     time.Duration    `json:"began,omitempty"`
	Log       []proto.Position `json:"log,omitempty"`
}

// A History is what happened, written down by many at once.
type History struct {
	Now func() time.Duration

	mu      sync.Mutex
	records [][]Record // guarded by mu: in pieces, so that nobody waits for millions to be copied
}

// New is a history that begins now.
func New() *History {
	began := time.Now()
	return &History{Now: func() time.Duration { return time.Since(began) }}
}

const piece = 4096

// Add writes down what happens now. A sender says Sending before it sends, and Sent after.
func (h *History) Add(r Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.At = h.Now()
	if n := len(h.records); n == 0 || len(h.records[n-1]) == piece {
		h.records = append(h.records, make([]Record, 0, piece))
	}
	last := &h.records[len(h.records)-1]
	*last = append(*last, r)
}

// Records are all so far, in the order in which they happened.
func (h *History) Records() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Concat(h.records...)
}

// Write writes one line of JSON for each record.
func (h *History) Write(w io.Writer) error {
	out := json.NewEncoder(w)
	for _, r := range h.Records() {
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// Heard is what a frame tells a client: of the rooms that it has joined, an event, a skip, a
// resync, or nothing.
func Heard(client string, frame []byte) (told []Record, err error) {
	var f struct {
		Event    proto.EventName `json:"event"`
		Data     json.RawMessage `json:"data"`
		Room     proto.Room      `json:"room"`
		EventID  proto.EventID   `json:"eventId"`
		ID       string          `json:"id"`
		Position proto.Position  `json:"position"`
	}
	if err := json.Unmarshal(frame, &f); err != nil {
		return nil, err
	}
	switch f.Event {
	case proto.EventJoined:
		var j proto.Joined
		err = json.Unmarshal(f.Data, &j)
		for _, r := range j.Rooms {
			reason := r.Reason
			if r.Recovered {
				reason = proto.OK
			}
			told = append(told, Record{Kind: Joined, Client: client, Room: r.Room, Join: f.ID, Position: r.Position, Reason: reason})
		}
	case proto.EventSkip:
		var s proto.Skip
		err = json.Unmarshal(f.Data, &s)
		told = append(told, Record{Kind: Skip, Client: client, Room: s.Room, Position: s.Position})
	case proto.EventResync:
		var r proto.Resync
		err = json.Unmarshal(f.Data, &r)
		told = append(told, Record{Kind: Resync, Client: client, Room: r.Room, Position: r.Position, Reason: r.Reason})
	default:
		if !f.Position.IsZero() {
			e := proto.Event{Event: f.Event, EventID: f.EventID, Data: f.Data}
			told = append(told, Record{Kind: Event, Client: client, Room: f.Room, ID: f.EventID, Position: f.Position, Print: proto.Fingerprint(e)})
		}
	}
	return told, err
}

// Next is the place of an event that follows a place in a room's chain.
func Next(at proto.Position, print string) proto.Position {
	at.Sequence++
	at.Tag = tag(at.Tag.String() + print)
	return at
}

// First is where a room begins.
func First(epoch proto.Incarnation) proto.Position {
	return proto.Position{Epoch: epoch, Tag: tag(epoch.String())}
}

func tag(s string) (t proto.Tag) {
	sum := sha1.Sum([]byte(s))
	copy(t[:], hex.EncodeToString(sum[:]))
	return t
}

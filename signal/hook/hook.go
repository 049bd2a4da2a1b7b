// Package hook is what a node asks the application, and what it tells it: the interfaces, for programs
// that embed a node, and the same over HTTP (Address), for all others. They do what the original's
// callbacks did: authenticateFn, validateRoomFn, messageHandler, clientConnectedFn and
// clientDisconnectedFn.
//
// Nothing of it is in the way of an event: what waits for the application is bounded, and counted when
// it is given up.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/signal-team/signal/proto"
)

// Hooks are what a program that embeds a node answers itself, in place of the addresses of the
// configuration; signal.LoadConfig takes them. Those that are nil are asked at their address, if there is
// one. Their methods are called by many goroutines at once; one that panics has failed.
type Hooks struct {
	Authenticator Authenticator // with APP_ENV_SIGNAL_AUTH=ask
	Rooms         Rooms
	Messages      Messages
	Notices       Observer
}

// ErrRefused means that the application says no: whoever asked gets an error with this one's whole text, and
// asking again changes nothing.
var ErrRefused = errors.New("the application says no")

// ErrInvalid means that the application cannot do anything with a message: its client gets an error with
// this one's whole text.
var ErrInvalid = errors.New("the application does not take it")

// An Authenticator says whose a token is, whatever that looks like. It has AskTimeout. An error that does
// not wrap ErrRefused lets the client try again.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Identity, error)
}

// AskTimeout is how long the application has to say who somebody is.
const AskTimeout = 3 * time.Second

// An Identity is whose a token is. Only User is required.
type Identity struct {
	User    proto.UserID  `json:"userId"`
	Session string        `json:"session"`
	Tenant  string        `json:"tenant"`
	TokenID string        `json:"tokenId"`
	Expires int64         `json:"expires"` // seconds since 1970; 0: the longest life that tokens may have
	Issued  int64         `json:"issued"`  // seconds since 1970; 0: now
	Rooms   *proto.Grants `json:"rooms"`   // nil: APP_ENV_SIGNAL_JWT_ROOMS
	Publish *proto.Grants `json:"publish"` // nil: APP_ENV_SIGNAL_JWT_PUBLISH
}

// Rooms say which rooms somebody may join and publish to that the token does not allow. They have
// RoomsTimeout. An error that does not wrap ErrRefused is told to the client as unavailable.
type Rooms interface {
	Allow(context.Context, Wanted) (Allowed, error)
}

// RoomsTimeout is how long the application has to say which rooms somebody may join.
const RoomsTimeout = time.Second

// Wanted are the rooms of one join.
type Wanted struct {
	User    proto.UserID `json:"userId"`
	Session string       `json:"session,omitempty"`
	Tenant  string       `json:"tenant,omitempty"`
	Rooms   []proto.Room `json:"rooms"`
}

// Allowed are those of the wanted rooms that may be joined, and published to. What was not asked for is
// not granted.
type Allowed struct {
	Rooms   *[]proto.Room `json:"rooms"` // required: nil is a mistake, not a no
	Publish []proto.Room  `json:"publish"`
	Expires int64         `json:"expires"` // seconds since 1970; 0: in five minutes
}

// Messages answer what clients say that is none of Signal's own events. They have MessageTimeout; those of
// one client come one after the other, in its order. An error that wraps ErrRefused or ErrInvalid is told
// to the client; any other as unavailable, and that it may try again after RetryAfter.
type Messages interface {
	Message(context.Context, Message) (Answer, error)
}

// What a client may expect of Messages.
const (
	MessageTimeout = 5 * time.Second
	RetryAfter     = 2 * time.Second // it takes as long until an address that fails is asked again
)

// A Message is an event of a client's own.
type Message struct {
	ID      proto.EventID   `json:"messageId"` // the same when it is asked again: who keeps it does nothing twice
	Time    int64           `json:"time"`      // milliseconds since 1970, when it came
	Client  proto.ClientID  `json:"clientId"`
	User    proto.UserID    `json:"userId,omitempty"`
	Session string          `json:"session,omitempty"`
	Tenant  string          `json:"tenant,omitempty"`
	Event   proto.EventName `json:"event"`
	Data    json.RawMessage `json:"data,omitempty"`
	Frame   string          `json:"id,omitempty"` // of the frame, if the client gave it one
}

// An Answer is what the client gets for a Message: events for it alone, in this order, and what goes with
// the acknowledgement of its frame, if that has an id.
type Answer struct {
	Events []Event         `json:"events"`
	Data   json.RawMessage `json:"data"`
}

// An Event for the client that a Message came from.
type Event struct {
	Event proto.EventName `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// An Observer is told what happens on a node, in order. An error lets it be told again.
type Observer interface {
	Notice(context.Context, []Notice) error
}

// A NoticeKind is what a Notice tells of.
type NoticeKind string

// What is told. A room is occupied by the first client of all nodes, and vacated ten seconds after the last
// has left.
const (
	Connected    NoticeKind = "connected"    // Client, Previous, User, Session, Tenant
	Disconnected NoticeKind = "disconnected" // Client, User, Session, Tenant; not when it has come back
	Occupied     NoticeKind = "occupied"     // Room
	Vacated      NoticeKind = "vacated"      // Room
)

// A Notice is one thing that has happened.
type Notice struct {
	Kind     NoticeKind     `json:"type"`
	Time     int64          `json:"time"` // milliseconds since 1970
	Client   proto.ClientID `json:"clientId,omitempty"`
	Previous proto.ClientID `json:"previous,omitempty"` // the connection before, as the client says: if it was the same user's, no end of it is told
	User     proto.UserID   `json:"userId,omitempty"`
	Session  string         `json:"session,omitempty"`
	Tenant   string         `json:"tenant,omitempty"`
	Room     proto.Room     `json:"room,omitempty"`
}

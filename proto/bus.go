package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// Version of what nodes and emitters say to each other on Redis. Two participants
// with different versions do not work on one Redis: the later one refuses to start.
const Version = 1

// MaxMessage is the largest live message on the bus in bytes. The first line of a durable
// one is longer by at most chainLen.
const MaxMessage = 128 << 10

const chainLen = epochLen + 16 + 2*tagLen + 4

// A Message is an event on its way from an emitter to the nodes.
//
// On Redis it is two parts: a first line for machines, then the JSON of the event.
//
//	E1 <eventId>\n{"event":…,"data":…,"time":…,"except":[…]}
//	S1 <epoch> <sequence> <previous tag> <tag> <eventId>\n{…}
//
// E1 is a live event. S1 is a durable one: numbered by Redis, and chained to the
// event before it.
type Message struct {
	Event
	Previous Tag        // of the event before; of no meaning for a live event
	Except   []ClientID // who shall not get it
	Client   ClientID   // in a node's inbox: the one client that shall get it
	Ask      AskID      // in a node's inbox: who wants to know whether that client is here
}

// An AskID names a question from node to node: <node that asks>.<random>, so that
// the answer finds its way back.
type AskID string

// NewAskID names a question that n asks.
func NewAskID(n NodeID) AskID { return AskID(NewClientID(n)) }

// Node is the node that asked, if id is well formed.
func (id AskID) Node() (NodeID, bool) { return ClientID(id).Node() }

// ErrMalformed is wrapped by every error of DecodeMessage, DecodeAnswer and
// DecodeIgnis: the message is not for this version of Signal, or for nobody. The texts
// go to logs, so they quote no more of a message than a name.
var ErrMalformed = errors.New("malformed bus message")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, a...))
}

// AppendMessage appends a live message as it goes to Redis.
func AppendMessage(dst []byte, m Message) []byte {
	dst = slices.Grow(dst, len(m.EventID)+len(m.Event.Event)+len(m.Data)+64)
	dst = append(dst, "E1 "...)
	dst = append(dst, m.EventID...)
	dst = append(dst, "\n{\"event\":"...)
	dst = appendString(dst, string(m.Event.Event))
	if m.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, m.Data...)
	}
	if m.Time != 0 {
		dst = append(dst, `,"time":`...)
		dst = strconv.AppendInt(dst, m.Time, 10)
	}
	for i, c := range m.Except {
		dst = append(dst, [...]string{`,"except":[`, `,`}[min(i, 1)]...)
		dst = appendString(dst, string(c))
	}
	if len(m.Except) > 0 {
		dst = append(dst, ']')
	}
	if m.Client != "" {
		dst = append(dst, `,"client":`...)
		dst = appendString(dst, string(m.Client))
	}
	if m.Ask != "" {
		dst = append(dst, `,"ask":`...)
		dst = appendString(dst, string(m.Ask))
	}
	return append(dst, '}')
}

// Body is the second line of a live message, and of the same event as a durable one, whose
// first line is made where it is numbered, by a script on Redis.
func Body(message []byte) []byte {
	_, body, _ := bytes.Cut(message, []byte{'\n'})
	return body
}

// DecodeMessage reads a message from the bus. Its data refers to b. An error wraps
// ErrMalformed.
func DecodeMessage(b []byte) (Message, error) {
	var m Message
	most := MaxMessage
	if isSigned(b) {
		most += sigMost
	}
	if bytes.HasPrefix(b, []byte("S1 ")) {
		most += chainLen
	}
	if len(b) > most {
		return m, malformed("%d bytes, at most %d are allowed", len(b), most)
	}
	first, body, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return m, malformed("no second line")
	}
	head := unsafe.String(unsafe.SliceData(first), len(first))
	if id, live := strings.CutPrefix(head, "E1 "); live {
		m.EventID = EventID(id)
	} else if !m.sequenced(head) {
		return m, malformed("unknown first line")
	}
	if m.EventID.checkGrammar() != nil {
		return m, malformed("bad event id")
	}
	if err := eachField(body, MaxDepth+1, m.field); err != nil {
		return m, malformed("%w", err)
	}
	if err := m.Event.Event.CheckSent(); err != nil { // whoever may write to Redis is not a node's own word
		return m, malformed("%w", err)
	}
	return m, nil
}

// sequenced reads the first line of a durable event.
func (m *Message) sequenced(head string) (ok bool) {
	var word [6]string
	for i := range word[:5] {
		if word[i], head, ok = strings.Cut(head, " "); !ok {
			return false
		}
	}
	if word[5] = head; word[0] != "S1" {
		return false
	}
	if m.Position, ok = position(word[1], word[2], word[4]); !ok || m.Position.Sequence == 0 {
		return false
	}
	m.Previous, ok = parseTag(word[3])
	m.EventID = EventID(word[5])
	return ok
}

// Follows says whether the event is the next one after a position.
func (m *Message) Follows(at Position) bool {
	return m.Position.Epoch == at.Epoch && m.Position.Sequence == at.Sequence+1 && m.Previous == at.Tag
}

// Before is the position that a durable event follows.
func (m *Message) Before() Position {
	return Position{Epoch: m.Position.Epoch, Sequence: m.Position.Sequence - 1, Tag: m.Previous}
}

func (m *Message) field(key string, value []byte) (err error) {
	var s string
	switch key {
	case "event":
		s, err = stringOf(key, value)
		m.Event.Event = EventName(s)
	case "data":
		m.Data = value
	case "time":
		m.Time, err = strconv.ParseInt(string(value), 10, 64)
	case "except":
		var except []ClientID // not &m.Except, which would bring m to the heap
		err = json.Unmarshal(value, &except)
		m.Except = except
	case "client":
		s, err = stringOf(key, value)
		m.Client = ClientID(s)
	case "ask":
		s, err = stringOf(key, value)
		m.Ask = AskID(s)
	}
	return err
}

// An Answer to a question in an inbox: how many clients took the event, 0 or 1.
//
//	R1 <askId> <receivers>
type Answer struct {
	Ask       AskID
	Receivers int
}

// AppendAnswer appends the answer as it goes to the asking node's inbox.
func AppendAnswer(dst []byte, a Answer) []byte {
	return fmt.Appendf(dst, "R1 %s %d", a.Ask, a.Receivers)
}

// DecodeAnswer reads an answer. An error wraps ErrMalformed.
func DecodeAnswer(b []byte) (Answer, error) {
	word := strings.Split(string(b[:min(len(b), 2*MaxName)]), " ")
	if len(word) != 3 || word[0] != "R1" || (word[2] != "0" && word[2] != "1") {
		return Answer{}, malformed("not an answer")
	}
	a := Answer{AskID(word[1]), int(word[2][0] - '0')}
	if _, ok := a.Ask.Node(); !ok {
		return Answer{}, malformed("bad ask id")
	}
	return a, nil
}

// IsAnswer says whether a message in an inbox is an answer rather than an event.
func IsAnswer(b []byte) bool { return bytes.HasPrefix(b, []byte("R1 ")) }

// AppendReturned appends, for the inbox of a node, that the client of one of its connections has come back
// to another node.
//
//	C1 <clientId> <userId>
func AppendReturned(dst []byte, id ClientID, u UserID) []byte {
	return fmt.Appendf(dst, "C1 %s %s", id, u)
}

// DecodeReturned is the connection whose client has come back, and of which user, if the message says
// that.
func DecodeReturned(b []byte) (id ClientID, u UserID, is bool) {
	rest, is := bytes.CutPrefix(b[:min(len(b), 2*MaxName)], []byte("C1 "))
	client, user, _ := bytes.Cut(rest, []byte{' '})
	id = ClientID(client)
	return id, UserID(user), is && id.Check() == nil
}

// A Layout knows the names on Redis under one prefix. The hash tag is the room
// itself, also on a single Redis, so that moving to a cluster renames nothing.
type Layout struct {
	Prefix string // "sg" unless set otherwise
}

// Control is the room of what all participants share, which no client has.
const Control Room = "$ctl"

// NodeRoom is the room of one node: its inbox.
func NodeRoom(n NodeID) Room { return Room("$node:" + n) }

// CanaryRoom is the i-th of those in which a node publishes to itself.
func CanaryRoom(n NodeID, i int) Room { return Room("$canary:" + string(n) + "." + strconv.Itoa(i)) }

// Channel is where a room's events are published.
func (l Layout) Channel(r Room) string { return l.name(string(r), "ch") }

// Inbox is where events for the clients of one node are published.
func (l Layout) Inbox(n NodeID) string { return l.Channel(NodeRoom(n)) }

// Position is the string that holds a durable room's position.
func (l Layout) Position(r Room) string { return l.name(string(r), "at") }

// Log is the list of a durable room's last events, as they were published.
func (l Layout) Log(r Room) string { return l.name(string(r), "log") }

// Once is the string that says what became of an event, for its sender's next try.
func (l Layout) Once(r Room, id EventID) string { return l.name(string(r), "id:"+string(id)) }

// Crowd is the hash of the nodes on which a room has members.
func (l Layout) Crowd(r Room) string { return l.name(string(r), "in") }

// Snapshot is the string that holds a room's snapshot.
func (l Layout) Snapshot(r Room) string { return l.name(string(r), "snap") }

// Proof is a string that a server of a cluster writes to see whether its replicas still follow.
func (l Layout) Proof(r Room) string { return l.name(string(r), "proof") }

// Ticket is the string that holds the token of a ticket.
func (l Layout) Ticket(id TicketID) string { return l.name("$ticket:"+string(id), "token") }

// Revoked is the log of revocations, a stream.
func (l Layout) Revoked() string { return l.name(string(Control), "revoked") }

// Nodes is the hash of the nodes' leases.
func (l Layout) Nodes() string { return l.name(string(Control), "nodes") }

// Config is the hash that says how this Redis is used: see emitter.Join.
func (l Layout) Config() string { return l.name(string(Control), "cfg") }

// Room is the room whose channel is given.
func (l Layout) Room(channel string) (Room, bool) {
	s, ok := strings.CutPrefix(channel, l.Prefix+":{")
	if !ok {
		return "", false
	}
	s, ok = strings.CutSuffix(s, "}:ch")
	return Room(s), ok
}

func (l Layout) name(tag, what string) string { return l.Prefix + ":{" + tag + "}:" + what }

package proto

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// The original publishes JSON on channels of its own. Its emitters go on as they
// are, and we hear them: exact names for the rooms and users of this node, and two
// patterns for its clients, because an original server that does not know a client
// publishes the client's id under ws:room: as well.
const (
	ignisBroadcast = "ws:broadcast"
	ignisRoom      = "ws:room:"
	ignisUser      = "ws:user:"
	ignisClient    = "ws:client:"
	ignisProbe     = "ws:room:probe:"
)

// ignisMirror is the serverId of what we say there ourselves: not a UUID, as that of a server, and
// not "emitter". It stands first, so that our own nodes, which have the event already, see it at once.
const ignisMirror = `{"serverId":"signal","type":`

// maxIgnis is the largest message of the original that is heard. Its emitters know
// no limit, so this one is only there for the memory's sake.
const maxIgnis = 1 << 20

// IgnisChannel is the original's channel for a room of ours.
func IgnisChannel(r Room) string {
	if u, ok := r.User(); ok {
		return ignisUser + string(u)
	}
	if r == Broadcasts {
		return ignisBroadcast
	}
	return ignisRoom + string(r)
}

// IgnisTarget is the original's channel for a target.
func IgnisTarget(to Target) string {
	if client, ok := to.Client(); ok {
		return ignisClient + string(client)
	}
	return IgnisChannel(to.Room())
}

// AppendIgnis appends an event as the original's servers take it. Our own nodes pass over it:
// IsMirror.
func AppendIgnis(dst []byte, to Target, m Message) []byte {
	dst = slices.Grow(dst, len(ignisMirror)+len(to.name)+len(m.Event.Event)+len(m.Data)+64)
	dst = append(dst, ignisMirror...)
	dst = appendString(dst, string(to.kind))
	if to.name != "" {
		dst = append(dst, `,"target":`...)
		dst = appendString(dst, to.name)
	}
	dst = append(dst, `,"event":`...)
	dst = appendString(dst, string(m.Event.Event))
	if m.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, m.Data...)
	}
	for i, c := range m.Except {
		dst = append(dst, [...]string{`,"exclude":[`, `,`}[min(i, 1)]...)
		dst = appendString(dst, string(c))
	}
	if len(m.Except) > 0 {
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// IsMirror says whether a message on the original's channels is one of ours.
func IsMirror(b []byte) bool { return bytes.HasPrefix(b, []byte(ignisMirror)) }

// IgnisProbe is what all servers of the original hear and none takes for an event: Redis says to how
// many it goes.
func IgnisProbe() (channel, message string) {
	return ignisProbe + random(clientChars), ignisMirror + `"probe","event":"probe"}`
}

// IsIgnisProbe says whether a channel is that of an IgnisProbe.
func IsIgnisProbe(channel string) bool { return strings.HasPrefix(channel, ignisProbe) }

// IgnisAll are the channels on which the original hears, as patterns.
func IgnisAll() []string {
	return []string{ignisBroadcast, ignisRoom + "*", ignisUser + "*", ignisClient + "*"}
}

// IgnisPatterns are the patterns under which the original sends to clients of n.
func IgnisPatterns(n NodeID) []string {
	return []string{ignisClient + string(n) + ".*", ignisRoom + string(n) + ".*"}
}

// DecodeIgnis reads a message of the original's bus. Like the original it goes by
// type and target, not by the channel; unlike it, it refuses what no client of ours
// could be sent. The event is live and has no id. An error wraps ErrMalformed.
func DecodeIgnis(b []byte) (Target, Message, error) {
	var (
		m                      Message
		server, kind, to, name string
	)
	if len(b) > maxIgnis {
		return Target{}, m, malformed("%d bytes, at most %d are allowed", len(b), maxIgnis)
	}
	err := eachField(b, MaxDepth+1, func(key string, value []byte) (err error) {
		switch key {
		case "serverId":
			server, err = stringOf(key, value)
		case "type":
			kind, err = stringOf(key, value)
		case "target":
			to, err = stringOf(key, value)
		case "event":
			name, err = stringOf(key, value)
		case "data":
			m.Data = value
		case "exclude":
			err = json.Unmarshal(value, &m.Except)
		}
		return err
	})
	if err != nil {
		return Target{}, m, malformed("%w", err)
	}
	m.Event.Event = EventName(name)
	if err := m.Event.Event.CheckSent(); err != nil {
		return Target{}, m, malformed("%w", err)
	}
	if server == "" {
		return Target{}, m, malformed("serverId is missing")
	}
	t := Target{TargetKind(kind), to}
	if t.kind == KindBroadcast {
		t.name = ""
	}
	if err := t.Check(); err != nil {
		return Target{}, m, malformed("%w", err)
	}
	return t, m, nil
}

// IgnisRoom is the room of ours whose channel of the original is given.
func IgnisRoom(channel string) (Room, bool) {
	if channel == ignisBroadcast {
		return Broadcasts, true
	}
	if u, ok := strings.CutPrefix(channel, ignisUser); ok {
		return UserRoom(UserID(u)), true
	}
	r, ok := strings.CutPrefix(channel, ignisRoom)
	return Room(r), ok
}

// IgnisClient is the client whom a channel under one of IgnisPatterns names.
func IgnisClient(channel string) ClientID {
	if id, ok := strings.CutPrefix(channel, ignisClient); ok {
		return ClientID(id)
	}
	return ClientID(strings.TrimPrefix(channel, ignisRoom))
}

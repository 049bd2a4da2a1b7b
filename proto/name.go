package proto

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Each kind of name has its type, so that a user is never taken for a room. A
// conversion such as Room(s) checks nothing: whoever takes a name from outside
// calls its Check.
type (
	// NodeID names one running process, made new at each start.
	NodeID string
	// ClientID names one connection: its node, a dot, 16 random characters. From the
	// id alone anyone knows whose inbox to publish to (ClientID.Node). One of the original's
	// servers is a UUID.
	ClientID string
	// UserID names one person or till with any number of connections.
	UserID string
	// Room names a set of clients.
	Room string
	// EventName says what happened: "order.paid".
	EventName string
	// EventID names one event, the same over all retries of its sender.
	EventID string
)

// MaxName is the longest room, user or event name in bytes.
const MaxName = 256

// MaxEventID is the longest event id in bytes.
const MaxEventID = 128

// System rooms. A node joins them for its clients; clients see them under the
// literal names "$broadcast" and "$user" (Room.Public).
const (
	Broadcasts Room = "$broadcast"
	OwnUser    Room = "$user"
)

// UserRoom is the system room in which all connections of a user are.
func UserRoom(u UserID) Room { return OwnUser + ":" + Room(u) }

// User is the user whose room r is.
func (r Room) User() (UserID, bool) {
	u, ok := strings.CutPrefix(string(r), string(OwnUser)+":")
	return UserID(u), ok
}

// Public is the room's name as its members see it: a user's own room is "$user".
func (r Room) Public() Room {
	if _, ok := r.User(); ok {
		return OwnUser
	}
	return r
}

// A NameError says which rule of the name grammar a name breaks. Its text may be
// shown to whoever sent the name.
type NameError struct {
	Kind string // "room", "user", "event", "event id", "client id"
	Name string // as given
	Rule string // what it breaks
	Code ErrorCode
}

func (e *NameError) Error() string {
	return fmt.Sprintf("%s name %s %s", e.Kind, quote(e.Name), e.Rule)
}

// Check says whether r may come from outside: the grammar of names, and none of
// the prefixes that Signal and the original keep for themselves.
func (r Room) Check() error {
	if err := checkName("room", string(r)); err != nil {
		return err
	}
	for _, p := range [...]string{"sg:", "ws:"} {
		if strings.HasPrefix(string(r), p) {
			return &NameError{"room", string(r), fmt.Sprintf("begins with the reserved %q", p), CodeReserved}
		}
	}
	return nil
}

// Check says whether u may come from outside.
func (u UserID) Check() error { return checkName("user", string(u)) }

// Check says whether n may come from outside.
func (n EventName) Check() error { return checkName("event", string(n)) }

// checkName is the one grammar of names: 1 to 256 bytes of valid UTF-8 without
// control characters and without { } * ? [ ] \, which would change a Redis slot or
// a pattern. Nothing from outside begins with $.
func checkName(kind, s string) error {
	bad := func(code ErrorCode, format string, a ...any) error {
		return &NameError{kind, s, fmt.Sprintf(format, a...), code}
	}
	switch {
	case s == "":
		return bad(CodeBadName, "is empty")
	case len(s) > MaxName:
		return bad(CodeBadName, "is %d bytes long, at most %d are allowed", len(s), MaxName)
	case !utf8.ValidString(s):
		return bad(CodeBadName, "is not valid UTF-8")
	case s[0] == '$':
		return bad(CodeReserved, "begins with the reserved \"$\"")
	}
	for _, c := range s {
		if c < utf8.RuneSelf && !inName[c] || c >= utf8.RuneSelf && unicode.IsControl(c) {
			return bad(CodeBadName, "contains %q", c)
		}
	}
	return nil
}

// Check says whether id may come from a producer: 1 to 128 bytes of
// A-Z a-z 0-9 . _ : / - and not beginning with "c:", which marks ids that clients
// chose.
func (id EventID) Check() error {
	if err := id.checkGrammar(); err != nil {
		return err
	}
	if strings.HasPrefix(string(id), "c:") {
		return &NameError{"event id", string(id), `begins with the reserved "c:"`, CodeReserved}
	}
	return nil
}

func (id EventID) checkGrammar() error {
	if len(id) == 0 || len(id) > MaxEventID {
		return &NameError{"event id", string(id), fmt.Sprintf("has %d bytes, 1 to %d are allowed", len(id), MaxEventID), CodeBadName}
	}
	for i := range len(id) {
		if c := id[i]; !inEventID[c] {
			return &NameError{"event id", string(id), fmt.Sprintf("contains %q", c), CodeBadName}
		}
	}
	return nil
}

// inEventID and inName are looked up for every byte of every event, so they are tables:
// the characters of an event id, and of a name those that are ASCII and allowed.
var inEventID, inName [256]bool

func init() {
	for c := range byte(128) {
		inEventID[c] = isAlnum(c) || strings.IndexByte("._:/-", c) >= 0
		inName[c] = !unicode.IsControl(rune(c)) && strings.IndexByte(`{}*?[]\`, c) < 0
	}
}

// Check says whether id has the form of a client id of a Signal node, or of one of the original.
func (id ClientID) Check() error {
	if _, ours := id.Node(); !ours && !isUUID(string(id)) {
		rule := fmt.Sprintf("is neither of the form <node>.<random>, %d and %d characters of a-z and 2-7, nor a UUID, as those of the original", nodeChars, clientChars)
		return &NameError{"client id", string(id), rule, CodeBadName}
	}
	return nil
}

// Node is the node that holds the connection. A client of the original has none.
func (id ClientID) Node() (NodeID, bool) {
	node, random, _ := strings.Cut(string(id), ".")
	if !token(node, nodeChars) || !token(random, clientChars) {
		return "", false
	}
	return NodeID(node), true
}

// isUUID says whether s is one in the form in which the original writes them.
func isUUID(s string) bool {
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return len(s) == 36
}

// token says whether s is what random(n) makes.
func token(s string, n int) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return len(s) == n
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// quote shows a foreign text in an error: quoted, and not longer than a line.
func quote(s string) string {
	const most = 48
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q (and %d more bytes)", s[:most], len(s)-most)
}

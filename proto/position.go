package proto

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// A Position is a place in a durable room: <epoch>.<sequence>.<tag>. To clients it is one
// opaque word. Either it lies on the chain of the room's events or it does not, also when
// Redis came back without its last writes and the numbers were given anew.
type Position struct {
	Sequence uint64      // of the last event before this place; 0 before the first one
	Epoch    Incarnation // of the room
	Tag      Tag         // the chain's fingerprint there
}

// An Incarnation is 8 letters, by chance: a room that Redis has lost gets others.
type Incarnation [epochLen]byte

// String is the letters.
func (i Incarnation) String() string { return string(i[:]) }

// A Tag is 12 hexadecimal digits, made of the tag before and the event.
type Tag [tagLen]byte

// String is empty for no tag.
func (t Tag) String() string {
	if t == (Tag{}) {
		return ""
	}
	return string(t[:])
}

const (
	tagLen      = 12
	epochLen    = 8
	maxSequence = 1<<53 - 1 // a number of JavaScript
)

// IsZero says that there is no position: of a live event, say.
func (p Position) IsZero() bool { return p.Epoch == Incarnation{} }

// String is the position as it stands in frames and on Redis.
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	return string(p.Append(nil))
}

// Append appends String.
func (p Position) Append(dst []byte) []byte {
	dst = append(dst, p.Epoch[:]...)
	dst = append(dst, '.')
	dst = strconv.AppendUint(dst, p.Sequence, 10)
	dst = append(dst, '.')
	return append(dst, p.Tag[:]...)
}

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePosition; nothing is the zero position.
func (p *Position) UnmarshalText(b []byte) (err error) {
	*p = Position{}
	if len(b) > 0 {
		*p, err = ParsePosition(string(b))
	}
	return err
}

// ParsePosition reads what String wrote, and nothing else.
func ParsePosition(s string) (p Position, err error) {
	epoch, rest, _ := strings.Cut(s, ".")
	sequence, tag, ok := strings.Cut(rest, ".")
	if ok {
		p, ok = position(epoch, sequence, tag)
	}
	if !ok {
		return Position{}, &NameError{"position", s, "is not one that a node has told", CodeBadPosition}
	}
	return p, nil
}

func position(epoch, sequence, tag string) (p Position, ok bool) {
	if len(epoch) != epochLen {
		return p, false
	}
	for i := range len(epoch) {
		if c := epoch[i] | 0x20; c < 'a' || c > 'z' {
			return p, false
		}
	}
	copy(p.Epoch[:], epoch)
	if p.Sequence, ok = number(sequence); !ok {
		return p, false
	}
	p.Tag, ok = parseTag(tag)
	return p, ok
}

// number reads what the scripts write: decimal digits without a leading zero.
func number(s string) (n uint64, ok bool) {
	if len(s) == 0 || len(s) > 16 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n <= maxSequence
}

func parseTag(s string) (t Tag, ok bool) {
	if len(s) != tagLen {
		return t, false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return t, false
		}
	}
	copy(t[:], s)
	return t, true
}

// Fingerprint is 24 hexadecimal digits of what an event says: its id, name and data, but
// neither its time nor who is left out, which differ when its sender tries again.
func Fingerprint(e Event) string {
	b := make([]byte, 0, len(e.EventID)+len(e.Event)+len(e.Data)+2)
	b = append(append(b, e.EventID...), 0)
	b = append(append(b, e.Event...), 0)
	sum := sha256.Sum256(append(b, e.Data...))
	return hex.EncodeToString(sum[:12])
}

// A Found says whether a position lies on a room's chain. What is not OK is also the reason
// that a joined or resync frame gives.
type Found string

// What is found of a position. Only after OK is nothing missing.
const (
	OK      Found = "ok"
	Fresh   Found = "fresh"   // none was asked for
	Epoch   Found = "epoch"   // of another incarnation of the room
	Rewound Found = "rewound" // ahead of the room: Redis lost its last events
	Forked  Found = "forked"  // Redis lost events, and others took their numbers
	Behind  Found = "behind"  // more is missing than is worth a replay
	None    Found = "none"    // the room has no position, and was only looked at
	Trimmed Found = "trimmed" // what is missing is not kept any more
)

// A Page is what Redis knows of the events after a position.
type Page struct {
	Found  Found
	Top    Position  // of the room
	Events []Message // after OK: in their order, without a gap; there may be more before Top
}

package proto

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Lengths of the two halves of a client id: 40 and 80 random bits.
const (
	nodeChars   = 8
	clientChars = 16
)

// NewNodeID names a process: random characters, nothing of the host.
func NewNodeID() NodeID { return NodeID(random(nodeChars)) }

// NewClientID names a new connection of a node.
func NewClientID(n NodeID) ClientID { return ClientID(string(n) + "." + random(clientChars)) }

// NewEventID is a UUID of version 7 (RFC 9562, section 5.7): ids sort by the
// millisecond in which they were made.
func NewEventID() EventID {
	var u [16]byte
	rand.Read(u[6:])
	ms := time.Now().UnixMilli()
	for i := range 6 {
		u[i] = byte(ms >> (8 * (5 - i)))
	}
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[:8], u[:4])
	hex.Encode(s[9:13], u[4:6])
	hex.Encode(s[14:18], u[6:8])
	hex.Encode(s[19:23], u[8:10])
	hex.Encode(s[24:], u[10:])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return EventID(s[:])
}

// random is n characters of a to z and 2 to 7, five random bits each.
func random(n int) string { return strings.ToLower(rand.Text()[:n]) }

// NewEpoch names a new incarnation of a room: 8 letters.
func NewEpoch() string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var b Incarnation
	rand.Read(b[:])
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return b.String()
}

// A TicketID is what a client shows once instead of its token, where that would be written down:
// in an address.
type TicketID string

// NewTicketID makes one that nobody can guess.
func NewTicketID() TicketID { return TicketID(rand.Text()) }

// Check says whether it can be a ticket: 26 letters and digits.
func (id TicketID) Check() error {
	if len(id) != 26 || strings.Trim(string(id), "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return errors.New("a ticket has 26 letters and digits")
	}
	return nil
}

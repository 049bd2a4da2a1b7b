package proto

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A Revocation takes back what tokens allow: those of a user, a session (sid), a tenant, or one
// token (jti). Of a user it may be of one room alone. It covers tokens that were issued up to
// the moment at which it is written down; of a session or a token, all.
type Revocation struct {
	User    UserID `json:"user,omitempty"`
	Session string `json:"session,omitempty"`
	Token   string `json:"token,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Room    Room   `json:"room,omitempty"`
	Reason  string `json:"reason,omitempty"` // for the client
	At      int64  `json:"at,omitempty"`     // milliseconds since 1970, by the clock of Redis
}

// MaxReason is the longest reason of a Revocation in bytes.
const MaxReason = 256

// Check says what is wrong with it.
func (r Revocation) Check() error {
	named := 0
	var errs []error
	for claim, value := range map[string]string{"user": string(r.User), "session": r.Session, "token": r.Token, "tenant": r.Tenant} {
		if value == "" {
			continue
		}
		named++
		if err := UserID(value).Check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", claim, err))
		}
	}
	if named != 1 {
		errs = append(errs, errors.New("exactly one of user, session, token and tenant is revoked"))
	}
	if r.Room != "" {
		if r.User == "" {
			errs = append(errs, errors.New("a room is revoked of a user"))
		}
		if err := r.Room.Check(); err != nil {
			errs = append(errs, err)
		}
	}
	if !utf8.ValidString(r.Reason) {
		errs = append(errs, errors.New("the reason is not UTF-8"))
	}
	if len(r.Reason) > MaxReason {
		errs = append(errs, fmt.Errorf("the reason has %d bytes, at most %d are allowed", len(r.Reason), MaxReason))
	}
	return errors.Join(errs...)
}

// Bearer is what of a token a Revocation looks at.
type Bearer struct {
	User                   UserID
	Session, Token, Tenant string
	Issued                 int64 // milliseconds since 1970; 0 if the token does not say
}

// Covers says whether it takes something back from the bearer.
func (r Revocation) Covers(b Bearer) bool {
	switch {
	case r.Session != "":
		return r.Session == b.Session
	case r.Token != "":
		return r.Token == b.Token
	case r.Tenant != "" && r.Tenant != b.Tenant, r.User != "" && r.User != b.User:
		return false
	}
	return b.Issued <= r.At
}

// Encode is the revocation in the log on Redis.
func (r Revocation) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// DecodeRevocation reads what Encode has written.
func DecodeRevocation(b []byte) (r Revocation, err error) {
	if err = Decode(b, &r); err == nil {
		if len(r.Reason) > MaxReason { // it must not void what is revoked
			r.Reason = strings.ToValidUTF8(r.Reason[:MaxReason], "")
		}
		err = r.Check()
	}
	if err != nil {
		return Revocation{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return r, nil
}

// A Revoked tells a client that its connection is taken back.
type Revoked struct {
	Reason string `json:"reason,omitempty"`
}

// A RoomRevoked tells a client that it is in a room no more.
type RoomRevoked struct {
	Room   Room   `json:"room"`
	Reason string `json:"reason,omitempty"`
}

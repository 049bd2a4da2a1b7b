// Package auth says who a client is and what it may do.
//
// A token is judged by itself: no database and no Redis is asked when a client
// connects, so that ten thousand tills may come back at once.
package auth

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/proto"
)

// ErrRefused is wrapped by every error of Verify. The text says why, and never
// quotes the token.
var ErrRefused = errors.New("token refused")

const (
	// MaxToken is the longest token in bytes. Longer ones are not even parsed.
	MaxToken = 4 << 10
	// Leeway is how far the clocks of node and issuer may be apart.
	Leeway = 30 * time.Second
)

// An Identity is who a client is and what it may do.
type Identity struct {
	proto.Bearer              // User is empty only without authentication
	Rooms        proto.Grants // that it may join
	Publish      proto.Grants // that it may publish to
	Expires      int64        // seconds since 1970; 0 if never
	digest       uint64       // of the token
}

var seed = maphash.MakeSeed()

func digest(token string) uint64 { return maphash.String(seed, token) }

// Same says whether both identities come from the very same token.
func (i Identity) Same(j Identity) bool { return i.digest == j.digest }

// Options say which tokens are good.
type Options struct {
	Secret      []byte        // of HS256
	Audience    string        // the token's aud must name it; empty: not looked at
	MaxLifetime time.Duration // longest life of a token; 0: not looked at
	Rooms       proto.Grants  // of tokens without rooms
	Publish     proto.Grants  // of tokens without publish
}

// A Verifier judges tokens. The zero one refuses all.
type Verifier struct {
	o      Options
	parser *jwt.Parser
}

// New returns a Verifier for HS256 tokens.
func New(o Options) *Verifier {
	opts := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithStrictDecoding(),
		jwt.WithLeeway(Leeway),
	}
	if o.Audience != "" {
		opts = append(opts, jwt.WithAudience(o.Audience))
	}
	return &Verifier{o, jwt.NewParser(opts...)}
}

type claims struct {
	jwt.RegisteredClaims
	Rooms   *proto.Grants `json:"rooms"`
	Publish *proto.Grants `json:"publish"`
	Session string        `json:"sid"`
	Tenant  string        `json:"tenant"`
}

// Verify says who the token's bearer is. Required are sub, exp, and aud when an
// audience is configured; rooms and publish are used when present. An error wraps
// ErrRefused.
func (v *Verifier) Verify(token string) (Identity, error) {
	refuse := func(format string, a ...any) (Identity, error) {
		return Identity{}, fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, a...))
	}
	if v == nil || v.parser == nil {
		return refuse("no key is configured")
	}
	if token == "" {
		return refuse("no token was given")
	}
	if len(token) > MaxToken {
		return refuse("%d bytes, at most %d are allowed", len(token), MaxToken)
	}
	if strings.ContainsAny(token, "\r\n") { // which the base64 of the library passes over
		return refuse("it has line breaks")
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return v.o.Secret, nil }); err != nil {
		return refuse("%w", reason(err))
	}
	id := Identity{
		Bearer: proto.Bearer{User: proto.UserID(c.Subject), Session: c.Session, Token: c.ID, Tenant: c.Tenant},
		Rooms:  v.o.Rooms, Publish: v.o.Publish, Expires: c.ExpiresAt.Unix(), digest: digest(token),
	}
	from := time.Now()
	if c.IssuedAt != nil {
		from = c.IssuedAt.Time
		id.Issued = from.UnixMilli()
	}
	if err := id.User.Check(); err != nil {
		return refuse("sub: %w", err)
	}
	for claim, value := range map[string]string{"sid": id.Session, "jti": id.Token, "tenant": id.Tenant} {
		if value != "" && proto.UserID(value).Check() != nil {
			return refuse("%s must be as a sub is", claim) // else it could not be revoked
		}
	}
	if v.o.MaxLifetime > 0 {
		if life := c.ExpiresAt.Sub(from); life > v.o.MaxLifetime+Leeway {
			return refuse("it lives for %s, at most %s are allowed", life.Round(time.Second), v.o.MaxLifetime)
		}
	}
	if c.Rooms != nil {
		id.Rooms = *c.Rooms
	}
	if c.Publish != nil {
		id.Publish = *c.Publish
	}
	if err := errors.Join(id.Rooms.Check(), id.Publish.Check()); err != nil {
		return refuse("rooms or publish: %w", err)
	}
	return id, nil
}

// reason is what the library says, without what it quotes from the token.
func reason(err error) error {
	if errors.Is(err, jwt.ErrTokenRequiredClaimMissing) {
		return fmt.Errorf("%w: sub, exp, and aud when an audience is configured", jwt.ErrTokenRequiredClaimMissing)
	}
	for _, known := range [...]error{
		jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenInvalidAudience,
		jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	return jwt.ErrTokenInvalidClaims
}

// Issue makes a token that a Verifier with the same Secret and Audience accepts.
func (o Options) Issue(user proto.UserID, life time.Duration, rooms, publish proto.Grants) (string, error) {
	if err := errors.Join(user.Check(), rooms.Check(), publish.Check()); err != nil {
		return "", err
	}
	now := time.Now()
	c := claims{RegisteredClaims: jwt.RegisteredClaims{
		Subject: string(user), IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
	}}
	if o.Audience != "" {
		c.Audience = jwt.ClaimStrings{o.Audience}
	}
	if rooms != nil {
		c.Rooms = &rooms
	}
	if publish != nil {
		c.Publish = &publish
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(o.Secret)
}

// None lets everyone in and allows everything: for development. The token, if it is
// a name, is taken as the user.
type None struct{}

// Verify says who the bearer claims to be.
func (None) Verify(token string) (Identity, error) {
	id := Identity{Rooms: proto.Grants{"*"}, Publish: proto.Grants{"*"}, digest: digest(token)}
	if user := proto.UserID(token); user.Check() == nil {
		id.User = user
	}
	return id, nil
}

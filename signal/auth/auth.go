// Package auth says who a client is and what it may do.
//
// A token is judged by itself: no database and no Redis is asked when a client
// connects, so that ten thousand tills may come back at once.
package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
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

// ErrLater means that the token is signed with a key that may be at the address of the keys by
// now: Await asks there.
var ErrLater = errors.New("its key is not known yet")

// Options say which tokens are good.
type Options struct {
	Secret      []byte        // of HS256; empty: no such tokens
	Keys        *Keys         // of RS256, ES256 and EdDSA; nil: no such tokens
	Issuer      string        // the token's iss must be it; empty: not looked at
	Type        string        // the token's typ must be it, in any case; empty: not looked at
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

// New returns a Verifier.
func New(o Options) *Verifier {
	var methods []string
	if len(o.Secret) > 0 {
		methods = append(methods, jwt.SigningMethodHS256.Alg())
	}
	if o.Keys != nil {
		methods = append(methods, jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg())
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(methods),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithStrictDecoding(),
		jwt.WithLeeway(Leeway),
	}
	if o.Audience != "" {
		opts = append(opts, jwt.WithAudience(o.Audience))
	}
	if o.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(o.Issuer))
	}
	return &Verifier{o, jwt.NewParser(opts...)}
}

type claims struct {
	jwt.RegisteredClaims
	Rooms   *proto.Grants `json:"rooms"`
	Publish *proto.Grants `json:"publish"`
	Session string        `json:"sid,omitempty"`
	Tenant  string        `json:"tenant,omitempty"`
	// Login is when the access token was issued for which this one was given: what revokes that one
	// revokes this one. (auth_time of OpenID Connect.)
	Login *jwt.NumericDate `json:"auth_time,omitempty"`
}

// UnmarshalJSON is for the library: it would take SUB for sub, and the last of two.
func (c *claims) UnmarshalJSON(b []byte) error { return proto.Decode(b, c) }

// checkHeader says whether the header of a token can be read in one way only.
func checkHeader(token string) error {
	encoded, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return jwt.ErrTokenMalformed
	}
	if err := proto.Decode(b, &struct{}{}); err != nil {
		return fmt.Errorf("%w: its header %w", jwt.ErrTokenMalformed, err)
	}
	return nil
}

// Verify says who the token's bearer is. Required are sub, exp, and aud when an
// audience is configured; rooms and publish are used when present. An error wraps ErrRefused,
// perhaps with ErrLater, unless nobody can say what the token is worth. It does not wait.
func (v *Verifier) Verify(token string) (Identity, error) {
	refuse := func(format string, a ...any) (Identity, error) {
		return Identity{}, fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, a...))
	}
	if v == nil || v.parser == nil || len(v.o.Secret) == 0 && v.o.Keys == nil {
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
	if err := checkHeader(token); err != nil {
		return refuse("%w", err)
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.key); errors.Is(err, errUnsure) {
		return Identity{}, errUnsure // not refused: it may be good in a few seconds
	} else if err != nil {
		return refuse("%w", reason(err))
	}
	id := Identity{
		Bearer: proto.Bearer{User: proto.UserID(c.Subject), Session: c.Session, Token: c.ID, Tenant: c.Tenant},
		Rooms:  v.o.Rooms, Publish: v.o.Publish, Expires: c.ExpiresAt.Unix(), digest: digest(token),
	}
	from := time.Now()
	switch {
	case c.IssuedAt != nil: // an issuer's clock that is ahead must not take it out of a revocation's reach
		id.Issued = min(c.IssuedAt.UnixMilli(), from.UnixMilli())
		from = c.IssuedAt.Time
	case v.o.MaxLifetime > 0:
		return refuse("without iat nobody knows how long it has lived")
	}
	if c.Login != nil {
		id.Issued = min(id.Issued, max(0, c.Login.UnixMilli()))
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
	if err := id.check(); err != nil {
		return refuse("%w", err)
	}
	return id, nil
}

// check says what of an identity cannot be used.
func (i Identity) check() error {
	if err := i.User.Check(); err != nil {
		return fmt.Errorf("sub: %w", err)
	}
	for claim, value := range map[string]string{"sid": i.Session, "jti": i.Token, "tenant": i.Tenant} {
		if value != "" && proto.UserID(value).Check() != nil {
			return fmt.Errorf("%s must be as a sub is", claim) // else it could not be revoked
		}
	}
	if err := errors.Join(i.Rooms.Check(), i.Publish.Check()); err != nil {
		return fmt.Errorf("rooms or publish: %w", err)
	}
	return nil
}

// Await is Verify after the keys have been asked for at their address.
func (v *Verifier) Await(ctx context.Context, token string) (Identity, error) {
	if err := v.o.Keys.ask(ctx); err != nil {
		return Identity{}, fmt.Errorf("the keys do not come: %w", err)
	}
	id, err := v.Verify(token)
	if errors.Is(err, errUnsure) { // it has been asked just now
		err = fmt.Errorf("%w: %w", ErrRefused, errKey)
	}
	return id, err
}

// key is what a token must be signed with. Nothing in its header but alg and kid is looked at.
func (v *Verifier) key(t *jwt.Token) (any, error) {
	if _, has := t.Header["crit"]; has { // RFC 7515, section 4.1.11: none of it is understood
		return nil, errCritical
	}
	if typ, _ := t.Header["typ"].(string); v.o.Type != "" && !strings.EqualFold(typ, v.o.Type) {
		return nil, errType
	}
	if t.Method == jwt.SigningMethodHS256 {
		return v.o.Secret, nil
	}
	kid, ok := t.Header["kid"].(string)
	if _, given := t.Header["kid"]; given && !ok {
		return nil, errKey
	}
	found, err := v.o.Keys.find(t.Method.Alg(), kid)
	if err != nil {
		return nil, err
	}
	return found, nil
}

var (
	errType     = errors.New("its typ is another one")
	errCritical = errors.New("its header has a crit")
	errKey      = errors.New("no such key")
	// errUnsure is for a key that was not at the address a moment ago, and may be there now.
	errUnsure = errors.New("its key is not known, and the address of the keys was asked a moment ago")
)

// reason is what the library says, without what it quotes from the token.
func reason(err error) error {
	if errors.Is(err, jwt.ErrTokenRequiredClaimMissing) {
		return fmt.Errorf("%w: sub, exp, and aud and iss when they are configured", jwt.ErrTokenRequiredClaimMissing)
	}
	if claim, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%w: %s is a %s", jwt.ErrTokenMalformed, claim.Field, claim.Value)
	}
	for _, known := range [...]error{
		ErrLater, errKey, errType, errCritical, jwt.ErrTokenInvalidIssuer,
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
	return o.IssueFor(Identity{Bearer: proto.Bearer{User: user}, Rooms: rooms, Publish: publish, Expires: time.Now().Add(life).Unix()})
}

// Exchange is IssueFor for the bearer of another token, who stays as revocable as that one.
func (o Options) Exchange(i Identity) (string, error) {
	return o.issue(i, jwt.NewNumericDate(time.UnixMilli(i.Issued)))
}

// IssueFor is Issue for an identity, whose digest and time of issue do not matter.
func (o Options) IssueFor(i Identity) (string, error) { return o.issue(i, nil) }

func (o Options) issue(i Identity, login *jwt.NumericDate) (string, error) {
	if err := i.check(); err != nil {
		return "", err
	}
	rooms, publish := i.Rooms, i.Publish
	c := claims{Session: i.Session, Tenant: i.Tenant, Login: login, RegisteredClaims: jwt.RegisteredClaims{
		Subject: string(i.User), ID: i.Token, IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Unix(i.Expires, 0)),
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
	c.Issuer = o.Issuer
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
	if o.Type != "" {
		t.Header["typ"] = o.Type
	}
	return t.SignedString(o.Secret)
}

// None lets everyone in and allows everything: for development. The token, if it is
// a name, is taken as the user.
type None struct{}

// Await is never needed.
func (n None) Await(_ context.Context, token string) (Identity, error) { return n.Verify(token) }

// Verify says who the bearer claims to be.
func (None) Verify(token string) (Identity, error) {
	id := Identity{Rooms: proto.Grants{"*"}, Publish: proto.Grants{"*"}, digest: digest(token)}
	if user := proto.UserID(token); user.Check() == nil {
		id.User = user
	}
	return id, nil
}

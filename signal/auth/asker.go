package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// An Asker asks the application whose a token is, whatever that looks like:
//
//	→ {"token": "…"}
//	← {"userId": "cashier-7", "expires"?: <seconds since 1970>, "issued"?: …, "session"?: "…", "tenant"?: "…",
//	   "tokenId"?: "…", "rooms"?: ["orders"], "publish"?: []}
//
// 401 and 403 are a refusal; that it cannot be asked is none, but lets nobody in either.
type Asker struct {
	whom hook.Authenticator
	o    Options // MaxLifetime, Rooms and Publish
}

// NewAsker returns an Asker.
func NewAsker(whom hook.Authenticator, o Options) *Asker { return &Asker{whom, o} }

// Verify refuses what cannot be asked about; all else is for Await.
func (a *Asker) Verify(token string) (Identity, error) {
	if token == "" || len(token) > MaxToken {
		return Identity{}, fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrRefused, len(token), MaxToken)
	}
	return Identity{}, fmt.Errorf("%w: %w", ErrRefused, ErrLater)
}

// Await asks.
func (a *Asker) Await(ctx context.Context, token string) (Identity, error) {
	if _, err := a.Verify(token); !errors.Is(err, ErrLater) {
		return Identity{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, hook.AskTimeout+time.Second) // its turn may be a while away
	defer cancel()
	now := time.Now() // a revocation that comes while the application answers covers it
	said, err := a.whom.Authenticate(ctx, token)
	if errors.Is(err, hook.ErrRefused) {
		return Identity{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return Identity{}, err
	}
	id := Identity{
		Bearer: proto.Bearer{User: said.User, Session: said.Session, Token: said.TokenID, Tenant: said.Tenant, Issued: now.UnixMilli()},
		Rooms:  a.o.Rooms, Publish: a.o.Publish, Expires: said.Expires, digest: digest(token),
	}
	if said.Issued > 0 {
		id.Issued = min(id.Issued, said.Issued*1000)
	}
	if latest := now.Add(a.o.MaxLifetime).Unix(); a.o.MaxLifetime > 0 && (id.Expires == 0 || id.Expires > latest) {
		id.Expires = latest
	}
	if id.Expires != 0 && id.Expires < now.Add(-Leeway).Unix() {
		return Identity{}, fmt.Errorf("%w: it has expired", ErrRefused)
	}
	if said.Rooms != nil {
		id.Rooms = *said.Rooms
	}
	if said.Publish != nil {
		id.Publish = *said.Publish
	}
	if err := id.check(); err != nil {
		return Identity{}, fmt.Errorf("the application's answer: %w", err)
	}
	return id, nil
}

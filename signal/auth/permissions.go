package auth

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// How permissions are asked for and kept.
const (
	permissionLife    = 5 * time.Minute  // of an answer that does not say
	permissionsMost   = 200_000          // kept; beyond it any other is forgotten
	permissionLeast   = 10 * time.Second // of an answer that has run out already: the join is under way
	permissionsTidied = 10 * time.Second // at most as often
)

// Permissions ask the application for the rooms that a token does not allow, all of a frame at
// once, and keep its yes for as long as it says, so that clients who come back cost it nothing:
//
//	→ {"userId": "cashier-7", "session"?: "…", "tenant"?: "…", "rooms": ["orders", "stock"]}
//	← {"rooms": ["orders"], "publish"?: ["orders"], "expires"?: <seconds since 1970>}
//
// What was not asked for is not granted. nil asks nobody and allows nothing.
type Permissions struct {
	whom hook.Rooms

	mu     sync.Mutex
	kept   map[permission]granted // guarded by mu
	tidy   int                    // guarded by mu: size of kept at which it is looked through
	tidied time.Time              // guarded by mu
	forgot int                    // guarded by mu: how often something was revoked
}

// A permission is a user's, as long as its session is the same; of a token there may be many.
type permission struct {
	user            proto.UserID
	session, tenant string
	room            proto.Room
}

type granted struct {
	until         int64 // nanoseconds since 1970
	join, publish bool
}

// NewPermissions returns Permissions that nobody has yet.
func NewPermissions(whom hook.Rooms) *Permissions {
	return &Permissions{whom: whom, kept: map[permission]granted{}}
}

func of(b proto.Bearer, r proto.Room) permission { return permission{b.User, b.Session, b.Tenant, r} }

func (p *Permissions) find(b proto.Bearer, r proto.Room) granted {
	if p == nil || b.User == "" {
		return granted{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.kept[of(b, r)]; g.until > time.Now().UnixNano() {
		return g
	}
	return granted{}
}

// Join says whether it is known that the bearer may join a room.
func (p *Permissions) Join(b proto.Bearer, r proto.Room) bool { return p.find(b, r).join }

// Publish says whether it is known that the bearer may publish to a room.
func (p *Permissions) Publish(b proto.Bearer, r proto.Room) bool { return p.find(b, r).publish }

// Ask asks which of the rooms the client may join, and returns those. An error means that the
// application does not say.
func (p *Permissions) Ask(ctx context.Context, id Identity, rooms []proto.Room) (allowed []proto.Room, err error) {
	ctx, cancel := context.WithTimeout(ctx, hook.RoomsTimeout)
	defer cancel()
	p.mu.Lock()
	forgot := p.forgot
	p.mu.Unlock()
	var said hook.Allowed
	switch said, err = p.whom.Allow(ctx, hook.Wanted{User: id.User, Session: id.Session, Tenant: id.Tenant, Rooms: rooms}); {
	case errors.Is(err, hook.ErrRefused):
		return nil, nil
	case err != nil:
		return nil, err
	case said.Rooms == nil:
		return nil, errors.New("rooms is missing in the application's answer")
	}
	now := time.Now()
	until := now.Add(permissionLife).UnixNano()
	if said.Expires != 0 {
		until = max(time.Unix(min(said.Expires, 1<<33), 0).UnixNano(), now.Add(permissionLeast).UnixNano())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if forgot != p.forgot {
		return nil, errors.New("something was revoked meanwhile")
	}
	p.tidyUp(now)
	for _, r := range rooms {
		g := granted{until, slices.Contains(*said.Rooms, r), slices.Contains(said.Publish, r)}
		if g.join {
			allowed = append(allowed, r)
		}
		if !g.join && !g.publish {
			continue
		}
		for other := range p.kept {
			if len(p.kept) < permissionsMost {
				break
			}
			delete(p.kept, other)
		}
		p.kept[of(id.Bearer, r)] = g
	}
	return allowed, nil
}

// Forget drops what revocations are about: the application is asked again.
func (p *Permissions) Forget(all []proto.Revocation) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgot++
	gone := map[proto.Revocation]bool{}
	for _, r := range all {
		gone[proto.Revocation{User: r.User, Session: r.Session, Tenant: r.Tenant, Room: r.Room}] = true
	}
	for of := range p.kept {
		if gone[proto.Revocation{User: of.user}] || gone[proto.Revocation{User: of.user, Room: of.room}] ||
			of.session != "" && gone[proto.Revocation{Session: of.session}] || of.tenant != "" && gone[proto.Revocation{Tenant: of.tenant}] {
			delete(p.kept, of)
		}
	}
}

// tidyUp forgets what has expired. It is called with mu held.
func (p *Permissions) tidyUp(at time.Time) {
	if len(p.kept) < max(p.tidy, 1<<10) || at.Sub(p.tidied) < permissionsTidied {
		return
	}
	now := at.UnixNano()
	p.tidied = at
	kept := map[permission]granted{} // anew: a map does not shrink
	for of, g := range p.kept {
		if g.until > now {
			kept[of] = g
		}
	}
	p.kept, p.tidy = kept, min(2*len(kept), permissionsMost)
}

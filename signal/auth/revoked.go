package auth

import (
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
)

// Revoked is what has been taken back: a token that is shown later is judged by it. It is asked
// with each token and with each room, and knows each kind by its name, so a long list costs no
// more than a short one.
//
// A node that lets a client in, or into a room, first makes that known to whoever goes through
// its clients when something is revoked, and then asks Revoked: so one of both sees the other
// (TestRevokedMeanwhile).
type Revoked struct {
	mu    sync.RWMutex
	named map[proto.Revocation]proto.Revocation // guarded by mu: by whom they name; the latest of each
	rooms map[proto.UserID]int                  // guarded by mu: of how many rooms of a user
}

// Add takes note of revocations, and returns those that it did not know.
func (r *Revoked) Add(all []proto.Revocation) (fresh []proto.Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.named == nil {
		r.named, r.rooms = map[proto.Revocation]proto.Revocation{}, map[proto.UserID]int{}
	}
	for _, one := range all {
		key := one
		key.Reason, key.At = "", 0
		latest, known := r.named[key]
		if !known && one.Room != "" {
			r.rooms[one.User]++
		}
		if !known || one.At > latest.At {
			r.named[key] = one
			fresh = append(fresh, one)
		}
	}
	return fresh
}

// All are those that are known.
func (r *Revoked) All() (all []proto.Revocation) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, one := range r.named {
		all = append(all, one)
	}
	return all
}

// Forget drops what was revoked before a moment: no token that lives is as old.
func (r *Revoked) Forget(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, one := range r.named {
		if one.At >= before.UnixMilli() {
			continue
		}
		if delete(r.named, key); key.Room != "" {
			if r.rooms[key.User]--; r.rooms[key.User] == 0 {
				delete(r.rooms, key.User)
			}
		}
	}
}

// Judge says whether the bearer may be connected no more, and why.
func (r *Revoked) Judge(b proto.Bearer) (reason string, revoked bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.named) == 0 {
		return "", false
	}
	for _, name := range [...]proto.Revocation{{User: b.User}, {Session: b.Session}, {Token: b.Token}, {Tenant: b.Tenant}} {
		if one, known := r.named[name]; known && name != (proto.Revocation{}) && one.Covers(b) {
			return one.Reason, true
		}
	}
	return "", false
}

// Room says whether the bearer may be in a room no more.
func (r *Revoked) Room(b proto.Bearer, room proto.Room) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.rooms[b.User] == 0 {
		return false
	}
	one, known := r.named[proto.Revocation{User: b.User, Room: room}]
	return known && one.Covers(b)
}

// Size is how many revocations are known.
func (r *Revoked) Size() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.named)
}

package session

import (
	"sync"

	"github.com/signal-team/signal/proto"
)

// users know what all connections of a user, or of a tenant, do together on this node.
type users struct {
	mu          sync.Mutex
	connections map[proto.UserID]int32 // guarded by mu
	publishes   map[string]Bucket      // guarded by mu: of a user, or of a tenant behind a NUL
	tidy        int                    // guarded by mu: size of publishes at which it is looked through
}

// tidyAt is how many are kept in publishes before those are forgotten that publish no more.
const tidyAt = 1 << 10

// enter says whether a user may have one more connection. If so, leave ends it.
func (s *Session) enter(user proto.UserID) bool {
	most := s.o.Limits.UserConnections
	if most == 0 || user == "" {
		return true
	}
	u := &s.o.users
	u.mu.Lock()
	if u.connections == nil {
		u.connections = map[proto.UserID]int32{}
	}
	u.connections[user]++
	beyond := int(u.connections[user]) > most
	u.mu.Unlock()
	if beyond && s.over("user_connections") {
		s.leaves(user)
		return false
	}
	return true
}

func (s *Session) leaves(user proto.UserID) {
	if s.o.Limits.UserConnections == 0 || user == "" {
		return
	}
	u := &s.o.users
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.connections[user]--; u.connections[user] == 0 {
		delete(u.connections, user)
	}
}

// publishesTooOften answers a publish that is beyond the rate of its user or tenant.
func (s *Session) publishesTooOften(who proto.Bearer, ref string) bool {
	for _, of := range [...]struct {
		limit, key string
		rate       Rate
	}{
		{"user_publishes", string(who.User), s.o.Limits.UserPublishes},
		{"tenant_publishes", "\x00" + who.Tenant, s.o.Limits.TenantPublishes},
	} {
		if of.key == "" || of.key == "\x00" || of.rate.PerSecond == 0 || s.o.users.publish(of.key, of.rate, Clock()) || !s.over(of.limit) {
			continue
		}
		s.limited(of.limit, of.rate, ref)
		return true
	}
	return false
}

func (u *users) publish(key string, r Rate, now int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	b, known := u.publishes[key]
	if !known && len(u.publishes) >= max(u.tidy, tidyAt) {
		kept := map[string]Bucket{} // anew: a map does not shrink
		for key, b := range u.publishes {
			if !b.Full(now) {
				kept[key] = b
			}
		}
		u.publishes, u.tidy = kept, 2*len(kept)
	}
	if u.publishes == nil {
		u.publishes = map[string]Bucket{}
	}
	allowed := b.Allow(r, now)
	u.publishes[key] = b
	return allowed
}

package session

import (
	"sync"

	"github.com/signal-team/signal/proto"
)

// users know what all connections of a user, or of a tenant, do together on this node.
type users struct {
	rates

	mu          sync.Mutex
	connections map[proto.UserID]int32 // guarded by mu
}

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

// publishesTooOften answers a publish, or an event of the client's own, of so many bytes that is beyond a rate of
// its user or tenant.
func (s *Session) publishesTooOften(who proto.Bearer, bytes int, ref string) bool {
	l := &s.o.Limits
	for _, of := range [...]struct {
		spending
		rate Rate
		n    int
	}{
		{spending{limitUserPublishes, string(who.User)}, l.UserPublishes, 1},
		{spending{limitTenantPublishes, who.Tenant}, l.TenantPublishes, 1},
		{spending{limitUserPublishBytes, string(who.User)}, l.UserPublishBytes, bytes},
		{spending{limitTenantPublishBytes, who.Tenant}, l.TenantPublishBytes, bytes},
	} {
		if !s.o.users.take(of.spending, of.rate, of.n) && s.over(of.what) {
			s.fail(proto.CodeRateLimited, of.what+": "+of.rate.String(), ref) // which somebody else may have used up
			return true
		}
	}
	return false
}

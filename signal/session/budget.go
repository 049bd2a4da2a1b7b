package session

import (
	"slices"
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
)

// A spending is what somebody does who has a rate for it on this node: a user, a tenant or an address.
type spending struct {
	what string // the limit
	who  string
}

// The limits of users, tenants and addresses, as the operator reads them in signal_limited_total.
const (
	limitUserPublishes      = "user_publishes"
	limitTenantPublishes    = "tenant_publishes"
	limitUserPublishBytes   = "user_publish_bytes"
	limitTenantPublishBytes = "tenant_publish_bytes"
	limitRequests           = "requests"
	limitAddressRequests    = "address_requests"
	limitRequestsUnderWay   = "requests_under_way"
	limitReplayBytes        = "replay_bytes"
)

// rates are the buckets of all of them.
type rates struct {
	mu      sync.Mutex
	buckets map[spending]Bucket // guarded by mu
	tidy    int                 // guarded by mu: size at which it is looked through
}

// tidyAt is how many buckets are kept before those are forgotten of whom nothing is to be remembered.
const tidyAt = 1 << 10

// change lets f work on the bucket of somebody.
func (r *rates) change(s spending, now int64, f func(*Bucket)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, known := r.buckets[s]
	if !known && len(r.buckets) >= max(r.tidy, tidyAt) {
		kept := map[spending]Bucket{} // anew: a map does not shrink
		for s, b := range r.buckets {
			if !b.Full(now) {
				kept[s] = b
			}
		}
		r.buckets, r.tidy = kept, 2*len(kept)
	}
	if r.buckets == nil {
		r.buckets = map[spending]Bucket{}
	}
	f(&b)
	r.buckets[s] = b
}

// take reports whether n more are within the rate.
func (r *rates) take(s spending, rate Rate, n int) (within bool) {
	if rate.PerSecond <= 0 || s.who == "" {
		return true
	}
	now := Clock()
	r.change(s, now, func(b *Bucket) { within = b.AllowN(rate, now, n) })
	return within
}

// spend takes note of n that nobody could foresee, and returns how long it takes until what is beyond
// the rate is paid off.
func (r *rates) spend(s spending, rate Rate, n int) (debt time.Duration) {
	if rate.PerSecond <= 0 || s.who == "" {
		return 0
	}
	now := Clock()
	r.change(s, now, func(b *Bucket) { debt = b.Spend(rate, now, n) })
	return debt
}

// The most requests of a user, and of all, that are answered at the same time. A history may take a minute.
const (
	userRequests, allRequests = 8, 256
	userReplays, allReplays   = 2, 32
)

// requests are those that are being answered.
type requests struct {
	mu   sync.Mutex
	of   map[proto.UserID]int // guarded by mu
	here int                  // guarded by mu
}

func (r *requests) enter(u proto.UserID, ofUser, all int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.here >= all || u != "" && r.of[u] >= ofUser {
		return false
	}
	if r.of == nil {
		r.of = map[proto.UserID]int{}
	}
	r.here++
	r.of[u]++
	return true
}

func (r *requests) leave(u proto.UserID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.here--
	if r.of[u]--; r.of[u] == 0 {
		delete(r.of, u)
	}
}

// AdmitAddress names the limit that a request from an address is beyond, before its token is looked at; empty
// is none.
func (o *Options) AdmitAddress(at string) (limit string) {
	if !o.users.take(spending{limitAddressRequests, at}, o.Limits.AddressRequests, 1) && o.Over(limitAddressRequests) {
		return limitAddressRequests
	}
	return ""
}

// AdmitUser names the limit that a user's request is beyond; history is one that may take long. If there is none, it
// is being answered until done is called.
func (o *Options) AdmitUser(u proto.UserID, history bool) (done func(), limit string) {
	if !o.users.take(spending{limitRequests, string(u)}, o.Limits.Requests, 1) && o.Over(limitRequests) {
		return nil, limitRequests
	}
	under, ofUser, all := &o.requests, userRequests, allRequests
	if history {
		under, ofUser, all = &o.replays, userReplays, allReplays
	}
	switch {
	case o.Limits.Requests.PerSecond <= 0:
	case under.enter(u, ofUser, all):
		return func() { under.leave(u) }, ""
	case o.Over(limitRequestsUnderWay):
		return nil, limitRequestsUnderWay
	}
	return func() {}, ""
}

// Replayed takes note of history that a user has been given, and returns how long it must wait for more.
func (o *Options) Replayed(u proto.UserID, bytes int) time.Duration {
	debt := o.users.spend(spending{limitReplayBytes, string(u)}, o.Limits.ReplayBytes, bytes)
	if debt > 0 && !o.Over(limitReplayBytes) {
		return 0
	}
	return debt
}

// A backlog is what waits on a node for somebody else, Redis or the application, of all clients: it is bounded
// in number and in bytes, and one user has an eighth of the bytes at most.
type backlog struct {
	mu     sync.Mutex
	events int                  // guarded by mu
	bytes  int                  // guarded by mu
	of     map[proto.UserID]int // guarded by mu: bytes
}

// The most that a backlog holds; what comes then is refused at once.
const (
	backlogEvents = 4096
	backlogBytes  = 16 << 20
	backlogUser   = backlogBytes / 8
)

// eventCost is what an event that waits costs beside its data.
const eventCost = 512

func (b *backlog) enter(u proto.UserID, size int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	size += eventCost
	if b.events >= backlogEvents || b.bytes+size > backlogBytes || u != "" && b.of[u]+size > backlogUser {
		return false
	}
	if b.of == nil {
		b.of = map[proto.UserID]int{}
	}
	b.events++
	b.bytes += size
	b.of[u] += size
	return true
}

func (b *backlog) leave(u proto.UserID, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size += eventCost
	b.events--
	b.bytes -= size
	if b.of[u] -= size; b.of[u] == 0 {
		delete(b.of, u)
	}
}

// anySince reports whether one of the rooms is to be gone on with from a position.
func anySince(asked []proto.JoinRoom) bool {
	return slices.ContainsFunc(asked, func(a proto.JoinRoom) bool { return a.Since != "" })
}

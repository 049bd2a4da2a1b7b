package transport

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/signal-team/signal/signal/session"
)

// visitors bound what comes from one address before it has told who it is: handshakes, and
// connections that are not authenticated yet. An IPv6 address counts by its /64, which is what
// one customer has.
type visitors struct {
	limits  *session.Limits
	trusted []netip.Prefix // proxies, whose word on the client's address counts
	log     *zap.Logger
	unlist  sync.Once // a proxy that is not among trusted was warned of

	mu    sync.Mutex
	from  map[netip.Addr]*visitor // guarded by mu
	early int                     // guarded by mu: connections of this node that are not authenticated
	tidy  int                     // guarded by mu: size of from at which it is looked through
}

// A visitor is an address that has been heard of lately.
type visitor struct {
	handshakes session.Bucket // guarded by visitors.mu
	early      int            // guarded by visitors.mu: its connections that are not authenticated
}

// The limits by which a handshake may be refused, as the operator reads them in signal_limited_total.
const (
	limitHandshakes   = "handshakes"
	limitAddressEarly = "address_early"
	limitEarly        = "early"
	limitConnections  = "connections"
)

// tidyAt is how many addresses are kept before those are forgotten that are not heard of any more.
const tidyAt = 1 << 10

// enter takes note of a handshake, and names the limit that it is beyond. It is counted as a
// connection that is not authenticated all the same, until forget.
func (v *visitors) enter(at netip.Addr, now int64) (who *visitor, limit string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	who = &visitor{} // of an address that nobody knows
	if at.IsValid() {
		if known := v.from[at]; known != nil {
			who = known
		} else {
			v.tidyUp(now)
			v.from[at] = who
		}
	}
	if most := v.limits.Early; most > 0 && v.early >= most {
		limit = limitEarly
	}
	if most := v.limits.AddressEarly; at.IsValid() && most > 0 && who.early >= most {
		limit = limitAddressEarly
	}
	if at.IsValid() && !who.handshakes.Allow(v.limits.Handshakes, now) {
		limit = limitHandshakes
	}
	who.early++
	v.early++
	return who, limit
}

// ask takes note of a question that costs as much as a handshake, and says whether it is within the
// limit.
func (v *visitors) ask(at netip.Addr, now int64) bool {
	who, limit := v.enter(at, now)
	v.forget(who)
	return limit != limitHandshakes
}

// forget says that a connection is authenticated, or is not to be.
func (v *visitors) forget(who *visitor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	who.early--
	v.early--
}

// tidyUp forgets addresses of which nothing is to be remembered. It is called with mu held.
func (v *visitors) tidyUp(now int64) {
	if v.from == nil {
		v.from = map[netip.Addr]*visitor{}
	}
	if len(v.from) < max(v.tidy, tidyAt) {
		return
	}
	kept := map[netip.Addr]*visitor{} // anew: a map does not shrink
	for at, who := range v.from {
		if who.early > 0 || !who.handshakes.Full(now) {
			kept[at] = who
		}
	}
	v.from, v.tidy = kept, 2*len(kept)
}

// address is the client's: the peer's, or what trusted proxies say. They write down whom they
// hear at the right end of X-Forwarded-For, so the right-most address that is not one of them
// counts, and nothing that stands left of it, which anybody can have written. It is not valid
// behind a proxy that is not listed: all its clients would share one address's limits.
func (v *visitors) address(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if !v.trusts(at) {
		if hops[0] != "" && len(v.trusted) == 0 && (at.IsLoopback() || at.IsPrivate()) {
			v.unlist.Do(func() {
				v.log.Warn("limits by address are off for clients of a proxy that APP_ENV_SIGNAL_TRUSTED_PROXIES does not list",
					zap.Stringer("proxy", at))
			})
			return netip.Addr{}
		}
		return network(at)
	}
	for _, hop := range slices.Backward(hops) {
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break // nobody's word
		}
		if at = next.Unmap(); !v.trusts(at) {
			break
		}
	}
	return network(at)
}

func (v *visitors) trusts(at netip.Addr) bool {
	return slices.ContainsFunc(v.trusted, func(p netip.Prefix) bool { return p.Contains(at) })
}

// network is the address, or the /64 of one of IPv6.
func network(at netip.Addr) netip.Addr {
	if at.Is6() {
		return netip.PrefixFrom(at.WithZone(""), 64).Masked().Addr()
	}
	return at
}

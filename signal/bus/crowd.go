package bus

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// Rooms with members on this node, for who is told which rooms are occupied. Redis knows which nodes have
// some: whoever is the first, or was the last, tells. A node that is killed tells nothing; its rooms are
// told of as occupied again when somebody comes (TestNotices).
const (
	crowdEvery = 250 * time.Millisecond
	crowdAgain = time.Second // after Redis has failed
	crowdRenew = time.Minute // should Redis lose what it knows
)

type crowd struct {
	mu    sync.Mutex
	rooms map[proto.Room]*presence // guarded by mu
}

// A presence is a room that has members here, or had some until a moment ago.
type presence struct {
	members int       // guarded by crowd.mu: calls of enters less those of leaves
	empty   time.Time // guarded by crowd.mu: since when there are none
	said    time.Time // guarded by crowd.mu: when Redis was last told; zero: not yet
}

func (c *crowd) enters(r proto.Room) {
	if r.Check() != nil { // a user's, or everyone's
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rooms == nil {
		c.rooms = map[proto.Room]*presence{}
	}
	p := c.rooms[r]
	if p == nil {
		p = &presence{}
		c.rooms[r] = p
	}
	p.members++
}

func (c *crowd) leaves(r proto.Room, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.rooms[r]; p != nil {
		if p.members--; p.members == 0 {
			p.empty = now
		}
	}
}

// changed are the rooms that Redis is to be told of: those that have members since a moment ago, or for
// so long that Redis may forget it, and those that have none any more for a while, or at all.
func (c *crowd) changed(now time.Time, all bool) (has, hasNone []proto.Room) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, p := range c.rooms {
		switch {
		case all && !p.said.IsZero(), p.members == 0 && now.Sub(p.empty) >= linger:
			hasNone = append(hasNone, r)
		case p.members > 0 && now.Sub(p.said) >= crowdRenew:
			has = append(has, r)
		}
	}
	return has, hasNone
}

// said notes that Redis knows, and says whether that is news.
func (c *crowd) said(r proto.Room, has bool, now time.Time) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.rooms[r]
	if p == nil {
		return false
	}
	news = p.said.IsZero() == has
	if p.said = now; has {
		return news
	}
	if p.said = (time.Time{}); p.members == 0 {
		delete(c.rooms, r)
	}
	return news
}

// tellCrowds tells Redis, and whoever is to be told, until ctx ends; then that this node has nobody any
// more.
func (b *Bus) tellCrowds(ctx context.Context) {
	if b.notices == nil {
		return
	}
	every := time.NewTicker(crowdEvery)
	defer every.Stop()
	for {
		select {
		case now := <-every.C:
			has, hasNone := b.crowd.changed(now, false)
			left, came := b.occupy(ctx, hasNone, false), b.occupy(ctx, has, true)
			if !left || !came {
				wait(ctx, crowdAgain)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), crowdAgain/2)
			defer cancel()
			_, hasNone := b.crowd.changed(time.Now(), true)
			b.occupy(last, hasNone, false)
			return
		}
	}
}

// occupy tells of rooms that have members on this node, or none any more.
func (b *Bus) occupy(ctx context.Context, rooms []proto.Room, has bool) (ok bool) {
	live := b.live.Load()
	if live == nil {
		return true // nobody knows yet whose word counts
	}
	kind := hook.Vacated
	if has {
		kind = hook.Occupied
	}
	ok = true
	for some := range slices.Chunk(rooms, batch) {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		crowds := b.emitter.Occupy(bounded, b.node, some, has, *live)
		cancel()
		for i, c := range crowds {
			if c.Err != nil { // it is asked again
				if ok && ctx.Err() == nil {
					b.log.Warn("whether rooms are occupied is not known", zap.Error(c.Err))
				}
				ok = false
				continue
			}
			if b.crowd.said(some[i], has, time.Now()) && (has && c.Earlier == 0 || !has && c.Others == 0) {
				b.notices.Add(hook.Notice{Kind: kind, Time: c.Time, Room: some[i]})
			}
		}
	}
	return ok
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// The canary is an event that a node publishes every second and hears itself, through each
// master. A connection may be alive and attached to a server to which nothing is published
// any more, and a node may have the right to listen and not to publish: only what has made
// the whole way shows that it is open. When nothing of it comes for some seconds the
// connection is given up (TestStaleConnection).
const (
	canaryEvery  = time.Second
	canaryLate   = time.Second     // and is counted
	canarySilent = 4 * time.Second // since the last one, or since the connection
)

// A canary is that of one connection.
type canary struct {
	off    bool          // nothing of ours is published where it would be
	astray chan struct{} // holds one: it needs another channel
	awake  chan struct{} // holds one: its channel is heard
	name   atomic.Value  // string: of its channel; the reader of the connection looks at it for each message

	mu    sync.Mutex
	up    bool      // guarded by mu: the channel is heard
	sung  int       // guarded by mu: the last one that was published
	since time.Time // guarded by mu: when that was
	last  time.Time // guarded by mu: when one was heard
	came  bool      // guarded by mu: one has been
	asked time.Time // guarded by mu: when next was last called
	why   error     // guarded by mu: the last one was not published
}

func (c *canary) init(off bool) {
	c.off, c.astray, c.awake = off, make(chan struct{}, 1), make(chan struct{}, 1)
}

// reset begins with a new connection.
func (c *canary) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up, c.came, c.last, c.why = false, false, time.Now(), nil
}

// channel is "" before it has one.
func (c *canary) channel() string {
	name, _ := c.name.Load().(string)
	return name
}

// alive says whether one has been heard on this connection.
func (c *canary) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.came || c.off
}

// perched says that its channel is heard.
func (c *canary) perched() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	signal(c.awake)
}

// lost says that the slot of its channel has moved.
func (c *canary) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = false
	signal(c.astray)
}

// again lets it have another channel if the one it has asked for was refused.
func (c *canary) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.off && !c.up && c.channel() != "" {
		signal(c.astray)
	}
}

// heard takes the n-th one.
func (c *canary) heard(n string, m *metrics) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.came, c.last = true, now; n != strconv.Itoa(c.sung) {
		return // that one is counted as late
	}
	m.canary.Observe(now.Sub(c.since).Seconds())
}

// next is the one to be published now, if the channel is heard, or an error when nothing
// has come for too long.
func (c *canary) next(m *metrics) (n int, ready bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.asked) > pausedAfter { // this process stood still: nothing was published that could have come
		c.last = now
	}
	c.asked = now
	if silent := now.Sub(c.last); silent > canaryLate+canaryEvery {
		if m.late.Inc(); silent > canarySilent {
			return 0, false, errors.Join(fmt.Errorf("%w for %v", errDeaf, silent.Round(time.Second)), c.why)
		}
	}
	if !c.up {
		return 0, false, nil
	}
	c.sung++
	c.since = now
	return c.sung, true, nil
}

var errDeaf = errors.New("nothing of what is published comes")

func (c *canary) published(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why = err
}

// perch gives the canary a channel that this server has.
func (l *link) perch(ctx context.Context, ps *redis.PubSub) error {
	if l.canary.off {
		return nil
	}
	b := l.bus
	for n := range 10_000 {
		room := proto.CanaryRoom(b.node, n)
		addr, err := b.emitter.Master(ctx, room)
		if err != nil {
			return err
		}
		if addr != l.addr {
			continue
		}
		name := b.layout.Channel(room)
		l.canary.name.Store(name)
		return l.counts().subscribe(ps, ctx, name)
	}
	return fmt.Errorf("%s has no slot any more", l.addr)
}

// sing publishes the canary until ctx ends, or nothing of it comes.
func (l *link) sing(ctx context.Context) error {
	if l.canary.off {
		<-ctx.Done()
		return nil
	}
	every := time.NewTicker(canaryEvery)
	defer every.Stop()
	for {
		select {
		case <-l.canary.awake:
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
		n, ready, err := l.canary.next(l.bus.metrics)
		if err != nil {
			return err
		}
		if ready {
			bounded, cancel := context.WithTimeout(ctx, canaryLate)
			l.canary.published(l.bus.emitter.Probe(bounded, l.canary.channel(), strconv.Itoa(n)))
			cancel()
		}
	}
}

// signal wakes whoever waits for c, now or later.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package hook

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
)

// How notices are told.
const (
	noticesMost  = 1 << 16 // that wait
	batch        = 256     // at most in one call
	gather       = 100 * time.Millisecond
	firstRetry   = 200 * time.Millisecond
	longRetry    = 10 * time.Second
	patience     = time.Minute     // with one call; then what is in it is given up
	comesBack    = 5 * time.Second // after its end a client that comes back has never gone
	remembers    = time.Minute     // that a client has come back: a dead connection is noticed late
	lastTry      = time.Second     // at the end of the node
	comesBackMax = noticesMost     // that are remembered
)

// An Outbox holds notices until the Observer has taken them, in their order. Nobody waits for it. nil tells
// nobody.
type Outbox struct {
	to      Observer
	dropped func(reason string, n int)                     // full, failed: what is never told
	back    func(proto.ClientID, proto.UserID) (here bool) // tells the node of a connection that its client has come back, unless that is this one
	log     *zap.Logger

	mu       sync.Mutex
	waiting  []Notice                    // guarded by mu
	ended    []Notice                    // guarded by mu: of clients that may come back, the earliest first
	returned map[proto.ClientID]comeback // guarded by mu: connections whose client has come back
	order    []proto.ClientID            // guarded by mu: of returned, the earliest first
}

// A comeback is when a client has come back, and whose it says it is: another user's is none.
type comeback struct {
	at   time.Time
	user proto.UserID
}

// NewOutbox tells an Observer, while Run runs. dropped gets how many notices are given up, and why; back
// gets connections whose client has come back, and says whether they were of this node.
func NewOutbox(to Observer, dropped func(reason string, n int), back func(proto.ClientID, proto.UserID) (here bool), log *zap.Logger) *Outbox {
	return &Outbox{to: to, dropped: dropped, back: back, log: log, returned: map[proto.ClientID]comeback{}}
}

// Connected tells that a client is there; if it says which connection it had before, that one's end is
// not told.
func (o *Outbox) Connected(n Notice) {
	if o == nil {
		return
	}
	n.Kind, n.Time = Connected, time.Now().UnixMilli()
	if n.Previous != "" && o.back(n.Previous, n.User) {
		o.Returned(n.Previous, n.User)
	}
	o.Add(n)
}

// Disconnected tells that a client has gone, unless it comes back within five seconds.
func (o *Outbox) Disconnected(n Notice) {
	if o == nil {
		return
	}
	now := time.Now()
	n.Kind, n.Time = Disconnected, now.UnixMilli()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.isBack(n) {
		return
	}
	if len(o.ended) >= comesBackMax {
		o.dropped("full", 1)
		return
	}
	o.ended = append(o.ended, n)
}

// isBack says whether the client of a connection that has ended has come back. It is called with mu held.
func (o *Outbox) isBack(n Notice) bool {
	back, is := o.returned[n.Client]
	return is && back.user == n.User
}

// Returned says that a user's client has come back, here or elsewhere, and which connection it had.
func (o *Outbox) Returned(id proto.ClientID, user proto.UserID) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.order) >= comesBackMax {
		o.forget()
	}
	if _, known := o.returned[id]; !known {
		o.order = append(o.order, id)
	}
	o.returned[id] = comeback{time.Now(), user}
}

// forget forgets the first that has come back. It is called with mu held.
func (o *Outbox) forget() {
	delete(o.returned, o.order[0])
	o.order = o.order[1:]
}

// Add tells of something.
func (o *Outbox) Add(n Notice) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.add(n)
}

// add is called with mu held.
func (o *Outbox) add(n Notice) {
	if len(o.waiting) >= noticesMost {
		o.dropped("full", 1)
		return
	}
	o.waiting = append(o.waiting, n)
}

// due lets wait those who have gone for long enough, or all; and forgets who has come back long ago.
func (o *Outbox) due(now time.Time, all bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.ended) > 0 && (all || now.UnixMilli()-o.ended[0].Time >= comesBack.Milliseconds()) {
		if !o.isBack(o.ended[0]) {
			o.add(o.ended[0])
		}
		o.ended = o.ended[1:]
	}
	for len(o.order) > 0 && now.Sub(o.returned[o.order[0]].at) >= remembers {
		o.forget()
	}
}

// next is what is told in one call.
func (o *Outbox) next() []Notice {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.waiting[:min(len(o.waiting), batch)])
}

// done says that the first n are told, or given up.
func (o *Outbox) done(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting = o.waiting[n:]; len(o.waiting) == 0 {
		o.waiting = nil // after many it is large
	}
}

// Settle waits until all who have gone have come back or are told of, or ctx ends: clients of a node that
// ends come back to others within seconds.
func (o *Outbox) Settle(ctx context.Context) error {
	if o == nil {
		return nil
	}
	tick := time.NewTicker(gather)
	defer tick.Stop()
	for o.awaits() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// awaits says whether somebody who has gone may come back.
func (o *Outbox) awaits() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.ended, func(n Notice) bool { return !o.isBack(n) })
}

// Run tells until ctx ends, then what is left, once.
func (o *Outbox) Run(ctx context.Context) error {
	if o == nil {
		return nil
	}
	tick := time.NewTicker(gather)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case now := <-tick.C:
			o.due(now, false)
		case <-ctx.Done():
		}
		for all := o.next(); len(all) > 0 && o.tell(ctx, all); all = o.next() {
			o.due(time.Now(), false)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	o.due(time.Time{}, true)
	for all := o.next(); len(all) > 0; all = o.next() {
		if err := o.to.Notice(last, all); err != nil {
			o.dropped("failed", len(all))
		}
		o.done(len(all))
	}
	return nil
}

// tell tries until the Observer has taken them, or for a minute. It is false if ctx ends before: then they
// wait on. A call that is under way is not cut: it may have been taken.
func (o *Outbox) tell(ctx context.Context, all []Notice) bool {
	began := time.Now()
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, longRetry) {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), MessageTimeout)
		stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastTry, cancel) })
		err := o.to.Notice(call, all)
		stop()
		cancel()
		late := time.Since(began) >= patience
		if err != nil && late {
			o.dropped("failed", len(all))
			o.log.Warn("notices given up", zap.Int("notices", len(all)), zap.Error(err))
		}
		if err == nil || late {
			o.done(len(all))
			return true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return false
}

package transport

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A trust lasts for a moment after somebody has said that no client of this node is revoked
// without its knowing. A process that stood still wakes up without it: nothing is written then
// until the log of revocations has been read (TestStopped). The clock is read before each
// write: an event that is on its way when the process stops must not go out when it wakes. A node
// that has not read the log since it started has no trust at all, and lets nobody in
// (TestStartsWithoutRedis).
type trust struct {
	until atomic.Int64 // clock; 0 while nobody has ever said so

	mu      sync.Mutex
	renewed chan struct{} // guarded by mu: closed with the next word; nil while nobody waits
}

// Trust says that for so long no client of this node is revoked without its knowing.
func (w *WebSocket) Trust(d time.Duration) { w.trust.renew(clock() + int64(d)) }

func (t *trust) renew(until int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until.Load() != forEver {
		t.until.Store(until)
	}
	if t.renewed != nil {
		close(t.renewed)
		t.renewed = nil
	}
}

// forEver is the trust of a node that ends: nobody waits any more.
const forEver = math.MaxInt64

// over says whether nothing may be written.
func (t *trust) over() bool { return t.until.Load() < clock() }

// begun reports whether anybody has ever said so.
func (t *trust) begun() bool { return t.until.Load() != 0 }

// wait returns when something may be written.
func (t *trust) wait() {
	for t.over() {
		t.mu.Lock()
		if t.renewed == nil {
			t.renewed = make(chan struct{})
		}
		renewed := t.renewed
		t.mu.Unlock()
		if !t.over() {
			return
		}
		<-renewed
	}
}

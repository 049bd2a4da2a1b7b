package bus

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// degradedAfter is when clients are told that Redis is away.
	degradedAfter = 3 * time.Second
	// unreadyAfter is when new clients shall go to another node.
	unreadyAfter = 10 * time.Second
	// remindAfter is how often the log says that Redis is still away.
	remindAfter = 30 * time.Second
)

// health is what the bus knows of its Redis, for the operator and for the clients.
type health struct {
	mu       sync.Mutex
	ever     bool          // guarded by mu: it has been up
	up       bool          // guarded by mu
	since    time.Time     // guarded by mu: when it was lost
	why      error         // guarded by mu: what the last try said
	said     time.Time     // guarded by mu: when the log was last told
	degraded bool          // guarded by mu: clients have been told
	away     time.Duration // guarded by mu: all interruptions that are over
}

// restored takes note that everything wanted is heard, and says how long it was not,
// and whether clients have been told.
func (h *health) restored(now time.Time) (away time.Duration, told bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ever {
		away = now.Sub(h.since)
		h.away += away
	}
	told = h.degraded
	h.ever, h.up, h.degraded, h.why = true, true, false, nil
	return away, told
}

// lost takes note of a connection or a try that failed. It says whether that ended a time
// when it was up, whether the log is to be told (of a new cause, and again from time to
// time) and whether clients are.
func (h *health) lost(now time.Time, err error) (interrupted, say, tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	interrupted = h.up
	if h.up || h.since.IsZero() {
		h.since = now
	}
	if say = h.up || h.why == nil || h.why.Error() != err.Error() || now.Sub(h.said) > remindAfter; say {
		h.said = now
	}
	h.up, h.why = false, err
	if tell = h.ever && !h.degraded && now.Sub(h.since) > degradedAfter; tell {
		h.degraded = true
	}
	return interrupted, say, tell
}

// wasUp says whether it has ever been up.
func (h *health) wasUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ever
}

// ready says why new clients should go to another node, or nil.
func (h *health) ready(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.up, h.ever && now.Sub(h.since) <= unreadyAfter:
		return nil
	case h.why == nil:
		return errors.New("no answer from Redis yet")
	case !h.ever:
		return fmt.Errorf("no Redis yet: %w", h.why)
	}
	return fmt.Errorf("no Redis for %s: %w", now.Sub(h.since).Round(time.Second), h.why)
}

// isUp is 1 while everything wanted is heard, for the metrics.
func (h *health) isUp() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up {
		return 1
	}
	return 0
}

// seconds without Redis so far.
func (h *health) seconds(now time.Time) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	away := h.away
	if h.ever && !h.up {
		away += now.Sub(h.since)
	}
	return away.Seconds()
}

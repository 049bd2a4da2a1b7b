package bus

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// degradedAfter is when clients are told that Redis is away.
	degradedAfter = 3 * time.Second
	// unreadyAfter is when new clients shall go to another node.
	unreadyAfter = 10 * time.Second
	// leaveAfter is when another server is tried, of those that are as good.
	leaveAfter = 2 * time.Second
	// remindAfter is how often the log says that Redis is still away.
	remindAfter = 30 * time.Second
)

// health is what the bus knows of its Redis, for the operator and for the clients. It is up
// while all its links are.
type health struct {
	mu       sync.Mutex
	ever     bool            // guarded by mu: it has been up
	down     map[*link]error // guarded by mu: what the last try said, nil before it
	since    time.Time       // guarded by mu: when the first of them was lost
	said     time.Time       // guarded by mu: when the log was last told
	degraded bool            // guarded by mu: clients have been told
	away     time.Duration   // guarded by mu: all interruptions that are over
}

// expect takes note of a link that is to come up.
func (h *health) expect(l *link, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.down, nil) // Redis has been reached
	h.fell(now)
	h.down[l] = nil
}

// fell is called with mu held, before something goes down.
func (h *health) fell(now time.Time) (wasUp bool) {
	if h.down == nil {
		h.down = map[*link]error{}
	}
	wasUp = len(h.down) == 0
	if wasUp && (h.ever || h.since.IsZero()) {
		h.since = now
	}
	return wasUp && h.ever
}

// restored takes note that a link hears all that it shall, or is needed no more. If all do
// now, it says how long that was not so, and whether clients have been told.
func (h *health) restored(l *link, now time.Time) (all bool, away time.Duration, told bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, down := h.down[l]; !down {
		return false, 0, false
	}
	if delete(h.down, l); len(h.down) > 0 {
		return false, 0, false
	}
	if h.ever {
		away = now.Sub(h.since)
		h.away += away
	}
	told = h.degraded
	h.ever, h.degraded = true, false
	return true, away, told
}

// lost takes note of a connection or a try that failed; of no link while Redis has not been
// reached. It says whether that ended a time when it was up, whether the log is to be told (of
// a new cause, and again from time to time) and whether clients are.
func (h *health) lost(l *link, now time.Time, err error) (interrupted, say, tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	interrupted = h.fell(now)
	why := h.down[l]
	if say = why == nil || cause(why) != cause(err) || now.Sub(h.said) > remindAfter; say {
		h.said = now
	}
	h.down[l] = err
	if tell = h.ever && !h.degraded && now.Sub(h.since) > degradedAfter; tell {
		h.degraded = true
	}
	return interrupted, say, tell
}

// cause is what an error says, without our own port: it is another one with each try.
func cause(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
		return op.Addr.String() + " " + op.Err.Error()
	}
	return err.Error()
}

// isUp is called with mu held.
func (h *health) isUp() bool { return h.ever && len(h.down) == 0 }

// failing says whether a link fails for so long that another server may be better.
func (h *health) failing(l *link, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down[l] != nil && now.Sub(h.since) > leaveAfter && now.Sub(l.made) > leaveAfter
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
	if h.isUp() || h.ever && now.Sub(h.since) <= unreadyAfter {
		return nil
	}
	var whys []error
	for l, why := range h.down {
		switch {
		case why == nil:
		case l == nil:
			whys = append(whys, why)
		default:
			whys = append(whys, fmt.Errorf("%s: %w", l.addr, why))
		}
	}
	switch {
	case len(whys) == 0:
		return errors.New("no answer from Redis yet")
	case !h.ever:
		return fmt.Errorf("no Redis yet: %w", errors.Join(whys...))
	}
	return fmt.Errorf("no Redis for %s: %w", now.Sub(h.since).Round(time.Second), errors.Join(whys...))
}

// links is how many servers are listened to that do not answer, for the metrics.
func (h *health) links() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return float64(len(h.down))
}

// up is 1 while everything wanted is heard, for the metrics.
func (h *health) up() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isUp() {
		return 1
	}
	return 0
}

// seconds without Redis so far.
func (h *health) seconds(now time.Time) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	away := h.away
	if h.ever && len(h.down) > 0 {
		away += now.Sub(h.since)
	}
	return away.Seconds()
}

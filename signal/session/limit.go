package session

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
)

// A Rate is how often something may happen in the long run, and how much of it at once. The zero
// one is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) String() string { return fmt.Sprintf("%g a second, %d at once", r.PerSecond, r.Burst) }

// Limits bound what one client may ask for. 0 is no limit. README.md has their variables.
type Limits struct {
	RoomsPerFrame int  // names in one join or leave
	Rooms         int  // of one connection, its default rooms not counted
	Frames        Rate // of any kind: who sends more is ended
	Joins         Rate // frames
	Publishes     Rate
	Errors        Rate // that are the client's fault: who makes more is ended
	EarlyFrames   int  // before it is authenticated
	EarlyBytes    int  // of one of these

	DryRun bool // who is beyond a limit is counted and logged, and goes on
}

// DefaultLimits are 200 rooms, on a connection (S4-082) and in a frame, and the rates of
// RELIABILITY 4.1.
var DefaultLimits = Limits{
	RoomsPerFrame: 200, Rooms: 200, Frames: Rate{50, 100}, Joins: Rate{20, 100}, Publishes: Rate{50, 100}, Errors: Rate{10.0 / 60, 10},
	EarlyFrames: 4, EarlyBytes: 8 << 10,
}

// A bucket is when the last of what was let through would have come, had it come evenly
// (the generic cell rate algorithm of ATM): nanoseconds since 1970.
type bucket int64

// allow says whether one more is within the rate.
func (b *bucket) allow(r Rate, now int64) bool {
	if r.PerSecond <= 0 {
		return true
	}
	each := int64(float64(time.Second) / r.PerSecond)
	at := max(int64(*b), now)
	if at-now > each*int64(r.Burst-1) {
		return false
	}
	*b = bucket(at + each)
	return true
}

// tooOften answers a frame that is beyond a rate.
func (s *Session) tooOften(b *bucket, r Rate, limit, ref string) bool {
	if b.allow(r, time.Now().UnixNano()) || !s.over(limit) {
		return false
	}
	s.fail(proto.CodeRateLimited, limit+": "+r.String(), ref)
	return true
}

// over takes note that a client is beyond a limit, and says whether that is to be held against it.
func (s *Session) over(limit string) bool {
	s.o.Metrics.limited.WithLabelValues(limit).Inc()
	if s.o.Limits.DryRun {
		who, _ := s.who()
		s.log(who.User).Info("limit exceeded", zap.String("limit", limit))
	}
	return !s.o.Limits.DryRun
}

// tooMany says whether the connection is ended for a frame: for its size or number before it is
// authenticated, or for coming too fast.
func (s *Session) tooMany(b []byte, now int64) bool {
	l := &s.o.Limits
	if s.client.Load() == nil {
		if s.early++; l.EarlyFrames > 0 && int(s.early) > l.EarlyFrames && s.over("early_frames") {
			s.conn.End(proto.CloseBadRequests)
			return true
		}
		if l.EarlyBytes > 0 && len(b) > l.EarlyBytes && s.over("early_bytes") {
			s.conn.End(proto.CloseTooBig)
			return true
		}
	}
	if !s.frames.allow(l.Frames, now) && s.over("frames") {
		s.conn.End(proto.CloseRate)
		return true
	}
	return false
}

// wrong takes note of a mistake of the client's, and ends it after too many.
func (s *Session) wrong() {
	if !s.rarely().errors.allow(s.o.Limits.Errors, time.Now().UnixNano()) && s.over("errors") {
		s.conn.End(proto.CloseBadRequests)
	}
}

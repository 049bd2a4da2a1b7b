package session

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
)

// A Rate is how often something may happen in the long run, and how much of it at once. The zero
// one is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) String() string { return fmt.Sprintf("%g a second, %d at once", r.PerSecond, r.Burst) }

// Limits bound what clients may ask for. 0 is no limit. README.md has their variables.
type Limits struct {
	RoomsPerFrame int  // names in one join or leave
	Rooms         int  // of one connection, its default rooms not counted
	Frames        Rate // of any kind: who sends more is ended
	Joins         Rate // frames
	Publishes     Rate
	Controls      Rate // pings and pongs: who sends more is ended
	Errors        Rate // that are the client's fault: who makes more is ended
	EarlyFrames   int  // before it is authenticated
	EarlyBytes    int  // of one of these

	PublishBytes Rate // of the data of its publishes and its own events

	UserConnections    int  // of one user, on this node
	UserPublishes      Rate // of all of them
	UserPublishBytes   Rate
	TenantPublishes    Rate // of all connections of one tenant, on this node
	TenantPublishBytes Rate

	Requests        Rate // over HTTP, of a user
	AddressRequests Rate // of an address
	ReplayBytes     Rate // of history that a user is given, over HTTP and by joins

	Handshakes   Rate // of one address
	AddressEarly int  // connections of one address that are not authenticated
	Early        int  // of all addresses
	Connections  int  // of this node

	DryRun bool // who is beyond a limit is counted and logged, and goes on
}

// Clock is nanoseconds since the start, which nobody can set.
func Clock() int64 { return int64(time.Since(began)) }

var began = time.Now()

// A Bucket is when the last of what was let through would have come, had it come evenly
// (the generic cell rate algorithm of ATM), by Clock.
type Bucket int64

// Allow says whether one more is within the rate.
func (b *Bucket) Allow(r Rate, now int64) bool { return b.AllowN(r, now, 1) }

// AllowN is Allow for n at once; more than the burst count as the burst.
func (b *Bucket) AllowN(r Rate, now int64, n int) bool {
	if r.PerSecond <= 0 {
		return true
	}
	n = min(n, r.Burst)
	at := max(int64(*b), now)
	if at-now > r.lasts(r.Burst-n) {
		return false
	}
	*b = Bucket(at + r.lasts(n))
	return true
}

// Spend takes n, within the rate or not, and returns how long it takes until it is within it: not longer than
// two bursts take, however much it is.
func (b *Bucket) Spend(r Rate, now int64, n int) time.Duration {
	at := min(max(int64(*b), now)+r.lasts(n), now+r.lasts(3*r.Burst))
	*b = Bucket(at)
	return time.Duration(max(at-now-r.lasts(r.Burst), 0))
}

// lasts is in how many nanoseconds n come.
func (r Rate) lasts(n int) int64 { return int64(float64(n) * float64(time.Second) / r.PerSecond) }

// Full says whether a new one would do as well.
func (b *Bucket) Full(now int64) bool { return int64(*b) <= now }

// tooOften answers a frame that is beyond a rate.
func (s *Session) tooOften(b *Bucket, r Rate, limit, ref string) bool {
	return s.tooMuch(b, r, 1, limit, ref)
}

// tooMuch is tooOften for n at once.
func (s *Session) tooMuch(b *Bucket, r Rate, n int, limit, ref string) bool {
	if b.AllowN(r, Clock(), n) || !s.over(limit) {
		return false
	}
	s.limited(limit, r, ref)
	return true
}

// refusalsFor is how many refusals a client has for each mistake that it has: to be too fast is no
// mistake, but who never listens costs the node an answer each time.
const refusalsFor = 10

// limited answers a frame that is beyond a rate, and ends a client that goes on for long.
func (s *Session) limited(limit string, r Rate, ref string) {
	s.fail(proto.CodeRateLimited, limit+": "+r.String(), ref)
	seldom, most := s.seldom(), s.o.Limits.Errors
	most = Rate{most.PerSecond * refusalsFor, most.Burst * refusalsFor}
	s.mu.Lock()
	allowed := seldom.refusals.Allow(most, Clock())
	s.mu.Unlock()
	if !allowed && s.over("refusals") {
		s.endFor("refusals", most.String(), proto.CloseRate)
	}
}

// over takes note that a client is beyond a limit, and says whether that is to be held against it.
func (s *Session) over(limit string) bool {
	who, _ := s.who()
	return s.o.Over(limit, zap.String("client_id", string(s.id)), zap.String("user_id", string(who.User)))
}

// Over takes note that somebody is beyond a limit, and says whether that is to be held against
// them.
func (o *Options) Over(limit string, who ...zap.Field) bool {
	o.Metrics.limited.WithLabelValues(limit).Inc()
	if o.Limits.DryRun {
		o.Log.Info("limit exceeded", append(who, zap.String("limit", limit))...)
	}
	return !o.Limits.DryRun
}

// Refused takes note that a token was refused, or that nobody can judge it, which is worse.
func (o *Options) Refused(err error, who ...zap.Field) {
	o.Metrics.refused.Inc()
	say, what := o.Log.Info, "authentication refused"
	if _, bad := errors.AsType[*proto.FrameError](err); !bad && !errors.Is(err, auth.ErrRefused) {
		say, what = o.Log.Warn, "nobody can say what a token is worth"
	}
	say(what, append(who, zap.Error(err))...)
}

// tooMany says whether the connection is ended for a frame: for their number before it is authenticated,
// or for coming too fast.
func (s *Session) tooMany(b []byte, now int64) bool {
	l := &s.o.Limits
	if s.client.Load() == nil {
		if s.early++; l.EarlyFrames > 0 && int(s.early) > l.EarlyFrames && s.over("early_frames") {
			s.endFor("early_frames", fmt.Sprint(l.EarlyFrames), proto.CloseBadRequests)
			return true
		}
	}
	if l.DryRun && s.client.Load() == nil && l.EarlyBytes > 0 && len(b) > l.EarlyBytes {
		s.over("early_bytes") // which is judged by its header else: MessageBytes
	}
	if !s.frames.Allow(l.Frames, now) && s.over("frames") {
		s.endFor("frames", l.Frames.String(), proto.CloseRate)
		return true
	}
	return false
}

// MessageBytes is the largest message that the client may send now, of those that a node takes:
// fewer bytes before it is authenticated.
func (s *Session) MessageBytes(most int) int {
	if l := &s.o.Limits; l.EarlyBytes > 0 && !l.DryRun && s.client.Load() == nil {
		return min(l.EarlyBytes, most)
	}
	return most
}

// TooLong ends a client that is not authenticated for a message that is longer than MessageBytes, as its
// header announces.
func (s *Session) TooLong() {
	s.over("early_bytes")
	s.endFor("early_bytes", fmt.Sprint(s.o.Limits.EarlyBytes), proto.CloseTooBig)
}

// endFor ends a client, and tells it which limit it is beyond.
func (s *Session) endFor(limit, most string, code proto.CloseCode) {
	if !s.refused.Swap(true) {
		s.fail(proto.CodeRateLimited, limit+": "+most, "")
		s.conn.End(code)
	}
}

// churns says whether a client enters rooms faster than they are let go: a room that is left is
// listened to for ten seconds more.
func (s *Session) churns() bool {
	r, most := s.rarely(), s.o.Limits.Rooms
	s.mu.Lock()
	defer s.mu.Unlock()
	return !r.entered.Allow(Rate{float64(most) / 10, most}, Clock())
}

// goesOn reports whether a client goes on from positions in more rooms than a lost connection and two gaps in each
// room explain: each is a read of Redis.
func (s *Session) goesOn() bool {
	seldom, most := s.seldom(), s.o.Limits.Rooms
	s.mu.Lock()
	defer s.mu.Unlock()
	return !seldom.goneOn.Allow(Rate{float64(most) / 10, 3*most + 64}, Clock())
}

// wrong takes note of a mistake of the client's, and ends it after too many.
func (s *Session) wrong() {
	seldom := s.seldom()
	s.mu.Lock()
	allowed := seldom.errors.Allow(s.o.Limits.Errors, Clock())
	s.mu.Unlock()
	if !allowed && s.over("errors") {
		s.endFor("errors", s.o.Limits.Errors.String(), proto.CloseBadRequests)
	}
}

package bus

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
)

// What is revoked is written to a log on Redis. Whoever writes there says so on the control
// channel, and each node reads on; it also reads on once a second, so that a message that is
// lost costs a second. The log is not to be lost either: a Redis that comes back without it
// gets from the nodes what they know.
const (
	revokedEvery = time.Second
	trustEvery   = 250 * time.Millisecond
	// trustLasts is how long clients may be written to after this process was last seen to go
	// on. With revokedEvery it is less than three seconds: nobody is written to for longer after
	// a revocation, also by a node that stood still.
	trustLasts = 1500 * time.Millisecond
	// trustAnyway is when a process that stood still goes on without having read the log: its
	// Redis does not answer.
	trustAnyway = 10 * time.Second
	forgetEvery = time.Hour
	// unreadMost is how long a node takes new clients that may be revoked without its knowing.
	unreadMost = 10 * time.Second
)

// followRevoked reads the log until ctx ends.
func (b *Bus) followRevoked(ctx context.Context) {
	every := time.NewTicker(revokedEvery)
	defer every.Stop()
	last, forgotten := "", time.Now()
	var missing []proto.Revocation // of the log on Redis: to be written again
	said := false
	report := func(what string, err error) {
		if err == nil {
			said = false
		} else if !said && ctx.Err() == nil {
			said = true
			b.log.Warn(what, zap.Error(err))
		}
	}
	for {
		began := b.clock()
		at, lost, err := b.readRevoked(ctx, last)
		if last = at; err == nil {
			if b.judged.Load() == 0 {
				b.judge.Trust(trustLasts) // before Ready says so
			}
			b.judged.Store(began)
		}
		report("revocations not read", err)
		if lost { // also when the other nodes have cut off what is old
			b.judge.Forget(time.Now().Add(-b.keep))
			if missing = b.judge.All(); len(missing) > 0 {
				b.log.Warn("Redis has lost the log of revocations: what is known is written again", zap.Int("revocations", len(missing)))
			}
		}
		if len(missing) > 0 {
			bounded, cancel := context.WithTimeout(ctx, readTimeout)
			missing, err = b.emitter.RevokeAgain(bounded, missing)
			cancel()
			report("revocations not written again", err)
		}
		if time.Since(forgotten) > forgetEvery {
			forgotten = time.Now()
			before := forgotten.Add(-b.keep)
			b.judge.Forget(before)
			if err := b.emitter.ForgetRevocations(ctx, before); err != nil && ctx.Err() == nil {
				b.log.Warn("old revocations not forgotten", zap.Error(err))
			}
		}
		select {
		case <-b.revoked:
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// readRevoked reads all pages after an entry, and returns the last one's id.
func (b *Bus) readRevoked(ctx context.Context, last string) (at string, lost bool, err error) {
	for {
		bounded, cancel := context.WithTimeout(ctx, readTimeout)
		all, next, another, more, err := b.emitter.Revocations(bounded, last)
		cancel()
		if err != nil {
			return last, lost, err
		}
		lost = lost || another
		fresh := b.judge.Revoke(all)
		if len(fresh) > 0 {
			b.log.Info("revoked", zap.Int("revocations", len(fresh)))
		}
		for _, r := range fresh[:min(len(fresh), 10)] { // of more, such as at the start, the number will do
			b.log.Info("revocation", zap.String("user_id", string(r.User)), zap.String("session", r.Session), zap.String("token", r.Token),
				zap.String("tenant", r.Tenant), zap.String("room", string(r.Room)), zap.String("reason", r.Reason), zap.Time("at", time.UnixMilli(r.At)))
		}
		if last = next; !more {
			return last, lost, nil
		}
	}
}

// trust says all the time that clients may be written to, until ctx ends: never before the log has
// been read once, and after this process stood still only when it has been read again.
func (b *Bus) trust(ctx context.Context) {
	every := time.NewTicker(trustEvery)
	defer every.Stop()
	var stood time.Duration // when it was last noticed, since the bus began; 0 when that is settled
	for last := b.clock(); ; {
		now := b.clock()
		if time.Duration(now-last) > trustLasts {
			stood = time.Duration(now)
			signal(b.revoked)
		}
		last = now
		if b.judged.Load() != 0 && (stood == 0 || time.Duration(b.judged.Load()) > stood || time.Duration(now)-stood > trustAnyway) {
			stood = 0
			b.judge.Trust(trustLasts)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

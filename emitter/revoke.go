package emitter

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

//go:embed revoke.lua
var revokeSource string

var revokeScript = redis.NewScript(revokeSource)

// Revoke takes back what tokens allow: see proto.Revocation. All nodes end the connections
// that it covers, within two seconds at most, and refuse those tokens from then on; of a room alone they
// end the membership. Tokens tell their moment in seconds, so one that is issued in the same
// second is covered too: whoever gives the user a new one at once waits for the next second.
//
// While Redis is away it is tried again for ten seconds or until ctx ends. An error means that
// nobody knows whether it was written down: to revoke once more does no harm.
func (e *Emitter) Revoke(ctx context.Context, r proto.Revocation) error {
	r.At = 0 // Redis says when
	if err := r.Check(); err != nil {
		return fmt.Errorf("%w: revocation: %w", ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := e.revoke(ctx, r)
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("emitter: revoke: %w: %w", err, context.Cause(ctx))
		}
	}
}

func (e *Emitter) revoke(ctx context.Context, r proto.Revocation) error {
	if err := e.agree(ctx); err != nil {
		return err
	}
	return e.settle(ctx, proto.Control, e.layout.Revoked(), func(server redis.UniversalClient) error {
		return e.revoking(ctx, server, r, revokeScript.Run).Err()
	})
}

func (e *Emitter) revoking(ctx context.Context, on redis.Scripter, r proto.Revocation,
	run func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) *redis.Cmd {
	command := "PUBLISH"
	if e.at.Ways() == Sharded {
		command = "SPUBLISH"
	}
	return run(ctx, on, []string{e.layout.Revoked()}, r.Encode(), command, e.layout.Channel(proto.Control))
}

// Revocations reads the log, for nodes, from an entry on: after is that entry's id, or empty for
// the beginning. lost means that the entry is not there any more: the log is another one, and
// the answer is what it has from its beginning. more means that there is another page, after
// the id that is returned.
func (e *Emitter) Revocations(ctx context.Context, after string) (all []proto.Revocation, last string, lost, more bool, err error) {
	const page = 1000
	key := e.layout.Revoked()
	from := after
	if after == "" {
		from = "-"
	}
	entries, err := e.rdb.XRangeN(ctx, key, from, "+", page).Result()
	if err != nil {
		return nil, after, false, false, e.doubt(err)
	}
	if after != "" {
		if len(entries) == 0 || entries[0].ID != after {
			all, last, _, more, err = e.Revocations(ctx, "")
			return all, last, true, more, err
		}
		entries = entries[1:]
	}
	last = after
	for _, entry := range entries {
		last = entry.ID
		text, _ := entry.Values["r"].(string)
		r, err := proto.DecodeRevocation([]byte(text))
		if err != nil {
			continue // somebody else's: it takes nothing back
		}
		if r.At == 0 {
			at, given := entry.Values["t"].(string)
			if !given { // from before that was written
				at, _, _ = strings.Cut(entry.ID, "-")
			}
			r.At, _ = strconv.ParseInt(at, 10, 64)
		}
		all = append(all, r)
	}
	return all, last, false, len(entries) >= page-1, nil
}

// RevokeAgain writes down, for nodes, revocations that Redis has lost, many in one round trip. It
// returns those that are still to be written.
func (e *Emitter) RevokeAgain(ctx context.Context, all []proto.Revocation) (left []proto.Revocation, err error) {
	const atOnce = 256
	for len(all) > 0 && err == nil {
		n := min(len(all), atOnce)
		_, err = e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, r := range all[:n] {
				e.revoking(ctx, p, r, revokeScript.Eval)
			}
			return nil
		})
		if err == nil {
			all = all[n:]
		}
	}
	return all, e.doubt(err)
}

// ForgetRevocations cuts off, for nodes, the log before a moment.
func (e *Emitter) ForgetRevocations(ctx context.Context, before time.Time) error {
	return e.doubt(e.rdb.XTrimMinIDApprox(ctx, e.layout.Revoked(), strconv.FormatInt(before.UnixMilli(), 10), 0).Err())
}

package emitter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// While the original's servers run beside nodes of ours, what is sent goes to their channels too,
// by PUBLISH also on a cluster, in a form that our own nodes pass over. A durable event goes there
// in the same step in which it is numbered, so that one that is sent again is not heard there
// twice either (TestMirror). That it is needed a node writes down; everyone follows within some
// seconds (TestMirrorIsForAll), until somebody writes down that it is not: a Redis that has lost
// what was written ends nothing.
const (
	mirrorAhead = 2500 * time.Millisecond // after so long it is looked again whether to mirror,
	mirrorEvery = 5 * time.Second         // and after so long senders wait for what is seen:
	mirrorWait  = 250 * time.Millisecond  // at most so long, and not if the look before saw nothing
	mirrorAgain = time.Second             // after a look that saw nothing
	mirrorLook  = 2 * time.Second         // one look at most

	mirrorOn, mirrorOff = "required", "off"
)

// A mirroring is whether this emitter mirrors.
type mirroring struct {
	mu     sync.Mutex
	on     bool          // guarded by mu
	err    error         // guarded by mu: why the last look saw nothing
	seen   time.Time     // guarded by mu: when the last look saw something
	next   time.Time     // guarded by mu: when it is looked
	until  time.Time     // guarded by mu: how long senders wait for the look that is under way
	over   chan struct{} // guarded by mu: closed when the look that is under way is over; nil if none is
	closed bool          // guarded by mu: it is not looked any more
}

// due returns the look to wait for and how long, and whether it is the caller's to begin.
func (m *mirroring) due(now time.Time) (over <-chan struct{}, wait time.Duration, begin bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.next) || m.closed {
		return nil, 0, false
	}
	if m.over == nil {
		m.over, m.until, begin = make(chan struct{}), now, true
		if m.err == nil && now.Sub(m.seen) >= mirrorEvery {
			m.until = now.Add(mirrorWait)
		}
	}
	return m.over, m.until.Sub(now), begin
}

// ended says that the look that was under way is over.
func (m *mirroring) ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.over)
	m.over = nil
}

// close ends looks, and waits for the one that is under way.
func (m *mirroring) close() {
	m.mu.Lock()
	m.closed = true
	over := m.over
	m.mu.Unlock()
	if over != nil {
		<-over
	}
}

// learn takes what is written down, or why that could not be seen: then all is as before.
func (m *mirroring) learn(word string, err error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err = err; err != nil {
		m.next = now.Add(mirrorAgain)
		return
	}
	m.seen, m.next = now, now.Add(mirrorAhead)
	switch word {
	case mirrorOn:
		m.on = true
	case mirrorOff:
		m.on = false
	}
}

// is says whether to mirror, and why that is not known for now.
func (m *mirroring) is() (on bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && m.seen.IsZero() {
		return false, errUnseen
	}
	return m.on, m.err
}

var errUnseen = fmt.Errorf("%w: whether servers of the original are there has not been seen yet", ErrUnavailable)

// mirrors says whether the original's servers are to hear what is sent: by a look that is not older
// than five seconds, or as it was before if err says that it could not be seen. Whoever sends all the
// time never waits for one: it is begun before it is needed, so that the master that knows holds up
// nobody else's events while it is away. It is asked where Redis is known to answer: what waited for it
// is mirrored, if that is needed by then.
func (e *Emitter) mirrors(ctx context.Context) (on bool, err error) {
	if e.at.Mirror {
		return true, nil
	}
	over, wait, begin := e.mirroring.due(time.Now())
	if begin {
		go e.lookMirror() // Close waits for it
	}
	if wait > 0 {
		late := time.NewTimer(wait)
		defer late.Stop()
		select {
		case <-over:
		case <-late.C:
		case <-ctx.Done():
		}
	}
	return e.mirroring.is()
}

// lookMirror is one look, for all senders that ask meanwhile: it does not end with one of them.
func (e *Emitter) lookMirror() {
	defer e.mirroring.ended()
	ctx, cancel := context.WithTimeout(e.ctx, mirrorLook)
	defer cancel()
	word, err := e.mirrorWord(ctx)
	e.mirroring.learn(word, err, time.Now())
}

// mirrorWord is what is written down, or nothing.
func (e *Emitter) mirrorWord(ctx context.Context) (string, error) {
	word, err := e.rdb.HGet(ctx, e.layout.Config(), mirrors).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return word, e.doubt(err)
}

// Mirrored says whether a node has written down that everyone mirrors.
func (e *Emitter) Mirrored(ctx context.Context) (bool, error) {
	word, err := e.mirrorWord(ctx)
	return word == mirrorOn, err
}

// mirror publishes to the original's servers, and says how many there are. On a cluster nobody
// knows: it is -1.
func (e *Emitter) mirror(ctx context.Context, to proto.Target, m proto.Message) (servers int, err error) {
	n, err := e.rdb.Publish(ctx, proto.IgnisTarget(to), proto.AppendIgnis(nil, to, m)).Result()
	if e.at.Mode == Cluster {
		n = -1
	}
	return int(n), e.doubt(err)
}

// toOriginal is mirror for a client of the original, whom nobody else can tell.
func (e *Emitter) toOriginal(ctx context.Context, to proto.Target, m proto.Message) (servers int, err error) {
	if err := e.agree(ctx); err != nil {
		return 0, err
	}
	switch on, err := e.mirrors(ctx); {
	case !on && err != nil:
		return 0, err
	case !on:
		return 0, fmt.Errorf("%w: the client is one of the original's, which are reached where a node has %s=mirror", ErrInvalid, IgnisEnv)
	}
	return e.mirror(ctx, to, m)
}

// checkMirror says whether this emitter knows whether it is to mirror, and may.
func (e *Emitter) checkMirror(ctx context.Context) error {
	word, err := e.mirrorWord(ctx)
	e.mirroring.learn(word, err, time.Now())
	if err != nil {
		return err
	}
	if on, _ := e.mirroring.is(); !on && !e.at.Mirror {
		return nil
	}
	channel, message := proto.IgnisProbe()
	if err := e.rdb.Publish(ctx, channel, message).Err(); err != nil {
		return fmt.Errorf("publish to the original's channels ws:*: %w", Classify(err))
	}
	return nil
}

// within is the part of body that is data, so that what waits does not keep the caller's, who may
// write over it by then.
func within(body, data []byte) []byte {
	if i := bytes.Index(body, data); data != nil && i >= 0 {
		return body[i : i+len(data) : i+len(data)]
	}
	return data
}

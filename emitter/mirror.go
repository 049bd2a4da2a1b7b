package emitter

import (
	"context"
	"sync"
	"time"

	"github.com/signal-team/signal/proto"
)

// While the original's servers run beside nodes of ours, what is sent goes to their channels too,
// by PUBLISH also on a cluster, in a form that our own nodes pass over. A durable event goes there
// in the same step in which it is numbered, so that one that is sent again is not heard there
// twice either (TestMirror). That it is needed a node writes down; everyone follows within some
// seconds (TestMirrorIsForAll).
const (
	mirrorEvery = 5 * time.Second        // it is looked whether to mirror
	mirrorLook  = 250 * time.Millisecond // one look at most: senders wait for it
)

// A mirroring is whether this emitter mirrors.
type mirroring struct {
	mu     sync.Mutex
	on     bool      // guarded by mu
	looked time.Time // guarded by mu
}

// mirrors says whether the original's servers are to hear what is sent. It is asked where Redis is
// known to answer: what waited for it is mirrored, if that is needed by then.
func (e *Emitter) mirrors(ctx context.Context) bool {
	if e.at.Mirror {
		return true
	}
	m := &e.mirroring
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.looked) >= mirrorEvery {
		ctx, cancel := context.WithTimeout(ctx, mirrorLook)
		defer cancel()
		on, written, err := e.lookMirror(ctx)
		if err == nil { // else as before, and it is looked again
			m.looked = time.Now()
		}
		if on || written { // a Redis that has lost everything says nothing, until a node writes it again
			m.on = on
		}
	}
	return m.on
}

// mirror publishes to the original's servers, and says how many there are. On a cluster nobody
// knows: it is -1.
func (e *Emitter) mirror(ctx context.Context, to proto.Target, m proto.Message) (servers int, err error) {
	if err := e.agree(ctx); err != nil {
		return 0, err
	}
	n, err := e.rdb.Publish(ctx, proto.IgnisTarget(to), proto.AppendIgnis(nil, to, m)).Result()
	if e.at.Mode == Cluster {
		n = -1
	}
	return int(n), e.doubt(err)
}

// Mirrored says whether a node has written down that everyone mirrors.
func (e *Emitter) Mirrored(ctx context.Context) (bool, error) {
	on, _, err := e.lookMirror(ctx)
	return on, err
}

// lookMirror is Mirrored, and whether anything is written down at all.
func (e *Emitter) lookMirror(ctx context.Context) (on, written bool, err error) {
	said, err := e.rdb.HMGet(ctx, e.layout.Config(), mirrors, "protocol").Result()
	if err != nil {
		return false, false, e.doubt(err)
	}
	return said[0] == "required", said[1] != nil, nil
}

// checkMirror says whether this emitter knows that it is to mirror, and may publish to the original's
// channels.
func (e *Emitter) checkMirror(ctx context.Context) error {
	if !e.at.Mirror {
		on, err := e.Mirrored(ctx)
		if err != nil {
			return err
		}
		m := &e.mirroring
		m.mu.Lock()
		m.on, m.looked = on, time.Now()
		m.mu.Unlock()
		if !on {
			return nil
		}
	}
	channel, message := proto.IgnisProbe()
	return Classify(e.rdb.Publish(ctx, channel, message).Err())
}

package bus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// askTimeout is how long another node has to say whether a client is there.
const askTimeout = time.Second

// Ask sends an event to a client of another node, and asks that node whether the
// client took it. A client that is not there is emitter.ErrNoReceiver, and so is one of a node
// that lives no more; a node that does not answer within a second is emitter.ErrUnavailable.
func (b *Bus) Ask(ctx context.Context, to proto.ClientID, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	id := proto.NewAskID(b.node)
	answer := make(chan int, 1)
	b.mu.Lock()
	b.asks[id] = answer
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.asks, id)
		b.mu.Unlock()
	}()
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := b.emitter.SendToClient(bounded, to, event, data, append(opts, emitter.Asking(id))...)
	if err != nil {
		return r, err
	}
	select {
	case r.Receivers = <-answer:
		if r.Receivers == 0 {
			err = fmt.Errorf("bus: client %q: %w", to, emitter.ErrNoReceiver)
		}
	case <-bounded.Done():
		err = emitter.ErrUnavailable
		if b.gone(ctx, to) {
			err = emitter.ErrNoReceiver
		}
		err = fmt.Errorf("bus: the node of client %q does not answer: %w", to, err)
	}
	return r, err
}

// gone says whether the node of a client holds no lease.
func (b *Bus) gone(ctx context.Context, c proto.ClientID) bool {
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	live, err := b.emitter.Nodes(bounded)
	node, _ := c.Node()
	return err == nil && !slices.ContainsFunc(live, func(n emitter.LiveNode) bool { return n.ID == node })
}

func (b *Bus) answered(a proto.Answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if waiting := b.asks[a.Ask]; waiting != nil {
		select {
		case waiting <- a.Receivers:
		default: // answered twice
		}
	}
}

// A comeback is a connection whose client has come back, and whose it is.
type comeback struct {
	id   proto.ClientID
	user proto.UserID
}

// Returned lets the node of a connection know that its client has come back to this one, unless it was of
// this one: then it says so. It does not wait.
func (b *Bus) Returned(id proto.ClientID, user proto.UserID) (here bool) {
	node, ours := id.Node()
	if !ours || node == b.node {
		return ours
	}
	select {
	case b.returned <- comeback{id, user}:
	default: // so many at once that some are told of as gone
		b.metrics.unreturned.Inc()
	}
	return false
}

// tellReturned tells other nodes whose clients have come back here.
func (b *Bus) tellReturned(ctx context.Context) {
	for {
		select {
		case r := <-b.returned:
			bounded, cancel := context.WithTimeout(ctx, askTimeout)
			if b.emitter.Returned(bounded, r.id, r.user) != nil { // its end is told, which says nothing new
				b.metrics.unreturned.Inc()
			}
			cancel()
		case <-ctx.Done():
			return
		}
	}
}

// answer tells other nodes what became of their events, so that the receive loop need not wait for
// Redis.
func (b *Bus) answer(ctx context.Context) {
	for {
		select {
		case a := <-b.answers:
			bounded, cancel := context.WithTimeout(ctx, askTimeout)
			if err := b.emitter.Answer(bounded, a); err != nil && ctx.Err() == nil {
				b.log.Warn("answer not sent", zap.Error(err))
			}
			cancel()
		case <-ctx.Done():
			return
		}
	}
}

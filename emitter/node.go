package emitter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/signal-team/signal/proto"
)

// What a node needs beyond a service: it writes to its own clients without Redis, it
// publishes for them, and it asks other nodes about theirs.

// Message is the event that Send publishes. An error is ErrInvalid.
func Message(to proto.Target, event proto.EventName, data any, opts ...Option) (m proto.Message, err error) {
	m.Event.Event, m.Time = event, time.Now().UnixMilli()
	m.Client, _ = to.Client()
	for _, o := range opts {
		err = errors.Join(err, o(&m))
	}
	if m.EventID == "" {
		m.EventID = proto.NewEventID()
	}
	encoded, derr := encode(data)
	m.Data = encoded
	if err = errors.Join(err, derr, to.Check(), event.Check()); err != nil {
		return proto.Message{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return m, nil
}

// FromClient says that a client published the event, under an id that it chose. The
// id is marked and bound to its user, so that a till can never take the id of a
// Sale service, nor of another till's user.
func FromClient(user proto.UserID, id proto.EventID) Option {
	return func(m *proto.Message) error {
		if id == "" {
			return nil
		}
		sum := sha256.Sum256([]byte(user))
		m.EventID = proto.EventID("c:"+hex.EncodeToString(sum[:4])+":") + id
		return ("x" + m.EventID[1:]).Check() // its grammar and length
	}
}

// Asking wants to know whether the client is really there: its node answers into
// the inbox of the node that asks.
func Asking(id proto.AskID) Option {
	return func(m *proto.Message) error {
		m.Ask = id
		return nil
	}
}

// Answer tells the node that asked.
func (e *Emitter) Answer(ctx context.Context, a proto.Answer) error {
	node, _ := a.Ask.Node()
	_, err := e.publish(ctx, e.layout.Inbox(node), proto.AppendAnswer(nil, a))
	return err
}

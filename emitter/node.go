package emitter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/signal-team/signal/proto"
)

// What a node needs beyond a service: it publishes for its clients, and it asks
// other nodes about theirs.

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

package emitter

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/signal-team/signal/proto"
)

// What a node needs beyond a service: it writes to its own clients without Redis, it
// publishes for them, and it asks other nodes about theirs.

// Signer checks, for nodes, what comes from Redis.
func (e *Emitter) Signer() *proto.Signer { return e.signer }

// sign signs JSON that is no event, as what it is.
func (e *Emitter) sign(room proto.Room, what proto.EventID, object []byte) []byte {
	return e.signer.Sign(room, what, append([]byte{'\n'}, object...))[1:]
}

func (e *Emitter) check(room proto.Room, what proto.EventID, object []byte) error {
	return e.signer.Check(room, what, append([]byte{'\n'}, object...))
}

// Enforce writes down, for nodes, what Check does; that only what is signed counts here, and who signs
// nothing is refused; and that the original's servers are to hear everything, which everyone follows.
func (e *Emitter) Enforce(ctx context.Context) error {
	_, err := e.at.agree(ctx, e.rdb, true)
	for field, needed := range map[string]bool{signed: e.signer != nil, mirrors: e.at.Mirror} {
		if !needed {
			continue
		}
		err = errors.Join(err, e.doubt(e.rdb.HSet(ctx, e.layout.Config(), field, "required").Err()))
	}
	return err
}

// Message is the event that Send publishes, for nodes. An error is ErrInvalid.
func Message(to proto.Target, event proto.EventName, data any, opts ...Option) (proto.Message, error) {
	m, _, err := message(to, event, data, opts)
	return m.Message, err
}

// message is the event, and its bytes on the bus if it is live.
func message(to proto.Target, event proto.EventName, data any, opts []Option) (m draft, b []byte, err error) {
	m.Event.Event, m.Time = event, time.Now().UnixMilli()
	if id, single := to.Client(); single {
		m.Client = id
	}
	for _, o := range opts {
		if o != nil {
			err = errors.Join(err, o(&m))
		}
	}
	if m.EventID == "" {
		m.EventID = proto.NewEventID()
	}
	encoded, derr := encode(data)
	m.Data = encoded
	if err = errors.Join(err, derr, to.Check(), event.CheckSent()); err != nil {
		return draft{}, nil, fmt.Errorf("%w: %q to %s: %w", ErrInvalid, event, to, err)
	}
	if b = proto.AppendMessage(nil, m.Message); len(b) > MaxEvent {
		return draft{}, nil, fmt.Errorf("%w: %q to %s has %d bytes, at most %d are allowed", ErrTooLarge, event, to, len(b), MaxEvent)
	}
	return m, b, nil
}

// FromClient says, for nodes, that a client published the event, under an id that it chose. The
// id is marked and bound to its user by 128 bits of a hash, so that a till can never take the id of
// a Sale service, nor of another till's user. The mark has 25 bytes: 103 are left for the client's id.
func FromClient(user proto.UserID, id proto.EventID) Option {
	return func(m *draft) error {
		if id == "" {
			return nil
		}
		sum := sha256.Sum256([]byte(user))
		m.EventID = proto.EventID("c:"+base64.RawURLEncoding.EncodeToString(sum[:16])+":") + id
		return ("x" + m.EventID[1:]).Check() // its grammar and length
	}
}

// Asking wants to know, for nodes, whether the client is really there: its node answers
// into the inbox of the node that asks.
func Asking(id proto.AskID) Option {
	return func(m *draft) error {
		m.Ask = id
		return proto.ClientID(id).Check()
	}
}

// Answer tells the node that asked, for nodes.
func (e *Emitter) Answer(ctx context.Context, a proto.Answer) error {
	node, _ := a.Ask.Node()
	_, err := e.publish(ctx, e.layout.Inbox(node), proto.AppendAnswer(nil, a))
	return err
}

// Returned tells the node of a connection, for nodes, that its user's client has come back elsewhere.
func (e *Emitter) Returned(ctx context.Context, id proto.ClientID, u proto.UserID) error {
	node, _ := id.Node()
	_, err := e.publish(ctx, e.layout.Inbox(node), proto.AppendReturned(nil, id, u))
	return err
}

// Probe publishes to a channel that only the node itself hears, for nodes.
func (e *Emitter) Probe(ctx context.Context, channel, payload string) error {
	_, err := e.publish(ctx, channel, []byte(payload))
	return err
}

package bus

import (
	"slices"
	"unsafe"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
)

// receive hands on one message of Redis. What is malformed is counted and dropped:
// it can harm nobody else.
//
// Hot path: nothing here waits.
func (b *Bus) receive(dst Receiver, m *redis.Message) {
	var err error
	// The payload is read and copied from, never written to.
	payload := unsafe.Slice(unsafe.StringData(m.Payload), len(m.Payload))
	if m.Pattern != "" {
		err = b.ignisClient(dst, m.Channel, payload)
	} else if room, ok := b.layout.Room(m.Channel); ok && room == proto.Control {
		signal(b.revoked)
	} else if ok && room != b.inbox {
		var msg proto.Message
		if msg, err = proto.DecodeMessage(payload); err == nil {
			err = b.signer.Check(room, msg.EventID, payload)
		}
		if err == nil {
			b.metrics.rooms.Inc()
			dst.Receive(room, msg)
		}
	} else if ok {
		err = b.direct(dst, payload)
	} else if room, ok := proto.IgnisRoom(m.Channel); ok {
		err = b.ignisRoom(dst, room, payload)
	}
	if err != nil {
		b.metrics.malformed.Inc()
		b.log.Warn("bus message dropped", zap.String("channel", m.Channel), zap.Int("bytes", len(payload)), zap.Error(err))
	}
}

// direct gets an event for one client of this node, or an answer to a question of it.
func (b *Bus) direct(dst Receiver, payload []byte) error {
	b.metrics.inbox.Inc()
	if proto.IsAnswer(payload) {
		a, err := proto.DecodeAnswer(payload)
		if err == nil {
			b.answered(a)
		}
		return err
	}
	if id, user, is := proto.DecodeReturned(payload); is {
		b.notices.Returned(id, user)
		return nil
	}
	m, err := proto.DecodeMessage(payload)
	if err == nil {
		err = b.signer.Check(b.inbox, m.EventID, payload)
	}
	if err != nil {
		return err
	}
	if err := m.Client.Check(); err != nil {
		return err
	}
	if m.Ask == "" {
		if !slices.Contains(m.Except, m.Client) {
			dst.ReceiveClient(m.Client, m.Event)
		}
		return nil
	}
	if _, ok := m.Ask.Node(); !ok {
		return proto.ErrMalformed
	}
	dst.Flush() // what came before is written before
	taken := 0
	if !slices.Contains(m.Except, m.Client) && dst.SendToClient(m.Client, m.Event) {
		taken = 1
	}
	select {
	case b.answers <- proto.Answer{Ask: m.Ask, Receivers: taken}:
	default: // so many questions that nobody waits for the answer any more
	}
	return nil
}

func (b *Bus) ignisRoom(dst Receiver, room proto.Room, payload []byte) error {
	if proto.IsMirror(payload) {
		return nil // it comes by our own channel too
	}
	target, m, err := proto.DecodeIgnis(payload)
	if err != nil {
		return err
	}
	if target.Room() != room {
		return proto.ErrMalformed // for another room than its channel's
	}
	b.metrics.ignis.Inc()
	dst.Receive(room, m)
	return nil
}

// ignisClient gets what an original server sends to a client id: as a client, or as
// a room when it does not know the client.
func (b *Bus) ignisClient(dst Receiver, channel string, payload []byte) error {
	id := proto.IgnisClient(channel)
	if _, ours := id.Node(); !ours || proto.IsMirror(payload) {
		return nil // a room whose name only begins like a client of ours
	}
	_, m, err := proto.DecodeIgnis(payload)
	if err != nil {
		return err
	}
	b.metrics.ignis.Inc()
	if !slices.Contains(m.Except, id) {
		dst.ReceiveClient(id, m.Event)
	}
	return nil
}

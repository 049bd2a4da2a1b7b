package emitter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

var (
	// ErrUnavailable means that Redis did not take the event, or did not say so in
	// time. The same call may succeed later. A durable event that is sent again under the
	// same EventID within two minutes is never a second copy; a live one may be.
	ErrUnavailable = errors.New("emitter: Redis is unavailable")
	// ErrRefused means that Redis answered and said no: a wrong password, a missing
	// right, a certificate that one side does not trust. Trying again changes nothing until somebody changes the settings.
	ErrRefused = errors.New("emitter: Redis refused")
	// ErrInvalid means that the event cannot be sent as it is: a name breaks the
	// grammar, or the data is not JSON. The text says what.
	ErrInvalid = errors.New("emitter: invalid event")
	// ErrTooLarge means that the event has more than MaxEvent bytes. Send what
	// clients need to see, and let them fetch the rest.
	ErrTooLarge = fmt.Errorf("%w: too large", ErrInvalid)
	// ErrEventIDReused means that the room had another event under this id within the last
	// two minutes. Nothing was sent. An id names one event: give this one another.
	ErrEventIDReused = errors.New("emitter: this event id was used for another event")
	// ErrQueueFull means that Redis does not take events as fast as they come, or is away, and
	// that as many wait for it as may (MaxQueued, MaxQueuedBytes). Nothing was sent. The same
	// call may succeed later: whoever cannot wait drops the event.
	ErrQueueFull = errors.New("emitter: too many events wait for Redis")
	// ErrNoReceiver means that the node which held the client is gone, and the
	// client with it. A reconnected client has another id: send to its user.
	ErrNoReceiver = errors.New("emitter: nobody there")
	// ErrClosed means that Close was called before.
	ErrClosed = errors.New("emitter: closed")
)

// MaxEvent is the largest event in bytes, with its names and ids.
const MaxEvent = proto.MaxMessage

// An Emitter publishes events. Close it at the end.
type Emitter struct {
	rdb       redis.UniversalClient
	at        Settings
	layout    proto.Layout
	signer    *proto.Signer
	agreed    atomic.Bool // Agree has said yes, and ours stands there
	mirroring mirroring
	unsure    atomic.Int64 // when to ask again, Unix nanoseconds; 0 while whoever knows has always answered

	ctx         context.Context // until Close
	stop        context.CancelFunc
	lanes       [lanes]lane
	running     sync.WaitGroup // lanes with events
	queued      atomic.Int64   // events in lanes
	queuedBytes atomic.Int64
	proofs      sync.Map // *proof by the address of a server

	sent, unheard, failed atomic.Uint64
	last                  atomic.Pointer[error] // what Redis did with the last event, nil when it took it
}

// New returns an Emitter on the Redis that s describes. It connects with the first
// event; Check does it earlier.
func New(s Settings) *Emitter {
	e := &Emitter{rdb: s.open(load), at: s, layout: s.Layout(), signer: proto.NewSigner(s.SigningKeys)}
	e.ctx, e.stop = context.WithCancel(context.Background())
	for i := range e.lanes {
		e.lanes[i].emitter = e
	}
	return e
}

// FromEnv is New with the Settings of the environment, and Check. A Redis that does
// not answer within a few seconds, or until ctx ends, is no error here, so that a
// service may start before its Redis: the check is made up for before the first event.
// Whoever wants to know calls Check.
func FromEnv(ctx context.Context) (*Emitter, error) {
	s, err := SettingsFromEnv()
	if err != nil {
		return nil, err
	}
	e := New(s)
	if err := e.Check(ctx); err != nil && !errors.Is(err, ErrUnavailable) {
		_ = e.Close()
		return nil, err
	}
	return e, nil
}

// Check asks Redis whether this emitter fits to the others there: see Settings.Agree. It also
// publishes once where nobody listens: a user of Redis needs the right to all our channels
// (&sg:*, and &ws:* to mirror), and shall hear that it is missing at once.
func (e *Emitter) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	written, err := e.at.agree(ctx, e.rdb, true)
	if err != nil {
		return err
	}
	if _, err := e.publishOnce(ctx, e.layout.Channel(proto.Control), nil); errors.Is(err, ErrRefused) {
		return fmt.Errorf("publish to the channels %s:*: %w", e.layout.Prefix, err)
	}
	if err := e.checkMirror(ctx); err != nil {
		return err
	}
	if written {
		e.agreed.Store(true)
	}
	return nil
}

// Look is Check for those who only look: it writes nothing down, and neither does what this
// emitter does after it.
func (e *Emitter) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	_, err := e.at.agree(ctx, e.rdb, false)
	if err == nil {
		e.agreed.Store(true)
	}
	return err
}

const (
	checkTime  = 3 * time.Second // for all of a Check
	checkAgain = 5 * time.Second
)

// agree is Check until it has said yes. On a cluster one master knows how this Redis is used:
// while it is away the others take events all the same, and it is asked again from time to
// time (TestControlAway).
func (e *Emitter) agree(ctx context.Context) error {
	if e.agreed.Load() {
		return nil
	}
	was := e.unsure.Load()
	if now := time.Now(); now.UnixNano() < was || was > 0 && !e.unsure.CompareAndSwap(was, now.Add(checkAgain).UnixNano()) {
		return nil
	}
	err := e.Check(ctx)
	if errors.Is(err, ErrUnavailable) && e.reached(ctx) {
		e.unsure.Store(time.Now().Add(checkAgain).UnixNano())
		return nil
	}
	e.unsure.Store(0)
	return err
}

// reached says whether the cluster, by any of its servers, has said who has what.
func (e *Emitter) reached(ctx context.Context) bool {
	if e.at.Mode != Cluster {
		return false
	}
	_, err := e.master(ctx, e.layout.Config())
	return err == nil
}

// Close gives up the connections to Redis. Events that wait are ErrClosed.
func (e *Emitter) Close() error {
	e.stop()
	for i := range e.lanes {
		e.lanes[i].close()
	}
	err := e.rdb.Close()
	e.running.Wait()
	e.mirroring.close()
	return err
}

// A Receipt says what became of an event.
type Receipt struct {
	EventID proto.EventID
	// Receivers is the number of nodes that the event went to: for a room those that
	// have a member, so 0 means that nobody is there to hear it. It never means
	// "on the screen". On a cluster with PubSub Classic nobody knows: it is -1. Of a Duplicate
	// it is 0: the first try's receipt had it.
	Receivers int
	// Position of a durable event in its room; zero for a live one.
	Position proto.Position
	// Duplicate means that a try before this one had already sent the event: this one
	// changed nothing.
	Duplicate bool
}

// MarshalJSON is the receipt as POST /api/send and signal send give it.
func (r Receipt) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		EventID   proto.EventID  `json:"eventId"`
		Sequence  uint64         `json:"sequence,omitempty"` // of a durable event, as its position
		Position  proto.Position `json:"position,omitzero"`
		Receivers int            `json:"receivers"`
		Duplicate bool           `json:"duplicate,omitempty"`
	}{r.EventID, r.Position.Sequence, r.Position, r.Receivers, r.Duplicate})
}

// Stats are the events of an Emitter since it was made.
type Stats struct {
	Sent    uint64 // taken by Redis
	Unheard uint64 // taken by Redis, but no node listened
	Failed  uint64 // not taken, or nobody knows
	Waiting uint64 // durable events that wait for Redis now
}

// Stats says what became of all events so far.
func (e *Emitter) Stats() Stats {
	return Stats{e.sent.Load(), e.unheard.Load(), e.failed.Load(), uint64(e.queued.Load())}
}

// Healthy says why Redis did not take the event that was last told of, or nil: for the
// readiness of a service, at no cost. On a cluster that is one master's word: events for
// another one may be waiting (Stats). Whoever wants to know without an event calls Ping.
func (e *Emitter) Healthy() error {
	if err := e.last.Load(); err != nil {
		return *err
	}
	return nil
}

// An Option changes one event.
type Option func(*draft) error

// A draft is an event that is being made.
type draft struct {
	proto.Message
	live bool
}

// Except leaves clients out, such as the one that caused the event.
func Except(clients ...proto.ClientID) Option {
	return func(m *draft) (err error) {
		for _, c := range clients {
			err = errors.Join(err, c.Check())
		}
		m.Except = append(m.Except, clients...)
		return err
	}
}

// EventID names the event: 1 to 128 bytes of A-Z a-z 0-9 . _ : / -, not beginning
// with "c:". With a business key such as "order-42-paid" a sender may send again after it
// has failed, or crashed: within two minutes Redis takes a durable event once, and
// afterwards a client that remembers the ids it has seen drops the repetition. Without it
// the id is a UUIDv7.
func EventID(id proto.EventID) Option {
	return func(m *draft) error {
		m.EventID = id
		return id.Check()
	}
}

// Live says that the event may be lost when a client is away for a moment: it is
// neither numbered nor kept, and costs a third. For what is outdated in a second, such as
// that somebody is typing. Events for one client are always live.
func Live() Option {
	return func(m *draft) error {
		m.live = true
		return nil
	}
}

// Send tells the target that something happened. data is any JSON value; a
// json.RawMessage goes through byte for byte. An event for a room, a user or everyone is
// durable unless it is Live: numbered in its room and kept for a while (Settings.History),
// so that clients that were away get it when they come back. While Redis is away it is
// tried again for ten seconds or until ctx ends; a live event is tried once. Durable events
// of a room are published in the order of the calls.
//
// The error is one of this package's, with the target in its text; only ErrUnavailable and
// ErrQueueFull are worth another try.
func (e *Emitter) Send(ctx context.Context, to proto.Target, event proto.EventName, data any, opts ...Option) (r Receipt, err error) {
	m, b, err := message(to, event, data, opts)
	if err != nil {
		return Receipt{}, err
	}
	client, single := to.Client()
	node, ours := client.Node()
	r.EventID = m.EventID
	switch room := to.Room(); {
	case single && !ours:
		r.Receivers, err = e.toOriginal(ctx, to, m.Message)
	case single:
		r.Receivers, err = e.publish(ctx, e.layout.Inbox(node), e.signer.Sign(proto.NodeRoom(node), m.EventID, b))
	case m.live:
		r.Receivers, err = e.publish(ctx, e.layout.Channel(room), e.signer.Sign(room, m.EventID, b))
		if err != nil {
			break
		}
		if on, _ := e.mirrors(ctx); on {
			_, err = e.mirror(ctx, to, m.Message)
		}
	default:
		r, err = e.durable(ctx, to, m.Message, proto.Body(e.signer.Sign(room, m.EventID, b)))
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRefused) || errors.Is(err, ErrQueueFull) {
		told := err // a variable of its own: the named result changes below
		e.last.Store(&told)
	} else if err == nil {
		e.last.Store(nil)
	}
	if err != nil {
		e.failed.Add(1)
		return r, fmt.Errorf("emitter: send %q to %s: %w", event, to, err)
	}
	e.sent.Add(1)
	if r.Receivers != 0 || r.Duplicate {
		return r, nil
	}
	e.unheard.Add(1)
	if to.Kind() == proto.KindClient {
		return r, fmt.Errorf("emitter: send %q to %s: %w", event, to, ErrNoReceiver)
	}
	return r, nil
}

// SendToClient tells one connection. A client whose node is gone is ErrNoReceiver. That
// the node is there does not say that the client still is: POST /api/send asks it.
func (e *Emitter) SendToClient(ctx context.Context, id proto.ClientID, event proto.EventName, data any, opts ...Option) (Receipt, error) {
	return e.Send(ctx, proto.ToClient(id), event, data, opts...)
}

// SendToUser tells every connection of a user, on all nodes.
func (e *Emitter) SendToUser(ctx context.Context, user proto.UserID, event proto.EventName, data any, opts ...Option) (Receipt, error) {
	return e.Send(ctx, proto.ToUser(user), event, data, opts...)
}

// SendToRoom tells every client in a room, on all nodes.
func (e *Emitter) SendToRoom(ctx context.Context, room proto.Room, event proto.EventName, data any, opts ...Option) (Receipt, error) {
	return e.Send(ctx, proto.ToRoom(room), event, data, opts...)
}

// Broadcast tells every client of every node.
func (e *Emitter) Broadcast(ctx context.Context, event proto.EventName, data any, opts ...Option) (Receipt, error) {
	return e.Send(ctx, proto.ToEveryone(), event, data, opts...)
}

// encode is json.Marshal without the escapes that HTML would need. Raw JSON is only
// looked at.
func encode(data any) (json.RawMessage, error) {
	raw, ok := data.(json.RawMessage)
	if !ok || raw == nil { // none is null
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(data); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
		raw = bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	}
	return raw, proto.CheckData(raw)
}

// publish is publishOnce if this emitter fits to the others.
func (e *Emitter) publish(ctx context.Context, channel string, b []byte) (int, error) {
	if err := e.agree(ctx); err != nil {
		return 0, err
	}
	return e.publishOnce(ctx, channel, b)
}

// publishOnce publishes once. A server that has given the channel's slot away has not published:
// then it is tried where the slot is now.
func (e *Emitter) publishOnce(ctx context.Context, channel string, b []byte) (int, error) {
	for try := 0; ; try++ {
		rdb, err := e.master(ctx, channel)
		if err != nil {
			return 0, e.doubt(err)
		}
		publish := rdb.Publish
		if e.at.Ways() == Sharded {
			publish = rdb.SPublish
		}
		n, err := publish(ctx, channel, b).Result()
		if _, moved := redis.IsMovedError(err); !moved || try == 3 {
			return e.receivers(n), e.doubt(err)
		}
		if _, err := e.Masters(ctx); err != nil {
			return 0, err
		}
	}
}

// receivers is how many nodes Redis says an event went to. With PUBLISH a server of a cluster
// knows only its own.
func (e *Emitter) receivers(said int64) int {
	if e.at.Mode == Cluster && e.at.Ways() == Classic {
		return -1
	}
	return int(said)
}

// Classify says whether an error of Redis passes by itself: it wraps ErrUnavailable,
// ErrRefused or ErrClosed. A context that its owner cancelled is nobody's failure, and
// stays as it is.
func Classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, redis.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	said, answered := errors.AsType[redis.Error](err)
	if answered && !passing(said.Error()) || distrusted(err) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// passing says whether an answer of Redis is about its state, not about the request.
func passing(said string) bool {
	for _, state := range [...]string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY", "OOM",
		"NOREPLICAS", "MISCONF", "EXECABORT", "ERR max number of clients"} {
		if strings.HasPrefix(said, state) {
			return true
		}
	}
	return false
}

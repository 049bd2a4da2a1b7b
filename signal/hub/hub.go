// Package hub knows which clients are on this node, and hands them events.
//
// Everything here is memory: no socket, no Redis, no clock. No call waits, so one
// slow client costs the others nothing. A room appends an event to its ring, once,
// and leaves a note at each shard that has members (local.go); the shard takes what is
// new (shard.go) and writes it to them, joined, in one pass (pass.go). So events that
// arrive meanwhile join the next pass by themselves. Who could not take all has a cursor
// of its own and is served when its connection has drained (behind.go).
//
// Locks are taken in one order: Client.mu, then Hub.mu or local.mu, then shard.mu or
// budget.mu.
// A connection's own lock is taken under none of them.
package hub

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A Conn is a client's connection as the hub sees it. No call waits, and frames belong
// to all clients: they are not changed, also not later.
type Conn interface {
	// Write takes the first frames of the batch, as many as go at once, and returns how
	// many. Of the last one it may keep the rest. When it takes fewer than all, it calls
	// Client.Drained once it can take more, unless it ends before.
	Write(*Batch) (taken int)
	// Prepare says that a Write will follow soon.
	Prepare()
	// CaughtUp says that after a Write that did not take all, the client now has all.
	CaughtUp()
	// Send takes an event for this client alone, or refuses it: too much waits already.
	// The frame is the caller's again when it returns.
	Send(frame []byte) (taken bool)
	// Answer takes what must not be missing. A connection that cannot take it is ended.
	Answer(frame []byte)
}

// A Batch is frames that follow each other in a room, and the same joined for one write.
type Batch struct {
	Entries []room.Entry
	Joined  []byte // valid only during Write
}

// A Subscriber brings what is published to a room: it calls Subscribed once the
// room is heard, then Receive for each event. Each Subscribe is undone by one
// Unsubscribe. For each Read it calls Replied, with the same room, position and order, as
// soon as Redis answers. All only note what is wanted: they return at once and call
// nothing back, so they may be called under a lock.
type Subscriber interface {
	Subscribe(proto.Room)
	Unsubscribe(proto.Room)
	Read(r proto.Room, since proto.Position, order bool)
}

// A Hub is made by New and works while Run does.
type Hub struct {
	bus     Subscriber
	shards  []*shard
	metrics *metrics
	budget  *budget

	mu      sync.RWMutex
	clients map[proto.ClientID]*Client // guarded by mu
	rooms   map[proto.Room]*local      // guarded by mu
	added   int                        // guarded by mu: deals the clients to the shards
	ill     bool                       // guarded by mu: clients are told that events may be missing

	directMu sync.Mutex
	direct   []direct // guarded by directMu: for single clients, until Flush
	frames   []byte   // guarded by directMu: theirs
}

// A direct is a frame for one client.
type direct struct {
	to        *Client
	from, end int // in Hub.frames
}

// maxShards is the number of bits in local's masks.
const maxShards = 64

// shards leaves a processor to the bus and the readers: a shard does not give its own away
// while it writes (docs/adr/0006-one-processor-for-the-rest.md).
func shards() int { return min(max(runtime.GOMAXPROCS(0)-1, 1), maxShards) }

// New returns a Hub that listens through bus and counts in reg.
func New(bus Subscriber, reg prometheus.Registerer) *Hub {
	h := &Hub{bus: bus, clients: map[proto.ClientID]*Client{}, rooms: map[proto.Room]*local{}, budget: newBudget(keptBytes)}
	h.metrics = newMetrics(reg, h)
	for i := range shards() {
		h.shards = append(h.shards, newShard(i, h.metrics))
	}
	return h
}

// Run writes events to clients until ctx ends, then returns nil.
func (h *Hub) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, s := range h.shards {
		g.Go(func() error { s.run(ctx); return nil })
	}
	return g.Wait()
}

// Size is the number of clients and of rooms with members on this node.
func (h *Hub) Size() (clients, rooms int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.clients), len(h.rooms)
}

// SendToClient writes the event to one client. It is false if the client is not on
// this node or cannot take it.
func (h *Hub) SendToClient(id proto.ClientID, e proto.Event) bool {
	c := h.find(id)
	return c != nil && h.send(c, proto.AppendEventFrame(nil, e))
}

func (h *Hub) find(id proto.ClientID) *Client {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.clients[id]
}

func (h *Hub) send(c *Client, frame []byte) bool {
	if !c.conn.Send(frame) {
		h.metrics.full.Inc()
		return false
	}
	h.metrics.delivered.Inc()
	return true
}

// Receive puts an event into the order of a room on this node. The bus calls it, in the
// order of the room, and Flush once it has nothing more at hand: events that came
// together are written together.
//
// Hot path: one frame is allocated (TestDeliverAllocs), and nothing waits.
func (h *Hub) Receive(name proto.Room, m proto.Message) {
	l := h.local(name)
	if l == nil {
		return // the last member has just left
	}
	m.Room = name
	h.note(l, l.receive(m))
}

// note tells shards that there is news.
func (h *Hub) note(l *local, news uint64) {
	for i := 0; news != 0; news, i = news>>1, i+1 {
		if news&1 != 0 {
			h.shards[i].note(l)
		}
	}
}

// Replied takes Redis' answer to a Read.
func (h *Hub) Replied(name proto.Room, since proto.Position, order bool, p proto.Page) {
	l := h.local(name)
	if l == nil {
		return
	}
	news, ready, victims := l.replied(since, order, p)
	release(victims)
	h.note(l, news)
	for _, c := range ready {
		h.command(l, c)
	}
	h.Flush()
}

// command gives a command to its shard, or to all that have a part in it.
func (h *Hub) command(l *local, c command) {
	switch c := c.(type) {
	case add:
		c.member.client.shard.command(c)
	case page:
		for i, s := range h.shards {
			if of := c.of(i); len(of.members) > 0 {
				s.command(of)
			}
		}
	}
}

// local is a room with members on this node, or nil.
func (h *Hub) local(name proto.Room) *local {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.rooms[name]
}

// Due appends the rooms whose position is to be checked now: all, or those that have had no
// event since the last time.
func (h *Hub) Due(dst []proto.Room, all bool) []proto.Room {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for name, l := range h.rooms {
		if l.due(all) {
			dst = append(dst, name)
		}
	}
	return dst
}

// At is where a room is on this node; zero when that is not known.
func (h *Hub) At(name proto.Room) (at proto.Position) {
	if l := h.local(name); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		at = l.room.At()
	}
	return at
}

// Checked says where Redis has a room, zero when it knows of none: if that is elsewhere, the
// room is healed.
func (h *Hub) Checked(name proto.Room, top proto.Position) {
	if l := h.local(name); l != nil {
		l.checked(top)
	}
}

// Tick is called once a second: who has waited for it reads on.
func (h *Hub) Tick() {
	for _, s := range h.shards {
		s.command(tick{})
	}
}

// ReceiveClient takes an event for one client, which Flush writes.
//
// Hot path: nothing is allocated, and the event is not kept.
func (h *Hub) ReceiveClient(id proto.ClientID, e proto.Event) {
	c := h.find(id)
	if c == nil {
		return
	}
	c.conn.Prepare()
	h.directMu.Lock()
	defer h.directMu.Unlock()
	from := len(h.frames)
	h.frames = proto.AppendEventFrame(h.frames, e)
	h.direct = append(h.direct, direct{c, from, len(h.frames)})
}

// Flush writes what was received for single clients, and wakes who writes the rest.
func (h *Hub) Flush() {
	h.directMu.Lock()
	for _, d := range h.direct {
		h.send(d.to, h.frames[d.from:d.end])
	}
	clear(h.direct)
	h.direct, h.frames = h.direct[:0], h.frames[:0]
	h.directMu.Unlock()
	for _, s := range h.shards {
		s.wakeForNews()
	}
}

// Subscribed says that the room is heard from now on: who waits for it is in.
func (h *Hub) Subscribed(name proto.Room) {
	l := h.local(name)
	if l == nil {
		return
	}
	for _, c := range l.opened() {
		h.command(l, c)
	}
}

// enter makes m a member of its room, which it opens for the first one. The add
// goes to the member's shard at once when the room is heard, or when it will be.
func (h *Hub) enter(name proto.Room, a add) {
	m := a.member
	for m.local == nil {
		h.mu.Lock()
		l := h.rooms[name]
		if l == nil {
			l = newLocal(name, h)
			h.rooms[name] = l
			h.bus.Subscribe(name) // before anyone can leave it
		}
		h.mu.Unlock()
		if !l.enter(m) { // its last member has just left: make way for a new one
			h.forget(l)
		}
	}
	for _, c := range m.local.await(a) {
		h.command(m.local, c)
	}
}

// leave takes m out of its room, which it closes after the last one.
func (h *Hub) leave(m *member) {
	stranded, last := m.local.leave(m)
	for _, a := range stranded {
		a.member.client.shard.command(a)
	}
	if last {
		h.forget(m.local)
		h.bus.Unsubscribe(m.local.name)
	}
}

func (h *Hub) forget(l *local) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms[l.name] == l {
		delete(h.rooms, l.name)
	}
}

// Lost says that rooms are not heard any more, until Subscribed says so: who joins from now
// on waits.
func (h *Hub) Lost(rooms []proto.Room) {
	for _, name := range rooms {
		if l := h.local(name); l != nil {
			l.lost()
		}
	}
}

// Degraded tells every client that Redis is away, so that events may be missing, or
// that it is back. Who comes meanwhile is told as well.
func (h *Hub) Degraded(on bool) {
	frame := health(on)
	h.mu.Lock()
	h.ill = on
	clients := slices.Collect(maps.Values(h.clients))
	h.mu.Unlock()
	for _, c := range clients {
		c.conn.Answer(frame)
	}
}

func health(ill bool) []byte {
	if ill {
		return proto.EncodeFrame(proto.EventDegraded, nil, "")
	}
	return proto.EncodeFrame(proto.EventRestored, nil, "")
}

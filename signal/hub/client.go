package hub

import (
	"sync"
	"sync/atomic"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// A Client is one connection on this node. One shard writes its events, so they
// keep their order. Its calls may come from any goroutine.
type Client struct {
	id    proto.ClientID
	was   *proto.ClientID // the client's connection before this one, or nil
	conn  Conn
	hub   *Hub
	shard *shard

	mu      sync.Mutex
	members []*member // guarded by mu: the rooms that it has joined or is joining
	closed  bool      // guarded by mu

	open atomic.Int32 // joins without their last answer

	// Of the shard alone.
	blocked bool // its connection takes nothing more until Drained
	queued  bool // it stands in the shard's queue
	// replayed is how many KiB Redis was read for, since Replayed. It stands where there is room: an idle client has 128 bytes.
	replayed atomic.Uint32
	behind   []*member // rooms in which it is to be served when it is drained
}

// A member is a client in a room, from one join to the leave that ends it. The
// member itself is the generation of the join: whoever joins again is another
// member, so an add or a pass that is late finds gone set and writes nothing.
type member struct {
	conn   Conn // the client's: a pass then need not look at the client
	client *Client
	local  *local      // set once by Hub.enter, under Client.mu
	gone   atomic.Bool // left or closed: no byte of the room is written any more

	// Of the shard alone.
	listed bool  // it stands in client.behind
	own    *own  // nil while it is where its part is
	index  int32 // place in its part, -1 when in none
}

// An own is a member's cursor of its own.
type own struct {
	room.Reader
	live  room.Cursor // where its live events begin: there it joined
	place int32       // in the part's own
	asked bool        // Redis is asked: a page will come
	later bool        // Redis is asked again after the next tick
}

// Add makes a client known: from now on SendToClient reaches it. An event that leaves out
// the client's connection before this one leaves out this one too; was may be empty.
func (h *Hub) Add(id, was proto.ClientID, conn Conn) *Client {
	h.mu.Lock()
	c := &Client{id: id, conn: conn, hub: h, shard: h.shards[h.added%len(h.shards)]}
	if before := was; before != "" {
		c.was = &before
	}
	h.added++
	h.clients[id] = c
	h.mu.Unlock()
	for told := false; ; told = !told { // what Degraded says meanwhile may have come first
		h.mu.RLock()
		ill := h.ill
		h.mu.RUnlock()
		if ill == told {
			return c
		}
		conn.Answer(health(ill))
	}
}

// Drained says that the connection takes frames again, after it did not take all of a
// batch.
func (c *Client) Drained() { c.shard.drain(c) }

// Replayed is how many bytes of histories Redis was read for, for this client, since it was last called.
func (c *Client) Replayed() int { return int(c.replayed.Swap(0)) << 10 }

// outstanding is how many joins of one client may wait for their rooms.
const outstanding = 32

// A JoinRoom is a room, and a position from which a client wants the events that it has
// missed; none when Since is zero.
type JoinRoom struct {
	Room  proto.Room
	Since proto.Position
}

// Join makes the client a member of rooms. For each room its shard writes, as the
// room takes effect, a joined frame that repeats id; the last one is done and names
// the denied as well. A room that is left again before it took effect is denied as
// superseded. The caller has checked names and rights. It is false, and nothing is
// done, while 32 joins have not been answered yet.
func (c *Client) Join(id string, rooms []JoinRoom, denied []proto.DeniedRoom) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return true
	}
	if c.open.Load() >= outstanding {
		return false
	}
	c.open.Add(1)
	if len(rooms) == 0 {
		c.shard.command(add{reply: &reply{client: c, id: id, denied: denied}})
		return true
	}
	r := &reply{client: c, id: id, denied: denied, left: len(rooms)}
	for _, j := range rooms {
		name := j.Room
		i := c.find(name)
		if i < 0 {
			i = len(c.members)
			c.members = append(c.members, &member{conn: c.conn, client: c, index: -1})
		}
		c.hub.enter(name, add{member: c.members[i], name: name, since: j.Since, reply: r})
	}
	return true
}

// find is the place of a room in members, or -1. It is called with mu held. Rooms of a
// client are few: a map would cost each connection more than it saves.
func (c *Client) find(name proto.Room) int {
	for i, m := range c.members {
		if m.local.name == name {
			return i
		}
	}
	return -1
}

// Leave ends memberships. What is on its way to the connection may still arrive
// before the left frame that the shard writes; nothing arrives after it. Rooms in
// which the client is not are not named in the frame.
func (c *Client) Leave(id string, rooms []proto.Room) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	r := remove{client: c, id: id, reply: true, names: []proto.Room{}}
	for _, name := range rooms {
		if i := c.find(name); i >= 0 {
			m := c.members[i]
			last := len(c.members) - 1
			c.members[i], c.members[last] = c.members[last], nil
			c.members = c.members[:last]
			m.gone.Store(true)
			c.hub.leave(m)
			r.members = append(r.members, m)
			r.names = append(r.names, name)
		}
	}
	c.shard.command(r)
}

// Rooms are the rooms that the client has joined or is joining.
func (c *Client) Rooms() []proto.Room {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]proto.Room, 0, len(c.members))
	for _, m := range c.members {
		names = append(names, m.local.name)
	}
	return names
}

// Close makes the client unknown and ends its memberships, without a word to it.
func (c *Client) Close() {
	c.hub.mu.Lock()
	delete(c.hub.clients, c.id)
	c.hub.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	r := remove{client: c, members: c.members}
	for _, m := range c.members {
		m.gone.Store(true)
		c.hub.leave(m)
	}
	c.members = nil
	c.shard.command(r)
}

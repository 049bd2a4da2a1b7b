package bus_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// ways are those in which events travel on a cluster.
var ways = []emitter.PubSub{emitter.Sharded, emitter.Classic}

// spread are rooms of all masters, and who has each.
func spread(t *testing.T, c *redistest.Cluster, n int) map[proto.Room]*redistest.Server {
	t.Helper()
	rooms := map[proto.Room]*redistest.Server{}
	of := map[*redistest.Server]bool{}
	for i := range n {
		r := proto.Room(fmt.Sprint("r", i))
		rooms[r] = c.Master(r)
		of[rooms[r]] = true
	}
	if len(of) != 3 {
		t.Fatalf("the rooms are of %d masters", len(of))
	}
	return rooms
}

// listening is a node that hears 30 rooms of all masters.
func listening(t *testing.T, c *redistest.Cluster, at emitter.Settings) (*node, map[proto.Room]*redistest.Server) {
	t.Helper()
	n, rooms := start(t, at), spread(t, c, 30)
	for r := range rooms {
		n.Subscribe(r)
		n.await(t, "heard "+string(r))
	}
	return n, rooms
}

// hears sends an event to every room until it is received.
func (n *node) hears(t *testing.T, rooms map[proto.Room]*redistest.Server, event proto.EventName) {
	t.Helper()
	for r := range rooms {
		line := fmt.Sprintf("%s: %s 1 except []", r, event)
		redistest.Wait(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = n.emitter.SendToRoom(ctx, r, event, 1)
			return n.count(line) > 0
		}, "%q", line)
	}
}

// TestSlotsMove: a room is heard from the master that has its slot now, and the others are
// not touched. So is the node's inbox.
func TestSlotsMove(t *testing.T) {
	c := redistest.StartCluster(t)
	n, rooms := listening(t, c, c.Settings())
	n.hears(t, rooms, "before")
	moves := []proto.Room{"r0", "r1", proto.NodeRoom(n.id)}
	for _, r := range moves {
		to := rooms["r2"]
		for _, s := range rooms {
			if s != c.Master(r) {
				to = s
			}
		}
		c.Migrate(r, 1, to)
		if c.Master(r) != to {
			t.Fatalf("%s has not moved", r)
		}
	}
	for _, r := range moves[:2] {
		redistest.Wait(t, func() bool { return n.count("heard "+string(r)) == 2 }, "%s to be heard from its new master", r)
	}
	for r := range rooms {
		if times := n.count("heard " + string(r)); times != 1 && !slices.Contains(moves, r) {
			t.Errorf("%s was asked for %d times, though its slot has not moved", r, times)
		}
	}
	n.hears(t, rooms, "after")
	client := proto.NewClientID(n.id)
	redistest.Wait(t, func() bool {
		_, _ = n.emitter.SendToClient(t.Context(), client, "e", 1)
		return n.count("client "+string(client)+": e 1") > 0
	}, "the inbox to be heard from its new master")
	if err := n.Ready(); err != nil || n.count("degraded true") > 0 {
		t.Errorf("ready: %v", err)
	}
}

// TestCanaryMoves: when the slot of a canary moves it goes on in another one, and the
// connection stays.
func TestCanaryMoves(t *testing.T) {
	c := redistest.StartCluster(t)
	n, rooms := listening(t, c, c.Settings())
	to := rooms["r0"]
	for i, moved := 0, map[*redistest.Server]bool{to: true}; len(moved) < 3; i++ {
		canary := proto.CanaryRoom(n.id, i)
		if from := c.Master(canary); !moved[from] { // the first of a master is its canary
			moved[from] = true
			c.Migrate(canary, 1, to)
		}
	}
	<-time.After(6 * time.Second) // longer than a connection may be without one
	n.metric(t, "signal_bus_interruptions_total", "How often Redis was lost. Live events published until it is back are lost.", "counter",
		"signal_bus_interruptions_total 0")
	n.hears(t, rooms, "after")
}

// TestMasterIsKilled: rooms are heard from the replica that takes its place, and those of
// other masters go on being heard.
func TestMasterIsKilled(t *testing.T) {
	for _, w := range ways {
		t.Run(string(w), func(t *testing.T) {
			c := redistest.StartCluster(t)
			at := c.Settings()
			at.PubSub = w
			n, rooms := listening(t, c, at)
			n.hears(t, rooms, "before")
			dead := rooms["r0"]
			began := time.Now()
			c.KillMaster(dead)
			promoted := time.Since(began)
			n.hears(t, rooms, "after")
			t.Logf("a replica after %s, all rooms heard after %s", promoted, time.Since(began))
			for r, master := range rooms {
				if times := n.count("heard " + string(r)); w == emitter.Sharded && times != 1 && master != dead {
					t.Errorf("%s was asked for %d times, though its master lives", r, times)
				}
			}
			redistest.Wait(t, func() bool { return n.Ready() == nil }, "the bus to be ready")
		})
	}
}

// TestClassicLeavesTheDead: what is published classically is heard from another server when the
// one listened to dies and has no replica.
func TestClassicLeavesTheDead(t *testing.T) {
	c := redistest.StartCluster(t)
	at := c.Settings()
	at.PubSub = emitter.Classic
	n, rooms := listening(t, c, at)
	masters := slices.Collect(maps.Values(rooms))
	var dead *redistest.Server
	for _, s := range c.Servers {
		switch {
		case !slices.Contains(masters, s):
			s.Kill()
		case s.Subscribed(at.Layout().Channel("r0")) > 0:
			dead = s
		}
	}
	dead.Kill()
	maps.DeleteFunc(rooms, func(_ proto.Room, master *redistest.Server) bool { return master == dead })
	n.hears(t, rooms, "after")
}

// TestFailover: an operator lets a replica take its master's place.
func TestFailover(t *testing.T) {
	c := redistest.StartCluster(t)
	n, rooms := listening(t, c, c.Settings())
	for _, r := range []proto.Room{"r0", "r0"} { // and back
		c.Failover(c.Master(r))
		n.hears(t, rooms, proto.EventName(fmt.Sprint("after", n.count("lost"))))
	}
	redistest.Wait(t, func() bool { return n.Ready() == nil }, "the bus to be ready")
}

var message = regexp.MustCompile(`\*3\r\n\$7\r\nmessage\r\n\$\d+\r\n[^\r]*\r\n\$\d+\r\n[^\r]*\r\n`)

// TestStaleConnection: a connection on which Redis answers, and nothing arrives that is
// published, is given up; as long as the next ones are no better, the node is not ready.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	var stale atomic.Bool
	n := start(t, proxy(t, srv, func(to io.Writer, b []byte) {
		if stale.Load() {
			b = message.ReplaceAll(b, nil)
		}
		_, _ = to.Write(b)
	}))
	n.Subscribe("orders")
	n.await(t, "heard orders")
	stale.Store(true)
	began := time.Now()
	redistest.Wait(t, func() bool { return n.count("lost") > 0 }, "the connection to be given up")
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("that took %s", took)
	}
	redistest.Wait(t, func() bool {
		err := n.Ready()
		return err != nil && strings.Contains(err.Error(), "nothing of what is published comes")
	}, "the node not to be ready, and to say why")
	stale.Store(false)
	n.await(t, "degraded false")
	redistest.Wait(t, func() bool { return n.Ready() == nil }, "the node to be ready")
}

// TestUserOfACluster: a node may have a user of its own with no more rights than it needs.
func TestUserOfACluster(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Servers {
		rdb := s.Client()
		defer rdb.Close()
		// All channels: the patterns of the original have the node's id in them.
		if err := rdb.Do(t.Context(), "ACL", "SETUSER", "node", "on", ">pw", "~sg:*", "allchannels", "-@all",
			"+@read", "+@write", "+@pubsub", "+@scripting", "+@connection", "+cluster", "+time", "+info").Err(); err != nil {
			t.Fatal(err)
		}
	}
	at := c.Settings()
	at.Username, at.Password = "node", "pw"
	n, rooms := listening(t, c, at)
	n.hears(t, rooms, "event")
	c.Failover(rooms["r0"])
	n.hears(t, rooms, "after")
}

// TestEverythingRestarts: a cluster that comes back empty is listened to again.
func TestEverythingRestarts(t *testing.T) {
	c := redistest.StartCluster(t)
	n, rooms := listening(t, c, c.Settings())
	c.Kill()
	n.await(t, "degraded true")
	c.Restart()
	n.await(t, "degraded false")
	n.hears(t, rooms, "after")
}

package emitter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// TestAckExists: an event of which a cluster's master has said that it took it is there, and so is a
// revocation, also if that master stood still until its replica had taken its place, and said so when it woke.
func TestAckExists(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	defer c.FailsOver()()
	const services, rooms = 16, 24
	type acked struct {
		room proto.Room
		id   proto.EventID
		at   proto.Position
	}
	var (
		mu      sync.Mutex
		all     []acked
		revoked []proto.UserID
		over    atomic.Bool
		working sync.WaitGroup
	)
	for s := range services {
		e := open(t, c.Settings())
		for r := range rooms {
			working.Go(func() {
				for i := 0; !over.Load(); i++ {
					room, id := proto.Room(fmt.Sprintf("s%d.%d.%d", s, r, i/100)), proto.EventID(fmt.Sprint("e", i)) // a room's log has 256
					receipt, err := e.SendToRoom(context.Background(), room, "n", i, emitter.EventID(id))
					if err == nil {
						mu.Lock()
						all = append(all, acked{room, id, receipt.Position})
						mu.Unlock()
					} else if !errors.Is(err, emitter.ErrUnavailable) {
						t.Error(err)
					}
					<-time.After(20 * time.Millisecond)
				}
			})
		}
		working.Go(func() {
			for i := 0; !over.Load(); i++ {
				user := proto.UserID(fmt.Sprint("u", s, ".", i))
				if e.Revoke(context.Background(), proto.Revocation{User: user}) == nil {
					mu.Lock()
					revoked = append(revoked, user)
					mu.Unlock()
				}
				<-time.After(20 * time.Millisecond)
			}
		})
	}
	for _, key := range []proto.Room{proto.Control, "s0.0.0", proto.Control} {
		<-time.After(500 * time.Millisecond)
		master := c.Master(key)
		master.Pause()
		<-time.After(4 * time.Second) // its replica takes its place after two and a half
		master.Resume()
		c.Settled()
	}
	over.Store(true)
	working.Wait()
	e := open(t, c.Settings())
	kept := map[proto.Room]map[proto.EventID]proto.Position{}
	lost := 0
	for _, a := range all {
		if kept[a.room] == nil {
			kept[a.room] = map[proto.EventID]proto.Position{}
			for next := (emitter.Read{Room: a.room, From: 1, Look: true}); ; {
				p := e.Read(t.Context(), []emitter.Read{next})[0]
				if p.Err != nil || p.Found != proto.OK {
					t.Fatalf("%s: %s, %v", a.room, p.Found, p.Err)
				}
				for _, m := range p.Events {
					kept[a.room][m.EventID] = m.Position
					next = emitter.Read{Room: a.room, Since: m.Position.String(), Look: true}
				}
				if len(p.Events) == 0 || p.Events[len(p.Events)-1].Position == p.Top {
					break
				}
			}
		}
		if kept[a.room][a.id] != a.at {
			lost++
		}
	}
	t.Logf("%d events and %d revocations acknowledged", len(all), len(revoked))
	if lost > 0 {
		t.Errorf("%d of %d acknowledged events are not where they were said to be", lost, len(all))
	}
	written := map[proto.UserID]bool{}
	for after, more := "", true; more; {
		page, last, _, m, err := e.Revocations(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			written[r.User] = true
		}
		after, more = last, m
	}
	for _, u := range revoked {
		if !written[u] {
			t.Errorf("%s is not revoked any more", u)
		}
	}
}

// TestProofWithoutReplicas: a master whose replica is gone, or that never had one, or that may not be asked for its
// replicas, goes on: the other servers' word is enough.
func TestProofWithoutReplicas(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(*testing.T, *redistest.Cluster) emitter.Settings{
		"none": func(t *testing.T, c *redistest.Cluster) emitter.Settings {
			for _, s := range c.Servers[3:] {
				s.Kill()
			}
			return c.Settings()
		},
		"no right to ask": func(t *testing.T, c *redistest.Cluster) emitter.Settings {
			for _, s := range c.Servers {
				rdb := s.Client()
				if err := rdb.Do(t.Context(), "ACL", "SETUSER", "sale", "on", ">pw", "~sg:*", "&sg:*", "+@all", "-wait").Err(); err != nil {
					t.Fatal(err)
				}
				_ = rdb.Close()
			}
			at := c.Settings()
			at.Username, at.Password = "sale", "pw"
			return at
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := redistest.StartCluster(t)
			e := open(t, take(t, c))
			for i := range 40 {
				if _, err := e.SendToRoom(t.Context(), proto.Room(fmt.Sprint("r", i)), "n", i); err != nil {
					t.Fatal(err)
				}
				if i%10 == 0 {
					<-time.After(1100 * time.Millisecond) // a proof is over
				}
			}
			if err := e.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSlotOnItsWay: while a slot goes from one master to another, what is written to it is written, and counts.
func TestSlotOnItsWay(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	e := open(t, c.Settings())
	ctx, layout := t.Context(), c.Settings().Layout()
	if err := e.Revoke(ctx, proto.Revocation{User: "before"}); err != nil {
		t.Fatal(err)
	}
	from := c.Master(proto.Control)
	var to *redistest.Server
	for _, other := range []proto.Room{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if to = c.Master(other); to != from {
			break
		}
	}
	old, fresh := from.Client(), to.Client()
	defer old.Close()
	defer fresh.Close()
	slot := old.ClusterKeySlot(ctx, layout.Revoked()).Val()
	ids := [2]string{old.Do(ctx, "CLUSTER", "MYID").Val().(string), fresh.Do(ctx, "CLUSTER", "MYID").Val().(string)}
	if err := errors.Join(fresh.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0]).Err(), old.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1]).Err()); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(to.Addr)
	for _, key := range old.ClusterGetKeysInSlot(ctx, int(slot), 100).Val() {
		if err := old.Do(ctx, "MIGRATE", host, port, key, 0, 5000).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Revoke(ctx, proto.Revocation{User: "meanwhile"}); err != nil {
		t.Errorf("a revocation: %v", err)
	}
	all, _, _, _, err := e.Revocations(ctx, "")
	if err != nil || len(all) != 2 {
		t.Errorf("%d revocations, %v", len(all), err)
	}
}

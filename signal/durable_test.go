package signal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/bus"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// A server is a Redis that can go away.
type server interface {
	Settings() emitter.Settings
	Kill()
	Restart(args ...string)
}

// An embedded is the Redis of signal dev.
type embedded struct {
	t     testing.TB
	addr  string
	stop  func()
	ended chan error
}

func (e *embedded) Settings() emitter.Settings { return emitter.Settings{Addrs: []string{e.addr}} }

func (e *embedded) Restart(...string) {
	l, err := net.Listen("tcp", e.addr)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop, e.ended = stop, make(chan error, 1)
	go func() { e.ended <- bus.RunEmbedded(ctx, l) }()
}

func (e *embedded) Kill() {
	if e.stop == nil {
		return // it is dead
	}
	e.stop()
	e.stop = nil
	if err := <-e.ended; err != nil {
		e.t.Errorf("RunEmbedded: %v", err)
	}
}

// eachRedis are a real Redis, a real cluster and an embedded one.
func eachRedis(t *testing.T) map[string]server {
	t.Helper()
	e := &embedded{t: t, addr: redistest.FreeAddr(t)}
	e.Restart()
	t.Cleanup(e.Kill)
	return map[string]server{"single": redistest.Start(t), "cluster": redistest.StartCluster(t), "embedded": e}
}

// join joins rooms from positions, and returns what the node says of the first one.
func join(t *testing.T, c *wstest.Client, room proto.Room, since string) proto.JoinedRoom {
	t.Helper()
	c.Send("join", map[string]any{"rooms": []any{map[string]any{"room": room, "since": since}}}, "again")
	var j proto.Joined
	if f := c.Expect(t, "joined"); json.Unmarshal(f.Data, &j) != nil || len(j.Rooms) != 1 || !j.Done {
		t.Fatalf("joined %s", f.Data)
	}
	return j.Rooms[0]
}

// expectNumbers reads n events and wants them to be the next after a position. It returns
// where the last one is.
func expectNumbers(t *testing.T, c *wstest.Client, at proto.Position, n int) proto.Position {
	t.Helper()
	for range n {
		f := c.Expect(t, "n")
		if f.Sequence != at.Sequence+1 || f.Position.Epoch != at.Epoch || string(f.Data) != fmt.Sprint(f.Sequence) {
			t.Fatalf("after %s comes %s with %s", at, f.Position, f.Data)
		}
		at = f.Position
	}
	return at
}

// TestRecover: a till that was away gets what it missed, in order and before what comes
// then, whichever node it comes back to; one that was away for too long is told so.
func TestRecover(t *testing.T) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			server := redis.Settings()
			near, far := run(t, settings(server)), run(t, settings(server))
			tok := token(t, "u1", proto.Grants{"*"}, nil)
			e := emitter.New(server)
			defer e.Close()
			sent := 0
			send := func(n int) (at proto.Position) {
				t.Helper()
				for range n {
					sent++
					r, err := e.SendToRoom(t.Context(), "orders", "n", sent)
					if err != nil || r.Position.Sequence != uint64(sent) {
						t.Fatalf("%+v, %v", r, err)
					}
					at = r.Position
				}
				return at
			}
			stays := wstest.Login(t, near.addr(), tok)
			began := join(t, stays, "orders", "").Position
			here := wstest.Login(t, near.addr(), tok)
			if j := join(t, here, "orders", ""); j.Recovered || j.Reason != proto.Fresh || j.Position != began {
				t.Errorf("a first join: %+v, want it fresh at %s", j, began)
			}
			send(3)
			at := expectNumbers(t, here, began, 3)
			here.Cut()
			send(20)
			for name, node := range map[string]*node{"the node that it left": near, "another node": far} {
				before := sent
				c := wstest.Login(t, node.addr(), tok)
				j := join(t, c, "orders", at.String())
				if !j.Recovered || j.Position != at || j.Replayed != before-3 {
					t.Errorf("%s: %+v, want it recovered from %s", name, j, at)
				}
				send(2)
				last := expectNumbers(t, c, at, before-3+2)
				if j := join(t, c, "orders", last.String()); !j.Recovered || j.Replayed != 0 {
					t.Errorf("%s: from where the room is: %+v", name, j)
				}
				if j := join(t, c, "orders", began.String()); !j.Recovered || j.Replayed != sent {
					t.Errorf("%s: again from the beginning: %+v", name, j)
				}
				expectNumbers(t, c, began, sent)
				c.Cut()
			}
			send(300)
			for name, v := range map[string]struct {
				since  string
				reason proto.Found
			}{
				"away for too long":   {at.String(), proto.Behind},
				"another incarnation": {"abcdefgh.3.0123456789ab", proto.Epoch},
				"another branch":      {began.Epoch.String() + ".320.0123456789ab", proto.Forked},
				"ahead of the room":   {began.Epoch.String() + ".4000.0123456789ab", proto.Rewound},
			} {
				for _, node := range []*node{near, far} {
					c := wstest.Login(t, node.addr(), tok)
					j := join(t, c, "orders", v.since)
					if j.Recovered || j.Reason != v.reason || j.Position.Sequence > uint64(sent) {
						t.Errorf("%s: %+v, want it not recovered: %s", name, j, v.reason)
					}
					send(1)
					expectNumbers(t, c, j.Position, sent-int(j.Position.Sequence))
					c.Cut()
				}
			}
			expectNumbers(t, stays, began, sent)
		})
	}
}

// unheard publishes an event which Redis takes and no node hears: its message was lost.
func unheard(t *testing.T, redisAt emitter.Settings, room proto.Room, id string, data int) proto.Position {
	t.Helper()
	source, err := os.ReadFile("../emitter/publish.lua")
	if err != nil {
		t.Fatal(err)
	}
	rdb := redisAt.Open()
	defer rdb.Close()
	l := redisAt.Layout()
	e := proto.Event{Event: "n", EventID: proto.EventID(id), Data: json.RawMessage(fmt.Sprint(data))}
	said, err := redis.NewScript(string(source)).Run(t.Context(), rdb,
		[]string{l.Position(room), l.Log(room), l.Once(room, e.EventID)},
		"nowhere", "PUBLISH", "256 600 86400 120", "lostlost", "", id, proto.Fingerprint(e), proto.Body(proto.AppendMessage(nil, proto.Message{Event: e}))).Slice()
	if err != nil {
		t.Fatal(err)
	}
	at, err := proto.ParsePosition(said[1].(string))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestLostMessages: what Redis took and no node heard reaches the till with the next event,
// or when the node looks where the room is.
func TestLostMessages(t *testing.T) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			server := redis.Settings()
			t.Parallel()
			n := run(t, settings(server))
			c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
			at := join(t, c, "orders", "").Position
			unheard(t, server, "orders", "a", 1)
			unheard(t, server, "orders", "b", 2)
			if _, err := n.SendToRoom(t.Context(), "orders", "n", 3); err != nil {
				t.Fatal(err)
			}
			at = expectNumbers(t, c, at, 3)
			unheard(t, server, "orders", "c", 4)
			began := time.Now()
			expectNumbers(t, c, at, 1)
			t.Logf("healed after %s", time.Since(began).Round(10*time.Millisecond))
		})
	}
}

// TestPoisonedRoom: whatever stands at the keys of one room, others are looked after, and it heals with a word to
// its members.
func TestPoisonedRoom(t *testing.T) {
	for name, redis := range eachRedis(t) {
		for what, key := range map[string]func(proto.Layout) string{
			"position": func(l proto.Layout) string { return l.Position("poison") },
			"log":      func(l proto.Layout) string { return l.Log("poison") },
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				server := redis.Settings()
				orders := proto.Room("orders-" + what) // numbers in it begin at 1
				n := run(t, settings(server))
				poisoned := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"*"}, nil))
				at := join(t, poisoned, "poison", "").Position
				c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
				healthy := join(t, c, orders, "").Position
				unheard(t, server, orders, what+"-before", 1)
				healthy = expectNumbers(t, c, healthy, 1)
				rdb := server.Open()
				defer rdb.Close()
				if err := errors.Join(rdb.Del(t.Context(), key(server.Layout())).Err(), rdb.SAdd(t.Context(), key(server.Layout()), "x").Err()); err != nil {
					t.Fatal(err)
				}
				if what == "log" { // which is read when something is missing
					at.Sequence++
					if err := rdb.Set(t.Context(), server.Layout().Position("poison"), at.String(), time.Hour).Err(); err != nil {
						t.Fatal(err)
					}
				}
				unheard(t, server, orders, what+"-after", 2)
				expectNumbers(t, c, healthy, 1)
				if f := poisoned.Expect(t, "resync"); !strings.Contains(string(f.Data), `"poison"`) {
					t.Errorf("told %s, want of the poisoned room, which stood at %s", f.Data, at)
				}
			})
		}
	}
}

// TestMayPublishNoMore: an event for which the service has lost the right is refused, and nothing
// of it is kept: the next one follows the last.
func TestMayPublishNoMore(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
	at := join(t, c, "orders", "").Position
	rdb := srv.Client()
	defer rdb.Close()
	acl := func(channels string) {
		t.Helper()
		if err := rdb.Do(t.Context(), "ACL", "SETUSER", "sale", "reset", "on", ">pw", "~sg:*", "+@all", channels).Err(); err != nil {
			t.Fatal(err)
		}
	}
	acl("&sg:*")
	as := srv.Settings()
	as.Username, as.Password = "sale", "pw"
	e := emitter.New(as)
	defer e.Close()
	if _, err := e.SendToRoom(t.Context(), "orders", "n", 1); err != nil {
		t.Fatal(err)
	}
	acl("&other:*")
	if _, err := e.SendToRoom(t.Context(), "orders", "n", "refused"); !errors.Is(err, emitter.ErrRefused) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("the service was told %v", err)
	}
	acl("&sg:*")
	if _, err := e.SendToRoom(t.Context(), "orders", "n", 2); err != nil {
		t.Fatal(err)
	}
	expectNumbers(t, c, at, 2)
}

// TestReusedID: the same event twice is one event, another one under its id is refused.
func TestReusedID(t *testing.T) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			server := redis.Settings()
			n := run(t, settings(server))
			c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"}), "orders")
			for i, v := range []struct {
				data      int
				duplicate bool
				failed    proto.ErrorCode
			}{{1, false, ""}, {1, true, ""}, {2, false, proto.CodeReused}} {
				c.Send("publish", map[string]any{"room": "orders", "event": "n", "data": v.data, "eventId": "order-42"}, fmt.Sprint(i))
				expected := 1
				if i == 0 {
					expected = 2 // the ack and the event
				}
				for range expected {
					var ack proto.Ack
					switch f, err := c.Next(); {
					case err != nil:
						t.Fatal(err)
					case f.Event == "n" && i == 0:
					case f.Event == "error" && f.Error().Code == v.failed && v.failed != "":
					case f.Event == "ack" && v.failed == "" && json.Unmarshal(f.Data, &ack) == nil && ack.Duplicate == v.duplicate && ack.Sequence == 1 && ack.Position.Sequence == 1:
					default:
						t.Errorf("try %d: %s %s", i, f.Event, f.Data)
					}
				}
			}
		})
	}
}

// TestHistoryOverHTTP: a page takes the state that a service has set and joins from its
// position, or asks for what it missed. Who may not join gets nothing.
func TestHistoryOverHTTP(t *testing.T) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			server := redis.Settings()
			n := run(t, settings(server))
			tok := token(t, "u1", proto.Grants{"orders", "a/b c"}, nil)
			e := emitter.New(server)
			defer e.Close()
			ask := func(path, token string) (int, map[string]any) {
				t.Helper()
				q, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.addr()+path, nil)
				if token != "" {
					q.Header.Set("Authorization", "Bearer "+token)
				}
				r, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				var body map[string]any
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Fatal(err)
				}
				return r.StatusCode, body
			}
			began, err := e.Position(t.Context(), "orders")
			if err = errors.Join(err, e.Renew(t.Context(), []proto.Room{"orders"})); err != nil {
				t.Fatal(err)
			}
			var at [5]string
			for i := range 5 {
				r, err := e.SendToRoom(t.Context(), "orders", "n", i+1)
				if err != nil {
					t.Fatal(err)
				}
				at[i] = r.Position.String()
			}
			if err := e.SetSnapshot(t.Context(), "orders", map[string]int{"open": 3}, began); err != nil {
				t.Fatal(err)
			}
			for _, v := range []struct {
				path, token string
				status      int
				says        string
			}{
				{"/replay/orders?fromSeq=1", tok, 200, "1 2 3 4 5"},
				{"/replay/orders?fromSeq=4", tok, 200, "4 5"},
				{"/replay/orders?fromSeq=6", tok, 200, ""},
				{"/replay/orders?since=" + began.String(), tok, 200, "1 2 3 4 5"},
				{"/replay/orders?since=" + at[2], tok, 200, "4 5"},
				{"/replay/orders?since=" + at[4], tok, 200, ""},
				{"/replay/orders?fromSeq=7", tok, 410, "rewound"},
				{"/replay/orders?since=abcdefgh.1.0123456789ab", tok, 410, "epoch"},
				{"/replay/orders?since=" + began.Epoch.String() + ".2.0123456789ab", tok, 410, "forked"},
				{"/replay/orders?since=" + began.Epoch.String() + ".5.0123456789ab", tok, 410, "forked"},
				{"/replay/orders?since=x", tok, 400, "bad_position"},
				{"/replay/orders?fromSeq=0", tok, 400, "bad_request"},
				{"/replay/orders?fromSeq=-1", tok, 400, "bad_request"},
				{"/replay/orders", tok, 400, "bad_request"},
				{"/replay/orders?fromSeq=1&since=x", tok, 400, "bad_request"},
				{"/replay/payments?fromSeq=1", tok, 403, "forbidden"},
				{"/replay/orders?fromSeq=1", "", 401, "unauthenticated"},
				{"/replay/orders?fromSeq=1", "x", 401, "authentication_failed"},
				{"/replay/a%7Bb?fromSeq=1", tok, 400, "bad_name"},
				{"/replay/$user:u2?fromSeq=1", tok, 400, "reserved"},
				{"/replay/a/b%20c?since=abcdefgh.1.0123456789ab", tok, 404, "not_found"},
				{"/snapshot/payments", tok, 403, "forbidden"},
				{"/snapshot/a/b%20c", tok, 404, "not_found"},
				{"/snapshot/orders", tok, 200, "open"},
			} {
				status, body := ask(v.path, v.token)
				said := fmt.Sprint(body)
				if events, ok := body["events"].([]any); ok {
					said = ""
					for _, e := range events {
						said += fmt.Sprintf(" %v", e.(map[string]any)["data"])
					}
					said = strings.TrimSpace(said)
					if said != v.says {
						t.Errorf("%s: events %q, want %q", v.path, said, v.says)
					}
				}
				if status != v.status || !strings.Contains(said, v.says) {
					t.Errorf("%s: %d %v, want %d and %s", v.path, status, body, v.status, v.says)
				}
			}
			_, snap := ask("/snapshot/orders", tok)
			c := wstest.Login(t, n.addr(), tok)
			if j := join(t, c, "orders", snap["position"].(string)); !j.Recovered || j.Replayed != 5 {
				t.Errorf("from the snapshot: %+v", j)
			}
			expectNumbers(t, c, began, 5)
			for what, p := range map[string]proto.Position{"no position": {}, "another room's": {Epoch: proto.Incarnation([]byte("abcdefgh")), Sequence: 1, Tag: began.Tag}} {
				if err := e.SetSnapshot(t.Context(), "orders", 1, p); !errors.Is(err, emitter.ErrInvalid) {
					t.Errorf("%s: %v", what, err)
				}
			}
			rdb := server.Open()
			defer rdb.Close()
			rdb.Del(t.Context(), server.Layout().Position("orders")) // Redis has lost it
			if status, body := ask("/snapshot/orders", tok); status != 410 || body["reason"] != "epoch" || body["position"] == "" {
				t.Errorf("a snapshot of another incarnation: %d %v", status, body)
			}
		})
	}
}

// TestOlderSnapshot: Redis comes back without its last events, and their senders send some of
// them again behind new ones. Rooms that lost something are told, once, and go on; the
// others hear nothing of it.
func TestOlderSnapshot(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	e := emitter.New(srv.Settings())
	defer e.Close()
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil), "orders", "calm")
	send := func(e *emitter.Emitter, room proto.Room, id int) {
		t.Helper()
		if _, err := e.SendToRoom(t.Context(), room, "n", id, emitter.EventID(proto.EventID(fmt.Sprint("id-", id)))); err != nil {
			t.Fatal(err)
		}
	}
	save := func(srv *redistest.Server) {
		t.Helper()
		rdb := srv.Client()
		defer rdb.Close()
		if err := rdb.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for id := range 3 {
		send(e, "orders", id)
		send(e, "calm", id)
	}
	save(srv)
	for id := 3; id < 6; id++ {
		send(e, "orders", id)
	}
	for range 9 {
		c.Expect(t, "n")
	}
	srv.Kill()
	other := srv.Elsewhere() // before the node is back, other events take the numbers of those that are lost
	e2 := emitter.New(other.Settings())
	send(e2, "orders", 100)
	for id := 4; id < 6; id++ { // number 5 and 6 have other events before them now
		send(e2, "orders", id)
	}
	send(e2, "calm", 3)
	e2.Close()
	save(other)
	other.Kill()
	srv.Restart()
	send(e, "orders", 101)
	send(e, "calm", 4)
	top := map[proto.Room]proto.Position{}
	for _, room := range []proto.Room{"orders", "calm"} {
		p, err := e.Position(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		top[room] = p
	}
	at := map[proto.Room]proto.Position{}
	resyncs := map[proto.Room]int{}
	for !maps.Equal(at, top) {
		f, err := c.Next()
		if err != nil {
			t.Fatalf("the till is at %v, the rooms at %v: %v", at, top, err)
		}
		var r proto.Resync
		switch f.Event {
		case "resync":
			if err := json.Unmarshal(f.Data, &r); err != nil {
				t.Fatal(err)
			}
			resyncs[r.Room]++
			at[r.Room] = r.Position
		case "n":
			if was, told := at[f.Room]; told && f.Sequence != was.Sequence+1 {
				t.Errorf("%s: after %s comes %s", f.Room, was, f.Position)
			}
			at[f.Room] = f.Position
		}
	}
	if resyncs["orders"] != 1 || resyncs["calm"] != 0 {
		t.Errorf("resyncs %v, want orders told once, and calm not", resyncs)
	}
	if top["orders"].Sequence != 7 || top["calm"].Sequence != 5 {
		t.Errorf("the rooms are at %v", top)
	}
}

// TestFromSingleToCluster: histories are copied from a single Redis to a cluster as OPERATIONS.md
// says, and a till goes on from where it was.
func TestFromSingleToCluster(t *testing.T) {
	t.Parallel()
	single, cluster := redistest.Start(t), redistest.StartCluster(t)
	before := run(t, settings(single.Settings()))
	tok := token(t, "u1", proto.Grants{"*"}, nil)
	c := wstest.Login(t, before.addr(), tok)
	at := join(t, c, "orders", "").Position
	send := func(to emitter.Settings, from, n int) {
		t.Helper()
		e := emitter.New(to)
		defer e.Close()
		for i := range n {
			if _, err := e.SendToRoom(t.Context(), "orders", "n", from+i); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(single.Settings(), 1, 3)
	at = expectNumbers(t, c, at, 3)
	c.Cut()
	send(single.Settings(), 4, 2)
	before.stop()
	for _, cmd := range [][]string{
		{"--cluster", "import", cluster.Servers[0].Addr, "--cluster-from", single.Addr, "--cluster-copy"},
		{"-c", "-p", cluster.Servers[0].Addr[strings.LastIndex(cluster.Servers[0].Addr, ":")+1:], "del", "sg:{$ctl}:cfg", "sg:{$ctl}:nodes"},
	} {
		if out, err := exec.Command("redis-cli", cmd...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	after := run(t, settings(cluster.Settings()))
	send(cluster.Settings(), 6, 1)
	c = wstest.Login(t, after.addr(), tok)
	if j := join(t, c, "orders", at.String()); !j.Recovered || j.Replayed != 3 {
		t.Errorf("%+v", j)
	}
	expectNumbers(t, c, at, 3)
}

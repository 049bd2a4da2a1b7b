package signal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// A fleet is servers of the original and nodes of ours on one Redis, and tills that know of neither:
// they speak the original's protocol, and go to another server when theirs ends.
type fleet struct {
	t     *testing.T
	tills []*oldTill
	token func(user string) string
	ctx   context.Context

	mu    sync.Mutex
	homes []string // guarded by mu: addresses
	sent  []fleetEvent
}

// An oldTill is a till of the original.
type oldTill struct {
	user    string
	rooms   []proto.Room
	encrypt bool
	leave   context.CancelFunc

	mu    sync.Mutex
	stays []stay         // guarded by mu: the last one has no end while it is connected
	got   map[string]int // guarded by mu: events by their data
}

// A stay is one connection, while it was in all its rooms.
type stay struct {
	id         proto.ClientID
	from, till time.Time
}

// A fleetEvent is one that somebody has sent, and whom it was meant for.
type fleetEvent struct {
	key        string
	began, end time.Time
	meant      func(*oldTill, stay) bool
}

// afterwards is how long after a send an event may be on its way.
const afterwards = 2 * time.Second

func (f *fleet) add(user string, encrypt bool, home string, rooms ...proto.Room) *oldTill {
	v := &oldTill{user: user, rooms: append(rooms, "ws-default"), encrypt: encrypt, got: map[string]int{}}
	f.tills = append(f.tills, v)
	var ctx context.Context
	ctx, v.leave = context.WithCancel(f.ctx)
	f.t.Cleanup(v.leave)
	go func() {
		for at := home; ctx.Err() == nil; at = f.home() {
			v.visit(ctx, f, at)
		}
	}()
	return v
}

func (f *fleet) home() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.homes[rand.IntN(len(f.homes))]
}

// visit is one connection.
func (v *oldTill) visit(ctx context.Context, f *fleet, at string) {
	c, _, err := wstest.Dial(ctx, at, nil)
	if err != nil {
		return
	}
	defer c.Cut()
	if v.encrypt {
		c.Encrypt()
	}
	if c.Authenticate(f.token(v.user)) != nil {
		return
	}
	c.Open(string(proto.AppendFrame(nil, "join", map[string]any{"rooms": v.rooms}, "j")))
	c.Open(`{"event":"echo","data":"in"}`) // what the original answers after it has joined
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if n := len(v.stays); n > 0 && v.stays[n-1].till.IsZero() {
			v.stays[n-1].till = time.Now()
		}
	}()
	for {
		m, err := c.Read(ctx)
		if err != nil {
			return
		}
		var j proto.Joined
		_ = json.Unmarshal(m.Data, &j)
		v.mu.Lock()
		switch {
		case m.Event == "joined" && m.ID == "j" && j.Done, m.Event == "echo:response":
			v.stays = append(v.stays, stay{id: c.ID, from: time.Now()})
		case m.Event == "n":
			v.got[string(m.Data)]++
		}
		v.mu.Unlock()
	}
}

func (v *oldTill) now() (s stay, in bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := len(v.stays); n > 0 {
		s = v.stays[n-1]
	}
	return s, !s.from.IsZero() && s.till.IsZero()
}

func (f *fleet) await() {
	f.t.Helper()
	for _, v := range f.tills {
		redistest.Wait(f.t, func() bool { _, in := v.now(); return in }, "a till to be in")
	}
}

// sends lets somebody send one event, and notes it.
func (f *fleet) sends(kind proto.TargetKind, name string, except []proto.ClientID, send func(data string)) {
	key := fmt.Sprint(kind, " ", name, " ", nextKey.Add(1))
	quoted, _ := json.Marshal(key)
	e := fleetEvent{key: string(quoted), began: time.Now(), meant: func(v *oldTill, s stay) bool {
		switch {
		case slices.Contains(except, s.id):
			return false
		case kind == proto.KindUser:
			return v.user == name
		case kind == proto.KindRoom:
			return slices.Contains(v.rooms, proto.Room(name))
		case kind == proto.KindClient:
			return string(s.id) == name
		}
		return true
	}}
	send(key)
	e.end = time.Now()
	f.mu.Lock()
	f.sent = append(f.sent, e)
	f.mu.Unlock()
}

var nextKey atomic.Int64

// settled waits until everybody has what they must have, and checks that nobody has anything twice, or
// what is for others.
func (f *fleet) settled() (deliveries int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	missing := ""
	redistest.Eventually(func() bool { missing = f.missing(); return missing == "" })
	if missing != "" {
		f.t.Error(missing)
	}
	for _, v := range f.tills {
		v.mu.Lock()
		got := 0
		for _, e := range f.sent {
			n := v.got[e.key]
			got += min(n, 1)
			if n > 1 {
				f.t.Errorf("%s has come %d times", e.key, n)
			}
			if n > 0 && !slices.ContainsFunc(v.stays, func(s stay) bool { return e.meant(v, s) }) {
				f.t.Errorf("%s has come to a till of %s, for which it is not", e.key, v.user)
			}
		}
		if got != len(v.got) {
			f.t.Errorf("a till has %d events, of which %d were sent", len(v.got), got)
		}
		deliveries += got
		v.mu.Unlock()
	}
	return deliveries
}

// missing is an event that somebody was there for all the time, and does not have.
func (f *fleet) missing() string {
	for _, v := range f.tills {
		v.mu.Lock()
		for _, e := range f.sent {
			there := slices.ContainsFunc(v.stays, func(s stay) bool {
				return e.meant(v, s) && s.from.Before(e.began) && (s.till.IsZero() || s.till.After(e.end.Add(afterwards)))
			})
			if there && v.got[e.key] == 0 {
				v.mu.Unlock()
				return fmt.Sprintf("%s is missing at a till of %s", e.key, v.user)
			}
		}
		v.mu.Unlock()
	}
	return ""
}

// round lets everyone who can send do so, to each kind of target.
func (f *fleet) round(ours *emitter.Emitter, node *node, old, server *original) {
	f.t.Helper()
	pick := func() (*oldTill, proto.ClientID) {
		for {
			v := f.tills[rand.IntN(len(f.tills))]
			if s, in := v.now(); in {
				return v, s.id
			}
		}
	}
	v, id := pick()
	_, other := pick()
	_, out := pick()
	room := string(v.rooms[0])
	fine := func(_ emitter.Receipt, err error) {
		f.t.Helper()
		if err != nil {
			f.t.Error(err)
		}
	}
	ctx := f.ctx
	except := []proto.ClientID{out, other}
	for _, live := range []emitter.Option{nil, emitter.Live()} {
		f.sends(proto.KindRoom, room, except, func(d string) {
			fine(ours.SendToRoom(ctx, proto.Room(room), "n", d, live, emitter.Except(except...)))
		})
		f.sends(proto.KindUser, v.user, nil, func(d string) { fine(node.SendToUser(ctx, proto.UserID(v.user), "n", d, live)) })
		f.sends(proto.KindBroadcast, "", except, func(d string) { fine(ours.Broadcast(ctx, "n", d, live, emitter.Except(except...))) })
	}
	f.sends(proto.KindBroadcast, "", nil, func(d string) { fine(node.Broadcast(ctx, "n", d)) })
	f.sends(proto.KindClient, string(id), nil, func(d string) { _, _ = ours.SendToClient(ctx, id, "n", d) }) // who may have gone meanwhile
	f.sends(proto.KindClient, string(other), nil, func(d string) { _, _ = node.SendToClient(ctx, other, "n", d) })
	say := func(o *original, kind proto.TargetKind, name string, except ...proto.ClientID) {
		f.sends(kind, name, except, func(d string) { o.send(f.t, ignisOrder{Kind: kind, Name: name, Event: "n", Data: d, Exclude: except}) })
	}
	say(old, proto.KindRoom, room, except...)
	say(old, proto.KindUser, v.user)
	say(old, proto.KindClient, string(id))
	say(old, proto.KindBroadcast, "")
	if server != nil {
		say(server, proto.KindRoom, room)
		say(server, proto.KindClient, string(other))
		say(server, proto.KindBroadcast, "")
	}
}

// TestFleet: two servers of the original and two nodes of ours on one Redis, 200 tills, and everybody
// sends to everybody: each event comes once to each till for which it is. Then the old servers end, one
// after the other, while events go on. One of them and both nodes encrypt, for tills that want it. On a
// cluster the original speaks to one of its servers.
func TestFleet(t *testing.T) { onEach(t, mixedFleet) }

func mixedFleet(t *testing.T, srv redistest.Redis) {
	at := srv.Settings()
	old, plain, sealed := startOriginal(t, "emitter", at), startOriginal(t, "server", at), startOriginal(t, "server", at, "encrypted")
	cfg := settings(at)
	cfg.Ignis = "mirror"
	a, b := run(t, cfg), run(t, cfg)
	at.Mirror = true
	ours := emitter.New(at)
	defer ours.Close()

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	tokens := map[string]string{}
	for i := range 50 {
		u := fmt.Sprint("u", i)
		tokens[u] = token(t, u, proto.Grants{"*"}, nil)
	}
	f := &fleet{t: t, token: func(user string) string { return tokens[user] }, ctx: ctx, homes: []string{a.addr(), b.addr()}}
	for i := range 200 {
		home := []string{plain.addr, sealed.addr, a.addr(), b.addr()}[i%4]
		f.add(fmt.Sprint("u", i/4), i%4 == 1 || i%8 > 4, home, proto.Room(fmt.Sprint("table:", i%10)))
	}
	f.await()
	for range 30 {
		f.round(ours, a, old, plain)
		f.round(ours, b, old, sealed)
	}
	f.settled()

	// The old ones go while events are sent.
	var sending sync.WaitGroup
	var done atomic.Bool
	sending.Go(func() {
		for !done.Load() {
			f.round(ours, a, old, nil)
		}
	})
	for _, server := range []*original{plain, sealed} {
		server.end()
		f.await()
	}
	done.Store(true)
	sending.Wait()
	for range 10 {
		f.round(ours, b, old, nil)
	}
	t.Logf("%d events came %d times, each once to each till for which it was", len(f.sent), f.settled())
}

// A mirroring is a Redis on which everyone mirrors.
type mirroring struct{ server }

func (m mirroring) Settings() emitter.Settings {
	at := m.server.Settings()
	at.Mirror = true
	return at
}

// TestRollingMove: a thousand tills move from two old servers to two nodes of ours while events go on.
// From its first join there no till misses a durable event; before it none has one twice.
func TestRollingMove(t *testing.T) {
	srv := mirroring{redistest.Start(t)}
	at := srv.Settings()
	olds := []*original{startOriginal(t, "server", at), startOriginal(t, "server", at)}
	cfg := settings(at)
	cfg.Ignis = "mirror"
	a, b := run(t, cfg), run(t, cfg)
	s := newScene(t, srv, 20, a.addr(), b.addr())
	f := &fleet{t: t, token: func(string) string { return s.token }, ctx: s.ctx, homes: []string{olds[0].addr, olds[1].addr}}
	const tills, wave = 1000, 50
	for i := range tills {
		f.add("u1", false, f.homes[i%2], s.rooms[i%20], s.rooms[(i*7+1)%20])
	}
	f.await()
	s.sends(2, at, 50)
	for i, v := range f.tills {
		v.leave()
		s.come(v.rooms[:2])
		if (i+1)%wave == 0 {
			s.await()
		}
	}
	for _, server := range olds {
		server.end()
	}
	records := s.end()
	heard := 0
	for _, v := range f.tills {
		v.mu.Lock()
		for data, n := range v.got {
			if heard += n; n > 1 {
				t.Errorf("%.10s has come %d times to a till on an old server", data, n)
			}
		}
		v.mu.Unlock()
	}
	if heard == 0 {
		t.Error("nobody has heard anything on an old server")
	}
	t.Logf("%d records; %d events heard on old servers", len(records), heard)
}

// TestMirrorIsWrittenAgain: who deletes what is written down, or all, does not end the mirror while a node
// needs it.
func TestMirrorIsWrittenAgain(t *testing.T) {
	t.Parallel() // it waits
	srv := redistest.Start(t)
	rdb := srv.Client()
	defer rdb.Close()
	cfg := settings(srv.Settings())
	cfg.Ignis = "mirror"
	run(t, cfg)
	written := func() bool {
		said := rdb.HGetAll(t.Context(), "sg:{$ctl}:cfg").Val()
		return said["mirror"] == "required" && said["protocol"] != ""
	}
	redistest.Wait(t, written, "it to be written down")
	for _, lose := range []func() error{
		func() error { return rdb.FlushAll(t.Context()).Err() },
		func() error { return rdb.Del(t.Context(), "sg:{$ctl}:cfg").Err() },
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		redistest.Wait(t, written, "it to be written down again")
	}
}

// TestDoctorMoving: at each step of docs/MOVING.md the doctor says which one it is.
func TestDoctorMoving(t *testing.T) {
	srv := redistest.Start(t)
	at := srv.Settings()
	doctor := func(what, ignis string, want ...string) {
		t.Helper()
		out, _ := command(t, append(reaching(at), emitter.IgnisEnv+"="+ignis), "doctor").CombinedOutput()
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("%s, the doctor says\n%s, want %q", what, out, w)
			}
		}
	}
	old, server := startOriginal(t, "emitter", at), startOriginal(t, "server", at)
	doctor("before it began", "listen", "1 servers listen, beside 0 nodes", "step 1 of docs/MOVING.md")
	cfg := settings(at)
	listening := run(t, cfg)
	doctor("with a node that only listens", "listen", "FINDING  the original: 1 servers listen, beside 1 nodes, and what is sent here does not reach", "step 1")
	listening.stop()
	cfg.Ignis = "mirror"
	mirroring := run(t, cfg)
	var sending sync.WaitGroup
	var done atomic.Bool
	sending.Go(func() {
		for !done.Load() {
			old.send(t, ignisOrder{Kind: proto.KindRoom, Name: "orders", Event: "n"})
			if _, err := mirroring.SendToRoom(t.Context(), "orders", "n", 1); err != nil {
				t.Error(err)
			}
			pass(20 * time.Millisecond)
		}
	})
	doctor("with producers of the original", "mirror", "1 servers listen, beside 1 nodes; what is sent here is mirrored", "its emitters or servers sent", "steps 2 and 3")
	done.Store(true)
	sending.Wait()
	old.end()
	doctor("without", "mirror", "sent 0 events", "steps 2 to 4")
	server.end()
	doctor("without servers of the original", "mirror", "0 servers listen, beside 1 nodes", "step 5", "then HSET 'sg:{$ctl}:cfg' mirror off")
	mirroring.stop()
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.HSet(t.Context(), "sg:{$ctl}:cfg", "mirror", "off").Err(); err != nil {
		t.Fatal(err)
	}
	cfg.Ignis = "listen"
	run(t, cfg)
	doctor("at the end", "listen", "0 servers listen, beside 1 nodes", "APP_ENV_SIGNAL_IGNIS=off")
}

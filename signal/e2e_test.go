package signal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// until reads a client's frames up to the first with the event, in order.
func until(t *testing.T, c *wstest.Client, event string) (frames []wstest.Frame) {
	t.Helper()
	for {
		f, err := c.Next()
		if err != nil {
			t.Errorf("client %s after %d frames: %v", c.ID, len(frames), err)
			return frames
		}
		if f.Event == event {
			return frames
		}
		frames = append(frames, f)
	}
}

// untilAll is until, and then at least n frames: what was sent to other rooms before may come after it,
// since servers of a cluster keep no order between channels.
func untilAll(t *testing.T, c *wstest.Client, event string, n int) []wstest.Frame {
	t.Helper()
	frames := until(t, c, event)
	for len(frames) < n {
		f, err := c.Next()
		if err != nil {
			t.Errorf("client %s after %d frames of %d: %v", c.ID, len(frames), n, err)
			break
		}
		frames = append(frames, f)
	}
	return frames
}

// TestSaleToTill is the main job: three nodes, one Redis, services in processes of
// their own, and tills on every node.
func TestSaleToTill(t *testing.T) { onEach(t, saleToTill) }

func saleToTill(t *testing.T, srv redistest.Redis) {
	var nodes []*process
	var tills []*wstest.Client
	for i := range 3 {
		n := startProcess(t, srv)
		nodes = append(nodes, n)
		for tab := range 2 { // alice has two tabs on every node
			rooms := []proto.Room{"orders", "payments", proto.Room(fmt.Sprintf("till:%d%d", i, tab))}
			tills = append(tills, wstest.Login(t, n.addr, token(t, "alice", proto.Grants{"*"}, nil), rooms...))
		}
		tills = append(tills, wstest.Login(t, n.addr, token(t, fmt.Sprint("bob", i), proto.Grants{"*"}, nil), "payments"))
	}
	sale := emitterProcess(t, srv.Settings())
	is := func(what string, got result, receivers int) {
		t.Helper()
		if got.Error != "" || got.Receivers != receivers {
			t.Errorf("%s: %+v, want %d receivers", what, got, receivers)
		}
	}
	is("room", sale(order{Kind: proto.KindRoom, Name: "orders", Event: "room"}), 3)
	is("room of one", sale(order{Kind: proto.KindRoom, Name: "till:11", Event: "one"}), 1)
	is("room with one left out", sale(order{Kind: proto.KindRoom, Name: "payments", Event: "except", Except: []proto.ClientID{tills[0].ID}}), 3)
	is("user", sale(order{Kind: proto.KindUser, Name: "alice", Event: "user"}), 3)
	is("user of one", sale(order{Kind: proto.KindUser, Name: "bob2", Event: "bob"}), 1)
	is("everyone", sale(order{Kind: proto.KindBroadcast, Event: "all"}), 3)
	for _, c := range tills {
		is("client", sale(order{Kind: proto.KindClient, Name: string(c.ID), Event: proto.EventName("to " + c.ID)}), 1)
	}
	is("nobody's room", sale(order{Kind: proto.KindRoom, Name: "empty", Event: "x"}), 0)
	is("nobody", sale(order{Kind: proto.KindUser, Name: "nobody", Event: "x"}), 0)
	if r := sale(order{Kind: proto.KindClient, Name: string(proto.NewClientID(proto.NewNodeID())), Event: "x"}); !strings.Contains(r.Error, emitter.ErrNoReceiver.Error()) {
		t.Errorf("a client of a node that is gone: %+v", r)
	}
	sale(order{Kind: proto.KindBroadcast, Event: "end"})
	for i, c := range tills {
		want := []string{"all", "to " + string(c.ID)}
		if i == 0 {
			want = append(want, "skip") // the room goes on, for who is left out too
		} else {
			want = append(want, "except")
		}
		if i%3 == 2 {
			if i/3 == 2 {
				want = append(want, "bob")
			}
		} else {
			want = append(want, "room", "user")
		}
		if i == 4 {
			want = append(want, "one")
		}
		var got []string
		for _, f := range untilAll(t, c, "end", len(want)) {
			got = append(got, f.Event)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("till %d got %q, want each of %q once", i, got, want)
		}
	}

	t.Run("four services at once", func(t *testing.T) {
		const each = 250
		var g sync.WaitGroup
		for range 4 {
			send := emitterProcess(t, srv.Settings())
			g.Go(func() { is("order", send(order{Kind: proto.KindRoom, Name: "orders", Event: "n", Count: each}), 3) })
		}
		g.Wait()
		sale(order{Kind: proto.KindBroadcast, Event: "end"})
		var first []wstest.Frame
		for i, c := range tills {
			if i%3 == 2 {
				if got := until(t, c, "end"); len(got) != 0 {
					t.Errorf("till %d is in no room and got %d events", i, len(got))
				}
				continue
			}
			got := untilAll(t, c, "end", 4*each)
			next := map[string]int{}
			for _, f := range got {
				var s serial
				if err := json.Unmarshal(f.Data, &s); err != nil || s.N != next[s.From] {
					t.Errorf("till %d: %s of service %s, want number %d", i, f.Data, s.From, next[s.From])
				}
				next[s.From] = s.N + 1
			}
			if len(next) != 4 || len(got) != 4*each {
				t.Errorf("till %d got %v", i, next)
			}
			if first == nil {
				first = got
			}
			for j := range min(len(got), len(first)) {
				if got[j].EventID != first[j].EventID {
					t.Fatalf("till %d has another order than the first one at event %d", i, j)
				}
			}
		}
	})

	for i, n := range nodes {
		if _, metrics := get(t, n.admin, "/metrics"); !strings.Contains(metrics, `dropped_total{reason="slow"} 0`) {
			t.Errorf("node %d has dropped events: %s", i, metrics[strings.Index(metrics, "signal_events_dropped_total{"):][:100])
		}
	}

	t.Run("over HTTP", func(t *testing.T) {
		for name, v := range map[string]struct {
			to        *wstest.Client
			published int // the question and the answer, if any
		}{"a client of this node": {tills[0], 0}, "a client of another node": {tills[3], 2}} {
			published := srv.Publishes(t)
			body := fmt.Sprintf(`{"to":{"client":%q},"event":"http"}`, v.to.ID)
			q, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+nodes[0].addr+"/api/send", strings.NewReader(body))
			q.Header.Set("Authorization", "Bearer "+secret)
			r, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			v.to.Expect(t, "http")
			if n := published(); r.StatusCode != 200 || n != v.published {
				t.Errorf("%s: %s, %d publishes, want %d", name, r.Status, n, v.published)
			}
		}
	})

	t.Run("kill -9 a node", func(t *testing.T) {
		nodes[2].end(t, syscall.SIGKILL)
		if r := sale(order{Kind: proto.KindRoom, Name: "orders", Event: "after"}); r.Error != "" || r.Receivers != 2 {
			t.Errorf("%+v, want two nodes to be left", r)
		}
		if r := sale(order{Kind: proto.KindClient, Name: string(tills[6].ID), Event: "x"}); !strings.Contains(r.Error, emitter.ErrNoReceiver.Error()) {
			t.Errorf("a client of the killed node: %+v", r)
		}
		for i, c := range tills[:6] {
			if i%3 != 2 {
				c.Expect(t, "after")
			}
		}
	})
}

// TestRedisIsKilled: the node keeps its sockets, readiness goes off and on, rooms work
// again, and of what Redis lost each room is told once, before it goes on without a gap.
func TestRedisIsKilled(t *testing.T) { onAll(t, redisIsKilled) }

func redisIsKilled(t *testing.T, srv server) {
	n := startProcess(t, srv)
	c := wstest.Login(t, n.addr, token(t, "u1", proto.Grants{"*"}, nil), "orders")
	e := emitter.New(srv.Settings())
	defer e.Close()
	send := func() emitter.Receipt {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // or it would wait for Redis
		defer cancel()
		r, _ := e.SendToRoom(ctx, "orders", "n", 1)
		return r
	}
	const before = 10
	for range before {
		send()
	}
	for range before { // Redis tells the sender first: killed now, it might not tell the node
		c.Expect(t, "n")
	}
	srv.Kill()
	for range 10 {
		send()
	}
	c.Raw("x") // the socket lives, and says so
	redistest.Wait(t, func() bool {
		status, body := get(t, n.admin, "/readyz")
		return status == 503 && strings.Contains(body, "no Redis for")
	}, "the node to be unready")
	srv.Restart()
	up := time.Now()
	var back time.Duration
	redistest.Wait(t, func() bool {
		heard := send().Receivers == 1
		back = time.Since(up)
		return heard
	}, "the room to be heard again")
	t.Logf("rooms work %s after Redis answers", back.Round(time.Millisecond))
	redistest.Wait(t, func() bool { status, _ := get(t, n.admin, "/readyz"); return status == 200 }, "the node to be ready again")
	var frames []wstest.Frame
	for told := false; !told; { // what is sent before that, the resync may cover
		f, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		told = f.Event == "resync" && strings.Contains(string(f.Data), `"room":"orders"`)
		frames = append(frames, f)
	}
	if _, err := e.SendToRoom(t.Context(), "orders", "end", 1); err != nil {
		t.Fatal(err)
	}
	var (
		events = map[string]int{}
		at     proto.Position // of orders, after the resync
		resync proto.Resync
	)
	for _, f := range append(frames, until(t, c, "end")...) {
		events[f.Event]++
		switch f.Event {
		case "resync":
			_ = json.Unmarshal(f.Data, &resync)
			if resync.Room == "orders" {
				at = resync.Position
				events["resync of orders"]++
			}
		case "n":
			if f.Sequence != at.Sequence+1 || f.Position.Epoch != at.Epoch {
				t.Errorf("after %s comes %s", at, f.Position)
			}
			at = f.Position
		}
	}
	if events["resync of orders"] != 1 || events["resync"] > 5 || events["degraded"] != 1 || events["restored"] != 1 || events["error"] != 1 {
		t.Errorf("client got %v; want each of its rooms told once", events)
	}
	// Of what failed Redis may have taken some when it was back: nobody knows, says the error.
	if s := e.Stats(); s.Failed < 10 || at.Sequence < s.Sent-before-1 || at.Sequence > s.Sent-before-1+s.Failed {
		t.Errorf("the last event has number %d, emitter counted %+v", at.Sequence, s)
	}
	_, metrics := get(t, n.admin, "/metrics")
	if !strings.Contains(metrics, "signal_bus_interruptions_total 1\n") || !strings.Contains(metrics, "signal_bus_up 1\n") {
		t.Error("the metrics do not tell of the interruption")
	}
}

// TestRedisStandsStill: while Redis says nothing, nothing piles up in the node, and its
// clients stay.
func TestRedisStandsStill(t *testing.T) { onEach(t, redisStandsStill) }

func redisStandsStill(t *testing.T, srv redistest.Redis) {
	n := startProcess(t, srv)
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	var tills []*wstest.Client
	for range 20 {
		tills = append(tills, wstest.Login(t, n.addr, tok, "orders"))
	}
	goroutines := func() (count int) {
		_, metrics := get(t, n.admin, "/metrics")
		_, rest, _ := strings.Cut(metrics, "\ngo_goroutines ")
		if _, err := fmt.Sscan(rest, &count); err != nil {
			t.Fatal(err)
		}
		return count
	}
	before := goroutines()
	srv.Pause()
	for range 4 {
		for _, c := range tills {
			c.Send("publish", map[string]any{"room": "orders", "event": "n", "data": 1}, "p")
			c.Send("join", map[string]any{"rooms": []proto.Room{"more"}}, "j")
		}
		pass(time.Second)
		if during := goroutines(); during > before*6/5+len(tills)+20 { // one for each that publishes, and the emitter's
			t.Errorf("%d goroutines, %d before", during, before)
		}
	}
	if long {
		pass(time.Minute)
		if during := goroutines(); during > before*6/5 {
			t.Errorf("%d goroutines after a minute, %d before", during, before)
		}
	}
	srv.Resume()
	redistest.Wait(t, func() bool { return goroutines() <= before+2 }, "the goroutines to end, of which there were %d", before)
	for _, c := range tills {
		for events := 0; events < 4*len(tills) && !long; { // by then they have been refused
			f, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Event == "n" {
				events++
			}
		}
	}
}

// TestScale goes from one node to five and back to two under load: a client that keeps
// its connection gets every event once, in order (S1-16).
func TestScale(t *testing.T) { onAll(t, scale) }

func scale(t *testing.T, srv server) {
	nodes := []*process{startProcess(t, srv)}
	tok := token(t, "u1", proto.Grants{"*"}, nil)
	stay := []*wstest.Client{wstest.Login(t, nodes[0].addr, tok, "orders")}
	e := emitter.New(srv.Settings())
	defer e.Close()
	var stop atomic.Bool
	var sent int
	var g sync.WaitGroup
	g.Go(func() {
		for ; !stop.Load(); sent++ {
			if _, err := e.SendToRoom(t.Context(), "orders", "n", sent); err != nil {
				t.Error(err)
			}
		}
	})
	reads := map[*wstest.Client]chan []wstest.Frame{}
	read := func(c *wstest.Client) {
		reads[c] = make(chan []wstest.Frame, 1)
		go func() { reads[c] <- until(t, c, "end") }()
	}
	read(stay[0])
	for range 4 {
		nodes = append(nodes, startProcess(t, srv))
	}
	c := wstest.Login(t, nodes[1].addr, tok, "orders")
	read(c)
	for _, n := range nodes[2:] {
		wstest.Login(t, n.addr, tok, "orders")
	}
	for _, n := range nodes[2:] {
		n.end(t, syscall.SIGTERM)
	}
	stop.Store(true)
	g.Wait()
	if _, err := e.SendToRoom(t.Context(), "orders", "end", nil); err != nil {
		t.Fatal(err)
	}
	for c := range maps.Keys(reads) {
		frames := <-reads[c]
		var first int
		for i, f := range frames {
			var n int
			if err := json.Unmarshal(f.Data, &n); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = n
			}
			if n != first+i {
				t.Fatalf("event %d came where %d belongs", n, first+i)
			}
		}
		if first+len(frames) != sent || c == stay[0] && first != 0 {
			t.Errorf("%d events from %d, of %d", len(frames), first, sent)
		}
	}
	t.Logf("%d events while the fleet went from 1 to 5 to 2 nodes", sent)
}

// TestCommands tries the door of the product.
func TestCommands(t *testing.T) {
	srv := redistest.Start(t)
	redis := emitter.EnvPrefix + "ADDRS=" + srv.Addr
	for name, v := range map[string]struct {
		env   []string
		args  []string
		fails bool
		says  []string
	}{
		"every mistake": {[]string{"APP_ENV_SIGNAL_ADDR=x", "APP_ENV_SIGNAL_JWT_SECRT=y", "APP_ENV_SIGNAL_FRAME_BYTES=z", emitter.EnvPrefix + "MODE=mesh"}, []string{"serve"}, true,
			[]string{"APP_ENV_SIGNAL_ADDR must be", "APP_ENV_SIGNAL_JWT_SECRET must be", "APP_ENV_SIGNAL_FRAME_BYTES must be", emitter.EnvPrefix + "MODE must be", "did you mean APP_ENV_SIGNAL_JWT_SECRET?"}},
		"a cluster's database": {[]string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret, emitter.EnvPrefix + "MODE=cluster", emitter.EnvPrefix + "DB=1"}, []string{"serve"}, true, []string{emitter.EnvPrefix + "DB must be 0"}},
		"version":              {nil, []string{"version"}, false, []string{"protocol 1"}},
		"token":                {[]string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret}, []string{"token", "--user", "u1", "--rooms", "orders,order:*", "--publish", "chat:*", "--ttl", "1m"}, false, []string{"eyJ"}},
		"token too long":       {[]string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret}, []string{"token", "--user", "u1", "--ttl", "1h"}, true, []string{"at most 15m"}},
		"token of nobody":      {[]string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret}, []string{"token"}, true, []string{"user"}},
		"send":                 {[]string{redis}, []string{"send", "--room", "orders", "order.paid", `{"id":42}`, "--event-id", "e-1"}, false, []string{`{"eventId":"e-1","sequence":1,"position":"`, `"receivers":0}`}},
		"send nowhere":         {[]string{redis}, []string{"send", "order.paid"}, true, []string{"room"}},
		"send no JSON":         {[]string{redis}, []string{"send", "--all", "order.paid", "{"}, true, []string{"not JSON"}},
		"send without Redis":   {[]string{emitter.EnvPrefix + "ADDRS=127.0.0.1:1"}, []string{"send", "--all", "order.paid"}, true, []string{"unavailable"}},
		"health of nobody":     {[]string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret, "APP_ENV_SIGNAL_ADMIN_ADDR=127.0.0.1:1"}, []string{"health"}, true, []string{"refused"}},
		"dev on all addresses": {nil, []string{"dev", "--page", "0.0.0.0:0"}, true, []string{"loopback"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := command(t, v.env, v.args...).CombinedOutput()
			if (err != nil) != v.fails {
				t.Errorf("ended with %v", err)
			}
			for _, s := range v.says {
				if !strings.Contains(string(out), s) {
					t.Errorf("said %q, want %q in it", out, s)
				}
			}
		})
	}
	examine := func(args ...string) (findings int, said string) {
		return examined(t, []string{redis, "APP_ENV_SIGNAL_JWT_SECRET=" + secret}, args...)
	}
	before, said := examine()
	if !strings.Contains(said, "no node listens") || !strings.Contains(said, "to Redis and back") {
		t.Errorf("the doctor says\n%s", said)
	}
	n := startProcess(t, srv)
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 64mb 32mb 30").Err(); err != nil {
		t.Fatal(err)
	}
	for tok, more := range map[string]int{"": -1, "eyJ": -1, token(t, "u1", proto.Grants{"*"}, nil): -2} { // the node, and the limit
		if after, said := examine("--token", tok); after != before+more || !strings.Contains(said, "1 nodes live") || len(tok) < 4 && !strings.Contains(said, "would refuse the token") {
			t.Errorf("the doctor finds %d after %d, and says\n%s", after, before, said)
		}
	}
	for _, args := range [][]string{{"health"}, {"health", "--ready"}} {
		if out, err := command(t, []string{"APP_ENV_SIGNAL_ADMIN_ADDR=" + n.admin}, args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
	// A participant that the others would not hear is refused, and told what differs.
	out, err := command(t, []string{redis, emitter.EnvPrefix + "PUBSUB=sharded", "APP_ENV_SIGNAL_ADDR=127.0.0.1:0", "APP_ENV_SIGNAL_ADMIN_ADDR=127.0.0.1:0", "APP_ENV_SIGNAL_JWT_SECRET=" + secret}, "serve").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `pubsub is \"classic\" there`) { // in a line of JSON
		t.Errorf("a node with another pubsub: %v %s", err, out)
	}
	out, err = command(t, []string{redis, emitter.EnvPrefix + "PUBSUB=sharded"}, "send", "--all", "e").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `pubsub is "classic" there`) {
		t.Errorf("an emitter with another pubsub: %v %s", err, out)
	}
}

// examined is what the doctor finds, and says: but that an event took long, as it does when this machine
// stands still, does not count.
func examined(t *testing.T, env []string, args ...string) (findings int, said string) {
	t.Helper()
	cmd := command(t, env, append([]string{"doctor"}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	said = string(out)
	if n := cmd.ProcessState.ExitCode(); n != strings.Count(said, "FINDING") || n != strings.Count(said, "->") {
		t.Errorf("the doctor's exit code is %d, and it says\n%s", n, said)
	}
	return strings.Count(said, "FINDING") - len(late.FindAllString(said, -1)), said
}

var late = regexp.MustCompile(`FINDING  \S+: an event takes`)

// TestDoctorOfACluster: the doctor looks at all servers of a cluster, at what is wrong with them
// together, and at the others while one does not answer.
func TestDoctorOfACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	c.Configure("client-output-buffer-limit", "pubsub 64mb 32mb 30")
	c.Configure("cluster-node-timeout", "2000") // as an operator should have it
	startProcess(t, c)
	examine := func(says ...string) (findings int) {
		t.Helper()
		findings, said := examined(t, reaching(c.Settings()))
		for _, s := range says {
			if !strings.Contains(said, s) {
				t.Errorf("the doctor says\n%s, want %q in it", said, s)
			}
		}
		return findings
	}
	well := examine("3 masters and 3 replicas are there", "1 nodes live") // this machine may have few files
	control := c.Master(proto.Control)
	replica := c.Servers[slices.IndexFunc(c.Servers, func(s *redistest.Server) bool {
		return !slices.Contains([]*redistest.Server{c.Master("a"), control}, s)
	})]
	for name, value := range map[string]string{"cluster-node-timeout": "15000", "cluster-require-full-coverage": "yes", "maxmemory-policy": "allkeys-lru"} {
		rdb := replica.Client()
		if err := rdb.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
		_ = rdb.Close()
	}
	if n := examine(replica.Addr+" may evict keys", replica.Addr+" takes a dead server for dead after 15000 ms", replica.Addr+" serves no rooms at all"); n != well+3 {
		t.Errorf("%d findings, want %d", n, well+3)
	}
	c.Configure("cluster-node-timeout", "500")
	examine("what that one acknowledges when it wakes may be lost", "min-replicas-to-write 1 has it refuse them")
	c.Configure("cluster-node-timeout", "60000") // nobody takes its place
	control.Pause()
	defer control.Resume()
	examine(control.Addr+" does not answer", control.Addr+" does not say who is in the cluster", "to Redis and back")
}

// TestEnds: a node ends with code 0 within its time whatever else happens: before it has ever
// reached Redis, without a Redis, told many times, and with a client that does not answer.
func TestEnds(t *testing.T) {
	path, err := binary(true)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		early bool // before it reaches Redis
		first func(*testing.T, *redistest.Server, *process)
	}{
		"at its start, without Redis": {early: true},
		"with a client":               {},
		"told many times": {first: func(_ *testing.T, _ *redistest.Server, p *process) {
			go func() {
				for p.cmd.Process.Signal(syscall.SIGTERM) == nil {
					runtime.Gosched()
				}
			}()
		}},
		"Redis is killed":    {first: func(_ *testing.T, srv *redistest.Server, _ *process) { srv.Kill() }},
		"Redis stands still": {first: func(t *testing.T, srv *redistest.Server, _ *process) { srv.Pause(); t.Cleanup(srv.Resume) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			var p *process
			if c.early {
				srv.Kill()
				p = launch(t, path, srv.Settings())
			} else {
				p = startNode(t, path, srv)
				wstest.Login(t, p.addr, token(t, "u1", proto.Grants{"*"}, nil), "orders")
			}
			if c.first != nil {
				c.first(t, srv, p)
			}
			began := time.Now()
			p.end(t, syscall.SIGTERM)
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("it ended after %s", took)
			} else {
				t.Logf("ended after %s", took.Round(time.Millisecond))
			}
		})
	}
}

// TestNodesAreKnown: everyone knows which nodes live: one that ends is not among them, one
// that is killed not for long.
func TestNodesAreKnown(t *testing.T) { onAll(t, nodesAreKnown) }

func nodesAreKnown(t *testing.T, srv server) {
	e := emitter.New(srv.Settings())
	defer e.Close()
	live := func(want int) {
		t.Helper()
		redistest.Wait(t, func() bool { n, _ := e.Ping(t.Context()); return n == want }, "%d nodes to live", want)
	}
	ends, killed := startProcess(t, srv), startProcess(t, srv)
	live(2)
	ends.end(t, syscall.SIGTERM)
	live(1)
	killed.end(t, syscall.SIGKILL)
	live(0)
	if _, err := e.Ping(t.Context()); !errors.Is(err, emitter.ErrNoNodes) {
		t.Errorf("nobody is there: %v", err)
	}
}

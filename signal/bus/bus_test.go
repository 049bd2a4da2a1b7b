package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/bus"
)

func TestMain(m *testing.M) { redistest.Main(m) }

const someone proto.ClientID = "abcdefg2.abcdefghijklmno7"

// A receiver records what the bus brings, one line each.
type receiver struct {
	mu      sync.Mutex
	lines   []string
	held    []string         // received, not flushed
	clients []proto.ClientID // that are here
}

func (r *receiver) add(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, a...))
}

func (r *receiver) Receive(room proto.Room, m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, fmt.Sprintf("%s: %s %s except %v", room, m.Event.Event, m.Data, m.Except))
}

func (r *receiver) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines, r.held = append(r.lines, r.held...), nil
}

func (r *receiver) Subscribed(room proto.Room) { r.add("heard %s", room) }
func (r *receiver) Degraded(on bool)           { r.add("degraded %t", on) }
func (r *receiver) Lost([]proto.Room)          { r.add("lost") }
func (r *receiver) ReceiveClient(id proto.ClientID, e proto.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, fmt.Sprintf("client %s: %s %s", id, e.Event, e.Data))
}
func (r *receiver) SendToClient(id proto.ClientID, e proto.Event) bool {
	r.add("client %s: %s %s", id, e.Event, e.Data)
	return slices.Contains(r.clients, id)
}

func (r *receiver) Replied(room proto.Room, since proto.Position, order bool, p proto.Page) {
	r.add("replied %s since %q order %v: %s %s, %d events", room, since, order, p.Found, p.Top, len(p.Events))
}

func (r *receiver) Due([]proto.Room, bool) []proto.Room { return nil }
func (r *receiver) Tick()                               {}
func (r *receiver) At(proto.Room) (p proto.Position)    { return p }

func (r *receiver) Checked(room proto.Room, top proto.Position) { r.add("checked %s %s", room, top) }

func (r *receiver) count(line string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if l == line {
			n++
		}
	}
	return n
}

func (r *receiver) await(t testing.TB, line string) {
	t.Helper()
	if !redistest.Eventually(func() bool { return r.count(line) > 0 }) {
		t.Fatalf("waited in vain for %q, have %q", line, r.lines)
	}
}

// A node is a running bus and what it received.
type node struct {
	*bus.Bus
	*receiver
	id      proto.NodeID
	emitter *emitter.Emitter
	reg     *prometheus.Registry
}

// A judge takes note of what is revoked.
type judge struct {
	mu  sync.Mutex
	all []proto.Revocation
}

func (j *judge) Revoke(all []proto.Revocation) []proto.Revocation {
	j.mu.Lock()
	defer j.mu.Unlock()
	fresh := slices.DeleteFunc(slices.Clone(all), func(r proto.Revocation) bool { return slices.Contains(j.all, r) })
	j.all = append(j.all, fresh...)
	return fresh
}

func (j *judge) All() []proto.Revocation {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.all)
}

func (*judge) Forget(time.Time)    {}
func (*judge) Trust(time.Duration) {}

func newBus(id proto.NodeID, at emitter.Settings, e *emitter.Emitter, reg prometheus.Registerer) *bus.Bus {
	return bus.New(bus.Options{Node: id, Version: "test", Redis: at, Ignis: true, Emitter: e, Judge: &judge{}, Keep: time.Hour, Log: zap.NewNop(), Registerer: reg})
}

func start(t testing.TB, at emitter.Settings) *node {
	t.Helper()
	n := &node{id: proto.NewNodeID(), emitter: emitter.New(at), receiver: &receiver{}, reg: prometheus.NewRegistry()}
	n.Bus = newBus(n.id, at, n.emitter, n.reg)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- n.Run(ctx, n.receiver) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = n.emitter.Close()
	})
	redistest.Wait(t, func() bool { return n.Ready() == nil }, "the bus to be ready")
	return n
}

func (n *node) metric(t *testing.T, name, help, kind string, lines ...string) {
	t.Helper()
	want := fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n%s\n", name, help, name, kind, strings.Join(lines, "\n"))
	if err := testutil.GatherAndCompare(n.reg, strings.NewReader(want), name); err != nil {
		t.Error(err)
	}
}

func TestRooms(t *testing.T) {
	for _, ways := range []emitter.PubSub{emitter.Classic, emitter.Sharded} {
		for name, srv := range redistest.Each(t) {
			t.Run(name+"/"+string(ways), func(t *testing.T) {
				at := srv.Settings()
				at.PubSub = ways
				n := start(t, at)
				n.Subscribe("orders")
				n.await(t, "heard orders")
				here, nowhere := 1, 0
				if name == "cluster" && ways == emitter.Classic {
					here, nowhere = -1, -1 // nobody knows
				}
				for i := range 50 {
					if r, err := n.emitter.SendToRoom(t.Context(), "orders", "e", i, emitter.Except(someone)); err != nil || r.Receivers != here {
						t.Fatalf("receipt %+v, %v", r, err)
					}
				}
				if r, err := n.emitter.SendToRoom(t.Context(), "unheard", "e", 1); err != nil || r.Receivers != nowhere {
					t.Errorf("a room without an audience: %+v, %v", r, err)
				}
				n.await(t, "orders: e 49 except [abcdefg2.abcdefghijklmno7]")
				for i, l := range n.lines[1:] {
					if want := fmt.Sprintf("orders: e %d except [abcdefg2.abcdefghijklmno7]", i); l != want {
						t.Fatalf("line %d is %q, want %q", i, l, want)
					}
				}
			})
		}
	}
}

func TestManyRooms(t *testing.T) {
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	const rooms = 2_000
	for i := range rooms {
		n.Subscribe(proto.Room(fmt.Sprint("r", i)))
	}
	for i := range rooms {
		n.await(t, fmt.Sprint("heard r", i))
	}
	for _, i := range []int{0, 511, 512, rooms - 1} {
		if got := srv.Subscribed(fmt.Sprintf("sg:{r%d}:ch", i)); got != 1 {
			t.Errorf("room %d has %d subscribers", i, got)
		}
	}
}

func TestUnsubscribeIsDelayed(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	for _, r := range []proto.Room{"left", "back"} {
		n.Subscribe(r)
		n.await(t, "heard "+string(r))
		n.Unsubscribe(r)
	}
	n.Subscribe("back")
	redistest.Wait(t, func() bool { return n.count("heard back") == 2 }, "a room that is still heard to be told at once")
	if srv.Subscribed("sg:{left}:ch") != 1 {
		t.Error("a room is given up at once")
	}
	redistest.Wait(t, func() bool { return srv.Subscribed("sg:{left}:ch") == 0 }, "the room to be given up")
	if srv.Subscribed("sg:{back}:ch") != 1 || srv.Subscribed("ws:room:back") != 1 || srv.Subscribed("ws:room:left") != 0 {
		t.Error("want the room that is wanted again, on both channels, and no other")
	}
}

func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	n.Subscribe("orders")
	n.await(t, "heard orders")
	srv.Kill()
	n.Subscribe("new")
	n.await(t, "degraded true")
	srv.Restart()
	n.await(t, "degraded false")
	n.await(t, "heard new")
	redistest.Wait(t, func() bool { return n.count("heard orders") == 2 }, "the room to be heard again")
	if r, err := n.emitter.SendToRoom(t.Context(), "orders", "e", 1); err != nil || r.Receivers != 1 {
		t.Errorf("receipt %+v, %v", r, err)
	}
	n.await(t, "orders: e 1 except []")
	n.metric(t, "signal_bus_interruptions_total", "How often Redis was lost. Live events published until it is back are lost.", "counter",
		"signal_bus_interruptions_total 1")
}

// A Redis that hangs closes no connection: only silence tells.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	n.Subscribe("orders")
	n.await(t, "heard orders")
	srv.Pause()
	n.await(t, "degraded true")
	srv.Resume()
	redistest.Wait(t, func() bool { return n.count("heard orders") == 2 }, "the room to be heard again")
}

func TestMalformedMessages(t *testing.T) {
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	n.Subscribe("orders")
	n.await(t, "heard orders")
	rdb := srv.Client()
	defer rdb.Close()
	inbox := "sg:{$node:" + string(n.id) + "}:ch"
	for channel, payload := range map[string]string{
		"sg:{orders}:ch": "E1 x\nnot JSON",
		"ws:room:orders": "null",
		inbox:            "R1 x 1",
		"ws:client:" + string(proto.NewClientID(n.id)): "[]",
	} {
		if got := rdb.Publish(t.Context(), channel, payload).Val(); got != 1 {
			t.Errorf("%s has %d listeners", channel, got)
		}
	}
	rdb.Publish(t.Context(), inbox, "E1 x\n{\"event\":\"e\"}") // for no client
	rdb.Publish(t.Context(), "ws:room:orders", `{"serverId":"emitter","type":"room","target":"other","event":"e"}`)
	if _, err := n.emitter.SendToRoom(t.Context(), "orders", "good", 1); err != nil {
		t.Fatal(err)
	}
	n.await(t, "orders: good 1 except []")
	if len(n.lines) != 2 {
		t.Errorf("received %q", n.lines)
	}
	n.metric(t, "signal_bus_malformed_total", "Messages from Redis that were dropped because they cannot be read.", "counter",
		"signal_bus_malformed_total 6")
}

// TestIgnis publishes what the original's emitters and servers do.
func TestIgnis(t *testing.T) {
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	id := proto.NewClientID(n.id)
	looksLikeOurs := proto.Room(string(n.id) + ".b")
	for _, r := range []proto.Room{"orders", proto.UserRoom("u1"), proto.Broadcasts, looksLikeOurs} {
		n.Subscribe(r)
		n.await(t, "heard "+string(r))
	}
	rdb := srv.Client()
	defer rdb.Close()
	for _, c := range []struct{ channel, kind, target, want string }{
		{"ws:room:orders", "room", "orders", "orders: e 1 except [a]"},
		{"ws:user:u1", "user", "u1", "$user:u1: e 1 except [a]"},
		{"ws:broadcast", "broadcast", "", "$broadcast: e 1 except [a]"},
		{"ws:client:" + string(id), "client", string(id), "client " + string(id) + ": e 1"},
		{"ws:room:" + string(looksLikeOurs), "room", string(looksLikeOurs), string(looksLikeOurs) + ": e 1 except [a]"},
	} {
		rdb.Publish(t.Context(), c.channel, fmt.Sprintf(`{"serverId":"emitter","type":%q,"target":%q,"event":"e","data":1,"exclude":["a"]}`, c.kind, c.target))
		n.await(t, c.want)
	}
	// What we publish there ourselves has come already.
	for _, room := range []proto.Room{"orders", proto.Room(id)} {
		to := proto.ToRoom(room)
		rdb.Publish(t.Context(), proto.IgnisTarget(to), proto.AppendIgnis(nil, to, proto.Message{Event: proto.Event{Event: "ours"}}))
	}
	// A server that does not know the client publishes its id as a room.
	rdb.Publish(t.Context(), "ws:room:"+string(id), fmt.Sprintf(`{"serverId":"s","type":"room","target":%q,"event":"again"}`, id))
	n.await(t, "client "+string(id)+": again ")
	if len(n.lines) != 4+6 {
		t.Errorf("received %q, want each once", n.lines)
	}
}

func TestAsk(t *testing.T) {
	cluster := redistest.StartCluster(t).Settings()
	classic := redistest.StartCluster(t).Settings()
	classic.PubSub = emitter.Classic // Redis does not say how many have received
	for name, at := range map[string]emitter.Settings{"single": redistest.Start(t).Settings(), "cluster": cluster, "classic on a cluster": classic} {
		t.Run(name, func(t *testing.T) { asks(t, at) })
	}
}

func asks(t *testing.T, at emitter.Settings) {
	a, b := start(t, at), start(t, at)
	here, gone := proto.NewClientID(b.id), proto.NewClientID(b.id)
	b.clients = []proto.ClientID{here}
	if r, err := a.Ask(t.Context(), here, "e", 1); err != nil || r.Receivers != 1 {
		t.Errorf("a client that is there: %+v, %v", r, err)
	}
	if r, err := a.Ask(t.Context(), gone, "e", 1); !errors.Is(err, emitter.ErrNoReceiver) || r.Receivers != 0 {
		t.Errorf("a client that is gone: %+v, %v", r, err)
	}
	if _, err := a.Ask(t.Context(), proto.NewClientID(proto.NewNodeID()), "e", 1); !errors.Is(err, emitter.ErrNoReceiver) {
		t.Errorf("a node that is gone: %v", err)
	}
	b.await(t, "client "+string(here)+": e 1")
}

// TestDisagreement refuses a node that the others would not hear, at its start.
func TestDisagreement(t *testing.T) {
	srv := redistest.Start(t)
	start(t, srv.Settings())
	at := srv.Settings()
	at.PubSub = emitter.Sharded
	e := emitter.New(at)
	defer e.Close()
	b := newBus(proto.NewNodeID(), at, e, prometheus.NewRegistry())
	if err := b.Run(t.Context(), &receiver{}); !errors.Is(err, emitter.ErrDisagrees) || !strings.Contains(err.Error(), "pubsub") {
		t.Errorf("Run: %v, want ErrDisagrees", err)
	}
}

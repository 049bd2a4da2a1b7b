package hub_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hub"
	"github.com/signal-team/signal/signal/room"
)

func dropped(t *testing.T, reg *prometheus.Registry, reason string) (n int) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == "signal_events_dropped_total" && m.GetLabel()[0].GetValue() == reason {
				n = int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// numbered is the n-th event of a room.
func numbered(n int, except ...proto.ClientID) proto.Message {
	return proto.Message{Event: proto.Event{Event: "e", EventID: proto.EventID(strconv.Itoa(n))}, Except: except}
}

// numbers are those of the room's events among what a client got.
func (c *conn) numbers(t *testing.T, r proto.Room) (all []int) {
	t.Helper()
	for _, f := range c.got(t) {
		if f.Event == "e" && f.Room == r {
			n, err := strconv.Atoi(string(f.EventID))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
	}
	return all
}

func count(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// Pending events cost one write: what came together, and what came during a pass.
func TestPendingEventsAreJoined(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var c conn
		h.Add("c", "", &c).Join("", in("a"), nil)
		h.Subscribed("a")
		synctest.Wait()
		for i := range 100 {
			h.Receive("a", numbered(i))
		}
		synctest.Wait()
		if got := c.numbers(t, "a"); len(got) > 0 {
			t.Fatalf("before Flush: %v", got)
		}
		c.onWrite = func() {
			if c.onWrite = nil; true {
				for i := range 100 {
					receive(h, "a", numbered(100+i))
				}
			}
		}
		h.Flush()
		synctest.Wait()
		if got := c.numbers(t, "a"); !slices.Equal(got, count(200)) || c.writes != 2 {
			t.Errorf("%d writes brought %v", c.writes, got)
		}
		// At most 64 KiB are joined, but a frame is never split.
		c.writes = 0
		big := proto.Message{Event: proto.Event{Event: "e", EventID: "0", Data: []byte(`"` + strings.Repeat("x", 100<<10) + `"`)}}
		small := proto.Message{Event: proto.Event{Event: "e", EventID: "1", Data: []byte(`"` + strings.Repeat("x", 20<<10) + `"`)}}
		for _, m := range []proto.Message{big, small, small, small, small} {
			h.Receive("a", m)
		}
		h.Flush()
		synctest.Wait()
		if got := c.numbers(t, "a"); !slices.Equal(got, []int{0, 1, 1, 1, 1}) || c.writes != 3 {
			t.Errorf("%d writes brought %v, want 100 KiB, 60 KiB and 20 KiB", c.writes, got)
		}
	})
}

// TestWakeUp: an event that comes at any moment of a pass is written, also when none comes
// after it.
func TestWakeUp(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var c conn
		h.Add("c", "", &c).Join("", in("a"), nil)
		h.Subscribed("a")
		synctest.Wait()
		for i := range 5_000 {
			receive(h, "a", numbered(2*i))
			for range i % 100 * 10 {
				runtime.Gosched() // the shard comes to its pass, however busy the machine is
			}
			receive(h, "a", numbered(2*i+1))
			synctest.Wait()
			if got := c.numbers(t, "a"); len(got) == 0 || got[len(got)-1] != 2*i+1 {
				t.Fatalf("round %d: written are %v", i, got)
			}
		}
	})
}

// TestSlowClientCostsTheOthersNothing: who takes nothing is asked once, and what falls off
// the ring is counted.
func TestSlowClientCostsTheOthersNothing(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, reg *prometheus.Registry) {
		slow, quick := conn{room: -1}, conn{}
		client := h.Add("slow", "", &slow)
		client.Join("", in("a"), nil)
		h.Add("quick", "", &quick).Join("", in("a"), nil)
		h.Subscribed("a")
		synctest.Wait()
		const events = room.MaxEntries + 100
		for i := range events {
			receive(h, "a", numbered(i))
			if i%100 == 0 {
				synctest.Wait() // so that no shard is behind
			}
		}
		synctest.Wait()
		if got := quick.numbers(t, "a"); !slices.Equal(got, count(events)) {
			t.Errorf("the quick client got %d of %d", len(got), events)
		}
		if slow.writes != 1 {
			t.Errorf("%d writes to a client that is full", slow.writes)
		}
		if kept := testutil.CollectAndCount(reg, "signal_rings_bytes"); kept != 1 {
			t.Error("no signal_rings_bytes")
		}
		// It takes the rest once it can, in order, and is told when that is all.
		if !slow.drain(0) {
			t.Fatal("the hub has not written at all")
		}
		client.Drained()
		synctest.Wait()
		got := slow.numbers(t, "a")
		if want := count(events)[events-room.MaxEntries:]; !slices.Equal(got, want) {
			t.Errorf("%d events from %d on, want %d from %d", len(got), got[0], len(want), want[0])
		}
		if n := dropped(t, reg, "slow"); n != events-len(got) {
			t.Errorf("%d dropped, want %d", n, events-len(got))
		}
		if slow.caught != 1 {
			t.Errorf("told %d times that it has all", slow.caught)
		}
		receive(h, "a", numbered(events))
		synctest.Wait()
		if got := slow.numbers(t, "a"); !slices.Equal(got, []int{events}) {
			t.Errorf("afterwards it got %v", got)
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
	})
}

// TestBehindServedInOrder: clients that take a few frames at a time, in several rooms, some
// of them left out of some events, leaving and joining again: each gets every event of its
// time in a room once and in order, or it is counted.
func TestBehindServedInOrder(t *testing.T) {
	for seed := range uint64(300) {
		with(t, func(t *testing.T, h *hub.Hub, b *bus, reg *prometheus.Registry) {
			const clients, events = 8, 400
			var (
				rnd     = rand.New(rand.NewPCG(seed, 2))
				rooms   = []proto.Room{"a", "b", "c"}
				conns   [clients]conn
				client  [clients]*hub.Client
				sent    = map[proto.Room]int{}
				left    [clients]map[proto.Room]int // out of how many, by Except
				mu      sync.Mutex
				pending []func() // to be done in the middle of a pass
			)
			for i := range conns {
				conns[i].onWrite = func() {
					mu.Lock()
					defer mu.Unlock()
					if len(pending) > 0 {
						go pending[0]()
						pending = pending[1:]
					}
				}
				left[i] = map[proto.Room]int{}
				client[i] = h.Add(id(i), "", &conns[i])
				client[i].Join("", in(rooms...), nil)
			}
			for _, r := range rooms {
				h.Subscribed(r)
			}
			synctest.Wait()
			for range events {
				i, r := rnd.IntN(clients), rooms[rnd.IntN(len(rooms))]
				switch rnd.IntN(6) {
				case 0:
					if conns[i].drain([]int{-1, 0, 1, 2, 5, 40}[rnd.IntN(6)]) {
						client[i].Drained()
					}
				case 1:
					mu.Lock()
					pending = append(pending, func() {
						extra := &conn{}
						c := h.Add("extra", "", extra)
						c.Join("", in(rooms...), nil)
						runtime.Gosched()
						c.Close()
					})
					mu.Unlock()
				default:
					var except []proto.ClientID
					if rnd.IntN(4) == 0 {
						except = append(except, id(i))
						left[i][r]++
					}
					h.Receive(r, numbered(sent[r], except...))
					sent[r]++
				}
				if rnd.IntN(3) == 0 {
					h.Flush()
				}
				if rnd.IntN(10) == 0 {
					synctest.Wait()
				}
			}
			h.Flush()
			for i := range conns {
				if conns[i].drain(0) {
					client[i].Drained()
				}
			}
			synctest.Wait()
			for i := range conns {
				got := map[proto.Room][]int{}
				for _, f := range conns[i].got(t) {
					if f.Event == "e" {
						n, _ := strconv.Atoi(string(f.EventID))
						got[f.Room] = append(got[f.Room], n)
					}
				}
				for _, r := range rooms {
					if !slices.IsSorted(got[r]) || len(slices.Compact(slices.Clone(got[r]))) != len(got[r]) {
						t.Fatalf("seed %d: client %d got %v of room %s", seed, i, got[r], r)
					}
					if len(got[r])+left[i][r] != sent[r] {
						t.Fatalf("seed %d: client %d got %d of room %s and was left out of %d: want %d", seed, i, len(got[r]), r, left[i][r], sent[r])
					}
				}
			}
			if n := dropped(t, reg, "slow"); n != 0 {
				t.Fatalf("seed %d: %d dropped", seed, n)
			}
		})
		if t.Failed() {
			return
		}
	}
}

func id(i int) proto.ClientID { return proto.ClientID(fmt.Sprint("c", i)) }

// TestOrderWhileMembersComeAndGo: in the middle of a pass over a large room, members leave
// and join; who joins gets what comes after its joined frame, who leaves nothing after its
// left frame, and nobody else is skipped or served twice.
func TestOrderWhileMembersComeAndGo(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		const members = 1_000
		conns := make([]conn, members)
		client := make([]*hub.Client, members)
		for i := range conns {
			client[i] = h.Add(id(i), "", &conns[i])
			client[i].Join("", in("a"), nil)
		}
		h.Subscribed("a")
		synctest.Wait()
		var late [20]conn
		rnd := rand.New(rand.NewPCG(1, 1))
		gone := map[int]bool{}
		for n := range 40 {
			// At some write of the pass, a few leave and one joins.
			at := rnd.IntN(members)
			for gone[at] {
				at = rnd.IntN(members)
			}
			who := []int{rnd.IntN(members), rnd.IntN(members)}
			conns[at].onWrite = func() {
				conns[at].onWrite = nil
				for _, w := range who {
					if w != at {
						gone[w] = true
						client[w].Leave("", []proto.Room{"a"})
					}
				}
				if n < len(late) {
					h.Add(id(members+n), "", &late[n]).Join("", in("a"), nil)
				}
			}
			receive(h, "a", numbered(n))
			synctest.Wait()
		}
		for i := range conns {
			got := conns[i].got(t)
			var events []int
			left := false
			for _, f := range got {
				switch f.Event {
				case "e":
					if left {
						t.Fatalf("client %d got an event after its left frame", i)
					}
					n, _ := strconv.Atoi(string(f.EventID))
					events = append(events, n)
				case "left":
					left = true
				}
			}
			if left != gone[i] || !left && len(events) != 40 || !slices.Equal(events, count(len(events))) {
				t.Fatalf("client %d, left %t, got %v", i, left, events)
			}
		}
		for n := range late {
			if got := late[n].numbers(t, "a"); !slices.Equal(got, count(40)[40-len(got):]) || len(got) < 39-n {
				t.Fatalf("who joined during event %d got %v", n, got)
			}
		}
	})
}

// TestBusyRoomYields: an event of a small room does not wait for the pass of a large one.
func TestBusyRoomYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one shard
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		const members = 2_000
		var (
			small  conn
			conns  [members]conn
			writes int // to the large room
			before = -1
		)
		h.Add("small", "", &small).Join("", in("small"), nil)
		small.onWrite = func() { before = writes }
		for i := range conns {
			conns[i].onWrite = func() {
				if writes++; writes == 10 {
					receive(h, "small", numbered(0))
				}
			}
			h.Add(id(i), "", &conns[i]).Join("", in("large"), nil)
		}
		h.Subscribed("small")
		h.Subscribed("large")
		synctest.Wait()
		receive(h, "large", numbered(0))
		synctest.Wait()
		if before < 0 || before > 300 || writes != members {
			t.Errorf("the small room came after %d of %d writes", before, writes)
		}
	})
}

// TestLeftDuringAPass: who has left gets nothing more of the room, also from a pass that is
// under way.
func TestLeftDuringAPass(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one shard
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var conns [3]conn
		var clients [3]*hub.Client
		for i := range conns {
			clients[i] = h.Add(id(i), "", &conns[i])
			clients[i].Join("", in("r"), nil)
		}
		h.Subscribed("r")
		synctest.Wait()
		for i := range conns {
			conns[i].got(t)
			conns[i].onWrite = func() { // the first one to be written to
				for j := range clients {
					if conns[j].onWrite = nil; j != i {
						clients[j].Leave("", []proto.Room{"r"})
					}
				}
			}
		}
		receive(h, "r", numbered(0))
		synctest.Wait()
		got := 0
		for i := range conns {
			got += len(conns[i].numbers(t, "r"))
		}
		if got != 1 {
			t.Errorf("%d clients got the event, want the one that has not left", got)
		}
	})
}

// TestDrainedDuringAPass: a client that was behind and takes frames again while a pass is under
// way gets each event once.
func TestDrainedDuringAPass(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one shard
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var conns [400]conn // a pass has several turns
		var clients [len(conns)]*hub.Client
		for i := range conns {
			clients[i] = h.Add(id(i), "", &conns[i])
			clients[i].Join("", in("r"), nil)
		}
		h.Subscribed("r")
		synctest.Wait()
		slow := len(conns) - 1
		conns[slow].drain(-1)
		receive(h, "r", numbered(0))
		synctest.Wait()
		drain := sync.OnceFunc(func() {
			if conns[slow].drain(0) {
				clients[slow].Drained()
			}
		})
		for i := range slow {
			conns[i].onWrite = drain
		}
		receive(h, "r", numbered(1))
		synctest.Wait()
		for i := range conns {
			if got := conns[i].numbers(t, "r"); !slices.Equal(got, count(2)) {
				t.Fatalf("client %d got %v", i, got)
			}
		}
	})
}

// TestBudget: rooms keep at most 48 MiB for clients that are behind, and let go of what is
// oldest first; what a shard has not taken is never lost for it.
func TestBudget(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, reg *prometheus.Registry) {
		const rooms = 80 // of 1 MiB each
		slow := conn{room: -1}
		client := h.Add("slow", "", &slow)
		data := []byte(`"` + strings.Repeat("x", 100<<10) + `"`)
		var quick conn
		other := h.Add("quick", "", &quick)
		for r := range rooms {
			name := proto.Room(fmt.Sprint("r", r))
			client.Join("", in(name), nil)
			other.Join("", in(name), nil)
			h.Subscribed(name)
			synctest.Wait()
			for i := range 10 {
				m := numbered(i)
				m.Event.Data = data
				h.Receive(name, m)
			}
			h.Flush()
			synctest.Wait()
			if got := quick.numbers(t, name); !slices.Equal(got, count(10)) {
				t.Fatalf("room %s: the quick client got %v", name, got)
			}
		}
		all, _ := reg.Gather()
		kept := 0.0
		for _, f := range all {
			if f.GetName() == "signal_rings_bytes" {
				kept = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if kept > 48<<20 || kept < 44<<20 {
			t.Errorf("%.1f MiB are kept", kept/(1<<20))
		}
		slow.drain(0)
		client.Drained()
		synctest.Wait()
		got := map[proto.Room]int{}
		for _, f := range slow.got(t) {
			if f.Event == "e" {
				got[f.Room]++
			}
		}
		if got["r0"] != 0 || got["r79"] != 10 || dropped(t, reg, "slow") != 10*(rooms-len(got)) {
			t.Errorf("of the first room %d, of the last %d, of %d rooms something; %d dropped", got["r0"], got["r79"], len(got), dropped(t, reg, "slow"))
		}
	})
}

// TestChurn is for the race detector: everything at once, on real goroutines.
func TestChurn(t *testing.T) {
	b := &bus{subs: map[proto.Room]int{}}
	h := hub.New(b, prometheus.NewRegistry())
	b.hub = h
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	defer func() { stop(); <-ended }()
	var g sync.WaitGroup
	rooms := []proto.Room{"a", "b"}
	var stays conn
	h.Add("stays", "", &stays).Join("", in(rooms...), nil)
	h.Subscribed("a")
	h.Subscribed("b")
	joined := func(f frame) bool {
		return f.Event == string(proto.EventJoined) && strings.Contains(string(f.Data), `"done":true`)
	}
	for !slices.ContainsFunc(stays.got(t), joined) {
		runtime.Gosched()
	}
	for w := range 4 {
		g.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for i := range 300 {
				c := &conn{room: rnd.IntN(5)}
				client := h.Add(proto.ClientID(fmt.Sprint(w, ".", i)), "", c)
				client.Join("", in(rooms...), nil)
				h.Subscribed("a")
				h.Subscribed("b")
				if c.drain(0) {
					client.Drained()
				}
				client.Leave("", rooms[:rnd.IntN(3)])
				if c.drain(rnd.IntN(3)) {
					client.Drained()
				}
				client.Close()
			}
		})
	}
	const events = 2_000
	g.Go(func() {
		for i := range events {
			receive(h, "a", numbered(i))
		}
	})
	g.Wait()
	var got []int
	for len(got) == 0 || got[len(got)-1] != events-1 {
		got = append(got, stays.numbers(t, "a")...)
		runtime.Gosched()
	}
	if !slices.Equal(got, count(events)[events-len(got):]) {
		t.Errorf("who stays got %d events, or not in order", len(got))
	}
}

// TestJoinWhileBlocked: a client that joins a room with news, and is blocked by another
// room before the pass ends, gets what it missed when it has drained.
func TestJoinWhileBlocked(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, reg *prometheus.Registry) {
		var other, c conn
		h.Add("other", "", &other).Join("", in("r"), nil)
		client := h.Add("c", "", &c)
		client.Join("", in("s"), nil)
		h.Subscribed("r")
		h.Subscribed("s")
		synctest.Wait()
		c.drain(-1)
		h.Receive("s", numbered(0))
		h.Receive("r", numbered(0))
		client.Join("", in("r"), nil) // takes effect after event 0, before the pass; s blocks it
		synctest.Wait()
		receive(h, "r", numbered(1))
		synctest.Wait()
		if !c.drain(0) {
			t.Fatal("the client was not blocked")
		}
		client.Drained()
		synctest.Wait()
		receive(h, "r", numbered(2))
		synctest.Wait()
		if got := c.numbers(t, "r"); !slices.Equal(got, []int{1, 2}) && !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("it got %v of the room", got)
		}
		if n := dropped(t, reg, "slow"); n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
}

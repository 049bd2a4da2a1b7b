package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
	"github.com/signal-team/signal/signal/hub"
)

// begin is a room that Redis knows nothing of.
func begin(rnd *rand.Rand, keeps int) *checker.Chain {
	epoch := proto.Incarnation([]byte("epochxyz"))
	for i := range epoch[5:] {
		epoch[5+i] = byte('a' + rnd.IntN(26))
	}
	return &checker.Chain{Base: checker.First(epoch), Keeps: keeps}
}

// durable is the event of an id.
func durable(id string) proto.Event {
	return proto.Event{Event: "e", EventID: proto.EventID(id), Data: json.RawMessage(`"` + id + `"`)}
}

// A store answers a hub by itself, of one room.
type store struct {
	mu sync.Mutex
	*checker.Chain
	reads int
	hub   *hub.Hub
	reg   *prometheus.Registry
	out   sync.WaitGroup
	hold  chan bool // answers wait for it to be closed
}

func (s *store) Subscribe(proto.Room)   {}
func (s *store) Unsubscribe(proto.Room) {}

func (s *store) Read(r proto.Room, since proto.Position, order bool) {
	s.out.Go(func() {
		s.mu.Lock()
		s.reads++
		p := s.Chain.Read(since)
		s.mu.Unlock()
		if s.hold != nil {
			<-s.hold
		}
		s.hub.Replied(r, since, order, p)
	})
}

// withStore runs a test against a hub on a store.
func withStore(t *testing.T, test func(*testing.T, *hub.Hub, *store)) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{Chain: begin(rand.New(rand.NewPCG(1, 9)), 100)}
		s.reg = prometheus.NewRegistry()
		h := hub.New(s, s.reg)
		s.hub = h
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		defer func() {
			s.out.Wait()
			stop()
			<-ended
		}()
		test(t, h, s)
	})
}

// A follower is a till that knows where it is.
type follower struct {
	conn
	name    string
	client  *hub.Client
	at      map[proto.Room]proto.Position
	told    int // of losses
	joins   int
	history *checker.History
}

func follow(name string) *follower {
	return &follower{name: name, at: map[proto.Room]proto.Position{}, history: checker.New()}
}

// come connects, and joins rooms from where the follower is.
func (f *follower) come(h *hub.Hub, id, was proto.ClientID, rooms ...proto.Room) {
	f.client = h.Add(id, was, &f.conn)
	f.join(rooms...)
}

func (f *follower) join(rooms ...proto.Room) {
	var joins []hub.JoinRoom
	f.joins++
	id := fmt.Sprint(f.joins)
	for _, r := range rooms {
		joins = append(joins, hub.JoinRoom{Room: r, Since: f.at[r]})
	}
	if !f.client.Join(id, joins, nil) {
		return // too many are not answered yet
	}
	for _, j := range joins {
		f.history.Add(checker.Record{Kind: checker.Joining, Client: f.name, Room: j.Room, Join: id, Position: j.Since})
	}
}

// hear takes what has come.
func (f *follower) hear(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	came := f.frames
	f.frames = nil
	f.mu.Unlock()
	for _, frame := range came {
		told, err := checker.Heard(f.name, frame)
		if err != nil {
			t.Fatalf("frame %q: %v", frame, err)
		}
		for _, r := range told {
			f.history.Add(r)
			f.at[r.Room] = r.Position
			if r.Reason != "" && r.Reason != proto.OK && r.Reason != proto.Fresh {
				f.told++
			}
		}
	}
}

// TestStaleRead: who comes while a read is out is not answered by it. It may be older than
// what the client has seen on another node, and would call it a branch that is lost.
func TestStaleRead(t *testing.T) {
	withStore(t, func(t *testing.T, h *hub.Hub, s *store) {
		follow("first").come(h, "first", "", "r")
		h.Subscribed("r")
		synctest.Wait()
		for i := range 3 {
			s.Publish(durable(fmt.Sprint(i))) // this node hears nothing of it
		}
		seen := s.Top()
		lost := s.Log[2]
		s.Rewind(1) // Redis is behind what clients have seen
		come := func(name string) *follower {
			f := follow(name)
			f.at["r"] = seen
			f.come(h, proto.ClientID(name), "", "r")
			return f
		}
		s.hold = make(chan bool)
		a := come("a")
		synctest.Wait() // its read has been answered, and is on its way
		if again := s.Publish(durable(string(lost.EventID))); again.Position != seen {
			t.Fatalf("the event sent again is at %s, not at %s", again.Position, seen)
		}
		b := come("b")
		close(s.hold)
		synctest.Wait()
		a.hear(t)
		b.hear(t)
		if a.told != 1 || b.told != 0 || b.at["r"] != seen {
			t.Errorf("who asked before was told of %d losses, who asked after of %d", a.told, b.told)
		}
	})
}

// TestJoinFromBeforeThePass: a client that joins while a pass is under way, from where the
// shard was before it, gets the pass's events too.
func TestJoinFromBeforeThePass(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one shard
	withStore(t, func(t *testing.T, h *hub.Hub, s *store) {
		var conns [300]conn // more than one turn
		for i := range conns {
			h.Add(proto.ClientID(fmt.Sprint(i)), "", &conns[i]).Join("", in("r"), nil)
		}
		h.Subscribed("r")
		synctest.Wait()
		late := follow("late")
		late.at["r"] = s.Top()
		join := sync.OnceFunc(func() { late.come(h, "late", "", "r") })
		conns[0].onWrite, conns[1].onWrite = join, join
		h.Receive("r", s.Publish(durable("e1")))
		h.Flush()
		synctest.Wait()
		if late.hear(t); late.at["r"] != s.Top() {
			t.Errorf("it is at %s, the room at %s", late.at["r"], s.Top())
		}
	})
}

// TestOneReadASecond: a client whose socket takes little at a time gets all the same what it
// missed, and Redis is not read again for each little.
func TestOneReadASecond(t *testing.T) {
	withStore(t, func(t *testing.T, h *hub.Hub, s *store) {
		slow := follow("slow")
		slow.at["r"] = s.Top()
		for i := range 40 {
			s.Publish(durable(fmt.Sprint(i)))
		}
		follow("first").come(h, "first", "", "r")
		h.Subscribed("r")
		synctest.Wait()
		slow.drain(2)
		slow.come(h, "slow", "", "r")
		synctest.Wait()
		for seconds := 0; slow.at["r"] != s.Top(); seconds++ {
			before, at := s.reads, slow.at["r"]
			for range 3 {
				if slow.drain(2) {
					slow.client.Drained()
				}
				synctest.Wait()
			}
			slow.hear(t)
			if s.reads-before > 1 {
				t.Fatalf("%d reads in one second", s.reads-before)
			}
			if slow.at["r"] == at && seconds > 0 {
				t.Fatalf("it stays at %s", at)
			}
			h.Tick()
			synctest.Wait()
		}
	})
}

// TestClosedRoomKeepsNothing: what a read has brought goes with the last member.
func TestClosedRoomKeepsNothing(t *testing.T) {
	withStore(t, func(t *testing.T, h *hub.Hub, s *store) {
		follow("stays").come(h, "stays", "", "other")
		h.Subscribed("other")
		synctest.Wait()
		f := follow("f")
		f.at["r"] = s.Top()
		for i := range 3 {
			s.Publish(durable(fmt.Sprint(i)))
		}
		f.come(h, "f", "", "r")
		h.Subscribed("r")
		synctest.Wait()
		if f.hear(t); f.at["r"] != s.Top() {
			t.Fatalf("it is at %s", f.at["r"])
		}
		if kept := gauge(t, s.reg, "signal_rings_bytes"); kept == 0 {
			t.Fatal("nothing is kept for who comes next")
		}
		f.client.Close()
		synctest.Wait()
		if kept := gauge(t, s.reg, "signal_rings_bytes"); kept != 0 {
			t.Errorf("%v bytes are kept for nobody", kept)
		}
	})
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

package hub_test

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hub"
)

// A store is what Redis is to a node, in memory: the chain of one room, and what of it is
// kept. It can lose what it has taken, and say nothing of what it publishes.
type store struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	base  proto.Position // before the first of log
	log   []proto.Message
	keeps int                              // the most that log holds
	all   map[proto.Position]proto.EventID // what was ever published
	reads int
	hub   *hub.Hub
	slow  time.Duration // the longest that a read takes
	out   sync.WaitGroup
	hold  chan bool // answers wait for it to be closed
}

func newStore(rnd *rand.Rand) *store {
	s := &store{rnd: rnd, keeps: 30, all: map[proto.Position]proto.EventID{}}
	s.empty()
	return s
}

func tag(s string) (t proto.Tag) {
	sum := sha1.Sum([]byte(s))
	copy(t[:], hex.EncodeToString(sum[:]))
	return t
}

// empty is a restart without data.
func (s *store) empty() {
	epoch := proto.Incarnation([]byte("epochxyz"))
	for i := range epoch[5:] {
		epoch[5+i] = byte('a' + s.rnd.IntN(26))
	}
	s.base = proto.Position{Epoch: epoch, Tag: tag(epoch.String())}
	s.log = nil
}

func (s *store) top() proto.Position {
	if len(s.log) == 0 {
		return s.base
	}
	return s.log[len(s.log)-1].Position
}

// publish takes an event and says what is to be heard of it.
func (s *store) publish(id string, except ...proto.ClientID) proto.Message {
	top := s.top()
	m := proto.Message{Event: proto.Event{Event: "e", EventID: proto.EventID(id), Data: json.RawMessage(`"` + id + `"`)}, Except: except}
	m.Previous = top.Tag
	m.Position = proto.Position{Epoch: top.Epoch, Sequence: top.Sequence + 1, Tag: tag(top.Tag.String() + id)}
	s.all[m.Position] = m.EventID
	if s.log = append(s.log, m); len(s.log) > s.keeps {
		s.base, s.log = s.log[0].Position, s.log[1:]
	}
	return m
}

// rewind loses the last events.
func (s *store) rewind(n int) { s.log = s.log[:max(len(s.log)-n, 0)] }

func (s *store) read(since proto.Position) proto.Page {
	s.reads++
	top := s.top()
	p := proto.Page{Found: proto.OK, Top: top}
	switch {
	case since.IsZero():
		p.Found = proto.Fresh
	case since.Epoch != top.Epoch:
		p.Found = proto.Epoch
	case since.Sequence > top.Sequence:
		p.Found = proto.Rewound
	case since == top:
	case since.Sequence == top.Sequence:
		p.Found = proto.Forked
	case since.Sequence < s.base.Sequence:
		p.Found = proto.Trimmed
	default:
		next := s.log[since.Sequence-s.base.Sequence:]
		if next[0].Previous != since.Tag {
			p.Found = proto.Forked
			break
		}
		p.Events = append(p.Events, next[:min(len(next), 4)]...)
	}
	return p
}

func (s *store) Subscribe(proto.Room)   {}
func (s *store) Unsubscribe(proto.Room) {}

func (s *store) Read(r proto.Room, since proto.Position, order bool) {
	s.out.Go(func() {
		s.mu.Lock()
		before, after := s.pause(), s.pause()
		s.mu.Unlock()
		time.Sleep(before)
		s.mu.Lock()
		p := s.read(since)
		s.mu.Unlock()
		time.Sleep(after)
		if s.hold != nil {
			<-s.hold
		}
		s.hub.Replied(r, since, order, p)
	})
}

func (s *store) pause() time.Duration { return time.Duration(s.rnd.Int64N(int64(s.slow) + 1)) }

// withStore runs a test against a hub on a store.
func withStore(t *testing.T, seed uint64, test func(*testing.T, *hub.Hub, *store)) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(rand.New(rand.NewPCG(seed, 9)))
		h := hub.New(s, prometheus.NewRegistry())
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

// A follower is a till that knows the rules: it has a position, and everything that comes
// must be the next after it.
type follower struct {
	conn
	id      proto.ClientID
	client  *hub.Client
	at      proto.Position
	resyncs int // or joins that did not recover
}

func (f *follower) follow(t *testing.T, s *store) {
	t.Helper()
	next := func(p proto.Position) {
		if p.Epoch != f.at.Epoch || p.Sequence != f.at.Sequence+1 {
			t.Fatalf("client %s: after %s comes %s", f.id, f.at, p)
		}
		f.at = p
	}
	for _, fr := range f.got(t) {
		switch fr.Event {
		case "joined":
			for _, j := range fr.joined(t).Rooms {
				if j.Recovered && j.Position != f.at {
					t.Fatalf("client %s: wanted to go on from %s, and stands at %s", f.id, f.at, j.Position)
				}
				f.at = j.Position
				if !j.Recovered && j.Reason != proto.Fresh {
					f.resyncs++
				}
			}
		case "resync":
			var r proto.Resync
			if err := json.Unmarshal(fr.Data, &r); err != nil || r.Reason == "" || r.Reason == proto.OK {
				t.Fatalf("resync %s", fr.Data)
			}
			f.at = r.Position
			f.resyncs++
		case "skip":
			var k proto.Skip
			if err := json.Unmarshal(fr.Data, &k); err != nil {
				t.Fatal(err)
			}
			next(k.Position)
		case "e":
			next(fr.Position)
			if want := s.all[fr.Position]; want != fr.EventID {
				t.Fatalf("client %s: at %s stands %s, want %s", f.id, fr.Position, fr.EventID, want)
			}
		}
	}
}

// TestChain: clients come, go, come back, are slow and left out; messages are lost, come
// twice or late; the store forgets, loses its last events and all of them, and what was
// lost is sent again. Whatever happens, a client gets the chain event by event from where
// it joined, or it is told; and at the end everybody is where the store is.
func TestChain(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			withStore(t, seed, func(t *testing.T, h *hub.Hub, s *store) {
				playChain(t, h, s, rand.New(rand.NewPCG(seed, 4)), seed%2 == 0)
			})
		})
	}
}

// seeds are as many as SIGNAL_SEEDS says.
func seeds(t *testing.T) uint64 {
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("SIGNAL_SEEDS"), "150"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func playChain(t *testing.T, h *hub.Hub, s *store, rnd *rand.Rand, losses bool) {
	if rnd.IntN(2) == 0 {
		s.keeps = 100_000
	}
	calm := !losses && s.keeps > 30 // nothing is ever missing
	s.slow = []time.Duration{0, time.Millisecond, 50 * time.Millisecond}[rnd.IntN(3)]
	var (
		tills [6]*follower
		late  []proto.Message
		n     int
	)
	come := func(i int, at proto.Position) {
		f := &follower{id: proto.ClientID(fmt.Sprint("c", n)), at: at}
		n++
		f.client = h.Add(f.id, "", &f.conn)
		f.client.Join("j", []hub.JoinRoom{{Room: "r", Since: at}}, nil)
		tills[i] = f
	}
	for i := range tills {
		come(i, proto.Position{})
	}
	h.Subscribed("r")
	send := func(id string) {
		var except []proto.ClientID
		if rnd.IntN(5) == 0 {
			except = append(except, tills[rnd.IntN(len(tills))].id)
		}
		s.mu.Lock()
		m := s.publish(id, except...)
		s.mu.Unlock()
		switch rnd.IntN(8) {
		case 0: // is lost
		case 1:
			late = append(late, m)
		case 2:
			h.Receive("r", m)
			h.Receive("r", m)
		default:
			h.Receive("r", m)
		}
	}
	for range 300 {
		i := rnd.IntN(len(tills))
		f := tills[i]
		switch k := rnd.IntN(20); {
		case k < 9:
			send(fmt.Sprint("e", n, ".", rnd.IntN(1e9)))
		case k == 9 && len(late) > 0:
			h.Receive("r", late[0])
			late = late[1:]
		case k == 10: // away and back
			f.follow(t, s)
			f.client.Close()
			for range rnd.IntN(4) * rnd.IntN(12) {
				send(fmt.Sprint("away", n, ".", rnd.IntN(1e9)))
			}
			come(i, f.at)
		case k == 11: // again from where it is
			synctest.Wait()
			f.follow(t, s)
			if f.drain(0) {
				f.client.Drained()
			}
		case k == 12:
			if f.drain([]int{-1, 1, 2, 5}[rnd.IntN(4)]) {
				f.client.Drained()
			}
		case k == 13 && losses && rnd.IntN(3) == 0:
			s.mu.Lock()
			lost := s.log[max(len(s.log)-1-rnd.IntN(5), 0):]
			s.rewind(len(lost))
			s.mu.Unlock()
			if rnd.IntN(2) == 0 { // its sender tries again, after others
				if rnd.IntN(2) == 0 {
					send(fmt.Sprint("other", rnd.IntN(1e9)))
				}
				for _, m := range lost {
					send(string(m.EventID))
				}
			}
		case k == 14 && losses && rnd.IntN(10) == 0:
			s.mu.Lock()
			s.empty()
			s.mu.Unlock()
		case k == 15 && rnd.IntN(4) == 0:
			h.Lost()
			for range rnd.IntN(5) {
				s.mu.Lock()
				s.publish(fmt.Sprint("lost", rnd.IntN(1e9)))
				s.mu.Unlock()
			}
			h.Subscribed("r")
		default:
			h.Flush()
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
			}
		}
	}
	h.Flush()
	// Then it is quiet: everybody reads, and the node looks where the room is.
	for range 3 {
		for _, f := range tills {
			if f.drain(0) {
				f.client.Drained()
			}
		}
		time.Sleep(time.Second)
		h.Tick()
		s.mu.Lock()
		top := s.top()
		s.mu.Unlock()
		h.Checked("r", top)
		time.Sleep(time.Second)
	}
	synctest.Wait()
	for _, f := range tills {
		f.follow(t, s)
		if f.at != s.top() {
			t.Errorf("client %s is at %s, the store at %s", f.id, f.at, s.top())
		}
		if calm && f.resyncs > 0 {
			t.Errorf("client %s was told of a loss that was none", f.id)
		}
	}
}

// TestStaleRead: who comes while a read is out is not answered by it. It may be older than
// what the client has seen on another node, and would call it a branch that is lost.
func TestStaleRead(t *testing.T) {
	withStore(t, 1, func(t *testing.T, h *hub.Hub, s *store) {
		first := &follower{id: "first"}
		first.client = h.Add(first.id, "", &first.conn)
		first.client.Join("j", in("r"), nil)
		h.Subscribed("r")
		synctest.Wait()
		first.follow(t, s)
		for i := range 3 {
			s.publish(fmt.Sprint(i)) // this node hears nothing of it
		}
		seen := s.top()
		lost := s.log[2]
		s.rewind(1) // Redis is behind what clients have seen
		s.slow = 0
		come := func(id proto.ClientID) *follower {
			f := &follower{id: id, at: seen}
			f.client = h.Add(id, "", &f.conn)
			f.client.Join("j", []hub.JoinRoom{{Room: "r", Since: seen}}, nil)
			return f
		}
		s.hold = make(chan bool)
		a := come("a")
		synctest.Wait() // its read has been answered, and is on its way
		if again := s.publish(string(lost.EventID)); again.Position != seen {
			t.Fatalf("the event sent again is at %s, not at %s", again.Position, seen)
		}
		b := come("b")
		close(s.hold)
		synctest.Wait()
		a.follow(t, s)
		b.follow(t, s)
		if a.resyncs != 1 || b.resyncs != 0 || b.at != seen {
			t.Errorf("who asked before was told of %d losses, who asked after of %d", a.resyncs, b.resyncs)
		}
	})
}

// TestJoinFromBeforeThePass: a client that joins while a pass is under way, from where the
// shard was before it, gets the pass's events too.
func TestJoinFromBeforeThePass(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one shard
	withStore(t, 1, func(t *testing.T, h *hub.Hub, s *store) {
		var conns [300]conn // more than one turn
		for i := range conns {
			h.Add(proto.ClientID(fmt.Sprint(i)), "", &conns[i]).Join("", in("r"), nil)
		}
		h.Subscribed("r")
		synctest.Wait()
		late := &follower{id: "late", at: s.top()}
		join := sync.OnceFunc(func() {
			late.client = h.Add(late.id, "", &late.conn)
			late.client.Join("j", []hub.JoinRoom{{Room: "r", Since: late.at}}, nil)
		})
		conns[0].onWrite, conns[1].onWrite = join, join
		h.Receive("r", s.publish("e1"))
		h.Flush()
		synctest.Wait()
		if late.follow(t, s); late.at != s.top() {
			t.Errorf("it is at %s, the room at %s", late.at, s.top())
		}
	})
}

// TestOneReadASecond: a client whose socket takes little at a time gets all the same what it
// missed, and Redis is not read again for each little.
func TestOneReadASecond(t *testing.T) {
	withStore(t, 1, func(t *testing.T, h *hub.Hub, s *store) {
		began := s.top()
		s.keeps = 100
		for i := range 40 {
			s.publish(fmt.Sprint(i))
		}
		first := h.Add("first", "", &conn{})
		first.Join("", in("r"), nil)
		h.Subscribed("r")
		synctest.Wait()
		slow := &follower{id: "slow", at: began}
		slow.client = h.Add(slow.id, "", &slow.conn)
		slow.drain(2)
		slow.client.Join("", []hub.JoinRoom{{Room: "r", Since: began}}, nil)
		synctest.Wait()
		for seconds := 0; slow.at != s.top(); seconds++ {
			before, at := s.reads, slow.at
			for range 3 {
				if slow.drain(2) {
					slow.client.Drained()
				}
				synctest.Wait()
			}
			slow.follow(t, s)
			if s.reads-before > 1 {
				t.Fatalf("%d reads in one second", s.reads-before)
			}
			if slow.at == at && seconds > 0 {
				t.Fatalf("it stays at %s", at)
			}
			h.Tick()
			synctest.Wait()
		}
	})
}

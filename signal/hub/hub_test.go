package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hub"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// A frame is what a client was sent, decoded.
type frame struct {
	Event   string
	Room    proto.Room
	ID      string
	EventID proto.EventID
	Data    json.RawMessage

	Position proto.Position
}

func (f frame) joined(t testing.TB) (j proto.Joined) {
	t.Helper()
	if err := json.Unmarshal(f.Data, &j); err != nil {
		t.Fatal(err)
	}
	return j
}

// A conn records what it takes. It refuses once closed, as real ones do.
type conn struct {
	mu      sync.Mutex
	frames  [][]byte
	room    int  // frames that it takes before it is full; -1 is none, 0 any number
	short   bool // the last Write did not take all
	caught  int  // calls of CaughtUp
	closed  bool
	writes  int
	onWrite func() // called by each Write, before it
}

func (c *conn) Write(b *hub.Batch) (taken int) {
	if c.onWrite != nil {
		c.onWrite()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if joined := slices.Concat(frames(b)...); !bytes.Equal(joined, b.Joined) {
		panic("the joined bytes are not the entries'")
	}
	c.writes++
	for _, f := range frames(b) {
		if !c.take(f) {
			c.short = true
			break
		}
		taken++
	}
	return taken
}

func frames(b *hub.Batch) (all [][]byte) {
	for _, e := range b.Entries {
		all = append(all, e.Frame)
	}
	return all
}

func (c *conn) take(f []byte) bool {
	if c.room < 0 || c.closed {
		return false
	}
	if c.room > 0 {
		if c.room--; c.room == 0 {
			c.room = -1
		}
	}
	c.frames = append(c.frames, proto.Payload(f))
	return true
}

func (c *conn) Prepare() {}
func (c *conn) CaughtUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caught++
}

func (c *conn) Send(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.take(b)
}

func (c *conn) Answer(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.frames = append(c.frames, proto.Payload(b))
	}
}

// drain makes room for n frames, or any number, and says whether that is to be told.
func (c *conn) drain(n int) (tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tell, c.short, c.room = c.short, false, n
	return tell
}

func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// got are the frames since the last call.
func (c *conn) got(t testing.TB) (frames []frame) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.frames {
		var f frame
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatalf("frame %q: %v", b, err)
		}
		frames = append(frames, f)
	}
	c.frames = nil
	return frames
}

// in is rooms without a position.
func in(names ...proto.Room) []hub.JoinRoom {
	all := make([]hub.JoinRoom, len(names))
	for i, n := range names {
		all[i].Room = n
	}
	return all
}

// bus counts what is subscribed, and answers reads at once: rooms are where they began.
type bus struct {
	hub  *hub.Hub
	mu   sync.Mutex
	subs map[proto.Room]int
}

// began is where all rooms are.
var began = proto.Position{Epoch: proto.Incarnation([]byte("abcdefgh")), Tag: proto.Tag([]byte("0123456789ab"))}

func (b *bus) Read(r proto.Room, since proto.Position, order bool) {
	found := proto.OK
	if since.IsZero() {
		found = proto.Fresh
	}
	go b.hub.Replied(r, since, order, proto.Page{Found: found, Top: began})
}

func (b *bus) Subscribe(r proto.Room)   { b.add(r, 1) }
func (b *bus) Unsubscribe(r proto.Room) { b.add(r, -1) }
func (b *bus) add(r proto.Room, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[r] += n
}

// with runs the test against a running hub, in a bubble: synctest.Wait returns when
// every shard has nothing left to do.
func with(t *testing.T, test func(*testing.T, *hub.Hub, *bus, *prometheus.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		b, reg := &bus{subs: map[proto.Room]int{}}, prometheus.NewRegistry()
		h := hub.New(b, reg)
		b.hub = h
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		test(t, h, b, reg)
	})
}

func event(name string, except ...proto.ClientID) proto.Message {
	return proto.Message{Event: proto.Event{Event: proto.EventName(name), EventID: "e-1"}, Except: except}
}

// receive hands on one event that came alone.
func receive(h *hub.Hub, r proto.Room, m proto.Message) {
	h.Receive(r, m)
	h.Flush()
}

func names(frames []frame) (s []string) {
	for _, f := range frames {
		s = append(s, f.Event)
	}
	return s
}

func TestEachMemberGetsOneCopyInOrder(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var conns [7]conn
		for i := range conns {
			h.Add(proto.ClientID(fmt.Sprint("c", i)), "", &conns[i]).Join("j", in("a", "b"), nil)
		}
		h.Subscribed("a")
		h.Subscribed("b")
		synctest.Wait()
		for i := range conns {
			done := 0
			for _, f := range conns[i].got(t) {
				if j := f.joined(t); f.Event != "joined" || f.ID != "j" || j.Done && len(j.Rooms) == 0 {
					t.Errorf("client %d got %+v", i, f)
				} else if j.Done {
					done++
				}
			}
			if done != 1 {
				t.Errorf("client %d got done %d times", i, done)
			}
		}
		for i := range 20 {
			receive(h, "a", event(fmt.Sprint("e", i)))
		}
		receive(h, "b", event("b", "c3"))
		receive(h, "elsewhere", event("x"))
		synctest.Wait()
		for i := range conns {
			got := names(conns[i].got(t))
			if slices.Contains(got, "b") == (i == 3) {
				t.Errorf("client %d got %v, the one left out is 3", i, got)
			}
			got = slices.DeleteFunc(got, func(s string) bool { return s == "b" })
			for n := range 20 {
				if len(got) != 20 || got[n] != fmt.Sprint("e", n) {
					t.Fatalf("client %d got %v", i, got)
				}
			}
		}
	})
}

func TestJoinWaitsUntilTheRoomIsHeard(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var c conn
		cl := h.Add("c", "", &c)
		cl.Join("1", in("a", "b"), []proto.DeniedRoom{{Room: "x", Code: proto.CodeForbidden}})
		synctest.Wait()
		if got := c.got(t); len(got) != 0 {
			t.Fatalf("before the room is heard: %v", got)
		}
		receive(h, "a", event("early"))
		h.Subscribed("a")
		synctest.Wait()
		receive(h, "a", event("first"))
		synctest.Wait()
		got := c.got(t)
		if len(got) != 2 || got[0].joined(t).Done || got[0].joined(t).Rooms[0].Room != "a" || got[1].Event != "first" {
			t.Fatalf("after a is heard: %+v", got)
		}
		h.Subscribed("b")
		synctest.Wait()
		got = c.got(t)
		if j := got[0].joined(t); len(got) != 1 || !j.Done || j.Rooms[0].Room != "b" || len(j.Denied) != 1 || j.Denied[0].Room != "x" {
			t.Fatalf("after b is heard: %+v", got)
		}
		cl.Join("2", in("a"), nil)
		synctest.Wait()
		if got = c.got(t); len(got) != 1 || got[0].ID != "2" || !got[0].joined(t).Done {
			t.Fatalf("joined again: %+v", got)
		}
		receive(h, "a", event("once"))
		synctest.Wait()
		if got = c.got(t); len(got) != 1 {
			t.Fatalf("a room joined twice: %+v", got)
		}
	})
}

func TestLeave(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var c, other conn
		cl := h.Add("c", "", &c)
		h.Add("other", "", &other).Join("", in("a"), nil)
		cl.Join("", in("a", "late"), nil)
		h.Subscribed("a")
		cl.Leave("l", []proto.Room{"a", "late", "never"})
		h.Subscribed("late") // must not bring it back
		synctest.Wait()
		receive(h, "a", event("x"))
		receive(h, "late", event("x"))
		synctest.Wait()
		var denied []proto.Room
		left := 0
		for _, f := range c.got(t) {
			switch f.Event {
			case "joined":
				for _, d := range f.joined(t).Denied {
					denied = append(denied, d.Room)
					if d.Code != proto.CodeSuperseded {
						t.Errorf("denied %+v", d)
					}
				}
			case "left":
				left++
				if string(f.Data) != `{"rooms":["a","late"]}` || f.ID != "l" {
					t.Errorf("left %s %q", f.Data, f.ID)
				}
			default:
				t.Errorf("after leaving: %+v", f)
			}
		}
		if left != 1 || !slices.Contains(denied, "late") {
			t.Errorf("left %d times, denied %v", left, denied)
		}
		if b.subs["late"] != 0 || b.subs["a"] != 1 || b.subs["never"] != 0 {
			t.Errorf("subscriptions %v", b.subs)
		}
		if _, rooms := h.Size(); rooms != 1 {
			t.Errorf("%d rooms", rooms)
		}
	})
}

// TestInterleavings is the generation rule of the design: a join that races with
// leave and with close writes nothing of the room afterwards, and every join frame
// gets its done.
func TestInterleavings(t *testing.T) {
	const runs = 10_000
	for run := range runs {
		with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
			var (
				rnd = rand.New(rand.NewPCG(uint64(run), 1))
				c   conn
				cl  = h.Add("c", "", &c)
				c2  conn // of a client that joins once, and stays
				cl2 = h.Add("c2", "", &c2)
				g   sync.WaitGroup
			)
			steps := []func(){
				func() { cl.Join("j1", in("a"), nil) },
				func() { cl.Leave("l1", []proto.Room{"a"}) },
				func() { cl.Join("j2", in("a"), nil) },
				func() { cl2.Join("", in("a"), nil) },
				func() { h.Subscribed("a") },
				func() { receive(h, "a", event("e")) },
				func() { receive(h, "a", event("e")) },
			}
			closing := run%2 == 0
			if closing {
				steps = append(steps, func() { c.end(); cl.Close() })
			}
			rnd.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
			workers := 1 + rnd.IntN(3)
			for w := range workers {
				yields := rnd.IntN(4)
				g.Go(func() {
					for i := w; i < len(steps); i += workers {
						for range yields {
							runtime.Gosched()
						}
						steps[i]()
					}
				})
			}
			g.Wait()
			h.Subscribed("a")
			synctest.Wait()
			receive(h, "a", event("last"))
			synctest.Wait()

			in, done, lasts := false, map[string]int{}, 0
			for _, f := range c.got(t) {
				switch f.Event {
				case "joined":
					j := f.joined(t)
					in = in || len(j.Rooms) > 0
					if j.Done {
						done[f.ID]++
					}
				case "left":
					if string(f.Data) != `{"rooms":[]}` {
						in = false
					}
				default:
					if !in {
						t.Fatalf("run %d: %s of the room outside joined and left", run, f.Event)
					}
					if f.Event == "last" {
						lasts++
					}
				}
			}
			if got := names(c2.got(t)); len(got) == 0 || got[len(got)-1] != "last" || b.subs["a"] != 1 {
				t.Fatalf("run %d: the other client got %v, %d subscriptions", run, got, b.subs["a"])
			}
			switch {
			case closing && lasts > 0:
				t.Fatalf("run %d: closed, and %d events later", run, lasts)
			case !closing && (done["j1"] != 1 || done["j2"] != 1):
				t.Fatalf("run %d: done %v, want one for each join", run, done)
			case !closing && in != (lasts == 1):
				t.Fatalf("run %d: in the room %t, but %d events", run, in, lasts)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// While a room is not heard, who leaves it again leaves nothing behind.
func TestWaitingIsBounded(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var stays conn
		h.Add("stays", "", &stays).Join("", in("a"), nil)
		var gone atomic.Int32
		const clients = 100
		for i := range clients {
			c := &conn{}
			runtime.AddCleanup(c, func(int) { gone.Add(1) }, 0)
			cl := h.Add(proto.ClientID(fmt.Sprint(i)), "", c)
			for n := range 40 {
				if taken := cl.Join("", in("a"), nil); taken != (n < 32) {
					t.Fatalf("join %d is taken: %t", n, taken)
				}
			}
			cl.Close()
		}
		synctest.Wait()
		runtime.GC()
		runtime.GC()
		synctest.Wait()
		if n := gone.Load(); n < clients-1 {
			t.Errorf("%d of %d closed clients are still in memory", clients-n, clients)
		}
		if b.subs["a"] != 1 {
			t.Errorf("subscriptions %v", b.subs)
		}
	})
}

func TestSendToClient(t *testing.T) {
	with(t, func(t *testing.T, h *hub.Hub, b *bus, _ *prometheus.Registry) {
		var c conn
		cl := h.Add("c", "", &c)
		if !h.SendToClient("c", proto.Event{Event: "e"}) || h.SendToClient("d", proto.Event{Event: "e"}) {
			t.Error("want the client that is here to be reached, and no other")
		}
		if got := c.got(t); len(got) != 1 || got[0].Event != "e" || got[0].Room != "" {
			t.Errorf("got %+v", got)
		}
		cl.Close()
		cl.Close()
		cl.Join("", in("a"), nil)
		cl.Leave("", []proto.Room{"a"})
		synctest.Wait()
		if h.SendToClient("c", proto.Event{Event: "e"}) || len(c.got(t)) != 0 || len(b.subs) != 0 {
			t.Error("a closed client is still there")
		}
	})
}

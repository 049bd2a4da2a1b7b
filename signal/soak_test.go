package signal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestSoak lets clients come and go under load for SIGNAL_SOAK (8 s; two minutes in CI),
// and wants heap, goroutines and file descriptors to end where they began.
func TestSoak(t *testing.T) { onEach(t, soak) }

func soak(t *testing.T, srv redistest.Redis) {
	long := 8 * time.Second
	if s := os.Getenv("SIGNAL_SOAK"); s != "" {
		var err error
		if long, err = time.ParseDuration(s); err != nil {
			t.Fatalf("SIGNAL_SOAK: %v", err)
		}
	}
	n := startProcess(t, srv)
	e := emitter.New(srv.Settings())
	defer e.Close()
	soakFor(t, n, e, max(3*time.Second, long/4)) // what is only made once is made now, and maps and queues get their size
	before := n.measure(t)
	soakFor(t, n, e, long)
	var after resources
	if !redistest.Eventually(func() bool { after = n.measure(t); return after.within(before) }) {
		t.Errorf("at the beginning %+v, at the end %+v", before, after)
	}
	t.Logf("after %v: %+v, before %+v", long, after, before)
}

// soakFor plays clients until the time is over and all are gone.
func soakFor(t *testing.T, n *process, e *emitter.Emitter, long time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var g sync.WaitGroup
	for w := range 12 {
		g.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for i := 0; ctx.Err() == nil; i++ {
				if err := soakOne(ctx, n.addr, fmt.Sprintf("u%d-%d", w, i), rnd); err != nil && ctx.Err() == nil {
					t.Errorf("client %d of %d: %v", i, w, err)
				}
			}
		})
	}
	g.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-pace.C
			room := proto.Room(fmt.Sprint("r", i%20))
			if i%3 == 0 {
				room = "all"
			}
			if _, err := e.SendToRoom(context.Background(), room, "tick", strings.Repeat("x", i%2_000)); err != nil {
				t.Error(err)
			}
		}
	})
	g.Wait()
	var m resources
	if !redistest.Eventually(func() bool { m = n.measure(t); return m.connections == 0 && m.rooms == 0 }) {
		t.Fatalf("all clients are gone, and the node holds %+v", m)
	}
}

// soakOne is the life of a client.
func soakOne(ctx context.Context, addr, user string, rnd *rand.Rand) error {
	c, _, err := wstest.Dial(ctx, addr, nil)
	if err != nil {
		return err
	}
	defer c.Cut()
	token, err := signal.AuthOptions(settings(emitter.Settings{})).Issue(proto.UserID(user), time.Minute, proto.Grants{"*"}, proto.Grants{"*"})
	if err == nil {
		err = c.Login(token)
	}
	if err != nil {
		return err
	}
	c.Send("join", map[string]any{"rooms": []string{"all", fmt.Sprint("r", rnd.IntN(20))}}, "j")
	c.Send("publish", map[string]any{"room": "all", "event": "hello", "data": user}, "p")
	for range rnd.IntN(40) { // then it reads no more, whatever comes
		if _, err := c.Read(ctx); err != nil {
			return err
		}
	}
	if rnd.IntN(2) == 0 {
		c.Send("leave", map[string]any{"rooms": []string{"all"}}, "")
	}
	if rnd.IntN(3) == 0 {
		c.Close()
	}
	return nil
}

// resources are what a node holds.
type resources struct{ connections, rooms, goroutines, files, heap float64 }

// within leaves room for what a running process always has under way, and for the
// connections that its emitter keeps to Redis: 40 KiB each. Two minutes are more than 20,000
// clients, of which each would have to leave 100 bytes behind to be seen.
func (r resources) within(before resources) bool {
	return r.goroutines <= before.goroutines+2 && r.files <= before.files+20 && r.heap <= before.heap*1.1+2<<20
}

// measure asks a node, after a collection.
func (p *process) measure(t *testing.T) (r resources) {
	t.Helper()
	if status, _ := get(t, p.admin, "/debug/pprof/heap?gc=1"); status != 200 {
		t.Fatalf("no heap profile: %d", status)
	}
	_, metrics := get(t, p.admin, "/metrics")
	for line := range strings.Lines(metrics) {
		for name, value := range map[string]*float64{
			"signal_connections ": &r.connections, "signal_rooms ": &r.rooms, "go_goroutines ": &r.goroutines,
			"process_open_fds ": &r.files, "go_memstats_heap_alloc_bytes ": &r.heap,
		} {
			if strings.HasPrefix(line, name) {
				_, _ = fmt.Sscanf(line, name+"%g", value)
			}
		}
	}
	return r
}

package emitter_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// paused is an emitter on a Redis that stands still, after one event in room r.
func paused(t *testing.T) (*redistest.Server, *emitter.Emitter) {
	t.Helper()
	srv := redistest.Start(t)
	e := emitter.New(srv.Settings())
	t.Cleanup(func() { _ = e.Close() })
	if _, err := e.SendToRoom(t.Context(), "r", "n", 0); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	return srv, e
}

// wait queues events one after the other while Redis stands still: number i is data i.
func wait(t *testing.T, e *emitter.Emitter, room proto.Room, n int, done func(int, error)) *sync.WaitGroup {
	t.Helper()
	var g sync.WaitGroup
	for i := range n {
		before := e.Stats().Waiting
		g.Go(func() {
			_, err := e.SendToRoom(context.Background(), room, "n", i)
			done(i, err)
		})
		redistest.Wait(t, func() bool { return e.Stats().Waiting > before }, "event %d to be queued", i)
	}
	return &g
}

// TestOrderOfTheCalls: what waits for Redis is published in the order of the calls, whether
// Redis only stood still or has lost the connection and what was under way on it.
func TestOrderOfTheCalls(t *testing.T) {
	for name, trouble := range map[string]func(*redistest.Server){
		"it stood still": func(s *redistest.Server) { s.Resume() },
		"it was killed":  func(s *redistest.Server) { s.Kill(); s.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			srv := redistest.Start(t)
			e := emitter.New(srv.Settings())
			defer e.Close()
			if _, err := e.SendToRoom(t.Context(), "other", "n", 0); err != nil { // it is connected
				t.Fatal(err)
			}
			srv.Pause()
			const n = 200 // more than go in one call
			g := wait(t, e, "r", n, func(i int, err error) {
				if err != nil {
					t.Errorf("event %d: %v", i, err)
				}
			})
			trouble(srv)
			g.Wait()
			rdb := srv.Client()
			defer rdb.Close()
			log, err := rdb.LRange(t.Context(), srv.Settings().Layout().Log("r"), 0, -1).Result()
			if err != nil || len(log) != n {
				t.Fatalf("%d events are kept, %v; want %d", len(log), err, n)
			}
			for i, line := range log {
				m, err := proto.DecodeMessage([]byte(line))
				if err != nil || string(m.Data) != fmt.Sprint(i) || m.Position.Sequence != uint64(i+1) {
					t.Fatalf("place %d has %s at %s, %v", i, m.Data, m.Position, err)
				}
			}
		})
	}
}

// TestQueueIsBounded: what is too much while Redis stands still is refused at once, and the
// rest is sent when it goes on.
func TestQueueIsBounded(t *testing.T) {
	srv, e := paused(t)
	big := strings.Repeat("x", 100<<10)
	const fit = emitter.MaxQueuedBytes / (100 << 10)
	var g sync.WaitGroup
	for range fit {
		g.Go(func() {
			if _, err := e.SendToRoom(context.Background(), "r", "n", big); err != nil {
				t.Error(err)
			}
		})
	}
	redistest.Wait(t, func() bool { return e.Stats().Waiting == fit }, "as much to wait as may") // one that is tried before would take the place of another
	if _, err := e.SendToRoom(t.Context(), "r", "n", big); !errors.Is(err, emitter.ErrQueueFull) {
		t.Errorf("one more: %v, want ErrQueueFull", err)
	}
	srv.Resume()
	g.Wait()
	redistest.Wait(t, func() bool { return e.Stats().Waiting == 0 }, "nothing to wait")
	if _, err := e.SendToRoom(t.Context(), "r", "n", big); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestAwayForLong: while Redis is away for half a minute, every send ends by its deadline, with
// an error that says whether to try again; what waits is bounded; and afterwards the events of a
// room stand in the order of the calls.
func TestAwayForLong(t *testing.T) {
	t.Parallel()
	srv, e := paused(t)
	began := time.Now()
	time.AfterFunc(30*time.Second, srv.Resume)
	var g sync.WaitGroup
	var full, late atomic.Int64
	for i := range 300 { // of these, each in a room of its own, each waits for its event
		g.Go(func() {
			room := proto.Room(fmt.Sprint("r", i))
			for n := 1; time.Since(began) < 32*time.Second; n++ {
				sent := time.Now()
				_, err := e.SendToRoom(t.Context(), room, "n", n)
				if took := time.Since(sent); took > 16*time.Second { // ten, and what the machine needs
					t.Errorf("%s %d ended after %s with %v", room, n, took, err)
				}
				switch {
				case errors.Is(err, emitter.ErrUnavailable):
					late.Add(1)
				case err != nil:
					t.Errorf("%s %d: %v", room, n, err)
				}
			}
		})
	}
	big := strings.Repeat("x", 64<<10)
	for range 500 { // and these are too much
		g.Go(func() {
			switch _, err := e.SendToRoom(t.Context(), "big", "n", big); {
			case errors.Is(err, emitter.ErrQueueFull):
				full.Add(1)
			case err != nil && !errors.Is(err, emitter.ErrUnavailable):
				t.Error(err)
			}
		})
	}
	redistest.Wait(t, func() bool { return full.Load() > 0 }, "the queue to be full")
	if n := e.Stats().Waiting; n > emitter.MaxQueued {
		t.Errorf("%d events wait", n)
	}
	g.Wait()
	if late.Load() < 300 {
		t.Errorf("%d sends ended without Redis", late.Load())
	}
	rdb := srv.Client()
	defer rdb.Close()
	for i := range 300 {
		room := proto.Room(fmt.Sprint("r", i))
		log, err := rdb.LRange(t.Context(), srv.Settings().Layout().Log(room), 0, -1).Result()
		if err != nil || len(log) == 0 {
			t.Fatalf("%s: %d events are kept, %v", room, len(log), err)
		}
		last := 0
		for _, line := range log {
			m, err := proto.DecodeMessage([]byte(line))
			n, aerr := strconv.Atoi(string(m.Data))
			if err != nil || aerr != nil || n <= last {
				t.Fatalf("%s has %s after %d, %v", room, m.Data, last, err)
			}
			last = n
		}
	}
}

// TestCloseWhileEventsWait: their senders are told at once.
func TestCloseWhileEventsWait(t *testing.T) {
	srv, e := paused(t)
	defer srv.Resume()
	g := wait(t, e, "r", 5, func(i int, err error) {
		if !errors.Is(err, emitter.ErrClosed) {
			t.Errorf("event %d: %v, want ErrClosed", i, err)
		}
	})
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	g.Wait()
	if _, err := e.SendToRoom(t.Context(), "r", "n", 0); !errors.Is(err, emitter.ErrClosed) {
		t.Errorf("afterwards: %v, want ErrClosed", err)
	}
}

// TestGivenUpBeforeItsTurn: an event whose sender has stopped waiting before its turn came is
// not published behind its back.
func TestGivenUpBeforeItsTurn(t *testing.T) {
	srv, e := paused(t)
	g := wait(t, e, "r", 1, func(_ int, err error) { // is under way
		if err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	g.Go(func() {
		if _, err := e.SendToRoom(ctx, "r", "n", "given up"); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		srv.Resume()
	})
	redistest.Wait(t, func() bool { return e.Stats().Waiting == 2 }, "the second event to be queued")
	cancel()
	g.Wait()
	r, err := e.SendToRoom(t.Context(), "r", "n", "the next")
	if err != nil || r.Position.Sequence != 3 {
		t.Errorf("%+v, %v; want the third event of the room", r, err)
	}
}

// TestRedisIsLoading: a Redis that still reads its data from the disk takes events as soon as it
// has it; until then they wait.
func TestRedisIsLoading(t *testing.T) {
	srv := redistest.Start(t, "--enable-debug-command", "yes")
	e := emitter.New(srv.Settings())
	defer e.Close()
	rdb := srv.Client()
	defer rdb.Close()
	if _, err := e.SendToRoom(t.Context(), "r", "n", 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(rdb.Do(t.Context(), "DEBUG", "POPULATE", "20000", "k", "100").Err(), rdb.Save(t.Context()).Err()); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	var g sync.WaitGroup
	for i := range 5 {
		g.Go(func() {
			if r, err := e.SendToRoom(context.Background(), "r", "n", i); err != nil || r.Position.Sequence < 2 {
				t.Errorf("event %d: %+v, %v", i, r, err)
			}
		})
	}
	srv.Restart("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024") // two seconds
	g.Wait()
}

// TestNobodyWaitsAnyMore: events whose senders have gone make room at once.
func TestNobodyWaitsAnyMore(t *testing.T) {
	srv, e := paused(t)
	defer srv.Resume()
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			if _, err := e.SendToRoom(ctx, "r", "n", i); !errors.Is(err, context.Canceled) {
				t.Errorf("event %d: %v", i, err)
			}
		})
	}
	redistest.Wait(t, func() bool { return e.Stats().Waiting == 100 }, "all to wait")
	cancel()
	g.Wait()
	if n := e.Stats().Waiting; n > 64 { // what is under way
		t.Errorf("%d events wait for nobody", n)
	}
}

// TestOtherMastersGoOn: while a master of a cluster stands still, events for rooms of the
// others are published, and those for its own wait for it, in the order of the calls.
func TestOtherMastersGoOn(t *testing.T) {
	c := redistest.StartCluster(t, "--cluster-node-timeout", "60000") // its replica does not take its place
	e := emitter.New(c.Settings())
	defer e.Close()
	if _, err := e.SendToRoom(t.Context(), "r0", "n", 0); err != nil { // Redis has been reached
		t.Fatal(err)
	}
	still := c.Master("r0")
	var its, others []proto.Room
	for i := range 200 { // in all lanes
		r := proto.Room(fmt.Sprint("r", i))
		if c.Master(r) == still {
			its = append(its, r)
		} else {
			others = append(others, r)
		}
	}
	still.Pause()
	var waiting, going sync.WaitGroup
	for _, r := range its {
		waiting.Go(func() {
			for i := range 2 {
				if _, err := e.SendToRoom(context.Background(), r, "n", i); err != nil {
					t.Errorf("%s: %v", r, err)
				}
			}
		})
	}
	redistest.Wait(t, func() bool { return e.Stats().Waiting >= uint64(len(its)) }, "events to wait")
	for _, r := range others {
		going.Go(func() {
			for i := range 5 {
				if r, err := e.SendToRoom(context.Background(), r, "n", i); err != nil || r.Position.Sequence != uint64(i+1) {
					t.Errorf("%+v, %v", r, err)
				}
			}
		})
	}
	going.Wait()
	still.Resume()
	waiting.Wait()
}

// TestControlAway: while the master that knows how a cluster is used is away, events for rooms of
// the others are published, also by an emitter that is new. It is refused as soon as that master
// says that it does not fit.
func TestControlAway(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, "--cluster-node-timeout", "60000")
	control := c.Master(proto.Control)
	if err := open(t, c.Settings()).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	room := proto.Room("r")
	for i := 0; c.Master(room) == control; i++ {
		room = proto.Room(fmt.Sprint("r", i))
	}
	busy := open(t, c.Settings())
	if _, err := busy.SendToRoom(t.Context(), room, "n", 0); err != nil {
		t.Fatal(err)
	}
	control.Pause()
	slow := 0
	for began := time.Now(); time.Since(began) < 12*time.Second; <-time.After(10 * time.Millisecond) { // the pace of who sends all the time
		sent := time.Now()
		if _, err := busy.SendToRoom(t.Context(), room, "n", 1); err != nil {
			t.Error(err)
		}
		if time.Since(sent) > 200*time.Millisecond {
			slow++
		}
	}
	if slow > 2 { // which this machine may be
		t.Errorf("%d events waited for the master that is away", slow)
	}
	e := open(t, c.Settings())
	for i := range 3 {
		if _, err := e.SendToRoom(t.Context(), room, "n", i); err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if _, err := e.Broadcast(t.Context(), "n", 1, emitter.Live()); err != nil && c.Master(proto.Broadcasts) != control {
		t.Errorf("a live event: %v", err)
	}
	at := c.Settings()
	at.PubSub = emitter.Classic
	other := open(t, at)
	if _, err := other.SendToRoom(t.Context(), room, "n", 3); err != nil {
		t.Errorf("who does not fit, while nobody knows: %v", err)
	}
	control.Resume()
	redistest.Wait(t, func() bool {
		_, err := other.SendToRoom(t.Context(), room, "n", 4)
		return errors.Is(err, emitter.ErrDisagrees)
	}, "who does not fit to be refused")
}

// TestPatienceIsNoDeadline: that the emitter has waited for long enough is no end of its caller's
// time.
func TestPatienceIsNoDeadline(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	srv.Pause()
	defer srv.Resume()
	_, err := e.SendToRoom(t.Context(), "r", "n", 1)
	if !errors.Is(err, emitter.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "gave up after 10s") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := e.SendToRoom(ctx, "r", "n", 1); !errors.Is(err, emitter.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("whose time ends: %v", err)
	}
}

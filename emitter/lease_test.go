package emitter_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// TestLease: a node lives while its lease does, and a lease that has ended is followed by one
// of a later generation.
func TestLease(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			e := open(t, srv.Settings())
			if n, err := e.Ping(t.Context()); n != 0 || !errors.Is(err, emitter.ErrNoNodes) {
				t.Errorf("nobody is there: %d, %v", n, err)
			}
			a, b := proto.NewNodeID(), proto.NewNodeID()
			lease := func(n proto.NodeID, lasts time.Duration, generation int64, live ...proto.NodeID) {
				t.Helper()
				g, nodes, err := e.Lease(t.Context(), n, lasts, "v1")
				var ids []proto.NodeID
				for _, l := range nodes {
					ids = append(ids, l.ID)
					if l.Version != "v1" {
						t.Errorf("version %q", l.Version)
					}
				}
				if err != nil || g != generation || !slices.Equal(ids, live) {
					t.Errorf("generation %d of %q, %v; want %d of %q", g, ids, err, generation, live)
				}
			}
			lease(a, time.Minute, 1, a)
			lease(b, 2*time.Second, 2, a, b)
			lease(a, time.Minute, 1, a, b)
			redistest.Wait(t, func() bool { n, _ := e.Ping(t.Context()); return n == 1 }, "the short lease to end")
			lease(b, time.Minute, 3, a, b)
			lease(a, 0, 1, b)
			if n, err := e.Ping(t.Context()); n != 1 || err != nil {
				t.Errorf("one is left: %d, %v", n, err)
			}
		})
	}
}

// TestDeployment: who names another use of the Redis is refused; who names none is not asked.
func TestDeployment(t *testing.T) {
	srv := redistest.Start(t)
	s := srv.Settings()
	s.Deployment = "only looked"
	if err := open(t, s).Look(t.Context()); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		deployment string
		refused    bool
	}{{"", false}, {"production", false}, {"staging", true}, {"", false}, {"production", false}} {
		s := srv.Settings()
		s.Deployment = c.deployment
		err := open(t, s).Check(t.Context())
		if errors.Is(err, emitter.ErrDisagrees) != c.refused || c.refused != (err != nil) {
			t.Errorf("%q: %v", c.deployment, err)
		}
		if c.refused && !strings.Contains(err.Error(), `"production" there`) {
			t.Errorf("it says %v", err)
		}
	}
}

// TestWrongMode: a cluster that is taken for a single Redis would work for some rooms, and a
// single Redis that is taken for a cluster for none. Both are refused at once.
func TestWrongMode(t *testing.T) {
	single, cluster := redistest.Start(t).Settings(), redistest.StartCluster(t).Settings()
	for _, c := range []struct {
		at   emitter.Settings
		says string
	}{
		{emitter.Settings{Addrs: cluster.Addrs[:1]}, "MODE=cluster"},
		{emitter.Settings{Addrs: cluster.Addrs[1:2]}, "MODE=cluster"},
		{emitter.Settings{Mode: emitter.Cluster, Addrs: single.Addrs}, "MODE=single"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
		defer cancel()
		if err := open(t, c.at).Check(ctx); !errors.Is(err, emitter.ErrDisagrees) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v; want %s", c.at, err, c.says)
		}
	}
}

// TestHealthy says what became of the last event.
// TestHealthyWhileSending: what Healthy returns is nobody's variable any more (the race detector sees).
func TestHealthyWhileSending(t *testing.T) {
	e := open(t, emitter.Settings{Addrs: []string{redistest.FreeAddr(t)}})
	var sending sync.WaitGroup
	for range 4 {
		sending.Go(func() {
			for range 50 {
				if _, err := e.SendToRoom(t.Context(), "a", "a", 1, emitter.Live()); !errors.Is(err, emitter.ErrUnavailable) {
					t.Errorf("no Redis: %v", err)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { sending.Wait(); close(ended) }()
	for looks := 0; ; looks++ {
		select {
		case <-ended:
			if err := e.Healthy(); !errors.Is(err, emitter.ErrUnavailable) {
				t.Errorf("after %d looks: %v", looks, err)
			}
			return
		default:
			if err := e.Healthy(); err != nil && !errors.Is(err, emitter.ErrUnavailable) {
				t.Errorf("healthy: %v", err)
			}
		}
	}
}

func TestHealthy(t *testing.T) {
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	if err := e.Healthy(); err != nil {
		t.Errorf("before the first event: %v", err)
	}
	srv.Kill()
	if _, err := e.SendToRoom(t.Context(), "r", "n", 1, emitter.Live()); err == nil || !errors.Is(e.Healthy(), emitter.ErrUnavailable) {
		t.Errorf("without Redis: %v, healthy %v", err, e.Healthy())
	}
	srv.Restart()
	if _, err := e.SendToRoom(t.Context(), "r", "n", 1); err != nil || e.Healthy() != nil {
		t.Errorf("with Redis: %v, healthy %v", err, e.Healthy())
	}
}

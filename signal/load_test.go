package signal_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
)

// TestClusterUnderLoad breaks a cluster while so many durable events a second as SIGNAL_LOAD says
// go to 2,000 rooms with a till each on three nodes, and tells how long events were held up: in
// the rooms of the masters that were broken, and in the others' beside what they had before. The
// checker must be content.
func TestClusterUnderLoad(t *testing.T) {
	rate, err := strconv.Atoi(os.Getenv("SIGNAL_LOAD"))
	if err != nil {
		t.Skip("SIGNAL_LOAD says how many events a second: make load")
	}
	const (
		rooms              = 2_000
		perTill            = 10
		services           = 4
		undisturbed, after = 5 * time.Second, 5 * time.Second
	)
	c := redistest.StartCluster(t)
	defer c.FailsOver()()
	var nodes []string
	for range 3 {
		nodes = append(nodes, run(t, settings(c.Settings())).addr())
	}
	s := newScene(t, c, rooms, nodes...)
	for r := range slices.Chunk(s.rooms, perTill) {
		s.come(r)
	}
	s.await()
	s.loads(services, c.Settings(), rate)

	broken := []struct {
		name   string
		breaks func(master *redistest.Server) (also *redistest.Server)
		mends  func(master *redistest.Server) // may be nil
	}{
		{
			"a master is killed (kill -9)",
			func(m *redistest.Server) *redistest.Server { c.KillMaster(m); pass(after); return m },
			func(m *redistest.Server) { m.Restart() },
		},
		{"a replica takes its master's place", func(m *redistest.Server) *redistest.Server { c.Failover(m); return m }, nil},
		{"100 slots move", func(m *redistest.Server) *redistest.Server {
			for _, to := range c.MastersOf(s.rooms) {
				if to != m {
					for r := range s.roomsOf(c, m) {
						c.Migrate(r, 100, to)
						return to
					}
				}
			}
			return m
		}, nil},
		{
			"a master stands still for 5 s",
			func(m *redistest.Server) *redistest.Server { m.Pause(); pass(5 * time.Second); return m },
			func(m *redistest.Server) { m.Resume() },
		},
	}
	type window struct{ from, broken, mended, to time.Duration }
	var windows []window
	var hit []map[proto.Room]bool
	for _, b := range broken {
		w := window{from: s.history.Now()}
		pass(undisturbed)
		master := c.Master(s.rooms[rand.IntN(rooms)])
		its := s.roomsOf(c, master)
		w.broken = s.history.Now()
		if also := b.breaks(master); also != master {
			maps.Copy(its, s.roomsOf(c, also))
		}
		w.mended = s.history.Now()
		if hit = append(hit, its); b.mends != nil {
			b.mends(master)
			c.Settled()
		} else {
			pass(after)
			w.mended = s.history.Now()
		}
		s.lost(w.broken-time.Second, "") // what the replica did not have yet
		pass(after)
		w.to = s.history.Now()
		windows = append(windows, w)
	}
	records := s.end()
	s.stayed()

	all, received, missed := deliveries(records), 0, map[proto.EventID]bool{}
	for _, r := range records {
		if r.Kind == checker.Sent && all[r.ID].took == 0 {
			missed[r.ID] = true
		}
	}
	for _, d := range all {
		if d.took > 0 {
			received++
		}
	}
	t.Logf("%d events received; %d that a master had taken before it was none any more were lost with it, and the tills told, by %d resyncs", received, len(missed),
		count(records, func(r checker.Record) bool { return r.Kind == checker.Resync }))
	for i, w := range windows {
		within := func(from, to time.Duration, ofHit bool) func(part float64) time.Duration {
			var took []time.Duration
			for _, d := range all {
				if d.took > 0 && from <= d.sent && d.sent < to && hit[i][d.room] == ofHit {
					took = append(took, d.took)
				}
			}
			slices.Sort(took)
			return func(percent float64) time.Duration { return percentile(took, percent) }
		}
		before, others, later := within(w.from+time.Second, w.broken, false), within(w.broken, w.mended, false), within(w.mended, w.to, false)
		t.Logf("%s: its rooms' events were held up for at most %s; the others' p50 %s before and %s then, p99 %s and %s (%.1f times), %s when it came back", broken[i].name,
			within(w.broken, w.to, true)(100), before(50), others(50), before(99), others(99), float64(others(99))/float64(before(99)), later(99))
	}
}

// roomsOf are the scene's rooms that a master has.
func (s *scene) roomsOf(c *redistest.Cluster, m *redistest.Server) map[proto.Room]bool {
	of := map[proto.Room]bool{}
	for r, master := range c.MastersOf(s.rooms) {
		if master == m {
			of[r] = true
		}
	}
	return of
}

// loads lets services send so many events a second together, to rooms by chance, whatever
// becomes of those before, until the scene ends.
func (s *scene) loads(services int, at emitter.Settings, perSecond int) {
	const every = 5 * time.Millisecond
	for range services {
		e := emitter.New(at)
		s.working.Go(func() {
			defer e.Close()
			var underWay sync.WaitGroup
			defer underWay.Wait()
			tick := time.NewTicker(every)
			defer tick.Stop()
			began := time.Now()
			for n := 0; !s.closing.Load(); {
				<-tick.C
				for due := int(time.Since(began).Seconds() * float64(perSecond) / float64(services)); n < due; n++ {
					o := sending{proto.EventID(fmt.Sprint("e", s.ids.Add(1))), s.rooms[rand.IntN(len(s.rooms))]}
					underWay.Go(func() { s.send(e, o) })
				}
			}
		})
	}
}

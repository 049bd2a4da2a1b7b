//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// The scenarios.
const (
	Idle   = "idle"   // clients connect and say nothing: memory
	Fanout = "fanout" // everyone in one room
	Rooms  = "rooms"  // many small rooms
	P2P    = "p2p"    // events to single clients
)

// Scenarios in the order in which they are explained.
var Scenarios = []string{Idle, Fanout, Rooms, P2P}

// MaxWindow is the most events that can be under way at a time.
const MaxWindow = 9_999

// Options say what is played. Check tells what is wrong with them.
type Options struct {
	Scenario string
	Clients  int           // connections, over all nodes
	Members  int           // of each room in Rooms
	Window   int           // events under way at a time
	Rate     float64       // events a second; 0 is as fast as the window lets them
	InTurn   bool          // events go to all rooms or clients in turn, and not by chance
	Payload  int           // bytes of the data of an event
	Time     time.Duration // measured, of each run
	Warmup   time.Duration // before it
	Runs     int           // of which the median is told
	Threads  int           // that read for the clients
	Deaf     float64       // part of the clients that never read, 0 to 1
	Encrypt  bool          // frames are encrypted for all clients
	Busy     int           // members of a room that is run flat out beside the others
	Floor    bool          // play the floor in turns with the nodes
	Settle   time.Duration // how long Idle waits before it looks

	Nodes    []Node // to be measured: all on the same Redis
	Redis    emitter.Settings
	Token    func(user proto.UserID) (string, error)
	FloorCmd []string  // starts RunFloor in a process of its own
	Progress io.Writer // a line now and then
}

// A Node is one that runs.
type Node struct {
	Addr string // host:port
	PID  int    // 0 when it is not on this machine: no CPU and no memory then
}

// Check says whether the options can be played.
func (o Options) Check() error {
	var errs []error
	check := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	check(slices.Contains(Scenarios, o.Scenario), "the scenario must be one of %v, is %q", Scenarios, o.Scenario)
	check(len(o.Nodes) > 0, "there must be a node to measure")
	check(o.Clients > 0, "clients must be positive, is %d", o.Clients)
	check(o.Members > 0, "members must be positive, is %d", o.Members)
	check(o.Window > 0 && o.Window <= MaxWindow, "window must be 1 to %d, is %d", MaxWindow, o.Window)
	check(o.Rate >= 0, "rate must not be negative, is %v", o.Rate)
	check(o.Payload >= minPayload && o.Payload <= 100<<10, "bytes must be %d to %d, is %d", minPayload, 100<<10, o.Payload)
	check(o.Runs > 0, "runs must be positive, is %d", o.Runs)
	check(o.Threads == 1 || o.Threads == 2, "threads must be 1 or 2, is %d", o.Threads)
	check(o.Deaf >= 0 && o.Deaf < 1, "deaf must be 0 or more and less than 1, is %v", o.Deaf)
	check(o.Deaf < 0 || int(float64(o.Clients)*o.Deaf) < o.Clients, "somebody must read: %d clients, deaf %v", o.Clients, o.Deaf)
	check(o.Busy >= 0, "busy must not be negative, is %d", o.Busy)
	check(o.Time > 0, "time must be positive, is %v", o.Time)
	if most := openFiles() - 100; most > 0 {
		check(o.Clients+o.Busy <= most, "%d clients need more open files than this process may have: at most %d; raise `ulimit -n`", o.Clients+o.Busy, most)
	}
	return errors.Join(errs...)
}

// A Run is one measurement.
type Run struct {
	Deliveries int           `json:"deliveries"`
	Busy       int           `json:"busy_deliveries"` // of the busy room, among them
	Events     int           `json:"events"`          // published, not of the busy room
	Time       time.Duration `json:"time_ns"`
	CPU        time.Duration `json:"cpu_ns"`              // of all nodes; 0 when they are elsewhere
	P50        time.Duration `json:"p50_ns"`              // from publish, or when it was due, to the client's read
	P99        time.Duration `json:"p99_ns"`              // neither is the busy room's
	RSS        int64         `json:"rss_bytes,omitempty"` // that all nodes hold more than before
}

// PerDelivery is the CPU time of one delivery.
func (r Run) PerDelivery() float64 {
	if r.Deliveries == 0 {
		return 0
	}
	return float64(r.CPU) / float64(r.Deliveries)
}

// A Result is all runs of a scenario, and how it was played.
type Result struct {
	Scenario     string  `json:"scenario"`
	Clients      int     `json:"clients"`
	Members      int     `json:"members"`
	Nodes        int     `json:"nodes"`
	Window       int     `json:"window"`
	Rate         float64 `json:"rate"`
	InTurn       bool    `json:"in_turn"`
	Busy         int     `json:"busy_clients"`
	Deaf         float64 `json:"deaf"`
	Encrypt      bool    `json:"encrypt"`
	Frame        int     `json:"frame_bytes"`             // of one delivery, with its header
	FloorClients int     `json:"floor_clients,omitempty"` // as many as beside the others can be open
	Runs         []Run   `json:"runs"`
	Floor        []Run   `json:"floor,omitempty"`
	Local        bool    `json:"local"` // CPU and memory of the nodes are known
}

// Play runs a scenario. An error says what a client missed, got twice or too early; the
// runs before it are in the result.
func Play(ctx context.Context, o Options) (Result, error) {
	r := Result{
		Scenario: o.Scenario, Clients: o.Clients, Members: o.Members, Nodes: len(o.Nodes), Window: o.Window,
		Rate: o.Rate, InTurn: o.InTurn, Busy: o.Busy, Deaf: o.Deaf, Encrypt: o.Encrypt, Local: o.rss() > 0,
	}
	if err := o.Check(); err != nil {
		return r, err
	}
	if o.Scenario == Idle {
		run, err := o.idle(ctx)
		r.Runs = append(r.Runs, run)
		return r, err
	}
	for i := range o.Runs {
		run, floor, err := o.once(ctx, &r, fmt.Sprintf("%s, run %d of %d", o.Scenario, i+1, o.Runs))
		if err != nil {
			return r, err
		}
		r.Runs = append(r.Runs, run)
		if o.Floor {
			r.Floor = append(r.Floor, floor)
		}
	}
	return r, nil
}

// idle measures what connections cost that say nothing.
func (o Options) idle(ctx context.Context) (run Run, err error) {
	before := o.rss()
	c, err := o.connect(ctx)
	if err != nil {
		return run, err
	}
	defer c.close()
	for end := time.Now().Add(o.Settle); time.Now().Before(end); {
		o.say("%s: %d clients, %.2f KiB each", Idle, o.Clients, float64(o.rss()-before)/1024/float64(o.Clients))
		if err := sleep(ctx, min(time.Second, time.Until(end))); err != nil {
			return run, err
		}
	}
	run.RSS = o.rss() - before
	return run, c.failed()
}

// A side plays: the nodes with their clients, or the floor with its own.
type side struct {
	crowd *crowd
	send  sender
	pids  []int
	run   Run
}

// turn is how long a side plays before the other one does: what a machine's neighbours take
// of it changes from second to second, and shall take from both alike.
const turn = 500 * time.Millisecond

// leadIn is the beginning of a turn, not measured: the window fills, and the caches.
const leadIn = 50 * time.Millisecond

// once connects everybody and publishes for a while: to the nodes and, with a floor, to the
// floor in turns.
func (o Options) once(ctx context.Context, r *Result, name string) (nodes, floor Run, err error) {
	p := newPublisher(o.Redis)
	defer p.close()
	if err := p.check(ctx); err != nil {
		return nodes, floor, err
	}
	c, err := o.connect(ctx)
	if err != nil {
		return nodes, floor, err
	}
	defer c.close()
	sides := []*side{{crowd: c, send: p.send, pids: o.pids()}}
	if err := o.play(ctx, sides[0], o.Warmup, name); err != nil {
		return nodes, floor, err
	}
	last := o.Time
	if o.Floor {
		r.Frame = int(c.frame.Load())
		f, stop, err := o.floor(ctx, r.Frame)
		if err != nil {
			return nodes, floor, fmt.Errorf("floor: %w", err)
		}
		defer stop()
		r.FloorClients = len(f.crowd.tills)
		if err := o.play(ctx, f, o.Warmup, name+", floor"); err != nil {
			return nodes, floor, fmt.Errorf("floor: %w", err)
		}
		sides, last = append(sides, f), turn
	}
	for _, s := range sides {
		s.run = Run{} // without the warm-up
		s.crowd.forget()
	}
	for past := time.Duration(0); past < o.Time; past += last {
		for _, s := range sides {
			if err := o.play(ctx, s, last, name); err != nil {
				return nodes, floor, err
			}
		}
	}
	for _, s := range sides {
		s.crowd.stop()
		s.run.P50, s.run.P99 = s.crowd.latency(0.5), s.crowd.latency(0.99)
	}
	r.Frame = int(c.frame.Load())
	return sides[0].run, sides[len(sides)-1].run, nil
}

// play publishes for a while, waits until all has arrived, and adds what was measured.
func (o Options) play(ctx context.Context, s *side, d time.Duration, name string) (err error) {
	c := s.crowd
	sendCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(c.groups))
	for _, g := range c.groups {
		go func() { ended <- g.run(sendCtx, s.send) }()
	}
	if err := sleep(ctx, leadIn); err != nil {
		return err
	}
	before, cpu, began := c.count(), cpuTime(s.pids), time.Now()
	c.measuring.Store(true)
	for end := began.Add(d); time.Now().Before(end) && c.failed() == nil; {
		now := c.count()
		if past := time.Since(began).Seconds(); past > 0.3 {
			o.say("%s: %.0f deliveries/s", name, float64(now.all-before.all)/past)
		}
		if err := sleep(ctx, min(time.Second, time.Until(end))); err != nil {
			return err
		}
	}
	c.measuring.Store(false)
	after := c.count()
	s.run.Time, s.run.CPU = s.run.Time+time.Since(began), s.run.CPU+cpuTime(s.pids)-cpu
	s.run.Deliveries += after.all - before.all
	s.run.Busy += after.busy - before.busy
	s.run.Events += after.events - before.events
	stop()
	for range c.groups {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return c.settle(ctx)
}

func (o Options) pids() (all []int) {
	for _, n := range o.Nodes {
		all = append(all, n.PID)
	}
	return all
}

func (o Options) rss() (bytes int64) {
	for _, pid := range o.pids() {
		bytes += rssOf(pid)
	}
	return bytes
}

func (o Options) say(format string, a ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, "\r\x1b[K"+format, a...)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package signal_test

import (
	"cmp"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
)

// A chaos is a scene with nodes in processes of their own, which are broken too.
type chaos struct {
	*scene
	srv       redistest.Redis
	processes []*process
	seen      map[string]float64 // counters of nodes that are gone
}

const longTokens = "APP_ENV_SIGNAL_JWT_MAX_LIFETIME=10h"

// use is the nodes to which tills come.
func (c *chaos) use() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = nil
	for _, p := range c.processes {
		c.nodes = append(c.nodes, p.addr)
	}
}

var counter = regexp.MustCompile(`(?m)^(signal_\w+_total)(?:\{\w+="(\w+)"\})? ([0-9.e+]+)$`)

// count keeps what a node has counted.
func (c *chaos) count(p *process) {
	_, metrics := get(c.t, p.admin, "/metrics")
	for _, m := range counter.FindAllStringSubmatch(metrics, -1) {
		n, _ := strconv.ParseFloat(m[3], 64)
		c.seen[strings.TrimSpace(m[1]+" "+m[2])] += n
	}
}

// kill kills a node, and starts another one.
func (c *chaos) kill() {
	i := rand.IntN(len(c.processes))
	c.count(c.processes[i])
	c.processes[i].end(c.t, syscall.SIGKILL)
	c.processes[i] = startProcess(c.t, c.srv, longTokens)
	c.use()
}

// nodeFaults are those that a scene with nodes in this process cannot have.
var nodeFaults = []struct {
	name   string
	breaks func(*chaos)
}{
	{"15 a node is killed", (*chaos).kill},
	{"16 a node stands still", func(c *chaos) {
		p := c.processes[rand.IntN(len(c.processes))].cmd.Process
		_ = p.Signal(syscall.SIGSTOP)
		pass(4 * time.Second)
		_ = p.Signal(syscall.SIGCONT)
	}},
	{"20 a till knows more than the node to which it comes", func(c *chaos) {
		for range 4 {
			room := c.rooms[len(c.rooms)-1-rand.IntN(c.quiet)]
			before := map[*visitor]proto.Position{}
			for _, v := range c.tills {
				before[v] = v.stands(room)
			}
			c.unheard(room)
			var first *visitor
			if !redistest.Eventually(func() bool {
				i := slices.IndexFunc(c.tills, func(v *visitor) bool { return v.stands(room) != before[v] })
				if i >= 0 {
					first = c.tills[i]
				}
				return i >= 0
			}) {
				c.t.Errorf("no till has what nobody heard in %s", room)
				return
			}
			first.leaves()()
		}
	}},
	{"tills come and go", func(c *chaos) {
		for range 20 {
			back := c.tills[rand.IntN(len(c.tills))].leaves()
			time.AfterFunc(rand.N(2*time.Second), back)
			pass(50 * time.Millisecond)
		}
	}},
}

// stands says where the till is in a room; zero when it is in none.
func (v *visitor) stands(room proto.Room) proto.Position {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.in {
		return proto.Position{}
	}
	return v.at[room]
}

// paths are what must have happened in a chaos, or it has proved less than it says.
var paths = []string{
	"signal_rooms_healed_total message", "signal_rooms_healed_total check", "signal_rooms_healed_total connection", "signal_rooms_healed_total client",
	"signal_joins_total fresh", "signal_joins_total ring", "signal_joins_total log", "signal_joins_total lost",
	"signal_catchup_batches_total ring", "signal_catchup_batches_total log", "signal_pauses_total",
	"told epoch", "told rewound", "told forked", "told behind", "told trimmed", "duplicate",
}

// TestChaos breaks everything that TestFaults breaks, and nodes, in any order, under 500 events a
// second: each as often as SIGNAL_CHAOS says, and for three minutes at least, on the kind of Redis
// that SIGNAL_CHAOS_ON says.
func TestChaos(t *testing.T) {
	times, err := strconv.Atoi(os.Getenv("SIGNAL_CHAOS"))
	if err != nil {
		t.Skip("SIGNAL_CHAOS says how often each fault is to happen: make chaos")
	}
	kind := cmp.Or(os.Getenv("SIGNAL_CHAOS_ON"), "single")
	var srv redistest.Redis
	if kind == "cluster" {
		srv = redistest.StartCluster(t)
	} else {
		srv = redistest.Start(t)
	}
	c := &chaos{srv: srv, seen: map[string]float64{}}
	for range 3 {
		c.processes = append(c.processes, startProcess(t, srv, longTokens))
	}
	c.scene = newScene(t, srv, 40)
	c.quiet = 4
	c.use()
	c.visit(40)
	c.sends(4, srv.Settings(), 125)
	began := time.Now()
	faults := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return f.on != "" && f.on != kind || f.alone || f.stands || f.far || f.ways != "" })
	for round := 0; round < times || time.Since(began) < 3*time.Minute; round++ {
		for _, i := range rand.Perm(len(faults) + len(nodeFaults)) {
			name := ""
			if i < len(faults) {
				name = faults[i].name
				faults[i].breaks(c.scene)
			} else {
				name = nodeFaults[i-len(faults)].name
				nodeFaults[i-len(faults)].breaks(c)
			}
			t.Logf("%s  %s", time.Since(began).Round(time.Millisecond), name)
			pass(rand.N(2 * time.Second))
		}
	}
	records := c.end()
	for _, p := range c.processes {
		c.count(p)
	}
	for _, r := range records {
		c.seen["events "+string(r.Kind)]++
		if r.Kind == checker.Resync || r.Kind == checker.Joined {
			c.seen["told "+string(r.Reason)]++
		}
		if r.Duplicate {
			c.seen["duplicate"]++
		}
	}
	for _, path := range paths {
		if c.seen[path] == 0 {
			t.Errorf("it never came to: %s", path)
		}
		t.Logf("%-40s %v", path, c.seen[path])
	}
	h := healed(records)
	t.Logf("%d events, received %d times; what no node had heard was there after %s (median), %s (p99), %s (most)", int(c.seen["events sent"]),
		int(c.seen["events event"]), percentile(h, 50), percentile(h, 99), percentile(h, 100))
}

// TestNodeFaults: tills of a node that is killed are at another one, with all that they missed,
// within seconds; those of one that stands still are with it when it goes on.
func TestNodeFaults(t *testing.T) {
	kills, still := 12, 20*time.Second
	if long {
		kills, still = 100, 90*time.Second
	}
	for name, breaks := range map[string]func(*chaos){
		"15 nodes are killed": func(c *chaos) {
			for range kills {
				c.kill()
				pass(rand.N(500 * time.Millisecond))
			}
		},
		"16 a node stands still": func(c *chaos) {
			p := c.processes[0].cmd.Process
			_ = p.Signal(syscall.SIGSTOP)
			pass(still)
			_ = p.Signal(syscall.SIGCONT)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			c := &chaos{srv: srv, seen: map[string]float64{}}
			for range 3 {
				c.processes = append(c.processes, startProcess(t, srv, longTokens))
			}
			c.scene = newScene(t, srv, 20)
			c.use()
			c.visit(30)
			c.sends(4, srv.Settings(), 50)
			pass(300 * time.Millisecond)
			breaks(c)
			pass(300 * time.Millisecond)
			records := c.end()
			var away []time.Duration
			gone := map[string]time.Duration{}
			for _, r := range records {
				switch at, is := gone[r.Client]; {
				case r.Kind == checker.Gone:
					gone[r.Client] = r.At
				case r.Kind == checker.Joined && is:
					away = append(away, r.At-at)
					delete(gone, r.Client)
				}
			}
			slices.Sort(away)
			t.Logf("%d times a till was away, for %s (median), %s (p99)", len(away), percentile(away, 50), percentile(away, 99))
			if percentile(away, 99) > 10*time.Second {
				t.Error("they were away for too long")
			}
		})
	}
}

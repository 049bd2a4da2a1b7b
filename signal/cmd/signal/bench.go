//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/bench"
	"github.com/signal-team/signal/signal/bus"
	"github.com/signal-team/signal/signal/config"
)

func benchmark() *cobra.Command {
	o := bench.Options{Runs: 5, Threads: 1}
	var (
		addrs  []string
		pids   []int
		nodes  int
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "bench <scenario>...",
		Short: "Play tills and measure what they cost a node: CPU of a delivery, latency, memory of a connection",
		Long: `Plays tills against a node and measures what they cost it. Scenarios:

  idle    everyone connects and says nothing: memory (of a node that is fresh)
  fanout  everyone is in one room
  rooms   rooms of --members
  p2p     each event is for one client

Without --addr it starts nodes of its own, and a Redis (redis-server if there is one,
else an embedded one). With --addr it uses the Redis of APP_ENV_WEBSOCKET_REDIS_* and
tokens signed with APP_ENV_SIGNAL_JWT_SECRET, which must be the node's; --pid, for a node
on this machine, brings CPU and memory.

Every event is held against every client: one that is lost, doubled or out of order is
an error.`,
		Example: `  signal bench idle fanout --clients 10000 --floor
  signal bench fanout --window 8 --floor
  signal bench rooms --clients 10000 --members 10 --window 256
  signal bench rooms --clients 1000 --rate 100 --busy 5000
  signal bench p2p --addr node.example.com:8080`,
		Args:      cobra.MinimumNArgs(1),
		ValidArgs: bench.Scenarios,
		RunE: func(cmd *cobra.Command, scenarios []string) error {
			if nodes < 1 {
				return fmt.Errorf("nodes must be positive, is %d", nodes)
			}
			for _, s := range scenarios {
				o.Scenario = s
				o.Nodes = make([]bench.Node, nodes) // not known yet
				if err := o.Check(); err != nil {
					return err
				}
			}
			o.Nodes = nil
			if o.Rate > 0 && !cmd.Flags().Changed("window") { // who is late shall not hold up who comes next
				o.Window = min(max(int(o.Rate), 100), bench.MaxWindow)
			}
			if i := slices.Index(scenarios, bench.Idle); i > 0 { // first: others leave memory behind
				scenarios = slices.Insert(slices.Delete(scenarios, i, i+1), 0, bench.Idle)
			}
			// The threads that read for the clients shall not keep those that publish waiting.
			runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + o.Threads + min(o.Busy, 1))
			debug.SetGCPercent(1000) // the collector of this process would take from the node
			stop, err := arrange(cmd.Context(), &o, addrs, pids, nodes)
			defer stop()
			if err != nil {
				return err
			}
			if isTerminal(os.Stderr) {
				o.Progress = cmd.ErrOrStderr()
			}
			var (
				results []bench.Result
				failed  error
			)
			for _, s := range scenarios {
				o.Scenario = s
				r, err := bench.Play(cmd.Context(), o)
				if o.Progress != nil {
					fmt.Fprint(o.Progress, "\r\x1b[K")
				}
				results = append(results, r)
				if err != nil {
					failed = fmt.Errorf("%s: %w", s, err)
					if cmd.Context().Err() != nil {
						failed = fmt.Errorf("%s: interrupted", s)
					}
					break
				}
			}
			if asJSON {
				return errors.Join(json.NewEncoder(cmd.OutOrStdout()).Encode(results), failed)
			}
			return errors.Join(bench.WriteTable(cmd.OutOrStdout(), results), failed)
		},
	}
	f := c.Flags()
	f.IntVar(&o.Clients, "clients", 1000, "connections, over all nodes")
	f.IntVar(&o.Members, "members", 10, "clients in each room (rooms)")
	f.IntVar(&o.Window, "window", 1, "events under way at a time; with --rate, unless it is given, those of a second")
	f.Float64Var(&o.Rate, "rate", 0, "events a second; 0: as fast as the window lets them")
	f.BoolVar(&o.InTurn, "in-turn", false, "events go to the rooms or clients in turn: two are never under way in one, unless the window is larger")
	f.IntVar(&o.Payload, "bytes", 128, "data of an event")
	f.DurationVar(&o.Time, "time", 5*time.Second, "measured, of each run")
	f.DurationVar(&o.Warmup, "warmup", time.Second, "before it")
	f.DurationVar(&o.Settle, "settle", 20*time.Second, "between the last connect and the look at memory (idle)")
	f.IntVar(&o.Runs, "runs", 5, "of which the median is told")
	f.IntVar(&o.Threads, "threads", 1, "that read for the clients: 1 or 2")
	f.Float64Var(&o.Deaf, "deaf", 0, "part of the clients that never read, 0 to 1")
	f.BoolVar(&o.Encrypt, "encrypt", false, "seal every frame for every client (the floor goes on writing plain ones)")
	f.IntVar(&o.Busy, "busy", 0, "members of one more room, run flat out; latencies are the others'")
	f.BoolVar(&o.Floor, "floor", false, "let a bare write(2) loop take turns with the nodes, and tell the ratio to it")
	f.StringSliceVar(&addrs, "addr", nil, "host:port of running nodes; without it nodes are started")
	f.IntSliceVar(&pids, "pid", nil, "their processes, if they are on this machine")
	f.IntVar(&nodes, "nodes", 1, "to start")
	f.BoolVar(&asJSON, "json", false, "print all runs as JSON")
	c.MarkFlagsMutuallyExclusive("addr", "nodes")
	c.MarkFlagsMutuallyExclusive("nodes", "pid")
	c.AddCommand(&cobra.Command{
		Use: "floor", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.RunFloor(cmd.OutOrStdout()) },
	})
	return c
}

// arrange starts what is to be measured, or finds it, and says how to end it.
func arrange(ctx context.Context, o *bench.Options, addrs []string, pids []int, nodes int) (stop func(), err error) {
	var (
		started  []*bench.Process
		embedded sync.WaitGroup
	)
	ctx, cancel := context.WithCancel(ctx)
	stop = func() {
		for i := len(started) - 1; i >= 0; i-- {
			started[i].Stop()
		}
		cancel()
		embedded.Wait()
	}
	program, err := os.Executable()
	if err != nil {
		return stop, err
	}
	o.FloorCmd = []string{program, "bench", "floor"}
	if len(addrs) > 0 {
		return stop, attach(o, addrs, pids)
	}
	if len(pids) > 0 {
		return stop, errors.New("--pid goes with --addr")
	}
	o.Redis = emitter.Settings{}
	if redis, err := bench.StartRedis(ctx); err == nil {
		started = append(started, redis)
		o.Redis.Addrs = []string{redis.Addr}
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return stop, err
		}
		o.Redis.Addrs = []string{l.Addr().String()}
		embedded.Go(func() { _ = bus.RunEmbedded(ctx, l) })
		fmt.Fprintln(os.Stderr, "redis-server is not installed: an embedded Redis takes its place, in this process")
	}
	cfg := config.Config{JWTSecret: config.Secret(rand.Text() + rand.Text()), JWTAudience: "signal"}
	o.Token = tokens(cfg)
	for range nodes {
		n, err := bench.StartNode(ctx, program, emitter.EnvPrefix+"MODE=single", emitter.EnvPrefix+"ADDRS="+o.Redis.Addr(),
			config.Prefix+"AUTH=jwt", config.Prefix+"JWT_SECRET="+string(cfg.JWTSecret), config.Prefix+"JWT_AUDIENCE=signal")
		if err != nil {
			return stop, err
		}
		started = append(started, n)
		o.Nodes = append(o.Nodes, bench.Node{Addr: n.Addr, PID: n.PID()})
	}
	return stop, nil
}

// attach measures nodes that run.
func attach(o *bench.Options, addrs []string, pids []int) (err error) {
	if len(pids) > 0 && len(pids) != len(addrs) {
		return errors.New("--pid must name as many processes as --addr names nodes")
	}
	for _, pid := range pids {
		if bench.Alive(pid) != nil {
			return fmt.Errorf("--pid: there is no process %d", pid)
		}
	}
	if o.Redis, err = emitter.SettingsFromEnv(); err != nil {
		return err
	}
	cfg, err := load()
	if err != nil {
		return err
	}
	o.Token = tokens(cfg)
	for i, a := range addrs {
		n := bench.Node{Addr: strings.TrimSuffix(strings.TrimPrefix(a, "ws://"), "/ws")}
		if _, _, err := net.SplitHostPort(n.Addr); err != nil {
			return fmt.Errorf("--addr must be host:port, is %q", a)
		}
		if len(pids) > 0 {
			n.PID = pids[i]
		}
		o.Nodes = append(o.Nodes, n)
	}
	return nil
}

// tokens issues what the tills of a bench need: its rooms.
func tokens(cfg config.Config) func(proto.UserID) (string, error) {
	return func(u proto.UserID) (string, error) {
		if cfg.Auth == "none" {
			return string(u), nil
		}
		return signal.AuthOptions(cfg).Issue(u, 10*time.Minute, []string{bench.RoomPrefix + "*"}, nil)
	}
}

func isTerminal(f *os.File) bool {
	i, err := f.Stat()
	return err == nil && i.Mode()&os.ModeCharDevice != 0
}

package redistest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A Cluster is redis-servers of a test: three masters with a replica each, or with more. It ends with
// the test.
type Cluster struct {
	Servers []*Server

	fatal func(a ...any)
	quick bool // a replica takes the place of a master that says nothing
}

const (
	masters = 3
	slots   = 16384
	timeout = "cluster-node-timeout" // when the others take a server for dead, in milliseconds:
	quick   = "1000"                 // where a replica is to take a master's place
	steady  = "15000"                // elsewhere, or a machine that stalls would have it do so
)

// StartCluster starts a cluster; args are added to the command line of each server. It skips
// and fails as Start does.
func StartCluster(tb testing.TB, args ...string) *Cluster {
	tb.Helper()
	return startCluster(tb, 1, nil, args)
}

// StartClusterOf starts a cluster whose masters have so many replicas each.
func StartClusterOf(tb testing.TB, replicas int, args ...string) *Cluster {
	tb.Helper()
	return startCluster(tb, replicas, nil, args)
}

// StartClusterTLS starts a cluster whose servers speak TLS only: see StartTLS.
func StartClusterTLS(tb testing.TB, p Pair) *Cluster {
	tb.Helper()
	return startCluster(tb, 1, p.Config(tb), p.args())
}

func startCluster(tb testing.TB, replicas int, secure *tls.Config, args []string) *Cluster {
	tb.Helper()
	need(tb)
	c := &Cluster{fatal: tb.Fatal}
	var g sync.WaitGroup
	for range masters * (1 + replicas) {
		_, bus, _ := net.SplitHostPort(freeAddr(tb.Fatal))
		s := &Server{Addr: freeAddr(tb.Fatal), fatal: tb.Fatal, dir: tb.TempDir(), tls: secure, args: slices.Concat([]string{
			"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-config-file", "nodes.conf", "--" + timeout, quick,
			"--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no", "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0",
		}, args)}
		c.Servers = append(c.Servers, s)
		tb.Cleanup(s.Kill)
		g.Go(func() { s.Restart() })
	}
	g.Wait()
	for i := range masters {
		c.do(c.Servers[i], "CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1)
		c.do(c.Servers[i], "CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	c.await("the servers to know each other", func(s *Server) bool {
		known := c.nodes(s)
		for _, other := range c.Servers {
			if !slices.ContainsFunc(slices.Collect(maps.Values(known)), func(words []string) bool { return strings.HasPrefix(words[1], other.Addr+"@") }) {
				_, port, _ := net.SplitHostPort(other.Addr)
				c.do(s, "CLUSTER", "MEET", "127.0.0.1", port, argument(other.args, "--cluster-port")) // again, if it is too busy to shake hands in time
				time.Sleep(20 * time.Millisecond)
			}
		}
		return len(known) == len(c.Servers)
	})
	for i, s := range c.Servers[masters:] {
		id := c.id(c.Servers[i%masters])
		c.await("a master to be known", func(s *Server) bool { return c.nodes(s)[id] != nil })
		c.do(s, "CLUSTER", "REPLICATE", id)
	}
	c.Settled()
	if !slices.Contains(args, "--"+timeout) {
		c.Configure(timeout, steady)
	}
	return c
}

func argument(args []string, name string) string { return args[slices.Index(args, name)+1] }

// Settings are those of a participant on this cluster.
func (c *Cluster) Settings() emitter.Settings {
	s := emitter.Settings{Mode: emitter.Cluster, TLS: c.Servers[0].tls}
	for _, srv := range c.Servers {
		s.Addrs = append(s.Addrs, srv.Addr)
	}
	return s
}

// Kill ends all servers at once, as kill -9 does.
func (c *Cluster) Kill() {
	for _, s := range c.Servers {
		s.Kill()
	}
}

// Restart starts all servers with what they have saved, and waits until the cluster works.
func (c *Cluster) Restart(args ...string) {
	var g sync.WaitGroup
	for _, s := range c.Servers {
		g.Go(func() { s.Restart(args...) })
	}
	g.Wait()
	c.Settled()
	c.patience()
}

// patience sets when a server is taken for dead.
func (c *Cluster) patience() {
	if c.quick {
		c.Configure(timeout, quick)
	} else {
		c.Configure(timeout, steady)
	}
}

// FailsOver lets replicas take the place of a master that says nothing for a second, until
// ended is called, unless it is within another one.
func (c *Cluster) FailsOver() (ended func()) {
	if c.quick {
		return func() {}
	}
	c.quick = true
	c.patience()
	return func() {
		c.quick = false
		c.patience()
	}
}

// Pause stops all servers: see Redis. They do not take each other for dead afterwards.
func (c *Cluster) Pause() {
	c.Configure(timeout, "600000")
	for _, s := range c.Servers {
		s.Pause()
	}
}

// Resume ends a Pause.
func (c *Cluster) Resume() {
	for _, s := range c.Servers {
		s.Resume()
	}
	c.Settled()
	c.patience()
}

// Settled waits until all running servers agree that the cluster works, and each replica has
// what its master has.
func (c *Cluster) Settled() {
	c.await("the cluster to work", func(s *Server) bool {
		info, err := c.ask(s, "CLUSTER", "INFO")
		if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384") {
			return false
		}
		info, err = c.ask(s, "INFO", "replication")
		return err == nil && (strings.Contains(info, "role:master") || strings.Contains(info, "master_link_status:up"))
	})
}

// await waits until something holds for each running server.
func (c *Cluster) await(what string, holds func(*Server) bool) {
	for _, s := range c.Servers {
		if s.running() && !Eventually(func() bool { return holds(s) }) {
			info, _ := c.ask(s, "CLUSTER", "NODES")
			c.fatal(fmt.Sprintf("waited in vain for %s, on %s:\n%s", what, s.Addr, info))
		}
	}
}

func (c *Cluster) ask(s *Server, args ...any) (string, error) {
	rdb := s.Client()
	defer rdb.Close()
	return rdb.Do(context.Background(), args...).Text()
}

func (c *Cluster) do(s *Server, args ...any) {
	if _, err := c.ask(s, args...); err != nil {
		c.fatal(fmt.Sprintf("%v on %s: %v", args, s.Addr, err))
	}
}

func (c *Cluster) id(s *Server) string {
	id, err := c.ask(s, "CLUSTER", "MYID")
	if err != nil {
		c.fatal(err)
	}
	return id
}

// nodes is what a server knows of all, by id: the words of CLUSTER NODES.
func (c *Cluster) nodes(s *Server) map[string][]string {
	said, _ := c.ask(s, "CLUSTER", "NODES")
	nodes := map[string][]string{}
	for line := range strings.Lines(said) {
		if words := strings.Fields(line); len(words) >= 8 && !strings.Contains(words[2], "handshake") {
			nodes[words[0]] = words
		}
	}
	return nodes
}

// Master is the server that has a room.
func (c *Cluster) Master(r proto.Room) *Server {
	return c.masterOf(c.Settings().Layout().Position(r))
}

// MastersOf are the servers that have rooms.
func (c *Cluster) MastersOf(rooms []proto.Room) map[proto.Room]*Server {
	rdb := c.client()
	defer rdb.Close()
	layout, of := c.Settings().Layout(), map[proto.Room]*Server{}
	for _, r := range rooms {
		of[r] = c.master(rdb, layout.Position(r))
	}
	return of
}

func (c *Cluster) masterOf(key string) *Server {
	rdb := c.client()
	defer rdb.Close()
	return c.master(rdb, key)
}

func (c *Cluster) master(rdb *redis.ClusterClient, key string) *Server {
	m, err := rdb.MasterForKey(context.Background(), key)
	if err != nil {
		c.fatal(err)
	}
	i := slices.IndexFunc(c.Servers, func(s *Server) bool { return s.Addr == m.Options().Addr })
	return c.Servers[i]
}

func (c *Cluster) client() *redis.ClusterClient {
	var up []string
	for _, s := range c.Servers {
		if s.running() {
			up = append(up, s.Addr)
		}
	}
	s := c.Settings()
	s.Addrs = up
	return s.Open().(*redis.ClusterClient)
}

// replica waits for a running replica of a master that has all that the master has.
func (c *Cluster) replica(of *Server) (replica *Server) {
	id := c.id(of)
	if !Eventually(func() bool {
		known := c.nodes(of)
		i := slices.IndexFunc(c.Servers, func(s *Server) bool {
			if !s.running() {
				return false
			}
			words := known[c.id(s)]
			info, err := c.ask(s, "INFO", "replication")
			return words != nil && words[3] == id && err == nil && strings.Contains(info, "master_link_status:up")
		})
		if i >= 0 {
			replica = c.Servers[i]
		}
		return i >= 0
	}) {
		c.fatal("no replica of " + of.Addr)
	}
	return replica
}

// Failover makes a replica of the master take its place, as an operator does who wants to
// restart it. It returns the new master when all agree.
func (c *Cluster) Failover(of *Server) *Server {
	defer c.FailsOver()() // for twice the timeout nobody votes for a replica of that master again
	replica := c.replica(of)
	var asked time.Time
	if !Eventually(func() bool {
		if time.Since(asked) > 6*time.Second { // it gives up after five, if the master is busy
			asked = time.Now()
			c.do(replica, "CLUSTER", "FAILOVER")
		}
		info, err := c.ask(replica, "INFO", "replication")
		return err == nil && strings.Contains(info, "role:master")
	}) {
		c.fatal(replica.Addr + " does not become a master")
	}
	c.promoted(replica)
	return replica
}

// promoted waits until all know a server as a master.
func (c *Cluster) promoted(m *Server) {
	id := c.id(m)
	c.await("the replica to be the master", func(s *Server) bool {
		words := c.nodes(s)[id]
		return words != nil && strings.Contains(words[2], "master") && len(words) > 8
	})
}

// KillMaster kills a master and waits until its replica has taken its place.
func (c *Cluster) KillMaster(m *Server) (replica *Server) {
	defer c.FailsOver()()
	replica = c.replica(m)
	m.Kill()
	c.promoted(replica)
	c.Settled()
	return replica
}

// Migrate moves slots from one master to another, key by key, as redis-cli --cluster reshard
// does: the most that it has, beginning with that of the room if one is given.
func (c *Cluster) Migrate(r proto.Room, n int, to *Server) {
	rdb := c.client()
	defer rdb.Close()
	first, err := rdb.ClusterKeySlot(context.Background(), c.Settings().Layout().Position(r)).Result()
	if err != nil {
		c.fatal(err)
	}
	from := c.Master(r)
	source, target := c.id(from), c.id(to)
	_, port, _ := net.SplitHostPort(to.Addr)
	old, fresh := from.Client(), to.Client()
	defer old.Close()
	defer fresh.Close()
	ctx := context.Background()
	for slot := first; slot < first+int64(n) && slot < slots; slot++ {
		if err := fresh.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", source).Err(); err != nil {
			continue // it is there already, or was not the source's
		}
		if err := old.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", target).Err(); err != nil {
			_ = fresh.Do(ctx, "CLUSTER", "SETSLOT", slot, "STABLE").Err()
			continue
		}
		for {
			keys, err := old.Do(ctx, "CLUSTER", "GETKEYSINSLOT", slot, 100).StringSlice()
			if err != nil {
				c.fatal(err)
			}
			if len(keys) == 0 {
				break
			}
			args := []any{"MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS"}
			for _, k := range keys {
				args = append(args, k)
			}
			if err := old.Do(ctx, args...).Err(); err != nil {
				c.fatal(err)
			}
		}
		for _, s := range []*redis.Client{fresh, old} { // the new one first: a slot always has a master
			if err := s.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", target).Err(); err != nil {
				c.fatal(err)
			}
		}
	}
	c.await("the room's slot to have moved", func(s *Server) bool { return owns(c.nodes(s)[target], first) })
}

// owns says whether a server whose words these are has a slot.
func owns(words []string, slot int64) bool {
	return len(words) > 8 && slices.ContainsFunc(words[8:], func(r string) bool {
		from, to, ranged := strings.Cut(r, "-")
		low, err := strconv.ParseInt(from, 10, 64)
		high := low
		if ranged && err == nil {
			high, err = strconv.ParseInt(to, 10, 64)
		}
		return err == nil && low <= slot && slot <= high
	})
}

// Configure sets a value of the configuration of all running servers.
func (c *Cluster) Configure(name, value string) {
	for _, s := range c.Servers {
		if s.running() {
			c.do(s, "CONFIG", "SET", name, value)
		}
	}
}

// Subscribed says how many connections listen to a shard channel.
func (c *Cluster) Subscribed(channel string) int64 {
	rdb := c.masterOf(channel).Client()
	defer rdb.Close()
	n, err := rdb.PubSubShardNumSub(context.Background(), channel).Result()
	if err != nil && !errors.Is(err, context.Canceled) {
		c.fatal(err)
	}
	return n[channel]
}

// Publishes counts: see Redis.
func (c *Cluster) Publishes(tb testing.TB) (n func() int) {
	var counts []func() int
	for _, s := range c.Servers {
		if info, _ := c.ask(s, "INFO", "replication"); strings.Contains(info, "role:master") {
			counts = append(counts, s.Publishes(tb))
		}
	}
	return func() (n int) {
		for _, count := range counts {
			n += count()
		}
		return n
	}
}

// running says whether the server has not been killed.
func (s *Server) running() bool { return s.cmd.ProcessState == nil }

// ports below those that the system gives to connections: one of those could take a port before
// the server does, or answer itself when it dials a port where nobody listens. Each is tried once:
// servers that start at the same time do not get the same one.
const firstPort, lastPort = 10_000, 32_000

var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(lastPort - firstPort)) } // other test binaries run beside this one

// FreeAddr is an address where nobody listens, and no connection comes from.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return freeAddr(tb.Fatal)
}

func freeAddr(fatal func(a ...any)) string {
	for range lastPort - firstPort {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", firstPort+nextPort.Add(1)%(lastPort-firstPort)))
		if err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
	fatal("no free port")
	return ""
}

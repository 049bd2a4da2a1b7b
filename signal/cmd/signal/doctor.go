package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/config"
)

// What the doctor wants of a machine and of a Redis.
const (
	enoughFiles = 65_536
	mostSkew    = 2 * time.Second
	mostTrip    = 100 * time.Millisecond
)

func doctor() *cobra.Command {
	var token string
	var listen time.Duration
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine and at the Redis of APP_ENV_WEBSOCKET_REDIS_*, and say what to do",
		Long: `Looks at what a node or an emitter with this environment would meet, and says of each
finding what to do. The exit code is the number of findings, at most 100.

It writes nothing to Redis, and publishes to channels that nobody else hears, or what nobody
takes for an event. Where servers of the original are, it says which step of docs/MOVING.md
one is at.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := emitter.SettingsFromEnv()
			if err != nil {
				return err
			}
			d := &diagnosis{out: cmd.OutOrStdout(), at: at, listen: listen}
			if cmd.Flags().Changed("token") {
				d.token(cmd.Context(), token)
			}
			d.examine(cmd.Context())
			if d.findings > 0 {
				return exit(min(d.findings, 100))
			}
			return nil
		},
	}
	c.Flags().DurationVar(&listen, "listen", 3*time.Second, "for so long, for producers of the original")
	c.Flags().StringVar(&token, "token", "", "a client's token, to be judged as a node with this environment would")
	return c
}

// An exit ends a command that has said everything.
type exit int

func (e exit) Error() string { return fmt.Sprintf("%d findings", int(e)) }

type diagnosis struct {
	out      io.Writer
	at       emitter.Settings
	listen   time.Duration // to the original's channels
	findings int
}

func (d *diagnosis) ok(format string, a ...any) {
	fmt.Fprintf(d.out, "ok       %s\n", fmt.Sprintf(format, a...))
}

// finds says what is wrong, and what to do.
func (d *diagnosis) finds(do, format string, a ...any) {
	d.findings++
	fmt.Fprintf(d.out, "FINDING  %s\n         -> %s\n", fmt.Sprintf(format, a...), do)
}

func (d *diagnosis) examine(ctx context.Context) {
	d.files()
	for _, w := range config.Unknown() {
		d.finds("correct its name, or remove it", "%s", w)
	}
	if ofNode() {
		if cfg, err := load(); err != nil {
			d.finds("set what a node has", "%v", err)
		} else {
			d.hooks(ctx, cfg)
		}
	}
	e := emitter.New(d.at)
	defer e.Close()
	nodes := 0
	if err := e.Look(ctx); err == nil {
		d.ok("Redis on %s is used as here: protocol %d, pub/sub %s, prefix %q", strings.Join(d.at.Addrs, ","), proto.Version, d.at.Ways(), d.at.Layout().Prefix)
		nodes = d.nodes(ctx, e)
	} else {
		do := fmt.Sprintf("look at %sADDRS, at _TLS (must it be on, or off?) and at the network: a node could not reach it either", emitter.EnvPrefix)
		switch {
		case errors.Is(err, emitter.ErrDisagrees):
			do = "do as it says, if the others are right"
		case strings.Contains(err.Error(), "CLUSTERDOWN"):
			do = "look at CLUSTER NODES: a master is away, or slots have none; cluster-require-full-coverage no lets the others go on"
		case errors.Is(err, emitter.ErrRefused):
			do = fmt.Sprintf("look at %sUSERNAME, _PASSWORD, _TLS_CA and _TLS_CERT, and the user's rights on Redis", emitter.EnvPrefix)
		}
		d.finds(do, "%v", err)
		if d.at.Mode != emitter.Cluster || !errors.Is(err, emitter.ErrUnavailable) {
			return // nothing more can be asked
		}
	}
	servers := d.servers(ctx)
	defer d.original(ctx, e, nodes, servers)
	for _, s := range servers {
		rdb := redis.NewClient(d.at.Options(s.addr))
		if d.server(ctx, s.addr, rdb) && s.master {
			d.trip(ctx, e, s.addr, rdb)
		}
		_ = rdb.Close()
	}
}

// ofNode says whether this is the environment of a node, rather than of a service.
func ofNode() bool {
	return slices.ContainsFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, config.Prefix) && !strings.HasPrefix(kv, emitter.IgnisEnv+"=")
	})
}

func (d *diagnosis) files() {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return
	}
	if n := uint64(l.Cur); n < enoughFiles {
		d.finds("ulimit -n, LimitNOFILE of the unit, or ulimits.nofile of the container: one for each client and fifty more", "%d open files are allowed, which is less than %d", n, enoughFiles)
		return
	}
	d.ok("%d open files are allowed", l.Cur)
}

func (d *diagnosis) token(ctx context.Context, token string) {
	cfg, err := load()
	if err != nil {
		d.finds("set what a node has", "%v", err)
		return
	}
	v, _, err := signal.Verifier(cfg, func(string, string) {})
	if err != nil {
		d.finds("set what a node has", "%v", err)
		return
	}
	id, err := v.Verify(token)
	if errors.Is(err, auth.ErrLater) {
		id, err = v.Await(ctx, token)
	}
	switch {
	case err != nil && cfg.Auth == "ask":
		d.finds("look at APP_ENV_SIGNAL_AUTH_URL and at what the application says", "a node would refuse the token: %v", err)
		return
	case err != nil:
		d.finds("compare its claims and its key with APP_ENV_SIGNAL_JWT_*; an access token of the application is exchanged at POST /realtime/token first",
			"a node would refuse the token: %v", err)
		return
	}
	e := emitter.New(d.at)
	defer e.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	revoked := &auth.Revoked{}
	for last, more := "", true; more; {
		var all []proto.Revocation
		if all, last, _, more, err = e.Revocations(ctx, last); err != nil {
			d.finds("look at what Redis says", "the revocations cannot be read: %v", err)
			return
		}
		revoked.Add(all)
	}
	if reason, is := revoked.Judge(id.Bearer); is {
		d.finds("issue another token", "a node would refuse the token of user %q: it is revoked (%s)", id.User, cmp.Or(reason, "no reason given"))
		return
	}
	d.ok("the token is of user %q until %s; rooms %v, publish %v", id.User, time.Unix(id.Expires, 0).Format(time.RFC3339), id.Rooms, id.Publish)
}

func (d *diagnosis) nodes(ctx context.Context, e *emitter.Emitter) int {
	live, err := e.Nodes(ctx)
	if err != nil {
		d.finds("look at what Redis says", "nodes cannot be asked for: %v", err)
		return 0
	}
	var versions []string
	for _, n := range live {
		versions = append(versions, n.Version)
	}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	switch {
	case len(live) == 0:
		d.finds("start one, or compare its APP_ENV_WEBSOCKET_REDIS_* with these: events that are sent now reach nobody", "no node listens to this Redis")
	case len(versions) > 1:
		d.finds("finish the rollout", "%d nodes live, of versions %s", len(live), strings.Join(versions, ", "))
	default:
		d.ok("%d nodes live, of version %s", len(live), versions[0])
	}
	return len(live)
}

// server looks at one Redis server, and says whether it answers.
func (d *diagnosis) server(ctx context.Context, addr string, rdb *redis.Client) bool {
	now, err := rdb.Time(ctx).Result()
	if err != nil {
		d.finds("look at that server", "%s does not answer: %v", addr, err)
		return false
	}
	if skew := time.Since(now).Abs(); skew > mostSkew {
		d.finds("let both machines follow an NTP server: tokens are judged by the clock of the node", "the clock of %s and that of this machine differ by %s", addr, skew.Round(time.Millisecond))
	} else {
		d.ok("%s: clocks differ by less than %s", addr, mostSkew)
	}
	if info, err := rdb.Info(ctx, "server").Result(); err == nil && d.at.Ways() == emitter.Sharded {
		if version := field(info, "redis_version"); strings.HasPrefix(version, "6.") || strings.HasPrefix(version, "5.") {
			d.finds("upgrade, or set "+emitter.EnvPrefix+"PUBSUB=classic for everyone", "%s is Redis %s, which has no SPUBLISH", addr, version)
		}
	}
	if info, err := rdb.Info(ctx, "memory").Result(); err == nil {
		if policy := field(info, "maxmemory_policy"); policy != "noeviction" && policy != "" {
			d.finds("maxmemory-policy noeviction, by CONFIG SET and in its redis.conf", "%s may evict keys (%s): rooms would begin anew, and clients be told so", addr, policy)
		} else {
			d.ok("%s: evicts nothing", addr)
		}
	}
	limits, err := rdb.ConfigGet(ctx, "client-output-buffer-limit").Result()
	if err != nil { // a user of Redis with few rights may not ask
		d.ok("%s: its output buffer limit is not to be seen with these rights", addr)
	} else if hard := pubsubLimit(limits["client-output-buffer-limit"]); hard > 0 && hard < 64<<20 {
		d.finds("client-output-buffer-limit 'pubsub 64mb 32mb 30', by CONFIG SET and in its redis.conf", "%s cuts a node that is behind by %d MiB", addr, hard>>20)
	} else {
		d.ok("%s: a node may be behind by 64 MiB and more", addr)
	}
	if d.at.Mode == emitter.Cluster {
		d.member(ctx, addr, rdb)
	}
	return true
}

func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// pubsubLimit is the hard limit of subscribers in "normal 0 0 0 slave … pubsub 33554432 8388608 60".
func pubsubLimit(limits string) int64 {
	words := strings.Fields(limits)
	if i := slices.Index(words, "pubsub"); i >= 0 && i+1 < len(words) {
		n, _ := strconv.ParseInt(words[i+1], 10, 64)
		return n
	}
	return 0
}

// trip publishes to itself through one server.
func (d *diagnosis) trip(ctx context.Context, e *emitter.Emitter, addr string, rdb *redis.Client) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	node := proto.NewNodeID()
	var channel string
	for n := range 10_000 {
		room := proto.CanaryRoom(node, n)
		if master, err := e.Master(ctx, room); err == nil && master == addr {
			channel = d.at.Layout().Channel(room)
			break
		}
	}
	subscribe := rdb.Subscribe
	if d.at.Ways() == emitter.Sharded {
		subscribe = rdb.SSubscribe
	}
	sub := subscribe(ctx, channel)
	defer sub.Close()
	_, err := sub.Receive(ctx)
	if redis.HasErrorPrefix(err, "NOPERM") {
		if err := e.Probe(ctx, channel, "doctor"); err != nil {
			d.ok("%s: whether events arrive is not to be seen with these rights, of a service that may send to some rooms alone (%v)", addr, err)
			return
		}
		d.ok("%s: takes events; whether they arrive is not to be seen with these rights: a service's, a node needs more", addr)
		return
	}
	began := time.Now()
	if err == nil {
		err = e.Probe(ctx, channel, "doctor")
	}
	if err == nil {
		_, err = sub.ReceiveMessage(ctx)
	}
	took := time.Since(began)
	switch {
	case err != nil:
		d.finds("look at the user's rights: it needs channels "+d.at.Layout().Prefix+":*", "%s: what is published does not come: %v", addr, err)
	case took > mostTrip:
		d.finds("look at the network and at SLOWLOG", "%s: an event takes %s to Redis and back", addr, took.Round(time.Millisecond))
	default:
		d.ok("%s: an event takes %s to Redis and back", addr, took.Round(10*time.Microsecond))
	}
}

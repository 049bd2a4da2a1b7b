package main

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
)

// longestFailover is what may pass before a cluster's servers begin to replace a dead one: an
// emitter waits for ten seconds, and a node is ready for as long.
const longestFailover = 5 * time.Second

// shortestFailover is how long a server must be silent before others take its place: where no replica answers, an
// emitter counts on their word for as long (docs/adr/0014).
const shortestFailover = time.Second

// A member is one server of the Redis.
type member struct {
	addr   string
	master bool
}

// servers are the only one, or all of a cluster, of which it says what is wrong with them
// together.
func (d *diagnosis) servers(ctx context.Context) []member {
	if d.at.Mode != emitter.Cluster {
		return []member{{d.at.Addr(), true}}
	}
	shards, known := d.shards(ctx)
	if !known {
		return nil
	}
	slots := 0
	var masters, replicas []member
	for _, s := range shards {
		for _, r := range s.Slots {
			slots += int(r.End-r.Start) + 1
		}
		var master string
		before := len(replicas)
		for _, n := range s.Nodes {
			addr := d.addr(n)
			switch {
			case strings.HasPrefix(n.Health, "fail"): // else online, or loading, which a replica without data is too
				d.finds("start it, or let the cluster forget it (CLUSTER FORGET)", "%s, a %s, has failed", addr, n.Role)
			case n.Role == "master":
				master = addr
				masters = append(masters, member{addr, true})
			default:
				replicas = append(replicas, member{addr, false})
			}
		}
		if len(s.Slots) > 0 && master != "" && len(replicas) == before {
			d.finds("add one: redis-cli --cluster add-node --cluster-slave", "%s has no replica that could take its place", master)
		}
	}
	if slots < 16384 {
		d.finds("redis-cli --cluster fix", "%d of 16384 slots have a master", slots)
	} else {
		d.ok("all slots have a master, %d masters and %d replicas are there", len(masters), len(replicas))
	}
	return append(masters, replicas...)
}

// shards asks the servers of the variable, all of them, and returns what one has said.
func (d *diagnosis) shards(ctx context.Context) (shards []redis.ClusterShard, known bool) {
	for _, addr := range d.at.Addrs {
		rdb := redis.NewClient(d.at.Options(addr))
		said, err := rdb.ClusterShards(ctx).Result()
		_ = rdb.Close()
		switch {
		case err != nil:
			d.finds("start it, or name another one in "+emitter.EnvPrefix+"ADDRS", "%s does not say who is in the cluster: %v", addr, err)
		case !known:
			shards, known = said, true
		}
	}
	return shards, known
}

func (d *diagnosis) addr(n redis.Node) string {
	port := n.Port
	if d.at.TLS != nil && n.TLSPort != 0 {
		port = n.TLSPort
	}
	host := n.Endpoint
	if host == "" {
		host = n.IP
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// member looks at how a server does in its cluster.
func (d *diagnosis) member(ctx context.Context, addr string, rdb *redis.Client) {
	values, err := rdb.ConfigGet(ctx, "cluster-*").Result()
	if err != nil {
		d.ok("%s: how it does in the cluster is not to be seen with these rights", addr)
		return
	}
	if ms, err := strconv.Atoi(values["cluster-node-timeout"]); err == nil && time.Duration(ms)*time.Millisecond > longestFailover {
		d.finds("cluster-node-timeout 2000, by CONFIG SET on every server and in its redis.conf",
			"%s takes a dead server for dead after %d ms: events for its rooms are refused after 10 s, and nodes unready", addr, ms)
	}
	if ms, err := strconv.Atoi(values["cluster-node-timeout"]); err == nil && time.Duration(ms)*time.Millisecond < shortestFailover {
		d.finds("cluster-node-timeout 2000, by CONFIG SET on every server and in its redis.conf",
			"%s takes a server for dead after %d ms: what that one acknowledges when it wakes may be lost without a word", addr, ms)
	}
	if _, err := rdb.Do(ctx, "wait", 0, 0).Result(); redis.HasErrorPrefix(err, "NOPERM") {
		d.finds("+wait for the user", "%s may not be asked whether its replicas follow: a new replica's election may lose an acknowledged event", addr)
	}
	if write, err := rdb.ConfigGet(ctx, "min-replicas-to-write").Result(); err == nil && write["min-replicas-to-write"] == "0" {
		d.ok("%s: takes events also while no replica has them, and would lose them if it died then: min-replicas-to-write 1 has it refuse them", addr)
	}
	if values["cluster-require-full-coverage"] == "yes" {
		d.finds("cluster-require-full-coverage no, by CONFIG SET on every server and in its redis.conf", "%s serves no rooms at all while one master is away", addr)
	}
}

package signal_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
)

// A fault is what can break, with the promise that the checker does not know.
type fault struct {
	name   string
	on     string                         // the one kind of Redis that it breaks, or "" for each
	alone  bool                           // not among others
	stands bool                           // everybody reaches Redis by an address that can lead to another one, a standby
	far    bool                           // the second node reaches Redis through a proxy, the scene's far
	ways   emitter.PubSub                 // how events are published; "" is as it is by default
	rate   int                            // events a second of each service; 0 is 50
	breaks func(*scene)                   // and mends
	wants  func(*scene, []checker.Record) // may be nil
}

// long says that faults last as long as the list of faults has them, not only long enough to be
// noticed: make faults.
var long = os.Getenv("SIGNAL_LONG") != ""

// pass lets a scene go on for a while.
func pass(d time.Duration) { <-time.After(d) }

// lasting are how long a fault lasts, each time: with the longer ones if they are wanted.
func lasting(always []time.Duration, longer ...time.Duration) []time.Duration {
	if long {
		return append(always, longer...)
	}
	return always
}

var faults = []fault{
	{name: "1 Redis is killed and comes back empty", breaks: func(s *scene) {
		s.redis.Kill()
		if srv, real := s.redis.(*redistest.Server); real {
			srv.Forget()
		}
		s.lost(0, "")
		pass(300 * time.Millisecond)
		s.redis.Restart()
	}, wants: func(s *scene, records []checker.Record) {
		s.stayed()
		s.toldOnce(records)
	}},
	{name: "2 Redis is killed and comes back as it was a while ago", on: "single", breaks: func(s *scene) {
		srv := s.redis.(*redistest.Server)
		rdb := srv.Client()
		defer rdb.Close()
		began := s.history.Now()
		if err := rdb.Save(s.ctx).Err(); err != nil {
			s.t.Error(err)
		}
		pass(300 * time.Millisecond)
		srv.Kill()
		s.lost(began, "")
		other := srv.Elsewhere() // before the nodes are back, other events take the numbers of those that are lost
		e := emitter.New(other.Settings())
		defer e.Close()
		for range 150 { // more than were lost, and not more than a log has
			for _, room := range s.rooms {
				s.send(e, sending{proto.EventID(fmt.Sprint("e", s.ids.Add(1))), room})
			}
		}
		saver := other.Client()
		defer saver.Close()
		if err := saver.Save(s.ctx).Err(); err != nil {
			s.t.Error(err)
		}
		other.Kill()
		srv.Restart()
	}, wants: func(s *scene, records []checker.Record) {
		s.stayed()
		s.toldOnce(records)
	}},
	{name: "3 the machine of Redis goes down before all is on its disk", on: "single", breaks: func(s *scene) {
		srv := s.redis.(*redistest.Server)
		rdb := srv.Client()
		defer rdb.Close()
		began := s.history.Now()
		if err := rdb.ConfigSet(s.ctx, "appendonly", "yes").Err(); err != nil {
			s.t.Error(err)
		}
		redistest.Wait(s.t, func() bool {
			info, err := rdb.Info(s.ctx, "persistence").Result()
			return err == nil && strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0")
		}, "the append-only file")
		pass(500 * time.Millisecond)
		srv.Kill()
		srv.LoseTail(20_000 + rand.Int64N(20_000))
		s.lost(began, "")
		srv.Restart("--appendonly", "yes")
		again := srv.Client()
		defer again.Close()
		if err := again.ConfigSet(s.ctx, "appendonly", "no").Err(); err != nil {
			s.t.Error(err)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "8 Redis stands still", on: "single", breaks: func(s *scene) {
		srv := s.redis.(*redistest.Server)
		for _, d := range lasting([]time.Duration{time.Second, 5 * time.Second}, 10*time.Second, time.Minute) {
			srv.Pause()
			pass(d)
			srv.Resume()
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "9 Redis is out of memory", on: "single", breaks: func(s *scene) {
		rdb := s.redis.(*redistest.Server).Client()
		defer rdb.Close()
		for _, memory := range []string{"1", "0"} { // bytes; 0 is any number
			if err := rdb.ConfigSet(s.ctx, "maxmemory", memory).Err(); err != nil {
				s.t.Error(err)
			}
			pass(time.Second)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "10 somebody deletes keys", breaks: func(s *scene) {
		rdb := s.redis.Settings().Open()
		defer rdb.Close()
		layout := s.redis.Settings().Layout()
		for range 3 {
			for _, what := range []string{"position", "log", "both"} {
				room := s.rooms[rand.IntN(len(s.rooms))]
				began := s.history.Now()
				if what != "log" {
					rdb.Del(s.ctx, layout.Position(room))
					s.lost(began, room)
				}
				if what != "position" {
					s.unheard(room) // whoever wants to read it comes too late
					rdb.Del(s.ctx, layout.Log(room))
					s.history.Add(checker.Record{Kind: checker.Trim, Room: room, Began: began})
				}
				pass(100 * time.Millisecond)
			}
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "18 a till reads nothing for a while", breaks: func(s *scene) {
		slow := s.tills[0]
		slow.stall.Store(int64(3 * time.Second))
		e := emitter.New(s.redis.Settings())
		defer e.Close()
		big := strings.Repeat("x", 30_000)
		for i := range 400 {
			o := sending{proto.EventID(fmt.Sprint("big", i, "-", s.ids.Add(1))), slow.rooms[0]}
			s.sendData(e, o, big)
		}
	}},
	{name: "4 a replica that lags takes the place of Redis", on: "single", stands: true, breaks: func(s *scene) {
		at := s.redis.(*standby)
		master, replica := at.server.(*redistest.Server), redistest.Start(s.t)
		rdb := replica.Client()
		defer rdb.Close()
		link, follow := proxy(s.t, master.Settings())
		host, port, _ := net.SplitHostPort(follow.Addrs[0])
		if err := rdb.Do(s.ctx, "REPLICAOF", host, port).Err(); err != nil {
			s.t.Error(err)
		}
		redistest.Wait(s.t, func() bool {
			info, err := rdb.Info(s.ctx, "replication").Result()
			return err == nil && strings.Contains(info, "master_link_status:up")
		}, "the replica to follow")
		pass(500 * time.Millisecond)
		began := s.history.Now() - 300*time.Millisecond // what it does not have is younger than that
		deafen(s.t, link)
		pass(2 * time.Second)
		master.Kill()
		killed := s.history.Now()
		at.leads(s.t, replica)
		pass(300 * time.Millisecond) // in which it takes no writes
		if err := rdb.Do(s.ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
			s.t.Error(err)
		}
		at.took = s.history.Now() - killed
		s.lost(began, "")
		pass(2 * time.Second)
	}, wants: func(s *scene, records []checker.Record) {
		s.stayed()
		var last, gap time.Duration
		for _, r := range records {
			if r.Kind == checker.Sent {
				if last > 0 {
					gap = max(gap, r.At-last)
				}
				last = r.At
			}
		}
		took := s.redis.(*standby).took
		if s.t.Logf("failover in %s, no event was taken for %s", took, gap); gap > took+4*time.Second {
			s.t.Errorf("no event was taken for %s", gap)
		}
	}},
	{name: "5 a master is killed", on: "cluster", breaks: func(s *scene) {
		c := s.cluster()
		for range 2 { // the second one was a replica
			master, began := c.Master(s.rooms[0]), s.history.Now()
			pass(300 * time.Millisecond) // what the replica does not have is younger than that
			c.KillMaster(master)
			s.lost(began, "")
			pass(300 * time.Millisecond)
			master.Restart()
			c.Settled()
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "5 a replica takes its master's place", on: "cluster", breaks: func(s *scene) {
		c := s.cluster()
		for _, room := range s.rooms[:4] {
			c.Failover(c.Master(room))
			pass(100 * time.Millisecond)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "6 slots move", on: "cluster", alone: true /* moved by hand while masters change, one can end up with none */, breaks: func(s *scene) {
		c := s.cluster()
		for i := range 3 * len(s.rooms) {
			room, other := s.rooms[i%len(s.rooms)], s.rooms[(i+i/len(s.rooms)+1)%len(s.rooms)]
			if from, to := c.Master(room), c.Master(other); from != to {
				c.Migrate(room, 4, to)
			}
			pass(50 * time.Millisecond)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "8 a master stands still", on: "cluster", breaks: func(s *scene) {
		c := s.cluster()
		defer c.FailsOver()()
		for _, d := range lasting([]time.Duration{500 * time.Millisecond, time.Second, 5 * time.Second}, 15*time.Second, time.Minute) { // its replica takes its place
			master, began := c.Master(s.rooms[0]), s.history.Now()
			pass(300 * time.Millisecond)
			master.Pause()
			pass(d)
			master.Resume()
			c.Settled()
			s.forked(began)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "7 messages between a cluster's servers are lost", on: "cluster", ways: emitter.Classic, breaks: func(s *scene) {
		c := s.cluster()
		defer c.FailsOver()()
		began := s.history.Now()
		i := slices.IndexFunc(c.Servers, func(srv *redistest.Server) bool {
			return srv.Subscribed(s.redis.Settings().Layout().Channel(s.rooms[0])) > 0
		})
		c.Servers[i].Pause() // to which a node listens
		pass(5 * time.Second)
		c.Servers[i].Resume()
		c.Settled()
		s.forked(began) // if it was a master
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "11 a node is cut off from Redis", on: "single", far: true, breaks: func(s *scene) {
		for _, d := range lasting([]time.Duration{0, 0}, time.Second, 2*time.Minute) {
			mends := s.toxic(`{"name":"hole","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`,
				`{"name":"hole too","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
			cut := time.Now()
			redistest.Wait(s.t, func() bool { return s.second.metric(s.t, "signal_bus_up") == "0" }, "the node to notice")
			if took := time.Since(cut); took > 8*time.Second {
				s.t.Errorf("noticed after %s", took)
			}
			redistest.Wait(s.t, func() bool { return s.second.Ready() != nil }, "the node not to be ready")
			pass(d)
			mends()
			mended := time.Now()
			redistest.Wait(s.t, func() bool { return s.second.metric(s.t, "signal_bus_up") == "1" }, "the node to be well again")
			if took := time.Since(mended); took > 6*time.Second {
				s.t.Errorf("well again after %s", took)
			}
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "13 the way to Redis is slow", on: "single", far: true, rate: 12, breaks: func(s *scene) {
		before := s.second.metric(s.t, "signal_bus_interruptions_total")
		mends := s.toxic(`{"name":"late","type":"latency","stream":"downstream","attributes":{"latency":200,"jitter":100}}`,
			`{"name":"narrow","type":"bandwidth","stream":"downstream","attributes":{"rate":50}}`)
		began := s.history.Now()
		pass(8 * time.Second)
		s.marks = []time.Duration{began, s.history.Now()}
		mends()
		if after := s.second.metric(s.t, "signal_bus_interruptions_total"); after != before {
			s.t.Errorf("%s interruptions, %s before", after, before)
		}
	}, wants: func(s *scene, records []checker.Record) {
		s.stayed()
		all, of := deliveries(records), map[string][]time.Duration{}
		for _, r := range records {
			if d := all[r.ID]; r.Kind == checker.Event && d != nil && s.marks[0] < d.sent && d.sent < s.marks[1] {
				of[r.Client] = append(of[r.Client], r.At-d.sent)
			}
		}
		var worst time.Duration
		for _, took := range of {
			slices.Sort(took)
			worst = max(worst, percentile(took, 99))
		}
		if s.t.Logf("the slowest till has 99 of 100 events within %s", worst); worst > 3*time.Second { // this machine may stand still for a moment
			s.t.Error("more waits than the way explains")
		}
	}},
	{name: "14 connections to Redis are reset", on: "single", far: true, breaks: func(s *scene) {
		began := time.Now()
		for time.Since(began) < 8*time.Second {
			mends := s.toxic(`{"name":"reset","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`)
			pass(100 * time.Millisecond)
			mends()
			pass(500*time.Millisecond + rand.N(2500*time.Millisecond))
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "26 a service is killed while it sends", breaks: func(s *scene) {
		e := emitter.New(s.redis.Settings())
		defer e.Close()
		for range 10 {
			o := sending{proto.EventID(fmt.Sprint("killed", s.ids.Add(1))), s.rooms[rand.IntN(len(s.rooms)-s.quiet)]}
			s.sendsAndDies(o, rand.N(100*time.Millisecond))
			s.send(e, o) // its outbox does it again
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "25 a till is away for longer than the history", breaks: func(s *scene) {
		v := s.tills[0]
		back := v.leaves()
		e := emitter.New(s.redis.Settings())
		defer e.Close()
		for range kept + 50 {
			s.send(e, sending{proto.EventID(fmt.Sprint("e", s.ids.Add(1))), v.rooms[0]})
		}
		back()
	}, wants: func(s *scene, records []checker.Record) {
		if count(records, func(r checker.Record) bool { return r.Kind == checker.Joined && r.Reason == proto.Behind }) == 0 {
			s.t.Error("it was not told")
		}
	}},
	{name: "27 a service does not hear that its event was taken", breaks: func(s *scene) {
		at := s.redis.Settings()
		var deaf func()
		if c, ok := s.redis.(*redistest.Cluster); ok { // whose clients go around a proxy
			deaf = func() {
				master := c.Master(s.rooms[0])
				master.Pause()
				time.AfterFunc(2500*time.Millisecond, master.Resume) // it takes the event then
			}
		} else {
			var p *toxiproxy.Proxy
			p, at = proxy(s.t, at)
			deaf = func() {
				deafen(s.t, p)
				time.AfterFunc(500*time.Millisecond, func() { hear(s.t, p) })
			}
		}
		e := emitter.New(at)
		defer e.Close()
		for i := range 3 {
			o := sending{proto.EventID(fmt.Sprint("twice", i, "-", s.ids.Add(1))), s.rooms[0]}
			s.send(e, o) // the connection is there
			deaf()
			o.id = proto.EventID(fmt.Sprint("deaf", i, "-", s.ids.Add(1)))
			s.send(e, o)
		}
	}, wants: func(s *scene, records []checker.Record) {
		if n := count(records, func(r checker.Record) bool { return r.Duplicate && strings.HasPrefix(string(r.ID), "deaf") }); n == 0 {
			s.t.Error("no event was sent twice")
		}
	}},
	{name: "28 many services send to one room", breaks: func(s *scene) {
		stop := s.sends(12, s.redis.Settings(), 100)
		pass(time.Second)
		stop()
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
	{name: "a message is lost on the way", breaks: func(s *scene) {
		for i := range 2 * len(s.rooms) {
			s.unheard(s.rooms[len(s.rooms)-1-i%len(s.rooms)]) // in a quiet room first, and where the next one is soon
			pass(50 * time.Millisecond)
		}
	}, wants: func(s *scene, records []checker.Record) {
		s.stayed()
		if times := healed(records); len(times) == 0 || times[len(times)-1] > 10*time.Second {
			s.t.Errorf("the tills had what was lost after %v", times)
		}
	}},
	{name: "the nodes' connections are killed", on: "single", breaks: func(s *scene) {
		rdb := s.redis.(*redistest.Server).Client()
		defer rdb.Close()
		for range 3 {
			if err := rdb.Do(s.ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
				s.t.Error(err)
			}
			pass(300 * time.Millisecond)
		}
	}, wants: func(s *scene, _ []checker.Record) { s.stayed() }},
}

// cluster is the Redis of a scene on one.
func (s *scene) cluster() *redistest.Cluster {
	if w, ok := s.redis.(way); ok {
		return w.server.(*redistest.Cluster)
	}
	return s.redis.(*redistest.Cluster)
}

// A way is a Redis on which everybody publishes in one way.
type way struct {
	server
	ways emitter.PubSub
}

func (w way) Settings() emitter.Settings {
	at := w.server.Settings()
	at.PubSub = w.ways
	return at
}

// A standby is a Redis whose address can lead to another one.
type standby struct {
	server
	at    emitter.Settings
	front *toxiproxy.Proxy
	took  time.Duration // until the other one was there
}

func (s *standby) Settings() emitter.Settings { return s.at }

// leads lets the address lead to another server from now on.
func (s *standby) leads(t *testing.T, to *redistest.Server) {
	t.Helper()
	if err := s.front.Update(&toxiproxy.Proxy{Name: s.front.Name, Listen: s.front.Listen, Upstream: to.Addr, Enabled: true}); err != nil {
		t.Error(err)
	}
}

// toxic lets the proxy before the second node do something, until it is mended.
func (s *scene) toxic(what ...string) (mends func()) {
	var names []string
	for _, w := range what {
		toxic, err := s.far.Toxics.AddToxicJson(strings.NewReader(w))
		if err != nil {
			s.t.Error(err)
			continue
		}
		names = append(names, toxic.Name)
	}
	return func() {
		for _, n := range names {
			if err := s.far.Toxics.RemoveToxic(context.Background(), n); err != nil {
				s.t.Error(err)
			}
		}
	}
}

// sendsAndDies lets a process send an event, and kills it after a while.
func (s *scene) sendsAndDies(o sending, after time.Duration) {
	data := o.data()
	encoded, _ := json.Marshal(data)
	s.history.Add(checker.Record{Kind: checker.Sending, ID: o.id, Room: o.room, Print: proto.Fingerprint(proto.Event{Event: "n", EventID: o.id, Data: encoded})})
	c := command(s.t, reaching(s.redis.Settings()), "send", "--room", string(o.room), "--event-id", string(o.id), "n", string(encoded))
	if err := c.Start(); err != nil {
		s.t.Error(err)
		return
	}
	time.AfterFunc(after, func() { _ = c.Process.Kill() })
	_ = c.Wait()
}

// toldOnce wants each till to be told once of each room that has lost something.
func (s *scene) toldOnce(records []checker.Record) {
	s.t.Helper()
	type place struct {
		client string
		room   proto.Room
	}
	times := map[place]int{}
	for _, r := range records {
		if r.Kind == checker.Resync {
			times[place{r.Client, r.Room}]++
		}
	}
	for p, n := range times {
		if n != 1 {
			s.t.Errorf("%s was told %d times of %s", p.client, n, p.room)
		}
	}
	if len(times) == 0 {
		s.t.Error("nobody was told")
	}
}

// unheard is an event that Redis takes and no node hears.
func (s *scene) unheard(room proto.Room) {
	id := proto.EventID(fmt.Sprint("unheard", s.ids.Add(1)))
	e := proto.Event{Event: "n", EventID: id, Data: []byte("7")}
	s.history.Add(checker.Record{Kind: checker.Sending, ID: id, Room: room, Print: proto.Fingerprint(e)})
	at := unheard(s.t, s.redis.Settings(), room, string(id), 7)
	s.history.Add(checker.Record{Kind: checker.Sent, ID: id, Room: room, Position: at})
}

// healed is how long after it was sent each till had an event that no node heard.
func healed(records []checker.Record) (times []time.Duration) {
	sent := map[proto.EventID]time.Duration{}
	for _, r := range records {
		switch {
		case r.Kind == checker.Sending && strings.HasPrefix(string(r.ID), "unheard"):
			sent[r.ID] = r.At
		case r.Kind == checker.Event && sent[r.ID] > 0:
			times = append(times, r.At-sent[r.ID])
		}
	}
	slices.Sort(times)
	return times
}

// proxy stands between a participant and Redis.
func proxy(t *testing.T, at emitter.Settings) (*toxiproxy.Proxy, emitter.Settings) {
	t.Helper()
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", at.Addrs[0])
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	at.Addrs = []string{p.Listen}
	return p, at
}

// deafen keeps everything that Redis says.
func deafen(t *testing.T, p *toxiproxy.Proxy) {
	t.Helper()
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(`{"name":"deaf","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)); err != nil {
		t.Error(err)
	}
}

func hear(t *testing.T, p *toxiproxy.Proxy) {
	if err := p.Toxics.RemoveToxic(context.Background(), "deaf"); err != nil {
		t.Error(err)
	}
}

// TestFaults breaks one thing after the other, each under its number in the list of faults if
// it has one, with two nodes, four services and twelve tills, and the checker must be content.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for name, redis := range eachRedis(t) {
				if f.on != "" && name != f.on {
					continue
				}
				t.Run(name, func(t *testing.T) {
					if f.ways != "" {
						redis = way{redis, f.ways}
					}
					if f.stands {
						front, at := proxy(t, redis.Settings())
						redis = &standby{server: redis, at: at, front: front}
					}
					at := redis.Settings()
					first := run(t, settings(at))
					var far *toxiproxy.Proxy
					if f.far {
						far, at = proxy(t, at)
					}
					second := run(t, settings(at))
					s := newScene(t, redis, 8, first.addr(), second.addr())
					s.second, s.far = second, far
					s.quiet = 2
					s.visit(12)
					s.sends(4, redis.Settings(), cmp.Or(f.rate, 50))
					pass(300 * time.Millisecond)
					f.breaks(s)
					pass(300 * time.Millisecond)
					records := s.end()
					if f.wants != nil {
						f.wants(s, records)
					}
					t.Logf("%d events received, %d resyncs, %d duplicates", count(records, func(r checker.Record) bool { return r.Kind == checker.Event }),
						count(records, func(r checker.Record) bool { return r.Kind == checker.Resync }), count(records, func(r checker.Record) bool { return r.Duplicate }))
				})
			}
		})
	}
}

// TestPauses lets the masters of a cluster stand still eight times, for 1, 5 and 15 s, under 1,000 events a second with 110 tills,
// as often as SIGNAL_PAUSES says: nothing that was acknowledged is lost without a word.
func TestPauses(t *testing.T) {
	times, err := strconv.Atoi(os.Getenv("SIGNAL_PAUSES"))
	if err != nil {
		t.Skip("SIGNAL_PAUSES says how often: make pauses")
	}
	replicas := 1
	for i := range times {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var args []string
			if i%3 == 1 {
				replicas = 2
			} else if i%3 == 2 {
				replicas, args = 1, []string{"--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"}
			}
			c := redistest.StartClusterOf(t, replicas, args...)
			defer c.FailsOver()()
			first, second := run(t, settings(c.Settings())), run(t, settings(c.Settings()))
			s := newScene(t, c, 8, first.addr(), second.addr())
			s.visit(110)
			s.sends(4, c.Settings(), 250)
			for j, d := range []time.Duration{1, 5, 15, 1, 5, 15, 5, 1} {
				pass(2 * time.Second)
				master, began := c.Master(s.rooms[j]), s.history.Now()
				pass(300 * time.Millisecond)
				master.Pause()
				pass(d * time.Second)
				master.Resume()
				c.Settled()
				s.forked(began)
			}
			pass(2 * time.Second)
			records := s.end()
			t.Logf("%d replicas %v: %d events acknowledged, received %d times, %d resyncs", replicas, args,
				count(records, func(r checker.Record) bool { return r.Kind == checker.Sent }), count(records, func(r checker.Record) bool { return r.Kind == checker.Event }),
				count(records, func(r checker.Record) bool { return r.Kind == checker.Resync }))
		})
	}
}

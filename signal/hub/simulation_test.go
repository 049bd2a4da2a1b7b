package hub_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
	"github.com/signal-team/signal/signal/hub"
)

// A world is several nodes, tills and senders around a model of Redis, moved by one seed:
// nothing happens but what the seed chooses next, and after each call every shard comes to have
// nothing left to do. So a seed plays the same twice (TestSameSeed). Whatever it chooses, the
// checker must find the history good.
type world struct {
	rnd     *rand.Rand
	history *checker.History

	keeps   int
	losses  bool // Redis may lose what it has
	redis   memory
	saved   memory // what a crash goes back to
	savedAt time.Duration

	nodes   []*edge
	tills   []*till
	senders []*sender
	late    []request // may still be executed
	ids     int
	seen    map[string]float64 // counters of nodes that are gone
}

// A memory is what Redis has.
type memory struct {
	rooms map[proto.Room]*checker.Chain
	once  map[proto.EventID]proto.Position
}

func (m memory) clone() memory {
	c := memory{map[proto.Room]*checker.Chain{}, maps.Clone(m.once)}
	for name, room := range m.rooms {
		c.rooms[name] = &checker.Chain{Base: room.Base, Log: slices.Clone(room.Log), Keeps: room.Keeps}
	}
	return c
}

// A request is one try of a sender.
type request struct {
	id     string
	room   proto.Room
	except []proto.ClientID
}

// A sender tries until it is answered, with one event at a time.
type sender struct {
	request
	busy     bool
	executed bool
	position proto.Position // once executed
	again    bool           // it was a duplicate
}

// An edge is one node, and all that is on its way to it.
type edge struct {
	*hub.Hub
	stop   func()
	reg    *prometheus.Registry
	paused bool
	link   []arrival // in the order in which Redis sent them

	mu     sync.Mutex
	wanted map[proto.Room]int  // guarded by mu
	tell   map[proto.Room]bool // guarded by mu: wanted since Subscribed was last said
	reads  []question          // guarded by mu: not executed
	heard  map[proto.Room]bool
	replys []reply
	checks []arrival // positions that were read
}

type arrival struct {
	room proto.Room
	proto.Message
}

type question struct {
	room  proto.Room
	since proto.Position
	order bool
}

type reply struct {
	question
	page proto.Page
}

func (e *edge) Subscribe(r proto.Room)   { e.want(r, 1) }
func (e *edge) Unsubscribe(r proto.Room) { e.want(r, -1) }
func (e *edge) want(r proto.Room, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wanted[r] += n; n > 0 && e.wanted[r] == 1 {
		e.tell[r] = true
	}
}

func (e *edge) Read(r proto.Room, since proto.Position, order bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reads = append(e.reads, question{r, since, order})
	slices.SortStableFunc(e.reads, func(a, b question) int { // shards ask in any order
		return cmp.Or(cmp.Compare(a.room, b.room), cmp.Compare(a.since.String(), b.since.String()), cmp.Compare(fmt.Sprint(a.order), fmt.Sprint(b.order)))
	})
}

// A till moves between nodes.
type till struct {
	*follower
	edge  *edge
	id    proto.ClientID
	moves int
}

var simRooms = []proto.Room{"a", "b", "c"}

func newWorld(seed uint64) *world {
	w := &world{rnd: rand.New(rand.NewPCG(seed, 4)), history: checker.New(), keeps: 30, losses: seed%2 == 0, seen: map[string]float64{}}
	if w.rnd.IntN(2) == 0 {
		w.keeps = 100_000
	}
	w.redis = memory{map[proto.Room]*checker.Chain{}, map[proto.EventID]proto.Position{}}
	for _, r := range simRooms {
		w.redis.rooms[r] = begin(w.rnd, w.keeps)
	}
	w.saved = w.redis.clone()
	for range 1 + w.rnd.IntN(3) {
		w.nodes = append(w.nodes, w.start())
	}
	for i := range 6 {
		t := &till{follower: follow(fmt.Sprint("till", i))}
		t.history = w.history
		w.tills = append(w.tills, t)
		w.come(t)
	}
	w.senders = []*sender{{}, {}, {}}
	return w
}

func (w *world) start() *edge {
	e := &edge{reg: prometheus.NewRegistry(), wanted: map[proto.Room]int{}, tell: map[proto.Room]bool{}, heard: map[proto.Room]bool{}}
	before := runtime.GOMAXPROCS(3) // two shards
	e.Hub = hub.New(e, e.reg)
	runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	e.stop = func() { cancel(); <-ended }
	return e
}

// one chooses one of several.
func one[T any](rnd *rand.Rand, of []T) T { return of[rnd.IntN(len(of))] }

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.rnd.IntN(n) == 0 }

// come connects a till to a node that is not paused, in all rooms, from where it is.
func (w *world) come(t *till) {
	var awake []*edge
	for _, e := range w.nodes {
		if !e.paused {
			awake = append(awake, e)
		}
	}
	if len(awake) == 0 {
		return
	}
	t.edge = one(w.rnd, awake)
	was := t.id
	t.id = proto.ClientID(fmt.Sprint(t.name, ".", t.moves))
	t.moves++
	t.drain(0)
	t.follower.come(t.edge.Hub, t.id, was, simRooms...)
	synctest.Wait()
}

// cut ends a till's connection. What it has not taken is gone.
func (w *world) cut(t *till) {
	t.client.Close()
	synctest.Wait()
	t.edge, t.client = nil, nil
	t.mu.Lock()
	t.frames = nil
	t.mu.Unlock()
	w.history.Add(checker.Record{Kind: checker.Gone, Client: t.name})
}

// execute is the publish script.
func (w *world) execute(r request) (at proto.Position, duplicate bool) {
	id := proto.EventID(r.id)
	if at, known := w.redis.once[id]; known {
		return at, true
	}
	m := w.redis.rooms[r.room].Publish(durable(r.id), r.except...)
	w.redis.once[id] = m.Position
	for _, e := range w.nodes {
		if e.heard[r.room] {
			e.link = append(e.link, arrival{r.room, m})
		}
	}
	return m.Position, false
}

// send goes on with what a sender does.
func (w *world) send(s *sender, faults bool) {
	switch {
	case !s.busy:
		w.ids++
		s.busy, s.request = true, request{id: fmt.Sprint("e", w.ids), room: one(w.rnd, simRooms)}
		r := checker.Record{Kind: checker.Sending, ID: proto.EventID(s.id), Room: s.room, Print: proto.Fingerprint(durable(s.id))}
		if t := w.tills[w.rnd.IntN(2)]; w.chance(4) && t.moves == 1 { // is known under this and the next connection
			s.except, r.Except = []proto.ClientID{t.id}, []string{t.name}
		}
		w.history.Add(r)
	case !s.executed:
		if faults && w.chance(6) { // the request is lost, or only late
			if w.chance(2) {
				w.late = append(w.late, s.request)
			}
			return
		}
		s.position, s.again = w.execute(s.request)
		s.executed = true
	case faults && w.chance(6): // the answer is lost: again
		s.executed = false
	default:
		w.history.Add(checker.Record{Kind: checker.Sent, ID: proto.EventID(s.id), Room: s.room, Position: s.position, Duplicate: s.again})
		*s = sender{}
	}
}

// deliver brings a node the next of what is on its way, or not.
func (w *world) deliver(e *edge, faults bool) {
	if len(e.link) == 0 {
		return
	}
	next := e.link[0]
	e.link = e.link[1:]
	if faults {
		switch w.rnd.IntN(40) {
		case 0: // is lost
			return
		case 1: // comes twice
			e.Receive(next.room, next.Message)
		case 2: // comes later
			e.link = slices.Insert(e.link, w.rnd.IntN(len(e.link)+1), next)
			return
		}
	}
	e.Receive(next.room, next.Message)
	if !faults || !w.chance(3) {
		e.Flush()
	}
	synctest.Wait()
}

// read goes on with one of a node's reads.
func (w *world) read(e *edge) {
	e.mu.Lock()
	reads := len(e.reads)
	var q question
	if i := 0; reads > 0 && (len(e.replys) == 0 || w.chance(2)) {
		i = w.rnd.IntN(reads)
		q = e.reads[i]
		e.reads = slices.Delete(e.reads, i, i+1)
		e.mu.Unlock()
		e.replys = append(e.replys, reply{q, w.redis.rooms[q.room].Read(q.since)})
		return
	}
	e.mu.Unlock()
	if len(e.replys) > 0 {
		i := w.rnd.IntN(len(e.replys))
		r := e.replys[i]
		e.replys = slices.Delete(e.replys, i, i+1)
		e.Replied(r.room, r.since, r.order, r.page)
	}
}

// subscribe confirms one of the rooms that a node wants, or ends one that it does not.
func (w *world) subscribe(e *edge) {
	for _, r := range simRooms {
		e.mu.Lock()
		wanted, tell := e.wanted[r] > 0, e.tell[r]
		e.tell[r] = tell && !wanted
		e.mu.Unlock()
		if wanted && (tell || !e.heard[r]) {
			e.heard[r] = true
			e.Subscribed(r)
			synctest.Wait()
			return
		}
		if !wanted {
			delete(e.heard, r)
		}
	}
}

func (w *world) disconnect(e *edge) {
	e.link = nil
	clear(e.heard)
	e.Lost(simRooms)
	synctest.Wait()
}

// check reads positions, and brings those that were read before.
func (w *world) check(e *edge, all bool) {
	for _, c := range e.checks {
		e.Checked(c.room, c.Position)
		synctest.Wait()
	}
	e.checks = nil
	for _, r := range slices.Sorted(slices.Values(e.Due(nil, all))) {
		c := arrival{room: r}
		c.Position = w.redis.rooms[r].Top()
		e.checks = append(e.checks, c)
	}
}

// lose breaks Redis.
func (w *world) lose() {
	r := one(w.rnd, simRooms)
	switch w.rnd.IntN(5) {
	case 0: // a room is gone
		w.redis.rooms[r] = begin(w.rnd, w.keeps)
		w.history.Add(checker.Record{Kind: checker.Loss, Room: r})
	case 1: // everything is
		for _, r := range simRooms {
			w.redis.rooms[r] = begin(w.rnd, w.keeps)
		}
		clear(w.redis.once)
		w.history.Add(checker.Record{Kind: checker.Loss})
	case 2: // a room's log is
		w.redis.rooms[r].Trim(0)
		w.history.Add(checker.Record{Kind: checker.Trim, Room: r})
	default: // it comes back as it was a while ago
		w.redis = w.saved.clone()
		w.history.Add(checker.Record{Kind: checker.Loss, Began: w.savedAt})
	}
	if w.chance(2) {
		for _, e := range w.nodes {
			if !e.paused {
				w.disconnect(e)
			}
		}
	}
}

// kill replaces a node by a new one.
func (w *world) kill(i int) {
	e := w.nodes[i]
	for _, t := range w.tills {
		if t.edge == e {
			if t.moves > 1 && slices.Contains(w.tills[:2], t) {
				return // who is left out is known over one move only
			}
			defer w.cut(t)
		}
	}
	w.count(e)
	e.stop()
	w.nodes[i] = w.start()
}

// count keeps what a node has counted.
func (w *world) count(e *edge) {
	families, err := e.reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			w.seen[name] += m.GetCounter().GetValue()
		}
	}
}

// step is one thing that happens.
func (w *world) step(t *testing.T) {
	e, till := one(w.rnd, w.nodes), one(w.rnd, w.tills)
	k := w.rnd.IntN(100)
	if e.paused {
		if k < 90 {
			return
		}
		e.paused = false
		w.check(e, true)
		w.check(e, true)
		return
	}
	switch {
	case k < 30:
		w.send(one(w.rnd, w.senders), true)
	case k < 55:
		w.deliver(e, true)
	case k < 67:
		w.read(e)
	case k < 72:
		w.subscribe(e)
	case k < 75:
		w.check(e, w.chance(4))
	case k < 77:
		e.Tick()
	case k < 78:
		w.disconnect(e)
	case k < 79 && len(w.late) > 0:
		w.execute(w.late[0])
		w.late = w.late[1:]
	case k < 80 && w.chance(4):
		w.saved, w.savedAt = w.redis.clone(), w.history.Now()
	case k < 81 && w.losses && w.chance(2):
		w.lose()
	case k < 82 && w.chance(3):
		e.paused = true
	case k < 83 && w.chance(3):
		w.kill(w.rnd.IntN(len(w.nodes)))
	case till.edge == nil:
		w.come(till)
	case till.edge.paused:
	case k < 90:
		till.hear(t)
		if till.drain([]int{0, -1, 1, 2, 5}[w.rnd.IntN(5)]) {
			till.client.Drained()
		}
	case k < 92:
		till.hear(t)
		r := one(w.rnd, simRooms)
		if w.chance(4) {
			delete(till.at, r) // from now on
		}
		till.join(r)
	case k < 93:
		r := one(w.rnd, simRooms)
		synctest.Wait()
		till.client.Leave("l", []proto.Room{r})
		synctest.Wait()
		till.hear(t)
		w.history.Add(checker.Record{Kind: checker.Gone, Client: till.name, Room: r})
	case k < 94 && (till.moves == 1 || !slices.Contains(w.tills[:2], till)):
		w.cut(till)
	default:
		till.hear(t)
	}
}

// calm lets everything arrive.
func (w *world) calm(t *testing.T) {
	for _, e := range w.nodes {
		e.paused = false
	}
	for _, s := range w.senders {
		for s.busy {
			w.send(s, false)
		}
	}
	for round := range 40 {
		for _, till := range w.tills {
			if till.client == nil {
				w.come(till)
			} else if round == 0 {
				till.join(simRooms...) // it may have left some
				synctest.Wait()
			}
			if till.drain(0) {
				till.client.Drained()
			}
			synctest.Wait()
			till.hear(t)
		}
		for _, e := range w.nodes {
			for range simRooms {
				w.subscribe(e)
			}
			for len(e.link) > 0 {
				w.deliver(e, false)
			}
			w.check(e, true)
			w.check(e, true)
			for range 20 {
				synctest.Wait()
				w.read(e)
			}
			synctest.Wait()
			e.Flush()
			synctest.Wait()
			e.Tick()
			synctest.Wait()
		}
	}
	for _, till := range w.tills {
		till.hear(t)
	}
	for _, r := range simRooms {
		c := w.redis.rooms[r]
		final := checker.Record{Kind: checker.Final, Room: r, Position: c.Top(), Log: []proto.Position{c.Base}}
		for _, m := range c.Log {
			final.Log = append(final.Log, m.Position)
		}
		w.history.Add(final)
	}
}

// play lives one seed to its end.
func play(t *testing.T, seed uint64) (w *world) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // goroutines take turns, the same each time
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(seed)
		for range 1500 {
			w.step(t)
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		w.calm(t)
		for _, e := range w.nodes {
			w.count(e)
			e.stop()
		}
	})
	return w
}

// seeds are as many as SIGNAL_SEEDS says.
func seeds(t *testing.T) uint64 {
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("SIGNAL_SEEDS"), "100"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSimulation: nodes come and go, stand still and lose their connection; messages are lost,
// come twice, late or in another order; senders try again; Redis loses rooms, logs, its
// last events or all of them; tills come, go, move and are slow. Nothing is lost of which a
// till is not told. And all of it has happened.
func TestSimulation(t *testing.T) {
	seen := map[string]float64{}
	for seed := range seeds(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := play(t, seed)
			for i, v := range checker.Check(w.history.Records(), w.keeps) {
				if i == 5 {
					break
				}
				t.Error(v)
			}
			for name, n := range w.seen {
				seen[name] += n
			}
			for _, r := range w.history.Records() {
				if r.Kind == checker.Resync || r.Kind == checker.Joined {
					seen["told "+string(r.Reason)]++
				}
				if r.Duplicate {
					seen["duplicate"]++
				}
			}
		})
	}
	for _, path := range strings.Split("signal_joins_total fresh,signal_joins_total ring,signal_joins_total log,signal_joins_total lost,"+
		"signal_catchup_batches_total ring,signal_catchup_batches_total log,signal_rooms_healed_total message,signal_rooms_healed_total check,"+
		"signal_rooms_healed_total connection,signal_rooms_healed_total client,"+
		"told ok,told fresh,told epoch,told rewound,told forked,told trimmed,duplicate", ",") {
		if t.Logf("%s: %v", path, seen[path]); seen[path] == 0 {
			t.Errorf("no seed came to: %s", path)
		}
	}
}

// TestSameSeed: a seed plays the same twice.
func TestSameSeed(t *testing.T) {
	for seed := range uint64(10) {
		var first, second bytes.Buffer
		if err := cmp.Or(play(t, seed).history.Write(&first), play(t, seed).history.Write(&second)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("seed %d plays two histories", seed)
		}
	}
}

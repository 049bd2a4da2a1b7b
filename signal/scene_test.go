package signal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/checker"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// A scene is services that send and tills that listen, around a Redis and some nodes, while
// something is broken. All of them write down what happens to them; at the end the checker
// says whether a promise was broken.
type scene struct {
	t       *testing.T
	history *checker.History
	redis   server
	rooms   []proto.Room
	quiet   int // so many of the last rooms hear nothing of the services
	tills   []*visitor
	token   string
	second  *node            // of those in this process
	far     *toxiproxy.Proxy // between it and Redis, or nil
	marks   []time.Duration  // moments between which a fault lasted

	mu    sync.Mutex
	nodes []string // guarded by mu: addresses

	working sync.WaitGroup // senders
	closing atomic.Bool
	there   sync.WaitGroup // tills
	leave   context.CancelFunc
	ctx     context.Context // until the tills leave
	ids     atomic.Int64
}

// history of rooms in a scene, by default.
const kept = 256

func newScene(t *testing.T, redis server, rooms int, nodes ...string) *scene {
	s := &scene{t: t, history: checker.New(), redis: redis, nodes: nodes}
	var err error
	if s.token, err = signal.AuthOptions(settings(emitter.Settings{})).Issue("u1", time.Hour, proto.Grants{"*"}, nil); err != nil {
		t.Fatal(err)
	}
	s.ctx, s.leave = context.WithCancel(context.Background())
	t.Cleanup(s.leave)
	for i := range rooms {
		s.rooms = append(s.rooms, proto.Room(fmt.Sprint("room", i)))
	}
	return s
}

func (s *scene) node() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[rand.IntN(len(s.nodes))]
}

// A visitor is a till that comes back whenever its connection ends, to any node, and goes on
// from where it was.
type visitor struct {
	name  string
	rooms []proto.Room
	scene *scene

	mu     sync.Mutex
	at     map[proto.Room]proto.Position // guarded by mu
	in     bool                          // guarded by mu: it has joined all its rooms
	cut    func()                        // guarded by mu: its connection
	away   <-chan struct{}               // guarded by mu: closed when it may come back
	visits int                           // guarded by mu

	stall atomic.Int64 // nanoseconds for which it reads nothing
	joins int
}

// visit lets tills come, each in two rooms, and waits until they are in.
func (s *scene) visit(tills int) {
	for i := range tills {
		n := len(s.rooms)
		rooms := []proto.Room{s.rooms[i%n]}
		for _, also := range []proto.Room{s.rooms[(i*7+1+i/n)%n], s.rooms[n-1-i%max(s.quiet, 1)]} {
			if !slices.Contains(rooms, also) {
				rooms = append(rooms, also)
			}
		}
		s.come(rooms)
	}
	s.await()
}

// come lets a till come into rooms.
func (s *scene) come(rooms []proto.Room) {
	v := &visitor{name: fmt.Sprint("till", len(s.tills)), scene: s, at: map[proto.Room]proto.Position{}, rooms: rooms}
	s.tills = append(s.tills, v)
	s.there.Go(v.live)
}

// await waits until all tills are in.
func (s *scene) await() {
	s.t.Helper()
	for _, v := range s.tills {
		redistest.Wait(s.t, v.joined, "%s to be in its rooms", v.name)
	}
}

func (v *visitor) joined() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.in
}

func (v *visitor) live() {
	s := v.scene
	for s.ctx.Err() == nil {
		err := v.visit()
		v.mu.Lock()
		v.in = false
		away := v.away
		v.away = nil
		v.mu.Unlock()
		if s.ctx.Err() != nil {
			return // it stands where it stands
		}
		s.history.Add(checker.Record{Kind: checker.Gone, Client: v.name})
		if errors.Is(err, errNonsense) {
			s.t.Errorf("%s: %v", v.name, err)
		}
		select {
		case <-time.After(rand.N(200 * time.Millisecond)):
		case <-s.ctx.Done():
		}
		if away != nil {
			select {
			case <-away:
			case <-s.ctx.Done():
			}
		}
	}
}

// visit is one connection.
func (v *visitor) visit() error {
	s := v.scene
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	dialing, dialed := context.WithTimeout(ctx, 5*time.Second)
	defer dialed()
	c, _, err := wstest.Dial(dialing, s.node(), nil)
	if err != nil {
		return err
	}
	defer c.Cut()
	if err := c.Login(s.token); err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "answered by error") {
			s.t.Errorf("%s: %v", v.name, err)
		}
		return err
	}
	v.joins++
	id := fmt.Sprint(v.joins)
	joins := []any{}
	v.mu.Lock()
	v.visits++
	v.cut = cancel
	for _, r := range v.rooms {
		s.history.Add(checker.Record{Kind: checker.Joining, Client: v.name, Room: r, Join: id, Position: v.at[r]})
		joins = append(joins, map[string]any{"room": r, "since": v.at[r]})
	}
	v.mu.Unlock()
	c.Send("join", map[string]any{"rooms": joins}, id)
	for {
		f, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := v.hear(f, id); err != nil {
			return err
		}
		if d := v.stall.Swap(0); d > 0 {
			select {
			case <-time.After(time.Duration(d)):
			case <-ctx.Done():
			}
		}
	}
}

var errNonsense = errors.New("not a frame")

func (v *visitor) hear(f wstest.Frame, id string) error {
	told, err := checker.Heard(v.name, f.Raw)
	if err != nil {
		return fmt.Errorf("%w: %q: %w", errNonsense, f.Raw, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range told {
		if slices.Contains(v.rooms, r.Room) {
			v.scene.history.Add(r)
			v.at[r.Room] = r.Position
		}
	}
	if f.Event == "joined" && f.ID == id {
		var j proto.Joined
		if err := json.Unmarshal(f.Data, &j); err != nil {
			return fmt.Errorf("%w: %q: %w", errNonsense, f.Raw, err)
		}
		if len(j.Denied) > 0 {
			return fmt.Errorf("denied: %v", j.Denied) // it comes again
		}
		v.in = v.in || j.Done
	}
	return nil
}

// leaves cuts the till's connection. It does not come back before it may.
func (v *visitor) leaves() (back func()) {
	away := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.in, v.away = false, away
	if v.cut != nil {
		v.cut()
	}
	return func() { close(away) }
}

// sends lets services send, so many events a second each, to all rooms, until they are
// stopped or the scene ends.
func (s *scene) sends(services int, at emitter.Settings, perSecond int) (stop func()) {
	var stopped atomic.Bool
	for i := range services {
		e := emitter.New(at)
		s.working.Go(func() {
			defer e.Close()
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			tick := time.NewTicker(time.Second / time.Duration(perSecond))
			defer tick.Stop()
			var last []sending
			for !s.closing.Load() && !stopped.Load() {
				<-tick.C
				if n := len(last); n > 0 && rnd.IntN(50) == 0 { // its service has crashed, and does its last work again
					s.send(e, last[rnd.IntN(n)])
					continue
				}
				o := sending{proto.EventID(fmt.Sprint("e", s.ids.Add(1))), s.rooms[rnd.IntN(len(s.rooms)-s.quiet)]}
				s.send(e, o)
				if last = append(last, o); len(last) > 10 {
					last = last[1:]
				}
			}
		})
	}
	return func() { stopped.Store(true) }
}

// A sending is an event of a service.
type sending struct {
	id   proto.EventID
	room proto.Room
}

// data is different for each, and of any length.
func (o sending) data() string { return string(o.id) + strings.Repeat("x", int(o.id[len(o.id)-1])*10) }

// send tries until Redis has taken the event.
func (s *scene) send(e *emitter.Emitter, o sending) { s.sendData(e, o, o.data()) }

func (s *scene) sendData(e *emitter.Emitter, o sending, data string) {
	encoded, _ := json.Marshal(data)
	print := proto.Fingerprint(proto.Event{Event: "n", EventID: o.id, Data: encoded})
	s.history.Add(checker.Record{Kind: checker.Sending, ID: o.id, Room: o.room, Print: print})
	for {
		r, err := e.SendToRoom(context.Background(), o.room, "n", data, emitter.EventID(o.id))
		switch {
		case err == nil:
			s.history.Add(checker.Record{Kind: checker.Sent, ID: o.id, Room: o.room, Position: r.Position, Duplicate: r.Duplicate})
			return
		case !errors.Is(err, emitter.ErrUnavailable):
			s.t.Errorf("%s: %v", o.id, err)
			return
		}
	}
}

// lost takes down that Redis has lost what it had from a moment on, of one room or all.
func (s *scene) lost(began time.Duration, room proto.Room) {
	s.history.Add(checker.Record{Kind: checker.Loss, Began: began, Room: room})
}

// forked takes down that from a moment on a server that was a master no more may have told nodes what it then
// dropped. What it acknowledged is excused by nothing.
func (s *scene) forked(began time.Duration) {
	s.history.Add(checker.Record{Kind: checker.Fork, Began: began})
}

// end stops the senders, waits until everybody is where Redis is, and asks the checker.
func (s *scene) end() (records []checker.Record) {
	s.t.Helper()
	s.closing.Store(true)
	s.working.Wait()
	rdb := s.redis.Settings().Open()
	defer rdb.Close()
	e := emitter.New(s.redis.Settings())
	defer e.Close()
	layout := s.redis.Settings().Layout()
	var finals []checker.Record
	redistest.Eventually(func() bool { // who stays behind, the checker finds
		finals = nil
		top := map[proto.Room]proto.Position{}
		for _, room := range s.rooms {
			p, err := e.Position(s.ctx, room)
			log, lerr := rdb.LRange(s.ctx, layout.Log(room), 0, -1).Result()
			if err != nil || lerr != nil && !errors.Is(lerr, redis.Nil) {
				return false
			}
			final := checker.Record{Kind: checker.Final, Room: room, Position: p}
			for _, line := range log {
				m, err := proto.DecodeMessage([]byte(line))
				if err != nil {
					s.t.Error(err)
				}
				final.Log = append(final.Log, m.Position)
			}
			finals = append(finals, final)
			top[room] = p
		}
		return !slices.ContainsFunc(s.tills, func(v *visitor) bool { return !v.isAt(top) })
	})
	s.leave()
	s.there.Wait()
	for _, f := range finals {
		s.history.Add(f)
	}
	records = s.history.Records()
	violations := checker.Check(records, kept)
	for i, v := range violations {
		if i == 10 {
			s.t.Errorf("and %d more", len(violations)-i)
			break
		}
		s.t.Error(v)
	}
	if s.t.Failed() {
		path := filepath.Join(os.TempDir(), strings.ReplaceAll(s.t.Name(), "/", "-")+".history")
		if f, err := os.Create(path); err == nil {
			s.t.Logf("the history is in %s: %v", path, errors.Join(s.history.Write(f), f.Close()))
		}
	}
	return records
}

func (v *visitor) isAt(top map[proto.Room]proto.Position) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.rooms {
		if v.at[r] != top[r] {
			return false
		}
	}
	return v.in
}

// stayed wants all tills to have kept their first connection.
func (s *scene) stayed() {
	s.t.Helper()
	for _, v := range s.tills {
		if v.visits != 1 {
			s.t.Errorf("%s has connected %d times", v.name, v.visits)
		}
	}
}

// A delivery is an event on its way to the first till that had it.
type delivery struct {
	room proto.Room
	sent time.Duration
	took time.Duration // 0 if no till has had it
}

// deliveries are those of all events that Redis has taken.
func deliveries(records []checker.Record) map[proto.EventID]*delivery {
	all := map[proto.EventID]*delivery{}
	for _, r := range records {
		d := all[r.ID]
		switch {
		case r.Kind == checker.Sending && d == nil:
			all[r.ID] = &delivery{room: r.Room, sent: r.At}
		case r.Kind == checker.Event && d != nil && d.took == 0:
			d.took = r.At - d.sent
		}
	}
	return all
}

// percentile is of sorted times; 0 of none.
func percentile(times []time.Duration, percent float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[int(float64(len(times)-1)*percent/100)].Round(100 * time.Microsecond)
}

// count counts records of a kind.
func count(records []checker.Record, is func(checker.Record) bool) (n int) {
	for _, r := range records {
		if is(r) {
			n++
		}
	}
	return n
}

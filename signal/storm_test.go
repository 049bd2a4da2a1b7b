package signal_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// BenchmarkStorm lets many tills lose their connections and come back at once, each with ten
// events to catch up with: to the node that they have left, on which one till of each room has
// stayed, and to a node that has just started. It says what that costs Redis, and how long it
// takes until everybody has what it missed. SIGNAL_STORM is the number of tills.
func BenchmarkStorm(b *testing.B) {
	clients := 10_000
	if n, err := strconv.Atoi(os.Getenv("SIGNAL_STORM")); err == nil {
		clients = n
	}
	for name, srv := range redistest.Each(b) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				storms(b, srv, clients)
			}
		})
	}
}

func storms(b *testing.B, srv redistest.Redis, clients int) {
	const members, missed = 10, 10
	path, err := binary(false)
	if err != nil {
		b.Fatal(err)
	}
	warm := startNode(b, path, srv, "APP_ENV_SIGNAL_LIMITS=off")
	s := &storm{b: b, at: make([]proto.Position, clients), conns: make([]*wstest.Client, clients)}
	s.come(warm, 0, clients, 0)
	e := emitter.New(srv.Settings())
	defer e.Close()
	publish := func() {
		for n := range missed * clients / members {
			if _, err := e.SendToRoom(b.Context(), proto.Room(fmt.Sprint("storm", n%(clients/members))), "n", n); err != nil {
				b.Fatal(err)
			}
		}
	}
	stay := clients / members // the first one of each room
	s.cut(stay, clients)
	publish()
	for i := range stay {
		s.catchUp(i, missed)
	}
	s.measure("warm", warm, stay, clients, missed)
	s.cut(0, clients)
	publish()
	cold := startNode(b, path, srv, "APP_ENV_SIGNAL_LIMITS=off")
	s.measure("cold", cold, 0, clients, missed)
	s.cut(0, clients)
}

// A storm is tills by number; till i is in room i modulo the number of rooms.
type storm struct {
	b     *testing.B
	at    []proto.Position
	conns []*wstest.Client
}

func (s *storm) measure(name string, node *process, from, to, missed int) {
	redistest.Wait(s.b, func() bool { return s.value(node, "signal_clients") == float64(from) }, "the others to have left")
	before := s.value(node, "signal_history_reads_total")
	began := time.Now()
	took := s.come(node, from, to, missed)
	rooms, reads := s.value(node, "signal_rooms"), s.value(node, "signal_history_reads_total")-before
	s.b.ReportMetric(reads/rooms, name+"-reads/room")
	s.b.ReportMetric(time.Since(began).Seconds(), name+"-s")
	s.b.Logf("%s: %d tills were back after %s, half of them after %s each; %v reads, %v rooms", name, to-from,
		time.Since(began).Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), reads, rooms)
}

// value is a metric of a node, all labels together.
func (s *storm) value(node *process, name string) (sum float64) {
	_, metrics := get(s.b, node.admin, "/metrics")
	for line := range strings.Lines(metrics) {
		if rest, is := strings.CutPrefix(line, name); is && strings.ContainsAny(rest[:1], "{ ") {
			n, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
			sum += n
		}
	}
	return sum
}

// cut ends connections.
func (s *storm) cut(from, to int) {
	for _, c := range s.conns[from:to] {
		c.Cut()
	}
}

// come connects tills, joins their rooms from where they are, and waits until they have what
// they missed.
func (s *storm) come(node *process, from, to, missed int) []time.Duration {
	took := make([]time.Duration, to-from)
	next := make(chan int)
	var g sync.WaitGroup
	for range 512 {
		g.Go(func() {
			for i := range next {
				began := time.Now()
				if err := s.connect(node, i); err != nil {
					s.b.Errorf("till %d: %v", i, err)
					continue
				}
				s.catchUp(i, missed)
				took[i-from] = time.Since(began)
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	g.Wait()
	slices.Sort(took)
	return took
}

func (s *storm) connect(node *process, i int) error {
	token, err := signal.AuthOptions(settings(emitter.Settings{})).Issue(proto.UserID(fmt.Sprint("u", i)), 10*time.Minute, proto.Grants{"*"}, nil)
	if err != nil {
		return err
	}
	c, _, err := wstest.Dial(s.b.Context(), node.addr, nil)
	if err != nil {
		return err
	}
	s.conns[i] = c
	if err := c.Login(token); err != nil {
		return err
	}
	c.Send("join", map[string]any{"rooms": []any{map[string]any{"room": fmt.Sprint("storm", i%(len(s.at)/10)), "since": s.at[i]}}}, "1")
	f, err := c.Next()
	if err != nil {
		return err
	}
	var j proto.Joined
	if err := json.Unmarshal(f.Data, &j); err != nil || len(j.Rooms) != 1 || !s.at[i].IsZero() && !j.Rooms[0].Recovered {
		return fmt.Errorf("joined %s", f.Data)
	}
	s.at[i] = j.Rooms[0].Position
	return nil
}

// catchUp reads n events.
func (s *storm) catchUp(i, n int) {
	for range n {
		f, err := s.conns[i].Next()
		if err != nil || f.Sequence != s.at[i].Sequence+1 {
			s.b.Errorf("till %d at %s: %s %v", i, s.at[i], f.Raw, err)
			return
		}
		s.at[i] = f.Position
	}
}

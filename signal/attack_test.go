package signal_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// An attack is what one client, or a stranger, does to a node while a till in a room of its own is watched. It
// returns what it did, in words with figures, and whether that is as it should be.
type attack struct {
	name    string
	bound   string // of the figure
	ulimit  int    // open files of the node; 0 is as many as this process has
	env     []string
	play    func(*arena) (figure string, held bool)
	farFrom bool // the till's delay is no measure: Redis stands still, say
}

// An arena is a node as it is shipped, a Redis, and a watched till.
type arena struct {
	t    *testing.T
	srv  *redistest.Server
	node *process
	e    *emitter.Emitter
	long time.Duration // for what is done for a while

	mu     sync.Mutex
	delays []time.Duration // guarded by mu: of the till's events
	missed atomic.Int64    // events on their way to the till
	rss    atomic.Int64    // most, in KiB
}

// A row is what is printed of an attack.
type row struct {
	name, figure, bound string
	alone, under        time.Duration // p99 of the till
	lost                int64
	rss                 int64
	held                bool
}

const rssMost = 150 << 10 // KiB

// TestAttack plays attacks on a node, one after the other, and prints what each did. SIGNAL_ATTACK says for how many
// seconds each lasts that can last; SIGNAL_ATTACK_BINARY is another version of the node, to compare with.
// How long the watched till waits is printed, and judged by the reader: this machine may stand still.
func TestAttack(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv("SIGNAL_ATTACK"))
	if err != nil {
		t.Skip("SIGNAL_ATTACK says for how long: make attack")
	}
	path := os.Getenv("SIGNAL_ATTACK_BINARY")
	if path == "" {
		if path, err = binary(false); err != nil {
			t.Fatal(err)
		}
	}
	var rows []row
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			rows = append(rows, stage(t, a, path, time.Duration(seconds)*time.Second))
		})
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-34s | %-62s | %-28s | %-9s | %-9s | %5s | %4s | %s\n", "attack", "figure", "bound", "p99 alone", "p99 under", "ratio", "lost", "rss MiB")
	for _, r := range rows {
		mark := "held"
		if !r.held {
			mark = "BROKEN"
		}
		ratio := "-"
		if r.under > 0 && r.alone > 0 {
			ratio = fmt.Sprintf("%.1f", float64(r.under)/float64(r.alone))
		}
		fmt.Fprintf(&out, "%-34s | %-62s | %-28s | %9s | %9s | %5s | %4d | %4d %s\n", r.name, r.figure, r.bound,
			r.alone.Round(10*time.Microsecond), r.under.Round(10*time.Microsecond), ratio, r.lost, r.rss>>10, mark)
	}
	t.Log(out.String())
}

func stage(t *testing.T, a attack, path string, long time.Duration) row {
	srv := redistest.Start(t)
	command := []string{path, "serve"}
	if a.ulimit > 0 {
		command = []string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" serve`, a.ulimit), path}
	}
	n := launchAs(t, command, srv.Settings(), append([]string{longTokens, "APP_ENV_SIGNAL_LIMIT_USER_CONNECTIONS=20", "APP_ENV_SIGNAL_ACCESS_SECRET=" + secret}, a.env...)...)
	redistest.Wait(t, func() bool { status, _ := get(t, n.admin, "/readyz"); return status == 200 }, "the node to be ready")
	ar := &arena{t: t, srv: srv, node: n, e: emitter.New(srv.Settings()), long: long}
	defer ar.e.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	till := wstest.Login(t, n.addr, token(t, "till", proto.Grants{"till"}, nil), "till")
	watching.Go(func() { ar.watch(ctx, till) })
	watching.Go(func() { ar.pulse(ctx) })
	watching.Go(func() { ar.weigh(ctx) })
	pass(2 * time.Second)
	r := row{name: a.name, bound: a.bound, alone: ar.p99()}
	ar.rss.Store(0)
	r.figure, r.held = a.play(ar)
	if r.under = ar.p99(); a.farFrom {
		r.alone, r.under = 0, 0
	}
	redistest.Eventually(func() bool { return ar.missed.Load() <= 1 }) // one is on its way
	if r.lost = max(ar.missed.Load()-1, 0); r.lost > 0 {
		t.Errorf("the till missed %d events", r.lost)
	}
	if r.rss = ar.rss.Load(); r.rss > rssMost {
		t.Errorf("the node took %d MiB, want at most %d", r.rss>>10, rssMost>>10)
		r.held = false
	}
	if !r.held {
		t.Errorf("%s: %s, want %s", a.name, r.figure, a.bound)
	}
	return r
}

// pulse sends the till 50 events a second.
func (a *arena) pulse(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.missed.Add(1)
		if _, err := a.e.SendToRoom(ctx, "till", "pulse", time.Now().UnixNano()); err != nil {
			a.missed.Add(-1)
		}
	}
}

func (a *arena) watch(ctx context.Context, till *wstest.Client) {
	for {
		f, err := till.Read(ctx)
		if err != nil {
			if ctx.Err() == nil {
				a.t.Errorf("the till: %v", err)
			}
			return
		}
		sent, err := strconv.ParseInt(string(f.Data), 10, 64)
		if f.Event != "pulse" || err != nil {
			continue
		}
		a.missed.Add(-1)
		a.mu.Lock()
		a.delays = append(a.delays, time.Duration(time.Now().UnixNano()-sent))
		a.mu.Unlock()
	}
}

// p99 of the delays since it was last called.
func (a *arena) p99() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.Sort(a.delays)
	p := percentile(a.delays, 99)
	a.delays = nil
	return p
}

// weigh notes the most memory that the node takes.
func (a *arena) weigh(ctx context.Context) {
	for ctx.Err() == nil {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.node.cmd.Process.Pid))
		if err != nil {
			return
		}
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		if fields := strings.Fields(after); len(fields) > 0 {
			kib, _ := strconv.ParseInt(fields[0], 10, 64)
			a.rss.Store(max(a.rss.Load(), kib))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// begins forgets what preparing the attack did to the till and the node.
func (a *arena) begins() {
	pass(time.Second)
	a.p99()
	a.rss.Store(0)
}

func (a *arena) token(user string) string {
	return token(a.t, user, proto.Grants{"*"}, proto.Grants{"*"})
}

// fill sends so many events of a size to rooms.
func (a *arena) fill(rooms, events, size int) {
	a.t.Helper()
	data := strings.Repeat("x", size)
	for r := range rooms {
		for range events {
			if _, err := a.e.SendToRoom(a.t.Context(), proto.Room(fmt.Sprint("big", r)), "n", data); err != nil {
				a.t.Fatal(err)
			}
		}
	}
}

// request asks over a connection of its own, and returns it with the answer unread.
func (a *arena) request(path, token string) (net.Conn, error) {
	c, err := net.Dial("tcp", a.node.addr)
	if err == nil {
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, token)
	}
	return c, err
}

// together runs so many at the same time until the time is over.
func (a *arena) together(n int, work func(ctx context.Context, i int)) {
	ctx, cancel := context.WithTimeout(a.t.Context(), a.long)
	defer cancel()
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			for ctx.Err() == nil {
				work(ctx, i)
			}
		})
	}
	g.Wait()
}

var attacks = []attack{
	{name: "A1 histories that are not read", bound: "rss", play: func(a *arena) (string, bool) {
		a.fill(1, 288, 120_000)
		a.begins()
		tok, n := a.token("greedy"), 0
		ctx, cancel := context.WithTimeout(a.t.Context(), a.long)
		defer cancel()
		for ; ctx.Err() == nil && n < 200; n++ {
			if c, err := a.request("/replay/big0?fromSeq=1", tok); err == nil {
				defer c.Close()
			}
			<-time.After(50 * time.Millisecond)
		}
		return fmt.Sprintf("%d requests for 34 MiB", n), true
	}},
	{name: "A1 histories that are read", bound: "rss, p99", play: func(a *arena) (string, bool) {
		a.fill(1, 288, 60_000)
		a.begins()
		tok := a.token("greedy")
		var asked, got, bytes atomic.Int64
		a.together(40, func(ctx context.Context, _ int) {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.node.addr+"/replay/big0?fromSeq=1", nil)
			r.Header.Set("Authorization", "Bearer "+tok)
			asked.Add(1)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				return
			}
			defer answer.Body.Close()
			n, _ := io.Copy(io.Discard, answer.Body)
			if answer.StatusCode == http.StatusOK {
				got.Add(1)
				bytes.Add(n)
				return
			}
			<-time.After(20 * time.Millisecond) // or it would be this process that is attacked
		})
		return fmt.Sprintf("%d asked, %d answered, %d MiB", asked.Load(), got.Load(), bytes.Load()>>20), got.Load() > 0
	}},
	{name: "B2 keys by questions", bound: "0 keys", play: func(a *arena) (string, bool) {
		rdb := a.srv.Client()
		defer rdb.Close()
		tok := a.token("greedy")
		var n atomic.Int64
		a.together(8, func(ctx context.Context, i int) {
			query := make([]string, 150)
			for j := range query {
				query[j] = fmt.Sprintf("room=k%d", n.Add(1))
			}
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.node.addr+"/realtime/bootstrap?"+strings.Join(query, "&"), nil)
			r.Header.Set("Authorization", "Bearer "+tok)
			if answer, err := http.DefaultClient.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					<-time.After(20 * time.Millisecond)
				}
			}
		})
		keys := len(rdb.Keys(a.t.Context(), "sg:{k*").Val())
		return fmt.Sprintf("%d rooms asked for, %d keys written", n.Load(), keys), keys == 0
	}},
	{name: "B4 one join, nothing read", bound: "rss, p99", play: func(a *arena) (string, bool) { return a.joinAndStay(1) }},
	{name: "B4 five joins, nothing read", bound: "rss", play: func(a *arena) (string, bool) { return a.joinAndStay(5) }},
	{name: "B1 joins of 10,000 names", bound: "ended", play: func(a *arena) (string, bool) {
		frame := `{"event":"join","data":{"rooms":["r0"` + many(7_900) + `]}}`
		var ended, sent atomic.Int64
		a.together(20, func(ctx context.Context, i int) {
			c, _, err := wstest.Dial(ctx, a.node.addr, nil)
			if err != nil || c.Login(a.token(fmt.Sprint("greedy", i))) != nil {
				return
			}
			defer c.Cut()
			go func() {
				for {
					if _, err := c.Read(ctx); err != nil {
						if code, _ := wstest.Closed(err); code == proto.CloseBadRequests {
							ended.Add(1)
						}
						return
					}
				}
			}()
			for range 20 {
				c.Raw(frame)
				sent.Add(1)
				select {
				case <-time.After(22 * time.Millisecond): // within the rate of frames
				case <-ctx.Done():
				}
			}
		})
		return fmt.Sprintf("%d frames of 65 KB, %d times ended", sent.Load(), ended.Load()), ended.Load() > 0
	}},
	{name: "B10 a user's large publishes", bound: "4 MiB, then 0.25 MiB/s", play: func(a *arena) (string, bool) {
		var kept, n atomic.Int64
		data := strings.Repeat("x", 60_000)
		a.together(20, func(ctx context.Context, i int) {
			c, _, err := wstest.Dial(ctx, a.node.addr, nil)
			if err != nil || c.Login(a.token("greedy")) != nil {
				<-time.After(100 * time.Millisecond)
				return
			}
			defer c.Cut()
			go func() {
				for ctx.Err() == nil {
					f, err := c.Read(ctx)
					if err != nil {
						return
					}
					if f.Event == "ack" {
						kept.Add(int64(len(data)))
					}
				}
			}()
			for range 200 {
				c.Send("publish", map[string]any{"room": fmt.Sprint("new", n.Add(1)), "event": "n", "data": data}, "p")
				select {
				case <-time.After(25 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
		})
		most := 5<<20 + int64(a.long.Seconds()*300_000)
		return fmt.Sprintf("%d publishes, %.1f MiB kept in %s", n.Load(), float64(kept.Load())/(1<<20), a.long), kept.Load() < most
	}},
	{name: "B5 publishes while Redis hangs", bound: "rss", farFrom: true, play: func(a *arena) (string, bool) {
		var clients []*wstest.Client
		for i := range 100 { // of five users
			clients = append(clients, wstest.Login(a.t, a.node.addr, a.token(fmt.Sprint("greedy", i/20))))
		}
		a.srv.Pause()
		data := strings.Repeat("x", 60_000)
		for range 32 {
			for _, c := range clients {
				c.Send("publish", map[string]any{"room": "r", "event": "n", "data": data}, "p")
			}
		}
		pass(2 * time.Second)
		a.srv.Resume()
		redistest.Wait(a.t, func() bool { status, _ := get(a.t, a.node.admin, "/readyz"); return status == 200 }, "the node to be ready again")
		return "3,200 publishes of 60 KB by 5 users", true
	}},
	{name: "B9 kept HTTP connections", bound: "2,000", play: func(a *arena) (string, bool) {
		var here []net.Conn
		for range 6_000 {
			c, err := a.request("/livez", "")
			if err != nil {
				break
			}
			here = append(here, c)
		}
		n, _ := strconv.Atoi(scrape(a.t, a.node.admin, "signal_plain_connections"))
		wstest.Login(a.t, a.node.addr, a.token("late"))
		for _, c := range here {
			_ = c.Close()
		}
		return fmt.Sprintf("%d opened, %d kept", len(here), n), n > 0 && n <= 2_001
	}},
	{name: "B9 few descriptors", bound: "tills and admin get in", ulimit: 300, play: func(a *arena) (string, bool) {
		for range 400 {
			if c, err := a.request("/livez", ""); err == nil {
				defer c.Close()
			}
		}
		pass(500 * time.Millisecond)
		client := http.Client{Timeout: 2 * time.Second}
		admin := false
		if r, err := client.Get("http://" + a.node.admin + "/readyz"); err == nil {
			admin = r.StatusCode == http.StatusOK
			_ = r.Body.Close()
		}
		in := 0
		for i := range 20 {
			ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
			if c, _, err := wstest.Dial(ctx, a.node.addr, nil); err == nil {
				defer c.Cut()
				if c.Login(a.token(fmt.Sprint("late", i))) == nil {
					in++
				}
			}
			cancel()
		}
		return fmt.Sprintf("400 connections, %d of 20 tills in, admin answers %t", in, admin), in == 20 && admin
	}},
	{name: "C1 long messages of strangers", bound: "rss", play: func(a *arena) (string, bool) {
		body := bytes.Repeat([]byte{'x'}, 60_000)
		n := 0
		for range 1_500 {
			status, s, err := knock(a.t.Context(), "127.0.0.1", a.node.addr, "")
			if err != nil || status != http.StatusSwitchingProtocols {
				continue
			}
			defer s.Close()
			_ = s.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := s.Write(append([]byte{0x81, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0}, body...)); err == nil {
				n++
			}
		}
		return fmt.Sprintf("%d announce 65,535 bytes and send 60,000", n), true
	}},
	{name: "C2 events that leave many out", bound: "rss", play: func(a *arena) (string, bool) {
		slow := wstest.Login(a.t, a.node.addr, a.token("slow"), "crowd") // it reads nothing: the ring keeps
		defer slow.Cut()
		except := make([]proto.ClientID, 4_500)
		for i := range except {
			except[i] = proto.NewClientID("abcdefg2")
		}
		n := 0
		ctx, cancel := context.WithTimeout(a.t.Context(), a.long)
		defer cancel()
		for ; ctx.Err() == nil && n < 1_800; n++ {
			if _, err := a.e.SendToRoom(ctx, "crowd", "n", 1, emitter.Except(except...)); err != nil {
				break
			}
		}
		return fmt.Sprintf("%d events that leave out 4,500 clients", n), true
	}},
	{name: "B8 a node's words by others", bound: "0", play: func(a *arena) (string, bool) {
		c := wstest.Login(a.t, a.node.addr, a.token("u1"), "order1")
		defer c.Cut()
		rdb := a.srv.Client()
		defer rdb.Close()
		spoofed := []proto.EventName{"left", "connected", "auth.revoked", "resync", "joined", "room.access.revoked", "degraded"}
		for i, name := range spoofed {
			m := proto.AppendMessage(nil, proto.Message{Event: proto.Event{Event: name, EventID: proto.EventID(fmt.Sprint("e", i)), Data: []byte(`{"rooms":["stock"]}`)}})
			rdb.Publish(a.t.Context(), "sg:{order1}:ch", m)
			rdb.Publish(a.t.Context(), "ws:room:order1", fmt.Sprintf(`{"serverId":"emitter","type":"room","target":"order1","event":%q,"data":{}}`, name))
		}
		if _, err := a.e.SendToRoom(a.t.Context(), "order1", "last", 1); err != nil {
			a.t.Fatal(err)
		}
		got := 0
		for {
			f, err := c.Next()
			if err != nil || f.Event == "last" {
				return fmt.Sprintf("%d of %d came", got, 2*len(spoofed)), err == nil && got == 0
			}
			got++
		}
	}},
	{name: "B3 a key of the wrong type", bound: "healed within 10 s", farFrom: true, play: func(a *arena) (string, bool) {
		bad := wstest.Login(a.t, a.node.addr, a.token("u1"), "poison")
		defer bad.Cut()
		c := wstest.Login(a.t, a.node.addr, a.token("u2"), "orders")
		defer c.Cut()
		rdb := a.srv.Client()
		defer rdb.Close()
		rdb.Del(a.t.Context(), "sg:{poison}:at")
		rdb.RPush(a.t.Context(), "sg:{poison}:at", "x")
		unheard(a.t, a.srv.Settings(), "orders", "lost", 1)
		began := time.Now()
		ctx, cancel := context.WithTimeout(a.t.Context(), 15*time.Second)
		defer cancel()
		if _, err := c.Read(ctx); err != nil {
			return "not healed in 15 s", false
		}
		return fmt.Sprintf("healed after %s", time.Since(began).Round(100*time.Millisecond)), true
	}},
	{name: "A3 a start without Redis", bound: "nobody in", farFrom: true, play: func(a *arena) (string, bool) {
		if err := a.e.Revoke(a.t.Context(), proto.Revocation{User: "bad"}); err != nil {
			a.t.Fatal(err)
		}
		a.srv.Pause()
		path := cmp.Or(os.Getenv("SIGNAL_ATTACK_BINARY"), must(binary(false)))
		other := launch(a.t, path, a.srv.Settings())
		ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
		defer cancel()
		c, r, err := wstest.Dial(ctx, other.addr, nil)
		said := "let in"
		if err != nil && r != nil {
			said = r.Status
		} else if err == nil {
			c.Cut()
		}
		a.srv.Resume()
		return "a handshake is answered " + said, err != nil
	}},
	{name: "A2 a cluster's master stands still", bound: "0 acknowledged lost", farFrom: true, play: func(a *arena) (string, bool) { return a.pauses(1) }},
	{name: "A2 with two replicas", bound: "0 acknowledged lost", farFrom: true, play: func(a *arena) (string, bool) { return a.pauses(2) }},
	{name: "A2 with min-replicas-to-write", bound: "0 acknowledged lost", farFrom: true, play: func(a *arena) (string, bool) {
		return a.pauses(1, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "1")
	}},
}

// joinAndStay joins 200 rooms from their beginning, by clients that read nothing.
func (a *arena) joinAndStay(joiners int) (string, bool) {
	const rooms = 200
	since := make([]any, rooms)
	for r := range rooms {
		at, err := a.e.Position(a.t.Context(), proto.Room(fmt.Sprint("big", r)))
		if err != nil {
			a.t.Fatal(err)
		}
		since[r] = map[string]any{"room": fmt.Sprint("big", r), "since": at}
	}
	a.fill(rooms, 17, 64_000)
	frame, _ := json.Marshal(map[string]any{"event": "join", "data": map[string]any{"rooms": since}})
	var clients []*wstest.Client
	for i := range joiners { // of as many users
		clients = append(clients, wstest.Login(a.t, a.node.addr, a.token(fmt.Sprint("greedy", i))))
	}
	a.begins()
	for _, c := range clients {
		c.Raw(string(frame))
	}
	pass(a.long)
	for _, c := range clients {
		c.Cut()
	}
	return fmt.Sprintf("%d joins of 200 rooms with 17 events of 64 KB", len(clients)), true
}

// pauses lets masters stand still, for five seconds, or if there is time for 1, 5 and 15.
func (a *arena) pauses(replicas int, args ...string) (string, bool) {
	if os.Getenv("SIGNAL_ATTACK_BINARY") != "" {
		return "is the emitter's: not compared", true
	}
	still := []time.Duration{5 * time.Second}
	if a.long >= 20*time.Second {
		still = []time.Duration{time.Second, 5 * time.Second, 15 * time.Second}
	}
	events, lost := ackedAndGone(a.t, redistest.StartClusterOf(a.t, replicas, args...), still)
	return fmt.Sprintf("%d acknowledged in %d pauses, %d gone", events, len(still), lost), lost == 0 && events > 1000
}

// ackedAndGone lets services send to a cluster whose masters stand still, one after the other, and counts what was
// acknowledged and is not where it was said to be. The services are of this version.
func ackedAndGone(t *testing.T, c *redistest.Cluster, still []time.Duration) (events, lost int) {
	t.Helper()
	defer c.FailsOver()()
	const services, rooms = 8, 20
	var (
		mu      sync.Mutex
		acked   = map[proto.Room]map[proto.EventID]proto.Position{}
		over    atomic.Bool
		working sync.WaitGroup
	)
	for s := range services {
		e := emitter.New(c.Settings())
		t.Cleanup(func() { _ = e.Close() })
		for r := range rooms {
			working.Go(func() {
				for i := 0; !over.Load(); i++ {
					room, id := proto.Room(fmt.Sprintf("s%d.%d.%d", s, r, i/100)), proto.EventID(fmt.Sprint("e", i)) // a log has 256
					receipt, err := e.SendToRoom(context.Background(), room, "n", i, emitter.EventID(id))
					if err == nil {
						mu.Lock()
						if acked[room] == nil {
							acked[room] = map[proto.EventID]proto.Position{}
						}
						acked[room][id] = receipt.Position
						mu.Unlock()
					}
					<-time.After(40 * time.Millisecond)
				}
			})
		}
	}
	for i, d := range still {
		pass(500 * time.Millisecond)
		master := c.Master(proto.Room(fmt.Sprintf("s%d.0.0", i%services)))
		master.Pause()
		pass(d)
		master.Resume()
		c.Settled()
	}
	over.Store(true)
	working.Wait()
	e := emitter.New(c.Settings())
	defer e.Close()
	for room, ids := range acked {
		events += len(ids)
		for next := (emitter.Read{Room: room, From: 1, Look: true}); ; {
			p := e.Read(t.Context(), []emitter.Read{next})[0]
			if p.Err != nil || p.Found != proto.OK || len(p.Events) == 0 {
				break
			}
			for _, m := range p.Events {
				if ids[m.EventID] == m.Position {
					delete(ids, m.EventID)
				}
				next = emitter.Read{Room: room, Since: m.Position.String(), Look: true}
			}
		}
		lost += len(ids)
	}
	return events, lost
}

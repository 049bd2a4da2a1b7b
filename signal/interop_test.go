package signal_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// An original is a process of the original system, from its npm package under Bun: its emitter, or a
// server.
type original struct {
	addr string // of a server
	ID   string

	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Scanner
	end func()
}

// An ignisOrder tells an original what to send.
type ignisOrder struct {
	Kind    proto.TargetKind `json:"kind"`
	Name    string           `json:"name,omitempty"` // of a server: a room or a client, or nothing for everyone
	Event   proto.EventName  `json:"event"`
	Data    any              `json:"data"`
	Exclude []proto.ClientID `json:"exclude,omitempty"`
}

// startOriginal runs scripts/interop/ignis.mjs. make interop installs what it needs.
func startOriginal(t *testing.T, role string, at emitter.Settings, more ...string) *original {
	t.Helper()
	const dir, bun = "../scripts/interop", "node_modules/.bin/bun"
	if _, err := os.Stat(dir + "/" + bun); err != nil {
		if os.Getenv("SIGNAL_TEST_INTEROP") == "required" {
			t.Fatal(err)
		}
		t.Skip("the original is not installed: make interop")
	}
	cmd := exec.Command(bun, append([]string{"ignis.mjs", role, at.Addr()}, more...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APP_ENV_LOGGER_FOLDER_PATH="+t.TempDir())
	cmd.Stderr = os.Stderr
	o := &original{}
	out, err := cmd.StdoutPipe()
	if o.in = must(cmd.StdinPipe()); err != nil {
		t.Fatal(err)
	}
	o.out = bufio.NewScanner(out)
	o.out.Buffer(nil, 1<<20)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o.end = sync.OnceFunc(func() {
		_ = o.in.Close()
		for o.out.Scan() {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the original's %s: %v", role, err)
		}
	})
	t.Cleanup(o.end)
	if role == "server" {
		o.addr = "127.0.0.1:" + o.said(t)
	}
	return o
}

// said is the next word of it that is for us.
func (o *original) said(t *testing.T) string {
	t.Helper()
	for o.out.Scan() {
		if word, ours := strings.CutPrefix(o.out.Text(), "> "); ours {
			return word
		}
	}
	t.Errorf("the original has ended: %v", o.out.Err())
	return ""
}

func (o *original) send(t *testing.T, order ignisOrder) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := json.NewEncoder(o.in).Encode(order); err != nil {
		t.Error(err)
	}
	o.said(t)
}

// TestInterop runs the original's own emitter against a node: each target arrives, once and
// unchanged. On a cluster it publishes through one of the servers.
func TestInterop(t *testing.T) { onEach(t, interop) }

func interop(t *testing.T, srv redistest.Redis) {
	old := startOriginal(t, "emitter", srv.Settings())
	n := run(t, settings(srv.Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"orders"}, nil), "orders")
	other := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"orders"}, nil), "orders")
	for _, o := range []ignisOrder{
		{Kind: proto.KindRoom, Name: "orders", Event: "to room", Data: map[string]int{"total": 125000}},
		{Kind: proto.KindRoom, Name: "orders", Event: "left out", Exclude: []proto.ClientID{c.ID}},
		{Kind: proto.KindUser, Name: "u1", Event: "to user", Data: "ünïcode"},
		{Kind: proto.KindClient, Name: string(c.ID), Event: "to client", Data: []int{1, 2, 3}},
		{Kind: proto.KindBroadcast, Event: "to everyone", Data: 0},
		{Kind: proto.KindRoom, Name: "ws-default", Event: "end", Data: 1},
	} {
		old.send(t, o)
	}
	is := func(who string, c *wstest.Client, want ...string) {
		t.Helper()
		var got []string
		for _, f := range untilAll(t, c, "end", len(want)) {
			got = append(got, fmt.Sprintf("%s %s %s", f.Room, f.Event, f.Data))
		}
		slices.Sort(got) // between a client's own events and a room's there is no order
		if !slices.Equal(got, want) {
			t.Errorf("%s got %q, want %q", who, got, want)
		}
	}
	is("u1", c, ` to client [1,2,3]`, `$broadcast to everyone 0`, `$user to user "ünïcode"`, `orders to room {"total":125000}`)
	is("u2", other, `$broadcast to everyone 0`, `orders left out null`, `orders to room {"total":125000}`)
}

package signal_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestInterop runs the original's own emitter, from its npm package under Bun, against
// a node: each target arrives, once and unchanged. On a cluster it publishes through one of the
// servers. make interop installs what it needs.
func TestInterop(t *testing.T) { onEach(t, interop) }

func interop(t *testing.T, srv redistest.Redis) {
	const bun = "../scripts/interop/node_modules/.bin/bun"
	if _, err := os.Stat(bun); err != nil {
		if os.Getenv("SIGNAL_TEST_INTEROP") == "required" {
			t.Fatal(err)
		}
		t.Skip("the original is not installed: make interop")
	}
	n := run(t, settings(srv.Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"orders"}, nil), "orders")
	other := wstest.Login(t, n.addr(), token(t, "u2", proto.Grants{"orders"}, nil), "orders")

	cmd := exec.Command("node_modules/.bin/bun", "emitter.mjs", srv.Settings().Addr(), string(c.ID))
	cmd.Dir = "../scripts/interop"
	cmd.Env = append(os.Environ(), "APP_ENV_LOGGER_FOLDER_PATH="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	is := func(who string, c *wstest.Client, want ...string) {
		t.Helper()
		var got []string
		for _, f := range until(t, c, "end") {
			got = append(got, fmt.Sprintf("%s %s %s", f.Room, f.Event, f.Data))
		}
		slices.Sort(got) // between a client's own events and a room's there is no order
		if !slices.Equal(got, want) {
			t.Errorf("%s got %q, want %q", who, got, want)
		}
	}
	is("u1", c, ` to client [1,2,3]`, `$broadcast to everyone `, `$user to user "ünïcode"`, `orders to room {"total":125000}`)
	is("u2", other, `$broadcast to everyone `, `orders left out null`, `orders to room {"total":125000}`)
}

package bus_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/signal/bus"
)

func embedded(t *testing.T) emitter.Settings {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- bus.RunEmbedded(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("RunEmbedded: %v", err)
		}
	})
	return emitter.Settings{Mode: emitter.Embedded, Addrs: []string{l.Addr().String()}}
}

func TestEmbedded(t *testing.T) {
	for _, ways := range []emitter.PubSub{emitter.Classic, emitter.Sharded} {
		t.Run(string(ways), func(t *testing.T) {
			at := embedded(t)
			at.PubSub = ways
			n := start(t, at)
			n.Subscribe("orders")
			n.await(t, "heard orders")
			if r, err := n.emitter.SendToRoom(t.Context(), "orders", "e", 1); err != nil || r.Receivers == 0 {
				t.Errorf("receipt %+v, %v", r, err)
			}
			n.await(t, "orders: e 1 except []")
		})
	}
}

func TestEmbeddedKeysExpire(t *testing.T) {
	t.Parallel()
	rdb := embedded(t).Open()
	defer rdb.Close()
	rdb.Set(t.Context(), "k", "v", time.Second)
	if rdb.Get(t.Context(), "k").Val() != "v" {
		t.Error("the key is not there")
	}
	redistest.Wait(t, func() bool { return rdb.Exists(t.Context(), "k").Val() == 0 }, "the key to expire")
}

// A subscriber that does not read is cut; the others hear everything.
func TestEmbeddedStuckSubscriber(t *testing.T) {
	at := embedded(t)
	n := start(t, at)
	n.Subscribe("orders")
	n.await(t, "heard orders")
	stuck, err := net.Dial("tcp", at.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	fmt.Fprint(stuck, "*2\r\n$9\r\nSUBSCRIBE\r\n$14\r\nsg:{orders}:ch\r\n")
	redistest.Wait(t, func() bool {
		r, err := n.emitter.SendToRoom(t.Context(), "orders", "hello", 1)
		return err == nil && r.Receivers == 2
	}, "the stuck one to be subscribed")
	data := strings.Repeat("x", 100<<10)
	for i := range 200 { // 20 MiB
		if _, err := n.emitter.SendToRoom(t.Context(), "orders", "big", data[i:]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := n.emitter.SendToRoom(t.Context(), "orders", "last", 1)
	if err != nil || r.Receivers != 1 {
		t.Errorf("receipt %+v, %v; want the stuck one gone", r, err)
	}
	n.await(t, "orders: last 1 except []")
	for i := range 200 {
		if want := fmt.Sprintf("orders: big %q except []", data[i:]); n.count(want) != 1 {
			t.Fatalf("event %d of %d bytes came %d times", i, len(data)-i, n.count(want))
		}
	}
}

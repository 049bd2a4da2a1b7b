package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// proxy stands between a bus and its Redis: what Redis says goes through pass.
func proxy(t testing.TB, srv *redistest.Server, pass func(to io.Writer, b []byte)) emitter.Settings {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); g.Wait() })
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", srv.Addr)
			if err != nil {
				t.Error(err)
				return
			}
			g.Go(func() { _, _ = io.Copy(s, c); _ = s.Close() })
			g.Go(func() {
				defer c.Close()
				for b := make([]byte, 64<<10); ; {
					n, err := s.Read(b)
					if err != nil {
						return
					}
					pass(c, b[:n])
				}
			})
		}
	})
	return emitter.Settings{Addrs: []string{l.Addr().String()}}
}

// A message that comes in two parts, with a pause between them, is one message.
func TestPauseInsideAMessage(t *testing.T) {
	for name, cut := range map[string]string{"between elements": "sg:{orders}:ch\r\n", "within one": "E1 "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			n := start(t, proxy(t, srv, func(to io.Writer, b []byte) {
				if bytes.Contains(b, []byte("PAUSE")) {
					at := bytes.Index(b, []byte(cut)) + len(cut)
					_, _ = to.Write(b[:at])
					time.Sleep(1800 * time.Millisecond) // more than the bus waits before it pings
					b = b[at:]
				}
				_, _ = to.Write(b)
			}))
			direct := emitter.New(srv.Settings())
			defer direct.Close()
			n.Subscribe("orders")
			n.await(t, "heard orders")
			for _, e := range []proto.EventName{"PAUSE", "next"} {
				if _, err := direct.SendToRoom(t.Context(), "orders", e, 1); err != nil {
					t.Fatal(err)
				}
			}
			n.await(t, "orders: next 1 except []")
			if n.count("orders: PAUSE 1 except []") != 1 || n.count("lost") != 0 {
				t.Errorf("received %q", n.lines)
			}
		})
	}
}

// While clients come, some room is always being asked for. The bus is up nevertheless.
func TestUpWhileClientsCome(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	at := proxy(t, srv, func(to io.Writer, b []byte) {
		time.Sleep(4 * time.Millisecond) // a Redis that is not next door
		_, _ = to.Write(b)
	})
	e := emitter.New(at)
	defer e.Close()
	b := newBus(proto.NewNodeID(), at, e, prometheus.NewRegistry())
	ctx, stop := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			b.Subscribe(proto.Room(fmt.Sprint("r", i)))
			time.Sleep(200 * time.Microsecond) // the pace at which clients join
		}
	})
	g.Go(func() {
		if err := b.Run(ctx, &receiver{}); err != nil {
			t.Error(err)
		}
	})
	redistest.Wait(t, func() bool { return b.Ready() == nil }, "the bus to be ready")
	stop()
	g.Wait()
}

// A full Redis refuses writes and publishes all the same: the bus comes back.
func TestFullRedis(t *testing.T) {
	srv := redistest.Start(t)
	n := start(t, srv.Settings())
	n.Subscribe("orders")
	n.await(t, "heard orders")
	rdb := srv.Client()
	defer rdb.Close()
	if err := errors.Join(rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(), rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err()); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return n.count("heard orders") == 2 }, "the room to be heard again")
}

// TestRefused: a Redis that says no, to a password or to a channel, ends a node at its
// start with what Redis said; later it is said in the log and by Ready.
func TestRefused(t *testing.T) {
	srv := redistest.Start(t)
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "node", "on", ">pw", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*emitter.Settings){
		"NOPERM":    func(s *emitter.Settings) { s.Username, s.Password = "node", "pw" },
		"WRONGPASS": func(s *emitter.Settings) { s.Username, s.Password = "node", "wrong" },
	} {
		at := srv.Settings()
		change(&at)
		e := emitter.New(at)
		err := newBus(proto.NewNodeID(), at, e, prometheus.NewRegistry()).Run(t.Context(), &receiver{})
		if !errors.Is(err, emitter.ErrRefused) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), srv.Addr) {
			t.Errorf("%s: Run ended with %v", says, err)
		}
		_ = e.Close()
	}
	t.Run("later", func(t *testing.T) {
		t.Parallel()
		srv := redistest.Start(t)
		n := start(t, srv.Settings())
		rdb := srv.Client()
		defer rdb.Close()
		if err := rdb.ConfigSet(t.Context(), "requirepass", "changed").Err(); err != nil {
			t.Fatal(err)
		}
		_ = rdb.Do(t.Context(), "AUTH", "changed").Err()
		_ = rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Err()
		_ = rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
		redistest.Wait(t, func() bool {
			err := n.Ready()
			return err != nil && strings.Contains(err.Error(), "NOAUTH")
		}, "Ready to say what Redis says")
	})
}

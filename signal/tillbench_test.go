//go:build linux

package signal_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/bench"
)

// TestBench plays every scenario of signal bench, small: what it prints is what was
// delivered.
func TestBench(t *testing.T) {
	var out, said bytes.Buffer
	cmd := command(t, nil, "bench", "idle", "fanout", "rooms", "p2p", "--clients", "60", "--window", "8", "--time", "300ms", "--warmup", "50ms",
		"--settle", "100ms", "--runs", "1", "--nodes", "2", "--floor", "--deaf", "0.1", "--json")
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var results []bench.Result
	if err := json.Unmarshal(out.Bytes(), &results); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if len(results) != 4 || results[0].Scenario != bench.Idle || !results[0].Local {
		t.Fatalf("got %s", out.String())
	}
	for _, r := range results[1:] {
		if len(r.Runs) != 1 || len(r.Floor) != 1 || r.Nodes != 2 || r.Frame < 150 {
			t.Errorf("%s: got %+v", r.Scenario, r)
			continue
		}
		if run := r.Runs[0]; run.Deliveries == 0 || run.Events == 0 || run.P50 <= 0 || run.P99 < run.P50 || r.Floor[0].Deliveries == 0 {
			t.Errorf("%s: got %+v, floor %+v", r.Scenario, run, r.Floor[0])
		}
	}
}

// TestBenchNotices: an event that a client got and was not to get fails the bench.
func TestBenchNotices(t *testing.T) {
	srv := redistest.Start(t)
	n := startProcess(t, srv)
	env := []string{"APP_ENV_WEBSOCKET_REDIS_ADDRS=" + srv.Addr, "APP_ENV_SIGNAL_JWT_SECRET=" + secret}
	var said bytes.Buffer
	cmd := command(t, env, "bench", "fanout", "--clients", "5", "--runs", "1", "--time", "20s", "--addr", n.addr)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rdb, layout := srv.Client(), srv.Settings().Layout()
	defer rdb.Close()
	m := proto.AppendMessage(nil, proto.Message{Event: proto.Event{Event: "bench", EventID: "doubled",
		Data: json.RawMessage(`{"n":"0000000000","s":"00000","t":"1763772000123456789","p":""}`)}})
	stop, g := make(chan bool), sync.WaitGroup{}
	g.Go(func() {
		for pace := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-pace.C:
				rdb.Publish(t.Context(), layout.Channel(bench.RoomPrefix+"0"), m)
			case <-stop:
				return
			}
		}
	})
	defer g.Wait()
	defer close(stop)
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "got event 0 of bench:0") {
		t.Errorf("the bench ended with %v and said %q", err, said.String())
	}
}

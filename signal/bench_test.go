package signal_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
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

const (
	benchRooms   = 1_000
	benchMembers = 10
	benchEvents  = 2_000 // a second: 20,000 deliveries
)

// A latency is what clients measured, from Send to their read.
type latency struct {
	Count         int
	P50, P99, Max time.Duration
}

// playClients is the clients' process: it logs in one client for each member of each
// room, says ready, and tells the latencies when its input ends.
func playClients(addr, token string) error {
	var (
		mu   sync.Mutex
		all  []time.Duration
		next atomic.Int64
		g    sync.WaitGroup
		errs = make(chan error, benchRooms*benchMembers)
	)
	for range 32 {
		g.Go(func() {
			for i := next.Add(1) - 1; i < benchRooms*benchMembers; i = next.Add(1) - 1 {
				c, _, err := wstest.Dial(context.Background(), addr, nil)
				if err == nil {
					err = c.Login(token, proto.Room(fmt.Sprintf("r%d", i/benchMembers)))
				}
				if err != nil {
					errs <- err
					return
				}
				go func() {
					for {
						f, err := c.Read(context.Background())
						if err != nil {
							return
						}
						var sent int64
						if json.Unmarshal(f.Data, &sent) == nil {
							took := time.Duration(time.Now().UnixNano() - sent)
							mu.Lock()
							all = append(all, took)
							mu.Unlock()
						}
					}
				}()
			}
		})
	}
	g.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); { // a line asks for what there is so far
		mu.Lock()
		slices.Sort(all)
		l := latency{Count: len(all)}
		if n := len(all); n > 0 {
			l.P50, l.P99, l.Max = all[n/2], all[n*99/100], all[n-1]
		}
		all = all[:0]
		mu.Unlock()
		if err := json.NewEncoder(os.Stdout).Encode(l); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkSendToRead is the time from an emitter's Send to the client's read at 20,000
// deliveries a second: 1,000 rooms of 10, each member a connection of its own; node,
// clients and Redis in processes of their own. Every event is counted.
func BenchmarkSendToRead(b *testing.B) {
	srv := redistest.Start(b)
	path, err := binary(false)
	if err != nil {
		b.Fatal(err)
	}
	n := startNode(b, path, srv)
	// The clients stand for ten thousand machines: their garbage is not the product's.
	in, out := player(b, "clients "+n.addr+" "+token(b, "u1", proto.Grants{"*"}, nil), "GOGC=off", "GOMEMLIMIT=4GiB")
	if line, err := out.ReadString('\n'); line != "ready\n" {
		b.Fatalf("the clients are not ready: %q, %v", line, err)
	}
	e := emitter.New(srv.Settings())
	defer e.Close()

	const senders = 4
	var g sync.WaitGroup
	b.ResetTimer()
	for s := range senders {
		g.Go(func() {
			pace := time.NewTicker(senders * time.Second / benchEvents)
			defer pace.Stop()
			for i := s; i < b.N; i += senders {
				<-pace.C
				room := proto.Room(fmt.Sprintf("r%d", i%benchRooms))
				if _, err := e.SendToRoom(b.Context(), room, "order.paid", time.Now().UnixNano()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	g.Wait()
	b.StopTimer()
	var sum latency
	redistest.Wait(b, func() bool { // until everything has arrived
		fmt.Fprintln(in)
		var l latency
		if line, err := out.ReadBytes('\n'); err != nil || json.Unmarshal(line, &l) != nil {
			b.Fatalf("the clients said %q, %v", line, err)
		}
		if sum.Count == 0 {
			sum = l
		} else {
			sum.Count += l.Count
		}
		return sum.Count >= b.N*benchMembers
	}, "%d deliveries", b.N*benchMembers)
	b.ReportMetric(float64(sum.P50.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(sum.P99.Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(sum.Max.Microseconds())/1000, "max-ms")
	b.ReportMetric(float64(b.N*benchMembers)/b.Elapsed().Seconds(), "deliveries/s")
	if lost := b.N*benchMembers - sum.Count; lost != 0 {
		b.Errorf("%d deliveries are lost or too many", lost)
	}
	_, metrics := get(b, n.admin, "/metrics")
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "process_resident_memory_bytes") {
			var bytes float64
			_, _ = fmt.Sscanf(line, "process_resident_memory_bytes %g", &bytes)
			b.ReportMetric(bytes/(benchRooms*benchMembers)/1024, "KiB/client")
		}
	}
}

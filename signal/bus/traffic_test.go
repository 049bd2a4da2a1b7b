package bus_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// BenchmarkOthersTraffic tells what one of four nodes receives from Redis for 200 events a second
// in its own 100 rooms, while 200 and 2,000 a second go to the rooms of the others.
func BenchmarkOthersTraffic(b *testing.B) {
	srv := redistest.Start(b)
	var received atomic.Int64
	counted := proxy(b, srv, func(to io.Writer, p []byte) {
		received.Add(int64(len(p)))
		_, _ = to.Write(p)
	})
	const rooms = 100
	var nodes []*node
	for i := range 4 {
		at := srv.Settings()
		if i == 0 {
			at = counted
		}
		n := start(b, at)
		for r := range rooms {
			n.Subscribe(room(i, r))
		}
		nodes = append(nodes, n)
	}
	for i, n := range nodes {
		for r := range rooms {
			n.await(b, "heard "+string(room(i, r)))
		}
	}
	e := emitter.New(srv.Settings())
	defer e.Close()
	data := strings.Repeat("x", 200)
	send := func(ctx context.Context, node, perSecond int) {
		every := time.NewTicker(time.Second / time.Duration(perSecond))
		defer every.Stop()
		for i := 0; ; i++ {
			select {
			case <-every.C:
				_, _ = e.SendToRoom(ctx, room(node, i%rooms), "n", data)
			case <-ctx.Done():
				return
			}
		}
	}
	rate := func(others int) float64 {
		ctx, stop := context.WithCancel(b.Context())
		var g sync.WaitGroup
		g.Go(func() { send(ctx, 0, 200) })
		for node := 1; node < 4 && others > 0; node++ {
			g.Go(func() { send(ctx, node, others/3) })
		}
		began, before := time.Now(), received.Load()
		<-time.After(5 * time.Second)
		bytes := float64(received.Load()-before) / time.Since(began).Seconds()
		stop()
		g.Wait()
		return bytes
	}
	for b.Loop() {
		few, many := rate(200), rate(2000)
		b.ReportMetric(few/1000, "KB/s-beside-200")
		b.ReportMetric(many/1000, "KB/s-beside-2000")
		b.ReportMetric(many/few, "ratio")
	}
}

func room(node, i int) proto.Room { return proto.Room(fmt.Sprint("n", node, "r", i)) }

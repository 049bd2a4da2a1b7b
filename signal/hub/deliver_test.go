package hub_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hub"
)

// A counter takes every frame and counts it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b *hub.Batch) int { c.n.Add(int64(len(b.Entries))); return len(b.Entries) }
func (c counter) Prepare()               {}
func (c counter) CaughtUp()              {}
func (c counter) Send([]byte) bool       { c.n.Add(1); return true }
func (c counter) Answer([]byte)          { c.n.Add(1) }

// crowd is a running hub with one room of the given size, and a call that hands it
// an event and returns when every member has it.
func crowd(tb testing.TB, size int) (deliver func()) {
	b := &bus{subs: map[proto.Room]int{}}
	h := hub.New(b, prometheus.NewRegistry())
	b.hub = h
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	tb.Cleanup(func() { stop(); <-ended })
	var n atomic.Int64
	for i := range size {
		h.Add(proto.ClientID(fmt.Sprint(i)), "", counter{&n}).Join("", in("a"), nil)
	}
	h.Subscribed("a")
	await := func(want int64) {
		for n.Load() < want {
			runtime.Gosched()
		}
	}
	await(int64(size)) // the joined frames
	m := proto.Message{Event: proto.Event{Event: "order.paid", Data: []byte(`{"id":42}`), EventID: "e-1", Time: 1}}
	return func() {
		want := n.Load() + int64(size)
		receive(h, "a", m)
		await(want)
	}
}

func TestDeliverAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, size := range []int{1, 100, 10_000} {
		deliver := crowd(t, size)
		for range 100 {
			deliver()
		}
		if n := testing.AllocsPerRun(100, deliver); n > 1 { // the frame
			t.Errorf("room of %d: %v allocations an event, want 1", size, n)
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, size := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			deliver := crowd(b, size)
			b.ReportAllocs()
			for b.Loop() {
				deliver()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/client")
		})
	}
}

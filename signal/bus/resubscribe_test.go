package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/bus"
)

// A verifier reads each room as soon as it is heard, as a hub does.
type verifier struct {
	receiver
	bus      *bus.Bus
	verified atomic.Int64
}

func (v *verifier) Subscribed(r proto.Room) { v.bus.Read(r, proto.Position{}, true) }

func (v *verifier) Replied(proto.Room, proto.Position, bool, proto.Page) { v.verified.Add(1) }

// BenchmarkResubscribe says how long it takes, once Redis answers again, until 10,000 rooms are
// heard and it is known where they are.
func BenchmarkResubscribe(b *testing.B) {
	const rooms = 10_000
	for name, srv := range redistest.Each(b) {
		b.Run(name, func(b *testing.B) {
			at := srv.Settings()
			e := emitter.New(at)
			defer e.Close()
			v := &verifier{}
			v.bus = newBus(proto.NewNodeID(), at, e, prometheus.NewRegistry())
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error)
			go func() { ended <- v.bus.Run(ctx, v) }()
			for i := range rooms {
				v.bus.Subscribe(proto.Room(fmt.Sprint("r", i)))
			}
			all := func() bool { return v.verified.Load() >= rooms }
			redistest.Wait(b, all, "all rooms to be verified")
			for b.Loop() {
				b.StopTimer()
				srv.Kill()
				redistest.Wait(b, func() bool { return v.count("lost") > 0 }, "Redis to be lost")
				v.verified.Store(0)
				srv.Restart()
				b.StartTimer()
				redistest.Wait(b, all, "all rooms to be verified")
			}
			stop()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}

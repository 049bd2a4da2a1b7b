package emitter_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// bare is the least that numbers, keeps and publishes an event.
var bare = redis.NewScript(`
local n = redis.call('INCR', KEYS[1])
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], -ARGV[3], -1)
return {n, redis.call('PUBLISH', ARGV[1], n .. ' ' .. ARGV[2])}`)

// BenchmarkPublish compares what Redis does for an event with the least that could be done, in
// pipelines of 500 that keep Redis busy, in turns: 1, 5 and 20 durable events of a room in a call,
// as they come together while a call is under way. The commands are made before.
func BenchmarkPublish(b *testing.B) {
	srv := redistest.Start(b)
	e := emitter.New(srv.Settings())
	defer e.Close()
	rdb := srv.Client()
	defer rdb.Close()
	layout, ctx := srv.Settings().Layout(), b.Context()
	if err := errors.Join(bare.Load(ctx, rdb).Err(), emitter.PublishScript.Load(ctx, rdb).Err()); err != nil {
		b.Fatal(err)
	}
	message := proto.Message{Event: proto.Event{Event: "order.paid", Data: []byte(`"` + strings.Repeat("x", 200) + `"`), Time: 1_800_000_000_000}}
	const batch, workers, rooms = 500, 4, 100
	n := 0
	next := func() (proto.Room, proto.Message) {
		n++
		message.EventID = proto.EventID(fmt.Sprint("e", n))
		return proto.Room(fmt.Sprint("orders:", n%rooms)), message
	}
	durable := func(together int) func(redis.Pipeliner) {
		return func(p redis.Pipeliner) {
			var room proto.Room
			var events []proto.Message
			for range together {
				r, m := next()
				room, events = r, append(events, m)
			}
			keys, args := e.PublishCall(room, events)
			emitter.PublishScript.EvalSha(ctx, p, keys, args...)
		}
	}
	sides := []struct {
		name string
		add  func(redis.Pipeliner)
		adds int // events
	}{
		{"durable-5", durable(5), 5},
		{"bare-script", func(p redis.Pipeliner) {
			r, m := next()
			bare.EvalSha(ctx, p, []string{"bare:" + string(r), "bare:log:" + string(r)}, "bare:c:"+string(r), proto.Body(proto.AppendMessage(nil, m)), 256)
		}, 1},
		{"live", func(p redis.Pipeliner) {
			r, m := next()
			p.Publish(ctx, layout.Channel(r), proto.AppendMessage(nil, m))
		}, 1},
		{"bare-publish", func(p redis.Pipeliner) {
			r, m := next()
			p.Publish(ctx, "bare:c:"+string(r), []byte(m.Data))
		}, 1},
		{"durable-1", durable(1), 1},
		{"durable-20", durable(20), 20},
	}
	took := make([][]float64, len(sides))
	for b.Loop() {
		for i, s := range sides {
			pipes := make([]redis.Pipeliner, 8*workers)
			for j := range pipes {
				pipes[j] = rdb.Pipeline()
				for range batch / s.adds {
					s.add(pipes[j])
				}
			}
			runtime.GC()
			var g sync.WaitGroup
			began := time.Now()
			for w := range workers {
				g.Go(func() {
					for j := w; j < len(pipes); j += workers {
						if _, err := pipes[j].Exec(ctx); err != nil {
							b.Error(err)
						}
					}
				})
			}
			g.Wait()
			took[i] = append(took[i], time.Since(began).Seconds()/float64(batch*len(pipes)))
		}
	}
	rate := func(i int) float64 { slices.Sort(took[i]); return 1 / took[i][len(took[i])/2] }
	for i, s := range sides {
		b.ReportMetric(rate(i), s.name+"/s")
	}
	for i, name := range map[int]string{0: "durable-5", 4: "durable-1", 5: "durable-20"} {
		b.ReportMetric(rate(i)/rate(1), name+"/bare")
	}
	b.ReportMetric(rate(2)/rate(3), "live/bare")
}

// BenchmarkSend is SendToRoom by 2,000 goroutines at once, to 100 rooms, with all that a caller
// pays, in turns with the bare script in pipelines of 500 that were made before.
func BenchmarkSend(b *testing.B) {
	srv := redistest.Start(b)
	e := emitter.New(srv.Settings())
	defer e.Close()
	rdb := srv.Client()
	defer rdb.Close()
	ctx := b.Context()
	if err := bare.Load(ctx, rdb).Err(); err != nil {
		b.Fatal(err)
	}
	const events, senders, workers, batch = 100_000, 2_000, 4, 500
	data := strings.Repeat("x", 200)
	var rooms [100]proto.Room
	for i := range rooms {
		rooms[i] = proto.Room(fmt.Sprint("orders:", i))
	}
	together := func(workers int, work func(i int) error) float64 {
		runtime.GC()
		var g sync.WaitGroup
		began := time.Now()
		for i := range workers {
			g.Go(func() {
				if err := work(i); err != nil {
					b.Error(err)
				}
			})
		}
		g.Wait()
		return events / time.Since(began).Seconds()
	}
	body := proto.Body(proto.AppendMessage(nil, proto.Message{Event: proto.Event{Event: "order.paid", Data: []byte(`"` + data + `"`), Time: 1_800_000_000_000}}))
	var sent, least []float64
	for b.Loop() {
		sent = append(sent, together(senders, func(i int) (err error) {
			for j := range events / senders {
				_, serr := e.SendToRoom(ctx, rooms[(i+j)%len(rooms)], "order.paid", data)
				err = errors.Join(err, serr)
			}
			return err
		}))
		var pipes [workers][]redis.Pipeliner
		for i := range events / batch {
			p := rdb.Pipeline()
			for j := range batch {
				r := string(rooms[j%len(rooms)])
				bare.EvalSha(ctx, p, []string{"bare:" + r, "bare:log:" + r}, "bare:c:"+r, body, 256)
			}
			pipes[i%workers] = append(pipes[i%workers], p)
		}
		least = append(least, together(workers, func(i int) (err error) {
			for _, p := range pipes[i] {
				_, perr := p.Exec(ctx)
				err = errors.Join(err, perr)
			}
			return err
		}))
	}
	median := func(rates []float64) float64 { slices.Sort(rates); return rates[len(rates)/2] }
	b.ReportMetric(median(sent), "events/s")
	b.ReportMetric(median(least), "bare-script/s")
	b.ReportMetric(median(sent)/median(least), "send/bare")
}

// BenchmarkAck is how long one caller waits for the receipt of a durable event, of 200 a second that it sends one
// after the other, and of the first one after a pause of two seconds, on a single Redis and on a cluster, whose
// answers need a proof (docs/adr/0014).
func BenchmarkAck(b *testing.B) {
	for name, srv := range redistest.Each(b) {
		b.Run(name, func(b *testing.B) {
			e := emitter.New(srv.Settings())
			defer e.Close()
			var busy, first []time.Duration
			send := func() time.Duration {
				began := time.Now()
				if _, err := e.SendToRoom(b.Context(), "orders", "order.paid", strings.Repeat("x", 200)); err != nil {
					b.Fatal(err)
				}
				return time.Since(began)
			}
			for b.Loop() {
				for range 5 {
					<-time.After(2 * time.Second)
					first = append(first, send())
				}
				for range 2_000 {
					<-time.After(5 * time.Millisecond)
					busy = append(busy, send())
				}
			}
			slices.Sort(busy)
			slices.Sort(first)
			at := func(all []time.Duration, percent int) float64 {
				return float64(all[(len(all)-1)*percent/100].Microseconds())
			}
			b.ReportMetric(at(busy, 50), "µs-p50")
			b.ReportMetric(at(busy, 99), "µs-p99")
			b.ReportMetric(at(first, 50), "µs-after-a-pause")
		})
	}
}

package bus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rooms, inbox, ignis prometheus.Counter
	malformed           prometheus.Counter
	unreturned          prometheus.Counter
	interruptions       prometheus.Counter
	pauses              prometheus.Counter
	moved               prometheus.Counter
	canary              prometheus.Histogram
	late                prometheus.Counter
	unchecked           prometheus.Counter
	reads               *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, b *Bus) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	received := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_bus_messages_received_total",
		Help: "Messages from Redis: of rooms, of this node's inbox, of the original's channels (ignis).",
	}, []string{"source"})
	m := &metrics{
		rooms:      received.WithLabelValues("room"),
		inbox:      received.WithLabelValues("inbox"),
		ignis:      received.WithLabelValues("ignis"),
		malformed:  counter("signal_bus_malformed_total", "Messages from Redis that were dropped because they cannot be read."),
		unreturned: counter("signal_bus_unreturned_total", "Clients that came back from another node which could not be told: it tells of them as gone."),
		interruptions: counter("signal_bus_interruptions_total",
			"How often Redis was lost. Live events published until it is back are lost."),
		pauses: counter("signal_pauses_total", "How often this process stood still for more than three seconds. All rooms are checked then."),
	}
	m.moved = counter("signal_bus_rooms_moved_total", "Rooms that are heard from another server, because their slot has moved or a replica has taken its master's place.")
	m.late = counter("signal_bus_canaries_late_total", "Seconds in which nothing came of what this node publishes to itself through a master.")
	m.unchecked = counter("signal_bus_rooms_unchecked_total", "Rooms of which Redis refused to say where they are: what was lost of them on the way may not be noticed.")
	m.canary = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "signal_bus_canary_seconds", Help: "How long an event takes that this node publishes to itself every second through each master.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	})
	reg.MustRegister(m.canary)
	m.reads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_history_reads_total", Help: "Reads of what follows a position, by what was found of it.",
	}, []string{"result"})
	reg.MustRegister(received, m.reads,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_bus_up", Help: "1 while everything wanted on Redis is heard."}, b.health.up),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_bus_links_down", Help: "Redis servers that are to be listened to and are not."}, b.health.links),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_bus_links", Help: "Connections on which Redis servers are listened to: one to each master."},
			func() float64 { return float64(len(b.routes.all())) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "signal_bus_away_seconds_total", Help: "Seconds without Redis since it was first there."},
			func() float64 { return b.health.seconds(time.Now()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_nodes", Help: "Nodes that live, this one among them, as Redis knows."},
			func() float64 { return float64(b.nodes()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_bus_subscriptions", Help: "Rooms that this node listens to."},
			func() float64 { return float64(b.routes.size()) }))
	return m
}

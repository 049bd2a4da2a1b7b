package hub

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	delivered prometheus.Counter
	slow      prometheus.Counter // dropped, the client was too far behind
	full      prometheus.Counter // dropped, too much waited for this client alone
	resyncs   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	m := &metrics{delivered: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "signal_events_delivered_total",
		Help: "Events handed to a client's connection.",
	})}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_events_dropped_total",
		Help: "Live events that a client did not get: slow, it or the node fell behind the room's ring; full, too much waited for it alone.",
	}, []string{"reason"})
	m.slow, m.full = dropped.WithLabelValues("slow"), dropped.WithLabelValues("full")
	m.resyncs = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "signal_resyncs_total", Help: "How often a client was told that events of a room may be missing.",
	})
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	reg.MustRegister(m.delivered, dropped, m.resyncs)
	gauge("signal_clients", "Authenticated clients on this node.", func() int { n, _ := h.Size(); return n })
	gauge("signal_rooms", "Rooms with a member on this node.", func() int { _, n := h.Size(); return n })
	gauge("signal_rings_bytes", "Kept in rooms' rings for clients that are behind or come back.", h.budget.bytes)
	return m
}

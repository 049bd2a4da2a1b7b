package hub

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	delivered prometheus.Counter
	slow      prometheus.Counter // dropped, the client was too far behind
	overflown prometheus.Counter // dropped, the shard was too far behind
	full      prometheus.Counter // dropped, too much waited for this client alone
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	m := &metrics{delivered: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "signal_events_delivered_total",
		Help: "Events handed to a client's connection.",
	})}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_events_dropped_total",
		Help: "Live events that a client did not get: slow, it fell behind the room's ring; full, too much waited for it alone; ring, the node was behind.",
	}, []string{"reason"})
	m.slow, m.overflown, m.full = dropped.WithLabelValues("slow"), dropped.WithLabelValues("ring"), dropped.WithLabelValues("full")
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	reg.MustRegister(m.delivered, dropped)
	gauge("signal_clients", "Authenticated clients on this node.", func() int { n, _ := h.Size(); return n })
	gauge("signal_rooms", "Rooms with a member on this node.", func() int { _, n := h.Size(); return n })
	gauge("signal_rings_bytes", "Kept in rooms' rings for clients that are behind.", h.budget.bytes)
	return m
}

package hub

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	delivered prometheus.Counter
	refused   prometheus.Counter // dropped, the connection's buffer was full or it had ended
	overflown prometheus.Counter // dropped, the room's ring was full
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	m := &metrics{delivered: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "signal_events_delivered_total",
		Help: "Events handed to a client's connection.",
	})}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_events_dropped_total",
		Help: "Live events that a client did not get: slow, its connection could not take them; ring, the node was behind.",
	}, []string{"reason"})
	m.refused, m.overflown = dropped.WithLabelValues("slow"), dropped.WithLabelValues("ring")
	reg.MustRegister(m.delivered, dropped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_clients", Help: "Authenticated clients on this node."},
			func() float64 { n, _ := h.Size(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_rooms", Help: "Rooms with a member on this node."},
			func() float64 { _, n := h.Size(); return float64(n) }))
	return m
}

package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

type metrics struct {
	delivered prometheus.Counter
	slow      prometheus.Counter // dropped, the client was too far behind
	full      prometheus.Counter // dropped, too much waited for this client alone
	resyncs   prometheus.Counter

	joinedFresh, joinedRing, joinedLog, joinedLost prometheus.Counter
	fromRing, fromLog                              prometheus.Counter // batches to who is behind
	healed                                         [notices]prometheus.Counter
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
	vec := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		reg.MustRegister(v)
		return v
	}
	joins := vec("signal_joins_total", "Joins by what the client was given: fresh, it came without a position; "+
		"ring or log, all that it had missed; lost, word that events may be missing.", "given")
	m.joinedFresh, m.joinedRing = joins.WithLabelValues("fresh"), joins.WithLabelValues("ring")
	m.joinedLog, m.joinedLost = joins.WithLabelValues("log"), joins.WithLabelValues("lost")
	batches := vec("signal_catchup_batches_total", "Writes to clients that were behind, from the room's ring or from its log on Redis.", "from")
	m.fromRing, m.fromLog = batches.WithLabelValues("ring"), batches.WithLabelValues("log")
	healed := vec("signal_rooms_healed_total", "How often this node had missed events of a room and then read them, by what it was noticed by: "+
		"the next message, the regular check, the check after a lost connection, a client that had seen more.", "noticed")
	for n, name := range [notices]string{"message", "check", "connection", "client"} {
		m.healed[n] = healed.WithLabelValues(name)
	}
	gauge := func(name, help string, value func() int) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	reg.MustRegister(m.delivered, dropped, m.resyncs)
	gauge("signal_clients", "Authenticated clients on this node.", func() int { n, _ := h.Size(); return n })
	gauge("signal_rooms", "Rooms with a member on this node.", func() int { _, n := h.Size(); return n })
	gauge("signal_rings_bytes", "Kept in rooms' rings for clients that are behind or come back.", h.budget.bytes)
	return m
}

func (m *metrics) joined(v room.Verdict) {
	switch {
	case v.Found == proto.Fresh:
		m.joinedFresh.Inc()
	case v.Found != proto.OK:
		m.joinedLost.Inc()
	case v.InLog:
		m.joinedLog.Inc()
	default:
		m.joinedRing.Inc()
	}
}

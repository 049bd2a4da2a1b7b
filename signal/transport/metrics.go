package transport

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
)

type metrics struct {
	opened, frames, panics prometheus.Counter
	origin, handshake      prometheus.Counter
	closed                 *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, w *WebSocket) *metrics {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_upgrades_refused_total", Help: "Requests that did not become a WebSocket.",
	}, []string{"reason"})
	m := &metrics{
		opened: prometheus.NewCounter(prometheus.CounterOpts{Name: "signal_connections_opened_total", Help: "Connections since the start."}),
		frames: prometheus.NewCounter(prometheus.CounterOpts{Name: "signal_frames_received_total", Help: "Frames from clients."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "signal_panics_total", Help: "Frames that broke the program, and so their connection. Each is a fault of Signal: please report it."}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_connections_closed_total",
			Help: "Connections that ended, by close code: one of the table in proto, or other when the client chose it.",
		}, []string{"code"}),
		origin: refused.WithLabelValues("origin"), handshake: refused.WithLabelValues("handshake"),
	}
	reg.MustRegister(m.opened, m.frames, m.panics, m.closed, refused,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_connections", Help: "Connections, authenticated or not."},
			func() float64 { return float64(w.size()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_plain_connections", Help: "Connections of the public address that are no WebSockets, or not yet."},
			func() float64 { return float64(w.door.plain()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signal_connections_attached", Help: "Waiting connections that keep the WebSocket library, because they spoke lately."},
			func() float64 { return float64(w.attached.size()) }))
	return m
}

// label keeps the number of series small, whatever clients send.
func label(code proto.CloseCode) string {
	if code.Reason() == "" && code != 1000 {
		return "other"
	}
	return strconv.Itoa(int(code))
}

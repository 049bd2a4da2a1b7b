package session

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what is refused to clients.
type Metrics struct {
	refused, denied, errors prometheus.Counter
	limited                 *prometheus.CounterVec
}

// NewMetrics counts in reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	limited := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_limited_total", Help: "What clients asked for beyond a limit: refused, or let through in a dry run.",
	}, []string{"limit"})
	reg.MustRegister(limited)
	return &Metrics{
		limited: limited,
		refused: counter("signal_authentications_refused_total", "Connections whose token was refused."),
		denied:  counter("signal_rights_denied_total", "Rooms that a client was not allowed to join or to publish to, or too many of them."),
		errors:  counter("signal_client_errors_total", "Error frames sent to clients."),
	}
}

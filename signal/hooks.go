package signal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/hook"
)

// address is one of the application's.
func address(cfg Config, name, url string, timeout time.Duration, count func(hook, result string)) *hook.Address {
	return hook.NewAddress(url, []byte(cfg.HookSecret), timeout, func(result string) { count(name, result) })
}

func countAnswers(reg prometheus.Registerer) func(hook, result string) {
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_hook_answers_total", Help: "What the application answered when it was asked: ok, no, or failed to.",
	}, []string{"hook", "result"})
	reg.MustRegister(answers)
	for _, name := range [...]string{"auth", "rooms", "message", "notices", "access"} {
		answers.WithLabelValues(name, "failed") // so that it can be watched before it happens
	}
	return func(hook, result string) { answers.WithLabelValues(hook, result).Inc() }
}

func countDropped(reg prometheus.Registerer) func(hook, reason string, n int) {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_hook_dropped_total", Help: "Messages and notices that the application never took: too many waited (full), of one client (busy) or of all (full), it failed, or was not asked since it had failed all the time (spared).",
	}, []string{"hook", "reason"})
	reg.MustRegister(dropped)
	for name, reasons := range map[string][]string{"message": {"busy", "full", "spared", "failed"}, "notices": {"full", "failed"}} {
		for _, reason := range reasons {
			dropped.WithLabelValues(name, reason)
		}
	}
	return func(hook, reason string, n int) { dropped.WithLabelValues(hook, reason).Add(float64(n)) }
}

// permissions ask about rooms; nil ask nobody.
func permissions(cfg Config, count func(hook, result string)) *auth.Permissions {
	switch {
	case cfg.Hooks.Rooms != nil:
		return auth.NewPermissions(cfg.Hooks.Rooms)
	case cfg.RoomsURL != "":
		return auth.NewPermissions(address(cfg, "rooms", cfg.RoomsURL, hook.RoomsTimeout, count))
	}
	return nil
}

// messages answer clients' own events; nil: nobody does.
func messages(cfg Config, count func(hook, result string)) (to hook.Messages, spared func() bool) {
	if cfg.Hooks.Messages == nil && cfg.MessageURL != "" {
		a := address(cfg, "message", cfg.MessageURL, hook.MessageTimeout, count)
		return a, a.Spared
	}
	return cfg.Hooks.Messages, func() bool { return false }
}

// outbox tells what happens on the node; nil tells nobody.
func (n *Node) outbox(cfg Config, count func(hook, result string), dropped func(hook, reason string, n int)) *hook.Outbox {
	to := cfg.Hooks.Notices
	if to == nil && cfg.NoticesURL != "" {
		to = address(cfg, "notices", cfg.NoticesURL, hook.MessageTimeout, count)
	}
	if to == nil {
		return nil
	}
	back := func(id proto.ClientID, user proto.UserID) bool { return n.bus.Returned(id, user) }
	return hook.NewOutbox(to, func(reason string, k int) { dropped("notices", reason, k) }, back, n.log)
}

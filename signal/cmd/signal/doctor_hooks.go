package main

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/hook"
)

// hooks looks whether the application's addresses answer, as a node would reach them. It says their hosts
// alone, since what is behind may be a secret.
func (d *diagnosis) hooks(ctx context.Context, cfg config.Config) {
	all := cfg.Addresses()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] == "" {
			continue
		}
		host := ""
		if u, err := url.Parse(all[name]); err == nil {
			host = u.Host
		}
		status, err := hook.NewAddress(all[name], nil, 3*time.Second, nil).Look(ctx)
		name = config.Prefix + name
		switch {
		case err != nil:
			d.finds("look at the application and at the network: a node could not ask it either", "%s (%s) does not answer: %v", name, host, err)
		case status/100 == 3:
			d.finds("set the address that it redirects to: a node follows none, since what it asks may be a secret", "%s (%s) answers %d", name, host, status)
		case status/100 == 5 && status != http.StatusNotImplemented:
			d.finds("look at the application, and at the proxy before it", "%s (%s) answers %d", name, host, status)
		default:
			d.ok("%s (%s) is there; whether it takes the signature is seen in signal_hook_answers_total", name, host)
		}
	}
}

package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/signal-team/signal/signal/config"
)

// hooks looks whether the application's addresses answer, by HEAD: that is no question, and needs no
// signature. A 404 or 405 is as good as a 200, since only POST may be routed there. It says their hosts
// alone, since what is behind may be a secret.
func (d *diagnosis) hooks(ctx context.Context, cfg config.Config) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := &http.Client{
		Timeout:       3 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	for _, h := range [...]struct{ name, at string }{
		{"AUTH_URL", cfg.AuthURL}, {"ROOMS_URL", cfg.RoomsURL}, {"MESSAGE_URL", cfg.MessageURL}, {"NOTICES_URL", cfg.NoticesURL}, {"ACCESS_URL", cfg.AccessURL},
	} {
		if h.at == "" {
			continue
		}
		name := config.Prefix + h.name
		r, err := http.NewRequestWithContext(ctx, http.MethodHead, h.at, nil)
		if err != nil {
			d.finds("correct it", "%s is no address", name)
			continue
		}
		said, err := client.Do(r)
		if at, is := errors.AsType[*url.Error](err); is { // which quotes the address
			err = at.Err
		}
		if err != nil {
			d.finds("look at the application and at the network: a node could not ask it either", "%s (%s) does not answer: %v", name, r.URL.Host, err)
			continue
		}
		_ = said.Body.Close()
		switch {
		case said.StatusCode/100 == 3:
			d.finds("set the address that it redirects to: a node follows none, since what it asks may be a secret", "%s (%s) answers %s", name, r.URL.Host, said.Status)
		case said.StatusCode/100 == 5 && said.StatusCode != http.StatusNotImplemented:
			d.finds("look at the application, and at the proxy before it", "%s (%s) answers %s", name, r.URL.Host, said.Status)
		default:
			d.ok("%s (%s) is there; whether it takes the signature is seen in signal_hook_answers_total", name, r.URL.Host)
		}
	}
}

package emitter_test

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// TestTLS: events go to servers that speak TLS only, and whoever does not fit to them is refused
// and told why.
func TestTLS(t *testing.T) {
	pair, strangers := redistest.NewPair(t), redistest.NewPair(t)
	secure := pair.Config(t)
	for name, at := range map[string]emitter.Settings{
		"single": redistest.StartTLS(t, pair).Settings(), "cluster": redistest.StartClusterTLS(t, pair).Settings(),
	} {
		e := open(t, at)
		for _, room := range []string{"a", "b", "c", "d"} { // of several masters
			if _, err := e.SendToRoom(t.Context(), proto.Room("room "+room), "e", 1); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := e.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for why, c := range map[string]struct {
			tls  *tls.Config
			want error
			says string
		}{
			"no TLS":                        {nil, emitter.ErrUnavailable, ""},
			"another signer":                {strangers.Config(t), emitter.ErrRefused, "certificate"},
			"another signer's certificate":  {&tls.Config{RootCAs: secure.RootCAs, Certificates: strangers.Config(t).Certificates}, nil, ""}, // the server may end before its answer is read
			"a certificate of another name": {&tls.Config{RootCAs: secure.RootCAs, Certificates: secure.Certificates, ServerName: "redis.example.com"}, emitter.ErrRefused, "redis.example.com"},
		} {
			at.TLS = c.tls
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			err := open(t, at).Check(ctx)
			cancel()
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s, %s: %v, want %v with %q", name, why, err, c.want, c.says)
			}
		}
	}
	plain := redistest.Start(t).Settings()
	plain.TLS = secure
	if err := open(t, plain).Check(t.Context()); !errors.Is(err, emitter.ErrUnavailable) { // such a server waits for the end of a line
		t.Errorf("TLS with a server without: %v", err)
	}
}

func TestTLSFromEnv(t *testing.T) {
	pair := redistest.NewPair(t)
	nothing := filepath.Join(t.TempDir(), "nothing.crt")
	if err := os.WriteFile(nothing, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		says string // "" if it is right
	}{
		"all":                      {map[string]string{"TLS": "true", "TLS_CA": pair.CA, "TLS_CERT": pair.Cert, "TLS_KEY": pair.Key}, ""},
		"the system's":             {map[string]string{"TLS": "1"}, ""},
		"without TLS":              {map[string]string{"TLS_CA": pair.CA}, "TLS=true"},
		"neither":                  {map[string]string{"TLS": "maybe"}, "TLS must be true or false"},
		"no such file":             {map[string]string{"TLS": "true", "TLS_CA": nothing + "x"}, "TLS_CA: open"},
		"no certificate in it":     {map[string]string{"TLS": "true", "TLS_CA": nothing}, "TLS_CA: no certificate"},
		"a certificate and no key": {map[string]string{"TLS": "true", "TLS_CERT": pair.Cert}, "go together"},
		"a key that is none":       {map[string]string{"TLS": "true", "TLS_CERT": pair.Cert, "TLS_KEY": nothing}, "TLS_KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(emitter.EnvPrefix+k, v)
			}
			s, err := emitter.SettingsFromEnv()
			if c.says == "" && (err != nil || s.TLS == nil) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%+v, %v, want %q", s, err, c.says)
			}
		})
	}
}

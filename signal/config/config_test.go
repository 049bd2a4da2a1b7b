package config_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/hook"
)

// environ sets our variables and no others.
func environ(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, old, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "APP_ENV_") {
			t.Setenv(name, old) // puts it back at the end
			os.Unsetenv(name)
		}
	}
	for name, v := range vars {
		t.Setenv(name, v)
	}
}

const secret = "0123456789abcdef0123456789abcdef"

func TestDefaults(t *testing.T) {
	environ(t, map[string]string{"APP_ENV_SIGNAL_JWT_SECRET": secret})
	c, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != ":8080" || c.AdminAddr != "127.0.0.1:9090" || c.JWTAudience != "signal" || c.JWTMaxLifetime != 15*time.Minute ||
		strings.Join(c.DefaultRooms, " ") != "ws-default ws-notification" || c.FrameBytes != 65536 || c.Ignis != "listen" ||
		c.Limits != "on" || c.AuthTimeout != 5*time.Second || c.Redis.Mode != emitter.Single || c.Redis.Addr() != "127.0.0.1:6379" {
		t.Errorf("defaults %+v", c)
	}
	if said := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(said, secret) {
		t.Error("the secret is printed")
	}
}

func TestAudience(t *testing.T) {
	environ(t, map[string]string{"APP_ENV_SIGNAL_JWT_SECRET": secret, "APP_ENV_SIGNAL_JWT_AUDIENCE": ""})
	if c, err := config.Load(); err != nil || c.JWTAudience != "" || c.JWTMaxLifetime != 0 {
		t.Errorf("audience set to nothing: %q, %s, %v; want it not looked at", c.JWTAudience, c.JWTMaxLifetime, err)
	}
}

// TestEveryMistakeAtOnce names each wrong variable in one go.
func TestEveryMistakeAtOnce(t *testing.T) {
	wrong := map[string]string{
		"APP_ENV_SIGNAL_ADDR":             "8080",
		"APP_ENV_SIGNAL_ADMIN_ADDR":       "x:y:z",
		"APP_ENV_SIGNAL_JWT_SECRET":       "short",
		"APP_ENV_SIGNAL_JWT_ROOMS":        "a*b",
		"APP_ENV_SIGNAL_JWT_PUBLISH":      "$user:*",
		"APP_ENV_SIGNAL_JWT_MAX_LIFETIME": "-1s",
		"APP_ENV_SIGNAL_API_KEY":          "short",
		"APP_ENV_SIGNAL_DEFAULT_ROOMS":    "ok,{bad}",
		"APP_ENV_SIGNAL_ALLOWED_ORIGINS":  "app.example.com",
		"APP_ENV_SIGNAL_LIMITS":           "maybe",
		"APP_ENV_SIGNAL_FRAME_BYTES":      "many",
		"APP_ENV_SIGNAL_IGNIS":            "echo",
		"APP_ENV_SIGNAL_AUTH_TIMEOUT":     "5 seconds",
		"APP_ENV_SIGNAL_LOG_LEVEL":        "loud",
		"APP_ENV_WEBSOCKET_REDIS_MODE":    "mesh",
		"APP_ENV_WEBSOCKET_REDIS_PORT":    "x",
		"APP_ENV_WEBSOCKET_REDIS_PUBSUB":  "loud",
	}
	environ(t, wrong)
	_, err := config.Load()
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(wrong) {
		t.Errorf("%d lines for %d mistakes:\n%v", len(lines), len(wrong), err)
	}
	for name := range wrong {
		if n := strings.Count(err.Error(), name+" must be"); n != 1 {
			t.Errorf("%s is named %d times", name, n)
		}
	}
	if strings.Contains(err.Error(), "short") || strings.Contains(err.Error(), "JWTSecret") {
		t.Errorf("the error shows a secret or a Go name: %v", err)
	}
}

func TestNoAuthenticationOnlyOnLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{"127.0.0.1:8080": true, "localhost:8080": true, "[::1]:80": true, ":8080": false, "0.0.0.0:80": false, "10.0.0.1:80": false} {
		environ(t, map[string]string{"APP_ENV_SIGNAL_AUTH": "none", "APP_ENV_SIGNAL_ADDR": addr})
		if _, err := config.Load(); (err == nil) != ok {
			t.Errorf("none on %s: %v", addr, err)
		}
	}
}

// An embedding program answers some questions itself.
type authenticator struct{ hook.Authenticator }

func TestHooksInPlaceOfAddresses(t *testing.T) {
	for auth, ok := range map[string]bool{"ask": true, "jwt": false} {
		environ(t, map[string]string{"APP_ENV_SIGNAL_AUTH": auth, "APP_ENV_SIGNAL_JWT_SECRET": strings.Repeat("s", 32)})
		_, err := config.Load(hook.Hooks{Authenticator: authenticator{}})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "Hooks.Authenticator") {
			t.Errorf("%s: %v", auth, err)
		}
		if _, err := config.Load(); (err == nil) == ok {
			t.Errorf("%s without: %v", auth, err)
		}
	}
}

func TestUnknown(t *testing.T) {
	environ(t, map[string]string{"APP_ENV_SIGNAL_JWT_SECRT": "x", "APP_ENV_WEBSOCKET_REDIS_HOSTS": "x", "APP_ENV_OTHER": "x", "APP_ENV_SIGNAL_FOO": "x", "APP_ENV_SIGNAL_ADDR": ":1"})
	got := strings.Join(config.Unknown(), "\n")
	want := "APP_ENV_SIGNAL_FOO is not read by anyone\nAPP_ENV_SIGNAL_JWT_SECRT is not read by anyone: did you mean APP_ENV_SIGNAL_JWT_SECRET?\n" +
		"APP_ENV_WEBSOCKET_REDIS_HOSTS is not read by anyone: did you mean APP_ENV_WEBSOCKET_REDIS_HOST?"
	if got != want {
		t.Errorf("warnings:\n%s\nwant:\n%s", got, want)
	}
}

package signal_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

var (
	keyOne = proto.SigningKey{ID: "k1", Secret: []byte("a key of thirty-two bytes, or more")}
	keyTwo = proto.SigningKey{ID: "k2", Secret: []byte("another key of thirty-two bytes...")}
)

// TestSigned: who reaches Redis and has no key reaches no till: not live, not through the log, not
// through an inbox, not by a snapshot. Keys are changed while everything runs.
func TestSigned(t *testing.T) { onAll(t, signedEvents) }

func signedEvents(t *testing.T, srv server) {
	at := srv.Settings()
	at.SigningKeys = []proto.SigningKey{keyOne}
	cfg := settings(at)
	cfg.Ignis = "off"
	n := run(t, cfg)
	// The one that forges began before anything had to be signed here, or it would be refused.
	at.SigningKeys = []proto.SigningKey{keyTwo, keyOne}
	changed := emitter.New(at)
	defer changed.Close()
	at.SigningKeys = []proto.SigningKey{{ID: "k1", Secret: []byte("somebody who only knows the name of a key")}}
	forger := emitter.New(at)
	defer forger.Close()
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	c := wstest.Login(t, n.addr(), tok, "orders")
	good := func(what string) {
		t.Helper()
		for _, send := range []func() (emitter.Receipt, error){
			func() (emitter.Receipt, error) { return n.SendToRoom(t.Context(), "orders", "good", what) },
			func() (emitter.Receipt, error) {
				return n.SendToRoom(t.Context(), "orders", "good", what, emitter.Live())
			},
			func() (emitter.Receipt, error) { return n.SendToUser(t.Context(), "u1", "good", what) },
			func() (emitter.Receipt, error) { return n.Broadcast(t.Context(), "good", what) },
		} {
			if _, err := send(); err != nil {
				t.Fatal(err)
			}
			if f := c.Expect(t, "good"); strings.Contains(string(f.Raw), `"sig"`) {
				t.Errorf("the client sees the signature: %s", f.Raw)
			}
		}
	}
	good("at the beginning")
	e := emitter.New(cfg.Redis)
	defer e.Close()
	if _, err := e.SendToClient(t.Context(), c.ID, "good", 1); err != nil {
		t.Fatal(err)
	}
	c.Expect(t, "good")
	// Forged in each way.
	dropped := n.metric(t, "signal_bus_malformed_total")
	if _, err := forger.SendToRoom(t.Context(), "orders", "forged", 1, emitter.Live()); err != nil {
		t.Fatal(err)
	}
	if _, err := forger.SendToClient(t.Context(), c.ID, "forged", 1); err != nil && !errors.Is(err, emitter.ErrNoReceiver) {
		t.Fatal(err)
	}
	if _, err := forger.SendToUser(t.Context(), "u1", "forged", 1); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return n.metric(t, "signal_bus_malformed_total") != dropped }, "forged events to be dropped")
	// A forged durable event tears the chain: the client is told that it may have missed something.
	for {
		f, err := c.Next()
		if err != nil || f.Event == "forged" {
			t.Fatalf("got %s, %v", f.Event, err)
		}
		if f.Event == "resync" {
			break
		}
	}
	good("afterwards")
	if status, _ := ask(t, n, "/snapshot/orders", tok); status != http.StatusNotFound {
		t.Errorf("no snapshot is answered %d", status)
	}
	for who, set := range map[string]*emitter.Emitter{"forged": forger, "good": e} {
		at, err := e.Position(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		if err := set.SetSnapshot(t.Context(), "orders", who, at); who == "good" && err != nil {
			t.Fatal(err)
		} else if err == nil {
			status, said := ask(t, n, "/snapshot/orders", tok)
			var s emitter.Snapshot
			_ = json.Unmarshal([]byte(said), &s)
			if who == "good" && (status != 200 || string(s.Data) != `"good"`) || who == "forged" && status == 200 && string(s.Data) == `"forged"` {
				t.Errorf("%s: %d %s", who, status, said)
			}
		}
	}
	// The new key signs, while the node knows only the old one: it must be told first.
	if _, err := changed.SendToRoom(t.Context(), "orders", "too early", 1, emitter.Live()); err != nil {
		t.Fatal(err)
	}
	cfg.Redis.SigningKeys = []proto.SigningKey{keyOne, keyTwo}
	second := run(t, cfg)
	d := wstest.Login(t, second.addr(), tok, "orders")
	if _, err := changed.SendToRoom(t.Context(), "orders", "in time", 1, emitter.Live()); err != nil {
		t.Fatal(err)
	}
	d.Expect(t, "in time")
	// Who does not sign is refused at its start.
	at.SigningKeys = nil
	without := emitter.New(at)
	defer without.Close()
	if err := without.Check(t.Context()); !errors.Is(err, emitter.ErrDisagrees) || !strings.Contains(err.Error(), "SIGNING_KEYS") {
		t.Errorf("an emitter without keys: %v", err)
	}
	if _, err := without.SendToRoom(t.Context(), "orders", "unsigned", 1); !errors.Is(err, emitter.ErrDisagrees) {
		t.Errorf("and its event: %v", err)
	}
	if strings.Contains(n.log.String(), string(keyOne.Secret)) {
		t.Error("the log has a key")
	}
}

// ask is a GET with a client's token.
func ask(t *testing.T, n *node, path, token string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	said, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer said.Body.Close()
	b, err := io.ReadAll(said.Body)
	if err != nil {
		t.Fatal(err)
	}
	return said.StatusCode, string(b)
}

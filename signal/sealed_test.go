package signal_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestEncryption: an encrypted till says and hears what others do, in the same order, also when it
// falls behind; nothing but connected comes to it in the open, and who is not encrypted does not
// notice.
func TestEncryption(t *testing.T) { onAll(t, encryption) }

func encryption(t *testing.T, srv server) {
	n := run(t, settings(srv.Settings()))
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	sealed := wstest.Connect(t, n.addr()).Encrypt()
	if err := sealed.Login(tok, "orders"); err != nil {
		t.Fatal(err)
	}
	open := wstest.Login(t, n.addr(), tok, "orders")
	e := emitter.New(srv.Settings())
	defer e.Close()
	const many = 220 // 1.8 MB: more than a ring and a socket hold
	for i := range many {
		if _, err := e.SendToRoom(t.Context(), "orders", "n", map[string]any{"n": i, "x": strings.Repeat("x", 8_000)}); err != nil {
			t.Fatal(err)
		}
	}
	for who, c := range map[string]*wstest.Client{"sealed": sealed, "open": open} {
		for i := range many {
			if f := c.Expect(t, "n"); !strings.HasPrefix(string(f.Data), fmt.Sprintf(`{"n":%d,`, i)) || f.Sequence != uint64(i+1) {
				t.Fatalf("%s: event %d is %.60s", who, i, f.Data)
			}
		}
	}
	if open.Sealed != 0 || sealed.Sealed < many {
		t.Errorf("%d frames were sealed for the one that did not ask, %d for the one that did", open.Sealed, sealed.Sealed)
	}
	sealed.Send("publish", map[string]any{"room": "orders", "event": "hello", "data": 1}, "p")
	open.Expect(t, "hello")
	for range 2 {
		if f, err := sealed.Next(); err != nil || f.Event != "ack" && f.Event != "hello" {
			t.Fatalf("got %s %s %v", f.Event, f.Data, err)
		}
	}
	// Nobody speaks in its name without the key.
	sealed.Open(`{"event":"heartbeat"}`)
	for _, forged := range []string{
		`{"event":"publish","data":{"room":"orders","event":"forged"},"id":"f"}`, `{"event":"encrypted","data":{"iv":"AAECAwQFBgcICQoL","ct":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`,
		`{"event":"encrypted"}`, `{"event":"encrypted","data":{"iv":1}}`,
	} {
		sealed.Open(forged)
		if e := sealed.Expect(t, "error").Error(); e.Code != proto.CodeBadRequest {
			t.Errorf("%s is answered %+v", forged, e)
		}
	}
	sealed.Raw(`{"event":"encrypted","data":{}}`) // one in another
	if e := sealed.Expect(t, "error").Error(); e.Code != proto.CodeBadRequest {
		t.Errorf("a nested one is answered %+v", e)
	}
	if _, err := e.SendToClient(t.Context(), sealed.ID, "alone", 1); err != nil {
		t.Fatal(err)
	}
	sealed.Expect(t, "alone")
	if err := e.Revoke(t.Context(), proto.Revocation{User: "u1", Reason: "over"}); err != nil {
		t.Fatal(err)
	}
	sealed.Expect(t, "auth.revoked")
	sealed.ExpectClose(t, proto.CloseRevoked)
}

// TestEncryptionHandshake: what a client offers, and what the node makes of it.
func TestEncryptionHandshake(t *testing.T) {
	srv := redistest.Start(t)
	const good = "BB8UAUa/sbJR+E9N2+DUzc/Xev2YSpUg41eUAh+DErue7JlaCLH6dwTfPcwLUKlmUmP7dxH5X5+KRJxQluR8iSs="
	for mode, offers := range map[string]map[string]bool{ // whether the client may go on
		"off":      {"": true, good: true, "garbage": true},
		"optional": {"": true, good: true, "garbage": false, good[:87] + "A": false},
		"required": {"": false, good: true, "garbage": false},
	} {
		cfg := settings(srv.Settings())
		cfg.Encryption = mode
		n := run(t, cfg)
		for key, allowed := range offers {
			c := wstest.Connect(t, n.addr())
			hail := map[string]string{"token": token(t, "u1", nil, nil)}
			if key != "" {
				hail["publicKey"] = key
			}
			c.Send("authenticate", hail, "a")
			if !allowed {
				if e := c.Expect(t, "error").Error(); e.Message != "Encryption handshake failed" || e.Ref != "a" {
					t.Errorf("%s: %q is answered %+v", mode, key, e)
				}
				c.ExpectClose(t, proto.CloseEncryption)
				continue
			}
			f := c.Expect(t, "connected")
			if seals := strings.Contains(string(f.Data), "serverPublicKey"); seals != (mode != "off" && key != "") {
				t.Errorf("%s: %q is answered %s", mode, key, f.Data)
			}
		}
	}
}

// TestEncryptionInBrowser: a page and a node understand each other, both ways, by WebCrypto.
func TestEncryptionInBrowser(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	cfg.AllowedOrigins, cfg.Encryption = []string{"*"}, "required"
	n := run(t, cfg)
	till := wstest.Connect(t, n.addr()).Encrypt()
	if err := till.Login(token(t, "u2", proto.Grants{"*"}, proto.Grants{"*"}), "orders"); err != nil {
		t.Fatal(err)
	}
	p := openScript(t, `
		import { Client } from './client.js'
		import { Sealing } from './sealed.js'
		window.got = []
		window.raw = []
		class Watched extends WebSocket {
			constructor(url) { super(url); this.addEventListener('message', (m) => raw.push(JSON.parse(m.data).event)) }
			send(text) { raw.push(JSON.parse(text).event); super.send(text) }
		}
		window.client = new Client({ url: 'ws://%s/ws', token: () => '%s', state: (s) => { window.state = s }, WebSocket: Watched,
			sealing: () => Sealing.offer() })
		client.join('orders', { event: (f) => got.push(f.data), resync: () => { window.joined = true } })`,
		n.addr(), token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"}))
	p.until("the page has joined", "window.joined === true")
	for i := range 100 {
		if _, err := n.SendToRoom(t.Context(), "orders", "n", i); err != nil {
			t.Fatal(err)
		}
	}
	p.until("all events have come, in order", "got.length === 100 && got.every((n, i) => n === i)")
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[int](`(() => { let i = 0; while (i < 20) client.publish('orders', 'said', { n: i }, 'e' + i), i++; return i })()`)); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 20; {
		f, err := till.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Event == "said" {
			if want := fmt.Sprintf(`{"n":%d}`, i); string(f.Data) != want {
				t.Fatalf("the page said %s, want %s", f.Data, want)
			}
			i++
		}
	}
	p.until("nothing but the handshake was in the open",
		"raw.length > 120 && raw.every((event, i) => event === (i === 0 ? 'authenticate' : i === 1 ? 'connected' : 'encrypted'))")
}

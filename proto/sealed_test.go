package proto_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/signal-team/signal/proto"
)

// scalar is the private key of the bytes from..from+31.
func scalar(tb testing.TB, from byte) *ecdh.PrivateKey {
	tb.Helper()
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	k, err := ecdh.P256().NewPrivateKey(b)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// The known answer: computed with WebCrypto, with the original's parameters.
const (
	serverPublic = "BFFcPW6545a5BNP+yn9U/c0MwemXvzddylFa0KbDtANfRTa+OlDzGPv5pUdZAqIhUCvvDVfgjFOyzApW8X2fk1Q="
	clientPublic = "BB8UAUa/sbJR+E9N2+DUzc/Xev2YSpUg41eUAh+DErue7JlaCLH6dwTfPcwLUKlmUmP7dxH5X5+KRJxQluR8iSs="
	salt         = "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8="
	iv           = "AAECAwQFBgcICQoL"
	ct           = "BY+3J3I2oryBYTr60mVe1/4iIG5o6fkfmkanigr98HO9mV8dUX5c76K+brcdxghiWC8EgsHhDSrPp2CcgoBEL0H/kT/85vwE5HSmnQ=="
	plain        = `{"event":"order.created","data":{"id":"o-1","total":125000}}`
)

func encrypted(tb testing.TB, iv, ct string) proto.Frame {
	tb.Helper()
	f, err := proto.DecodeFrame(fmt.Appendf(nil, `{"event":"encrypted","data":{"iv":%q,"ct":%q}}`, iv, ct))
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func TestSealingVector(t *testing.T) {
	server, client := scalar(t, 0x01), scalar(t, 0x21)
	if got := base64.StdEncoding.EncodeToString(server.PublicKey().Bytes()); got != serverPublic {
		t.Errorf("the server's public key is %s", got)
	}
	node, err := proto.NewSealing(server, clientPublic, salt, proto.SealingInfo)
	if err != nil {
		t.Fatal(err)
	}
	till, err := proto.NewSealing(client, serverPublic, salt, proto.SealingInfo)
	if err != nil {
		t.Fatal(err)
	}
	for who, s := range map[string]*proto.Sealing{"node": node, "till": till} {
		if b, err := s.Open(encrypted(t, iv, ct)); err != nil || string(b) != plain {
			t.Errorf("%s opens %s, %v", who, b, err)
		}
	}
	var f proto.Frame
	seen := map[string]bool{}
	for n := range 40_000 / 400 {
		frame := bytes.Repeat([]byte("x"), n*400)
		b := node.AppendSealed([]byte("before"), frame)
		if f, err = proto.DecodeFrame(b[len("before"):]); err != nil || f.Event != "encrypted" {
			t.Fatalf("%s: %v", b, err)
		}
		if got, err := till.Open(f); err != nil || !bytes.Equal(got, frame) {
			t.Fatalf("%d bytes: %v", len(frame), err)
		}
		var data struct{ IV string }
		if json.Unmarshal(f.Data, &data) != nil || seen[data.IV] {
			t.Fatalf("the same iv twice: %s", data.IV)
		}
		seen[data.IV] = true
	}
	if other, err := proto.NewSealing(server, clientPublic, salt, "another"); err != nil {
		t.Fatal(err)
	} else if _, err := other.Open(encrypted(t, iv, ct)); !errors.Is(err, proto.ErrSealed) {
		t.Errorf("another info opens it: %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { node.SealFrame(make([]byte, 0, 512), proto.EncodeFrame("e", nil, "")) }); n > 4 {
		t.Errorf("%v allocations", n)
	}
}

// TestReflected: what a node has sealed for a client is not taken from the client.
func TestReflected(t *testing.T) {
	node, o, err := proto.Agree(clientPublic, proto.SealingInfo)
	if err != nil {
		t.Fatal(err)
	}
	till, err := proto.NewSealing(scalar(t, 0x21), o.PublicKey, o.Salt, proto.SealingInfo)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 1000 {
		b := node.AppendSealed(nil, []byte(plain))
		f, err := proto.DecodeFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := till.Open(f); err != nil || string(got) != plain {
			t.Fatalf("the till opens %q, %v", got, err)
		}
		if got, err := node.Open(f); !errors.Is(err, proto.ErrSealed) {
			t.Fatalf("the node opens its own frame: %q, %v", got, err)
		}
		if seen[string(f.Data[:30])] {
			t.Fatalf("the same iv twice: %s", f.Data[:30])
		}
		seen[string(f.Data[:30])] = true
		if f, err = proto.DecodeFrame(till.AppendSealed(nil, []byte(plain))); err != nil {
			t.Fatal(err)
		}
		if got, err := node.Open(f); err != nil || string(got) != plain {
			t.Fatalf("the node opens %q, %v", got, err)
		}
	}
}

func TestSealingRefuses(t *testing.T) {
	server := scalar(t, 0x01)
	compressed := base64.StdEncoding.EncodeToString(append([]byte{2}, make([]byte, 64)...))
	for name, key := range map[string]string{
		"none": "", "not base64": "!", "short": clientPublic[:84], "without padding": clientPublic[:87],
		"line break": clientPublic[:40] + "\n" + clientPublic[40:], "not on the curve": clientPublic[:80] + "AAAAAAA=",
		"compressed": compressed, "infinity": base64.StdEncoding.EncodeToString(make([]byte, 65)),
		"url alphabet": clientPublic[:10] + "-_" + clientPublic[12:],
	} {
		if _, err := proto.NewSealing(server, key, salt, proto.SealingInfo); !errors.Is(err, proto.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, o, err := proto.Agree(key, proto.SealingInfo); !errors.Is(err, proto.ErrSealed) {
			t.Errorf("%s is agreed on with %+v", name, o)
		}
	}
	s, err := proto.NewSealing(server, clientPublic, salt, proto.SealingInfo)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string][2]string{
		"nothing": {"", ""}, "short iv": {"AAEC", ct}, "a bit turned": {iv, "C" + ct[1:]}, "cut": {iv, ct[:len(ct)-4]}, "no tag": {iv, "AAAA"},
		"another iv": {"BAECAwQFBgcICQoL", ct}, "line break": {iv, ct[:8] + "\n" + ct[8:]}, "loose padding bits": {iv, ct[:len(ct)-3] + "R=="},
	} {
		if b, err := s.Open(encrypted(t, f[0], f[1])); err == nil {
			t.Errorf("%s is opened: %s", name, b)
		}
	}
}

// FuzzOpen: whatever comes as an encrypted frame, what was not sealed is not opened.
func FuzzOpen(f *testing.F) {
	s, err := proto.NewSealing(scalar(f, 0x01), clientPublic, salt, proto.SealingInfo)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(fmt.Sprintf(`{"iv":%q,"ct":%q}`, iv, ct)))
	f.Add(s.AppendSealed(nil, []byte(plain)))
	f.Add([]byte(`{"iv":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := s.Open(proto.Frame{Data: data}); err == nil && string(b) != plain {
			t.Fatalf("%s is opened: %s", data, b)
		}
	})
}

// FuzzAgree: a client's key is a point of the curve, or refused.
func FuzzAgree(f *testing.F) {
	f.Add(clientPublic)
	f.Add("")
	f.Fuzz(func(t *testing.T, key string) {
		s, o, err := proto.Agree(key, proto.SealingInfo)
		if err != nil {
			return
		}
		point, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			t.Fatalf("%q is agreed on: %v", key, err)
		}
		if _, err := ecdh.P256().NewPublicKey(point); err != nil || s == nil || o.PublicKey == "" || o.Salt == "" {
			t.Fatalf("%q is agreed on: %+v, %v", key, o, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	s, err := proto.NewSealing(k, clientPublic, salt, proto.SealingInfo)
	if err != nil {
		b.Fatal(err)
	}
	frame := append([]byte{0x81, 126, 0, 242}, bytes.Repeat([]byte("x"), 242)...)
	var dst []byte
	b.SetBytes(242)
	b.ReportAllocs()
	for b.Loop() {
		dst = s.SealFrame(dst[:0], frame)
	}
}

package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/signal/auth"
)

// must is for what cannot fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	rsaKey = must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey  = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	edKey  = func() ed25519.PrivateKey { _, k, err := ed25519.GenerateKey(rand.Reader); return must(k, err) }()
)

// set is a JWKS of public keys by their ids.
func set(keys map[string]any) []byte {
	var s jwkset.JWKSMarshal
	for id, k := range keys {
		jwk := must(jwkset.NewJWKFromKey(k, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}}))
		s.Keys = append(s.Keys, jwk.Marshal())
	}
	return must(json.Marshal(s))
}

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func publicPEM(key any) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))})
}

func TestKeys(t *testing.T) {
	jwks := auth.Options{Audience: "signal", Keys: must(auth.NewKeys(file(t, set(map[string]any{"r": rsaKey.Public(), "e": ecKey.Public(), "d": edKey.Public()}))))}
	inPEM := auth.Options{Audience: "signal", Secret: secret, Keys: must(auth.NewKeys(file(t, append(publicPEM(rsaKey.Public()), publicPEM(edKey.Public())...))))}
	typed := jwks
	typed.Type, typed.Issuer = "signal+jwt", "https://login.example.com"
	kid := func(v any) func(map[string]any, jwt.MapClaims) {
		return func(h map[string]any, _ jwt.MapClaims) { h["kid"] = v }
	}
	for name, c := range map[string]struct {
		o     auth.Options
		token string
		ok    bool
	}{
		"RS256":                      {jwks, sign(t, jwt.SigningMethodRS256, rsaKey, kid("r")), true},
		"ES256":                      {jwks, sign(t, jwt.SigningMethodES256, ecKey, kid("e")), true},
		"EdDSA":                      {jwks, sign(t, jwt.SigningMethodEdDSA, edKey, kid("d")), true},
		"no kid":                     {jwks, sign(t, jwt.SigningMethodES256, ecKey, nil), true},
		"PEM":                        {inPEM, sign(t, jwt.SigningMethodRS256, rsaKey, kid("any")), true},
		"a secret beside":            {inPEM, sign(t, jwt.SigningMethodHS256, secret, nil), true},
		"typ and iss":                {typed, sign(t, jwt.SigningMethodES256, ecKey, func(h map[string]any, c jwt.MapClaims) { h["typ"], c["iss"] = "Signal+JWT", typed.Issuer }), true},
		"another typ":                {typed, sign(t, jwt.SigningMethodES256, ecKey, func(_ map[string]any, c jwt.MapClaims) { c["iss"] = typed.Issuer }), false},
		"another iss":                {typed, sign(t, jwt.SigningMethodES256, ecKey, func(h map[string]any, c jwt.MapClaims) { h["typ"], c["iss"] = "signal+jwt", "https://evil.example" }), false},
		"another key's kid":          {jwks, sign(t, jwt.SigningMethodES256, ecKey, kid("r")), false},
		"an unknown kid":             {jwks, sign(t, jwt.SigningMethodES256, ecKey, kid("../../dev/null")), false},
		"kid is a list":              {jwks, sign(t, jwt.SigningMethodES256, ecKey, kid([]string{"e"})), false},
		"RS512":                      {jwks, sign(t, jwt.SigningMethodRS512, rsaKey, kid("r")), false},
		"PS256":                      {jwks, sign(t, jwt.SigningMethodPS256, rsaKey, kid("r")), false},
		"a secret, none here":        {jwks, sign(t, jwt.SigningMethodHS256, secret, nil), false},
		"the public key as a secret": {inPEM, sign(t, jwt.SigningMethodHS256, publicPEM(rsaKey.Public()), nil), false},
		"its key in the header": {jwks, sign(t, jwt.SigningMethodES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), func(h map[string]any, _ jwt.MapClaims) {
			h["kid"], h["jku"] = "e", "http://127.0.0.1:1/"
		}), false},
	} {
		if id, err := auth.New(c.o).Verify(c.token); (err == nil && id.User == "u1") != c.ok || !c.ok && !errors.Is(err, auth.ErrRefused) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	// Beside keys that are of no use here the others are.
	other := string(set(map[string]any{"e": ecKey.Public()}))
	for name, beside := range map[string]string{
		"unknown kind": `{"kty":"AKP","alg":"ML-DSA-44","kid":"z","use":"sig","pub":"AA"}`, "RS512": `{"kty":"RSA","alg":"RS512","kid":"z","e":"AQAB","n":"AA"}`,
		"P-384": string(jwkOf(t, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public())), "null": `null`, "half": `{"kty":"EC"}`,
		"X25519": `{"kty":"OKP","crv":"X25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`,
	} {
		keys, err := auth.NewKeys(file(t, []byte(strings.Replace(other, `"keys":[`, `"keys":[`+beside+",", 1))))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := auth.New(auth.Options{Keys: keys}).Verify(sign(t, jwt.SigningMethodES256, ecKey, kid("e"))); err != nil {
			t.Errorf("beside %s: %v", name, err)
		}
	}
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	for name, content := range map[string][]byte{
		"nothing": nil, "no keys": []byte(`{"keys":[]}`), "a secret": []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`), "half a key": []byte(`{"keys":[{"kty":"RSA","e":"AQAB"}]}`),
		"a short RSA key": publicPEM(small.Public()), "P-384": publicPEM(must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public()),
		"another algorithm": []byte(strings.Replace(string(set(map[string]any{"r": rsaKey.Public()})), `"kty"`, `"alg":"RS512","kty"`, 1)),
	} {
		if _, err := auth.NewKeys(file(t, content)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestKeysAtAnAddress: keys are asked for when a token names one that is not known, not too
// often, and what was good stays so while nobody answers.
func TestKeysAtAnAddress(t *testing.T) {
	var answer atomic.Pointer[func(http.ResponseWriter)]
	var asked atomic.Int64
	says := func(f func(http.ResponseWriter)) { answer.Store(&f) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		(*answer.Load())(w)
	}))
	defer srv.Close()
	token := sign(t, jwt.SigningMethodES256, ecKey, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "e" })
	for name, f := range map[string]func(http.ResponseWriter){
		"500":        func(w http.ResponseWriter) { w.WriteHeader(500) },
		"garbage":    func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) },
		"a redirect": func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(302) },
		"too much":   func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 300<<10)) },
	} {
		says(f)
		v := auth.New(auth.Options{Audience: "signal", Keys: must(auth.NewKeys(srv.URL))})
		if _, err := v.Verify(token); !errors.Is(err, auth.ErrLater) {
			t.Errorf("%s: %v, want ErrLater", name, err)
		}
		if _, err := v.Await(t.Context(), token); err == nil || errors.Is(err, auth.ErrRefused) {
			t.Errorf("%s: %v, want that it is nobody's fault but ours", name, err)
		}
	}
	says(func(w http.ResponseWriter) { _, _ = w.Write(set(map[string]any{"e": ecKey.Public()})) })
	v := auth.New(auth.Options{Audience: "signal", Keys: must(auth.NewKeys(srv.URL))})
	if id, err := v.Await(t.Context(), token); err != nil || id.User != "u1" {
		t.Errorf("%+v, %v", id, err)
	}
	before := asked.Load()
	says(func(w http.ResponseWriter) { w.WriteHeader(500) })
	for range 100 {
		if _, err := v.Verify(token); err != nil {
			t.Fatal(err)
		}
		unknown := sign(t, jwt.SigningMethodEdDSA, edKey, func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "d" })
		if _, err := v.Verify(unknown); err == nil || errors.Is(err, auth.ErrRefused) || errors.Is(err, auth.ErrLater) {
			t.Fatalf("an unknown key, just after the address was asked: %v", err)
		}
	}
	if n := asked.Load(); n != before {
		t.Errorf("it was asked %d times more", n-before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Await(ctx, token); !errors.Is(err, context.Canceled) && err != nil && !strings.Contains(err.Error(), "500") {
		t.Errorf("cancelled: %v", err)
	}
}

func jwkOf(t *testing.T, key any) []byte {
	t.Helper()
	b, err := json.Marshal(must(jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "z", USE: jwkset.UseSig}})).Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

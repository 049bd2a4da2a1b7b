package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// How keys are asked for at an address, and how many there may be.
const (
	keysEvery   = 5 * time.Minute
	keysAtOnce  = 10 * time.Second // at most as often, however many tokens name a key that is not there
	keysTimeout = 3 * time.Second
	keysBytes   = 256 << 10
	keysMost    = 100
)

// Keys are the public keys that tokens may be signed with, of a JWKS (RFC 7517) or, in a file,
// also in PEM. Those at an address are asked for every five minutes, and when a token names one
// that is not there: so keys may be changed while nodes run. Ones that were good stay so while
// the address does not answer.
type Keys struct {
	source string
	client *http.Client // nil for a file

	mu    sync.Mutex
	all   []publicKey   // guarded by mu
	asked time.Time     // guarded by mu: when the address was last asked
	under chan struct{} // guarded by mu: closed when the question under way is over; nil if there is none
	last  error         // guarded by mu: of the last question
}

// A publicKey goes with one algorithm alone (RFC 8725, section 3.1).
type publicKey struct {
	id  string // kid; may be empty
	alg string
	key crypto.PublicKey
}

// NewKeys reads a file at once, and an address when it is first needed.
func NewKeys(source string) (*Keys, error) {
	k := &Keys{source: source}
	if u, err := url.Parse(source); err == nil && (u.Scheme == "https" || u.Scheme == "http") {
		k.client = &http.Client{Timeout: keysTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("redirects are not followed")
		}}
		return k, nil
	}
	b, err := os.ReadFile(source)
	if err == nil {
		k.all, err = parseKeys(b)
	}
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return k, nil
}

// parseKeys reads a JWKS, or keys and certificates in PEM.
func parseKeys(b []byte) (all []publicKey, err error) {
	var set jwkset.JWKSMarshal
	var passed []error
	if json.Unmarshal(b, &set) == nil {
		for _, m := range set.Keys {
			m.X5U, m.X5C, m.X5T, m.X5TS256 = "", nil, "", "" // nothing else is looked at, nor fetched
			if m.KTY == jwkset.KtyOct || m.USE != "" && m.USE != jwkset.UseSig {
				continue // a secret, or for encryption
			}
			k, err := keyOf(m)
			if err != nil { // RFC 7517, section 5: others may be of use
				passed = append(passed, err)
				continue
			}
			all = append(all, k)
		}
	} else {
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			var key any
			if block.Type == "CERTIFICATE" {
				var c *x509.Certificate
				if c, err = x509.ParseCertificate(block.Bytes); err == nil {
					key = c.PublicKey
				}
			} else {
				key, err = x509.ParsePKIXPublicKey(block.Bytes)
			}
			if err != nil {
				return nil, err
			}
			k, err := newPublicKey("", key)
			if err != nil {
				return nil, err
			}
			all = append(all, k)
		}
	}
	if len(all) == 0 || len(all) > keysMost {
		return nil, errors.Join(append(passed, fmt.Errorf("%d keys for signatures, 1 to %d are allowed", len(all), keysMost))...)
	}
	return all, nil
}

func keyOf(m jwkset.JWKMarshal) (publicKey, error) {
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return publicKey{}, fmt.Errorf("key %q: %w", m.KID, err)
	}
	k, err := newPublicKey(m.KID, jwk.Key())
	if err == nil && m.ALG != "" && string(m.ALG) != k.alg {
		err = fmt.Errorf("key %q is for %s, which is not supported", m.KID, m.ALG)
	}
	return k, err
}

func newPublicKey(id string, key any) (publicKey, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return publicKey{}, fmt.Errorf("key %q has %d bits, at least 2048 are needed", id, k.N.BitLen())
		}
		return publicKey{id, jwt.SigningMethodRS256.Alg(), k}, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return publicKey{id, jwt.SigningMethodES256.Alg(), k}, nil
		}
	case ed25519.PublicKey:
		return publicKey{id, jwt.SigningMethodEdDSA.Alg(), k}, nil
	}
	return publicKey{}, fmt.Errorf("key %q is none for RS256, ES256 or EdDSA", id)
}

// find is the key of a token that names kid, or no one when that is empty. An error is ErrLater
// when the address is to be asked, errUnsure when that was just done, or errKey.
func (k *Keys) find(alg, kid string) (found jwt.VerificationKeySet, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.all {
		if one.alg == alg && (one.id == "" || one.id == kid || kid == "") {
			found.Keys = append(found.Keys, one.key)
		}
	}
	switch {
	case len(found.Keys) > 0:
		return found, nil
	case k.client == nil:
		return found, errKey
	case k.under != nil || time.Since(k.asked) >= keysAtOnce:
		return found, ErrLater
	}
	return found, errUnsure
}

// stale says whether the address is to be asked again.
func (k *Keys) stale() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.client != nil && k.under == nil && time.Since(k.asked) >= keysEvery
}

// ask asks the address, or waits for a question under way.
func (k *Keys) ask(ctx context.Context) error {
	k.mu.Lock()
	under := k.under
	if under == nil {
		under = make(chan struct{})
		k.under, k.asked = under, time.Now()
		go func() {
			all, err := k.fetch() // bounded by its timeout
			k.mu.Lock()
			defer k.mu.Unlock()
			if err == nil {
				k.all = all
			}
			k.last, k.under = err, nil
			close(under)
		}()
	}
	k.mu.Unlock()
	select {
	case <-under:
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.last
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *Keys) fetch() ([]publicKey, error) {
	r, err := k.client.Get(k.source)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the address answers %s", r.Status)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, keysBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > keysBytes {
		return nil, fmt.Errorf("more than %d bytes", keysBytes)
	}
	return parseKeys(b)
}

// Run asks the address from time to time until ctx ends, and tells failed of each failure.
func (k *Keys) Run(ctx context.Context, failed func(error)) {
	if k == nil || k.client == nil {
		return
	}
	every := time.NewTicker(keysAtOnce)
	defer every.Stop()
	for {
		if k.stale() || k.empty() {
			if err := k.ask(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (k *Keys) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.all) == 0
}

package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Pair is a certificate with its key, for servers on 127.0.0.1 and for clients, and the
// certificate of who has signed it: files in PEM.
type Pair struct{ CA, Cert, Key string }

// NewPair makes a Pair, signed by somebody whom nobody else trusts.
func NewPair(tb testing.TB) Pair {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		tb.Helper()
		path := filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
		return path
	}
	issue := func(c, by *x509.Certificate, key, signs *ecdsa.PrivateKey) ([]byte, error) {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		return x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, signs)
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		return k
	}
	signs, key := newKey(), newKey()
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "redistest"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := issue(ca, ca, signs, signs)
	p := Pair{CA: write("ca.crt", "CERTIFICATE", der, err)}
	der, err = issue(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, key, signs)
	p.Cert = write("redis.crt", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	p.Key = write("redis.key", "PRIVATE KEY", der, err)
	return p
}

// Config is that of a client who has the pair.
func (p Pair) Config(tb testing.TB) *tls.Config {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		tb.Fatal(err)
	}
	ca, err := os.ReadFile(p.CA)
	if err != nil {
		tb.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	c.RootCAs.AppendCertsFromPEM(ca)
	return c
}

// args let a server speak TLS only, also with other servers, to clients with a certificate.
func (p Pair) args() []string {
	return []string{"--tls-ca-cert-file", p.CA, "--tls-cert-file", p.Cert, "--tls-key-file", p.Key, "--tls-replication", "yes", "--tls-cluster", "yes"}
}

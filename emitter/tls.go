package emitter

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

// tlsFromEnv makes what TLS, TLS_CA, TLS_CERT and TLS_KEY say; nil without TLS.
func tlsFromEnv(read func(name, otherwise string) string) (*tls.Config, error) {
	ca, cert, key := read("TLS_CA", ""), read("TLS_CERT", ""), read("TLS_KEY", "")
	on, err := strconv.ParseBool(read("TLS", "false"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%sTLS must be true or false, is %q", EnvPrefix, read("TLS", ""))
	case !on && (ca != "" || cert != "" || key != ""):
		return nil, fmt.Errorf("%sTLS_CA, _TLS_CERT and _TLS_KEY are for %sTLS=true", EnvPrefix, EnvPrefix)
	case !on:
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var errs []error
	if ca != "" {
		c.RootCAs = x509.NewCertPool()
		pem, err := os.ReadFile(ca)
		if err == nil && !c.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("no certificate in PEM is in %s", ca)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%sTLS_CA: %w", EnvPrefix, err))
		}
	}
	if (cert == "") != (key == "") {
		errs = append(errs, fmt.Errorf("%sTLS_CERT and _TLS_KEY go together", EnvPrefix))
	} else if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			errs = append(errs, fmt.Errorf("%sTLS_CERT, _TLS_KEY: %w", EnvPrefix, err))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, errors.Join(errs...)
}

// distrusted says whether TLS failed by what one side has, not by the way between them.
func distrusted(err error) bool {
	_, unknown := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	told, network := errors.AsType[*net.OpError](err)
	return unknown || plain || network && told.Op == "remote error" // what a server says of our certificate
}

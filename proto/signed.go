package proto

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"strings"
	"sync"
)

// Events may be signed, so that who reaches Redis does not reach every till: the body ends in
//
//	…,"sig":"<key id>.<base64url of HMAC-SHA-256 over room NUL event id NUL body without it>"}
//
// Of several keys the first one signs and all are good, so that keys can be changed. A message
// that is replayed as it was is not noticed; one of another room, or under another id, is.

// A SigningKey is shared by services and nodes.
type SigningKey struct {
	ID     string // letters and digits, at most 16
	Secret []byte // at least 32 bytes
}

func (k SigningKey) String() string   { return k.ID }
func (k SigningKey) GoString() string { return k.ID }

// Check says what is wrong with it.
func (k SigningKey) Check() error {
	if k.ID == "" || len(k.ID) > 16 || strings.Trim(k.ID, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return fmt.Errorf("a key's name is 1 to 16 letters and digits, not %q", k.ID)
	}
	if len(k.Secret) < 32 {
		return fmt.Errorf("key %s has %d bytes, at least 32 are needed", k.ID, len(k.Secret))
	}
	return nil
}

const (
	sigHead = `,"sig":"`
	sigTail = `"}`
	sigText = 43 // base64url of 32 bytes
	sigMost = len(sigHead) + 16 + 1 + sigText + len(sigTail)
)

// isSigned says whether a message seems to have a signature.
func isSigned(message []byte) bool {
	return bytes.Contains(message[max(0, len(message)-sigMost):], []byte(sigHead))
}

// A Signer signs and checks. A nil one does neither: everything is good.
type Signer struct{ keys []signerKey }

type signerKey struct {
	id   string
	macs *sync.Pool // of *mac: making one costs more than the signature
}

type mac struct {
	hash.Hash
	head, result []byte
	text         [sigText]byte
}

// NewSigner is nil without keys.
func NewSigner(keys []SigningKey) *Signer {
	if len(keys) == 0 {
		return nil
	}
	s := &Signer{}
	for _, k := range keys {
		secret := bytes.Clone(k.Secret)
		s.keys = append(s.keys, signerKey{k.ID, &sync.Pool{New: func() any { return &mac{Hash: hmac.New(sha256.New, secret)} }}})
	}
	return s
}

// Sign appends the signature to a message that ends in its body. The message is changed.
func (s *Signer) Sign(room Room, id EventID, message []byte) []byte {
	if s == nil {
		return message
	}
	k := &s.keys[0]
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)
	text := m.sum(room, id, Body(message), nil)
	message = append(message[:len(message)-1], sigHead...)
	message = append(append(message, k.id...), '.')
	message = append(message, text...)
	return append(message, sigTail...)
}

// Check says whether a message was signed for the room, under its id, by somebody who has a key.
// An error wraps ErrMalformed.
func (s *Signer) Check(room Room, id EventID, message []byte) error {
	if s == nil {
		return nil
	}
	body := Body(message)
	from := max(0, len(body)-sigMost)
	at := bytes.LastIndex(body[from:], []byte(sigHead)) + from
	if at < from {
		return malformed("it is not signed")
	}
	key, given, found := bytes.Cut(body[at+len(sigHead):], []byte{'.'})
	given, closed := bytes.CutSuffix(given, []byte(sigTail))
	if !found || !closed || len(given) != sigText {
		return malformed("its signature is not one")
	}
	for _, k := range s.keys {
		if string(key) != k.id {
			continue
		}
		m := k.macs.Get().(*mac)
		good := hmac.Equal(m.sum(room, id, body[:at], brace), given)
		k.macs.Put(m)
		if !good {
			return malformed("its signature is wrong: another secret for key %s, or it was changed", k.id)
		}
		return nil
	}
	return malformed("it is signed with another key: %.16q", key)
}

var brace = []byte{'}'} // that closes the body

// sum is the signature as text, until the next one.
func (m *mac) sum(room Room, id EventID, body, end []byte) []byte {
	m.Reset()
	m.head = append(append(append(append(m.head[:0], room...), 0), id...), 0)
	m.Write(m.head)
	m.Write(body)
	m.Write(end)
	m.result = m.Sum(m.result[:0])
	base64.RawURLEncoding.Encode(m.text[:], m.result)
	return m.text[:]
}

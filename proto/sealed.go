package proto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// Encryption of one connection, as the original has it: ECDH on P-256 with a key pair of each
// side for this connection alone, HKDF-SHA-256, AES-256-GCM with 12 random bytes for each frame.
// The client offers its public key in authenticate, the node answers in connected with its own and
// a salt. Every frame of the node after connected is sealed; of the client every one from its
// first sealed one on, heartbeats apart, since the original's tills seal none.
//
// Both directions have the same key, and the original's format has no place for a direction: so the
// node's nonces begin with a mark of its own, and it takes no frame with that mark. A client's nonce by
// chance has it once in four billion frames; then the frame is refused.
//
// It hides what is said from whoever ends TLS in front of the node. It does not say who the node
// is, and does not notice a sealed frame that is delivered twice or not at all: TLS does.

// SealingInfo is the context of the key derivation unless another one is agreed on.
const SealingInfo = "ignis-ecdh-p256-aes-256-gcm-v1"

// ErrSealed is wrapped by every error of Agree, NewSealing and Open.
var ErrSealed = errors.New("encryption failed")

const (
	publicKeyText = 88 // base64 of an uncompressed point of P-256
	saltSize      = 32
	nonceSize     = 12
)

// A Sealing is the key of one connection, as one of its sides has it.
type Sealing struct {
	aead  cipher.AEAD
	node  bool          // this side is the node
	count atomic.Uint64 // of frames that the node has sealed: a nonce is used once
}

// nodeMark begins the nonces of a node. The number of the frame follows.
const nodeMark = "node"

// An Offer is what a node tells a client so that both have the same Sealing.
type Offer struct {
	PublicKey string `json:"serverPublicKey,omitempty"`
	Salt      string `json:"salt,omitempty"`
}

// Agree answers a client's public key with a key pair and a salt that nobody else gets.
func Agree(client, info string) (*Sealing, Offer, error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, Offer{}, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	o := Offer{base64.StdEncoding.EncodeToString(private.PublicKey().Bytes()), base64.StdEncoding.EncodeToString(salt)}
	s, err := NewSealing(private, client, o.Salt, info)
	if err != nil {
		return nil, o, err
	}
	s.node = true
	return s, o, nil
}

// NewSealing derives the key that both sides get from their own private and the other's public key. It is
// the client's side; Agree returns the node's.
func NewSealing(private *ecdh.PrivateKey, peer, salt, info string) (*Sealing, error) {
	point, err := decode64(peer)
	if err != nil || len(peer) != publicKeyText {
		return nil, fmt.Errorf("%w: a public key is 65 bytes, as 88 characters of base64", ErrSealed)
	}
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: the public key is not a point of P-256", ErrSealed)
	}
	salted, err := decode64(salt)
	if err != nil {
		return nil, fmt.Errorf("%w: the salt is not base64", ErrSealed)
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	key, err := hkdf.Key(sha256.New, shared, salted, info, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return &Sealing{aead: aead}, nil
}

// AppendSealed appends a frame, sealed, as {"event":"encrypted","data":{"iv":…,"ct":…}}.
func (s *Sealing) AppendSealed(dst, frame []byte) []byte {
	const head, middle, tail = `{"event":"encrypted","data":{"iv":"`, `","ct":"`, `"}}`
	dst = append(dst, head...)
	at := len(dst)
	whole := at + 16 + len(middle) + base64.StdEncoding.EncodedLen(len(frame)+16) + len(tail)
	// The sealed bytes stand where the text ends, behind their nonce, to be encoded to where it begins.
	if need := whole + nonceSize + s.aead.Overhead() + len(frame); cap(dst) < need {
		dst = append(make([]byte, 0, need), dst...)
	}
	nonce := dst[whole : whole+nonceSize]
	if s.node {
		binary.BigEndian.PutUint64(nonce[copy(nonce, nodeMark):], s.count.Add(1))
	} else {
		rand.Read(nonce)
	}
	b := s.aead.Seal(dst[whole:whole+nonceSize:cap(dst)], nonce, frame, nil)
	dst = dst[:whole]
	base64.StdEncoding.Encode(dst[at:], b[:nonceSize])
	at += 16 + copy(dst[at+16:], middle)
	base64.StdEncoding.Encode(dst[at:], b[nonceSize:])
	copy(dst[whole-len(tail):], tail)
	return dst
}

// SealFrame is AppendSealed as a whole WebSocket text message, of one that EncodeEvent or
// EncodeFrame made.
func (s *Sealing) SealFrame(dst, frame []byte) []byte {
	at := len(dst)
	return text(s.AppendSealed(append(dst, make([]byte, textHeader)...), Payload(frame)), at)
}

// Open is the frame in an encrypted one.
func (s *Sealing) Open(f Frame) ([]byte, error) {
	var iv, ct string
	if err := f.fields(func(key string, value []byte) (err error) {
		switch key {
		case "iv":
			iv, err = stringOf(key, value)
		case "ct":
			ct, err = stringOf(key, value)
		}
		return err
	}); err != nil {
		return nil, err
	}
	nonce, err := decode64(iv)
	sealed, serr := decode64(ct)
	if err = errors.Join(err, serr); err != nil || len(nonce) != nonceSize {
		return nil, &FrameError{CodeBadRequest, "iv and ct are base64, of 12 and of at least 16 bytes", f.ID}
	}
	if s.node && string(nonce[:len(nodeMark)]) == nodeMark {
		return nil, fmt.Errorf("%w: it is one of the node's own, sent back", ErrSealed)
	}
	b, err := s.aead.Open(nil, nonce, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: it is sealed with another key, or was changed", ErrSealed)
	}
	return b, nil
}

// decode64 is strict: one text for the same bytes, padded, without line breaks.
func decode64(s string) ([]byte, error) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

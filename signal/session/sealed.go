package session

import (
	"errors"

	"github.com/signal-team/signal/proto"
)

// Encryption says whether connections are sealed.
type Encryption struct {
	Off      bool   // a client's offer is passed over
	Required bool   // a client without one is refused
	Info     string // of the key derivation
}

// seal answers the client's offer.
func (s *Session) seal(a proto.Authenticate) (*proto.Sealing, proto.Offer, error) {
	e := &s.o.Encryption
	switch {
	case e.Off:
		return nil, proto.Offer{}, nil
	case a.PublicKey == "" && e.Required:
		return nil, proto.Offer{}, errors.New("this node wants a publicKey in authenticate")
	case a.PublicKey == "":
		return nil, proto.Offer{}, nil
	}
	sealing, offer, err := proto.Agree(a.PublicKey, e.Info)
	if err == nil {
		s.rarely().sealing = sealing
	}
	return sealing, offer, err
}

var (
	errNested = &proto.FrameError{Code: proto.CodeBadRequest, Detail: "an encrypted frame in another one"}
	errPlain  = &proto.FrameError{Code: proto.CodeBadRequest, Detail: "a frame that is not encrypted, after one that was"}
)

// decode reads a frame, or the one that is sealed in it. From the first sealed one on a client
// that is not heard to seal may be somebody else: only its heartbeats, which say nothing, count.
func (s *Session) decode(b []byte) (proto.Frame, error) {
	f, err := proto.DecodeFrame(b)
	if err != nil || s.client.Load() == nil || s.rare == nil || s.rare.sealing == nil {
		return f, err
	}
	if f.Event != proto.EventEncrypted {
		if s.rare.seals && f.Event != proto.EventHeartbeat {
			return f, errPlain
		}
		return f, nil
	}
	if b, err = s.rare.sealing.Open(f); err != nil {
		return f, err
	}
	s.rare.seals = true
	if f, err = proto.DecodeFrame(b); err == nil && f.Event == proto.EventEncrypted {
		err = errNested
	}
	return f, err
}

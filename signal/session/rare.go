package session

import (
	"sync/atomic"

	"github.com/signal-team/signal/proto"
)

// A rare is what an idle client does without. It has 80 bytes: one of 112 costs an idle client 300, since its size
// class is full of what the decoding of tokens leaves behind.
type rare struct {
	joins, publishes Bucket
	entered          Bucket                  // of rooms; guarded by Session.mu
	others           *others                 // nil until it is needed
	lane             *lane[publish]          // nil until it publishes
	messages         *lane[said]             // nil until it says something of its own
	asking           *lane[ask]              // guarded by Session.mu until it is made; nil until the application is asked for rooms
	sealing          *proto.Sealing          // nil unless the connection is encrypted; set before there is a client
	seals            bool                    // the client has sealed a frame
	waits            atomic.Pointer[waiting] // a token is being judged; nil if none is
}

// others are the rates of what few clients do.
type others struct {
	leaves, publishBytes     Bucket // of Receive's goroutine
	errors, refusals, goneOn Bucket // guarded by Session.mu
}

func (s *Session) rarely() *rare {
	if s.rare == nil {
		s.rare = &rare{}
	}
	return s.rare
}

// seldom is made when it is needed, by Receive's goroutine or another one.
func (s *Session) seldom() *others {
	r := s.rarely()
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.others == nil {
		r.others = &others{}
	}
	return r.others
}

package hook

import (
	"context"
	"fmt"
	"sync"

	"github.com/signal-team/signal/proto"
)

// userAtOnce are the questions of one user under way, a quarter of all: for whom the application
// thinks for long, that one waits alone.
const userAtOnce = atOnce / 4

// shares are how much of an address each user takes.
type shares struct {
	mu    sync.Mutex
	users map[proto.UserID]*share // guarded by mu: those who ask
}

type share struct {
	slots  chan struct{}
	asking int // guarded by shares.mu
}

// enter waits until it is the user's turn, which leave ends.
func (s *shares) enter(ctx context.Context, u proto.UserID) (leave func(), err error) {
	one := s.take(u)
	select {
	case one.slots <- struct{}{}:
		return func() {
			<-one.slots
			s.give(u, one)
		}, nil
	case <-ctx.Done():
		s.give(u, one)
		return nil, fmt.Errorf("%w: %w", errCrowded, ctx.Err())
	}
}

func (s *shares) take(u proto.UserID) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.users[u]
	if one == nil {
		one = &share{slots: make(chan struct{}, userAtOnce)}
		if u == "" { // everybody
			one.slots = make(chan struct{}, atOnce)
		}
		s.users[u] = one
	}
	one.asking++
	return one
}

func (s *shares) give(u proto.UserID, one *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.asking--; one.asking == 0 {
		delete(s.users, u)
	}
}

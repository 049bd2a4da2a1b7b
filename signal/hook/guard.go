package hook

import (
	"context"
	"fmt"
)

// Guard keeps what an embedding program's hooks do wrong from the node: a method that panics has failed,
// which panicked is told, and count gets what becomes of each question, as of an Address. Those that are
// nil stay so.
func Guard(h Hooks, count func(hook, result string), panicked func(any)) Hooks {
	g := guard{h, count, panicked}
	var guarded Hooks
	if h.Authenticator != nil {
		guarded.Authenticator = g
	}
	if h.Rooms != nil {
		guarded.Rooms = g
	}
	if h.Messages != nil {
		guarded.Messages = g
	}
	if h.Notices != nil {
		guarded.Notices = g
	}
	return guarded
}

type guard struct {
	to       Hooks
	count    func(hook, result string)
	panicked func(any)
}

func (g guard) Authenticate(ctx context.Context, token string) (id Identity, err error) {
	defer g.over("auth", &err)
	return g.to.Authenticator.Authenticate(ctx, token)
}

func (g guard) Allow(ctx context.Context, w Wanted) (said Allowed, err error) {
	defer g.over("rooms", &err)
	return g.to.Rooms.Allow(ctx, w)
}

func (g guard) Message(ctx context.Context, m Message) (said Answer, err error) {
	defer g.over("message", &err)
	return g.to.Messages.Message(ctx, m)
}

func (g guard) Notice(ctx context.Context, all []Notice) (err error) {
	defer g.over("notices", &err)
	return g.to.Notices.Notice(ctx, all)
}

// over is the end of a method.
func (g guard) over(hook string, err *error) {
	if p := recover(); p != nil {
		g.panicked(p)
		*err = fmt.Errorf("the hook %s panicked", hook)
	}
	g.count(hook, result(*err))
}

package emitter

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

// ErrNoTicket means that a ticket is none, was taken before, or is too old.
var ErrNoTicket = errors.New("the ticket is unknown, was used, or is older than half a minute")

// KeepTicket keeps a client's token for a while, for nodes: who comes with the ticket is given it
// once.
func (e *Emitter) KeepTicket(ctx context.Context, id proto.TicketID, token Secret, lasts time.Duration) error {
	if err := e.agree(ctx); err != nil {
		return err
	}
	return e.doubt(e.rdb.Set(ctx, e.layout.Ticket(id), string(token), lasts).Err())
}

// TakeTicket returns the token of a ticket, which is nobody's then.
func (e *Emitter) TakeTicket(ctx context.Context, id proto.TicketID) (Secret, error) {
	if err := id.Check(); err != nil {
		return "", ErrNoTicket
	}
	token, err := e.rdb.GetDel(ctx, e.layout.Ticket(id)).Result()
	if errors.Is(err, redis.Nil) {
		return "", ErrNoTicket
	}
	return Secret(token), e.doubt(err)
}

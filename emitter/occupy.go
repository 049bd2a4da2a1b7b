package emitter

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

//go:embed occupy.lua
var occupySource string

var occupyScript = redis.NewScript(occupySource)

// A Crowd says, for nodes, whether a room has members on other nodes.
type Crowd struct {
	Others  int
	Earlier int   // of them, that had members before this one
	Time    int64 // of Redis, milliseconds since 1970
	Err     error
}

// Occupy says, for nodes, that one has members in rooms, or has none any more, and where others have.
// Redis keeps it for an hour. live are the nodes that count.
func (e *Emitter) Occupy(ctx context.Context, node proto.NodeID, rooms []proto.Room, has bool, live []proto.NodeID) []Crowd {
	crowds := make([]Crowd, len(rooms))
	args := []any{string(node), map[bool]int{true: 1}[has]}
	for _, n := range live {
		args = append(args, string(n))
	}
	answers := make([]*redis.Cmd, len(rooms))
	_, perr := e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, r := range rooms {
			answers[i] = occupyScript.EvalSha(ctx, p, []string{e.layout.Crowd(r)}, args...)
		}
		return nil
	})
	for i, r := range rooms {
		said, err := answer(answers[i], perr)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			said, err = occupyScript.Eval(ctx, e.rdb, []string{e.layout.Crowd(r)}, args...).Result()
		}
		numbers, _ := said.([]any)
		if err == nil && len(numbers) != 3 {
			err = fmt.Errorf("%w: it answered %v to the script", ErrRefused, said)
		}
		if crowds[i].Err = e.doubt(err); err == nil {
			others, _ := numbers[0].(int64)
			earlier, _ := numbers[1].(int64)
			crowds[i].Time, _ = numbers[2].(int64)
			crowds[i].Others, crowds[i].Earlier = int(others), int(earlier)
		}
	}
	return crowds
}

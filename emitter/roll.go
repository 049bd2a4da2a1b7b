package emitter

import (
	"bytes"
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/proto"
)

//go:embed roll.lua
var rollSource string

var rollScript = redis.NewScript(rollSource)

// A Roll asks, for nodes, whether rooms are where the node has them. It is ready to use when
// zero, and used again it allocates next to nothing: an idle node does this every four seconds
// for each of its rooms, and what it throws away would be most of its memory.
type Roll struct {
	names, at []byte
}

// Add adds a room, and where it should be.
func (r *Roll) Add(room proto.Room, at proto.Position) {
	if len(r.names) > 0 {
		r.at = append(r.at, '\n')
	}
	r.names = append(append(r.names, room...), '\n')
	r.at = at.Append(r.at)
}

// Call says whether all the rooms are there, and forgets them. Which of them is not,
// Positions tells. On a cluster they are all of one master, or it is false.
func (r *Roll) Call(ctx context.Context, e *Emitter) (all bool, err error) {
	sum := sha1.Sum(r.at)
	names := r.names
	r.names, r.at = r.names[:0], r.at[:0]
	first, _, _ := bytes.Cut(names, []byte{'\n'})
	rdb, err := e.master(ctx, e.layout.Position(proto.Room(first)))
	if err != nil {
		return false, e.doubt(err)
	}
	before, after, _ := strings.Cut(e.layout.Position("\n"), "\n")
	got, err := rollScript.Run(ctx, rdb, nil, before, after, names).Text()
	if err != nil && strings.Contains(err.Error(), "non local key") {
		return false, nil // one of them has just moved
	}
	return got == hex.EncodeToString(sum[:]), e.doubt(err)
}

package emitter

import "github.com/signal-team/signal/proto"

// PublishScript is what the benchmark compares.
var PublishScript = publishScript

// PublishCall is what the script is called with.
func (e *Emitter) PublishCall(room proto.Room, m proto.Message) (keys []string, args []any) {
	c := e.call(room, m)
	return c.keys, c.args
}

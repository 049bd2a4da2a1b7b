package emitter

import "github.com/signal-team/signal/proto"

// PublishScript is what the benchmark compares.
var PublishScript = publishScript

// PublishCall is what the script is called with.
func (e *Emitter) PublishCall(room proto.Room, events []proto.Message) (keys []string, args []any) {
	var all []*sending
	for _, m := range events {
		all = append(all, &sending{print: proto.Fingerprint(m.Event), body: proto.Body(proto.AppendMessage(nil, m)), receipt: Receipt{EventID: m.EventID}})
	}
	c := e.call(room, all, false)
	return c.keys, c.args
}

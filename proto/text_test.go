package proto_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
)

// Lengths at which the header changes its form (RFC 6455, section 5.2).
func TestEncodeEvent(t *testing.T) {
	bare := len(proto.AppendEvent(nil, proto.Event{Event: "e", Data: []byte(`""`)}))
	for payload, header := range map[int]string{
		bare:    "\x81" + string(rune(bare)),
		125:     "\x81\x7d",
		126:     "\x81\x7e\x00\x7e",
		65535:   "\x81\x7e\xff\xff",
		65536:   "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
		1 << 17: "\x81\x7f\x00\x00\x00\x00\x00\x02\x00\x00",
	} {
		e := proto.Event{Event: "e", Data: []byte(`"` + strings.Repeat("x", payload-bare) + `"`)}
		want := proto.AppendEvent([]byte(header), e)
		got := proto.EncodeEvent(e)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: the frame begins %x, want %x", payload, got[:10], want[:10])
		}
		if !bytes.Equal(proto.Payload(got), proto.AppendEvent(nil, e)) {
			t.Errorf("%d bytes: Payload is %.20q", payload, proto.Payload(got))
		}
		if n := testing.AllocsPerRun(10, func() { proto.EncodeEvent(e) }); n != 1 {
			t.Errorf("%d bytes: %v allocations", payload, n)
		}
	}
	if got := proto.EncodeFrame("pong", 1, "a"); string(got) != "\x81\x22"+`{"event":"pong","data":1,"id":"a"}` {
		t.Errorf("%q", got)
	}
}

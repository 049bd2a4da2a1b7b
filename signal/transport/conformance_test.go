package transport_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport"
)

// authenticate is a client's first message.
const authenticate = `{"event":"authenticate","data":{"token":"u1"}}`

// heartbeat is a message of n bytes that is not answered.
func heartbeat(n int) string {
	return `{"event":"heartbeat","data":"` + strings.Repeat("x", n-31) + `"}`
}

// long is a frame whose length stands in eight bytes, whatever it is.
func long(first byte, length uint64, payload string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{first, 0xff}, length)
	return append(append(b, 0, 0, 0, 0), payload...)
}

// fragments is the first message in so many frames.
func fragments(n int) (all [][]byte) {
	all = append(all, frame(0x01, authenticate[:1]))
	for range n - 2 {
		all = append(all, frame(0x00, " "))
	}
	return append(all, frame(0x80, authenticate[1:]))
}

// TestConformance is RFC 6455 over a bare socket: framing, masking, control frames,
// fragments, UTF-8, close codes and limits (RELIABILITY 4.3, inputs 29 to 48).
func TestConformance(t *testing.T) {
	const most = 64 << 10
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(func(o *transport.Options) { o.FrameBytes, o.MessageTime = most, 2*time.Second })
		text := func(payload string) []byte { return frame(0x81, payload) }
		for name, v := range map[string]struct {
			bytes [][]byte
			close proto.CloseCode // 0: the last message was an authenticate, and is answered
		}{
			"5.1 unmasked":                           {[][]byte{{0x81, 2, '{', '}'}}, proto.CloseProtocol},
			"5.1 unmasked control":                   {[][]byte{{0x89, 0}}, proto.CloseProtocol},
			"5.2 RSV1":                               {[][]byte{frame(0xc1, authenticate)}, proto.CloseProtocol},
			"5.2 RSV2":                               {[][]byte{frame(0xa1, authenticate)}, proto.CloseProtocol},
			"5.2 RSV3":                               {[][]byte{frame(0x91, authenticate)}, proto.CloseProtocol},
			"5.2 RSV1 of a control frame":            {[][]byte{frame(0xc9, "")}, proto.CloseProtocol},
			"5.2 opcode 3":                           {[][]byte{frame(0x83, "")}, proto.CloseProtocol},
			"5.2 opcode 7":                           {[][]byte{frame(0x87, "x")}, proto.CloseProtocol},
			"5.2 opcode 11":                          {[][]byte{frame(0x8b, "")}, proto.CloseProtocol},
			"5.2 opcode 15":                          {[][]byte{frame(0x8f, "x")}, proto.CloseProtocol},
			"5.2 length with its highest bit":        {[][]byte{long(0x81, 1<<63, "")}, proto.CloseProtocol},
			"5.2 two bytes for a length of one":      {[][]byte{append([]byte{0x81, 0xfe, 0, 5}, 0, 0, 0, 0)}, proto.CloseProtocol},
			"5.2 eight bytes for a length of two":    {[][]byte{long(0x81, 1<<16-1, "")}, proto.CloseProtocol},
			"5.4 in fragments":                       {[][]byte{frame(0x01, authenticate[:5]), frame(0x00, authenticate[5:9]), frame(0x80, authenticate[9:])}, 0},
			"5.4 empty fragments":                    {[][]byte{frame(0x01, ""), frame(0x00, authenticate), frame(0x80, "")}, 0},
			"5.4 ping between fragments":             {[][]byte{frame(0x01, authenticate[:5]), frame(0x8a, ""), frame(0x80, authenticate[5:])}, 0},
			"5.4 continuation of nothing":            {[][]byte{frame(0x80, "x")}, proto.CloseProtocol},
			"5.4 unfinished continuation of nothing": {[][]byte{frame(0x00, "x")}, proto.CloseProtocol},
			"5.4 text inside a message":              {[][]byte{frame(0x01, "x"), text(authenticate)}, proto.CloseProtocol},
			"5.4 64 fragments":                       {fragments(64), 0},
			"5.4 65 fragments":                       {fragments(65), proto.CloseTooBig},
			"5.5 ping of 125 bytes":                  {[][]byte{frame(0x8a, strings.Repeat("x", 125)), text(authenticate)}, 0},
			"5.5 ping of 126 bytes":                  {[][]byte{frame(0x89, strings.Repeat("x", 126))}, proto.CloseProtocol},
			"5.5 fragmented ping":                    {[][]byte{frame(0x09, "x")}, proto.CloseProtocol},
			"5.5 fragmented close":                   {[][]byte{frame(0x08, "\x03\xe8")}, proto.CloseProtocol},
			"5.5.1 close":                            {[][]byte{frame(0x88, "\x03\xe8bye")}, 1000},
			"5.5.1 close without a code":             {[][]byte{frame(0x88, "")}, 0xffff},
			"5.5.1 close of one byte":                {[][]byte{frame(0x88, "x")}, proto.CloseProtocol},
			"5.5.1 data after close":                 {[][]byte{frame(0x88, "\x03\xe8bye"), text(authenticate)}, 1000},
			"5.5.3 pong nobody asked for":            {[][]byte{frame(0x8a, "x"), text(authenticate)}, 0},
			"5.6 binary is taken as text":            {[][]byte{frame(0x82, authenticate)}, 0},
			"5.6 byte by byte":                       {bytes.SplitAfter(text(authenticate), nil), 0},
			"7.4 close 999":                          {[][]byte{frame(0x88, "\x03\xe7")}, proto.CloseProtocol},
			"7.4 close 1005":                         {[][]byte{frame(0x88, "\x03\xed")}, proto.CloseProtocol},
			"7.4 close 1006":                         {[][]byte{frame(0x88, "\x03\xee")}, proto.CloseProtocol},
			"7.4 close 5000":                         {[][]byte{frame(0x88, "\x13\x88")}, proto.CloseProtocol},
			"7.4 close 4999":                         {[][]byte{frame(0x88, "\x13\x87")}, 4999},
			"8.1 not UTF-8":                          {[][]byte{text("{\"event\":\"\xff\"}")}, proto.CloseBadUTF8},
			"8.1 not UTF-8 over fragments":           {[][]byte{frame(0x01, "\xc3"), frame(0x80, "x")}, proto.CloseBadUTF8},
			"8.1 overlong":                           {[][]byte{text("{\"event\":\"\xc0\xaf\"}")}, proto.CloseBadUTF8},
			"8.1 surrogate":                          {[][]byte{text("{\"event\":\"\xed\xa0\x80\"}")}, proto.CloseBadUTF8},
			"8.1 UTF-8 split over fragments":         {[][]byte{frame(0x01, "{\"event\":\"heartbeat\",\"data\":\"\xc3"), frame(0x80, "\xbc\"}"), text(authenticate)}, 0},
			"64 KiB":                                 {[][]byte{text(heartbeat(most)), text(authenticate)}, 0},
			"64 KiB and one byte":                    {[][]byte{text(heartbeat(most + 1))}, proto.CloseTooBig},
			"64 KiB and one byte in fragments":       {[][]byte{frame(0x01, heartbeat(most)), frame(0x80, " ")}, proto.CloseTooBig},
			"2^62 bytes announced, one sent":         {[][]byte{long(0x81, 1<<62, "x")}, proto.CloseTooBig},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := s.open(t)
				for _, b := range v.bytes {
					if _, err := c.Write(b); err != nil {
						t.Fatal(err)
					}
				}
				switch v.close {
				case 0:
					if first, payload := c.next(t); first != 0x81 || !bytes.Contains(payload, []byte("connected")) {
						t.Errorf("answered by %x %q", first, payload)
					}
				case 0xffff: // a Close frame without a code is answered by one
					if first, payload := c.next(t); first != 0x88 || len(payload) != 0 {
						t.Errorf("answered by %x %q", first, payload)
					}
				default:
					c.closes(t, v.close)
				}
			})
		}
		t.Run("5.5.3 ping", func(t *testing.T) {
			t.Parallel()
			c := s.open(t)
			for _, payload := range []string{"", "abc", strings.Repeat("x", 125)} {
				_, _ = c.Write(frame(0x89, payload))
				if first, got := c.next(t); first != 0x8a || string(got) != payload {
					t.Errorf("a ping of %q is answered by %x %q", payload, first, got)
				}
			}
		})
		t.Run("early bytes", func(t *testing.T) { // in one piece with the handshake
			t.Parallel()
			for _, early := range []string{string(text(authenticate)), string(text(authenticate))[:9]} {
				c, answer := s.ask(t, upgrade+"\r\n"+early)
				if answer.StatusCode != 101 {
					t.Fatal(answer.Status)
				}
				_, _ = io.WriteString(c, string(text(authenticate))[len(early):])
				if first, payload := c.next(t); first != 0x81 || !bytes.Contains(payload, []byte("connected")) {
					t.Errorf("answered by %x %q", first, payload)
				}
			}
		})
		t.Run("stalled inside a message", func(t *testing.T) {
			for name, bytes := range map[string][]byte{
				"frame": text(authenticate)[:9], "header": {0x81}, "fragments": frame(0x01, "{"),
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					c := s.open(t)
					_, _ = c.Write(text(authenticate))
					c.next(t) // connected
					began := time.Now()
					_, _ = c.Write(bytes)
					c.closes(t, proto.CloseHeartbeat)
					if took := time.Since(began); took < 1900*time.Millisecond {
						t.Errorf("ended after %v, want 2 s", took)
					}
				})
			}
			t.Run("a byte now and then", func(t *testing.T) {
				t.Parallel()
				c := s.open(t)
				_, _ = c.Write(text(authenticate))
				go func() {
					for _, b := range text(authenticate) {
						if _, err := c.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond) // the client's pace, not a wait
					}
				}()
				c.closes(t, proto.CloseHeartbeat)
			})
		})
	})
}

package transport

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/signal-team/signal/proto"
)

// clock is nanoseconds since the start, which nobody can set.
func clock() int64 { return int64(time.Since(began)) }

var began = time.Now()

// A capture hands the WebSocket library a socket of ours when it takes over the
// connection, so that we see the bytes in both directions.
type capture struct {
	http.ResponseWriter
	socket *socket
}

// Hijack is called by the library's Accept, which asks for http.Hijacker by name.
func (c *capture) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, rw, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := rw.Writer.Flush(); err != nil { // the 101
		_ = raw.Close()
		return nil, nil, err
	}
	c.socket = &socket{Conn: raw}
	c.socket.heard.Store(clock())
	return c.socket, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(c.socket)), nil
}

// A socket knows when the client last sent a byte, and lets nothing out after the
// first Close frame (RFC 6455, section 5.5.1): the library would write a second one,
// and data too.
type socket struct {
	net.Conn
	heard atomic.Int64  // clock at the client's last byte
	said  atomic.Uint32 // the code of our Close frame; 0 before it

	rest int // of the frame that is being written; its writes come one after the other
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard.Store(clock())
	}
	return n, err
}

// Write gets one frame, in one piece or several: the library flushes after each, so
// a frame's header is never split.
func (s *socket) Write(p []byte) (int, error) {
	if s.rest > 0 {
		s.rest -= len(p)
		return s.Conn.Write(p)
	}
	if s.said.Load() != 0 {
		return len(p), nil
	}
	s.rest = frameSize(p) - len(p)
	const opClose = 8
	if p[0]&0x0f == opClose {
		code := uint32(1005) // none given
		if len(p) >= 4 {
			code = uint32(binary.BigEndian.Uint16(p[2:]))
		}
		s.said.Store(code)
	}
	return s.Conn.Write(p)
}

// frameSize is the length of a server's frame, by its header (RFC 6455, section 5.2).
func frameSize(p []byte) int {
	switch n := int(p[1] & 0x7f); n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(p[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(p[2:]))
	default:
		return 2 + n
	}
}

// closedWith is the code of our Close frame, or 0 if there was none.
func (s *socket) closedWith() proto.CloseCode { return proto.CloseCode(s.said.Load()) }

package transport

import (
	"bufio"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// A capture hands the WebSocket library a socket of ours when it takes over the
// connection. The library does the handshake, reads, answers pings and Close frames; what
// it writes goes through the connection's one write path, between our own frames, and it
// never closes the socket. So nothing can tear a frame apart, follow a Close frame
// (RFC 6455, section 5.5.1) or reach a file descriptor that is somebody else's by now
// (TestCloseOnce, TestPartialWrites).
type capture struct {
	http.ResponseWriter
	lib    *library
	hijack func(*capture) error // takes over the connection; nil when that was done before
}

// A library is what the WebSocket library needs for one connection, as long as it is
// attached (park.go).
type library struct {
	ws   *websocket.Conn
	rw   *bufio.ReadWriter
	conn *conn
}

// buffers are shared by all connections that are attached. The writer holds the largest
// control frame, so that each is one Write.
var buffers = sync.Pool{New: func() any {
	return bufio.NewReadWriter(bufio.NewReaderSize(nil, 2<<10), bufio.NewWriterSize(nil, 128))
}}

// accept makes the library take a connection over, by its first handshake or by one that
// is made up. If it fails, the library has answered the request.
func accept(c *capture, r *http.Request, frameBytes int) (*library, error) {
	c.lib.rw = buffers.Get().(*bufio.ReadWriter)
	// The origin has been judged: exactly, with scheme and port.
	o := websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled, Subprotocols: []string{subprotocol}}
	ws, err := websocket.Accept(c, r, &o)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(int64(frameBytes))
	c.lib.ws = ws
	return c.lib, nil
}

// release lets go of the library. Nobody reads through it any more.
func (l *library) release() {
	_ = l.ws.CloseNow() // ends its goroutine; the socket stays open
	l.rw.Reader.Reset(nil)
	l.rw.Writer.Reset(nil)
	buffers.Put(l.rw)
}

// Hijack is called by the library's Accept, which asks for http.Hijacker by name.
func (c *capture) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if c.hijack != nil {
		if err := c.hijack(c); err != nil {
			return nil, nil, err
		}
	}
	s := socket{c.lib.conn.socket, c.lib.conn}
	c.lib.rw.Reader.Reset(s)
	c.lib.rw.Writer.Reset(s)
	return s, c.lib.rw, nil
}

// A socket is the connection as the library sees it.
type socket struct {
	net.Conn
	conn *conn
}

func (s socket) Read(p []byte) (int, error) { return s.conn.recv(p) }

// Write gets one whole control frame: the library writes nothing else, and flushes it in
// one piece.
func (s socket) Write(p []byte) (int, error) {
	s.conn.control(p)
	return len(p), nil
}

// Close does nothing: the connection's reader closes it, once (conn.finish).
func (s socket) Close() error { return nil }

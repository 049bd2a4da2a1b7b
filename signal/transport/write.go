package transport

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hub"
	"github.com/signal-team/signal/signal/room"
)

// outbound is the most that waits for one client alone (S4-084): answers, events to it,
// control frames and the rest of one frame of a room.
const outbound = 1 << 20

// frameCost is what a frame that waits costs beside its bytes.
const frameCost = 64

// The write path. All bytes to a client pass here, under the connection's mutex: frames of
// rooms, answers, control frames. A write never waits. What the socket does not take of a
// batch stays in the room's ring, but for the rest of one frame, which must be finished
// before anything else is written: it is a slice of the ring's own frame, not a copy. The
// file descriptor is used only under the mutex and only while closed is not set, and after
// the Close frame nothing is written (TestPartialWrites, TestCloseOnce, TestChurn).
type writing struct {
	// What every write looks at, in one cache line with the mutex.
	bytes      int             // of rest and alone
	sent       uint64          // bytes that the socket took, ever
	code       proto.CloseCode // of our Close frame; 0 before it
	flushing   bool            // the flusher lives: there is something to write (flush.go)
	wanted     bool            // the hub is to be told when nothing is left
	broken     bool            // the socket takes nothing any more
	closed     bool            // the file descriptor must not be used any more
	peerClosed bool            // the client has sent its Close frame

	sealing *proto.Sealing // nil for frames as they are

	rest  []byte   // of a frame that the socket took in part, and frames after it
	begun int      // bytes of rest until its first frame ends
	alone [][]byte // frames for this client alone, after rest
	acked uint64   // bytes that the client took, as of moved
	moved int64    // clock at which acked last changed, or the flusher began
	late  int64    // clock since which the hub has more than the client took; 0 while it has not
	ended int64    // clock at which code was set
}

// Write takes frames of a room: see hub.Conn.
func (c *conn) Write(b *hub.Batch) (taken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaf() {
		return 0
	}
	n := 0
	if c.bytes == 0 && c.owner.trust.over() {
		c.startFlusher() // which waits, and says that the client is drained
	} else if c.bytes == 0 && c.sealing != nil {
		taken = c.writeSealed(b.Entries)
	} else if c.bytes == 0 {
		if n = c.try(b.Joined); n == len(b.Joined) {
			return len(b.Entries)
		}
		for i := range b.Entries {
			frame := b.Entries[i].Frame
			if n < len(frame) { // a socket that is full between two frames keeps one whole
				c.hold(frame[n:])
				taken = i + 1
				break
			}
			n -= len(frame)
		}
	}
	if taken < len(b.Entries) {
		c.wanted = true
		if c.late == 0 {
			c.late = clock()
		}
	}
	return taken
}

// writeSealed seals frames for this client alone and writes them, some at a time. What the socket
// does not take is sealed again when it does: a nonce is used once either way. It is called with
// mu held.
func (c *conn) writeSealed(entries []room.Entry) (taken int) {
	scratch := sealed.Get().(*[]byte)
	defer sealed.Put(scratch)
	var ends [sealedMost]int
	for taken < len(entries) {
		if c.owner.trust.over() {
			c.startFlusher() // which waits, and says that the client is drained
			return taken
		}
		b, n := (*scratch)[:0], 0
		for n < sealedMost && taken+n < len(entries) && len(b) < sealedBytes {
			b = c.sealing.SealFrame(b, entries[taken+n].Frame)
			ends[n] = len(b)
			n++
		}
		*scratch = b
		wrote := c.try(b)
		for _, end := range ends[:n] {
			taken++
			if wrote < end { // a socket that is full between two frames keeps one whole
				c.hold(slices.Clone(b[wrote:end]))
				return taken
			}
		}
	}
	return taken
}

// At most so many frames, and no more when they are so many bytes, are sealed for one write(2).
const (
	sealedMost  = 64
	sealedBytes = 16 << 10
)

var sealed = sync.Pool{New: func() any { return new([]byte) }}

// Prepare brings what Write looks at first into the processor's cache: see hub.Conn.
func (c *conn) Prepare() { c.near.Load() }

// CaughtUp says that the hub has nothing more for the client: see hub.Conn.
func (c *conn) CaughtUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = 0
}

// Send takes a frame for this client alone, unless too much waits: see hub.Conn.
func (c *conn) Send(frame []byte) (taken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deaf() && c.put(frame, slices.Clone[[]byte])
}

// Answer takes a frame. A client that does not read its answers is ended.
func (c *conn) Answer(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deaf() && !c.put(frame, keep) {
		c.end(proto.CloseSlow, nil)
	}
}

// Opcodes (RFC 6455, section 5.2).
const (
	opText  = 1
	opClose = 8
)

// control takes a control frame that the library wrote.
func (c *conn) control(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.deaf():
	case frame[0]&0x0f == opClose:
		code := proto.CloseCode(1005) // none given
		if len(frame) >= 4 {
			code = proto.CloseCode(binary.BigEndian.Uint16(frame[2:]))
		}
		c.end(code, slices.Clone(frame))
	case !c.put(frame, slices.Clone[[]byte]): // pings, and never reads
		c.end(proto.CloseSlow, nil)
	}
}

// ping asks for a sign of life. All clients get the same bytes. It is called with mu held.
func (c *conn) ping() { c.put(pingFrame, keep) }

var pingFrame = []byte{0x89, 0}

// deaf says whether nothing is taken any more. It is called with mu held.
func (c *conn) deaf() bool { return c.code != 0 || c.broken || c.closed }

// put writes a frame, or lets it wait behind others; of what must wait it keeps what kept
// returns. It is called with mu held.
func (c *conn) put(frame []byte, kept func([]byte) []byte) bool {
	if c.sealing != nil && frame[0]&0x0f == opText {
		frame, kept = c.sealing.SealFrame(nil, frame), keep
	}
	if untrusted := c.owner.trust.over(); c.bytes > 0 || untrusted {
		if c.bytes+len(frame)+(len(c.alone)+1)*frameCost > outbound {
			return false
		}
		c.alone = append(c.alone, kept(frame))
		c.bytes += len(frame)
		if untrusted {
			c.startFlusher()
		}
		return true
	}
	if n := c.try(frame); n < len(frame) {
		c.hold(kept(frame[n:]))
	}
	return true
}

// keep is for frames that nobody will change.
func keep(frame []byte) []byte { return frame }

// try gives p to the socket, which takes what it can at once. It is called with mu held.
func (c *conn) try(p []byte) (n int) {
	if c.broken {
		return 0
	}
	n, again := c.raw.write(p)
	c.sent += uint64(n)
	if n < len(p) && !again {
		c.broken = true // the reader will see why
	}
	return n
}

// hold keeps the rest of a frame and starts the flusher. It is called with mu held.
func (c *conn) hold(rest []byte) {
	c.rest, c.begun, c.bytes = rest, len(rest), len(rest)
	c.startFlusher()
}

// end queues a Close frame, after which nothing is written. It is called with mu held.
func (c *conn) end(code proto.CloseCode, frame []byte) {
	if frame == nil {
		frame = closeFrame(code)
	}
	if c.bytes+len(frame)+(len(c.alone)+1)*frameCost > outbound {
		c.dropAlone()
	}
	c.put(frame, keep)
	c.code, c.ended, c.wanted = code, clock(), false
	c.owner.wheel.soon(c)
}

// dropAlone forgets what waits for the client, but the frame that must be finished, and says
// whether there was anything. It is called with mu held.
func (c *conn) dropAlone() (dropped bool) {
	dropped = len(c.alone) > 0 || len(c.rest) > c.begun
	clear(c.alone)
	c.rest = c.rest[:c.begun]
	c.alone, c.bytes = nil, len(c.rest)
	return dropped
}

// took notes how much of rest the socket took. It is called with mu held.
func (c *conn) took(n int) {
	for c.begun < n {
		c.begun += proto.FrameLen(c.rest[c.begun:])
	}
	c.rest, c.begun, c.bytes = c.rest[n:], c.begun-n, c.bytes-n
}

// closeFrame is a Close frame with its code and reason (RFC 6455, section 5.5.1).
func closeFrame(code proto.CloseCode) []byte {
	reason := code.Reason()
	frame := append(make([]byte, 0, 4+len(reason)), 0x88, byte(2+len(reason)))
	return append(binary.BigEndian.AppendUint16(frame, uint16(code)), reason...)
}

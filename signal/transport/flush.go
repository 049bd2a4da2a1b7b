package transport

import "slices"

// The flusher is a goroutine that lives while a connection has something to write that its
// socket did not take: the rest of a frame, and frames for this client alone. It waits for
// the socket under no lock, and when nothing is left it tells the hub, which goes on with
// what the rooms' rings hold (TestPartialWrites, TestStalledReaders).

// flushBytes is how much small frames are joined to for one write.
const flushBytes = 16 << 10

// startFlusher is called with mu held.
func (c *conn) startFlusher() {
	if c.flushing || c.broken {
		return
	}
	c.flushing, c.moved = true, clock()
	c.acked = c.sent - uint64(c.raw.unacked())
	c.owner.running.Go(c.flush) // the connection itself still counts there
	c.owner.wheel.soon(c)
}

func (c *conn) flush() {
	if s, err := c.raw.wait(c.socket); err == nil {
		// f writes what it can and says whether it is done; between its calls the runtime
		// waits until the socket is writable. An error means that it has been closed.
		f := func(uintptr) bool {
			c.owner.trust.wait()
			return c.flushSome()
		}
		if err := s.Write(f); err != nil {
			c.flushSome()
		}
	} else {
		c.flushBlocking()
	}
	c.mu.Lock()
	tell := c.wanted
	c.wanted = false
	over := c.code != 0 && c.peerClosed
	c.mu.Unlock()
	if tell {
		c.session.Drained()
	}
	if over { // both sides have said Close
		c.cut()
	}
}

// flushSome writes until the socket takes nothing more, or nothing is left.
func (c *conn) flushSome() (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.next() {
		n := c.try(c.rest)
		c.took(n)
		if len(c.rest) > 0 && !c.broken {
			return false
		}
	}
	return true
}

// flushBlocking is flush where a write cannot be tried: through TLS, or where the system
// has another way to do it.
func (c *conn) flushBlocking() {
	for {
		c.owner.trust.wait()
		c.mu.Lock()
		more := c.next()
		p := c.rest
		c.begun = len(p) // all of it may be written meanwhile
		c.mu.Unlock()
		if !more {
			return
		}
		n, err := c.socket.Write(p) // cut ends it
		c.mu.Lock()
		c.took(n)
		c.sent, c.moved = c.sent+uint64(n), clock()
		c.broken = c.broken || err != nil
		c.mu.Unlock()
	}
}

// next makes rest what is to be written next. If there is nothing, or no use, the flusher
// ends. It is called with mu held.
func (c *conn) next() bool {
	if c.broken || c.closed {
		c.rest, c.begun, c.bytes = nil, 0, 0
		c.dropAlone()
	}
	if len(c.rest) == 0 && len(c.alone) > 0 {
		n, size := 1, len(c.alone[0])
		for n < len(c.alone) && size+len(c.alone[n]) <= flushBytes {
			size += len(c.alone[n])
			n++
		}
		if c.rest, c.begun = c.alone[0], 0; n > 1 {
			c.rest = slices.Concat(c.alone[:n]...)
		}
		clear(c.alone[:n])
		c.alone = c.alone[n:]
	}
	if len(c.rest) > 0 {
		return true
	}
	c.rest, c.alone, c.flushing = nil, nil, false
	return false
}

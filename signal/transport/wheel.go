package transport

import (
	"sync"
	"time"
)

// tickTime is the length of a slot: deadlines are this exact.
const (
	tickTime = 250 * time.Millisecond
	slots    = 512 // 128 s: more than any deadline; a later one is looked at once too often
)

// A wheel knows which connection is to be looked at when: its heartbeat, its deadlines. A
// connection is in one slot; when its time has come it is taken out, looked at, and put
// back where its next deadline is, so ten thousand idle ones cost a handful of looks a
// tick and none has a timer (TestHeartbeat, TestDeadIsGone).
type wheel struct {
	mu    sync.Mutex
	slots [slots]*conn // guarded by mu: each the first of a list
	at    int64        // guarded by mu: the tick up to which all have been taken
}

// A spoke is a connection's place in the wheel.
type spoke struct {
	next, previous *conn
	tick           int64 // 0 when in no slot
	gone           bool  // not put back
}

// set puts the connection where it is looked at when the clock says when, or before.
func (w *wheel) set(c *conn, when int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	tick := min(max(when/int64(tickTime)+1, w.at+1), w.at+slots-1)
	if c.spoke.tick != 0 { // soon has been called since it was looked at
		tick = min(tick, c.spoke.tick)
	}
	if !c.spoke.gone {
		w.move(c, tick)
	}
}

// soon lets the connection be looked at at the next tick, but not later than it would be.
func (w *wheel) soon(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.spoke.gone {
		w.move(c, w.at+1)
	}
}

// remove takes the connection out for good.
func (w *wheel) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.spoke.gone = true
	w.take(c)
}

// due takes out whoever is to be looked at by now.
func (w *wheel) due(now int64) (all []*conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for tick := now / int64(tickTime); w.at < tick; {
		w.at++
		for c := w.slots[w.at%slots]; c != nil; c = w.slots[w.at%slots] {
			w.take(c)
			all = append(all, c)
		}
	}
	return all
}

// move is called with mu held.
func (w *wheel) move(c *conn, tick int64) {
	w.take(c)
	first := &w.slots[tick%slots]
	c.spoke.tick, c.spoke.next = tick, *first
	if *first != nil {
		(*first).spoke.previous = c
	}
	*first = c
}

// take is called with mu held.
func (w *wheel) take(c *conn) {
	s := &c.spoke
	if s.tick == 0 {
		return
	}
	if s.previous != nil {
		s.previous.spoke.next = s.next
	} else {
		w.slots[s.tick%slots] = s.next
	}
	if s.next != nil {
		s.next.spoke.previous = s.previous
	}
	s.next, s.previous, s.tick = nil, nil, 0
}

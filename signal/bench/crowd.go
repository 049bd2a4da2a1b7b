//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signal-team/signal/proto"
)

// An event's data has fields of fixed width, so that all frames of a run have the same
// length: its number in its room (or for its client), its slot in the window, and when it
// was published.
const (
	dataHead   = `{"n":"`
	dataSlot   = `","s":"`
	dataTime   = `","t":"`
	dataPad    = `","p":"`
	dataTail   = `"}`
	numberLen  = 10
	slotLen    = 5
	timeLen    = 19
	minPayload = len(dataHead) + numberLen + len(dataSlot) + slotLen + len(dataTime) + timeLen + len(dataPad) + len(dataTail)

	eventName = "bench"
	frameHead = `{"event":"` + eventName + `","data":` + dataHead
	atSlot    = numberLen + len(dataSlot)
	atTime    = atSlot + slotLen + len(dataTime)
)

// appendData appends the data of an event, of the size given.
func appendData(dst []byte, n, slot int, at int64, size int) []byte {
	dst = append(dst, dataHead...)
	dst = appendFixed(dst, int64(n), numberLen)
	dst = append(dst, dataSlot...)
	dst = appendFixed(dst, int64(slot), slotLen)
	dst = append(dst, dataTime...)
	dst = appendFixed(dst, at, timeLen)
	dst = append(dst, dataPad...)
	for range size - minPayload {
		dst = append(dst, 'x')
	}
	return append(dst, dataTail...)
}

func appendFixed(dst []byte, v int64, width int) []byte {
	end := len(dst) + width
	for range width {
		dst = append(dst, '0')
	}
	for i := end - 1; v > 0; i, v = i-1, v/10 {
		dst[i] = byte('0' + v%10)
	}
	return dst
}

func fixed(b []byte) (v int64) {
	for _, c := range b {
		v = v*10 + int64(c-'0')
	}
	return v
}

// A till is one client.
type till struct {
	fd    int
	id    proto.ClientID
	group *group
	room  int32 // of its group
	next  int32 // the number of the next event
	deaf  bool  // never reads
	part  []byte

	sealing *proto.Sealing // nil unless frames are encrypted
}

// A group is rooms that are published to alike, and the window of what is under way.
type group struct {
	crowd   *crowd
	busy    bool
	direct  bool // to single clients
	rooms   []target
	inTurn  bool    // each room as often as the others; else by chance
	next    int     // of rooms, in turn
	rate    float64 // events a second; 0: as fast as the window lets them
	payload int
	slots   []slot
	free    chan int // slots that everybody has read
	events  atomic.Int64
}

// A target is a room, or one client.
type target struct {
	name    proto.Room
	client  proto.ClientID
	channel string // on Redis; the publisher's
	sent    int
	readers int // who read: not the deaf
}

// A slot is an event under way.
type slot struct{ left atomic.Int32 }

// A crowd is all clients.
type crowd struct {
	tills     []*till
	groups    []*group
	threads   []*thread
	frame     atomic.Int64
	measuring atomic.Bool
	bad       atomic.Pointer[error]
	reading   sync.WaitGroup
}

func newGroup(c *crowd, window int) *group {
	g := &group{crowd: c, slots: make([]slot, window), free: make(chan int, window)}
	for i := range window {
		g.free <- i
	}
	c.groups = append(c.groups, g)
	return g
}

// An event is what a sender publishes.
type event struct {
	to   *target
	id   proto.EventID
	data []byte
}

// A sender publishes events in their order.
type sender func(context.Context, []event) error

// run publishes while ctx lives: everything that the window has room for, together, or
// one event at a time when it is due.
func (g *group) run(ctx context.Context, send sender) error {
	// A publisher that is busy sends several at a time.
	atOnce := max(1, len(g.slots)/16)
	if g.rate > 0 {
		atOnce = 1
	}
	for due := time.Now(); ; {
		if g.rate > 0 {
			due = due.Add(time.Duration(float64(time.Second) / g.rate))
			if err := sleep(ctx, time.Until(due)); err != nil {
				return err
			}
		}
		var slots []int
		for len(slots) < atOnce || g.rate == 0 && len(g.free) > 0 {
			select {
			case s := <-g.free:
				slots = append(slots, s)
			case <-ctx.Done():
				for _, s := range slots {
					g.free <- s
				}
				return ctx.Err()
			}
		}
		if g.rate == 0 {
			due = time.Now()
		}
		events := make([]event, len(slots))
		for i, s := range slots {
			events[i] = g.make(s, due)
		}
		if err := send(ctx, events); err != nil {
			return err
		}
		if !g.busy {
			g.events.Add(int64(len(events)))
		}
	}
}

// make is the next event. It is late from the moment at which it was due.
func (g *group) make(s int, due time.Time) event {
	var t *target
	for t == nil || t.readers == 0 { // Check sees to it that somebody reads
		if g.inTurn {
			t = &g.rooms[g.next]
			g.next = (g.next + 1) % len(g.rooms)
		} else {
			t = &g.rooms[rand.IntN(len(g.rooms))]
		}
	}
	g.slots[s].left.Store(int32(t.readers))
	id := string(appendFixed([]byte("bench-"), int64(t.sent), numberLen))
	e := event{t, proto.EventID(id), appendData(make([]byte, 0, g.payload), t.sent, s, due.UnixNano(), g.payload)}
	t.sent++
	return e
}

// read is one thread's: b is what has come for a till at a time.
func (th *thread) read(t *till, b []byte, now int64) {
	if len(t.part) > 0 {
		t.part = append(t.part, b...)
		b = t.part
	}
	for len(b) >= 2 {
		head, size := 2, int(b[1])
		if size == 126 {
			if len(b) < 4 {
				break
			}
			head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
		} else if size == 127 {
			if len(b) < 10 {
				break
			}
			head, size = 10, int(binary.BigEndian.Uint64(b[2:]))
		}
		if len(b) < head+size {
			break
		}
		th.frame(t, b[0], b[head:head+size], head+size, now)
		b = b[head+size:]
	}
	t.part = append(t.part[:0], b...)
	if len(t.part) == 0 {
		t.part = nil
	}
}

func (th *thread) frame(t *till, first byte, payload []byte, size int, now int64) {
	c := t.group.crowd
	if t.sealing != nil && first == 0x81 {
		var err error
		if payload, err = t.open(payload); err != nil {
			c.fail(fmt.Errorf("client %s: %w", t.id, err))
			return
		}
	}
	rest, ok := bytes.CutPrefix(payload, []byte(frameHead))
	switch {
	case ok && len(rest) > atTime+timeLen:
	case first == 0x89: // ping
		pong(t.fd)
		return
	case first == 0x88:
		c.fail(fmt.Errorf("a client was closed: %x", payload))
		return
	case bytes.Contains(payload, []byte(`"event":"error"`)):
		c.fail(fmt.Errorf("a client got %s", payload))
		return
	default:
		return
	}
	n, s, at := fixed(rest[:numberLen]), fixed(rest[atSlot:atSlot+slotLen]), fixed(rest[atTime:atTime+timeLen])
	if int32(n) != t.next {
		c.fail(fmt.Errorf("client %s got event %d of %s, and not %d", t.id, n, t.group.rooms[t.room].name, t.next))
		return
	}
	g := t.group
	if s >= int64(len(g.slots)) {
		c.fail(fmt.Errorf("client %s got an event of somebody else", t.id))
		return
	}
	t.next++
	th.all.Add(1)
	if g.busy {
		th.busy.Add(1)
	} else if c.measuring.Load() {
		th.latencies.add(now - at)
	}
	if g.slots[s].left.Add(-1) == 0 {
		g.free <- int(s)
		c.frame.Store(int64(size))
	}
}

func errGone(t *till, err error) error {
	if err == nil {
		err = io.EOF
	}
	return fmt.Errorf("client %s lost its connection: %w", t.id, err)
}

func (c *crowd) fail(err error) { c.bad.CompareAndSwap(nil, &err) }

func (c *crowd) failed() error {
	if err := c.bad.Load(); err != nil {
		return *err
	}
	return nil
}

type counts struct{ all, busy, events int }

func (c *crowd) count() (n counts) {
	for _, th := range c.threads {
		n.all += int(th.all.Load())
		n.busy += int(th.busy.Load())
	}
	for _, g := range c.groups {
		n.events += int(g.events.Load())
	}
	return n
}

// forget drops the latencies so far. Nothing is under way.
func (c *crowd) forget() {
	for _, th := range c.threads {
		th.latencies.clear()
	}
}

func (c *crowd) latency(q float64) time.Duration {
	var all histogram
	for _, th := range c.threads {
		all.merge(&th.latencies)
	}
	return all.quantile(q)
}

// settle waits until everything has arrived, and says what has not.
func (c *crowd) settle(ctx context.Context) error {
	const patience = 10 * time.Second
	for end := time.Now().Add(patience); ; {
		under := 0
		for _, g := range c.groups {
			under += len(g.slots) - len(g.free)
		}
		switch {
		case c.failed() != nil:
			return c.failed()
		case under == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("events that have not reached everyone after %[2]v, and are lost: %[1]d", under, patience)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/session"
	"github.com/signal-team/signal/signal/transport"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// metric is the sum of a metric's children.
func (s *server) metric(t testing.TB, name string) (sum float64) {
	t.Helper()
	all, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// numbered is the n-th event, with about so many bytes.
func numbered(n, size int) proto.Message {
	data := fmt.Sprintf(`{"n":%d,"pad":%q}`, n, strings.Repeat("x", size))
	return proto.Message{Event: proto.Event{Event: "e", Data: json.RawMessage(data)}}
}

// number is n of an event's payload, or -1 of another frame's.
func number(t testing.TB, payload []byte) int {
	t.Helper()
	var f struct {
		Event string
		Data  struct{ N int }
	}
	if err := json.Unmarshal(payload, &f); err != nil {
		t.Fatalf("a torn frame: %v in %.80q", err, payload)
	}
	if f.Event != "e" {
		return -1
	}
	return f.Data.N
}

func (s *server) login(t *testing.T) *raw {
	t.Helper()
	c := s.open(t)
	_, _ = c.Write(frame(0x81, authenticate))
	for { // connected, then joined until it is done
		_, payload := c.next(t)
		if bytes.Contains(payload, []byte(`"done":true`)) {
			return c
		}
		var hello struct{ Data proto.Connected }
		if _ = json.Unmarshal(payload, &hello); hello.Data.ID != "" {
			c.id = hello.Data.ID
		}
	}
}

// broken is a Verifier with a fault of ours.
type broken struct{ session.Verifier }

func (b broken) Verify(token string) (auth.Identity, error) {
	if token == "broken" {
		panic("a till's secret")
	}
	return b.Verifier.Verify(token)
}

// TestPanic: a frame that finds a fault of ours ends its own connection with 1011, and no other
// one; it is counted, and logged without what the client said.
func TestPanic(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		core, logged := observer.New(zap.InfoLevel)
		s := serve(func(o *transport.Options) {
			o.Session.Verifier = broken{o.Session.Verifier}
			o.Log = zap.New(core)
		})
		other := s.login(t)
		c := s.open(t)
		_, _ = c.Write(frame(0x81, strings.Replace(authenticate, "u1", "broken", 1)))
		c.closes(t, proto.CloseInternal)
		if n := s.metric(t, "signal_panics_total"); n != 1 {
			t.Errorf("%v were counted", n)
		}
		said := logged.FilterLevelExact(zap.ErrorLevel).All()
		if len(said) != 1 || strings.Contains(fmt.Sprint(said[0].ContextMap()), "secret") {
			t.Errorf("logged %v", said)
		}
		_, _ = other.Write(frame(0x89, "still there"))
		if first, payload := other.next(t); first != 0x8a || string(payload) != "still there" {
			t.Errorf("another client got %x %q", first, payload)
		}
	})
}

// TestPartialWrites: a client that stops reading until it is behind, and then reads on,
// gets every event once, whole and in order; between them the answers to what it says
// meanwhile, pongs too, and what is sent to it alone.
func TestPartialWrites(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		c := s.login(t)
		rnd := rand.New(rand.NewPCG(1, 1))
		sent := 0
		send := func() {
			s.hub.Receive(proto.Broadcasts, numbered(sent, rnd.IntN(40<<10)))
			s.hub.Flush()
			sent++
		}
		got := 0
		for round := range 3 {
			for s.metric(t, "signal_rings_bytes") == 0 { // until it is behind
				send()
				if sent > 2_000 {
					t.Fatal("the client is not behind")
				}
			}
			for i := range 5 {
				send()
				e := numbered(i, 100).Event
				e.Event = "alone"
				s.hub.ReceiveClient(c.id, e)
				s.hub.Flush()
			}
			alone := 0
			_, _ = c.Write(frame(0x89, fmt.Sprint("ping ", round)))
			_, _ = c.Write(frame(0x81, fmt.Sprintf(`{"event":"nonsense","id":"q%d"}`, round)))
			pong, answer := false, false
			for got < sent || alone < 5 || !pong || !answer {
				switch first, payload := c.next(t); {
				case first == 0x8a:
					pong = string(payload) == fmt.Sprint("ping ", round)
				case bytes.Contains(payload, []byte(`"event":"alone"`)):
					if !bytes.Contains(payload, fmt.Appendf(nil, `"n":%d,`, alone)) {
						t.Fatalf("event %d for it alone is %.80q", alone, payload)
					}
					alone++
				case bytes.Contains(payload, []byte(`"event":"error"`)):
					answer = bytes.Contains(payload, fmt.Appendf(nil, `"q%d"`, round))
				default:
					if n := number(t, payload); n != got {
						t.Fatalf("event %d, want %d of %d", n, got, sent)
					}
					got++
				}
			}
			redistest.Wait(t, func() bool { return s.metric(t, "signal_rings_bytes") == 0 }, "the client to have caught up")
		}
		if n := s.metric(t, "signal_events_dropped_total"); n != 0 {
			t.Errorf("%v dropped", n)
		}
	})
}

// TestStalledReaders: who takes nothing for a while is ended with 4010, also when it
// pings or says something all the time; who reads slowly but steadily is not.
func TestStalledReaders(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(func(o *transport.Options) { o.StuckAfter = 3 * time.Second })
		alone := func(t *testing.T) {
			redistest.Wait(t, func() bool { return s.metric(t, "signal_connections") == 0 }, "the client before to be gone")
		}
		fill := func() { // more than the system's buffers and the ring hold
			for n := range 400 {
				s.hub.Receive(proto.Broadcasts, numbered(n, 40<<10))
				s.hub.Flush()
			}
		}
		for name, say := range map[string][]byte{"silent": nil, "pings": frame(0x89, strings.Repeat("p", 125)), "asks": frame(0x81, `{"event":"nonsense"}`)} {
			t.Run(name, func(t *testing.T) {
				alone(t)
				before := s.metric(t, "signal_connections_closed_total")
				c := s.login(t)
				fill()
				ended := func() bool { return s.metric(t, "signal_connections_closed_total") > before }
				for end := time.Now().Add(wstest.Patience); say != nil && !ended() && time.Now().Before(end); {
					if _, err := c.Write(bytes.Repeat(say, 100)); err != nil {
						break
					}
				}
				redistest.Wait(t, ended, "the client to be ended")
			})
		}
		t.Run("steady", func(t *testing.T) {
			alone(t)
			before := s.metric(t, "signal_connections_closed_total")
			c := s.login(t)
			// The system opens the window again when a sixteenth of the client's buffer is free: of
			// megabytes that is a step of half a second, of several on a busy machine.
			tcp := c.Conn
			if sealed, is := tcp.(*tls.Conn); is {
				tcp = sealed.NetConn()
			}
			if err := tcp.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
				t.Fatal(err)
			}
			fill()
			// 1 MiB/s, and as much comes.
			for began := time.Now(); time.Since(began) < 5*time.Second; {
				s.hub.Receive(proto.Broadcasts, numbered(0, 40<<10))
				s.hub.Flush()
				if _, err := io.CopyN(io.Discard, c.r, 40<<10); err != nil {
					t.Fatalf("a steady reader was ended: %v", err)
				}
				time.Sleep(40 * time.Millisecond) // the client's pace, not a wait
			}
			if s.metric(t, "signal_connections_closed_total") > before {
				t.Error("a steady reader was ended")
			}
		})
	})
}

// TestCloseOnce: however many ends meet, a client gets one Close frame, and nothing after.
func TestCloseOnce(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		const clients = 60
		var g sync.WaitGroup
		ready := make(chan bool)
		for i := range clients {
			c := s.login(t)
			g.Go(func() {
				<-ready
				switch i % 4 {
				case 0:
					_, _ = c.Write(frame(0x88, "\x03\xe8"))
				case 1:
					_, _ = c.Write(frame(0x83, "bad opcode"))
				case 2:
					_, _ = c.Write(frame(0x81, "\xff"))
				}
				_ = c.SetReadDeadline(time.Now().Add(wstest.Patience))
				closes, after := 0, 0
				for {
					var head [2]byte
					if _, err := io.ReadFull(c.r, head[:]); err != nil {
						break
					}
					size := int64(head[1])
					if size == 126 {
						var l [2]byte
						_, _ = io.ReadFull(c.r, l[:])
						size = int64(binary.BigEndian.Uint16(l[:]))
					}
					_, _ = io.CopyN(io.Discard, c.r, size)
					if closes > 0 {
						after++
					}
					if head[0] == 0x88 {
						closes++
						_, _ = c.Write(frame(0x88, "\x03\xe8"))
					}
				}
				if closes != 1 || after != 0 {
					t.Errorf("client %d got %d Close frames, and %d frames after the first", i, closes, after)
				}
			})
		}
		close(ready)
		var busy atomic.Bool
		busy.Store(true)
		g.Go(func() {
			for n := 0; busy.Load(); n++ {
				s.hub.Receive(proto.Broadcasts, numbered(n, 100))
				s.hub.Flush()
				runtime.Gosched()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), wstest.Patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		busy.Store(false)
		g.Wait()
	})
}

// TestChurn: clients come, join, say things, leave, and end in every way, while events go
// to everyone and to each. Nobody gets a torn frame, or one that is not its own: file
// descriptors are used again all the time. Who stays misses nothing.
func TestChurn(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		stays := s.login(t)
		var (
			g    sync.WaitGroup
			next atomic.Int64
		)
		defer g.Wait()
		for w := range 6 {
			g.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 7))
				for range 60 {
					s.guest(t, rnd, next.Add(1))
				}
			})
		}
		g.Go(func() {
			for n := range 3_000 {
				s.hub.Receive(proto.Broadcasts, numbered(n, 50))
				own := proto.Room(fmt.Sprint("own-", next.Load()-int64(n%6)))
				m := numbered(n, 50)
				s.hub.Receive(own, m)
				s.hub.Flush()
				if n%20 == 0 {
					time.Sleep(time.Millisecond) // a service's pace
				}
			}
		})
		for n := range 3_000 {
			if _, payload := stays.next(t); number(t, payload) != n {
				t.Fatalf("who stays got %s, want event %d", payload, n)
			}
		}
		g.Wait()
		redistest.Wait(t, func() bool { return s.metric(t, "signal_connections") == 1 }, "all guests to be gone")
	})
}

// guest is one client's short life.
func (s *server) guest(t *testing.T, rnd *rand.Rand, n int64) {
	c, err := s.dial()
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	own := fmt.Sprint("own-", n)
	_, _ = io.WriteString(c, upgrade+"\r\n")
	_, _ = c.Write(frame(0x81, authenticate))
	_, _ = c.Write(frame(0x81, `{"event":"join","id":"j","data":{"rooms":["`+own+`"]}}`))
	r := bufio.NewReader(c)
	for {
		if line, err := r.ReadString('\n'); err != nil || line == "\r\n" {
			break
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Duration(rnd.IntN(60)) * time.Millisecond))
	for frames := rnd.IntN(60); frames > 0; frames-- {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			break
		}
		size := int(head[1])
		if size == 126 {
			var l [2]byte
			if _, err := io.ReadFull(r, l[:]); err != nil {
				break
			}
			size = int(binary.BigEndian.Uint16(l[:]))
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(r, payload); err != nil {
			break
		}
		var f struct{ Room string }
		if err := json.Unmarshal(payload, &f); head[0] == 0x81 && err != nil {
			t.Errorf("guest %d got a torn frame: %v in %.80q", n, err, payload)
		}
		if f.Room != "" && f.Room != own && f.Room != "$broadcast" {
			t.Errorf("guest %d got a frame of %s", n, f.Room)
		}
	}
	switch rnd.IntN(5) {
	case 0:
		_, _ = c.Write(frame(0x88, "\x03\xe8"))
	case 1:
		_, _ = c.Write([]byte{0x81}) // and is gone in the middle of a frame
	case 2:
		_, _ = c.Write(frame(0x81, `{"event":"leave","data":{"rooms":["`+own+`"]}}`))
	case 3:
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // reset
		}
	}
}

// TestParking: hundreds of connections that wait cost neither goroutine nor library, and
// when they speak again they are heard, also in the middle of being parked.
func TestParking(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections are parked where there is epoll")
	}
	s := serve(t, nil)
	const clients = 400
	before := runtime.NumGoroutine()
	conns := make([]*raw, clients)
	for i := range conns {
		conns[i] = s.login(t)
	}
	ask := func(round int) {
		for i, c := range conns {
			_, _ = c.Write(frame(0x81, fmt.Sprintf(`{"event":"nonsense","id":"%d.%d"}`, round, i)))
		}
		for i, c := range conns {
			if _, payload := c.next(t); !bytes.Contains(payload, fmt.Appendf(nil, `"%d.%d"`, round, i)) {
				t.Fatalf("round %d: client %d got %s", round, i, payload)
			}
		}
	}
	for round := range 5 {
		ask(round) // more than stay attached: each round parks and attaches
		if n := s.metric(t, "signal_connections_attached"); n > 256 {
			t.Errorf("%v are attached", n)
		}
	}
	redistest.Wait(t, func() bool { return s.metric(t, "signal_connections_attached") == 0 }, "all to be parked")
	redistest.Wait(t, func() bool { return runtime.NumGoroutine() < before+20 }, "no goroutine for a connection that waits")
	ask(5)
	// In the middle of a frame nobody is parked.
	f := frame(0x81, `{"event":"nonsense","id":"middle"}`)
	_, _ = conns[0].Write(f[:9])
	conns, first := conns[1:], conns[0]
	ask(6)
	_, _ = first.Write(f[9:])
	if _, payload := first.next(t); !bytes.Contains(payload, []byte(`"middle"`)) {
		t.Errorf("got %s", payload)
	}
}

// TestNoRoomToWatch: a connection that the system cannot watch is not left unread: it is
// answered, and then told to connect again.
func TestNoRoomToWatch(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections are watched where there is epoll")
	}
	s := serve(t, nil)
	c := s.login(t)
	s.RefuseWatches()
	_, _ = c.Write(frame(0x81, `{"event":"nonsense","id":"1"}`))
	if _, payload := c.next(t); !bytes.Contains(payload, []byte(`"ref":"1"`)) {
		t.Errorf("got %s", payload)
	}
	if opcode, payload := c.next(t); opcode != 0x88 || !bytes.HasPrefix(payload, []byte{1011 >> 8, 1011 & 0xff}) {
		t.Errorf("got %#x %q", opcode, payload)
	}
	redistest.Wait(t, func() bool { clients, _ := s.hub.Size(); return clients == 0 }, "the client to be gone")
}

// TestFlooders: clients that never stop talking keep nobody from being heard.
func TestFlooders(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		var g sync.WaitGroup
		defer g.Wait()
		flood := bytes.Repeat(frame(0x8a, ""), 500)
		var over atomic.Bool
		defer over.Store(true)
		c := s.login(t)
		for range 10 {
			f := s.login(t)
			defer f.Close()
			g.Go(func() {
				for !over.Load() {
					if _, err := f.Write(flood); err != nil {
						return
					}
				}
			})
		}
		for i := range 3 {
			_, _ = c.Write(frame(0x81, fmt.Sprintf(`{"event":"nonsense","id":"q%d"}`, i)))
			if _, payload := c.next(t); !bytes.Contains(payload, fmt.Appendf(nil, `"q%d"`, i)) {
				t.Errorf("answered by %s", payload)
			}
		}
	})
}

// TestDeadIsGone: a client that has vanished holds nothing after its time, however long
// the pause between pings.
func TestDeadIsGone(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(func(o *transport.Options) { o.PingAfter, o.DeadAfter = time.Hour, time.Second })
		s.login(t)
		redistest.Wait(t, func() bool { return s.metric(t, "signal_connections") == 0 }, "the dead client to be gone")
	})
}

// TestDismissWhileWriting: a client that is revoked while its frames are being written is ended, and
// nobody else is.
func TestDismissWhileWriting(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		c := s.login(t)
		event := proto.Event{Event: "e", EventID: "x", Data: []byte(`"` + strings.Repeat("A", 25_000) + `"`)}
		fill := func() {
			for s.hub.SendToClient(c.id, event) {
			}
		}
		fill()
		for range 10 { // it reads some, so that the writer is in the middle of a frame of those that waited
			_, _ = io.CopyN(io.Discard, c.r, 400_000)
			fill()
		}
		s.Revoke([]proto.Revocation{{User: "u1", At: 1 << 60}})
		_, _ = io.Copy(io.Discard, c.r)
		s.login(t)
	})
}

// TestDismissed: what waits for a client is not written when it is revoked, also when it has said
// Close before.
func TestDismissed(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		for _, closes := range []bool{false, true} {
			s := serve(nil)
			c := s.login(t)
			tcp, plain := c.Conn.(*net.TCPConn)
			if !plain {
				return // what the flusher has taken for TLS is not to be told from what waits
			}
			_ = tcp.SetReadBuffer(64 << 10) // which does not grow then
			event := proto.Event{Event: "m", EventID: "x", Data: []byte(`"` + strings.Repeat("x", 1_000) + `"`)}
			sent := 0
			for s.hub.SendToClient(c.id, event) { // until a megabyte waits beside what the sockets hold
				sent++
			}
			if closes {
				_, _ = c.Write(frame(0x88, "\x03\xe8"))
				redistest.Wait(t, func() bool { return s.Ending() == 1 }, "the Close to be read")
			}
			s.Revoke([]proto.Revocation{{User: "u1", At: 1 << 60}})
			got, _ := io.ReadAll(c.r)
			if read := bytes.Count(got, []byte(`"event":"m"`)); read > sent-500 || read == 0 {
				t.Errorf("it says Close first: %t; %d events were sent, %d of them read after the revocation: want those that waited, 900 and more, dropped", closes, sent, read)
			}
		}
	})
}

// TestHandshakeWithoutTrust: a token that comes with the handshake waits, like frames, until it is
// known who is revoked.
func TestHandshakeWithoutTrust(t *testing.T) {
	each(t, func(t *testing.T, serve func(func(*transport.Options)) *server) {
		s := serve(nil)
		s.Trust(1)
		redistest.Wait(t, func() bool { return !s.Trusted() }, "the trust to be over")
		said := make(chan []byte, 1)
		c, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(wstest.Patience))
		_, _ = io.WriteString(c, upgrade+"Authorization: Bearer u1\r\n\r\n")
		go func() {
			var b [4096]byte
			n := 0
			for !bytes.Contains(b[:n], []byte("connected")) {
				k, err := c.Read(b[n:])
				if n += k; err != nil {
					break
				}
			}
			said <- b[:n]
		}()
		s.Trust(time.Hour)
		if b := <-said; !bytes.Contains(b, []byte("connected")) {
			t.Errorf("told %q", b)
		}
	})
}

//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signal-team/signal/proto"
)

// connect logs everyone in and puts them into their rooms.
func (o Options) connect(ctx context.Context) (*crowd, error) {
	c := &crowd{}
	g := newGroup(c, o.Window)
	g.rate, g.payload, g.direct, g.inTurn = o.Rate, o.Payload, o.Scenario == P2P, o.InTurn
	members := map[string]int{Fanout: o.Clients, Rooms: o.Members}[o.Scenario]
	for i := range o.Clients {
		t := &till{group: g, deaf: isDeaf(i, o.Deaf)}
		c.tills = append(c.tills, t)
		if members == 0 { // each by itself
			if !t.deaf {
				t.room = int32(len(g.rooms))
				g.rooms = append(g.rooms, target{readers: 1})
			}
			continue
		}
		t.room = int32(i / members)
		if int(t.room) == len(g.rooms) {
			g.rooms = append(g.rooms, target{name: proto.Room(RoomPrefix + strconv.Itoa(len(g.rooms)))})
		}
		if !t.deaf {
			g.rooms[t.room].readers++
		}
	}
	if o.Busy > 0 {
		b := newGroup(c, 2)
		b.busy, b.payload = true, o.Payload
		b.rooms = []target{{name: RoomPrefix + "busy", readers: o.Busy}}
		for range o.Busy {
			c.tills = append(c.tills, &till{group: b})
		}
	}
	login := func(i int, t *till) (net.Conn, []byte, error) { return o.login(ctx, i, t) }
	return c, c.dial(ctx, o, login)
}

// isDeaf spreads a part of the clients evenly.
func isDeaf(i int, part float64) bool { return int(float64(i+1)*part) > int(float64(i)*part) }

// dial connects all, some at a time, and begins to read.
func (c *crowd) dial(ctx context.Context, o Options, login func(int, *till) (net.Conn, []byte, error)) error {
	// The clients of a busy room have a thread of their own: the others would wait behind
	// them to be read, and not for the node.
	threads := o.Threads
	if o.Busy > 0 {
		threads++
	}
	of := func(i int) int {
		if c.tills[i].group.busy {
			return o.Threads
		}
		return i % o.Threads
	}
	for range threads {
		th, err := newThread()
		if err != nil {
			c.close()
			return err
		}
		c.threads = append(c.threads, th)
	}
	var (
		next, done atomic.Int64
		g          sync.WaitGroup
	)
	for range 16 {
		g.Go(func() {
			for i := int(next.Add(1) - 1); i < len(c.tills) && c.failed() == nil && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				t := c.tills[i]
				conn, early, err := login(i, t)
				if err == nil {
					t.part = early
					err = c.threads[of(i)].add(t, conn)
				}
				if err != nil {
					c.fail(fmt.Errorf("client %d of %d: %w", i, len(c.tills), err))
				} else if n := done.Add(1); n%100 == 0 {
					o.say("%d of %d clients are connected", n, len(c.tills))
				}
			}
		})
	}
	g.Wait()
	if err := errors.Join(c.failed(), ctx.Err()); err != nil {
		c.close()
		return err
	}
	for _, th := range c.threads {
		c.reading.Go(func() { th.run(c) })
	}
	return nil
}

// login upgrades, authenticates and joins. It returns what came beyond the answers.
func (o Options) login(ctx context.Context, i int, t *till) (_ net.Conn, early []byte, err error) {
	user := proto.UserID("bench-" + strconv.Itoa(i))
	token, err := o.Token(user)
	if err != nil {
		return nil, nil, err
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	node := o.Nodes[i%len(o.Nodes)]
	conn, err := d.DialContext(ctx, "tcp", node.Addr)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
			err = fmt.Errorf("node on %s: %w", node.Addr, err)
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", node.Addr)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(conn, 2048)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("the node answered %s", answer.Status)
	}
	room := proto.Room("")
	if !t.group.direct {
		room = t.group.rooms[t.room].name
	}
	hail := map[string]string{"type": "Bearer", "token": token}
	var private *ecdh.PrivateKey
	if o.Encrypt {
		if private, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
			return nil, nil, err
		}
		hail["publicKey"] = base64.StdEncoding.EncodeToString(private.PublicKey().Bytes())
	}
	frames := masked(proto.AppendFrame(nil, proto.EventAuthenticate, hail, ""))
	waits := map[string]bool{"": true}
	if room != "" {
		waits["join"] = true
		frames = append(frames, masked(proto.AppendFrame(nil, proto.EventJoin, map[string]any{"rooms": []proto.Room{room}}, "join"))...)
	}
	if _, err = conn.Write(frames); err != nil {
		return nil, nil, err
	}
	for len(waits) > 0 {
		payload, err := nextFrame(r)
		if err == nil && t.sealing != nil {
			payload, err = t.open(payload)
		}
		if err != nil {
			return nil, nil, err
		}
		var f struct {
			Event string
			ID    string
			Data  struct {
				ID     proto.ClientID
				Denied []any
				Done   bool
				proto.Offer
			}
		}
		if err := json.Unmarshal(payload, &f); err != nil {
			return nil, nil, err
		}
		switch {
		case f.Event == string(proto.EventConnected):
			t.id = f.Data.ID
			if o.Encrypt {
				if t.sealing, err = proto.NewSealing(private, f.Data.PublicKey, f.Data.Salt, proto.SealingInfo); err != nil {
					return nil, nil, err
				}
			}
			if t.group.direct && !t.deaf {
				t.group.rooms[t.room].client = t.id
			}
		case f.Event == string(proto.EventJoined) && len(f.Data.Denied) == 0:
			if f.Data.Done {
				delete(waits, f.ID)
			}
		default:
			return nil, nil, fmt.Errorf("the node said %s", payload)
		}
	}
	early, _ = r.Peek(r.Buffered())
	_ = conn.SetDeadline(time.Time{})
	return conn, bytes.Clone(early), nil
}

// open is the frame in an encrypted one.
func (t *till) open(payload []byte) ([]byte, error) {
	f, err := proto.DecodeFrame(payload)
	if err != nil {
		return nil, err
	}
	return t.sealing.Open(f)
}

func nextFrame(r *bufio.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return nil, err
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return nil, err
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	if err == nil && head[0] == 0x88 {
		err = fmt.Errorf("the node closed: %x", b)
	}
	return b, err
}

// masked is a client's text frame; its mask is zero.
func masked(payload []byte) []byte {
	b := []byte{0x81}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

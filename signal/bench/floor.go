//go:build linux

package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"syscall"
	"time"
	"unsafe"
)

// A floorOrder is the first line on the floor's first connection: how many clients come
// after it, and how long its frames are. Then comes one floorEvent for each frame.
type floorOrder struct{ Clients, Frame int }

type floorEvent struct{ N, Slot, At int64 }

// RunFloor is the floor's server: it prints its address, and writes each frame that it is
// told of to every client with one write(2). It knows no WebSocket, no rooms, no Redis.
func RunFloor(out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintln(out, l.Addr())
	control, err := l.Accept()
	if err != nil {
		return err
	}
	r := bufio.NewReader(control)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o floorOrder
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	var (
		conns []net.Conn // kept open
		fds   []int
	)
	for range o.Clients {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		conns = append(conns, c)
		_ = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	frame := floorFrame(o.Frame)
	fields := frame[len(frame)-o.Frame+headerOf(o.Frame)+len(frameHead):]
	for {
		var e floorEvent
		if err := binary.Read(r, binary.LittleEndian, &e); err != nil {
			return nil // the crowd is done
		}
		appendFixed(fields[:0], e.N, numberLen)
		appendFixed(fields[atSlot:atSlot], e.Slot, slotLen)
		appendFixed(fields[atTime:atTime], e.At, timeLen)
		for _, fd := range fds {
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)))
			if errno != 0 || int(n) < len(frame) {
				return fmt.Errorf("write: %d of %d bytes: %w", n, len(frame), errno)
			}
		}
	}
}

// headerOf is the length of the header of a frame of so many bytes.
func headerOf(frame int) int {
	switch {
	case frame < 126+2:
		return 2
	case frame < 1<<16+4:
		return 4
	}
	return 10
}

// floorFrame is an event's frame of so many bytes.
func floorFrame(size int) []byte {
	head := headerOf(size)
	b := make([]byte, head, size)
	b[0] = 0x81
	switch n := size - head; head {
	case 2:
		b[1] = byte(n)
	case 4:
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	default:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	}
	const around = len(`{"event":"`+eventName+`","data":`) + len(`}`)
	b = append(b, `{"event":"`+eventName+`","data":`...)
	b = appendData(b, 0, 0, 0, size-head-around)
	return append(b, '}')
}

// floor starts the floor, with as many clients as the nodes have or as can be open beside
// them, and says how to end it.
func (o Options) floor(ctx context.Context, frame int) (_ *side, stop func(), err error) {
	clients := o.Clients
	if most := openFiles() - 200 - o.Clients - o.Busy; openFiles() > 0 {
		clients = min(clients, max(most, 1))
	}
	cmd := exec.CommandContext(ctx, o.FloorCmd[0], o.FloorCmd[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	c := &crowd{}
	ends := []func(){func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}}
	stop = func() {
		for _, end := range ends {
			end()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		return nil, nil, err
	}
	control, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	ends = append(ends, func() { _ = control.Close() })
	if err := json.NewEncoder(control).Encode(floorOrder{clients, frame}); err != nil {
		return nil, nil, err
	}
	g := newGroup(c, 1)
	g.payload, g.rooms = minPayload, []target{{name: "floor", readers: clients}}
	for range clients {
		c.tills = append(c.tills, &till{group: g})
	}
	if err := c.dial(ctx, o, func(int, *till) (net.Conn, []byte, error) {
		conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
		return conn, nil, err
	}); err != nil {
		return nil, nil, err
	}
	ends = append(ends, c.close)
	send := func(_ context.Context, events []event) error {
		for _, e := range events {
			b := e.data[len(dataHead):]
			f := floorEvent{fixed(b[:numberLen]), fixed(b[atSlot : atSlot+slotLen]), fixed(b[atTime : atTime+timeLen])}
			if err := binary.Write(control, binary.LittleEndian, f); err != nil {
				return err
			}
		}
		return nil
	}
	return &side{crowd: c, send: send, pids: []int{cmd.Process.Pid}}, stop, nil
}

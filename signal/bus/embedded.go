package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// backlog is how much one client of the embedded Redis may leave unread.
const backlog = 8 << 20

// RunEmbedded serves a Redis inside this process on l until ctx ends, then returns
// nil. It is for development and for one machine: it keeps everything in memory and
// nothing over a restart. Other processes' emitters reach it like any Redis.
//
// miniredis publishes under one lock, so a subscriber that does not read would stop
// everyone. Therefore it is served through a front that reads for each client into a
// buffer, and cuts whoever leaves more than 8 MiB unread, or takes nothing for 5 s.
func RunEmbedded(ctx context.Context, l net.Listener) error {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil { // no commands before it has an address
		return fmt.Errorf("embedded Redis: %w", err)
	}
	defer m.Close()
	s := m.Server()
	for sharded, classic := range map[string]string{"SPUBLISH": "PUBLISH", "SSUBSCRIBE": "SUBSCRIBE", "SUNSUBSCRIBE": "UNSUBSCRIBE"} {
		if err := s.Register(sharded, func(c *server.Peer, _ string, args []string) {
			s.Dispatch(c, append([]string{classic}, args...))
		}); err != nil {
			return fmt.Errorf("embedded Redis: %w", err)
		}
	}
	var g sync.WaitGroup
	defer g.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	g.Go(func() { age(ctx, m) })
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("embedded Redis: %w", err)
		}
		inner, err := m.Dial()
		if err != nil {
			_ = c.Close()
			return fmt.Errorf("embedded Redis: %w", err)
		}
		g.Go(func() { front(ctx, c, inner) })
	}
}

// age moves time for keys that expire; miniredis does not by itself.
func age(ctx context.Context, m *miniredis.Miniredis) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case now := <-tick.C:
			m.FastForward(now.Sub(last))
			last = now
		case <-ctx.Done():
			return
		}
	}
}

// front joins a client's connection and one inside, and ends both together.
func front(ctx context.Context, c, inner net.Conn) {
	var (
		g    sync.WaitGroup
		once sync.Once
		end  = func() { once.Do(func() { _ = c.Close(); _ = inner.Close() }) }
	)
	defer context.AfterFunc(ctx, end)()
	g.Go(func() { _, _ = io.Copy(inner, c); end() })

	var (
		mu    sync.Mutex
		more  = sync.NewCond(&mu)
		held  []byte // guarded by mu: read inside, not yet written to the client
		ended bool   // guarded by mu
	)
	g.Go(func() { // the writer
		defer end()
		for out := []byte(nil); ; {
			mu.Lock()
			for len(held) == 0 && !ended {
				more.Wait()
			}
			if len(held) == 0 {
				mu.Unlock()
				return
			}
			out, held = held, out[:0]
			mu.Unlock()
			_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
	for buf := make([]byte, 32<<10); ; {
		n, err := inner.Read(buf)
		mu.Lock()
		held = append(held, buf[:n]...)
		full := len(held) > backlog
		ended = err != nil || full
		more.Signal()
		mu.Unlock()
		if full {
			end() // the writer is stuck on a client that does not read
		}
		if err != nil || full {
			break
		}
	}
	g.Wait()
}

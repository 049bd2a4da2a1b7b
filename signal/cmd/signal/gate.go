package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// A gate is a door to the embedded Redis that can be shut: whoever is behind it
// loses the bus, as a node does when its network fails. The page uses it to show what
// several nodes without a common bus are like.
type gate struct {
	listener net.Listener
	to       string
	running  sync.WaitGroup

	mu    sync.Mutex
	shut  bool              // guarded by mu
	ended bool              // guarded by mu
	conns map[net.Conn]bool // guarded by mu
}

func newGate(l net.Listener, to string) *gate {
	return &gate{listener: l, to: to, conns: map[net.Conn]bool{}}
}

// Run lets connections through until ctx ends.
func (g *gate) Run(ctx context.Context) error {
	defer g.running.Wait()
	defer context.AfterFunc(ctx, func() { _ = g.listener.Close(); g.end() })()
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return nil
		}
		out, err := net.Dial("tcp", g.to)
		if err != nil || !g.admit(c, out) {
			_ = c.Close()
			continue
		}
		g.running.Go(func() { g.pass(c, out) })
		g.running.Go(func() { g.pass(out, c) })
	}
}

// end closes the gate for good.
func (g *gate) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.Shut(true)
}

// Shut closes or opens the gate. Closing cuts who is through.
func (g *gate) Shut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut || g.ended
	if g.shut {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

func (g *gate) admit(c, out net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		_ = out.Close()
		return false
	}
	g.conns[c], g.conns[out] = true, true
	return true
}

func (g *gate) pass(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = from.Close()
	_ = to.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, from)
}

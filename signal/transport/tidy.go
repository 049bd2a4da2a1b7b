package transport

import (
	"context"
	"runtime/debug"
	"time"
)

// Ten thousand handshakes leave behind as much memory as the connections themselves need:
// buffers, requests, tokens. An idle node allocates so little that the collector would not
// come by for minutes, and what it frees then the system gets back slowly. So when many
// connections have come or gone and it has become quiet, the memory is returned once
// (docs/BENCHMARKS.md has the figures). A node that is busy collects by itself.
const (
	tidyAfter = 1_000 // connections that came or went
	quiet     = 50    // fewer in a tidyTick is quiet
	tidyTick  = 5 * time.Second
)

// tidy returns memory after crowds, until ctx ends.
func (w *WebSocket) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyTick)
	defer tick.Stop()
	var (
		last, untidy uint64
		gc           debug.GCStats
	)
	for {
		select {
		case <-tick.C:
			changes := w.changes.Load()
			now := changes - last
			last = changes
			collected := gc.NumGC
			debug.ReadGCStats(&gc)
			if untidy += now; untidy >= tidyAfter && now < quiet && gc.NumGC == collected {
				untidy = 0
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

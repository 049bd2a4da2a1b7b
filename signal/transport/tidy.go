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
// (docs/BENCHMARKS.md: 6.3 KiB a connection before, 3.3 after).
const (
	tidyAfter = 1_000 // connections that came or went
	quiet     = 50    // fewer in a tidyTick is quiet
	tidyTick  = 5 * time.Second
)

// tidy returns memory after crowds, until ctx ends.
func (w *WebSocket) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyTick)
	defer tick.Stop()
	var last, untidy uint64
	for {
		select {
		case <-tick.C:
			changes := w.changes.Load()
			now := changes - last
			last = changes
			if untidy += now; untidy >= tidyAfter && now < quiet {
				untidy = 0
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

//go:build linux

package bench

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations in buckets of a few percent each. It may be read and cleared
// while it counts.
type histogram struct{ n [64 << fine]atomic.Int64 }

const fine = 5 // 32 buckets from one power of two to the next

func (h *histogram) add(ns int64) { h.n[bucket(max(ns, 1))].Add(1) }

func bucket(ns int64) int {
	exp := bits.Len64(uint64(ns)) - 1
	if exp < fine {
		return int(ns)
	}
	return exp<<fine + int(ns>>(exp-fine))&(1<<fine-1)
}

// lower is the smallest duration of a bucket.
func lower(b int) int64 {
	exp := b >> fine
	if exp == 0 {
		return int64(b)
	}
	return (1<<fine + int64(b)&(1<<fine-1)) << (exp - fine)
}

func (h *histogram) clear() {
	for i := range h.n {
		h.n[i].Store(0)
	}
}

func (h *histogram) merge(o *histogram) {
	for i := range h.n {
		h.n[i].Add(o.n[i].Load())
	}
}

// quantile is the duration that the part q of all is not longer than.
func (h *histogram) quantile(q float64) time.Duration {
	var all, seen int64
	for i := range h.n {
		all += h.n[i].Load()
	}
	for i := range h.n {
		n := h.n[i].Load()
		if seen += n; n > 0 && float64(seen) >= q*float64(all) {
			return time.Duration(lower(i))
		}
	}
	return 0
}

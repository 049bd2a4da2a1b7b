package transport

import "slices"

// RefuseWatches makes epoll refuse every connection from now on, as a system does that has
// no room for another watch.
func (w *WebSocket) RefuseWatches() {
	w.poller.mu.Lock()
	defer w.poller.mu.Unlock()
	w.poller.epoll = -1
}

// Ending is how many connections have said Close, or have been told that they are ended, and are not gone.
func (w *WebSocket) Ending() (n int) {
	w.mu.Lock()
	all := slices.Clone(w.conns)
	w.mu.Unlock()
	for _, c := range all {
		if c.ending() {
			n++
		}
	}
	return n
}

// Follow says what the framing of a client's bytes is found to be, however they are cut: whether
// they are refused, and if not, whether they end between two messages.
func Follow(b []byte, cut, most int) (refused, between bool) {
	var f frames
	for len(b) > 0 {
		n := min(len(b), max(1, cut))
		if err := f.follow(b[:n], int64(most)); err != nil {
			return true, false
		}
		b = b[n:]
	}
	return false, f.between()
}

package transport

// RefuseWatches makes epoll refuse every connection from now on, as a system does that has
// no room for another watch.
func (w *WebSocket) RefuseWatches() {
	w.poller.mu.Lock()
	defer w.poller.mu.Unlock()
	w.poller.epoll = -1
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

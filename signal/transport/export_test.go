package transport

// RefuseWatches makes epoll refuse every connection from now on, as a system does that has
// no room for another watch.
func (w *WebSocket) RefuseWatches() {
	w.poller.mu.Lock()
	defer w.poller.mu.Unlock()
	w.poller.epoll = -1
}

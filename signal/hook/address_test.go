package hook_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/signal/hook"
)

// TestSparedIsOver: an address that has failed is tried again, also if the one that was to tell how it
// is could not.
func TestSparedIsOver(t *testing.T) {
	var hangs atomic.Bool
	asked := make(chan bool, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		if hangs.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer app.Close()
	a := hook.NewAddress(app.URL, nil, time.Minute, func(string) {})
	for range 2 { // of three tries
		if _, err := a.Message(t.Context(), hook.Message{User: "u1"}); err == nil {
			t.Fatal("an application that is not there has answered")
		}
	}
	if !a.Spared() {
		t.Fatal("an address that fails all the time is not spared")
	}
	redistest.Wait(t, func() bool { return !a.Spared() }, "it to be tried again")
	for len(asked) > 0 {
		<-asked
	}
	hangs.Store(true)
	gone, leave := context.WithCancel(t.Context())
	go func() {
		<-asked
		leave()
	}()
	if _, err := a.Message(gone, hook.Message{User: "u1"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("nobody asks, and is told %v", err)
	}
	if a.Spared() {
		t.Error("it is left alone for good")
	}
}

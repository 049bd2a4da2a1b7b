package transport_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/signal-team/signal/signal/session"
	"github.com/signal-team/signal/signal/transport"
)

// FuzzFraming: wherever the network cuts a client's bytes, they mean the same.
func FuzzFraming(f *testing.F) {
	f.Add(frame(0x81, authenticate), 3)
	f.Add(append(frame(0x01, "x"), frame(0x80, "y")...), 1)
	f.Add(long(0x81, 1<<62, "x"), 2)
	f.Add([]byte{0x89, 0x80, 0, 0, 0, 0, 0x88}, 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		refused, between := transport.Follow(b, len(b), 1<<16)
		if again, also := transport.Follow(b, cut, 1<<16); again != refused || also != between {
			t.Fatalf("whole: refused %t, between %t; in pieces of %d: %t, %t", refused, between, cut, again, also)
		}
	})
}

// FuzzUpgrade: whatever asks for a WebSocket is let in with a proper handshake alone.
func FuzzUpgrade(f *testing.F) {
	f.Add(upgrade + "\r\n")
	f.Add(upgrade + "Origin: null\r\n\r\n")
	f.Add("POST /ws?token=x HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	w := transport.New(transport.Options{Session: &session.Options{Metrics: session.NewMetrics(prometheus.NewRegistry())}, Log: zap.NewNop(), Registerer: prometheus.NewRegistry()})
	w.Trust(time.Hour)
	const letIn = http.StatusSwitchingProtocols // and no further: the recorder's connection cannot be taken over
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		answer := httptest.NewRecorder()
		w.ServeHTTP(answer, r)
		if answer.Code == letIn {
			if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Sec-WebSocket-Version"), "13") || len(r.Header.Values("Origin")) > 1 ||
				r.URL.Query().Has("token") || r.ContentLength > 0 || !r.ProtoAtLeast(1, 1) {
				t.Fatalf("let in: %q", text)
			}
		} else if answer.Code < 400 || answer.Code >= 500 {
			t.Fatalf("%q is answered %d", text, answer.Code)
		}
	})
}

package api

import (
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
)

// A Budget says what clients' requests may cost a node. What a request needs is judged before anything is
// done for it.
type Budget interface {
	// AdmitAddress names the limit of its address that a request is beyond, before its token is looked at;
	// empty is none.
	AdmitAddress(*http.Request) (limit string)
	// AdmitUser names the limit of a user that a request is beyond; history is one that may take long. If there is
	// none, done is to be called when it is answered.
	AdmitUser(u proto.UserID, history bool) (done func(), limit string)
	// Replayed takes note of history that a user is given, in bytes, and returns how long it waits for more.
	Replayed(u proto.UserID, bytes int) time.Duration
}

// How long an answer may take to go out: whoever takes nothing for a while is cut, and so is whoever takes
// a little at a time.
const (
	stuckTime  = 10 * time.Second
	answerTime = time.Minute
	chunk      = 64 << 10 // bytes that are to go out in stuckTime
)

// bounded gives each answer its deadlines. A WebSocket has its own.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			next.ServeHTTP(w, r)
			return
		}
		b := &boundedWriter{w, http.NewResponseController(w)}
		b.extend()
		next.ServeHTTP(b, r)
		b.extend() // what is still buffered
	})
}

type boundedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (b *boundedWriter) extend() { _ = b.control.SetWriteDeadline(time.Now().Add(stuckTime)) }

// Write gives each piece its time.
func (b *boundedWriter) Write(p []byte) (n int, err error) {
	for first := true; err == nil && (first || n < len(p)); first = false {
		b.extend()
		var k int
		k, err = b.ResponseWriter.Write(p[n:min(n+chunk, len(p))])
		n += k
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (b *boundedWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// bodyBytes bounds what the bodies of all requests under way take, also while Redis does not take what is in them.
const bodyBytes = 16 << 20

// affords lets a request in whose body fits into what all of them may take.
func affords() func(http.Handler) http.Handler {
	left := semaphore.NewWeighted(bodyBytes)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			size := int64(emitter.MaxEvent)
			if 0 <= r.ContentLength && r.ContentLength < size {
				size = r.ContentLength
			}
			if !left.TryAcquire(size) {
				tooMany(w, http.StatusServiceUnavailable, "body_bytes")
				return
			}
			defer left.Release(size)
			next.ServeHTTP(w, r)
		})
	}
}

// admitted answers a request that is beyond the rate of its address.
func (o Options) admitted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if limit := o.Budget.AdmitAddress(r); limit != "" {
			tooMany(w, http.StatusTooManyRequests, limit)
			return
		}
		next(w, r)
	}
}

// enter lets a user's request be answered, or answers that it is beyond a limit.
func (o Options) enter(w http.ResponseWriter, u proto.UserID, history bool) (done func(), ok bool) {
	done, limit := o.Budget.AdmitUser(u, history)
	if limit != "" {
		tooMany(w, http.StatusTooManyRequests, limit)
		return nil, false
	}
	return done, true
}

func tooMany(w http.ResponseWriter, status int, limit string) {
	w.Header().Set("Retry-After", "1")
	problem(w, status, proto.CodeRateLimited, "too many: "+limit)
}

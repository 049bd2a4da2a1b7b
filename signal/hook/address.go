package hook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/signal-team/signal/proto"
)

// How the application's addresses are asked.
const (
	atOnce      = 64 // questions under way; others wait
	answerBytes = 64 << 10
	fewFailures = 5 // in a row, of as many users or of all: then the address is left alone for RetryAfter
	tries       = 3 // of a message
	firstPause  = 100 * time.Millisecond
)

// Signature is the header in which a question says who asks:
//
//	Signal-Signature: t=<seconds since 1970>,v1=<hex of HMAC-SHA-256 over "<t>.<body>">
const Signature = "Signal-Signature"

// An Address of the application is asked by POST, in JSON. It answers 200 with JSON, or 204 when it has nothing
// to say (to notices any 2xx with anything); 401 and 403 are ErrRefused, 409 and 422 ErrInvalid; all else is
// no answer, as 400 for a wrong signature should be. It is all of Authenticator, Rooms, Messages and Observer:
// whose address it is, is a matter of the configuration.
type Address struct {
	url     string
	count   func(result string) // ok, no, or failed
	secret  []byte              // of Signature; empty: not signed
	client  *http.Client
	slots   chan struct{}
	shares  shares
	breaker *gobreaker.CircuitBreaker[struct{}] // of messages

	mu      sync.Mutex
	failing map[string]bool // guarded by mu: for whom messages have failed since the last that did not
}

// NewAddress asks with a timeout, which counts from when it is this question's turn. count gets what
// becomes of each question.
func NewAddress(at string, secret []byte, timeout time.Duration, count func(result string)) *Address {
	a := &Address{
		url: at, count: count, secret: secret, slots: make(chan struct{}, atOnce),
		client: &http.Client{
			Timeout:       timeout,
			Transport:     &http.Transport{MaxIdleConnsPerHost: atOnce, MaxConnsPerHost: atOnce, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: timeout},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // what is asked may be a secret
		},
		shares:  shares{users: map[proto.UserID]*share{}},
		failing: map[string]bool{},
	}
	a.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      RetryAfter,
		ReadyToTrip:  func(gobreaker.Counts) bool { return a.fails() },
		IsSuccessful: func(err error) bool { return err == nil || final(err) },
		IsExcluded:   excluded,
	})
	return a
}

// enter waits for a user's turn.
func (a *Address) enter(ctx context.Context, u proto.UserID) (leave func(), err error) {
	if leave, err = a.shares.enter(ctx, u); err != nil && !errors.Is(err, context.Canceled) {
		a.count(result(err))
	}
	return leave, err
}

// failed takes note of what became of a message. What is wrong with the answer to one user's events is
// no proof that others' would fail: each user counts once, until one succeeds.
func (a *Address) failed(u proto.UserID, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case excluded(err):
	case err == nil || final(err):
		clear(a.failing)
	case passing(err):
		a.failing[fmt.Sprint(" ", len(a.failing))] = true
	default:
		a.failing[string(u)] = true
	}
}

// fails says whether the address has failed all the time.
func (a *Address) fails() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.failing) >= fewFailures
}

// errAway is the error of an application that is not there at all, or says that it is not.
var errAway = errors.New("the application does not answer")

// excluded says whether an error tells nothing of the application.
func excluded(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, errCrowded) }

// passing says whether a failure has nothing to do with what was asked.
func passing(err error) bool { return errors.Is(err, errAway) }

// Authenticate asks {"token"} for an Identity.
func (a *Address) Authenticate(ctx context.Context, token string) (id Identity, err error) {
	return id, a.ask(ctx, map[string]string{"token": token}, &id)
}

// Allow asks Wanted for Allowed.
func (a *Address) Allow(ctx context.Context, w Wanted) (said Allowed, err error) {
	leave, err := a.enter(ctx, w.User)
	if err != nil {
		return said, err
	}
	defer leave()
	return said, a.ask(ctx, w, &said)
}

// Message asks a Message for an Answer: again, if the application is not there, but not where it has failed
// all the time.
func (a *Address) Message(ctx context.Context, m Message) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, MessageTimeout)
	defer cancel()
	leave, err := a.enter(ctx, m.User)
	if err != nil {
		return Answer{}, err
	}
	defer leave()
	for try, pause := 1, firstPause; ; try, pause = try+1, 3*pause {
		var said Answer
		_, err := a.breaker.Execute(func() (struct{}, error) {
			err := a.ask(ctx, m, &said)
			a.failed(m.User, err)
			return struct{}{}, err
		})
		down := errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests)
		if err == nil || down || !passing(err) || try == tries {
			return said, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return said, err
		}
	}
}

// Spared says whether a message would not be asked about now: the address has failed all the time.
func (a *Address) Spared() bool {
	switch a.breaker.State() {
	case gobreaker.StateOpen:
		return true
	case gobreaker.StateHalfOpen:
		c := a.breaker.Counts()
		return c.Requests > c.TotalExclusions // one is on its way, and will tell
	}
	return false
}

// Notice tells {"notices": […]}.
func (a *Address) Notice(ctx context.Context, all []Notice) error {
	return a.ask(ctx, map[string][]Notice{"notices": all}, nil)
}

// final says whether to ask again would change nothing.
func final(err error) bool { return errors.Is(err, ErrRefused) || errors.Is(err, ErrInvalid) }

// ask posts a question and reads the answer, if there is to be one. Its errors do not quote either.
func (a *Address) ask(ctx context.Context, question, answer any) error {
	err := a.askOnce(ctx, question, answer)
	a.count(result(err))
	return err
}

// result is what counts of an answer.
func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case final(err):
		return "no"
	}
	return "failed"
}

// errCrowded is no fault of the application's.
var errCrowded = fmt.Errorf("%d questions are under way, or %d of this user's", atOnce, userAtOnce)

func (a *Address) askOnce(ctx context.Context, question, answer any) error {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errCrowded, ctx.Err())
	}
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if len(a.secret) > 0 {
		r.Header.Set(Signature, Sign(a.secret, time.Now(), body))
	}
	said, err := a.do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	defer said.Body.Close()
	switch status := said.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return ErrRefused
	case answer == nil && status/100 == 2:
		_, err := io.Copy(io.Discard, io.LimitReader(said.Body, answerBytes))
		return err
	case status == http.StatusNoContent:
		return nil
	case status == http.StatusOK:
	case status == http.StatusConflict || status == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: %s", ErrInvalid, said.Status)
	case status == http.StatusBadRequest:
		return fmt.Errorf("the application answers %s: has it the same APP_ENV_SIGNAL_HOOK_SECRET, and this path?", said.Status)
	case status == http.StatusTooManyRequests || status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		return fmt.Errorf("%w: %s", errAway, said.Status)
	default:
		return fmt.Errorf("the application answers %s", said.Status)
	}
	b, err := io.ReadAll(io.LimitReader(said.Body, answerBytes+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	if len(b) > answerBytes {
		return fmt.Errorf("the application answers with more than %d bytes", answerBytes)
	}
	err = proto.Decode(b, answer)
	if field, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s in the application's answer is a %s, and should be a %v", cmp.Or(field.Field, "the whole"), field.Value, field.Type)
	} else if err != nil {
		return errors.New("the application does not answer with JSON")
	}
	return nil
}

// do is one request. Its error does not quote the address, with its query.
func (a *Address) do(r *http.Request) (*http.Response, error) {
	said, err := a.client.Do(r)
	if at, is := errors.AsType[*url.Error](err); is {
		err = at.Err
	}
	return said, err
}

// Look asks nothing, by HEAD, and says the status of the answer: whoever is there has one, and be it that
// only POST is routed there.
func (a *Address) Look(ctx context.Context) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, a.url, nil)
	if err != nil {
		return 0, err
	}
	said, err := a.do(r)
	if err != nil {
		return 0, err
	}
	return said.StatusCode, said.Body.Close()
}

// Sign is the Signature of a body.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

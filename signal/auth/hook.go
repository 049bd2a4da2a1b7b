package auth

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
	"strconv"
	"time"
)

// How the application's addresses are asked.
const (
	hookAtOnce = 64 // questions under way; others wait
	hookBytes  = 64 << 10
)

// Signature is the header in which a question says who asks:
//
//	Signal-Signature: t=<seconds since 1970>,v1=<hex of HMAC-SHA-256 over "<t>.<body>">
const Signature = "Signal-Signature"

// A Hook is an address of the application that answers questions in JSON.
type Hook struct {
	url    string
	count  func(result string) // ok, no, or failed
	secret []byte              // of Signature; empty: not signed
	client *http.Client
	slots  chan struct{}
}

// NewHook asks with a timeout, which counts from when it is this question's turn.
func NewHook(url string, secret []byte, timeout time.Duration, count func(result string)) *Hook {
	return &Hook{url, count, secret, &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{MaxIdleConnsPerHost: hookAtOnce, MaxConnsPerHost: hookAtOnce, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: timeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // what is asked may be a secret
	}, make(chan struct{}, hookAtOnce)}
}

// errNo is the application's refusal: 401 or 403.
var errNo = errors.New("the application says no")

// ask posts a question and reads the answer. Its errors do not quote either.
func (h *Hook) ask(ctx context.Context, question, answer any) error {
	err := h.askOnce(ctx, question, answer)
	switch {
	case err == nil:
		h.count("ok")
	case errors.Is(err, errNo):
		h.count("no")
	default:
		h.count("failed")
	}
	return err
}

func (h *Hook) askOnce(ctx context.Context, question, answer any) error {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%d questions are under way: %w", hookAtOnce, ctx.Err())
	}
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if len(h.secret) > 0 {
		r.Header.Set(Signature, Sign(h.secret, time.Now(), body))
	}
	said, err := h.client.Do(r)
	if err != nil {
		return fmt.Errorf("the application does not answer: %w", err)
	}
	defer said.Body.Close()
	switch {
	case said.StatusCode == http.StatusUnauthorized || said.StatusCode == http.StatusForbidden:
		return errNo
	case said.StatusCode != http.StatusOK:
		return fmt.Errorf("the application answers %s", said.Status)
	}
	b, err := io.ReadAll(io.LimitReader(said.Body, hookBytes+1))
	if err != nil {
		return fmt.Errorf("the application does not answer: %w", err)
	}
	if len(b) > hookBytes {
		return fmt.Errorf("the application answers with more than %d bytes", hookBytes)
	}
	err = json.Unmarshal(b, answer)
	if field, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s in the application's answer is a %s, and should be a %v", cmp.Or(field.Field, "the whole"), field.Value, field.Type)
	} else if err != nil {
		return errors.New("the application does not answer with JSON")
	}
	return nil
}

// Sign is the Signature of a body.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

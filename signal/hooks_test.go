package signal_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestMessages: what a till says that is none of Signal's own events goes to the application, in order;
// its answer comes to that till, as with the original's messageHandler, and acknowledges the frame.
func TestMessages(t *testing.T) {
	srv := redistest.Start(t)
	heard := make(chan map[string]any, 100)
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		heard <- q
		switch q["event"] {
		case "echo":
			reply(w, map[string]any{"events": []any{map[string]any{"event": "echo:response", "data": q["data"]}}, "data": map[string]any{"taken": q["data"]}})
		case "no":
			w.WriteHeader(http.StatusForbidden)
		case "nonsense":
			w.WriteHeader(http.StatusUnprocessableEntity)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	cfg := settings(srv.Settings())
	cfg.MessageURL, cfg.HookSecret = app.URL, hookSecret
	n := run(t, cfg)
	c := wstest.Login(t, n.addr(), token(t, "u1", nil, nil))
	other := wstest.Login(t, n.addr(), token(t, "u1", nil, nil))

	c.Raw(`{"event":"echo","data":{"n": 1}}`) // as the original's tills send it
	if f := c.Expect(t, "echo:response"); string(f.Data) != `{"n":1}` {
		t.Errorf("echoed %s", f.Data)
	}
	q := <-heard
	if q["clientId"] != string(c.ID) || q["userId"] != "u1" || q["event"] != "echo" || q["messageId"] == "" || q["time"] == nil || q["id"] != nil {
		t.Errorf("the application hears %v", q)
	}
	for i := range 20 {
		c.Send("echo", i, fmt.Sprint("m", i))
	}
	for i := range 20 {
		if f := c.Expect(t, "echo:response"); string(f.Data) != fmt.Sprint(i) || f.EventID == "" {
			t.Fatalf("answer %d is %s", i, f.Raw)
		}
		if f := c.Expect(t, "ack"); f.ID != fmt.Sprint("m", i) || string(f.Data) != fmt.Sprintf(`{"taken":%d}`, i) {
			t.Fatalf("answer %d is acknowledged by %s", i, f.Raw)
		}
	}
	for event, code := range map[string]proto.ErrorCode{"no": proto.CodeForbidden, "nonsense": proto.CodeBadRequest, "connected": proto.CodeReserved, "a*": proto.CodeBadName} {
		c.Send(event, 1, "x")
		if e := c.Expect(t, "error").Error(); e.Code != code || e.Ref != "x" || e.RetryAfter != 0 {
			t.Errorf("%s is answered %+v", event, e)
		}
	}
	c.Send("log", 1, "l")
	if f := c.Expect(t, "ack"); f.ID != "l" || f.Data != nil {
		t.Errorf("an answer with nothing in it: %s", f.Raw)
	}
	c.Send("goodbye", 1, "") // who says something and goes has said it
	c.Close()
	for {
		if q := <-heard; q["event"] == "goodbye" {
			break
		}
	}
	early := wstest.Connect(t, n.addr())
	early.Send("echo", 1, "e")
	if e := early.Expect(t, "error").Error(); e.Code != proto.CodeUnauthenticated {
		t.Errorf("before it is authenticated: %+v", e)
	}
	if _, err := n.SendToClient(t.Context(), other.ID, "last", 1); err != nil {
		t.Error(err)
	}
	other.Expect(t, "last") // nothing else came
}

// A handler answers as the application would, in the same process.
type handler struct {
	mu      sync.Mutex
	notices []hook.Notice
}

func (h *handler) Authenticate(_ context.Context, token string) (hook.Identity, error) {
	if token != "good" {
		return hook.Identity{}, hook.ErrRefused
	}
	return hook.Identity{User: "u1"}, nil
}

func (h *handler) Allow(_ context.Context, w hook.Wanted) (hook.Allowed, error) {
	rooms := slices.DeleteFunc(slices.Clone(w.Rooms), func(r proto.Room) bool { return r == "secret" })
	return hook.Allowed{Rooms: &rooms}, nil
}

func (h *handler) Message(_ context.Context, m hook.Message) (hook.Answer, error) {
	if m.Event == "boom" {
		panic(m.Event)
	}
	if m.Event != "echo" {
		return hook.Answer{}, errors.New("not today")
	}
	return hook.Answer{Events: []hook.Event{{Event: "echo:response", Data: m.Data}}, Data: json.RawMessage(`"ok"`)}, nil
}

func (h *handler) Notice(_ context.Context, all []hook.Notice) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notices = append(h.notices, all...)
	return nil
}

func (h *handler) told(kind hook.NoticeKind) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.notices, func(n hook.Notice) bool { return n.Kind == kind })
}

// TestHooksInGo: a program that embeds a node answers itself.
func TestHooksInGo(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	h := &handler{}
	cfg.Auth, cfg.Hooks = "ask", hook.Hooks{Authenticator: h, Rooms: h, Messages: h, Notices: h}
	n := run(t, cfg)
	bad := wstest.Connect(t, n.addr())
	bad.Send("authenticate", map[string]string{"token": "bad"}, "")
	bad.Expect(t, "error")
	bad.ExpectClose(t, proto.CloseAuthFailed)
	c := wstest.Login(t, n.addr(), "good", "orders")
	c.Send("join", map[string]any{"rooms": []string{"secret"}}, "j")
	if f := c.Expect(t, "joined"); !strings.Contains(string(f.Data), "forbidden") {
		t.Errorf("the secret room: %s", f.Data)
	}
	c.Send("echo", "x", "e")
	c.Expect(t, "echo:response")
	c.Expect(t, "ack")
	c.Send("other", "x", "o")
	if e := c.Expect(t, "error").Error(); e.Code != proto.CodeUnavailable || e.RetryAfter != 2000 {
		t.Errorf("a handler that fails: %+v", e)
	}
	c.Send("boom", "x", "b")
	if e := c.Expect(t, "error").Error(); e.Code != proto.CodeUnavailable || !strings.Contains(n.log.String(), "a hook of this program panicked") {
		t.Errorf("a handler that panics: %+v", e)
	}
	if failed := n.metric(t, `signal_hook_answers_total{hook="message",result="failed"}`); failed != "2" {
		t.Errorf("%s answers are counted as failed", failed)
	}
	for _, kind := range []hook.NoticeKind{hook.Connected, hook.Occupied} {
		redistest.Wait(t, func() bool { return h.told(kind) }, "%s to be told", kind)
	}
	c.Close()
	n.stop() // what it has not told yet, it tells now
	for _, kind := range []hook.NoticeKind{hook.Disconnected, hook.Vacated} {
		if !h.told(kind) {
			t.Errorf("%s is not told", kind)
		}
	}
}

// TestNotices: the application is told who comes and goes, but not of who comes back soon, on any node; and
// which rooms are occupied, on all nodes together.
func TestNotices(t *testing.T) { onAll(t, notices) }

func notices(t *testing.T, srv server) {
	var mu sync.Mutex
	var all []string
	failing := 3
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		mu.Lock()
		defer mu.Unlock()
		if failing--; failing >= 0 {
			w.WriteHeader(http.StatusBadGateway) // they are told again
			return
		}
		for _, n := range q["notices"].([]any) {
			n := n.(map[string]any)
			line := fmt.Sprint(n["type"])
			for _, key := range []string{"clientId", "previous", "userId", "room"} {
				if v := n[key]; v != nil {
					line += fmt.Sprint(" ", v)
				}
			}
			if at, ok := n["time"].(float64); !ok || time.Since(time.UnixMilli(int64(at))).Abs() > time.Minute {
				t.Errorf("told at %v", n["time"])
			}
			all = append(all, line)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	count := func(line string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range all {
			if l == line {
				n++
			}
		}
		return n
	}
	told := func(line string, a ...any) {
		t.Helper()
		line = fmt.Sprintf(line, a...)
		redistest.Wait(t, func() bool { return count(line) > 0 }, "%q to be told", line)
	}
	cfg := settings(srv.Settings())
	cfg.NoticesURL, cfg.HookSecret = app.URL, hookSecret
	a, b := run(t, cfg), run(t, cfg)
	tok := token(t, "u1", proto.Grants{"*"}, nil)
	rdb := srv.Settings().Open()
	defer rdb.Close()
	if err := rdb.Set(t.Context(), "sg:{broken}:in", "no hash", 0).Err(); err != nil { // which is in nobody's way
		t.Fatal(err)
	}
	first := wstest.Login(t, a.addr(), tok, "broken", "orders")
	told("connected %s u1", first.ID)
	told("occupied orders")
	second := wstest.Login(t, b.addr(), tok, "orders", "stock")
	told("connected %s u1", second.ID)
	told("occupied stock")
	again := func(n *node, c *wstest.Client, rooms ...proto.Room) *wstest.Client {
		t.Helper()
		back := wstest.Connect(t, n.addr())
		back.Send("authenticate", map[string]any{"token": tok, "previous": c.ID}, "")
		var hello proto.Connected
		if err := json.Unmarshal(back.Expect(t, "connected").Data, &hello); err != nil {
			t.Fatal(err)
		}
		back.ID = hello.ID
		told("connected %s %s u1", back.ID, c.ID)
		return back
	}
	first.Cut()
	elsewhere := again(b, first) // on the other node
	here := again(b, elsewhere)  // on the same one, before the connection before has ended
	elsewhere.Cut()
	second.Cut()
	told("disconnected %s u1", second.ID)
	told("vacated orders")
	told("vacated stock")
	for _, c := range []*wstest.Client{first, elsewhere, here} {
		if count(fmt.Sprintf("disconnected %s u1", c.ID)) > 0 {
			t.Errorf("%s is told of as gone", c.ID)
		}
	}
	for _, line := range []string{"occupied orders", "occupied stock", "vacated orders", "vacated stock", fmt.Sprintf("disconnected %s u1", second.ID)} {
		if n := count(line); n != 1 {
			t.Errorf("%q is told %d times", line, n)
		}
	}
	third := wstest.Login(t, a.addr(), tok, "orders")
	redistest.Wait(t, func() bool { return count("occupied orders") == 2 }, "orders to be occupied again")
	stopped := make(chan struct{})
	go func() { a.stop(); close(stopped) }()
	third.ExpectClose(t, proto.CloseGoingAway)
	again(b, third) // as all tills of a node that ends do
	<-stopped
	redistest.Wait(t, func() bool { return count("vacated orders") == 2 }, "the end of all to be told")
	if count(fmt.Sprintf("disconnected %s u1", third.ID)) > 0 {
		t.Error("who has gone to another node, since this one has ended, is told of as gone")
	}
}

// hookFaults are what an application can do to those who ask it.
var hookFaults = map[string]func(w http.ResponseWriter, end <-chan struct{}){
	"slow":    func(_ http.ResponseWriter, end <-chan struct{}) { <-end },
	"garbage": func(w http.ResponseWriter, _ <-chan struct{}) { _, _ = io.WriteString(w, "<html>") },
	"500":     func(w http.ResponseWriter, _ <-chan struct{}) { w.WriteHeader(http.StatusInternalServerError) },
	"elsewhere": func(w http.ResponseWriter, _ <-chan struct{}) {
		w.Header().Set("Location", "/")
		w.WriteHeader(http.StatusFound)
	},
	"large": func(w http.ResponseWriter, _ <-chan struct{}) {
		_, _ = io.WriteString(w, `{"data": "`+strings.Repeat("x", 1<<20)+`"}`)
	},
	"reserved": func(w http.ResponseWriter, _ <-chan struct{}) {
		_, _ = io.WriteString(w, `{"events": [{"event": "joined"}]}`)
	},
	"middle": func(w http.ResponseWriter, _ <-chan struct{}) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"data":`)
		panic(http.ErrAbortHandler)
	},
}

// TestHookFaults: an application that is down, slow, or answers nonsense costs its clients an answer, which
// says when to try again, and nobody else anything; what it never took is counted; and when it is well
// again, it is asked again.
func TestHookFaults(t *testing.T) {
	srv := redistest.Start(t)
	hookFaults["down"] = nil
	for name, fault := range hookFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end, ill := make(chan struct{}), true
			var mu sync.Mutex
			well := func() bool { mu.Lock(); defer mu.Unlock(); return !ill }
			app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if well() {
					_, _ = io.WriteString(w, `{"data": "well"}`)
					return
				}
				fault(w, end)
			}))
			at := app.Listener.Addr().String()
			if name == "down" {
				_ = app.Listener.Close()
				at = redistest.FreeAddr(t)
			} else {
				app.Start()
			}
			t.Cleanup(func() { app.Close() })
			cfg := settings(srv.Settings())
			cfg.MessageURL = "http://" + at
			n := run(t, cfg)
			tok := token(t, "u1", proto.Grants{"*"}, nil)
			c, listener := wstest.Login(t, n.addr(), tok), wstest.Login(t, n.addr(), tok, "orders")
			const asked = 4
			for i := range asked {
				c.Send("ask", i, fmt.Sprint(i))
			}
			for range 100 { // others go on
				if _, err := n.SendToRoom(t.Context(), "orders", "paid", 1); err != nil {
					t.Fatal(err)
				}
				listener.Expect(t, "paid")
			}
			for i := range asked {
				if f := c.Expect(t, "error"); f.Error().Code != proto.CodeUnavailable || f.Error().RetryAfter != 2000 || f.ID != fmt.Sprint(i) {
					t.Errorf("answered %s", f.Raw)
				}
			}
			failed := n.metric(t, `signal_hook_dropped_total{hook="message",reason="failed"}`)
			spared := n.metric(t, `signal_hook_dropped_total{hook="message",reason="spared"}`)
			if must(strconv.Atoi(failed))+must(strconv.Atoi(spared)) != asked {
				t.Errorf("%s and %s are counted as dropped, want %d", failed, spared, asked)
			}
			mu.Lock()
			ill = false
			mu.Unlock()
			close(end)
			if name == "down" {
				l, err := net.Listen("tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				app.Listener = l
				app.Start()
			}
			redistest.Wait(t, func() bool {
				c.Send("ask", 1, "again")
				f, err := c.Next()
				return err == nil && f.Event == "ack"
			}, "the application to be asked again")
		})
	}
}

// TestPoison: what the application cannot bear of one user costs no other an answer.
func TestPoison(t *testing.T) {
	srv := redistest.Start(t)
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		if q["event"] == "poison" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	cfg := settings(srv.Settings())
	cfg.MessageURL, cfg.HookSecret = app.URL, hookSecret
	n := run(t, cfg)
	good, bad := wstest.Login(t, n.addr(), token(t, "good", nil, nil)), wstest.Login(t, n.addr(), token(t, "bad", nil, nil))
	for range 20 {
		bad.Send("poison", 1, "p")
		bad.Expect(t, "error")
	}
	good.Send("ask", 1, "a")
	good.Expect(t, "ack")
}

// TestHookShare: for whom the application thinks for long, that one alone waits.
func TestHookShare(t *testing.T) {
	srv := redistest.Start(t)
	end := make(chan struct{})
	app := startApplication(t, func(w http.ResponseWriter, q map[string]any) {
		if q["event"] == "think" {
			<-end
		}
		w.WriteHeader(http.StatusNoContent)
	})
	defer close(end)
	cfg := settings(srv.Settings())
	cfg.MessageURL, cfg.HookSecret = app.URL, hookSecret
	cfg.Limits = "off"
	n := run(t, cfg)
	for range 100 {
		c := wstest.Login(t, n.addr(), token(t, "slow", nil, nil))
		c.Send("think", 1, "t")
		c.Send("leave", map[string]any{"rooms": []string{"none"}}, "read")
		c.Expect(t, "left")
	}
	good := wstest.Login(t, n.addr(), token(t, "good", nil, nil))
	good.Send("ask", 1, "a")
	good.Expect(t, "ack")
	const failed = `signal_hook_dropped_total{hook="message",reason="failed"}`
	if was := n.metric(t, failed); was != "" && was != "0" {
		t.Errorf("it was answered after %s of the others were given up", was)
	}
}

// TestHookCrowd: far more than the application takes is offered. Each event is answered, taken or not,
// and what is not taken is counted.
func TestHookCrowd(t *testing.T) {
	srv := redistest.Start(t)
	h := &slowHandler{let: make(chan struct{})}
	cfg := settings(srv.Settings())
	cfg.Hooks.Messages = h
	cfg.Limits = "off"
	n := run(t, cfg)
	const clients, each = 200, 30 // more than 4,096
	var tills []*wstest.Client
	for i := range clients {
		tills = append(tills, wstest.Login(t, n.addr(), token(t, fmt.Sprint("u", i), nil, nil)))
	}
	var sent sync.WaitGroup
	for _, c := range tills {
		sent.Go(func() {
			for i := range each {
				c.Send("ask", strings.Repeat("x", 1000), fmt.Sprint(i))
			}
		})
	}
	sent.Wait()
	const full = `signal_hook_dropped_total{hook="message",reason="full"}`
	redistest.Wait(t, func() bool { return n.metric(t, full) == fmt.Sprint(clients*each-4096) }, "all above 4,096 to be refused")
	close(h.let)
	acks, refused := 0, 0
	for _, c := range tills {
		for range each {
			f, err := c.Next()
			switch {
			case err == nil && f.Event == "ack":
				acks++
			case err == nil && f.Error().Code == proto.CodeUnavailable && f.Error().RetryAfter == 2000:
				refused++
			default:
				t.Fatalf("answered %s, %v", f.Raw, err)
			}
		}
	}
	if acks != 4096 || acks+refused != clients*each {
		t.Errorf("%d taken, %d refused", acks, refused)
	}
}

type slowHandler struct{ let chan struct{} }

func (h *slowHandler) Message(ctx context.Context, _ hook.Message) (hook.Answer, error) {
	select {
	case <-h.let:
		return hook.Answer{}, nil
	case <-ctx.Done():
		return hook.Answer{}, ctx.Err()
	}
}

// TestReceivers: the examples do what the original's callbacks did: they let in, allow rooms, answer, and
// are told; and take no word but the node's.
func TestReceivers(t *testing.T) {
	srv := redistest.Start(t)
	for name, command := range map[string][]string{
		"Go":   {"go", "run", "../scripts/hooks/receiver.go"},
		"Node": {"node", "../scripts/hooks/receiver.mjs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := redistest.FreeAddr(t)
			cmd := exec.Command(command[0], append(command[1:], addr)...)
			cmd.Env = append(os.Environ(), "HOOK_SECRET="+hookSecret)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
			said, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdout, cmd.Stderr = write, write
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = write.Close()
			lines := bufio.NewScanner(said)
			t.Cleanup(func() {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // go run has a child
				_ = cmd.Wait()
			})
			redistest.Wait(t, func() bool {
				r, err := http.Get("http://" + addr) // a process that is being started may have FreeAddr's listener still
				if err == nil {
					_ = r.Body.Close()
				}
				return err == nil
			}, "it to answer")
			at := "http://" + addr
			cfg := settings(srv.Settings())
			cfg.Auth, cfg.AuthURL, cfg.RoomsURL, cfg.MessageURL, cfg.NoticesURL, cfg.HookSecret = "ask", at+"/auth", at+"/rooms", at+"/message", at+"/notices", hookSecret
			n := run(t, cfg)
			c := wstest.Login(t, n.addr(), "letmein", "orders", "stock")
			c.Send("echo", "ünïcode", "e")
			if f := c.Expect(t, "echo:response"); string(f.Data) != `"ünïcode"` {
				t.Errorf("echoed %s", f.Data)
			}
			c.Expect(t, "ack")
			for told := false; !told; told = strings.Contains(lines.Text(), string(c.ID)) {
				if !lines.Scan() {
					t.Fatal("it was not told of the client")
				}
			}
			stranger := wstest.Connect(t, n.addr())
			stranger.Send("authenticate", map[string]string{"token": "other"}, "")
			stranger.Expect(t, "error")
			stranger.ExpectClose(t, proto.CloseAuthFailed)
			for _, header := range []string{"", "t=1,v1=00", hook.Sign([]byte("another"), time.Now(), []byte("{}")), hook.Sign([]byte(hookSecret), time.Now().Add(-time.Hour), []byte("{}"))} {
				r, _ := http.NewRequest(http.MethodPost, at+"/message", strings.NewReader("{}"))
				r.Header.Set(hook.Signature, header)
				if answer, err := http.DefaultClient.Do(r); err != nil || answer.StatusCode != http.StatusBadRequest {
					t.Errorf("signed %q it answers %v, %v", header, answer.Status, err)
				}
			}
		})
	}
}

// TestDoctorOfHooks: the doctor finds addresses of the application's where nobody is, that redirect, or
// whose proxy has lost it, and says of an address its host alone.
func TestDoctorOfHooks(t *testing.T) {
	t.Parallel()
	const secretWord = "behind-the-host"
	srv := redistest.Start(t)
	answering := func(status int) *httptest.Server {
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodHead {
				t.Errorf("the doctor asks by %s", r.Method)
			}
			w.Header().Set("Location", "https://elsewhere.example/?of=redirect")
			w.WriteHeader(status)
		}))
		t.Cleanup(app.Close)
		return app
	}
	well, moved, lost, gone := answering(http.StatusMethodNotAllowed), answering(http.StatusMovedPermanently), answering(http.StatusBadGateway), answering(http.StatusOK)
	gone.Close()
	env := []string{"APP_ENV_SIGNAL_JWT_SECRET=" + secret, "APP_ENV_SIGNAL_HOOK_SECRET=" + hookSecret,
		"APP_ENV_SIGNAL_ROOMS_URL=" + well.URL + "/?key=" + secretWord, "APP_ENV_SIGNAL_MESSAGE_URL=" + moved.URL + "/" + secretWord,
		"APP_ENV_SIGNAL_NOTICES_URL=" + lost.URL + "/?key=" + secretWord, "APP_ENV_SIGNAL_ACCESS_URL=" + gone.URL + "/?key=" + secretWord}
	out, _ := command(t, append(reaching(srv.Settings()), env...), "doctor", "--listen", "1ms").CombinedOutput()
	host := func(app *httptest.Server) string { return app.Listener.Addr().String() }
	for _, want := range []string{
		"ok       APP_ENV_SIGNAL_ROOMS_URL (" + host(well) + ") is there",
		"FINDING  APP_ENV_SIGNAL_MESSAGE_URL (" + host(moved) + ") answers 301",
		"FINDING  APP_ENV_SIGNAL_NOTICES_URL (" + host(lost) + ") answers 502",
		"FINDING  APP_ENV_SIGNAL_ACCESS_URL (" + host(gone) + ") does not answer",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the doctor says\n%s, want %q in it", out, want)
		}
	}
	if strings.Contains(string(out), secretWord) || strings.Contains(string(out), "elsewhere") {
		t.Errorf("the doctor says what is behind a host:\n%s", out)
	}
}

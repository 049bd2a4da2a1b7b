package signal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// bearing is a token of a user with these claims too.
func bearing(t *testing.T, user string, more jwt.MapClaims) string {
	t.Helper()
	c := jwt.MapClaims{"sub": user, "aud": "signal", "rooms": []string{"*"}, "publish": []string{"*"},
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix()}
	for k, v := range more {
		c[k] = v
	}
	return signed(t, secret, c)
}

// expectRevoked wants a client to be told, and its connection to end.
func expectRevoked(t *testing.T, c *wstest.Client, reason string) {
	t.Helper()
	var r proto.Revoked
	if f := c.Expect(t, "auth.revoked"); json.Unmarshal(f.Data, &r) != nil || r.Reason != reason {
		t.Errorf("told %s, want the reason %q", f.Data, reason)
	}
	c.ExpectClose(t, proto.CloseRevoked)
}

// refusedAsRevoked wants a token to be let in nowhere.
func refusedAsRevoked(t *testing.T, addr, token, reason string) {
	t.Helper()
	c := wstest.Connect(t, addr)
	c.Send("authenticate", map[string]string{"type": "Bearer", "token": token}, "")
	expectRevoked(t, c, reason)
}

// TestRevoke: what is revoked is revoked on all nodes and stays so, and nobody else notices.
func TestRevoke(t *testing.T) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			near, far := run(t, settings(redis.Settings())), run(t, settings(redis.Settings()))
			for what, c := range map[string]struct {
				claims, other jwt.MapClaims // of tokens that it covers, and of others of the same user
				revoke        proto.Revocation
			}{
				"a user":    {jwt.MapClaims{"iat": time.Now().Add(20 * time.Second).Unix()}, nil, proto.Revocation{User: "a user"}}, // its issuer's clock is ahead
				"a session": {jwt.MapClaims{"sid": "s-1"}, jwt.MapClaims{"sid": "s-2"}, proto.Revocation{Session: "s-1"}},
				"a token":   {jwt.MapClaims{"jti": "t-1"}, jwt.MapClaims{"jti": "t-2"}, proto.Revocation{Token: "t-1"}},
				"a tenant":  {jwt.MapClaims{"tenant": "shop-1"}, jwt.MapClaims{"tenant": "shop-2"}, proto.Revocation{Tenant: "shop-1"}},
			} {
				t.Run(what, func(t *testing.T) {
					theirs := bearing(t, what, c.claims)
					others := []*wstest.Client{wstest.Login(t, far.addr(), token(t, "somebody", proto.Grants{"*"}, nil))}
					if c.other != nil {
						others = append(others, wstest.Login(t, near.addr(), bearing(t, what, c.other)))
					}
					a, b := wstest.Login(t, near.addr(), theirs, "orders"), wstest.Login(t, far.addr(), theirs)
					c.revoke.Reason = "the shift is over"
					if err := near.Revoke(t.Context(), c.revoke); err != nil {
						t.Fatal(err)
					}
					expectRevoked(t, a, c.revoke.Reason)
					expectRevoked(t, b, c.revoke.Reason)
					if what == "a user" { // shown again it counts as issued now: what was issued in time does not
						theirs = bearing(t, what, jwt.MapClaims{"iat": time.Now().Add(-time.Minute).Unix()})
					}
					refusedAsRevoked(t, far.addr(), theirs, c.revoke.Reason)
					for _, o := range others {
						o.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
						o.Expect(t, "joined")
						o.Close()
					}
					q, _ := http.NewRequest(http.MethodGet, "http://"+near.addr()+"/replay/orders?fromSeq=1", nil)
					q.Header.Set("Authorization", "Bearer "+theirs)
					if r, err := http.DefaultClient.Do(q); err != nil || r.StatusCode != http.StatusUnauthorized {
						t.Errorf("its history: %v, %v", r, err)
					}
				})
			}
			t.Run("a room", func(t *testing.T) {
				tok := bearing(t, "u9", jwt.MapClaims{"rooms": []string{"orders", "stock"}})
				c := wstest.Login(t, far.addr(), tok, "orders", "stock")
				if err := near.Revoke(t.Context(), proto.Revocation{User: "u9", Room: "orders", Reason: "moved"}); err != nil {
					t.Fatal(err)
				}
				var told []string
				for range 2 {
					f, err := c.Next()
					if err != nil {
						t.Fatal(err)
					}
					told = append(told, f.Event+" "+string(f.Data))
				}
				slices.Sort(told)
				if want := []string{`left {"rooms":["orders"]}`, `room.access.revoked {"room":"orders","reason":"moved"}`}; !slices.Equal(told, want) {
					t.Errorf("told %q, want %q", told, want)
				}
				e := emitter.New(redis.Settings())
				defer e.Close()
				for _, r := range []proto.Room{"orders", "stock"} {
					if _, err := e.SendToRoom(t.Context(), r, "n", 1); err != nil {
						t.Error(err)
					}
				}
				if f := c.Expect(t, "n"); f.Room != "stock" {
					t.Errorf("it hears %s", f.Room)
				}
				c.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
				var j proto.Joined
				if f := c.Expect(t, "joined"); json.Unmarshal(f.Data, &j) != nil || len(j.Denied) != 1 || j.Denied[0].Code != proto.CodeForbidden {
					t.Errorf("joined %s", f.Data)
				}
				c.Send("publish", map[string]any{"room": "orders", "event": "n", "data": 1}, "p")
				if f := c.Expect(t, "error"); !bytes.Contains(f.Data, []byte(proto.CodeForbidden)) {
					t.Errorf("published: %s", f.Data)
				}
				// So is a room that everybody is in, also for who comes later.
				if err := near.Revoke(t.Context(), proto.Revocation{User: "u9", Room: "ws-default"}); err != nil {
					t.Fatal(err)
				}
				for range 2 { // this node has heard of it
					if f, err := c.Next(); err != nil || f.Event != "left" && f.Event != "room.access.revoked" {
						t.Errorf("told %s %v", f.Event, err)
					}
				}
				again := wstest.Connect(t, far.addr())
				again.Send("authenticate", map[string]any{"token": tok}, "")
				again.Expect(t, "connected")
				for j = (proto.Joined{}); !j.Done; {
					if f := again.Expect(t, "joined"); json.Unmarshal(f.Data, &j) != nil {
						t.Fatalf("joined %s", f.Data)
					}
				}
				if !slices.Equal(j.Denied, []proto.DeniedRoom{{Room: "ws-default", Code: proto.CodeForbidden}}) {
					t.Errorf("a room that everybody is in: %+v", j)
				}
				again.Close()
				// A token that was issued later allows it again.
				c.Send("authenticate", map[string]any{"token": bearing(t, "u9", jwt.MapClaims{"iat": time.Now().Add(5 * time.Second).Unix()})}, "a")
				c.Expect(t, "refreshed")
				c.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
				if f := c.Expect(t, "joined"); json.Unmarshal(f.Data, &j) != nil || len(j.Rooms) != 1 {
					t.Errorf("joined %s", f.Data)
				}
			})
		})
	}
}

// TestRevocationIsKept: a revocation of which no node was told is found in the log, outlives the
// nodes, and is written again when Redis has lost it.
func TestRevocationIsKept(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	tok := token(t, "u1", proto.Grants{"*"}, nil)
	c := wstest.Login(t, n.addr(), tok)
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.Do(t.Context(), "XADD", "sg:{$ctl}:revoked", "*", "r", `{"user":"u1"}`).Err(); err != nil { // nobody is told
		t.Fatal(err)
	}
	expectRevoked(t, c, "")
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return rdb.XLen(t.Context(), "sg:{$ctl}:revoked").Val() == 1 }, "what was lost to be written again")
	refusedAsRevoked(t, n.addr(), tok, "")
	n.stop()
	refusedAsRevoked(t, run(t, settings(srv.Settings())).addr(), tok, "")
}

// TestRevokedMeanwhile: whoever connects, or joins, while it is revoked does not slip through.
func TestRevokedMeanwhile(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	var g sync.WaitGroup
	for i := range 40 {
		user := fmt.Sprint("u", i)
		tok := token(t, user, proto.Grants{"*"}, nil)
		g.Go(func() {
			c := wstest.Connect(t, n.addr())
			c.Send("authenticate", map[string]string{"type": "Bearer", "token": tok}, "")
			if i%2 == 1 {
				c.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
			}
			for {
				f, err := c.Next()
				if code, _ := wstest.Closed(err); code == proto.CloseRevoked && i%2 == 0 {
					return
				}
				if err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
				var j proto.Joined
				left := f.Event == "left" || f.Event == "joined" && f.ID == "j" && json.Unmarshal(f.Data, &j) == nil && len(j.Denied) == 1
				if i%2 == 1 && left {
					return
				}
			}
		})
		g.Go(func() {
			r := proto.Revocation{User: proto.UserID(user)}
			if i%2 == 1 {
				r.Room = "orders"
			}
			if err := n.Revoke(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
}

// TestStopped: a node that stood still while a client was revoked writes nothing to it when it
// wakes up, though events came meanwhile.
func TestStopped(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := startProcess(t, srv)
	e := emitter.New(srv.Settings())
	defer e.Close()
	tok := token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"})
	c := wstest.Login(t, n.addr, tok, "orders")
	stays := wstest.Login(t, n.addr, token(t, "u2", proto.Grants{"*"}, nil), "orders")
	_ = n.cmd.Process.Signal(syscall.SIGSTOP)
	if err := e.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
		t.Fatal(err)
	}
	pass(3 * time.Second)
	const events = 50
	for i := range events {
		if _, err := e.SendToRoom(t.Context(), "orders", "n", i); err != nil {
			t.Fatal(err)
		}
	}
	// What the client itself asks for meanwhile is not done either.
	c.Send("publish", map[string]any{"room": "orders", "event": "forbidden"}, "p")
	history := make(chan int, 1)
	go func() {
		q, _ := http.NewRequest(http.MethodGet, "http://"+n.addr+"/replay/orders?fromSeq=1", nil)
		q.Header.Set("Authorization", "Bearer "+tok)
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Error(err)
			history <- 0
			return
		}
		_ = r.Body.Close()
		history <- r.StatusCode
	}()
	pass(200 * time.Millisecond) // both are in the node's sockets
	_ = n.cmd.Process.Signal(syscall.SIGCONT)
	expectRevoked(t, c, "")
	for range events {
		stays.Expect(t, "n")
	}
	if status := <-history; status != http.StatusServiceUnavailable && status != http.StatusUnauthorized {
		t.Errorf("history is answered %d", status)
	}
	if _, err := e.SendToRoom(t.Context(), "orders", "last", 1); err != nil {
		t.Fatal(err)
	}
	stays.Expect(t, "last")
}

// TestStoppedBriefly: a client that is revoked while its node stands still, for less than the node notices, gets nothing that
// is sent two seconds after the revocation, and publishes nothing.
func TestStoppedBriefly(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	n := startProcess(t, srv)
	e := emitter.New(srv.Settings())
	defer e.Close()
	for i := range 3 {
		user := proto.UserID(fmt.Sprint("u", i))
		c := wstest.Login(t, n.addr, token(t, string(user), proto.Grants{"*"}, proto.Grants{"*"}), "orders")
		var sending sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		sending.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.SendToRoom(t.Context(), "orders", "n", time.Now().UnixMilli()); err != nil {
					t.Error(err)
				}
				<-time.After(20 * time.Millisecond)
			}
		})
		c.Expect(t, "n")
		_ = n.cmd.Process.Signal(syscall.SIGSTOP)
		if err := e.Revoke(t.Context(), proto.Revocation{User: user}); err != nil {
			t.Fatal(err)
		}
		revoked := time.Now().UnixMilli()
		pass(time.Duration(1000+i*200) * time.Millisecond)
		_ = n.cmd.Process.Signal(syscall.SIGCONT)
		var last int64
		for {
			f, err := c.Next()
			if err != nil {
				if code, _ := wstest.Closed(err); code != proto.CloseRevoked {
					t.Errorf("ended with %v", err)
				}
				break
			}
			if f.Event == "n" {
				last, _ = strconv.ParseInt(string(f.Data), 10, 64)
			}
		}
		stop()
		sending.Wait()
		if after := last - revoked; after > 2000 {
			t.Errorf("an event that was sent %d ms after the revocation came", after)
		}
	}
}

// TestStartsWithoutRedis: a node that has not read since its start what is revoked lets nobody in, exchanges no token and
// answers no question; it does all that as soon as it has.
func TestStartsWithoutRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	e := emitter.New(srv.Settings())
	defer e.Close()
	if err := e.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
		t.Fatal(err)
	}
	path, err := binary(true)
	if err != nil {
		t.Fatal(err)
	}
	revoked := func() string { // issued before that
		now := time.Now().Unix()
		return signed(t, secret, jwt.MapClaims{"sub": "u1", "aud": "signal", "iat": now - 60, "exp": now + 600, "rooms": []string{"*"}})
	}()
	good := token(t, "u2", proto.Grants{"*"}, nil)
	srv.Pause()
	n := launch(t, path, srv.Settings(), "APP_ENV_SIGNAL_ACCESS_SECRET="+secret)
	ask := func(method, path, token string) int {
		t.Helper()
		q, _ := http.NewRequest(method, "http://"+n.addr+path, nil)
		q.Header.Set("Authorization", "Bearer "+token)
		r, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode == http.StatusServiceUnavailable && r.Header.Get("Retry-After") == "" {
			t.Errorf("%s does not say when to come again", path)
		}
		return r.StatusCode
	}
	for range 3 {
		for _, token := range []string{revoked, good} {
			if c, r, err := wstest.Dial(t.Context(), n.addr, nil); err == nil {
				c.Cut()
				t.Error("somebody is let in")
			} else if r == nil || r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
				t.Errorf("refused with %v: want 503, and when to come again", err)
			}
			for path, method := range map[string]string{"/realtime/token": "POST", "/realtime/bootstrap": "GET", "/replay/orders?fromSeq=1": "GET", "/snapshot/orders": "GET"} {
				if status := ask(method, path, token); status != http.StatusServiceUnavailable {
					t.Errorf("%s is answered %d", path, status)
				}
			}
		}
		pass(time.Second) // more than trust lasts
	}
	srv.Resume()
	redistest.Wait(t, func() bool { status, _ := get(t, n.admin, "/readyz"); return status == 200 }, "the node to be ready")
	wstest.Login(t, n.addr, good)
	c := wstest.Connect(t, n.addr)
	c.Send("authenticate", map[string]string{"type": "Bearer", "token": revoked}, "")
	expectRevoked(t, c, "")
	if status := ask("POST", "/realtime/token", revoked); status != http.StatusUnauthorized {
		t.Errorf("a revoked token in exchange is answered %d", status)
	}
}

// TestLostLogOfMany: a Redis that has lost a long log gets it again while the nodes read on, each
// entry once.
func TestLostLogOfMany(t *testing.T) {
	srv := redistest.Start(t)
	rdb := srv.Client()
	defer rdb.Close()
	const many = 6_000
	p := rdb.Pipeline()
	for i := range many {
		p.Do(t.Context(), "XADD", "sg:{$ctl}:revoked", "*", "r", fmt.Sprintf(`{"user":"old-%d"}`, i), "t", time.Now().UnixMilli())
	}
	if _, err := p.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	slow, at := proxy(t, srv.Settings())
	if _, err := slow.Toxics.AddToxicJson(strings.NewReader(`{"name":"slow","type":"latency","stream":"downstream","attributes":{"latency":1}}`)); err != nil {
		t.Fatal(err)
	}
	n := run(t, settings(at))
	redistest.Wait(t, func() bool { return n.metric(t, "signal_revocations") == fmt.Sprint(many) }, "the log to be read")
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return rdb.XLen(t.Context(), "sg:{$ctl}:revoked").Val() >= many }, "the log to be written again")
	e := emitter.New(srv.Settings())
	defer e.Close()
	if err := e.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := c.Next()
		if err != nil {
			if code, _ := wstest.Closed(err); code != proto.CloseRevoked {
				t.Errorf("ended with %d, %v", code, err)
			}
			break
		}
		if f.Event != "degraded" && f.Event != "restored" && f.Event != "auth.revoked" && f.Event != "resync" {
			t.Errorf("told %s", f.Event)
		}
	}
	if l := rdb.XLen(t.Context(), "sg:{$ctl}:revoked").Val(); l > many+1 {
		t.Errorf("%d entries, want %d", l, many+1)
	}
}

// TestOldRevocationsAreForgotten: that one node cuts off the log is no loss to another one; and a
// revocation that was written when the clock of Redis was ahead does not hold the later ones up.
func TestOldRevocationsAreForgotten(t *testing.T) {
	srv := redistest.Start(t)
	rdb := srv.Client()
	defer rdb.Close()
	n := run(t, settings(srv.Settings()))
	old := time.Now().Add(-500 * 24 * time.Hour)
	for i := range 3 {
		rdb.Do(t.Context(), "XADD", "sg:{$ctl}:revoked", fmt.Sprintf("%d-%d", old.UnixMilli(), i+1), "r", fmt.Sprintf(`{"user":"old-%d"}`, i), "t", old.UnixMilli())
	}
	redistest.Wait(t, func() bool { return n.metric(t, "signal_revocations") == "3" }, "the log to be read")
	e := emitter.New(srv.Settings())
	defer e.Close()
	if err := e.ForgetRevocations(t.Context(), old.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return n.metric(t, "signal_revocations") == "0" }, "the old ones to be forgotten")
	if strings.Contains(n.log.String(), "Redis has lost") || rdb.XLen(t.Context(), "sg:{$ctl}:revoked").Val() != 0 {
		t.Error("they are written again")
	}
	ahead := time.Now().Add(time.Hour).UnixMilli()
	rdb.Do(t.Context(), "XADD", "sg:{$ctl}:revoked", fmt.Sprintf("%d-0", ahead), "r", `{"user":"x"}`, "t", ahead)
	if err := n.Revoke(t.Context(), proto.Revocation{User: "u1"}); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return n.metric(t, "signal_revocations") == "2" }, "both to be known")
	later := jwt.MapClaims{"iat": time.Now().Add(2 * time.Second).Unix()}
	wstest.Connect(t, n.addr())
	redistest.Wait(t, func() bool {
		c, _, err := wstest.Dial(t.Context(), n.addr(), nil)
		if err != nil {
			return false
		}
		defer c.Cut()
		return c.Login(bearing(t, "u1", later)) == nil
	}, "a token of later to be good")
}

// TestRoomsInTurn: who enters and leaves rooms without end is held up, since each is listened to for
// a while.
func TestRoomsInTurn(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
	in, limited := 0, 0
	for i := range 3 {
		var names []string
		for k := range 200 {
			names = append(names, fmt.Sprintf("r%d-%d", i, k))
		}
		c.Send("join", map[string]any{"rooms": names}, "j")
		for done := false; !done; {
			var j proto.Joined
			f := c.Expect(t, "joined")
			if err := json.Unmarshal(f.Data, &j); err != nil {
				t.Fatal(err)
			}
			in += len(j.Rooms)
			for _, d := range j.Denied {
				if d.Code == proto.CodeRateLimited {
					limited++
				}
			}
			done = j.Done
		}
		c.Send("leave", map[string]any{"rooms": names}, "l")
		c.Expect(t, "left")
	}
	if in < 200 || in > 400 || in+limited != 600 {
		t.Errorf("%d rooms were joined, %d held up, want 200 and some of 600", in, limited)
	}
}

// TestTokenExpires: a connection ends half a minute after its token, unless it has shown another
// one meanwhile.
func TestTokenExpires(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	old := jwt.MapClaims{"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(-28 * time.Second).Unix()}
	ends, stays := wstest.Login(t, n.addr(), bearing(t, "u1", old)), wstest.Login(t, n.addr(), bearing(t, "u1", old))
	stays.Send("authenticate", map[string]any{"token": bearing(t, "u1", nil)}, "a")
	stays.Expect(t, "refreshed")
	ends.ExpectClose(t, proto.CloseExpired)
	stays.Send("join", map[string]any{"rooms": []string{"orders"}}, "j")
	stays.Expect(t, "joined")
}

// TestRevokeOverHTTP: services without Go revoke too, and hear what is wrong with what they ask.
func TestRevokeOverHTTP(t *testing.T) {
	srv := redistest.Start(t)
	n := run(t, settings(srv.Settings()))
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, nil))
	for body, want := range map[string]int{
		`{}`: 400, `{"user":"u2","session":"s"}`: 400, `{"session":"s","room":"orders"}`: 400, `{"user":"a{b"}`: 400, `{"usr":"u1"}`: 400, ``: 400,
		`{"user":"u2"}`: 204, `{"user":"u2","room":"orders"}`: 204,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		q, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.addr()+"/api/revoke", bytes.NewReader([]byte(body)))
		q.Header.Set("Authorization", "Bearer "+secret)
		r, err := http.DefaultClient.Do(q)
		if err != nil || r.StatusCode != want {
			t.Errorf("%s: %v, %v, want %d", body, r, err, want)
		}
		cancel()
	}
	if out, err := command(t, reaching(srv.Settings()), "revoke", "--user", "u1", "--reason", "bye").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	expectRevoked(t, c, "bye")
}

// BenchmarkRevoke revokes 1,000 users, one after the other, each with a till on one of three
// nodes, while 50 events a second go to a room that all of them are in: 50,000 deliveries. It tells how long
// after the call the till's connection ended.
func BenchmarkRevoke(b *testing.B) {
	const users, perSecond = 1000, 50
	for name, srv := range redistest.Each(b) {
		b.Run(name, func(b *testing.B) {
			path, err := binary(false)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				var tills []*wstest.Client
				var nodes []*process
				for range 3 {
					nodes = append(nodes, startNode(b, path, srv, "APP_ENV_SIGNAL_LIMITS=off"))
				}
				for i := range users {
					tills = append(tills, wstest.Login(b, nodes[i%len(nodes)].addr, token(b, fmt.Sprint("u", i), proto.Grants{"*"}, nil), "orders"))
				}
				ended := make([]chan time.Time, users)
				for i, c := range tills {
					ended[i] = make(chan time.Time, 1)
					go func() {
						for {
							if _, err := c.Next(); err != nil {
								if code, _ := wstest.Closed(err); code == proto.CloseRevoked {
									ended[i] <- time.Now()
								}
								close(ended[i])
								return
							}
						}
					}()
				}
				e := emitter.New(srv.Settings())
				ctx, stop := context.WithCancel(context.Background())
				var load sync.WaitGroup
				load.Go(func() {
					tick := time.NewTicker(time.Second / perSecond)
					defer tick.Stop()
					for ctx.Err() == nil {
						<-tick.C
						load.Go(func() { _, _ = e.SendToRoom(ctx, "orders", "n", 1, emitter.Live()) })
					}
				})
				var took []time.Duration
				for i := range users {
					began := time.Now()
					if err := e.Revoke(b.Context(), proto.Revocation{User: proto.UserID(fmt.Sprint("u", i))}); err != nil {
						b.Fatal(err)
					}
					at, revoked := <-ended[i]
					if !revoked {
						b.Fatalf("u%d was ended by something else", i)
					}
					took = append(took, at.Sub(began))
				}
				stop()
				load.Wait()
				_ = e.Close()
				for _, n := range nodes {
					n.end(b, syscall.SIGTERM)
				}
				slices.Sort(took)
				for _, p := range []float64{50, 99, 100} {
					b.ReportMetric(percentile(took, p).Seconds()*1000, fmt.Sprintf("p%v-ms", p))
				}
			}
		})
	}
}

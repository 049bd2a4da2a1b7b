package signal_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestUsersOfRedis: the users of deploy/redis/users.acl can do what they are for, and nothing
// beyond it (RELIABILITY 4.2 and 4.3, input 109).
func TestUsersOfRedis(t *testing.T) {
	shipped, err := os.ReadFile("../deploy/redis/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(shipped), "user default off\n") {
		t.Error("whoever gives no name is let in")
	}
	path := filepath.Join(t.TempDir(), "users.acl") // the test itself has no name
	rules := strings.Replace(string(shipped), "user default off", "user default on nopass ~* &* +@all", 1)
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := redistest.Start(t, "--aclfile", path)
	as := func(user string) emitter.Settings {
		at := srv.Settings()
		at.Username, at.Password = "signal-"+user, emitter.Secret("change-me-"+user)
		return at
	}
	cfg := settings(as("node"))
	cfg.Ignis = "off"
	n := run(t, cfg)
	c := wstest.Login(t, n.addr(), token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"}), "order.42", "payments")
	orders, all := emitter.New(as("orders")), emitter.New(as("all"))
	defer orders.Close()
	defer all.Close()
	if err := errors.Join(orders.Check(t.Context()), all.Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time what the first one wrote is there
		for _, o := range [][]emitter.Option{nil, {emitter.Live()}} {
			if _, err := orders.SendToRoom(t.Context(), "order.42", "paid", 1, o...); err != nil {
				t.Error(err)
			}
			c.Expect(t, "paid")
		}
	}
	if nodes, err := orders.Ping(t.Context()); err != nil || nodes != 1 {
		t.Errorf("%d nodes, %v", nodes, err)
	}
	for what, send := range map[string]func() error{
		"another service's room": func() error { _, err := orders.SendToRoom(t.Context(), "payments", "forged", 1); return err },
		"that, live": func() error {
			_, err := orders.SendToRoom(t.Context(), "payments", "forged", 1, emitter.Live())
			return err
		},
		"everyone":     func() error { _, err := orders.Broadcast(t.Context(), "forged", 1); return err },
		"a user":       func() error { _, err := orders.SendToUser(t.Context(), "u1", "forged", 1); return err },
		"a client":     func() error { _, err := orders.SendToClient(t.Context(), c.ID, "forged", 1); return err },
		"a revocation": func() error { return orders.Revoke(t.Context(), proto.Revocation{User: "u1"}) },
	} {
		if err := send(); !errors.Is(err, emitter.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", what, err)
		}
	}
	for user, forbidden := range map[string][]string{
		"orders": {"EVAL return_1 0", "CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SUBSCRIBE sg:{order.42}:ch", "HSET sg:{$ctl}:cfg a b", "DEL sg:{$ctl}:cfg",
			"XADD sg:{$ctl}:revoked * r {}", "HSET sg:{$ctl}:nodes a b", "DEL sg:{$ctl}:nodes", "SET sg:{$ctl}:nodes x", "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "GET sg:{payments}:at", "LRANGE sg:{order.42}:log 0 -1", "SHUTDOWN", "SET other 1"},
		"node": {"CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SHUTDOWN", "SET other 1", "SUBSCRIBE other", "MONITOR"},
		"all":  {"CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SHUTDOWN", "SUBSCRIBE sg:{payments}:ch", "SET other 1"},
	} {
		s := as(user)
		rdb := redis.NewClient(&redis.Options{Addr: s.Addr(), Username: s.Username, Password: string(s.Password)})
		defer rdb.Close()
		for _, command := range forbidden {
			var args []any
			for word := range strings.FieldsSeq(command) {
				args = append(args, word)
			}
			if err := rdb.Do(t.Context(), args...).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
				t.Errorf("%s: %s is answered %v", user, command, err)
			}
		}
	}
	// The right to the original's channels is one of its own.
	mirror := as("all")
	mirror.Mirror = true
	mirroring := emitter.New(mirror)
	defer mirroring.Close()
	if err := mirroring.Check(t.Context()); !errors.Is(err, emitter.ErrRefused) || !strings.Contains(err.Error(), "ws:*") {
		t.Errorf("mirrors without the right: %v", err)
	}
	rdb := srv.Client()
	defer rdb.Close()
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "signal-all", "&ws:*").Err(); err != nil {
		t.Fatal(err)
	}
	if err := mirroring.Check(t.Context()); err != nil {
		t.Errorf("with it: %v", err)
	}
	if _, err := mirroring.SendToRoom(t.Context(), "order.42", "mirrored", 1); err != nil {
		t.Error(err)
	}
	c.Expect(t, "mirrored")
	at := as("orders")
	at.Password = "wrong"
	stranger := emitter.New(at)
	defer stranger.Close()
	if err := stranger.Check(t.Context()); !errors.Is(err, emitter.ErrRefused) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := all.SendToRoom(t.Context(), "payments", "n", 1); err != nil {
		t.Fatal(err)
	}
	c.Expect(t, "n") // nothing else came before
}

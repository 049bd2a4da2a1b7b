package signal_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// TestSecuredRedis: nodes and services reach a Redis that speaks TLS only, asks for a certificate
// and knows a user for us, as their variables say; also when a master is killed.
func TestSecuredRedis(t *testing.T) {
	pair := redistest.NewPair(t)
	single, cluster := redistest.StartTLS(t, pair), redistest.StartClusterTLS(t, pair)
	for name, c := range map[string]struct {
		redis   redistest.Redis
		servers []*redistest.Server
	}{"single": {single, []*redistest.Server{single}}, "cluster": {cluster, cluster.Servers}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, s := range c.servers {
				rdb := s.Client()
				defer rdb.Close()
				for user, shipped := range map[string]string{"node": "signal-node", "sale": "signal-all"} {
					rule := []any{"ACL", "SETUSER", user, ">pw"}
					for _, r := range rightsOf(t, shipped) {
						rule = append(rule, r)
					}
					if user == "node" { // it listens to the original
						rule = append(rule, "allchannels")
					}
					if err := rdb.Do(t.Context(), rule...).Err(); err != nil {
						t.Fatal(err)
					}
				}
			}
			env := []string{"USERNAME=node", "PASSWORD=pw", "TLS=true", "TLS_CA=" + pair.CA, "TLS_CERT=" + pair.Cert, "TLS_KEY=" + pair.Key}
			for i := range env {
				env[i] = emitter.EnvPrefix + env[i]
			}
			n := startProcess(t, c.redis, env...)
			var tills []*wstest.Client
			for i := range 12 { // of all masters
				room := proto.Room(fmt.Sprint("room", i))
				tills = append(tills, wstest.Login(t, n.addr, token(t, "u1", proto.Grants{"*"}, nil), room))
			}
			service := slices.Concat(reaching(c.redis.Settings()), env, []string{emitter.EnvPrefix + "USERNAME=sale"})
			arrives := func(event string) {
				t.Helper()
				for i, till := range tills {
					if out, err := command(t, service, "send", "--room", fmt.Sprint("room", i), event).CombinedOutput(); err != nil {
						t.Errorf("%v: %s", err, out)
						continue
					}
					until(t, till, event) // it may be told of a loss before
				}
			}
			arrives("before")
			if c.redis == redistest.Redis(cluster) {
				cluster.KillMaster(cluster.Master("room0"))
				arrives("after")
			}
			for says, as := range map[string][]string{"takes events": service, "to Redis and back": slices.Concat(reaching(c.redis.Settings()), env)} {
				out, err := command(t, as, "doctor").CombinedOutput()
				if _, found := err.(*exec.ExitError); err != nil && !found || !strings.Contains(string(out), "1 nodes live") || !strings.Contains(string(out), says) {
					t.Errorf("%v, the doctor says\n%s, want %q", err, out, says)
				}
			}
			out, err := command(t, slices.Concat(service, []string{emitter.EnvPrefix + "TLS_CA=" + redistest.NewPair(t).CA}), "send", "--all", "e").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "certificate signed by unknown authority") {
				t.Errorf("another signer: %v, %s", err, out)
			}
		})
	}
}

// rightsOf are a user's in deploy/redis/users.acl.
func rightsOf(t *testing.T, user string) []string {
	t.Helper()
	b, err := os.ReadFile("../deploy/redis/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); len(words) > 2 && words[1] == user {
			return words[2:]
		}
	}
	t.Fatalf("there is no user %s", user)
	return nil
}

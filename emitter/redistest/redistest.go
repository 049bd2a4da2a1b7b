// Package redistest starts real Redis servers for tests, and says at the end
// whether the tests left goroutines behind.
package redistest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
)

// Patience bounds every wait of this package.
const Patience = 20 * time.Second

// A Server is one redis-server of a test, on a port of its own, in a directory of
// its own. It ends with the test.
type Server struct {
	Addr string

	fatal func(a ...any)
	dir   string
	args  []string
	tls   *tls.Config // nil for none
	cmd   *exec.Cmd
}

// A Redis is a Server or a Cluster.
type Redis interface {
	// Settings are those of a participant.
	Settings() emitter.Settings
	// Kill ends it at once, Restart starts it again.
	Kill()
	Restart(args ...string)
	// Pause stops it without closing its connections, until Resume.
	Pause()
	Resume()
	// Subscribed says how many connections listen to a channel of ours.
	Subscribed(channel string) int64
	// Publishes counts the messages that it is asked to publish from now on, without those by
	// which nodes listen to themselves: n says how many it was so far.
	Publishes(tb testing.TB) (n func() int)
}

// Each starts one of every kind, by its name.
func Each(tb testing.TB) map[string]Redis {
	return map[string]Redis{"single": Start(tb), "cluster": StartCluster(tb)}
}

// Start starts a single redis-server; args are added to its command line. Without
// a redis-server the test is skipped, or fails if SIGNAL_TEST_REDIS=required.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return startServer(tb, nil, args)
}

// StartTLS starts a single redis-server that speaks TLS only, to clients with a certificate of
// who has signed the pair.
func StartTLS(tb testing.TB, p Pair) *Server {
	tb.Helper()
	return startServer(tb, p.Config(tb), p.args())
}

func startServer(tb testing.TB, secure *tls.Config, args []string) *Server {
	tb.Helper()
	need(tb)
	s := start(tb.Fatal, tb.TempDir(), secure, args)
	tb.Cleanup(s.Kill)
	return s
}

func start(fatal func(a ...any), dir string, secure *tls.Config, args []string) *Server {
	s := &Server{Addr: freeAddr(fatal), fatal: fatal, dir: dir, tls: secure, args: args}
	s.Restart()
	return s
}

func need(tb testing.TB) {
	tb.Helper()
	if !installed() {
		if required() {
			tb.Fatal(missing)
		}
		tb.Skip(missing)
	}
}

const missing = "redis-server is not installed: apt-get install redis-server"

func installed() bool {
	_, err := exec.LookPath("redis-server")
	return err == nil
}

func required() bool { return os.Getenv("SIGNAL_TEST_REDIS") == "required" }

// Restart starts the server on its old address, with what it has saved, and waits until it
// answers. More args are for this time only.
func (s *Server) Restart(args ...string) {
	_, port, _ := net.SplitHostPort(s.Addr)
	listen := []string{"--port", port}
	if s.tls != nil {
		listen = []string{"--port", "0", "--tls-port", port}
	}
	s.cmd = exec.Command("redis-server", slices.Concat(listen, []string{"--bind", "127.0.0.1", "--dir", s.dir,
		"--logfile", filepath.Join(s.dir, "log"), "--save", "", "--appendonly", "no"}, s.args, args)...)
	// If the test dies, its server does too.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.fatal(err)
	}
	rdb := s.Client()
	defer rdb.Close()
	var err error
	if !Eventually(func() bool {
		err = rdb.Ping(context.Background()).Err()
		return err == nil || redis.HasErrorPrefix(err, "NOAUTH") || redis.HasErrorPrefix(err, "NOPERM")
	}) {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		s.fatal(fmt.Sprintf("redis-server on %s does not answer: %v\n%s", s.Addr, err, log))
	}
}

// Kill ends the server at once, as kill -9 does.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Elsewhere starts the server on another address, with what it has saved, where nobody looks for
// it. It is called while the server is down, and killed before that one restarts.
func (s *Server) Elsewhere() *Server {
	return start(s.fatal, s.dir, s.tls, s.args)
}

// Forget removes what the server has saved, so that it restarts empty. It is called while
// the server is down.
func (s *Server) Forget() {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if e.Name() != "log" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	if err != nil {
		s.fatal(err)
	}
}

// LoseTail cuts the last bytes off the append-only file, as a machine does that goes down
// before they are on its disk. It is called while the server is down.
func (s *Server) LoseTail(bytes int64) {
	files, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir", "*.incr.aof"))
	var last string
	var size int64
	var at time.Time
	for _, f := range files {
		if info, serr := os.Stat(f); serr == nil && info.ModTime().After(at) {
			last, size, at = f, info.Size(), info.ModTime()
		}
	}
	if err = errors.Join(err, os.Truncate(last, max(size-bytes, 0))); err != nil {
		s.fatal(err)
	}
}

// Pause stops the server: see Redis.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Settings are those of a participant on this server.
func (s *Server) Settings() emitter.Settings {
	return emitter.Settings{Addrs: []string{s.Addr}, TLS: s.tls}
}

// Client is a plain client for looking at what is there, with more patience than a participant has.
// The caller closes it.
func (s *Server) Client() *redis.Client {
	o := s.Settings().Options(s.Addr)
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = Patience, Patience, Patience
	return redis.NewClient(o)
}

// Publishes counts: see Redis.
func (s *Server) Publishes(tb testing.TB) (n func() int) {
	tb.Helper()
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_, _ = c.Write([]byte("MONITOR\r\n"))
	lines := bufio.NewScanner(c)
	if !lines.Scan() || lines.Text() != "+OK" {
		tb.Fatalf("MONITOR: %q, %v", lines.Text(), lines.Err())
	}
	published := 0
	return func() int {
		const mark = "redistest: so far"
		rdb := s.Client()
		defer rdb.Close()
		if err := rdb.Publish(tb.Context(), mark, "").Err(); err != nil {
			tb.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(Patience))
		for lines.Scan() {
			switch m := publish.FindStringSubmatch(lines.Text()); {
			case m == nil || strings.Contains(m[1], "{$canary:") || strings.Contains(m[1], "{$ctl}"):
			case m[1] == mark:
				return published
			default:
				published++
			}
		}
		tb.Fatal(lines.Err())
		return 0
	}
}

var publish = regexp.MustCompile(`(?i)\] "s?publish" "([^"]*)"`)

// Subscribed says how many connections listen to a channel.
func (s *Server) Subscribed(channel string) int64 {
	rdb := s.Client()
	defer rdb.Close()
	n, err := rdb.PubSubNumSub(context.Background(), channel).Result()
	if err != nil {
		s.fatal(err)
	}
	return n[channel]
}

// Eventually waits until is is true, at most for Patience, and says whether it
// became so.
func Eventually(is func() bool) bool {
	for end := time.Now().Add(Patience); ; time.Sleep(2 * time.Millisecond) {
		if is() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Wait fails the test unless is becomes true; the words say what was waited for.
func Wait(tb testing.TB, is func() bool, format string, a ...any) {
	tb.Helper()
	if !Eventually(is) {
		tb.Fatal("waited in vain: " + fmt.Sprintf(format, a...))
	}
}

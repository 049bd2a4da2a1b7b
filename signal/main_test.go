package signal_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/js"
)

// TestMain runs the tests, or plays the emitter of one in a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SIGNAL_TEST_ROLE") != "" {
		if err := playEmitter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var err error
	if built, err = os.MkdirTemp("", "signal-test"); err != nil {
		panic(err)
	}
	code := redistest.Run(m)
	_ = os.RemoveAll(built)
	os.Exit(code)
}

var built string // where binary builds

// An order tells a playing emitter what to send, Count times; the data is
// {"from": …, "n": 0, 1, 2, …}.
type order struct {
	Kind   proto.TargetKind
	Name   string
	Event  proto.EventName
	Count  int
	Except []proto.ClientID
}

func (o order) target() proto.Target {
	switch o.Kind {
	case proto.KindClient:
		return proto.ToClient(proto.ClientID(o.Name))
	case proto.KindUser:
		return proto.ToUser(proto.UserID(o.Name))
	case proto.KindRoom:
		return proto.ToRoom(proto.Room(o.Name))
	}
	return proto.ToEveryone()
}

// A result is what became of an order: receivers of the last event, or its error.
type result struct {
	Receivers int
	Error     string
}

// A serial is the data of an event in a count.
type serial struct {
	From string `json:"from"`
	N    int    `json:"n"`
}

func playEmitter() error {
	ctx := context.Background()
	e, err := emitter.FromEnv(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		var r result
		for n := range o.Count {
			receipt, err := e.Send(ctx, o.target(), o.Event, serial{fmt.Sprint(os.Getpid()), n}, emitter.Except(o.Except...))
			r.Receivers = receipt.Receivers
			if err != nil {
				r.Error = err.Error()
			}
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// player starts this program in a process of its own, in a role of TestMain's. It reads
// lines and answers each with one.
func player(t testing.TB, role string, env ...string) (in io.Writer, out *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "SIGNAL_TEST_ROLE="+role), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	})
	return stdin, bufio.NewReader(stdout)
}

// emitterProcess starts an emitter in a process of its own, and returns how to give it
// orders.
func emitterProcess(t *testing.T, at emitter.Settings) func(order) result {
	t.Helper()
	in, out := player(t, "emitter", reaching(at)...)
	return func(o order) (r result) {
		o.Count = max(o.Count, 1)
		if err := json.NewEncoder(in).Encode(o); err != nil {
			t.Error(err)
			return r
		}
		if line, err := out.ReadBytes('\n'); err != nil || json.Unmarshal(line, &r) != nil {
			t.Errorf("the emitter said %q, %v", line, err)
		}
		return r
	}
}

// reaching is the variables of a process that uses a Redis.
func reaching(at emitter.Settings) []string {
	mode := at.Mode
	if mode == "" {
		mode = emitter.Single
	}
	return []string{emitter.EnvPrefix + "ADDRS=" + strings.Join(at.Addrs, ","), emitter.EnvPrefix + "MODE=" + string(mode)}
}

// binary builds the product once for all tests, with the race detector or, for
// benchmarks, as it is shipped.
func binary(race bool) (string, error) {
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(built, fmt.Sprintf("signal-race-%t", race))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.Command("go", "build", fmt.Sprintf("-race=%t", race), "-o", path, "./cmd/signal").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
}

var building sync.Mutex

// must is for what cannot fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func unixNow() int64 { return time.Now().Unix() }

// command is the product with nothing of ours in its environment but env.
func command(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary(true)
	if err != nil {
		t.Fatal(err)
	}
	return prepare(path, env, args)
}

func prepare(path string, env, args []string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "APP_ENV_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// settled is a Redis of whatever kind.
type settled interface{ Settings() emitter.Settings }

// A process is a node in a process of its own.
type process struct {
	addr, admin string
	id          proto.NodeID
	cmd         *exec.Cmd
	ended       chan error
	listener
}

// onEach runs a test on every kind of Redis.
func onEach(t *testing.T, test func(*testing.T, redistest.Redis)) {
	for name, redis := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, redis)
		})
	}
}

// onAll is onEach, and on the embedded Redis too.
func onAll(t *testing.T, test func(*testing.T, server)) {
	for name, redis := range eachRedis(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, redis)
		})
	}
}

// startProcess runs signal serve, with more variables if given, and returns when it is
// ready.
func startProcess(t *testing.T, srv settled, env ...string) *process {
	t.Helper()
	path, err := binary(true)
	if err != nil {
		t.Fatal(err)
	}
	return startNode(t, path, srv, env...)
}

func startNode(t testing.TB, path string, srv settled, env ...string) *process {
	t.Helper()
	p := launch(t, path, srv.Settings(), env...)
	redistest.Wait(t, func() bool { status, _ := get(t, p.admin, "/readyz"); return status == 200 }, "the node to be ready")
	return p
}

// launch runs signal serve and returns when it listens.
func launch(t testing.TB, path string, at emitter.Settings, env ...string) *process {
	t.Helper()
	return launchAs(t, []string{path, "serve"}, at, env...)
}

// launchAs is launch by a command of its own.
func launchAs(t testing.TB, command []string, at emitter.Settings, env ...string) *process {
	t.Helper()
	p := &process{ended: make(chan error, 1)}
	p.cmd = prepare(command[0], append([]string{
		"APP_ENV_SIGNAL_ADDR=127.0.0.1:0", "APP_ENV_SIGNAL_ADMIN_ADDR=127.0.0.1:0", "APP_ENV_SIGNAL_JWT_SECRET=" + secret,
		"APP_ENV_SIGNAL_API_KEY=" + secret,
		"APP_ENV_SIGNAL_LIMIT_HANDSHAKES=0", "APP_ENV_SIGNAL_LIMIT_ADDRESS_EARLY=0", "APP_ENV_SIGNAL_LIMIT_USER_CONNECTIONS=0", // all tills of a test have one address, and some one user
	}, slices.Concat(reaching(at), env)...), command[1:])
	logs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	go func() {
		for in := bufio.NewScanner(logs); in.Scan(); {
			var line struct {
				Msg, Addr, Node string
				AdminAddr       string `json:"admin_addr"`
			}
			if json.Unmarshal(in.Bytes(), &line) != nil || strings.Contains(in.Text(), "DATA RACE") || leaked.MatchString(in.Text()) {
				t.Errorf("node said: %s", in.Text())
			}
			p.add(in.Text())
			if line.Msg == "node started" {
				p.addr, p.admin, p.id = line.Addr, line.AdminAddr, proto.NodeID(line.Node)
				close(started)
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() { p.end(t, syscall.SIGTERM) })
	select {
	case <-started:
	case err := <-p.ended:
		t.Fatalf("the node ended: %v", err)
	}
	return p
}

// end sends a signal and waits for the process, once.
func (p *process) end(t testing.TB, with syscall.Signal) {
	t.Helper()
	if p.cmd.ProcessState != nil || p.ended == nil {
		return
	}
	_ = p.cmd.Process.Signal(with)
	if err := <-p.ended; err != nil && with == syscall.SIGTERM {
		t.Errorf("the node ended with %v", err)
	}
	p.ended = nil
}

// TestClientKnowsTheCloseCodes: what the browser's client does after a close code is what
// the table says.
func TestClientKnowsTheCloseCodes(t *testing.T) {
	want := map[string]string{}
	for _, c := range proto.Closes {
		if c.Reconnect != proto.ReconnectBackoff { // which is for every other code
			want[strconv.Itoa(int(c.Code))] = string(c.Reconnect)
		}
	}
	_, table, _ := strings.Cut(string(js.Client), "export const closes =")
	table, _, _ = strings.Cut(table, "})")
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(\d{4}): '(\w+)'`).FindAllStringSubmatch(table, -1) {
		got[m[1]] = m[2]
	}
	if !maps.Equal(got, want) {
		t.Errorf("the client has %v, the table %v", got, want)
	}
}

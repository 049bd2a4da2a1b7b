//go:build linux

package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A Process is a server that was started to be measured, or for one that is.
type Process struct {
	Addr string
	cmd  *exec.Cmd
	said *bytes.Buffer
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop ends the process and waits for it.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(15*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait()
}

// StartRedis starts a redis-server that keeps nothing. It fails if there is none.
func StartRedis(ctx context.Context) (*Process, error) {
	addr := freeAddr()
	_, port, _ := net.SplitHostPort(addr)
	return start(ctx, addr, nil, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
}

// StartNode starts a node with these variables on free addresses.
func StartNode(ctx context.Context, program string, variables ...string) (*Process, error) {
	addr, admin := freeAddr(), freeAddr()
	env := append(os.Environ(), "APP_ENV_SIGNAL_ADDR="+addr, "APP_ENV_SIGNAL_ADMIN_ADDR="+admin,
		"APP_ENV_SIGNAL_LIMITS=off", "APP_ENV_SIGNAL_LOG_LEVEL=error")
	return start(ctx, addr, append(env, variables...), func() bool {
		r, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	}, program, "serve")
}

func start(ctx context.Context, addr string, env []string, ready func() bool, program string, args ...string) (*Process, error) {
	p := &Process{Addr: addr, cmd: exec.Command(program, args...), said: &bytes.Buffer{}}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, p.said, p.said
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); !ready(); {
		if err := sleep(ctx, 20*time.Millisecond); err != nil || time.Now().After(end) {
			p.Stop()
			return nil, fmt.Errorf("%s on %s is not ready after 10 s: %s", program, addr, p.said)
		}
	}
	return p, nil
}

// freeAddr is an address of this machine on which nobody listens, below those that the system gives to
// connections: a till could take it before the node does.
func freeAddr() string {
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(22_000)))
		if err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
	return "127.0.0.1:0"
}

package signal_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/js"
)

// startDemo runs signal dev and returns the page's address.
func startDemo(t *testing.T, args ...string) string {
	t.Helper()
	cmd := command(t, nil, append([]string{"dev", "--page", "127.0.0.1:0"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for in := bufio.NewScanner(out); in.Scan(); {
			if _, url, ok := strings.Cut(in.Text(), "The page     "); ok {
				found <- url
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("signal dev: %v", err)
		}
	})
	select {
	case url := <-found:
		return url
	case <-ended:
		t.Fatal("signal dev ended without a page")
		return ""
	}
}

func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("SIGNAL_TEST_BROWSER") == "required" {
			t.Fatal("chromium is not installed, and SIGNAL_TEST_BROWSER=required")
		}
		t.Skip("chromium is not installed: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(1280, 800), chromedp.UserDataDir(t.TempDir()))
	all, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(all)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // starts it, without a deadline
		t.Fatal(err)
	}
	return ctx
}

// A tab is the demo page in a real browser.
type tab struct {
	*testing.T
	ctx context.Context
}

func openTab(t *testing.T, url string) *tab {
	t.Helper()
	ctx, done := context.WithTimeout(browser(t), 90*time.Second)
	t.Cleanup(done)
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	return &tab{t, ctx}
}

// openScript opens a page of its own, which may import client.js and sealed.js.
func openScript(t *testing.T, script string, a ...any) *tab {
	t.Helper()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch source, known := map[string][]byte{"/client.js": js.Client, "/sealed.js": js.Sealed}[r.URL.Path]; {
		case known:
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = w.Write(source)
		default:
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<script type="module">`+script+`</script>`, a...)
		}
	}))
	t.Cleanup(page.Close)
	return openTab(t, page.URL)
}

// until waits until the script is true in the page.
func (p *tab) until(what, script string, a ...any) {
	p.Helper()
	if ok, err := chromedp.Run(p.ctx, chromedp.Poll[bool](fmt.Sprintf(script, a...))); err != nil || !ok {
		p.Fatalf("waited in vain until %s: %v", what, err)
	}
}

func (p *tab) click(id string) {
	p.Helper()
	if err := chromedp.Do(p.ctx, chromedp.Click(chromedp.CSS(id))); err != nil {
		p.Fatal(err)
	}
}

// events is how many events a pane lists.
func (p *tab) events(pane string) int {
	p.Helper()
	n, err := chromedp.Run(p.ctx, chromedp.Evaluate[int]("document.querySelectorAll('#"+pane+" li').length"))
	if err != nil {
		p.Fatal(err)
	}
	return n
}

const (
	status = "document.querySelector('#%s .status')?.textContent === '%s'"
	events = "document.querySelectorAll('#%s li').length === %d"
	lists  = "document.querySelector('#%s li')?.textContent.includes('%s')"
)

// TestClientInBrowser: what comes for a user while their page is away comes to it when it is back, and it
// is told of each state once.
func TestClientInBrowser(t *testing.T) {
	srv := redistest.Start(t)
	cfg := settings(srv.Settings())
	cfg.AllowedOrigins = []string{"*"}
	n := run(t, cfg)
	p := openScript(t, `
		import { Client } from './client.js'
		window.got = []
		class Kept extends WebSocket { constructor(url) { super(url); window.socket = this } }
		window.client = new Client({ url: 'ws://%s/ws', token: () => '%s', state: (s) => got.push(s), random: () => 3, WebSocket: Kept })
		client.join('$user', { event: (f) => got.push(f.data), resync: (reason) => got.push(reason) })
		client.join('$broadcast', { event: (f) => got.push(f.data) })
		window.fresh = 0
		for (let i = 0; i < 150; i++) client.join('r' + i, { event: () => {}, resync: () => fresh++ })`, n.addr(), token(t, "u1", proto.Grants{"r*"}, nil))
	p.until("the page has joined", "got.at(-1) === 'connected' && fresh === 150")
	if _, err := n.SendToUser(t.Context(), "u1", "n", 1); err != nil {
		t.Fatal(err)
	}
	p.until("it hears", "got.at(-1) === 1")
	p.until("its connection is lost", "socket.close() || true")
	p.until("it has noticed", "got.includes('reconnecting')")
	if _, err := n.SendToUser(t.Context(), "u1", "n", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Broadcast(t.Context(), "n", 3); err != nil {
		t.Fatal(err)
	}
	p.until("it has what it missed", "got.includes(2) && got.includes(3)")
	if _, err := n.Broadcast(t.Context(), "n", 4); err != nil {
		t.Fatal(err)
	}
	p.until("it hears again", "got.includes(4)")
	p.until("it was told of no other room again", "fresh === 150")
	got, err := chromedp.Run(p.ctx, chromedp.Evaluate[string]("got.filter((x) => typeof x === 'string').join(' ')"))
	if want := "connecting fresh connected reconnecting connected"; err != nil || got != want {
		t.Errorf("it is told %q, %v, want %q", got, err, want)
	}
}

// TestPage tries the demo as a person does.
func TestPage(t *testing.T) {
	p := openTab(t, startDemo(t, "--nodes", "127.0.0.1:0,127.0.0.1:0", "--redis", "127.0.0.1:0"))
	panes := []string{"till", "admin"} // on two nodes
	for _, pane := range panes {
		p.until(pane+" is connected", status, pane, "connected")
	}
	p.click("#sale")
	for _, pane := range panes {
		p.until(pane+" hears of the sale", lists, pane, "order.paid")
	}
	p.click("#ping")
	p.until("the API answers as the seed's", `document.querySelector('#answer').textContent.includes('{"message":"pong"}')`)
	for _, pane := range panes {
		p.until(pane+" hears the time", lists, pane, "sendTime")
	}

	// The seed's problem: nodes without a common bus.
	p.click("#bus")
	p.until("the second node has lost the bus", status, "admin", "degraded")
	till, admin := p.events("till"), p.events("admin")
	p.click("#sale")
	p.until("the first node still hears", events, "till", till+1)
	if n := p.events("admin"); n != admin {
		t.Errorf("the node without the bus heard %d events", n-admin)
	}
	p.click("#bus")
	p.until("it is back", status, "admin", "connected")
	p.until("and hears what it missed", events, "admin", admin+1)
	p.click("#sale")
	p.until("and what comes", events, "admin", admin+2)
	if dir := os.Getenv("SIGNAL_TEST_SCREENSHOTS"); dir != "" {
		png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "page.png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPageStatus stops a node: its pane says so at once, the other one does not, and
// it connects again when the node is back. The page and the nodes are processes of
// their own here.
func TestPageStatus(t *testing.T) { onEach(t, pageStatus) }

func pageStatus(t *testing.T, srv redistest.Redis) {
	env := []string{"APP_ENV_SIGNAL_JWT_SECRET=signal dev: everybody knows this secret", "APP_ENV_SIGNAL_JWT_MAX_LIFETIME=24h", "APP_ENV_SIGNAL_ALLOWED_ORIGINS=*"}
	a, b := startProcess(t, srv, env...), startProcess(t, srv, env...)
	p := openTab(t, startDemo(t, "--role", "api", "--redis", strings.Join(srv.Settings().Addrs, ","), "--nodes", a.addr+","+b.addr))
	p.until("the till is connected", status, "till", "connected")
	p.until("the admin page is connected", status, "admin", "connected")
	b.end(t, syscall.SIGTERM)
	p.until("the admin page reconnects", status, "admin", "reconnecting")
	p.until("the till does not", status, "till", "connected")
	startProcess(t, srv, append(env, "APP_ENV_SIGNAL_ADDR="+b.addr)...)
	p.until("the admin page is connected again", status, "admin", "connected")
	p.click("#sale")
	p.until("and hears of the sale", lists, "admin", "order.paid")
}

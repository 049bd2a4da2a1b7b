package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/bus"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/js"
)

//go:embed page
var page embed.FS

// devSecret signs the tokens of signal dev. It is public, so dev listens on loopback
// only.
const devSecret = "signal dev: everybody knows this secret"

// updates is the room of the demo, and of the article that it comes from (S3-14).
const updates proto.Room = "com.scaling-ws.updates"

// A demo is what signal dev runs: any of a Redis, two nodes, and a service with a page.
type demo struct {
	page    string
	nodes   []string // addresses
	redis   []string // the same
	role    string
	gate    *gate // to Redis, of the second node; nil without it
	emitter *emitter.Emitter
}

func dev() *cobra.Command {
	var d demo
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run Redis, two nodes, a Sale service and a page to try them, on loopback",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"all", "api", "ws"}, d.role) {
				return fmt.Errorf("--role must be all, api or ws, is %q", d.role)
			}
			if len(d.redis) != 1 && d.role != "api" {
				return errors.New("--redis must be one address, except for --role api, which can use a cluster that is there")
			}
			for _, addr := range slices.Concat([]string{d.page}, d.redis, d.nodes) {
				host, _, err := net.SplitHostPort(addr)
				if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
					return fmt.Errorf("dev listens on loopback only, not on %q", addr)
				}
			}
			err := d.run(cmd.Context(), cmd.OutOrStdout().Write)
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("%w: is it running already? --page, --nodes and --redis choose other addresses", err)
			}
			return err
		},
	}
	c.Flags().StringVar(&d.page, "page", "127.0.0.1:8080", "where the page and the Sale service listen")
	c.Flags().StringSliceVar(&d.nodes, "nodes", []string{"127.0.0.1:8081", "127.0.0.1:8082"}, "where the nodes listen")
	c.Flags().StringSliceVar(&d.redis, "redis", []string{"127.0.0.1:6399"}, "where Redis listens; with --role api also several addresses, of a cluster")
	c.Flags().StringVar(&d.role, "role", "all", "all; or in processes of their own: ws, Redis and the nodes; api, the Sale service and the page")
	return c
}

func (d *demo) run(ctx context.Context, print func([]byte) (int, error)) error {
	log, err := logger("warn")
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	var pageAt net.Listener // opened first: the nodes are told whose pages may connect
	if d.role != "ws" {
		l, err := net.Listen("tcp", d.page)
		if err != nil {
			return err
		}
		d.page = l.Addr().String()
		pageAt = l
	}
	if d.role != "api" {
		if err := d.serve(ctx, g, log); err != nil {
			return err
		}
	}
	if d.role != "ws" {
		d.emitter = emitter.New(d.settings())
		defer d.emitter.Close()
		srv := &http.Server{Handler: d.handler(), ReadHeaderTimeout: 5 * time.Second}
		g.Go(func() error {
			if err := srv.Serve(pageAt); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error { <-ctx.Done(); return srv.Close() })
	}
	if _, err := print([]byte(d.welcome())); err != nil {
		return err
	}
	return g.Wait()
}

// serve starts Redis and the nodes. The second one reaches Redis through the gate.
func (d *demo) serve(ctx context.Context, g *errgroup.Group, log *zap.Logger) error {
	l, err := net.Listen("tcp", d.redis[0])
	if err != nil {
		return err
	}
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.redis = []string{l.Addr().String()}
	d.gate = newGate(door, d.redis[0])
	below, stop := context.WithCancel(context.WithoutCancel(ctx)) // Redis ends after the nodes
	g.Go(func() error { return bus.RunEmbedded(below, l) })
	g.Go(func() error { return d.gate.Run(below) })
	nodes, ctx := errgroup.WithContext(ctx)
	defer g.Go(func() error { defer stop(); return nodes.Wait() })
	for i, addr := range d.nodes {
		cfg := signal.Config{
			Redis: d.settings(), Addr: addr, AdminAddr: "127.0.0.1:0", Auth: "jwt", JWTSecret: devSecret, JWTAudience: "signal",
			JWTMaxLifetime: 24 * time.Hour, APIKey: devSecret, DefaultRooms: []string{"ws-default", "ws-notification"},
			AllowedOrigins: d.origins(), Limits: "on", LimitRooms: 200, FrameBytes: 64 << 10, Ignis: "listen", AuthTimeout: 5 * time.Second, LogLevel: "warn",
		}
		if i > 0 {
			cfg.Redis.Addrs = []string{door.Addr().String()}
		}
		node, err := signal.New(cfg, log)
		if err != nil {
			return err
		}
		d.nodes[i] = node.Addr().String()
		nodes.Go(func() error { return node.Run(ctx) })
	}
	return nil
}

// settings are those of who uses this Redis.
func (d *demo) settings() emitter.Settings {
	if len(d.redis) > 1 {
		return emitter.Settings{Mode: emitter.Cluster, Addrs: d.redis}
	}
	return emitter.Settings{Addrs: d.redis}
}

// origins are those of the page: its tokens are no secret, so other pages stay out.
func (d *demo) origins() []string {
	_, port, _ := net.SplitHostPort(d.page)
	return []string{"http://" + d.page, "http://localhost:" + port}
}

func (d *demo) token() string {
	o := signal.AuthOptions(signal.Config{JWTSecret: devSecret, JWTAudience: "signal"})
	t, err := o.Issue("demo", 24*time.Hour, proto.Grants{"*"}, proto.Grants{"*"})
	if err != nil {
		panic(err) // nothing in it comes from outside
	}
	return t
}

func (d *demo) welcome() string {
	var b strings.Builder
	if d.role != "ws" {
		fmt.Fprintf(&b, "\n  The page     http://%s\n", d.page)
	}
	fmt.Fprintf(&b, "  The nodes    ws://%s\n", strings.Join(d.nodes, "/ws  ws://")+"/ws")
	fmt.Fprintf(&b, "  A token      %s\n\n", d.token())
	fmt.Fprintf(&b, "  Send an event as a Sale service does, from another terminal:\n\n")
	mode := ""
	if d.settings().Mode == emitter.Cluster {
		mode = emitter.EnvPrefix + "MODE=cluster "
	}
	fmt.Fprintf(&b, "  %s%sADDRS=%s bin/signal send --room %s order.paid '{\"id\":42,\"total\":1250}'\n\n", mode, emitter.EnvPrefix, strings.Join(d.redis, ","), updates)
	fmt.Fprintf(&b, "  A token for less:\n\n  %sJWT_SECRET='%s' bin/signal token --user u1 --rooms orders\n\n", config.Prefix, devSecret)
	fmt.Fprintf(&b, "  Redis is embedded: for development on one machine, nothing is kept. Ctrl-C ends everything.\n\n")
	return b.String()
}

// handler is the page and the demo Sale service behind its buttons.
func (d *demo) handler() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err)
	}
	r := chi.NewRouter()
	r.Get("/demo.json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"nodes": d.nodes, "token": d.token(), "room": updates, "gate": d.gate != nil})
	})
	r.Get("/client.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = w.Write(js.Client)
	})
	// The seed's contract: pong, and the time in C's format to the room (S3-12).
	r.Post("/ping", func(w http.ResponseWriter, r *http.Request) {
		d.emit(w, r, "ping", map[string]string{"sendTime": time.Now().Format(time.ANSIC)}, map[string]string{"message": "pong"})
	})
	r.Post("/sale", func(w http.ResponseWriter, r *http.Request) {
		order := map[string]int{"id": int(time.Now().UnixMilli() % 100_000), "total": 1250}
		d.emit(w, r, "order.paid", order, order)
	})
	r.Post("/bus", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			On bool `json:"on"`
		}
		if d.gate == nil || json.NewDecoder(http.MaxBytesReader(w, r.Body, 1024)).Decode(&q) != nil {
			reply(w, http.StatusBadRequest, map[string]string{"message": `{"on": true or false} is wanted, and nodes in this process`})
			return
		}
		d.gate.Shut(!q.On)
		reply(w, http.StatusOK, q)
	})
	r.Handle("/*", http.FileServerFS(files))
	return r
}

func (d *demo) emit(w http.ResponseWriter, r *http.Request, event proto.EventName, data, answer any) {
	if _, err := d.emitter.SendToRoom(r.Context(), updates, event, data); err != nil {
		reply(w, http.StatusServiceUnavailable, map[string]string{"message": err.Error()})
		return
	}
	reply(w, http.StatusOK, answer)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

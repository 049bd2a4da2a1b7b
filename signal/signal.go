// Package signal is one node of the real-time edge: clients hold WebSockets to it,
// and what services publish on the shared Redis it writes to those who shall hear it.
//
// New builds the parts, Run starts and stops them in order. A program that embeds a
// node sends through it as well: an event for a client of this very node is written
// without Redis.
package signal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/api"
	"github.com/signal-team/signal/signal/auth"
	"github.com/signal-team/signal/signal/bus"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/hook"
	"github.com/signal-team/signal/signal/hub"
	"github.com/signal-team/signal/signal/session"
	"github.com/signal-team/signal/signal/transport"
)

// Config says how a node works; LoadConfig makes one of the environment.
type Config = config.Config

// LoadConfig reads APP_ENV_SIGNAL_* and APP_ENV_WEBSOCKET_REDIS_*, for a node whose program answers some
// hooks itself, if any are given. Its error names every variable that is wrong, one a line.
func LoadConfig(hooks ...hook.Hooks) (Config, error) { return config.Load(hooks...) }

// How long the end of a node may take: for clients to take what they were sent and to
// answer the Close frame, then for plain requests. Whoever is slower is cut.
const (
	clientsTimeout  = 5 * time.Second
	requestsTimeout = 3 * time.Second
)

// A Node is made by New and works while Run does.
type Node struct {
	id       proto.NodeID
	config   Config
	log      *zap.Logger
	emitter  *emitter.Emitter
	keys     []*auth.Keys // of tokens
	hub      *hub.Hub
	bus      *bus.Bus
	sessions *session.Options
	notices  *hook.Outbox // nil unless somebody is told
	sockets  *transport.WebSocket
	public   *http.Server
	admin    *http.Server
	draining atomic.Bool

	publicAt, adminAt, embeddedAt net.Listener // the last one is nil unless Redis is embedded
}

// New builds a node and opens its addresses. It serves nobody before Run, which also
// closes them.
func New(cfg Config, log *zap.Logger) (_ *Node, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	count, dropped := countAnswers(reg), countDropped(reg)
	cfg.Hooks = hook.Guard(cfg.Hooks, count, func(p any) {
		log.Error("a hook of this program panicked", zap.Any("panic", p), zap.Stack("stack"))
	})
	who, keys, err := Verifier(cfg, count)
	access, accessKeys, aerr := accessVerifier(cfg, count)
	if err := errors.Join(err, aerr); err != nil {
		return nil, fmt.Errorf("signal: %w", err)
	}
	overHTTP := who
	if cfg.Auth == "ask" { // questions of requests shall not be in the way of those of connections
		overHTTP, _, _ = Verifier(cfg, count)
	}
	n := &Node{id: proto.NewNodeID(), keys: []*auth.Keys{keys, accessKeys}}
	permissions := permissions(cfg, count)
	n.log = log.With(zap.String("node", string(n.id)))
	if err := n.listen(&cfg); err != nil {
		return nil, err
	}
	cfg.Redis.Mirror = cfg.Ignis == "mirror"
	n.config = cfg
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	n.emitter = emitter.New(cfg.Redis)
	n.countPublished(reg)
	n.notices = n.outbox(cfg, count, dropped)
	revoked := &auth.Revoked{}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signal_revocations", Help: "Revocations that may still cover a token.",
	}, func() float64 { return float64(revoked.Size()) }))
	n.bus = bus.New(bus.Options{
		Node: n.id, Version: Version(), Redis: cfg.Redis, Ignis: cfg.Ignis != "off", Emitter: n.emitter,
		Judge: judge{revoked, permissions, n}, Notices: n.notices, Keep: keep(cfg), Log: n.log, Registerer: reg,
	})
	n.hub = hub.New(n.bus, reg)
	to, spared := messages(cfg, count)
	n.sessions = &session.Options{
		Node: n.id, Hub: n.hub, Verifier: who, Tickets: n.emitter, Permissions: permissions, Revoked: revoked, Publisher: n.emitter, DefaultRooms: rooms(cfg.DefaultRooms),
		Messages: to, Spared: spared, MessageDropped: func(reason string) { dropped("message", reason, 1) }, Notices: n.notices,
		Limits: limits(cfg), AuthTimeout: cfg.AuthTimeout,
		Encryption: session.Encryption{Off: cfg.Encryption == "off", Required: cfg.Encryption == "required", Info: cmp.Or(cfg.EncryptionInfo, proto.SealingInfo)},
		Heartbeat:  transport.PingAfter, Log: n.log, Metrics: session.NewMetrics(reg),
	}
	n.sockets = transport.New(transport.Options{
		Session:    n.sessions,
		FrameBytes: cfg.FrameBytes, Origins: cfg.AllowedOrigins, PagesOnly: cfg.OriginRequired, Proxies: cfg.TrustedProxies, Readers: cfg.Readers, Log: n.log, Registerer: reg,
	})
	o := api.Options{
		WebSocket: n.sockets, Sender: asking{n}, Key: cfg.APIKey, Ready: n.Ready, Gatherer: reg,
		Historian: n.emitter, Verifier: overHTTP, Permissions: permissions, Revoked: revoked, Trusted: n.sockets.Trusted, Admits: n.sockets.Admits, Budget: budget{n}, Refused: func(err error) { n.sessions.Refused(err) }, Revoker: n.emitter,
		Exchange: api.Exchange{Access: access, Cookie: cfg.AccessCookie, Issue: AuthOptions(cfg), Life: cfg.TokenLifetime},
		Local:    cfg.Auth == "none", AdminLocal: isLoopback(n.adminAt), // who reaches these needs no key
		Tickets: n.emitter, Origins: cfg.AllowedOrigins,
		Facts: api.Facts{
			Addresses: cfg.PublicAddrs, DefaultRooms: rooms(cfg.DefaultRooms), Rooms: cfg.LimitRooms, FrameBytes: cfg.FrameBytes,
			Frames: cfg.LimitFrames.PerSecond, Joins: cfg.LimitJoins.PerSecond, Publishes: cfg.LimitPublishes.PerSecond,
			Heartbeat: transport.PingAfter, AuthTimeout: cfg.AuthTimeout,
		},
	}
	n.public, n.admin = server(api.Public(o)), server(api.Admin(o))
	n.public.ConnState = n.sockets.Door().State
	return n, nil
}

// A judge knows what is revoked, and takes it back from the clients of its node.
type judge struct {
	*auth.Revoked
	permissions *auth.Permissions
	node        *Node
}

func (j judge) Revoke(all []proto.Revocation) (fresh []proto.Revocation) {
	if fresh = j.Add(all); len(fresh) > 0 {
		j.permissions.Forget(fresh)
		j.node.sockets.Revoke(fresh)
	}
	return fresh
}

func (j judge) Trust(d time.Duration) { j.node.sockets.Trust(d) }

// A budget is what sessions know of users and addresses, for requests over HTTP.
type budget struct{ node *Node }

func (b budget) AdmitAddress(r *http.Request) string {
	return b.node.sessions.AdmitAddress(b.node.sockets.Address(r))
}
func (b budget) AdmitUser(u proto.UserID, history bool) (func(), string) {
	return b.node.sessions.AdmitUser(u, history)
}
func (b budget) Replayed(u proto.UserID, bytes int) time.Duration {
	return b.node.sessions.Replayed(u, bytes)
}

// keep is how long a revocation may cover a token that lives.
func keep(cfg Config) time.Duration {
	if cfg.JWTMaxLifetime == 0 || cfg.Exchanges() { // an access token may be exchanged for as long as it lives
		return 400 * 24 * time.Hour // tokens may live for as long as they like: a year, and some
	}
	return cfg.JWTMaxLifetime + auth.Leeway + 5*time.Minute
}

func (n *Node) listen(cfg *Config) (err error) {
	var opened []net.Listener
	open := func(variable, addr string) (l net.Listener) {
		if err != nil {
			return nil
		}
		if l, err = net.Listen("tcp", addr); err == nil {
			opened = append(opened, l)
		} else {
			err = fmt.Errorf("%s: %w", variable, err)
		}
		return l
	}
	n.publicAt, n.adminAt = open(config.Prefix+"ADDR", cfg.Addr), open(config.Prefix+"ADMIN_ADDR", cfg.AdminAddr)
	if cfg.Redis.Mode == emitter.Embedded {
		if n.embeddedAt = open(emitter.EnvPrefix+"ADDRS", cfg.Redis.Addr()); err == nil {
			cfg.Redis.Addrs = []string{n.embeddedAt.Addr().String()}
		}
	}
	if err != nil {
		for _, l := range opened {
			_ = l.Close()
		}
		return fmt.Errorf("signal: %w", err)
	}
	return nil
}

func server(h http.Handler) *http.Server {
	return &http.Server{ // the timeouts end with an upgrade
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 70 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: zap.NewStdLog(zap.NewNop()), // it tells of clients' mistakes only
	}
}

func rooms(names []string) (rooms []proto.Room) {
	for _, n := range names {
		rooms = append(rooms, proto.Room(n))
	}
	return rooms
}

func limits(cfg Config) session.Limits {
	if cfg.Limits == "off" {
		return session.Limits{}
	}
	return session.Limits{
		Rooms: cfg.LimitRooms, RoomsPerFrame: cfg.LimitRooms,
		Frames: session.Rate(cfg.LimitFrames), Joins: session.Rate(cfg.LimitJoins), Publishes: session.Rate(cfg.LimitPublishes),
		Controls:    session.Rate(cfg.LimitControls),
		Errors:      session.Rate{PerSecond: float64(cfg.LimitErrors) / 60, Burst: cfg.LimitErrors},
		EarlyFrames: cfg.LimitEarlyFrames, EarlyBytes: cfg.LimitEarlyBytes,
		PublishBytes:    session.Rate(cfg.LimitPublishBytes),
		UserConnections: cfg.LimitUserConnections, UserPublishes: session.Rate(cfg.LimitUserPublishes), TenantPublishes: session.Rate(cfg.LimitTenantPublishes),
		UserPublishBytes: session.Rate(cfg.LimitUserPublishBytes), TenantPublishBytes: session.Rate(cfg.LimitTenantPublishBytes),
		Requests: session.Rate(cfg.LimitRequests), AddressRequests: session.Rate(cfg.LimitAddressRequests), ReplayBytes: session.Rate(cfg.LimitReplayBytes),
		Handshakes: session.Rate(cfg.LimitHandshakes), AddressEarly: cfg.LimitAddressEarly, Early: cfg.LimitEarly, Connections: cfg.LimitConnections,
		DryRun: cfg.Limits == "dry",
	}
}

// ID names this process. Client ids begin with it.
func (n *Node) ID() proto.NodeID { return n.id }

// Addr is where clients connect.
func (n *Node) Addr() net.Addr { return n.publicAt.Addr() }

// AdminAddr is where operators ask.
func (n *Node) AdminAddr() net.Addr { return n.adminAt.Addr() }

// Ready says why new clients should go to another node, or nil.
func (n *Node) Ready() error {
	if n.draining.Load() {
		return errors.New("this node is shutting down")
	}
	return n.bus.Ready()
}

// Run serves until ctx ends, then tells every client and ends within ten seconds; who is
// too slow for that is cut. It returns an error if a part failed: this node may not work
// on this Redis, say.
func (n *Node) Run(ctx context.Context) error {
	n.announce()
	g, failed := errgroup.WithContext(ctx)
	// The parts below outlive ctx: clients are told first.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if n.embeddedAt != nil {
		g.Go(func() error { return bus.RunEmbedded(below, n.embeddedAt) })
	}
	n.admin.BaseContext = func(net.Listener) context.Context { return failed } // a profile under way ends too
	tellers, told := errgroup.WithContext(context.WithoutCancel(ctx))          // who tells of the end of all others
	telling, untold := context.WithCancel(told)
	defer untold()
	tellers.Go(func() error { return n.notices.Run(telling) })
	g.Go(func() error { return n.hub.Run(below) })
	for _, keys := range n.keys {
		g.Go(func() error {
			keys.Run(below, func(err error) { n.log.Warn("keys of tokens not fetched", zap.Error(err)) })
			return nil
		})
	}
	g.Go(func() error { return n.bus.Run(below, n.hub) })
	g.Go(func() error { return n.sockets.Run(below) })
	g.Go(func() error { return ignoreClosed(n.public.Serve(n.sockets.Door().Listen(n.publicAt))) })
	g.Go(func() error { return ignoreClosed(n.admin.Serve(n.adminAt)) })
	g.Go(func() error {
		<-failed.Done() // ctx ended, or another part returned an error
		n.draining.Store(true)
		n.log.Info("node stopping")
		within(clientsTimeout, n.sockets.Shutdown) // 1. tell the clients
		var plain errgroup.Group                   // 2. finish plain requests, and what clients have said
		for _, s := range []*http.Server{n.public, n.admin} {
			plain.Go(func() error {
				within(requestsTimeout, s.Shutdown)
				return s.Close()
			})
		}
		plain.Go(func() error { within(requestsTimeout, n.sessions.Finish); return nil })
		plain.Go(func() error { within(requestsTimeout, n.notices.Settle); return nil })
		err := plain.Wait()
		stop() // 3. nobody is left to deliver to
		return err
	})
	err := g.Wait()
	untold()
	err = errors.Join(err, tellers.Wait(), n.emitter.Close())
	n.log.Info("node stopped")
	return err
}

// within gives a part its time to end. That it needed more is no failure: what is left
// has been cut.
func within(most time.Duration, shutdown func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	_ = shutdown(ctx)
}

// announce says how this node works, and what of it is only for development.
func (n *Node) announce() {
	c := n.config
	n.log.Info("node started", zap.Stringer("addr", n.Addr()), zap.Stringer("admin_addr", n.AdminAddr()), zap.String("auth", c.Auth),
		zap.String("redis_addr", c.Redis.Addr()), zap.String("redis_prefix", c.Redis.Layout().Prefix), zap.String("redis_pubsub", string(c.Redis.Ways())))
	for risk, taken := range map[string]bool{
		"everyone may do everything: APP_ENV_SIGNAL_AUTH=none":                                                    c.Auth == "none",
		"tokens of any audience are accepted: APP_ENV_SIGNAL_JWT_AUDIENCE":                                        c.Auth == "jwt" && c.JWTAudience == "",
		"pages of any origin may connect: APP_ENV_SIGNAL_ALLOWED_ORIGINS=*":                                       slices.Contains(c.AllowedOrigins, "*"),
		"clients may ask for as much as they like: APP_ENV_SIGNAL_LIMITS=off":                                     c.Limits == "off",
		"what clients say is sent in the open: http:// in APP_ENV_SIGNAL_ROOMS_URL, _MESSAGE_URL or _NOTICES_URL": slices.ContainsFunc([]string{c.RoomsURL, c.MessageURL, c.NoticesURL}, func(u string) bool { return strings.HasPrefix(u, "http:") }),
		"tokens are sent in the open: http:// in APP_ENV_SIGNAL_AUTH_URL or _ACCESS_URL":                          strings.HasPrefix(c.AuthURL, "http:") || strings.HasPrefix(c.AccessURL, "http:"),
		"the application cannot know who asks it: no APP_ENV_SIGNAL_HOOK_SECRET":                                  c.HookSecret == "" && c.AuthURL+c.RoomsURL+c.MessageURL+c.NoticesURL+c.AccessURL != "",
		"redis is embedded: for development, nothing is kept over a restart":                                      n.embeddedAt != nil,
	} {
		if taken {
			n.log.Warn("risky setting", zap.String("setting", risk))
		}
	}
}

func isLoopback(l net.Listener) bool {
	at, ok := l.Addr().(*net.TCPAddr)
	return ok && at.IP.IsLoopback()
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Send tells the target that something happened: see emitter.Emitter. A client of
// this node is written to at once, and Redis not asked; a client of another node is
// reached through that node's inbox; everything else goes through Redis, so that each
// node delivers to its own clients in one order.
func (n *Node) Send(ctx context.Context, to proto.Target, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	if id, ok := to.Client(); ok && n.holds(id) {
		return n.sendHere(id, to, event, data, opts)
	}
	return n.emitter.Send(ctx, to, event, data, opts...)
}

// SendToClient tells one connection, on whichever node it is. A client of this node
// that is gone, or whose node is, is emitter.ErrNoReceiver.
func (n *Node) SendToClient(ctx context.Context, id proto.ClientID, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	return n.Send(ctx, proto.ToClient(id), event, data, opts...)
}

// SendToUser tells every connection of a user, on all nodes.
func (n *Node) SendToUser(ctx context.Context, user proto.UserID, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	return n.Send(ctx, proto.ToUser(user), event, data, opts...)
}

// SendToRoom tells every client in a room, on all nodes.
func (n *Node) SendToRoom(ctx context.Context, room proto.Room, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	return n.Send(ctx, proto.ToRoom(room), event, data, opts...)
}

// Broadcast tells every client of every node.
func (n *Node) Broadcast(ctx context.Context, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	return n.Send(ctx, proto.ToEveryone(), event, data, opts...)
}

// Revoke takes back what tokens allow, on all nodes: see emitter.Revoke.
func (n *Node) Revoke(ctx context.Context, r proto.Revocation) error { return n.emitter.Revoke(ctx, r) }

// holds says whether the client is, or was, one of this node.
func (n *Node) holds(id proto.ClientID) bool {
	node, ok := id.Node()
	return ok && node == n.id
}

func (n *Node) sendHere(id proto.ClientID, to proto.Target, event proto.EventName, data any, opts []emitter.Option) (emitter.Receipt, error) {
	m, err := emitter.Message(to, event, data, opts...)
	if err != nil {
		return emitter.Receipt{}, err
	}
	if slices.Contains(m.Except, id) || !n.hub.SendToClient(id, m.Event) {
		return emitter.Receipt{EventID: m.EventID}, fmt.Errorf("signal: client %q of this node: %w", id, emitter.ErrNoReceiver)
	}
	return emitter.Receipt{EventID: m.EventID, Receivers: 1}, nil
}

// asking sends like its node, but also asks another node whether the client is there.
type asking struct{ *Node }

func (a asking) Send(ctx context.Context, to proto.Target, event proto.EventName, data any, opts ...emitter.Option) (emitter.Receipt, error) {
	id, _ := to.Client()
	if node, ours := id.Node(); ours && node != a.id {
		return a.bus.Ask(ctx, id, event, data, opts...)
	}
	return a.Node.Send(ctx, to, event, data, opts...)
}

// countPublished makes metrics of the emitter's counts, which is not to know of
// metrics itself.
func (n *Node) countPublished(reg prometheus.Registerer) {
	count := func(result string, value func(emitter.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "signal_events_published_total", ConstLabels: prometheus.Labels{"result": result},
			Help: "Events that this node published: heard by some node, unheard, or failed because Redis did not take them.",
		}, func() float64 { return float64(value(n.emitter.Stats())) }))
	}
	count("heard", func(s emitter.Stats) uint64 { return s.Sent - s.Unheard })
	count("unheard", func(s emitter.Stats) uint64 { return s.Unheard })
	count("failed", func(s emitter.Stats) uint64 { return s.Failed })
}

// release is set when one is built.
var release string

// Version is that of this binary.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && release == "" && info.Main.Version != "(devel)" {
		return cmp.Or(info.Main.Version, "dev")
	}
	return cmp.Or(release, "dev")
}

func buildInfo() prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "signal_build_info", Help: "1, labelled with what this binary is.",
		ConstLabels: prometheus.Labels{"version": Version(), "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

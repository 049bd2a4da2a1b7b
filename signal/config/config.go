// Package config turns the environment into one checked value. Nobody else in a node
// reads the environment.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// Secret prints as [secret], however it is printed.
type Secret = emitter.Secret

// A Config says how a node works. The doc of a field is its line in the README.
type Config struct {
	Redis emitter.Settings `env:"-"` // APP_ENV_WEBSOCKET_REDIS_*: see emitter.SettingsFromEnv
	Hooks hook.Hooks       `env:"-"` // what a program that embeds the node answers itself

	Addr      string `env:"APP_ENV_SIGNAL_ADDR" envDefault:":8080"`                // where clients and services connect
	AdminAddr string `env:"APP_ENV_SIGNAL_ADMIN_ADDR" envDefault:"127.0.0.1:9090"` // /livez, /readyz, /metrics, /debug/pprof

	Auth           string        `env:"APP_ENV_SIGNAL_AUTH" envDefault:"jwt"`          // jwt; ask: the application is asked whose a token is; none: everyone may do everything, on loopback only
	AuthURL        string        `env:"APP_ENV_SIGNAL_AUTH_URL"`                       // that is asked, with ask
	RoomsURL       string        `env:"APP_ENV_SIGNAL_ROOMS_URL"`                      // that is asked for rooms which a token does not allow
	MessageURL     string        `env:"APP_ENV_SIGNAL_MESSAGE_URL"`                    // that gets clients' own events, and answers
	NoticesURL     string        `env:"APP_ENV_SIGNAL_NOTICES_URL"`                    // that is told who connects, and which rooms are occupied
	HookSecret     Secret        `env:"APP_ENV_SIGNAL_HOOK_SECRET"`                    // signs these questions
	AccessSecret   Secret        `env:"APP_ENV_SIGNAL_ACCESS_SECRET"`                  // of the application's access tokens, which POST /realtime/token takes: of HS256
	AccessKeys     string        `env:"APP_ENV_SIGNAL_ACCESS_KEYS"`                    // or public keys, as JWT_KEYS
	AccessURL      string        `env:"APP_ENV_SIGNAL_ACCESS_URL"`                     // or an address that is asked
	AccessIssuer   string        `env:"APP_ENV_SIGNAL_ACCESS_ISSUER"`                  // their iss must be it
	AccessAudience string        `env:"APP_ENV_SIGNAL_ACCESS_AUDIENCE"`                // their aud must name it
	AccessCookie   string        `env:"APP_ENV_SIGNAL_ACCESS_COOKIE"`                  // that may carry one
	TokenLifetime  time.Duration `env:"APP_ENV_SIGNAL_TOKEN_LIFETIME" envDefault:"2m"` // of the token that is given for one; at most 5m
	JWTSecret      Secret        `env:"APP_ENV_SIGNAL_JWT_SECRET"`                     // of HS256, at least 32 bytes; required without keys
	JWTKeys        string        `env:"APP_ENV_SIGNAL_JWT_KEYS"`                       // public keys of RS256, ES256 and EdDSA: a file (JWKS or PEM), or the address of a JWKS
	JWTIssuer      string        `env:"APP_ENV_SIGNAL_JWT_ISSUER"`                     // a token's iss must be it; not looked at when empty
	JWTType        string        `env:"APP_ENV_SIGNAL_JWT_TYPE"`                       // a token's typ must be it; not looked at when empty
	JWTAudience    string        `env:"APP_ENV_SIGNAL_JWT_AUDIENCE"`                   // a token's aud must name it; signal unless set, not looked at when set to nothing
	JWTRooms       proto.Grants  `env:"APP_ENV_SIGNAL_JWT_ROOMS"`                      // rooms of tokens without rooms: names, or prefixes that end in *
	JWTPublish     proto.Grants  `env:"APP_ENV_SIGNAL_JWT_PUBLISH"`                    // rooms to publish to, of tokens without publish
	JWTMaxLifetime time.Duration `env:"APP_ENV_SIGNAL_JWT_MAX_LIFETIME"`               // longest life of a token; 15m for the audience signal, else no limit
	APIKey         Secret        `env:"APP_ENV_SIGNAL_API_KEY"`                        // of POST /api/send; without it the endpoint is closed

	PublicAddrs             []string       `env:"APP_ENV_SIGNAL_PUBLIC_ADDRS"`                                                // wss://signal.example.com/ws: where bootstrap sends clients; where they asked when empty
	DefaultRooms            []string       `env:"APP_ENV_SIGNAL_DEFAULT_ROOMS" envDefault:"ws-default,ws-notification"`       // every client is in these
	AllowedOrigins          []string       `env:"APP_ENV_SIGNAL_ALLOWED_ORIGINS"`                                             // https://app.example.com, or *; empty: the same host only
	Limits                  string         `env:"APP_ENV_SIGNAL_LIMITS" envDefault:"on"`                                      // off: no limit of a rate or a count, for load tests; dry: counted and logged only
	LimitFrames             Rate           `env:"APP_ENV_SIGNAL_LIMIT_FRAMES" envDefault:"50/100"`                            // of a connection, a second and at once; 0 is none
	LimitJoins              Rate           `env:"APP_ENV_SIGNAL_LIMIT_JOINS" envDefault:"20/100"`                             // the same
	LimitPublishes          Rate           `env:"APP_ENV_SIGNAL_LIMIT_PUBLISHES" envDefault:"50/100"`                         // the same
	LimitControls           Rate           `env:"APP_ENV_SIGNAL_LIMIT_CONTROLS" envDefault:"20/100"`                          // pings and pongs of a connection
	LimitUserPublishes      Rate           `env:"APP_ENV_SIGNAL_LIMIT_USER_PUBLISHES" envDefault:"200/400"`                   // of all connections of a user, on this node
	LimitTenantPublishes    Rate           `env:"APP_ENV_SIGNAL_LIMIT_TENANT_PUBLISHES" envDefault:"1000/2000"`               // of a tenant
	LimitPublishBytes       Rate           `env:"APP_ENV_SIGNAL_LIMIT_PUBLISH_BYTES" envDefault:"131072/1048576"`             // of their data
	LimitUserPublishBytes   Rate           `env:"APP_ENV_SIGNAL_LIMIT_USER_PUBLISH_BYTES" envDefault:"262144/4194304"`        // of all connections of a user, on this node
	LimitTenantPublishBytes Rate           `env:"APP_ENV_SIGNAL_LIMIT_TENANT_PUBLISH_BYTES" envDefault:"2097152/16777216"`    // of a tenant
	LimitRequests           Rate           `env:"APP_ENV_SIGNAL_LIMIT_REQUESTS" envDefault:"10/40"`                           // over HTTP, of a user, on this node
	LimitAddressRequests    Rate           `env:"APP_ENV_SIGNAL_LIMIT_ADDRESS_REQUESTS" envDefault:"50/500"`                  // of an address
	LimitReplayBytes        Rate           `env:"APP_ENV_SIGNAL_LIMIT_REPLAY_BYTES" envDefault:"4194304/33554432"`            // of history that a user is given
	LimitUserConnections    int            `env:"APP_ENV_SIGNAL_LIMIT_USER_CONNECTIONS" envDefault:"20"`                      // of a user, on this node
	LimitConnections        int            `env:"APP_ENV_SIGNAL_LIMIT_CONNECTIONS" envDefault:"50000"`                        // of this node
	LimitHandshakes         Rate           `env:"APP_ENV_SIGNAL_LIMIT_HANDSHAKES" envDefault:"20/60"`                         // of an address
	LimitAddressEarly       int            `env:"APP_ENV_SIGNAL_LIMIT_ADDRESS_EARLY" envDefault:"50"`                         // connections of an address that are not authenticated
	LimitEarly              int            `env:"APP_ENV_SIGNAL_LIMIT_EARLY" envDefault:"2000"`                               // of all addresses
	LimitEarlyFrames        int            `env:"APP_ENV_SIGNAL_LIMIT_EARLY_FRAMES" envDefault:"4"`                           // of a connection that is not authenticated
	LimitEarlyBytes         int            `env:"APP_ENV_SIGNAL_LIMIT_EARLY_BYTES" envDefault:"8192"`                         // in one of these
	OriginRequired          bool           `env:"APP_ENV_SIGNAL_ORIGIN_REQUIRED" envDefault:"false"`                          // clients that say no Origin are refused: such as are no pages
	TrustedProxies          []netip.Prefix `env:"APP_ENV_SIGNAL_TRUSTED_PROXIES"`                                             // networks whose X-Forwarded-For counts
	LimitErrors             int            `env:"APP_ENV_SIGNAL_LIMIT_ERRORS" envDefault:"10"`                                // mistakes of a connection in a minute
	LimitRooms              int            `env:"APP_ENV_SIGNAL_LIMIT_ROOMS" envDefault:"200"`                                // of a connection, and in a frame
	FrameBytes              int            `env:"APP_ENV_SIGNAL_FRAME_BYTES" envDefault:"65536"`                              // largest frame from a client
	Encryption              string         `env:"APP_ENV_SIGNAL_ENCRYPTION" envDefault:"optional"`                            // of frames: off, optional (clients that offer a key), required
	EncryptionInfo          string         `env:"APP_ENV_SIGNAL_ENCRYPTION_INFO" envDefault:"ignis-ecdh-p256-aes-256-gcm-v1"` // context of the key derivation: the original's hkdfInfo
	Ignis                   string         `env:"APP_ENV_SIGNAL_IGNIS" envDefault:"listen"`                                   // hear the original's channels, or off; mirror: also publish there what is published here
	AuthTimeout             time.Duration  `env:"APP_ENV_SIGNAL_AUTH_TIMEOUT" envDefault:"5s"`                                // from the connect to the authenticate frame
	Readers                 string         `env:"APP_ENV_SIGNAL_READERS" envDefault:"auto"`                                   // how connections are read: auto, epoll or goroutine
	LogLevel                string         `env:"APP_ENV_SIGNAL_LOG_LEVEL" envDefault:"info"`                                 // debug, info, warn, error
}

// A Rate is how often something may happen, and how much of it at once: 50/100, or 0 for no
// limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// UnmarshalText reads a Rate.
func (r *Rate) UnmarshalText(b []byte) (err error) {
	per, burst, found := strings.Cut(string(b), "/")
	if r.PerSecond, err = strconv.ParseFloat(per, 64); err == nil && found {
		r.Burst, err = strconv.Atoi(burst)
	}
	return err
}

func (r Rate) String() string { return fmt.Sprintf("%g/%d", r.PerSecond, r.Burst) }

// Prefix begins the name of every variable that is not about Redis.
const Prefix = "APP_ENV_SIGNAL_"

// Load reads and checks the environment, for a node with these hooks, if there are any. Its error names
// every variable that is wrong, one a line.
func Load(hooks ...hook.Hooks) (Config, error) {
	var c Config
	if len(hooks) > 0 {
		c.Hooks = hooks[0]
	}
	// What env cannot parse it leaves at its zero, which may be wrong too: say the
	// first thing only.
	unreadable := map[string]bool{}
	var errs []error
	if err := env.Parse(&c); err != nil {
		for _, e := range parseErrors(err) {
			unreadable[e.name] = true
			errs = append(errs, e.err)
		}
	}
	if _, set := os.LookupEnv(Prefix + "JWT_AUDIENCE"); !set {
		c.JWTAudience = "signal"
	}
	if c.JWTMaxLifetime == 0 && c.JWTAudience == "signal" {
		c.JWTMaxLifetime = 15 * time.Minute
	}
	var err error
	c.Redis, err = emitter.SettingsFromEnv()
	for _, e := range c.mistakes() {
		if !unreadable[e.name] && (err == nil || !strings.Contains(err.Error(), e.err.Error())) { // one that both read
			errs = append(errs, e.err)
		}
	}
	if err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// A mistake is what is wrong with one variable.
type mistake struct {
	name string
	err  error
}

// parseErrors translates env's errors, which name the Go field.
func parseErrors(err error) (all []mistake) {
	aggregate, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		return []mistake{{"", err}}
	}
	for _, e := range aggregate.Errors {
		m := mistake{"", e}
		if p, ok := errors.AsType[env.ParseError](e); ok {
			field, _ := reflect.TypeFor[Config]().FieldByName(p.Name)
			m.name, _, _ = strings.Cut(field.Tag.Get("env"), ",")
			m.err = fmt.Errorf("%s must be a %s, is %q", m.name, kind(p.Type), os.Getenv(m.name))
		}
		all = append(all, m)
	}
	return all
}

func kind(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "duration such as 5s or 15m"
	}
	if t == reflect.TypeFor[Rate]() {
		return "number a second and one at once, such as 50/100, or 0"
	}
	if t == reflect.TypeFor[netip.Prefix]() || t == reflect.TypeFor[[]netip.Prefix]() {
		return "list of networks such as 10.0.0.0/8, or 10.1.2.3/32 for one address, with commas between"
	}
	return "number"
}

// Check says whether a Config that was not made by Load can work.
func (c Config) Check() error {
	var errs []error
	for _, m := range c.mistakes() {
		errs = append(errs, m.err)
	}
	return errors.Join(errs...)
}

func (c Config) mistakes() (all []mistake) {
	check := func(ok bool, name, want string, is any) {
		if !ok {
			all = append(all, mistake{Prefix + name, fmt.Errorf("%s%s must be %s, is %q", Prefix, name, want, fmt.Sprint(is))})
		}
	}
	oneOf := func(name, is string, words ...string) {
		check(slices.Contains(words, is), name, strings.Join(words, " or "), is)
	}
	check(address(c.Addr), "ADDR", "host:port", c.Addr)
	check(address(c.AdminAddr), "ADMIN_ADDR", "host:port", c.AdminAddr)
	oneOf("READERS", cmp.Or(c.Readers, "auto"), "auto", "epoll", "goroutine")
	oneOf("AUTH", c.Auth, "jwt", "ask", "none")
	check(c.Hooks.Authenticator == nil || c.Auth == "ask", "AUTH", "ask, since the program that embeds the node has Hooks.Authenticator", c.Auth)
	check(c.Hooks.Authenticator != nil || (c.AuthURL != "") == (c.Auth == "ask"), "AUTH_URL", "set when "+Prefix+"AUTH is ask, and then alone", c.AuthURL)
	for name, u := range c.Addresses() {
		check(u == "" || isHook(u), name, "an address that begins with https:// or http://", u)
	}
	check(c.HookSecret == "" || len(c.HookSecret) >= 16, "HOOK_SECRET", "at least 16 bytes long", fmt.Sprintf("%d bytes", len(c.HookSecret)))
	check(c.AccessSecret == "" || len(c.AccessSecret) >= 32, "ACCESS_SECRET", "at least 32 bytes long", fmt.Sprintf("%d bytes", len(c.AccessSecret)))
	check(isKeys(c.AccessKeys), "ACCESS_KEYS", "a file, or an address that begins with https:// (http:// on loopback only)", c.AccessKeys)
	check(c.AccessURL == "" || c.AccessSecret == "" && c.AccessKeys == "", "ACCESS_URL", "empty, or "+Prefix+"ACCESS_SECRET and _KEYS are", c.AccessURL)
	for name, v := range map[string]string{"ACCESS_ISSUER": c.AccessIssuer, "ACCESS_AUDIENCE": c.AccessAudience, "ACCESS_COOKIE": c.AccessCookie} {
		check(v == "" || c.Exchanges(), name, "empty unless one of "+Prefix+"ACCESS_SECRET, _KEYS and _URL is set", v)
	}
	check(c.HookSecret == "" || c.AuthURL+c.RoomsURL+c.AccessURL+c.MessageURL+c.NoticesURL != "", "HOOK_SECRET",
		"empty unless one of "+Prefix+"AUTH_URL, _ROOMS_URL, _MESSAGE_URL, _NOTICES_URL and _ACCESS_URL is set", c.HookSecret)
	if c.Exchanges() {
		check(c.Auth == "jwt" && c.JWTSecret != "", "JWT_SECRET", "set, with "+Prefix+"AUTH=jwt, for POST /realtime/token", "")
		check(c.TokenLifetime > 0 && c.TokenLifetime <= 5*time.Minute, "TOKEN_LIFETIME", "positive and at most 5m", c.TokenLifetime)
	}
	for _, a := range c.PublicAddrs {
		u, err := url.Parse(a)
		check(err == nil && (u.Scheme == "wss" || u.Scheme == "ws") && u.Host != "", "PUBLIC_ADDRS", "addresses such as wss://signal.example.com/ws, with commas between", a)
	}
	if c.Auth == "jwt" {
		check(len(c.JWTSecret) >= 32 || c.JWTSecret == "" && c.JWTKeys != "", "JWT_SECRET", "set, to at least 32 bytes", fmt.Sprintf("%d bytes", len(c.JWTSecret)))
	}
	if c.Auth == "none" {
		check(loopback(c.Addr), "AUTH", "jwt or ask unless "+Prefix+"ADDR is a loopback address", "none")
	}
	check(isKeys(c.JWTKeys), "JWT_KEYS", "a file, or an address that begins with https:// (http:// on loopback only)", c.JWTKeys)
	check(c.JWTMaxLifetime >= 0, "JWT_MAX_LIFETIME", "positive", c.JWTMaxLifetime)
	check(c.JWTRooms.Check() == nil, "JWT_ROOMS", "names, or prefixes that end in *, with commas between", strings.Join(c.JWTRooms, ","))
	check(c.JWTPublish.Check() == nil, "JWT_PUBLISH", "names, or prefixes that end in *, with commas between", strings.Join(c.JWTPublish, ","))
	check(c.APIKey == "" || len(c.APIKey) >= 16, "API_KEY", "at least 16 bytes long", fmt.Sprintf("%d bytes", len(c.APIKey)))
	for _, r := range c.DefaultRooms {
		err := proto.Room(r).Check()
		check(err == nil, "DEFAULT_ROOMS", fmt.Sprintf("names with commas between (%v)", err), strings.Join(c.DefaultRooms, ","))
	}
	for _, o := range c.AllowedOrigins {
		check(o == "*" || isOrigin(o), "ALLOWED_ORIGINS", "* or origins such as https://app.example.com, with commas between", o)
	}
	oneOf("LIMITS", c.Limits, "on", "off", "dry")
	for name, r := range map[string]Rate{"LIMIT_FRAMES": c.LimitFrames, "LIMIT_JOINS": c.LimitJoins, "LIMIT_PUBLISHES": c.LimitPublishes,
		"LIMIT_USER_PUBLISHES": c.LimitUserPublishes, "LIMIT_TENANT_PUBLISHES": c.LimitTenantPublishes, "LIMIT_HANDSHAKES": c.LimitHandshakes, "LIMIT_PUBLISH_BYTES": c.LimitPublishBytes, "LIMIT_USER_PUBLISH_BYTES": c.LimitUserPublishBytes,
		"LIMIT_TENANT_PUBLISH_BYTES": c.LimitTenantPublishBytes, "LIMIT_REQUESTS": c.LimitRequests, "LIMIT_ADDRESS_REQUESTS": c.LimitAddressRequests, "LIMIT_REPLAY_BYTES": c.LimitReplayBytes, "LIMIT_CONTROLS": c.LimitControls} {
		check(r.PerSecond >= 0 && (r.PerSecond == 0 || r.Burst >= 1), name, "a number a second and one at once, such as 50/100, or 0", r)
	}
	for name, n := range map[string]int{
		"LIMIT_ERRORS": c.LimitErrors, "LIMIT_ROOMS": c.LimitRooms, "LIMIT_USER_CONNECTIONS": c.LimitUserConnections, "LIMIT_CONNECTIONS": c.LimitConnections,
		"LIMIT_ADDRESS_EARLY": c.LimitAddressEarly, "LIMIT_EARLY": c.LimitEarly, "LIMIT_EARLY_FRAMES": c.LimitEarlyFrames, "LIMIT_EARLY_BYTES": c.LimitEarlyBytes,
	} {
		check(n >= 0, name, "a number, or 0", n)
	}
	check(c.FrameBytes >= 1024 && c.FrameBytes <= 1<<20, "FRAME_BYTES", "from 1024 to 1048576", c.FrameBytes)
	oneOf("ENCRYPTION", cmp.Or(c.Encryption, "optional"), "off", "optional", "required")
	oneOf("IGNIS", c.Ignis, "listen", "off", "mirror")
	check(len(c.Redis.SigningKeys) == 0 || c.Ignis == "off", "IGNIS", "off with "+emitter.EnvPrefix+"SIGNING_KEYS, since the original signs nothing", c.Ignis)
	check(c.AuthTimeout > 0, "AUTH_TIMEOUT", "positive", c.AuthTimeout)
	oneOf("LOG_LEVEL", c.LogLevel, "debug", "info", "warn", "error")
	return all
}

func address(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func isKeys(s string) bool {
	u, err := url.Parse(s)
	return err != nil || u.Scheme != "http" || loopback(net.JoinHostPort(u.Hostname(), "80"))
}

func isHook(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// Addresses are those of the application, by the variable that has each, without Prefix; "" where it is not set.
func (c Config) Addresses() map[string]string {
	return map[string]string{"AUTH_URL": c.AuthURL, "ROOMS_URL": c.RoomsURL, "ACCESS_URL": c.AccessURL, "MESSAGE_URL": c.MessageURL, "NOTICES_URL": c.NoticesURL}
}

// Exchanges says whether POST /realtime/token is open.
func (c Config) Exchanges() bool {
	return c.AccessSecret != "" || c.AccessKeys != "" || c.AccessURL != ""
}

func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") && s == u.Scheme+"://"+u.Host
}

// AdminAddr is where a node of this environment tells operators how it is. It needs
// nothing else to be set.
func AdminAddr() (string, error) {
	var c Config
	_ = env.Parse(&c) // what is wrong elsewhere does not matter here
	if !address(c.AdminAddr) {
		return "", fmt.Errorf("%sADMIN_ADDR must be host:port, is %q", Prefix, c.AdminAddr)
	}
	return c.AdminAddr, nil
}

// Unknown names the variables with our prefixes that nobody reads, each with the
// nearest one that somebody does.
func Unknown() (warnings []string) {
	var known []string
	for f := range reflect.TypeFor[Config]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("env"), ","); name != "-" {
			known = append(known, name)
		}
	}
	for _, n := range emitter.EnvNames() {
		known = append(known, emitter.EnvPrefix+n)
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, Prefix) && !strings.HasPrefix(name, emitter.EnvPrefix) || slices.Contains(known, name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		warning := name + " is not read by anyone"
		if distance(name, nearest) <= 3 {
			warning += ": did you mean " + nearest + "?"
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return warnings
}

// distance is how many letters must change to make a of b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0]++
		for j := range len(b) {
			change := left
			if a[i] != b[j] {
				change++
			}
			left = row[j+1]
			row[j+1] = min(change, row[j]+1, left+1)
		}
	}
	return row[len(b)]
}

package emitter

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/signal-team/signal/proto"
)

// A Mode says what kind of Redis there is.
type Mode string

// The modes. Embedded is a Redis inside a node's process; whoever only publishes
// treats it like a single one.
const (
	Embedded Mode = "embedded"
	Single   Mode = "single"
	Cluster  Mode = "cluster"
)

// A PubSub says with which commands events travel. All who share a Redis use the
// same: see Agree.
type PubSub string

// The ways of publishing: PUBLISH, or SPUBLISH of Redis 7. Auto is Classic on a
// single Redis and Sharded on a cluster, where Classic means that every event goes to
// every server.
const (
	Auto    PubSub = "auto"
	Classic PubSub = "classic"
	Sharded PubSub = "sharded"
)

// A Secret prints as [secret], however it is printed. Convert it to a string to
// use it.
type Secret string

const hidden = "[secret]"

func (Secret) String() string               { return hidden }
func (Secret) GoString() string             { return hidden }
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Settings say which Redis everyone shares. Every participant must have the same.
// The zero value is a single Redis on 127.0.0.1:6379.
type Settings struct {
	Mode     Mode     // "single" when empty
	Addrs    []string // host:port; one of a single Redis, some of a cluster's
	Username string   // of a Redis ACL user; empty for the default one
	Password Secret
	DB       int
	TLS      *tls.Config // nil for none; an empty one trusts whom the system trusts
	Prefix   string      // of all names on Redis; "sg" when empty
	PubSub   PubSub      // "auto" when empty
	// Deployment names what this Redis is for, such as "production": whoever names another one
	// is refused. Who names none is not asked.
	Deployment string
	// Histories say how much is kept of which rooms; DefaultHistory of all others.
	Histories []History
	// SigningKeys sign events and what else goes to nodes; of those that come, only what is
	// signed with one of them counts. The first one signs. Without any nothing is signed.
	SigningKeys []proto.SigningKey
	// Mirror publishes everything to the original's servers too, on their channels. Who does not set it
	// does so all the same while a node has written down that it is needed. It excludes SigningKeys.
	Mirror bool
}

// EnvPrefix begins the name of every variable of Settings.
const EnvPrefix = "APP_ENV_WEBSOCKET_REDIS_"

// IgnisEnv is the variable that says what a participant does with the original's channels:
// "mirror" is Settings.Mirror, all else is for nodes.
const IgnisEnv = "APP_ENV_SIGNAL_IGNIS"

// EnvNames are the variables that SettingsFromEnv reads, without EnvPrefix.
func EnvNames() []string {
	return []string{"MODE", "ADDRS", "HOST", "PORT", "USERNAME", "PASSWORD", "DB", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "PREFIX", "PUBSUB", "HISTORY", "DEPLOYMENT", "SIGNING_KEYS"}
}

// SettingsFromEnv reads APP_ENV_WEBSOCKET_REDIS_*. Its error names every variable
// that is wrong, one a line.
func SettingsFromEnv() (Settings, error) {
	var errs []error
	read := func(name, otherwise string) string {
		if v, ok := os.LookupEnv(EnvPrefix + name); ok && v != "" {
			return v
		}
		return otherwise
	}
	wrong := func(name, want, is string) {
		errs = append(errs, fmt.Errorf("%s%s must be %s, is %q", EnvPrefix, name, want, is))
	}
	s := Settings{
		Mode:     Mode(read("MODE", string(Single))),
		Username: read("USERNAME", ""),
		Password: Secret(read("PASSWORD", "")),
		Prefix:   read("PREFIX", "sg"),
		PubSub:   PubSub(read("PUBSUB", string(Auto))),

		Deployment: read("DEPLOYMENT", ""),
	}
	if !slices.Contains([]Mode{Embedded, Single, Cluster}, s.Mode) {
		wrong("MODE", "embedded, single or cluster", string(s.Mode))
	}
	if !slices.Contains([]PubSub{Auto, Classic, Sharded}, s.PubSub) {
		wrong("PUBSUB", "auto, classic or sharded", string(s.PubSub))
	}
	if strings.ContainsAny(s.Prefix, "{}*?[]\\ $") || proto.EventName(s.Prefix).Check() != nil {
		wrong("PREFIX", "a short name without any of { } * ? [ ] \\ $ and spaces", s.Prefix)
	}
	if v := read("HISTORY", ""); v != "" {
		all, err := ParseHistories(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("%sHISTORY: %w", EnvPrefix, err))
		}
		s.Histories = all
	}
	if v := read("SIGNING_KEYS", ""); v != "" {
		for one := range strings.SplitSeq(v, ",") {
			id, secret, _ := strings.Cut(strings.TrimSpace(one), ":")
			k := proto.SigningKey{ID: id, Secret: []byte(secret)}
			if err := k.Check(); err != nil {
				errs = append(errs, fmt.Errorf("%sSIGNING_KEYS must be <name>:<secret>, with commas between: %w", EnvPrefix, err))
			}
			if slices.ContainsFunc(s.SigningKeys, func(other proto.SigningKey) bool { return other.ID == k.ID }) {
				errs = append(errs, fmt.Errorf("%sSIGNING_KEYS has two keys of the name %s", EnvPrefix, k.ID))
			}
			s.SigningKeys = append(s.SigningKeys, k)
		}
	}
	if v := os.Getenv(IgnisEnv); !slices.Contains([]string{"", "listen", "off", "mirror"}, v) {
		errs = append(errs, fmt.Errorf("%s must be listen or off or mirror, is %q", IgnisEnv, v))
	}
	s.Mirror = os.Getenv(IgnisEnv) == "mirror"
	if s.Mirror && len(s.SigningKeys) > 0 {
		errs = append(errs, fmt.Errorf("%s=mirror and %sSIGNING_KEYS are both set: the original signs nothing", IgnisEnv, EnvPrefix))
	}
	host, port := read("HOST", ""), read("PORT", "")
	addrs := read("ADDRS", "")
	switch {
	case addrs != "" && (host != "" || port != ""):
		errs = append(errs, fmt.Errorf("%sADDRS and %sHOST/_PORT are both set: use one of them", EnvPrefix, EnvPrefix))
	case addrs != "":
		for a := range strings.SplitSeq(addrs, ",") {
			s.Addrs = append(s.Addrs, strings.TrimSpace(a))
		}
		bad := slices.ContainsFunc(s.Addrs, func(a string) bool { return !isAddr(a) })
		if s.Mode == Cluster && bad {
			wrong("ADDRS", "host:port of one or more servers of the cluster, with commas between", addrs)
		} else if s.Mode != Cluster && (bad || len(s.Addrs) > 1) {
			wrong("ADDRS", "one host:port on a single Redis", addrs)
		}
	default:
		if host == "" {
			host = "127.0.0.1"
		}
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			wrong("HOST", "a name or an address, the port belongs into "+EnvPrefix+"PORT", host)
		}
		if port == "" {
			port = "6379"
		}
		if s.Addrs = []string{net.JoinHostPort(host, port)}; !isAddr(s.Addrs[0]) {
			wrong("PORT", "a number from 1 to 65535", port)
		}
	}
	var err error
	if v := read("DB", "0"); true {
		if s.DB, err = strconv.Atoi(v); err != nil || s.DB < 0 {
			wrong("DB", "a number, 0 or more", v)
		} else if s.DB > 0 && s.Mode == Cluster {
			wrong("DB", "0 on a cluster, which has no other", v)
		} else if s.DB > 0 && s.Prefix == "sg" {
			errs = append(errs, fmt.Errorf("%sDB=%d needs a %sPREFIX of its own: pub/sub knows no databases, so two systems with one prefix would hear each other",
				EnvPrefix, s.DB, EnvPrefix))
		}
	}
	if s.TLS, err = tlsFromEnv(read); err != nil {
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}

func isAddr(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1<<16
}

// Addr is the first of Addrs.
func (s Settings) Addr() string {
	if len(s.Addrs) == 0 {
		return "127.0.0.1:6379"
	}
	return s.Addrs[0]
}

// Layout knows the names on this Redis.
func (s Settings) Layout() proto.Layout {
	if s.Prefix == "" {
		return proto.Layout{Prefix: "sg"}
	}
	return proto.Layout{Prefix: s.Prefix}
}

// Ways says with which commands events travel, Auto resolved.
func (s Settings) Ways() PubSub {
	if s.PubSub == Sharded || s.PubSub != Classic && s.Mode == Cluster {
		return Sharded
	}
	return Classic
}

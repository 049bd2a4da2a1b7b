package signal_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/signal-team/signal/emitter"
)

// What stands in deploy/ and traefik/, key by key: a key that is not here is a typo.
// Values that are free text to us are any.
type (
	compose struct {
		Name     string
		Node     service `yaml:"x-node"`
		Services map[string]service
		Networks map[string]struct{}
	}
	service struct {
		Image       string
		Build       struct{ Context, Dockerfile string }
		Command     []string
		Environment map[string]string
		DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
		Healthcheck struct {
			Test              []string
			Interval, Timeout string
			Retries           int
		}
		Ports, Networks, Volumes []string
		Restart                  string
		StopGracePeriod          string `yaml:"stop_grace_period"`
		Ulimits                  struct{ Nofile int }
		ReadOnly                 bool     `yaml:"read_only"`
		CapDrop                  []string `yaml:"cap_drop"`
		SecurityOpt              []string `yaml:"security_opt"`
	}

	traefikStatic struct {
		Global struct {
			CheckNewVersion    bool `yaml:"checkNewVersion"`
			SendAnonymousUsage bool `yaml:"sendAnonymousUsage"`
		}
		Log  struct{ Level string }
		Ping struct {
			EntryPoint string `yaml:"entryPoint"`
		}
		Metrics struct {
			Prometheus struct {
				EntryPoint        string `yaml:"entryPoint"`
				AddServicesLabels bool   `yaml:"addServicesLabels"`
			}
		}
		EntryPoints map[string]struct {
			Address   string
			HTTP      struct{ TLS struct{} } `yaml:"http"`
			Transport struct {
				LifeCycle struct {
					RequestAcceptGraceTimeout string `yaml:"requestAcceptGraceTimeout"`
					GraceTimeOut              string `yaml:"graceTimeOut"`
				} `yaml:"lifeCycle"`
				RespondingTimeouts struct {
					ReadTimeout  string `yaml:"readTimeout"`
					WriteTimeout string `yaml:"writeTimeout"`
					IdleTimeout  string `yaml:"idleTimeout"`
				} `yaml:"respondingTimeouts"`
			}
		} `yaml:"entryPoints"`
		Providers struct {
			ProvidersThrottleDuration string `yaml:"providersThrottleDuration"`
			File                      struct {
				Directory string
				Watch     bool
			}
		}
	}

	source struct {
		IPStrategy struct{ Depth int } `yaml:"ipStrategy"`
	}
	traefikDynamic struct {
		HTTP struct {
			Routers map[string]struct {
				EntryPoints []string `yaml:"entryPoints"`
				Rule        string
				Service     string
				Middlewares []string
			}
			Middlewares map[string]struct {
				RateLimit struct {
					Average, Burst  int
					Period          string
					SourceCriterion source `yaml:"sourceCriterion"`
				} `yaml:"rateLimit"`
				InFlightReq struct {
					Amount          int
					SourceCriterion source `yaml:"sourceCriterion"`
				} `yaml:"inFlightReq"`
				Retry struct {
					Attempts        int
					InitialInterval string `yaml:"initialInterval"`
				}
			}
			Services map[string]struct {
				LoadBalancer struct {
					Servers            []struct{ URL string }
					HealthCheck        struct{ Path, Interval, Timeout string } `yaml:"healthCheck"`
					PassiveHealthCheck struct {
						FailureWindow     string `yaml:"failureWindow"`
						MaxFailedAttempts int    `yaml:"maxFailedAttempts"`
					} `yaml:"passiveHealthCheck"`
					ServersTransport string `yaml:"serversTransport"`
					PassHostHeader   bool   `yaml:"passHostHeader"`
				} `yaml:"loadBalancer"`
			}
			ServersTransports map[string]struct {
				MaxIdleConnsPerHost int `yaml:"maxIdleConnsPerHost"`
				ForwardingTimeouts  struct {
					DialTimeout           string `yaml:"dialTimeout"`
					ResponseHeaderTimeout string `yaml:"responseHeaderTimeout"`
				} `yaml:"forwardingTimeouts"`
			} `yaml:"serversTransports"`
		}
	}
)

// strict decodes a file and fails on a key that the type does not have.
func strict(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

func TestCompose(t *testing.T) {
	var c compose
	strict(t, "../deploy/compose.yaml", &c)
	known := knownVariables(t)
	for _, node := range []string{"node1", "node2", "node3"} {
		s := c.Services[node]
		for name := range s.Environment {
			if !slices.Contains(known, name) {
				t.Errorf("%s sets %s, which nobody reads", node, name)
			}
		}
		if s.Environment["APP_ENV_WEBSOCKET_REDIS_ADDRS"] != "redis:6379" || s.DependsOn["redis"].Condition != "service_healthy" {
			t.Errorf("%s does not find its Redis: %+v", node, s)
		}
	}
	for name, s := range c.Services {
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s is on the network %s, which is not there", name, n)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, err := os.Stat("../deploy/" + from); err != nil {
				t.Errorf("%s mounts %v", name, err)
			}
		}
	}
	if _, err := os.Stat("../deploy/" + c.Node.Build.Context + "/" + c.Node.Build.Dockerfile); err != nil {
		t.Error(err)
	}
}

func TestTraefik(t *testing.T) {
	var static traefikStatic
	var dynamic traefikDynamic
	strict(t, "../traefik/traefik.yaml", &static)
	strict(t, "../traefik/dynamic/signal.yaml", &dynamic)
	var c compose
	strict(t, "../deploy/compose.yaml", &c)
	for name, r := range dynamic.HTTP.Routers {
		for _, e := range r.EntryPoints {
			if _, ok := static.EntryPoints[e]; !ok {
				t.Errorf("router %s uses the entry point %s, which is not there", name, e)
			}
		}
		for _, m := range r.Middlewares {
			if _, ok := dynamic.HTTP.Middlewares[m]; !ok {
				t.Errorf("router %s uses the middleware %s, which is not there", name, m)
			}
		}
		s, ok := dynamic.HTTP.Services[r.Service]
		if !ok {
			t.Errorf("router %s uses the service %s, which is not there", name, r.Service)
		}
		if _, ok := dynamic.HTTP.ServersTransports[s.LoadBalancer.ServersTransport]; !ok {
			t.Errorf("service %s has no transport", r.Service)
		}
		for _, server := range s.LoadBalancer.Servers {
			host := strings.TrimSuffix(strings.TrimPrefix(server.URL, "http://"), ":8080")
			if _, ok := c.Services[host]; !ok {
				t.Errorf("%s is not a service of compose.yaml", server.URL)
			}
		}
	}
	if !strings.HasSuffix(static.Providers.File.Directory, "/dynamic") {
		t.Errorf("the dynamic configuration is looked for in %s", static.Providers.File.Directory)
	}
}

// knownVariables are those in the README's tables: each is read by somebody, and each
// that is read stands there.
func knownVariables(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(APP_ENV_[A-Z_]+)`").FindAllStringSubmatch(string(b), -1) {
		names = append(names, m[1])
	}
	return names
}

// TestREADMEVariables holds the README's table against the code.
func TestREADMEVariables(t *testing.T) {
	var read []string
	for _, n := range emitter.EnvNames() {
		read = append(read, emitter.EnvPrefix+n)
	}
	b, err := os.ReadFile("config/config.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`env:"(APP_ENV_[A-Z_]+)`).FindAllStringSubmatch(string(b), -1) {
		read = append(read, m[1])
	}
	told := knownVariables(t)
	slices.Sort(read)
	slices.Sort(told)
	if !slices.Equal(read, told) {
		t.Errorf("the README tells of\n%q, read are\n%q", told, read)
	}
}

package signal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// A hookArm is a node whose application has one fault, 500 tills that listen to it and 100 that say
// 10,000 things of their own a second, while it is its turn.
type hookArm struct {
	name             string
	node             *process
	talkers          [hookTalkers]*wstest.Client
	offers           atomic.Bool
	heard            atomic.Int64
	said, ok, failed atomic.Int64 // acknowledged, or answered with an error

	times []time.Duration // of an event to all who listen, the median of each turn
	costs []float64       // CPU of the node, microseconds a delivery, of each turn
}

const (
	hookListeners = 500
	hookTalkers   = 100
	hookOffers    = 10_000 // a second
)

// TestHooksUnderLoad tells what an application that is ill costs the fan-out, beside a node that has none
// and answers as many events with unknown_event; "none again" is another such node, and both of them are
// the measure of each round; quiet is a node to which nobody says anything. Medians of SIGNAL_HOOK_LOAD
// rounds, each in another order: this machine is slower for seconds at a time, so turns are short.
func TestHooksUnderLoad(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("SIGNAL_HOOK_LOAD"))
	if err != nil {
		t.Skip("SIGNAL_HOOK_LOAD says how many rounds: make load")
	}
	srv := redistest.Start(t)
	path := must(binary(false))
	end := make(chan struct{})
	var arms []*hookArm
	for _, name := range []string{"none", "none again", "quiet", "well", "down", "slow", "garbage", "500", "elsewhere", "middle"} {
		env := []string{"APP_ENV_SIGNAL_LIMITS=off"}
		switch fault := hookFaults[name]; {
		case strings.HasPrefix(name, "none"), name == "quiet":
		case name == "down":
			env = append(env, "APP_ENV_SIGNAL_MESSAGE_URL=http://127.0.0.1:1/")
		default:
			app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if name == "well" {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				fault(w, end)
			}))
			t.Cleanup(app.Close)
			env = append(env, "APP_ENV_SIGNAL_MESSAGE_URL="+app.URL)
		}
		a := &hookArm{name: name, node: launch(t, path, srv.Settings(), env...)}
		redistest.Wait(t, func() bool { status, _ := get(t, a.node.admin, "/readyz"); return status == 200 }, "the node to be ready")
		arms = append(arms, a)
	}
	t.Cleanup(func() { close(end) })
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for _, a := range arms {
		a.fill(t, ctx)
		go a.talk(ctx)
	}
	e := emitter.New(srv.Settings())
	defer e.Close()
	for range rounds {
		for _, i := range rand.Perm(len(arms)) {
			a := arms[i]
			a.offers.Store(a.name != "quiet")
			pass(200 * time.Millisecond)
			a.turn(t, e, 500*time.Millisecond)
			a.offers.Store(false)
		}
	}
	none, again := arms[0], arms[1]
	for _, a := range arms {
		redistest.Wait(t, func() bool { return a.ok.Load()+a.failed.Load() == a.said.Load() }, "%s to be answered", a.name)
		var slower, dearer []float64
		for i := range a.times {
			slower = append(slower, 2*float64(a.times[i])/float64(none.times[i]+again.times[i]))
			dearer = append(dearer, 2*a.costs[i]/(none.costs[i]+again.costs[i]))
		}
		_, metrics := get(t, a.node.admin, "/metrics")
		dropped := int64(0)
		for _, m := range regexp.MustCompile(`signal_hook_dropped_total\{hook="message",reason="\w+"\} (\d+)`).FindAllStringSubmatch(metrics, -1) {
			dropped += must(strconv.ParseInt(m[1], 10, 64))
		}
		rss := regexp.MustCompile(`process_resident_memory_bytes ([\d.e+]+)`).FindStringSubmatch(metrics)
		t.Logf("%-10s %7d offered, %7d acknowledged, %7d refused, %7d counted as dropped; an event to %d tills %s, %s of none's; CPU %.2f us a delivery, %s; %.0f MiB",
			a.name, a.said.Load(), a.ok.Load(), a.failed.Load(), dropped, hookListeners, middle(a.times).Round(10*time.Microsecond),
			sure(slower), middle(a.costs), sure(dearer), must(strconv.ParseFloat(rss[1], 64))/(1<<20))
		if !strings.HasPrefix(a.name, "none") && dropped != a.failed.Load() {
			t.Errorf("%s: %d were refused, %d are counted as dropped", a.name, a.failed.Load(), dropped)
		}
	}
}

func middle[T int64 | float64 | time.Duration](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// sure is the median of all, and between what the median of many more would be, 95 times in 100: the
// ranks of the binomial distribution.
func sure(all []float64) string {
	all = slices.Sorted(slices.Values(all))
	n := float64(len(all))
	low, high := int((n-1.96*math.Sqrt(n))/2), int((n+1.96*math.Sqrt(n))/2)
	return fmt.Sprintf("%.3f (%.3f to %.3f)", all[len(all)/2], all[max(low, 0)], all[min(high, len(all)-1)])
}

// fill lets the tills come.
func (a *hookArm) fill(t *testing.T, ctx context.Context) {
	var coming sync.WaitGroup
	for i := range hookListeners + hookTalkers {
		coming.Go(func() {
			tok, err := signal.AuthOptions(settings(emitter.Settings{})).Issue(proto.UserID(fmt.Sprint("u", i)), 14*time.Minute, proto.Grants{"*"}, nil)
			if err != nil {
				t.Error(err)
			}
			c := wstest.Login(t, a.node.addr, tok, proto.Room(a.name))
			if i < hookTalkers {
				a.talkers[i] = c
			}
			go func() {
				for {
					f, err := c.Read(ctx)
					switch {
					case err != nil:
						return
					case f.Event == "n":
						if i >= hookTalkers {
							a.heard.Add(1)
						}
					case f.Event == "ack":
						a.ok.Add(1)
					case f.Event == "error":
						a.failed.Add(1)
					}
				}
			}()
		})
	}
	coming.Wait()
}

// talk lets one till speak after the other, by the clock: so the arms do not differ by how many happen to
// speak at once.
func (a *hookArm) talk(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	data := json.RawMessage(`{"sku":"4711","count":2}`)
	var began time.Time
	for said := 0; ; {
		select {
		case <-tick.C:
			if !a.offers.Load() {
				began, said = time.Now(), 0
			}
			for ; said < int(time.Since(began)*hookOffers/time.Second) && a.offers.Load(); said++ {
				a.said.Add(1)
				a.talkers[said%hookTalkers].Send("scan", data, "x")
			}
		case <-ctx.Done():
			return
		}
	}
}

// turn sends one event after the other, each when all have the one before.
func (a *hookArm) turn(t *testing.T, e *emitter.Emitter, lasts time.Duration) {
	var times []time.Duration
	before, began := cpuOf(a.node.cmd.Process.Pid), time.Now()
	for time.Since(began) < lasts {
		sent, want := time.Now(), a.heard.Load()+hookListeners
		if _, err := e.SendToRoom(t.Context(), proto.Room(a.name), "n", 1); err != nil {
			t.Fatal(err)
		}
		for a.heard.Load() < want {
			time.Sleep(200 * time.Microsecond)
		}
		times = append(times, time.Since(sent))
	}
	a.times = append(a.times, middle(times))
	a.costs = append(a.costs, float64((cpuOf(a.node.cmd.Process.Pid)-before).Microseconds())/float64(len(times)*hookListeners))
}

// cpuOf is the processor time of a process.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := regexp.MustCompile(`\s+`).Split(string(b), -1)
	user, _ := strconv.ParseInt(fields[13], 10, 64)
	system, _ := strconv.ParseInt(fields[14], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

package redistest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// ours are the packages whose goroutines must have ended when the tests have. The
// census goes by stack frames, because a count would see idle connections of
// net/http and the like too.
var ours = []string{"github.com/signal-team/signal/", "github.com/coder/websocket"}

// Main runs the tests of a package and fails when they left goroutines behind. It
// is the body of TestMain. With prepare, the examples of the package get a Redis as
// well: it starts before them.
func Main(m *testing.M, prepare ...func(*Server)) {
	os.Exit(Run(m, prepare...))
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// Run is Main for those who have something to clear up: it returns the exit code.
func Run(m *testing.M, prepare ...func(*Server)) int {
	redis.SetLogger(quiet{}) // a test that kills its Redis need not hear of every failed dial
	if len(prepare) > 0 {
		if !installed() {
			fmt.Fprintln(os.Stderr, missing)
			if required() {
				return 1
			}
			return 0
		}
		dir, err := os.MkdirTemp("", "redistest")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		s := start(func(a ...any) { panic(fmt.Sprint(a...)) }, dir, nil, nil)
		defer s.Kill()
		for _, p := range prepare {
			p(s)
		}
	}
	code := m.Run()
	var left string
	if code == 0 && !Eventually(func() bool { left = leftovers(); return left == "" }) {
		fmt.Fprintf(os.Stderr, "goroutines are left behind:\n\n%s\n", left)
		code = 1
	}
	return code
}

func leftovers() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		for _, p := range ours {
			if i > 0 && strings.Contains(g, p) { // the first is this one
				left = append(left, g)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}

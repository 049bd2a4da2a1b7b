package signal_test

import (
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house, from the ground up: a package imports only from floors below its own,
// never a neighbour.
//
//	         ╱ cmd/signal ╲               the door
//	┌───────╱──────────────╲───────┐
//	│ signal       (root package)  │      knows every package
//	├──────────────────────────────┤
//	│ transport    api      bench  │      what the world touches, and what plays the world
//	├──────────────────────────────┤
//	│ session                      │      what is said
//	├──────────────────────────────┤
//	│ hub   auth   bus             │      what is known
//	├──────────────────────────────┤
//	│ room   js            config  │      what order means; the browser's half; what the operator said
//	├──────────────────────────────┤
//	│ emitter      hook            │      what others import, and what others implement
//	├──────────────────────────────┤
//	│ proto                        │      what everyone agrees on
//	└──────────────────────────────┘
var house = [][]string{
	{"proto"},
	{"emitter", "signal/hook"},
	{"signal/room", "signal/config", "signal/js"},
	{"signal/hub", "signal/auth", "signal/bus"},
	{"signal/session"},
	{"signal/transport", "signal/api", "signal/bench"},
	{"signal"},
	{"signal/cmd/signal"},
}

// Beside the house: what only tests import.
var yard = []string{"emitter/redistest", "signal/checker", "signal/transport/wstest"}

// never is what a package must not import although the floors would allow it: beginnings
// of import paths, ours without the common part. An entry "only: …" allows nothing else
// of ours.
var never = map[string][]string{
	"emitter":          {"only: proto"},
	"signal/hook":      {"only: proto", "github.com/redis"},
	"signal/config":    {"only: emitter proto signal/hook"},
	"signal/auth":      {"only: proto signal/hook"},
	"signal/hub":       {"only: proto signal/room", "net/http", "go.uber.org/zap", "net", "time"},
	"signal/room":      {"only: proto", "context", "time", "sync", "net", "os", "io"},
	"signal/bus":       {"signal/hub", "net/http"},
	"signal/session":   {"net", "net/http", "github.com/redis"},
	"signal/transport": {"signal/bus", "github.com/redis"},
	"signal/api":       {"signal/bus", "github.com/redis"},
	"signal/bench":     {"only: proto emitter"},
}

const (
	ours      = "github.com/signal-team/signal/"
	websocket = "github.com/coder/websocket"
)

func TestHouse(t *testing.T) {
	floor := map[string]int{}
	for i, rooms := range house {
		for _, r := range rooms {
			floor[r] = i
		}
	}
	seen := map[string]bool{}
	for _, module := range []string{"proto", "emitter", "signal"} {
		err := filepath.WalkDir(filepath.Join("..", module), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			pkg := filepath.ToSlash(filepath.Dir(path))[len("../"):]
			if slices.Contains(yard, pkg) {
				return nil
			}
			at, drawn := floor[pkg]
			if !drawn {
				t.Errorf("package %s is not in the drawing", pkg)
				return nil
			}
			seen[pkg] = true
			file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range file.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				name, own := strings.CutPrefix(imported, ours)
				if below, drawn := floor[name]; own && (!drawn || below >= at) {
					t.Errorf("%s: %s imports %s, which is not below it", path, pkg, name)
				}
				if first, _, _ := strings.Cut(imported, "/"); pkg == "proto" && strings.Contains(first, ".") {
					t.Errorf("%s: proto imports %s; it has the standard library only", path, imported)
				}
				if imported == websocket && pkg != "signal/transport" {
					t.Errorf("%s: only transport imports %s", path, websocket)
				}
				for _, rule := range never[pkg] {
					if only, ok := strings.CutPrefix(rule, "only: "); ok {
						if own && !slices.Contains(strings.Fields(only), name) {
							t.Errorf("%s: %s imports %s; of ours it may only import %s", path, pkg, name, only)
						}
					} else if strings.TrimPrefix(imported, ours) == rule || strings.HasPrefix(imported, rule+"/") && strings.Contains(rule, ".") {
						t.Errorf("%s: %s must not import %s", path, pkg, imported)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for pkg := range floor {
		if !seen[pkg] {
			t.Errorf("package %s is drawn and not there", pkg)
		}
	}
}

// TestNamedTests: a test that a comment names as holding a rule is there.
func TestNamedTests(t *testing.T) {
	named, there := map[string]string{}, everyTest(t)
	eachFile(t, func(path, text string) {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if m[1] == "" && !strings.HasSuffix(path, "_test.go") {
				named[m[2]] = path
			}
		}
	})
	for name, path := range named {
		if !there[name] {
			t.Errorf("%s names %s, which is not there", path, name)
		}
	}
}

// everyTest is the tests, fuzz targets and benchmarks that there are.
func everyTest(t *testing.T) map[string]bool {
	there := map[string]bool{}
	eachFile(t, func(_, text string) {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if m[1] != "" {
				there[m[2]] = true
			}
		}
	})
	return there
}

func eachFile(t *testing.T, do func(path, text string)) {
	t.Helper()
	for _, module := range []string{"proto", "emitter", "signal"} {
		err := filepath.WalkDir(filepath.Join("..", module), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			b, err := os.ReadFile(path)
			do(path, string(b))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

var testName = regexp.MustCompile(`\b(func )?((?:Test|Fuzz|Benchmark)[A-Z]\w+)\b`)

package signal_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLicences: deploy/NOTICES.txt, which goes into the image, has the licence of every module in the program, as BSD, MIT, ISC
// and Apache want it. SIGNAL_WRITE_DOCS=1 writes it.
func TestLicences(t *testing.T) {
	const path = "../deploy/NOTICES.txt"
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/signal").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(modules)
	var want strings.Builder
	want.WriteString("Signal contains the following software of others, under the licences below.\n")
	for _, m := range slices.Compact(modules) {
		words := strings.Fields(m)
		if len(words) != 3 {
			continue // the standard library, and our own
		}
		var files []string
		for _, name := range []string{"LICEN[CS]E*", "NOTICE*", "COPYING*"} {
			found, _ := filepath.Glob(filepath.Join(words[2], name))
			files = append(files, found...)
		}
		n := 0
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Errorf("%s: %v", words[0], err)
				continue
			}
			n++
			fmt.Fprintf(&want, "\n%s\n%s %s: %s\n\n%s\n", strings.Repeat("=", 80), words[0], words[1], filepath.Base(f), strings.TrimSpace(string(text)))
		}
		if n == 0 {
			t.Errorf("%s has no licence", words[0])
		}
	}
	if os.Getenv("SIGNAL_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want.String() {
		t.Errorf("%s is not what the modules say (%v): SIGNAL_WRITE_DOCS=1 go test -run TestLicences ./signal", path, err)
	}
}

package signal_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
)

// TestCodesPage: docs/CODES.md is what the tables of proto say. SIGNAL_WRITE_DOCS=1 writes it.
func TestCodesPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Error and close codes\n\nWritten from the tables in [proto/codes.go](../../proto/codes.go), by its test.\n\n" +
		"## Errors\n\nIn `error` frames `{code, message, detail?, ref?}`, as the `code` of a denied room, and in problem documents (RFC 9457) over HTTP. Programs read `code`; `message` never changes; `detail` is for people. *Again*: the same request may succeed later, unchanged.\n\n" +
		"| code | message | again | meaning |\n|---|---|---|---|\n")
	for _, e := range proto.Errors {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Code, e.Message, map[bool]string{true: "yes", false: "no"}[e.Retry], e.Meaning)
	}
	b.WriteString("\n## Close codes\n\n| code | reason | then | meaning |\n|---|---|---|---|\n")
	then := map[proto.Reconnect]string{
		proto.ReconnectBackoff: "connect again, waiting longer each time", proto.ReconnectToken: "get a new token, then connect", proto.ReconnectNever: "do not connect again: ask the person",
	}
	for _, c := range proto.Closes {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", c.Code, c.Reason, then[c.Reconnect], c.Meaning)
	}
	b.WriteString("\nA client treats a code that is not in the table as 1001.\n")
	const path = "docs/CODES.md"
	if os.Getenv("SIGNAL_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if written, err := os.ReadFile(path); err != nil || string(written) != b.String() {
		t.Errorf("%s is not what the tables say (%v): SIGNAL_WRITE_DOCS=1 go test -run TestCodesPage ./signal", path, err)
	}
	for _, e := range proto.Errors {
		if e.Meaning == "" {
			t.Errorf("%s has no meaning", e.Code)
		}
	}
}

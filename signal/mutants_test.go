package signal_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A mutant is this program with one of its rules broken: in each file the first text stands
// in place of the second. The suite is as good as the mutants that it catches.
type mutant struct {
	name  string
	edits []edit
	run   string // the tests that are to see it; else all of room and hub are
	in    string // their package, unless it is the root
}

type edit struct{ file, from, to string }

var mutants = []mutant{
	{name: "a room is read before it is heard", edits: []edit{
		{"signal/hub/local.go", "if !l.heard {\n\t\treturn // what", "if false {\n\t\treturn // what"},
		{"signal/hub/local.go", "if !l.heard {\n\t\tl.waiting", "if false {\n\t\tl.waiting"},
		{"signal/hub/local.go", "\tl.room.Reopen()\n", ""},
	}},
	{name: "the node does not look at tags", edits: []edit{
		{"proto/bus.go", " && m.Previous == at.Tag", ""},
		{"signal/room/room.go", "case e.Position == p:", "case e.Position.Sequence == p.Sequence:"},
		{"signal/room/room.go", "r.open && top != r.at", "r.open && top.Sequence != r.at.Sequence"},
	}},
	{name: "the node does not look at tags, and Redis comes back as it was a while ago", edits: []edit{
		{"proto/bus.go", " && m.Previous == at.Tag", ""},
		{"signal/room/room.go", "case e.Position == p:", "case e.Position.Sequence == p.Sequence:"},
		{"signal/room/room.go", "r.open && top != r.at", "r.open && top.Sequence != r.at.Sequence"},
		{"emitter/read.lua", "if missing == 0 then return {(t or tag) == tag and 'ok' or 'forked', top, {}} end", "if missing == 0 then return {'ok', top, {}} end"},
		{"emitter/read.lua", "if t and first[3] ~= t then return {'forked', top, {}} end\n", ""},
		{"emitter/read.go", "at.Sequence >= p.Top.Sequence && at != p.Top || len(lines) == 0 && at != p.Top", "false"},
	}, run: "TestFaults/^2_"},
	{name: "a tag is made without the one before", edits: []edit{
		{"emitter/publish.lua", "redis.sha1hex(previous .. print)", "redis.sha1hex(print)"},
	}, run: "TestOlderSnapshot"},
	{name: "quiet rooms are not checked", edits: []edit{
		{"signal/hub/local.go", "\tl.room.Checked(top)\n", ""},
	}},
	{name: "who comes while a read is out shares it", edits: []edit{
		{"signal/hub/ask.go", "return &a.next", "return &a.now"},
	}},
	{name: "what was dropped is not missed", edits: []edit{
		{"signal/room/room.go", "\tdefault:\n\t\tr.Doubt()\n\t}\n\treturn false", "\t}\n\treturn false"},
	}},
	{name: "who is left out gets no skip", edits: []edit{
		{"signal/hub/pass.go", "case !m.gets(e, i, live) && e.Position.IsZero():", "case !m.gets(e, i, live):"},
	}},
	{name: "a join takes effect after the leave", edits: []edit{
		{"signal/hub/shard.go", "if a.member.gone.Load() {", "if false {"},
	}},
	{name: "the note of news is cleared outside the lock", edits: []edit{
		{"signal/hub/local.go", "\t\"math/bits\"\n", "\t\"math/bits\"\n\t\"runtime\"\n"},
		{"signal/hub/local.go", "\tdefer l.mu.Unlock()\n\tl.noted &^= 1 << i\n\tentries, from", "\tentries, from"},
		{"signal/hub/local.go", "return entries, from, from+room.Cursor(len(entries)) < l.room.Head()",
			"more = from+room.Cursor(len(entries)) < l.room.Head()\n\tl.mu.Unlock()\n\tfor range 1000 {\n\t\truntime.Gosched()\n\t}\n\tl.mu.Lock()\n\tdefer l.mu.Unlock()\n\tl.noted &^= 1 << i\n\treturn entries, from, more"},
	}},
	{name: "the shard's cursor moves when the pass begins, and members catch up with it", edits: []edit{
		{"signal/hub/pass.go", "\tp.pass = pass\n\treturn true", "\tp.pass = pass\n\tp.at, p.position = pass.to(), after(pass.before, pass.batch.Entries)\n\treturn true"},
		{"signal/hub/shard.go", "v.Cursor == p.at && p.pass == nil", "v.Cursor == p.at"},
		{"signal/hub/behind.go", "o.Cursor == p.at && p.pass == nil", "o.Cursor == p.at"},
	}},
	{name: "joined says where the client is after the replay", edits: []edit{
		{"signal/room/room.go", "v = r.verdict(c, since, proto.OK)", "v = r.verdict(c, r.at, proto.OK)"},
	}},
	{name: "an event sent again is another one", edits: []edit{
		{"emitter/publish.lua", "if said then", "if false then"},
	}, run: "TestReusedID"},
	{name: "the ring forgets what a slow member has not read", edits: []edit{
		{"signal/hub/local.go", "l.room.Forget(min(kept, least))", "l.room.Forget(taken)"},
		{"signal/room/room.go", "if c, ok := r.find(from.At); ok {", "if c, ok := r.find(from.At); ok || true {"},
	}},
	{name: "who takes little is read for again at once", edits: []edit{
		{"signal/hub/behind.go", "o.asked || o.later && o.InLog", "o.asked"},
	}},
	{name: "a room stays where its slot was", edits: []edit{
		{"signal/bus/route.go", "if len(made)+len(gone) > 0 || t.doubted {", "if false {"},
	}, in: "./signal/bus", run: "TestSlotsMove"},
	{name: "a master that is away holds up the events of all", edits: []edit{
		{"emitter/lane.go", "func (l *lane) run(master *redis.Client) {", "var one sync.Mutex\n\nfunc (l *lane) run(master *redis.Client) {\n\tone.Lock()\n\tdefer one.Unlock()"},
	}, in: "./emitter", run: "TestOtherMastersGoOn"},
	{name: "whatever a server of a cluster answers is believed", edits: []edit{
		{"emitter/proof.go", "if e.at.Mode != Cluster {", "if true {"},
	}, in: "./emitter", run: "TestAckExists"},
	{name: "who is not told what is revoked lets everybody in", edits: []edit{
		{"signal/transport/websocket.go", "if !w.trust.begun() {", "if false {"},
		{"signal/transport/trust.go", "return t.until.Load() < clock()", "return t.begun() && t.until.Load() < clock()"},
	}, run: "TestStartsWithoutRedis"},
	{name: "one room that cannot be read hides the others", edits: []edit{
		{"emitter/roll.lua", "redis.call('MGET', ARGV[1] .. name .. ARGV[2])[1]", "redis.call('GET', ARGV[1] .. name .. ARGV[2])"},
		{"signal/bus/check.go", "if all || errors.Is(err, emitter.ErrUnavailable) {", "if all || err != nil {"},
	}, run: "TestPoisonedRoom/single/position"},
	{name: "anybody says what nodes say", edits: []edit{
		{"proto/bus.go", "m.Event.Event.CheckSent(); err", "m.Event.Event.Check(); err"},
	}, in: "./proto", run: "TestMessageVectors"},
	{name: "a connection on which nothing arrives is kept", edits: []edit{
		{"signal/bus/canary.go", "silent > canarySilent", "false"},
	}, in: "./signal/bus", run: "TestStaleConnection"},
	{name: "revocations are read only by who is told", edits: []edit{
		{"signal/bus/revoked.go", "revokedEvery = time.Second", "revokedEvery = time.Hour"},
	}, run: "TestRevocationIsKept"},
	{name: "who is let in is not judged again", edits: []edit{
		{"signal/session/authenticate.go", "if reason, revoked := s.o.Revoked.Judge(identity.Bearer); revoked {\n\t\ts.o.Metrics", "if reason, revoked := \"\", false; revoked {\n\t\ts.o.Metrics"},
	}, run: "TestRevoke$"},
	{name: "frames after connected are not sealed", edits: []edit{
		{"signal/transport/conn.go", "\tc.sealing = sealing\n", ""},
	}, run: "TestEncryption$"},
	{name: "a frame in the open counts after a sealed one", edits: []edit{
		{"signal/session/sealed.go", "if s.rare.seals && f.Event != proto.EventHeartbeat {", "if false {"},
	}, run: "TestEncryption$"},
	{name: "the client says what its address is", edits: []edit{
		{"signal/transport/visitors.go", "slices.Backward(hops)", "slices.All(hops)"},
	}, run: "TestClientAddress"},
	{name: "what stands in a log counts unsigned", edits: []edit{
		{"emitter/read.go", "\t\tif err == nil {\n\t\t\terr = e.signer.Check(r.Room, m.EventID, b)\n\t\t}\n", ""},
	}, run: "TestSigned$"},
	{name: "who has said Close gets what waits, although revoked", edits: []edit{
		{"signal/transport/conn.go", "if dropped := c.dropAlone(); c.code != 0 && !dropped {", "if c.code != 0 || c.dropAlone() && false {"},
	}, in: "./signal/transport", run: "TestDismissed"},
	{name: "any page may use a cookie", edits: []edit{
		{"signal/api/realtime.go", "if len(origin) != 1 || ", "if false && len(origin) != 1 && "},
	}, run: "TestTokenExchange"},
	{name: "what a revoked client has queued is published", edits: []edit{
		{"signal/session/publish.go", "revoked || s.o.Revoked.Room(who.Bearer, p.Room) { // meanwhile", "revoked && false { // meanwhile"},
	}, in: "./signal/session", run: "TestQueuedEvents"},
	{name: "a room that a newer token does not allow is entered under way", edits: []edit{
		{"signal/session/session.go", " || s.asked(r.Room) && !s.mayJoin(who, r.Room)", ""},
	}, in: "./signal/session", run: "TestNarrowedMeanwhile"},
	{name: "what we mirror is taken for the original's", edits: []edit{
		{"signal/bus/receive.go", "\tif proto.IsMirror(payload) {\n\t\treturn nil", "\tif false {\n\t\treturn nil"},
	}, in: "./signal/bus", run: "TestIgnis"},
	{name: "the original is told of what it had already", edits: []edit{
		{"emitter/publish.lua", "    local there, printed = string.match(said, '^(%S+) (%S+)$')\n", "    local there, printed = string.match(said, '^(%S+) (%S+)$')\n    if width == 4 then call('PUBLISH', original, ARGV[n + 3]) end\n"},
	}, in: "./emitter", run: "TestMirror$"},
	{name: "the original does not hear who is left out", edits: []edit{
		{"proto/ignis.go", "for i, c := range m.Except {", "for i, c := range m.Except[:0] {"},
	}, in: "./emitter", run: "TestMirror$"},
	{name: "who runs already does not mirror", edits: []edit{
		{"emitter/mirror.go", "m.seen, m.next = now, now.Add(mirrorAhead)", "m.seen, m.next = now, now.Add(10*time.Minute)"},
	}, in: "./emitter", run: "TestMirrorIsForAll"},
	{name: "a Redis that has lost everything ends the mirror", edits: []edit{
		{"emitter/mirror.go", "case mirrorOff:", `case mirrorOff, "":`},
	}, in: "./emitter", run: "TestMirrorIsForAll"},
	{name: "whoever names a connection has come back to it", edits: []edit{
		{"signal/hook/outbox.go", "return is && back.user == n.User", "_ = back\n\treturn is"},
	}, in: "./signal/hook", run: "TestOutboxComesBack"},
	{name: "as much waits for the application as comes", edits: []edit{
		{"signal/session/budget.go", "if b.events >= backlogEvents || b.bytes+size > backlogBytes || u != \"\" && b.of[u]+size > backlogUser {", "if false {"},
	}, run: "TestHookCrowd"},
	{name: "a resync is forgotten by who is behind it", edits: []edit{
		{"signal/room/room.go", "case from.Cursor < resync && (from.InLog || r.first >= resync):", "case false:"},
		{"signal/room/room.go", "case !from.InLog && from.Cursor < resync:", "case false:"},
	}},
}

// TestMutants breaks the program in one way after the other and wants its tests to fail. The
// broken files are laid over the true ones for the compiler alone, so nothing of this is
// in the program, and a mutant whose text is not there any more fails here.
func TestMutants(t *testing.T) {
	if os.Getenv("SIGNAL_TEST_MUTANTS") == "" {
		t.Skip("make mutants")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel() // most wait, for what does not come any more
			overlay := m.write(t, root)
			args := []string{"test", "-count=1", "-failfast", "-timeout=3m"}
			if m.run != "" {
				args = append(args, "-run", m.run, cmp.Or(m.in, "./signal"))
			} else {
				args = append(args, "./signal/room", "./signal/hub")
			}
			cmd := exec.Command("go", args...)
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "SIGNAL_TEST_MUTANTS=", "SIGNAL_SEEDS=40",
				"GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay, // also of the programs that tests build
				"RAPID_SEED=1", "RAPID_CHECKS=300", "RAPID_SHRINKTIME=1s", "RAPID_NOFAILFILE=1") // the same search each time, whose finds are not for the next one
			out, err := cmd.CombinedOutput()
			switch failed := failure.FindSubmatch(out); {
			case err == nil:
				t.Error("it lives")
			case failed != nil:
				t.Logf("caught by %s: %s", failed[1], failed[2])
			case strings.Contains(string(out), "panic: "):
				t.Log("caught by a panic")
			default:
				t.Fatalf("it does not even compile: %s", out)
			}
		})
	}
}

var failure = regexp.MustCompile(`--- FAIL: (\S+) .*\n((?: +--- FAIL.*\n)*.*)`)

// write writes the broken files, and says where the list of them is.
func (m mutant) write(t *testing.T, root string) (overlay string) {
	t.Helper()
	dir := t.TempDir()
	texts := map[string]string{}
	for _, e := range m.edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		if texts[path] == "" {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(b)
		}
		if n := strings.Count(texts[path], e.from); n != 1 {
			t.Fatalf("%s has %q %d times, want once", e.file, e.from, n)
		}
		texts[path] = strings.Replace(texts[path], e.from, e.to, 1)
	}
	replace := map[string]string{}
	for path, text := range texts {
		broken := filepath.Join(dir, fmt.Sprint(len(replace), "-", filepath.Base(path)))
		if err := os.WriteFile(broken, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = broken
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

package checker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/checker"
)

// kept is how many events the rooms of these tests keep.
const kept = 3

// place reads a position: the letter of an incarnation, then those of the events so far.
func place(s string) (p proto.Position) {
	if s == "" || s == "0" {
		return p
	}
	p = checker.First(proto.Incarnation([]byte(strings.Repeat(s[:1], 8))))
	for _, id := range s[1:] {
		p = checker.Next(p, content(string(id)))
	}
	return p
}

func content(id string) string {
	return proto.Fingerprint(proto.Event{EventID: proto.EventID(id), Event: "e"})
}

// read reads a history of the room r: what happened stands between semicolons, a second apart.
// A client is a capital letter, an event a small one.
func read(t *testing.T, text string) (all []checker.Record) {
	t.Helper()
	for i, line := range strings.Split(text, ";") {
		w := append(strings.Fields(line), "", "", "")
		at := time.Duration(i+1) * time.Second
		r := checker.Record{At: at, Kind: checker.Kind(w[0]), Room: "r"}
		switch r.Kind {
		case checker.Sending:
			r.ID, r.Print = proto.EventID(w[1]), content(w[1])
			if w[2] != "" {
				r.Except = strings.Split(w[2], ",")
			}
		case checker.Sent:
			r.ID, r.Position, r.Duplicate = proto.EventID(w[1]), place(w[2]), w[3] != ""
		case checker.Joining, checker.Skip:
			r.Client, r.Position = w[1], place(w[2])
		case checker.Joined, checker.Resync:
			r.Client, r.Position, r.Reason = w[1], place(w[2]), proto.Found(w[3])
		case checker.Event:
			r.Client, r.ID, r.Position, r.Print = w[1], proto.EventID(w[2]), place(w[3]), content(w[2])
			if w[4] != "" {
				r.Print = content(w[4])
			}
		case checker.Gone, checker.Revoke:
			r.Client, r.Room = w[1], ""
		case checker.Loss, checker.Fork:
			r.Room, r.Began = "", time.Second
		case checker.Trim:
			r.Began = at
		case checker.Final:
			r.Position = place(w[1])
			for n := max(len(w[1])-kept, 1) + 1; n <= len(w[1]); n++ {
				r.Log = append(r.Log, place(w[1][:n]))
			}
		case checker.Failed:
			r.ID = proto.EventID(w[1])
		case "wait":
			continue
		default:
			t.Fatalf("history %q: what is %q?", text, w[0])
		}
		all = append(all, r)
	}
	return all
}

// C is in the room from its beginning; a and b are sent and acknowledged.
const (
	in = "joining C; joined C E fresh; "
	a  = "sending a; sent a Ea; "
	b  = "sending b; sent b Eab; "
	ab = a + b
)

// TestGood: what happens when all is well, or when clients were told.
func TestGood(t *testing.T) {
	for name, text := range map[string]string{
		"event by event":               in + a + "event C a Ea; " + b + "event C b Eab; final Eab",
		"before the acknowledgement":   in + "sending a; event C a Ea; sent a Ea; final Ea",
		"never acknowledged":           in + "sending a; event C a Ea; final Ea",
		"refused, and again":           in + "sending a; failed a; sending a; sent a Ea; event C a Ea; final Ea",
		"never arrived":                in + "sending a; failed a; final E",
		"acknowledged twice":           in + a + "event C a Ea; sending a; sent a Ea duplicate; final Ea",
		"left out":                     in + "sending a C; sent a Ea; skip C Ea; final Ea",
		"two at once in any order":     in + "sending a; sending b; sent b Eb; sent a Eba; event C b Eb; event C a Eba; final Eba",
		"away and back":                in + a + "event C a Ea; gone C; " + b + "joining C Ea; joined C Ea ok; event C b Eab; final Eab",
		"away and not back":            in + a + "event C a Ea; gone C; " + b + "final Eab",
		"back to an earlier place":     in + a + "event C a Ea; joining C E; joined C E ok; event C a Ea; final Ea",
		"joined anew":                  in + ab + "event C a Ea; joining C; joined C Eab fresh; final Eab",
		"away for too long":            in + "gone C; " + ab + "sending c; sent c Eabc; sending d; sent d Eabcd; joining C E; joined C Eabcd behind; final Eabcd",
		"the log is gone":              in + "gone C; " + a + "trim; joining C E; joined C Ea trimmed; final Ea",
		"all is gone":                  in + a + "event C a Ea; loss; sending b; sent b Fb; resync C Fb epoch; final Fb",
		"all is gone before any event": in + "loss; sending b; sent b Fb; resync C F epoch; event C b Fb; final Fb",
		"the last is gone":             in + ab + "event C a Ea; event C b Eab; loss; resync C Ea rewound; sending c; sent c Eac; event C c Eac; final Eac",
		"the last is gone and back":    in + ab + "event C a Ea; event C b Eab; loss; resync C Ea rewound; sending b; sent b Eab; event C b Eab; final Eab",
		"sent again behind another":    in + ab + "event C a Ea; event C b Eab; loss; sending c; sent c Eac; sending b; sent b Eacb; resync C Eac forked; event C b Eacb; final Eacb",
		"told only when it is back":    in + ab + "event C a Ea; event C b Eab; gone C; loss; sending c; sent c Eac; joining C Eab; joined C Eac forked; final Eac",
		"had nothing of what is gone":  in + a + "event C a Ea; " + "sending b; sent b Eab; loss; sending c; sent c Eac; event C c Eac; final Eac",
		"acknowledged once it counts":  in + "sending a; event C a Ea; fork; sending b; sent b Eb; sent a Eba; resync C Eb forked; event C a Eba; final Eba",
		"a long chain":                 in + ab + "event C a Ea; event C b Eab; sending c; sent c Eabc; sending d; sent d Eabcd; sending e; sent e Eabcde; event C c Eabc; event C d Eabcd; event C e Eabcde; final Eabcde",
		"revoked":                      in + a + "revoke C; event C a Ea; gone C; wait; wait; wait; " + b + "final Eab",
	} {
		if found := checker.Check(read(t, text), kept); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// TestBad: each history breaks a promise, and it is found.
func TestBad(t *testing.T) {
	for rule, histories := range map[checker.Rule]map[string]string{
		checker.Phantom: {
			"nobody has sent it":       in + "event C a Ea; final Ea",
			"sent only later":          in + "event C a Ea; " + a + "final Ea",
			"another content":          in + a + "event C a Ea x; final Ea",
			"left out and got it":      in + "sending a B,C; sent a Ea; event C a Ea; final Ea",
			"not in the room":          a + "event C a Ea; final Ea",
			"refused, and it came":     in + "sending a; failed a; event C a Ea; final Ea",
			"after it has gone":        in + "gone C; " + a + "event C a Ea; final Ea",
			"skipped out of the room":  a + "skip C Ea; final Ea",
			"after the joined of none": in + a + "event C x Ex; final Ea",
		},
		checker.Repeated: {
			"the same frame twice":       in + a + "event C a Ea; event C a Ea; final Ea",
			"under another number":       in + a + "event C a Ea; event C a Eaa; final Eaa",
			"again after the next":       in + ab + "event C a Ea; event C b Eab; event C a Ea; event C b Eab; final Eab",
			"skip and event":             in + a + "skip C Ea; event C a Ea; final Ea",
			"live before the replay":     in + ab + "event C a Ea; gone C; joining C Ea; joined C Ea ok; event C b Eab; event C b Eab; final Eab",
			"on both branches, not told": in + ab + "event C a Ea; event C b Eab; loss; sending c; sent c Eac; sending b; sent b Eacb; event C b Eacb; final Eacb",
			"a number anew":              in + ab + "event C a Ea; event C b Eab; loss; sending c; sent c Eac; event C c Eac; final Eac",
		},
		checker.Broken: {
			"the wrong tag":               in + a + "event C a Eb; final Ea",
			"another incarnation":         in + a + "event C a Fa; final Ea",
			"a fork in the next event":    in + ab + "event C a Ea; event C b Exb; final Eab",
			"a fork nobody was told of":   in + ab + "event C a Ea; event C b Eab; loss; sending c; sent c Eac; sending d; sent d Eacd; event C d Eacd; final Eacd",
			"a skip to another branch":    in + "sending a; sent a Ea; sending b C; sent b Eab; skip C Eab; sending x; sent x Ex; event C x Ex; skip C Exb; final Eab",
			"back into an old epoch":      in + a + "event C a Ea; loss; sending b; sent b Fb; resync C F epoch; event C b Eab; final Fb",
			"a skip in another epoch":     in + "sending a C; sent a Ea; skip C Fa; final Ea",
			"a skip that does not follow": in + "sending a; sent a Ea; event C a Eb; sending c C; sent c Eac; skip C Eac; final Eac",
		},
		checker.Agreement: {
			"two events at one place":  in + "sending a; sending b; sent a Ea; sent b Ea; final Ea",
			"another one for a client": in + a + "sending b; event C b Ea a; final Ea",
			"two for two clients":      in + "joining D; joined D E fresh; sending a; sending b; event C a Ea; event D b Ea; final Ea",
			"a number twice":           in + "sending a; sending b; sent a Ea; sent b Eb; final Ea",
			"a number twice, later":    in + ab + "sending c; sent c Eac; final Eab",
			"two clients, two numbers": in + "joining D; joined D E fresh; sending a; sending b; event C a Ea; event D b Eb; final Ea",
		},
		checker.Lost: {
			"a hole":                        in + ab + "event C b Eab; final Eab",
			"the first of a replay":         in + a + "event C a Ea; gone C; " + b + "sending c; sent c Eabc; joining C Ea; joined C Ea ok; event C c Eabc; final Eabc",
			"joined at the end of a replay": in + a + "gone C; joining C E; joined C Ea ok; event C a Ea; final Ea",
			"told nothing of a loss":        in + a + "gone C; joining C E; joined C Ea fresh; final Ea",
			"no reason":                     in + a + "gone C; joining C E; joined C Ea; final Ea",
			"a resync without one":          in + a + "event C a Ea; loss; resync C F because; final F",
			"skipped what was for it":       in + a + "skip C Ea; final Ea",
			"a hole after a resync":         in + a + "event C a Ea; loss; resync C F epoch; sending b; sent b Fb; sending c; sent c Fbc; event C c Fbc; final Fbc",
			"a resync out of the room":      a + "loss; resync C F epoch; final F",
		},
		checker.Unexcused: {
			"acknowledged and gone":           in + ab + "event C a Ea; final Ea",
			"acknowledged at the second try":  in + "sending a; sending a; sent a Ea duplicate; final E",
			"the first one":                   in + a + "final E",
			"another one instead":             in + a + "sending b; sent b Eb; final Eb",
			"gone after the loss":             in + "loss; " + a + "final E",
			"another incarnation":             in + a + "event C a Ea; final F",
			"who had it is not told":          in + ab + "event C a Ea; event C b Eab; loss; final Ea",
			"acknowledged by a former master": in + a + "event C a Ea; fork; sending b; sent b Eb; resync C Eb forked; final Eb",
			"lost only in the old part":       in + "sending x; sent x Ex; " + ab + "sending c; sent c Eabc; sending d; sent d Eabcd; sending e; sent e Eabcde; final Eabcde",
		},
		checker.Behind: {
			"the last one is missing":  in + ab + "event C a Ea; final Eab",
			"nothing came":             in + a + "final Ea",
			"on a branch that is gone": in + a + "event C a Ea; loss; sending b; sent b Eb; final Eb",
			"told a place too early":   in + a + "event C a Ea; loss; sending b; sent b Fb; resync C F epoch; final Fb",
			"back, and nothing came":   in + a + "gone C; joining C E; joined C E ok; final Ea",
			"joined for ever":          "joining C; " + a + "final Ea",
			"one of two":               in + "joining D; joined D E fresh; " + a + "event D a Ea; final Ea",
		},
		checker.FalseAlarm: {
			"nothing was lost":           in + a + "event C a Ea; resync C Ea forked; final Ea",
			"a join is not recovered":    in + a + "event C a Ea; gone C; joining C Ea; joined C Ea epoch; final Ea",
			"only two behind":            in + "gone C; " + ab + "joining C E; joined C Eab behind; final Eab",
			"trimmed, and it was not":    in + "gone C; " + a + "joining C E; joined C Ea trimmed; final Ea",
			"another room's loss":        in + a + "event C a Ea; loss; resync C Ea rewound; final Ea",
			"before the loss":            in + ab + "event C a Ea; event C b Eab; resync C Eab rewound; final Eab",
			"it has seen more than here": in + ab + "event C a Ea; event C b Eab; gone C; joining C Eab; joined C Ea rewound; event C b Eab; final Eab",
		},
		checker.Revoked: {
			"an event":           in + a + "revoke C; wait; wait; wait; event C a Ea; final Ea",
			"a skip":             in + "sending a C; sent a Ea; revoke C; wait; wait; wait; skip C Ea; final Ea",
			"a resync":           in + a + "event C a Ea; loss; revoke C; wait; wait; wait; resync C F epoch; final F",
			"it may join":        "revoke C; wait; wait; wait; joining C; joined C E fresh; final E",
			"it may come back":   in + a + "revoke C; gone C; wait; wait; joining C E; joined C E ok; event C a Ea; final Ea",
			"much later, a last": in + a + "event C a Ea; revoke C; wait; wait; wait; wait; wait; sending b; sent b Eab; event C b Eab; final Eab",
		},
		checker.RealTime: {
			"the second before the first":  in + "sending a; sent a Eba; sending b; sent b Eb; event C b Eb; event C a Eba; final Eba",
			"two later":                    in + "sending a; sent a Ecba; sending b; sending c; sent b Ecb; sent c Ec; final Ecba",
			"after a long time":            in + "sending b; " + "sent b Eab; wait; wait; sending a; sent a Ea; final Eab",
			"with a loss long before":      in + "loss; wait; sending a; sent a Fba; sending b; sent b Fb; final Fba",
			"at the second try":            in + "sending a; sending a; sent a Eba duplicate; sending b; sent b Eb; event C b Eb; event C a Eba; final Eba",
			"one in the middle":            in + a + "sending b; sent b Eacb; sending c; sent c Eac; final Eacb",
			"acknowledged again meanwhile": in + "sending a; sent a Eba; sending a; sent a Eba duplicate; sending b; sent b Eb; final Eba",
		},
	} {
		for name, text := range histories {
			found := checker.Check(read(t, text), kept)
			if !slices.ContainsFunc(found, func(v checker.Violation) bool { return v.Rule == rule }) {
				t.Errorf("%s, %s: found %v", rule, name, found)
			}
		}
		if len(histories) < 5 {
			t.Errorf("%s: only %d histories", rule, len(histories))
		}
	}
}

package proto_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signal-team/signal/proto"
)

func TestIDs(t *testing.T) {
	node := proto.NewNodeID()
	client := proto.NewClientID(node)
	if got, ok := client.Node(); !ok || got != node {
		t.Errorf("node of %q is %q, %t; want %q", client, got, ok, node)
	}
	if got, ok := proto.NewAskID(node).Node(); !ok || got != node {
		t.Errorf("node of an ask id is %q, %t; want %q", got, ok, node)
	}
	if _, ok := proto.ClientID("5f0c2f6e-8f9d-4b8e-9f43-0d2f7c0f5a11").Node(); ok {
		t.Error("a client id of the original has a node")
	}
	var first, second proto.EventID
	synctest.Test(t, func(*testing.T) { // a clock of its own: ids sort by the millisecond
		first = proto.NewEventID()
		time.Sleep(time.Millisecond)
		second = proto.NewEventID()
	})
	if len(first) != 36 || first[14] != '7' || !strings.Contains("89ab", string(first[19])) || first >= second {
		t.Errorf("event ids %q, %q: want two UUIDv7 in order", first, second)
	}
	if err := first.Check(); err != nil {
		t.Error(err)
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		target proto.Target
		room   proto.Room
		ok     bool
	}{
		{proto.ToRoom("orders"), "orders", true},
		{proto.ToUser("u1"), "$user:u1", true},
		{proto.ToEveryone(), "$broadcast", true},
		{proto.ToClient("abcdefg2.abcdefghijklmno7"), "", true},
		{proto.ToClient("nobody"), "", false},
		{proto.ToRoom("$broadcast"), "$broadcast", false},
		{proto.ToUser("a}b"), "$user:a}b", false},
		{proto.Target{}, "", false},
	} {
		if got := c.target.Room(); got != c.room {
			t.Errorf("%s: room %q, want %q", c.target, got, c.room)
		}
		if err := c.target.Check(); (err == nil) != c.ok {
			t.Errorf("%s: Check is %v, want ok %t", c.target, err, c.ok)
		}
	}
	if u, ok := proto.UserRoom("u1").User(); !ok || u != "u1" {
		t.Errorf("user of the room of u1 is %q, %t", u, ok)
	}
}

func TestLayout(t *testing.T) {
	l := proto.Layout{Prefix: "sg"}
	if got := l.Channel("orders"); got != "sg:{orders}:ch" {
		t.Errorf("channel %q", got)
	}
	if got := l.Inbox("n1"); got != "sg:{$node:n1}:ch" {
		t.Errorf("inbox %q", got)
	}
	if got, ok := l.Room("sg:{a:b}:ch"); !ok || got != "a:b" {
		t.Errorf("room %q, %t", got, ok)
	}
	if _, ok := l.Room("ws:room:a"); ok {
		t.Error("a channel of the original is a room of ours")
	}
}

func TestTables(t *testing.T) {
	codes := map[proto.ErrorCode]bool{}
	for _, e := range proto.Errors {
		if codes[e.Code] || e.Message == "" || e.Code.Message() != e.Message {
			t.Errorf("line %+v: twice, or without a message", e)
		}
		codes[e.Code] = true
	}
	closes := map[proto.CloseCode]bool{}
	for _, c := range proto.Closes {
		if closes[c.Code] || c.Reason == "" || len(c.Reason) > 123 || c.Code.Reason() != c.Reason || c.Reconnect == "" {
			t.Errorf("line %+v: twice, or without a reason of at most 123 bytes", c)
		}
		closes[c.Code] = true
	}
	// What tills of the original compare.
	for code, text := range map[proto.CloseCode]string{
		1001: "Server shutting down", 4001: "Authentication timeout", 4002: "Heartbeat timeout",
		4003: "Authentication failed", 4004: "Encryption required",
	} {
		if code.Reason() != text {
			t.Errorf("close %d says %q, the original %q", code, code.Reason(), text)
		}
	}
}

func TestErrorsDoNotQuoteFrames(t *testing.T) {
	const token = "eyJhbGciOi.secret"
	for _, frame := range []string{`{"token":"` + token + `"}`, `{"event":"authenticate","data":"` + token + `"`, token} {
		if _, err := proto.DecodeFrame([]byte(frame)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error for a frame with a token: %v", err)
		}
	}
	f := proto.Frame{Event: "authenticate", Data: []byte(`["` + token + `"]`)}
	if _, err := f.Authenticate(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error for data with a token: %v", err)
	}
}

// What a sender may send, every node can read.
func TestDeepestData(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if err := proto.CheckData(nested(proto.MaxDepth + 1)); err == nil {
		t.Error("data deeper than MaxDepth is accepted")
	}
	m := proto.Message{Event: proto.Event{Event: "e", EventID: "e-1", Data: nested(proto.MaxDepth)}}
	if err := proto.CheckData(m.Data); err != nil {
		t.Error(err)
	}
	if _, err := proto.DecodeMessage(proto.AppendMessage(nil, m)); err != nil {
		t.Error(err)
	}
}

// The log says what is wrong with a bus message, not what is in it.
func TestBusErrorsDoNotQuoteMessages(t *testing.T) {
	for _, m := range []string{"secret\n{}", "E1 secret secret\n{}", "E1 e-1\n{\"secret\":1,\"secret\":2}", "E1 e-1\nsecret", "R1 secret 1"} {
		_, err := proto.DecodeMessage([]byte(m))
		_, aerr := proto.DecodeAnswer([]byte(m))
		_, _, ierr := proto.DecodeIgnis([]byte(m))
		for _, err := range []error{err, aerr, ierr} {
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", m, err)
			}
		}
	}
}

func TestAnswers(t *testing.T) {
	ask := proto.NewAskID(proto.NewNodeID())
	b := proto.AppendAnswer(nil, proto.Answer{Ask: ask, Receivers: 1})
	if a, err := proto.DecodeAnswer(b); err != nil || a.Ask != ask || a.Receivers != 1 || !proto.IsAnswer(b) {
		t.Errorf("%q: %+v, %v", b, a, err)
	}
	for _, bad := range []string{"", "R1", "R1 x 1", "R1 " + string(ask) + " 2", "R2 " + string(ask) + " 1", "R1 " + string(ask) + " 1 1"} {
		if _, err := proto.DecodeAnswer([]byte(bad)); err == nil {
			t.Errorf("answer %q is accepted", bad)
		}
	}
}

// TestLongListIsNotRead: of a list of names that is too long no more is read than it takes to see that.
func TestLongListIsNotRead(t *testing.T) {
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, `,"r%d"`, i)
	}
	f := proto.Frame{Event: "join", Data: []byte(`{"rooms":["x"` + b.String() + `]}`)}
	cost := func(most int) float64 { return testing.AllocsPerRun(10, func() { _, _ = f.Rooms(most) }) }
	if _, err := f.Rooms(200); err == nil || !strings.Contains(err.Error(), "200") {
		t.Errorf("10,001 names: %v", err)
	}
	if few, all := cost(200), cost(0); few > all/20 {
		t.Errorf("it costs %v allocations to refuse it, and %v to read it", few, all)
	}
}

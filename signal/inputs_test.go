package signal_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	endian "encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal"
	"github.com/signal-team/signal/signal/config"
	"github.com/signal-team/signal/signal/transport/wstest"
)

// The 112 bad inputs of RELIABILITY 4.3, by their numbers, against a whole node with the limits of
// its defaults. Those that need a crowd, a fault or another Redis have a test of their own, which
// is named in elsewhere. Where DESIGN.md gives another answer than the list, that one is wanted,
// and said.
var elsewhere = map[int]string{
	24: "TestCrowd", 82: "TestCrowd", // ten thousand sockets that say nothing
	42: "TestConformance", 43: "TestConformance", 44: "TestConformance", // in pieces, and never whole
	48: "TestStalledClients", 50: "TestConformance", 51: "TestConformance", // never reads; compressed frames are refused by their RSV1
	83: "BenchmarkStorm", 84: "TestRoomsInTurn", 85: "TestClientAddress",
	102: "TestRevoke", 103: "TestRevokedMeanwhile", 109: "TestUsersOfRedis",
}

// inputs is a node for bad input, and what was seen of it.
type inputs struct {
	*node
	seen map[int]bool
	mu   sync.Mutex
}

func (in *inputs) row(numbers ...int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, n := range numbers {
		in.seen[n] = true
	}
}

func startInputs(t *testing.T, change func(*signal.Config)) *inputs {
	t.Helper()
	cfg := settings(redistest.Start(t).Settings())
	cfg.AllowedOrigins = []string{"https://app.example.com"}
	cfg.LimitFrames, cfg.LimitJoins, cfg.LimitPublishes = config.Rate{PerSecond: 50, Burst: 100}, config.Rate{PerSecond: 20, Burst: 100}, config.Rate{PerSecond: 50, Burst: 100}
	cfg.LimitControls, cfg.LimitUserConnections, cfg.LimitErrors = config.Rate{PerSecond: 20, Burst: 100}, 20, 0
	cfg.JWTMaxLifetime, cfg.JWTIssuer, cfg.JWTType = 15*time.Minute, "https://login.example.com", "signal+jwt"
	if change != nil {
		change(&cfg)
	}
	return &inputs{node: run(t, cfg), seen: map[int]bool{}}
}

// TestInputs holds every input against its answer, and the list against the numbers.
func TestInputs(t *testing.T) {
	all := map[int]bool{}
	there := everyTest(t)
	for n, name := range elsewhere {
		if all[n] = true; !there[name] {
			t.Errorf("input %d is in %s, which is not there", n, name)
		}
	}
	for name, test := range map[string]func(*testing.T) map[int]bool{
		"handshake": handshakeInputs, "frames": frameInputs, "JSON": jsonInputs, "rooms": roomInputs, "rates": rateInputs, "tokens": tokenInputs, "bus": busInputs,
	} {
		t.Run(name, func(t *testing.T) {
			for n := range test(t) {
				all[n] = true
			}
		})
	}
	for n := 1; n <= 112; n++ {
		if !all[n] && !t.Failed() {
			t.Errorf("input %d is not tested", n)
		}
	}
}

// A peer is a client that says whatever bytes it likes.
type peer struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

const upgradeLines = "Host: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func (in *inputs) dial(t *testing.T) *peer {
	t.Helper()
	c, err := net.Dial("tcp", in.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(wstest.Patience))
	return &peer{t, c, bufio.NewReader(c)}
}

func (p *peer) say(s string) { _, _ = io.WriteString(p, s) }

// answer is the HTTP answer.
func (p *peer) answer() *http.Response {
	p.t.Helper()
	r, err := http.ReadResponse(p.r, nil)
	if err != nil {
		p.t.Fatalf("no answer: %v", err)
	}
	return r
}

// open is a connection that is not authenticated; known is one that is.
func (in *inputs) open(t *testing.T) *peer {
	t.Helper()
	p := in.dial(t)
	p.say("GET /ws HTTP/1.1\r\n" + upgradeLines + "\r\n")
	if r := p.answer(); r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgraded: %s", r.Status)
	}
	return p
}

func (in *inputs) known(t *testing.T, rooms proto.Grants) *peer {
	t.Helper()
	p := in.open(t)
	p.text(string(proto.AppendFrame(nil, proto.EventAuthenticate, map[string]string{"token": in.token(t, "u-"+string(proto.NewTicketID()), nil, rooms)}, "")))
	for f := (wstest.Frame{}); f.Event != "joined" || !bytes.Contains(f.Data, []byte(`"done":true`)); {
		f = p.frame()
	}
	return p
}

// token is one that the node accepts, unless claims or header say otherwise.
func (in *inputs) token(t *testing.T, user string, change func(h map[string]any, c jwt.MapClaims), rooms proto.Grants) string {
	t.Helper()
	if rooms == nil {
		rooms = proto.Grants{"*"}
	}
	made := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user, "aud": "signal", "iss": "https://login.example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "rooms": rooms, "publish": rooms,
	})
	made.Header["typ"] = "signal+jwt"
	if change != nil {
		change(made.Header, made.Claims.(jwt.MapClaims))
	}
	s, err := made.SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// masked is a client's frame, as its first byte says.
func masked(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = endian.BigEndian.AppendUint16(append(b, 0xfe), uint16(n))
	default:
		b = endian.BigEndian.AppendUint64(append(b, 0xff), uint64(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

func (p *peer) text(s string) { p.say(masked(0x81, s)) }

// next is the next frame from the node, but no ping.
func (p *peer) next() (first byte, payload []byte, err error) {
	for {
		var head [2]byte
		if _, err = io.ReadFull(p.r, head[:]); err != nil {
			return 0, nil, err
		}
		size := uint64(head[1])
		switch {
		case size == 126:
			var n [2]byte
			_, err = io.ReadFull(p.r, n[:])
			size = uint64(endian.BigEndian.Uint16(n[:]))
		case size == 127:
			var n [8]byte
			_, err = io.ReadFull(p.r, n[:])
			size = endian.BigEndian.Uint64(n[:])
		}
		if err != nil {
			return 0, nil, err
		}
		payload = make([]byte, size)
		if _, err = io.ReadFull(p.r, payload); err != nil || head[0] == 0x81 || head[0] == 0x88 {
			return head[0], payload, err
		}
	}
}

func (p *peer) frame() (f wstest.Frame) {
	p.t.Helper()
	first, b, err := p.next()
	if err != nil || first != 0x81 || json.Unmarshal(b, &f) != nil {
		p.t.Fatalf("got %x %q %v, want a frame", first, b, err)
	}
	return f
}

// ends wants the connection to be closed with a code; what comes before does not matter.
func (p *peer) ends(want proto.CloseCode) {
	p.t.Helper()
	for {
		first, b, err := p.next()
		if err != nil {
			p.t.Fatalf("ended without a Close frame: %v; want %d", err, want)
		}
		if first == 0x88 {
			if len(b) < 2 || proto.CloseCode(endian.BigEndian.Uint16(b)) != want {
				p.t.Fatalf("closed with %q, want %d", b, want)
			}
			return
		}
	}
}

// refused wants an error frame of a code.
func (p *peer) refused(want proto.ErrorCode) {
	p.t.Helper()
	if f := p.frame(); f.Event != "error" || f.Error().Code != want {
		p.t.Fatalf("answered %s %s, want the error %s", f.Event, f.Data, want)
	}
}

func handshakeInputs(t *testing.T) map[int]bool {
	in := startInputs(t, nil)
	request := func(line, more string) func(*peer) { return func(p *peer) { p.say(line + "\r\n" + more + "\r\n") } }
	get := "GET /ws HTTP/1.1"
	without := func(header string) string {
		var kept []string
		for _, line := range strings.SplitAfter(upgradeLines, "\r\n") {
			if !strings.HasPrefix(line, header) {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	pages := startInputs(t, func(c *signal.Config) { c.OriginRequired = true })
	for _, v := range []struct {
		number int
		what   string
		on     *inputs
		say    func(*peer)
		status int
	}{
		{1, "no Origin, pages only", pages, request(get, upgradeLines), 403},
		{1, "an Origin, pages only", pages, request(get, upgradeLines+"Origin: https://app.example.com\r\n"), 101},
		{1, "no Origin (tills send none)", in, request(get, upgradeLines), 101},
		{2, "foreign Origin", in, request(get, upgradeLines+"Origin: https://evil.example.com\r\n"), 403},
		{3, "Origin null", in, request(get, upgradeLines+"Origin: null\r\n"), 403},
		{4, "Origin that begins well", in, request(get, upgradeLines+"Origin: https://app.example.com.evil.io\r\n"), 403},
		{5, "another port", in, request(get, upgradeLines+"Origin: https://app.example.com:8443\r\n"), 403},
		{6, "another scheme", in, request(get, upgradeLines+"Origin: http://app.example.com\r\n"), 403},
		{7, "user in the Origin", in, request(get, upgradeLines+"Origin: https://app.example.com@evil.io\r\n"), 403},
		{7, "path in the Origin", in, request(get, upgradeLines+"Origin: https://app.example.com/\r\n"), 403},
		{7, "space in the Origin", in, request(get, upgradeLines+"Origin: https://app.example.com evil\r\n"), 403},
		{8, "two Origins", in, request(get, upgradeLines+"Origin: https://app.example.com\r\nOrigin: https://app.example.com\r\n"), 400},
		{9, "POST", in, request("POST /ws HTTP/1.1", upgradeLines), 405},
		{10, "/ws/", in, request("GET /ws/ HTTP/1.1", upgradeLines), 404},
		{10, "/WS", in, request("GET /WS HTTP/1.1", upgradeLines), 404},
		{10, "/ws%2f", in, request("GET /ws%2f HTTP/1.1", upgradeLines), 404},
		{10, "another one", in, request("GET /socket HTTP/1.1", upgradeLines), 404},
		{11, "no Upgrade", in, request(get, without("Upgrade")), 426},
		{12, "version 8", in, request(get, without("Sec-WebSocket-Version")+"Sec-WebSocket-Version: 8\r\n"), 426},
		{12, "version 12", in, request(get, without("Sec-WebSocket-Version")+"Sec-WebSocket-Version: 12\r\n"), 426},
		{13, "no key", in, request(get, without("Sec-WebSocket-Key")), 400},
		{14, "a key that is no base64", in, request(get, without("Sec-WebSocket-Key")+"Sec-WebSocket-Key: !!!\r\n"), 400},
		{14, "a key of 15 bytes", in, request(get, without("Sec-WebSocket-Key")+"Sec-WebSocket-Key: "+base64.StdEncoding.EncodeToString(make([]byte, 15))+"\r\n"), 400},
		{16, "a header of 20 KiB", in, request(get, upgradeLines+"X: "+strings.Repeat("x", 20<<10)+"\r\n"), 431},
		{17, "1,000 headers", in, func(p *peer) {
			p.say(get + "\r\n" + upgradeLines)
			for i := range 1_000 {
				p.say(fmt.Sprintf("X%d: 1\r\n", i))
			}
			p.say("\r\n")
		}, 431},
		{17, "1,000 headers of one name", in, request(get, upgradeLines+strings.Repeat("X: 1\r\n", 1_000)), 431},
		{18, "a body", in, request(get, upgradeLines+"Content-Length: 5\r\n\r\nhello"), 400},
		{19, "two lengths", in, request(get, upgradeLines+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"), 400},
		{20, "HTTP/1.0", in, request("GET /ws HTTP/1.0", upgradeLines), 400},
		{21, "200 subprotocols", in, request(get, upgradeLines+"Sec-WebSocket-Protocol: "+strings.TrimSuffix(strings.Repeat("a, ", 200), ", ")+"\r\n"), 101},
		{22, "a token in the address", in, request("GET /ws?token=canary-in-an-address HTTP/1.1", upgradeLines), 400},
		{22, "behind a semicolon", in, request("GET /ws?x=1;token=canary-in-an-address HTTP/1.1", upgradeLines), 400},
		{22, "in another case", in, request("GET /ws?Access_Token=canary-in-an-address HTTP/1.1", upgradeLines), 400},
		{22, "encoded", in, request("GET /ws?%74oken=canary-in-an-address HTTP/1.1", upgradeLines), 400},
		{49, "compression with a small window is declined", in, request(get, upgradeLines+"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7\r\n"), 101},
	} {
		in.row(v.number)
		p := v.on.dial(t)
		v.say(p)
		r := p.answer()
		if r.StatusCode != v.status {
			t.Errorf("%d. %s: %s, want %d", v.number, v.what, r.Status, v.status)
		}
		if v.number == 12 && r.Header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%d. %s: which version is spoken is not said", v.number, v.what)
		}
		if e := r.Header.Get("Sec-WebSocket-Extensions"); e != "" {
			t.Errorf("%d. %s: agreed on %q", v.number, v.what, e)
		}
	}
	if strings.Contains(in.log.String(), "canary") {
		t.Error("22. the token of an address is in the log")
	}
	t.Run("in time", func(t *testing.T) {
		in.row(15, 23, 28)
		t.Run("15", func(t *testing.T) {
			t.Parallel()
			p := in.dial(t)
			began := time.Now()
			go func() {
				pace := time.NewTicker(time.Second) // the client's
				defer pace.Stop()
				for _, b := range get + "\r\n" + upgradeLines {
					if _, err := p.Write([]byte{byte(b)}); err != nil {
						return
					}
					<-pace.C
				}
			}()
			_, _ = io.Copy(io.Discard, p.r)
			if took := time.Since(began); took < 4*time.Second || took > 10*time.Second {
				t.Errorf("headers at a byte a second are cut off after %v, want 5 s", took)
			}
		})
		t.Run("23", func(t *testing.T) {
			t.Parallel()
			p := in.open(t)
			began := time.Now()
			p.ends(proto.CloseAuthTimeout)
			if took := time.Since(began); took < 4500*time.Millisecond || took > 8*time.Second {
				t.Errorf("who says nothing is ended after %v, want 5 s", took)
			}
		})
		t.Run("28", func(t *testing.T) { // while one is judged: TestKeysAtAnAddress. Later it is a refresh, or the same
			t.Parallel()
			p, tok := in.open(t), in.token(t, "u28", nil, nil)
			p.text(`{"event":"authenticate","data":{"token":"` + tok + `"}}`)
			p.frame()
			p.text(`{"event":"authenticate","data":{"token":"` + tok + `"},"id":"2"}`)
			for f := p.frame(); f.Event != "error"; f = p.frame() {
				if f.Event != "joined" {
					t.Fatalf("told %s", f.Event)
				}
			}
		})
	})
	for _, v := range []struct {
		number int
		what   string
		say    func(*peer)
		ends   proto.CloseCode
	}{
		{25, "join before authentication", func(p *peer) {
			for range 4 {
				p.text(`{"event":"join","data":{"rooms":["a"]}}`)
				p.refused(proto.CodeUnauthenticated)
			}
			p.text(`{"event":"join","data":{"rooms":["a"]}}`)
		}, proto.CloseBadRequests},
		{26, "a large frame before it", func(p *peer) { p.text(`{"event":"heartbeat","data":"` + strings.Repeat("x", 8<<10) + `"}`) }, proto.CloseTooBig},
		{27, "a flood of pings before it", func(p *peer) { p.say(strings.Repeat(masked(0x89, "x"), 1_000)) }, proto.CloseRate},
	} {
		in.row(v.number)
		p := in.open(t)
		v.say(p)
		p.ends(v.ends)
	}
	return in.seen
}

func frameInputs(t *testing.T) map[int]bool {
	in := startInputs(t, nil)
	long := func(first byte, length uint64, payload string) string {
		b := endian.BigEndian.AppendUint64([]byte{first, 0xff}, length)
		return string(append(b, 0, 0, 0, 0)) + payload
	}
	for _, v := range []struct {
		number int
		what   string
		bytes  string
		ends   proto.CloseCode // 0: goes on
	}{
		{29, "unmasked", "\x81\x02{}", proto.CloseProtocol},
		{30, "RSV1 without an extension", masked(0xc1, "{}"), proto.CloseProtocol},
		{30, "RSV2", masked(0xa1, "{}"), proto.CloseProtocol},
		{30, "RSV3", masked(0x91, "{}"), proto.CloseProtocol},
		{31, "opcode 3", masked(0x83, ""), proto.CloseProtocol},
		{31, "opcode 7", masked(0x87, ""), proto.CloseProtocol},
		{31, "opcode 11", masked(0x8b, ""), proto.CloseProtocol},
		{31, "opcode 15", masked(0x8f, ""), proto.CloseProtocol},
		{32, "a ping of 126 bytes", masked(0x89, strings.Repeat("x", 126)), proto.CloseProtocol},
		{33, "a ping in fragments", masked(0x09, "x"), proto.CloseProtocol},
		{34, "continuation of nothing", masked(0x80, "x"), proto.CloseProtocol},
		{35, "a message inside a message", masked(0x01, "x") + masked(0x81, "{}"), proto.CloseProtocol},
		{36, "binary is taken as text, as the original does", masked(0x82, `{"event":"heartbeat"}`), 0},
		{37, "not UTF-8", masked(0x81, "{\"event\":\"\xff\"}"), proto.CloseBadUTF8},
		{37, "not UTF-8 over fragments", masked(0x01, "\xc3") + masked(0x80, "x"), proto.CloseBadUTF8},
		{37, "overlong", masked(0x81, "{\"event\":\"\xc0\xaf\"}"), proto.CloseBadUTF8},
		{37, "a surrogate", masked(0x81, "{\"event\":\"\xed\xa0\x80\"}"), proto.CloseBadUTF8},
		{38, "length 2^63", long(0x81, 1<<63, ""), proto.CloseProtocol},
		{39, "length 2^62", long(0x81, 1<<62, "x"), proto.CloseTooBig},
		{40, "length that is not minimal", long(0x81, 1<<16-1, ""), proto.CloseProtocol},
		{41, "65,537 bytes", masked(0x81, `{"event":"heartbeat","data":"`+strings.Repeat("x", 65_537-31)+`"}`), proto.CloseTooBig},
		{45, "Close with one byte", masked(0x88, "x"), proto.CloseProtocol},
		{45, "Close 999", masked(0x88, "\x03\xe7"), proto.CloseProtocol},
		{45, "Close 1005", masked(0x88, "\x03\xed"), proto.CloseProtocol},
		{45, "Close 1006", masked(0x88, "\x03\xee"), proto.CloseProtocol},
		{45, "Close 5000", masked(0x88, "\x13\x88"), proto.CloseProtocol},
		{46, "data after Close", masked(0x88, "\x03\xe8") + masked(0x81, `{"event":"join","data":{"rooms":["a"]}}`), 1000},
		{47, "a flood of pongs", strings.Repeat(masked(0x8a, "x"), 10_000), proto.CloseRate},
	} {
		in.row(v.number)
		p := in.known(t, nil)
		p.say(v.bytes)
		if v.ends != 0 {
			p.ends(v.ends)
			continue
		}
		p.text(`{"event":"leave","data":{"rooms":[]},"id":"still here"}`)
		if f := p.frame(); f.ID != "still here" {
			t.Errorf("%d. %s: %s %s", v.number, v.what, f.Event, f.Data)
		}
	}
	return in.seen
}

func jsonInputs(t *testing.T) map[int]bool {
	in := startInputs(t, nil)
	deep := func(n int) string {
		return `{"event":"heartbeat","data":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for _, v := range []struct {
		number int
		text   string
		code   proto.ErrorCode // empty: taken
	}{
		{52, "", proto.CodeBadRequest}, {53, "null", proto.CodeBadRequest},
		{54, "[]", proto.CodeBadRequest}, {54, "1", proto.CodeBadRequest}, {54, `"x"`, proto.CodeBadRequest}, {54, "true", proto.CodeBadRequest},
		{55, "{}", proto.CodeBadRequest},
		{56, `{"event":null}`, proto.CodeBadRequest}, {56, `{"event":1}`, proto.CodeBadRequest}, {56, `{"event":{}}`, proto.CodeBadRequest},
		{56, `{"event":"` + strings.Repeat("x", 10<<10) + `"}`, proto.CodeBadName},
		{57, deep(33), proto.CodeBadRequest}, {57, deep(30_000), proto.CodeBadRequest},
		{58, `{"event":"join","event":"authenticate"}`, proto.CodeBadRequest},
		{59, `{"Event":"join"}`, proto.CodeBadRequest},
		{60, `{"event":"heartbeat"}x`, proto.CodeBadRequest}, {60, `{"event":"heartbeat"}{"event":"heartbeat"}`, proto.CodeBadRequest},
		{61, `{"event":"publish","data":{"room":"a","event":"e","data":NaN}}`, proto.CodeBadRequest},
		{61, `{"event":"publish","data":{"room":1e999,"event":"e"}}`, proto.CodeBadRequest},
		{61, `{"event":"leave","data":{"rooms":[]},"id":18446744073709551616}`, proto.CodeBadRequest},
		{61, `{"event":"leave","data":{"rooms":[]},"id":-0}`, proto.CodeBadRequest},
		{62, `{"event":"leave","data":{"rooms":[],"__proto__":{"a":1},"constructor":1},"__proto__":1}`, ""},
		{63, "\ufeff{\"event\":\"heartbeat\"}", proto.CodeBadRequest}, {63, "{\"event\":\"a\x00b\"}", proto.CodeBadRequest},
		{63, `{"event":"a\u0000b"}`, proto.CodeBadName}, {63, `{"event":"a\ud800b"}`, proto.CodeBadRequest},
		{64, strings.Repeat(" ", 30<<10) + `{"event":"leave","data":{"rooms":[]}}`, ""},
	} {
		in.row(v.number)
		p := in.known(t, nil)
		began := time.Now()
		p.text(v.text)
		f := p.frame()
		if v.code == "" && f.Event != "left" || v.code != "" && (f.Event != "error" || f.Error().Code != v.code) {
			t.Errorf("%d. %.60s: %s %s, want %q", v.number, v.text, f.Event, f.Data, v.code)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%d. %.60s: answered after %v", v.number, v.text, took)
		}
		p.text(`{"event":"leave","data":{"rooms":[]},"id":"still here"}`)
		if f := p.frame(); f.ID != "still here" {
			t.Errorf("%d. %.60s: then %s %s", v.number, v.text, f.Event, f.Data)
		}
	}
	if strings.Contains(in.log.String(), "xxxx") {
		t.Error("55. the log has a frame")
	}
	return in.seen
}

func roomInputs(t *testing.T) map[int]bool {
	in := startInputs(t, nil)
	join := func(rooms string) string { return `{"event":"join","data":{"rooms":` + rooms + `},"id":"j"}` }
	names := func(from, n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("r%d", from+i))
		}
		b, _ := json.Marshal(all)
		return string(b)
	}
	for _, v := range []struct {
		number int
		rooms  string
		code   proto.ErrorCode // of the frame
		denied proto.ErrorCode // of each room; empty: joined
	}{
		{65, `"abc"`, proto.CodeBadRequest, ""},
		{66, `{}`, proto.CodeBadRequest, ""}, {66, `null`, proto.CodeBadRequest, ""}, {66, `[["a"]]`, proto.CodeBadRequest, ""}, {66, `[1]`, proto.CodeBadRequest, ""},
		{67, names(0, 201), proto.CodeTooManyRooms, ""},                                                          // 200 of a frame, as of a connection (DESIGN)
		{69, `[""]`, "", proto.CodeBadName}, {69, `["` + strings.Repeat("x", 257) + `"]`, "", proto.CodeBadName}, // 256 bytes, as the original (DESIGN 6)
		{70, `["a}b{c"]`, "", proto.CodeBadName}, {70, `["{x}"]`, "", proto.CodeBadName},
		{71, `["*"]`, "", proto.CodeBadName}, {71, `["?"]`, "", proto.CodeBadName}, {71, `["[a]"]`, "", proto.CodeBadName}, {71, `["a\\b"]`, "", proto.CodeBadName},
		{72, `["$user:42"]`, "", proto.CodeReserved}, {72, `["$ctl"]`, "", proto.CodeReserved}, {72, `["sg:x"]`, "", proto.CodeReserved}, {72, `["ws:x"]`, "", proto.CodeReserved},
		{74, `["a\r\nb"]`, "", proto.CodeBadName}, {74, `["a\u0000b"]`, "", proto.CodeBadName}, {74, `["оrders"]`, "", ""}, // no look-alike rule (DESIGN)
		{77, `[{"room":"a","since":"garbage"}]`, "", proto.CodeBadPosition}, {77, `[{"room":"a","since":"` + strings.Repeat("x", 10<<10) + `"}]`, "", proto.CodeBadPosition},
		{77, `[{"room":"a","since":"abcdefgh.-1.0123456789ab"}]`, "", proto.CodeBadPosition},
		{77, `[{"room":"a","since":"abcdefgh.1152921504606846976.0123456789ab"}]`, "", proto.CodeBadPosition},
	} {
		in.row(v.number)
		p := in.known(t, nil)
		p.text(join(v.rooms))
		f := p.frame()
		var j proto.Joined
		_ = json.Unmarshal(f.Data, &j)
		switch {
		case v.code != "" && (f.Event != "error" || f.Error().Code != v.code):
			t.Errorf("%d. %.60s: %s %s, want %s", v.number, v.rooms, f.Event, f.Data, v.code)
		case v.denied != "" && (len(j.Denied) != 1 || j.Denied[0].Code != v.denied):
			t.Errorf("%d. %.60s: %s %s, want %s", v.number, v.rooms, f.Event, f.Data, v.denied)
		case v.code == "" && v.denied == "" && len(j.Rooms) != 1:
			t.Errorf("%d. %.60s: %s %s, want it joined", v.number, v.rooms, f.Event, f.Data)
		}
	}
	// joined collects the answer to a join.
	joined := func(p *peer) (all proto.Joined) {
		t.Helper()
		for {
			f := p.frame()
			var j proto.Joined
			if f.ID != "j" || json.Unmarshal(f.Data, &j) != nil {
				t.Fatalf("told %s %s", f.Event, f.Data)
			}
			all.Rooms, all.Denied = append(all.Rooms, j.Rooms...), append(all.Denied, j.Denied...)
			if j.Done {
				return all
			}
		}
	}
	in.row(68, 73, 75, 78)
	p := in.known(t, nil)
	p.text(join(names(0, 200)))
	if j := joined(p); len(j.Rooms) != 200 {
		t.Errorf("68. 200 rooms: %d", len(j.Rooms))
	}
	p.text(join(`["one more"]`))
	if j := joined(p); len(j.Denied) != 1 || j.Denied[0].Code != proto.CodeRoomLimit {
		t.Errorf("68. the 201st: %+v", j)
	}
	// Another's id is a name like others, in which nobody else's events come; it is refused as such.
	till := wstest.Login(t, in.addr(), in.token(t, "u73", nil, nil))
	p = in.known(t, proto.Grants{"orders"})
	p.text(join(`["` + string(till.ID) + `"]`))
	if j := joined(p); len(j.Denied) != 1 || j.Denied[0].Code != proto.CodeForbidden {
		t.Errorf("73. the id of another client: %+v", j)
	}
	p = in.known(t, nil)
	p.text(join(`["same"` + strings.Repeat(`,"same"`, 49) + `]`))
	if j := joined(p); len(j.Rooms) != 1 {
		t.Errorf("75. the same room 50 times: %+v", j)
	}
	receipt, err := in.SendToRoom(t.Context(), "history", "e", 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := in.SendToRoom(t.Context(), "other", "e", 1)
	if err != nil {
		t.Fatal(err)
	}
	for what, since := range map[string]string{
		"a guessed tag": receipt.Position.Epoch.String() + ".1.0123456789ab", "another room's position": other.Position.String(),
	} {
		p = in.known(t, nil)
		p.text(join(`[{"room":"history","since":"` + since + `"}]`))
		if j := joined(p); len(j.Rooms) != 1 || j.Rooms[0].Recovered || j.Rooms[0].Replayed > 0 || what == "a guessed tag" && j.Rooms[0].Reason != proto.Forked {
			t.Errorf("78. %s: %+v", what, j)
		}
	}
	return in.seen
}

func rateInputs(t *testing.T) map[int]bool {
	var rdb redis.UniversalClient
	in := startInputs(t, func(c *signal.Config) {
		c.LimitHandshakes = config.Rate{PerSecond: 0.01, Burst: 60}
		rdb = redis.NewClient(&redis.Options{Addr: c.Redis.Addr()})
	})
	defer rdb.Close()
	in.row(76, 79, 80, 81)
	p := in.known(t, nil)
	for range 1000 {
		p.text(`{"event":"heartbeat"}`)
	}
	p.ends(proto.CloseRate) // 79
	p = in.known(t, nil)
	for range 500 {
		p.text(`{"event":"join","data":{"rooms":["76"]}}`)
		p.text(`{"event":"leave","data":{"rooms":["76"]}}`)
	}
	p.ends(proto.CloseRate) // 76
	_ = p.Close()
	tok := in.token(t, "u80", nil, nil)
	for range 20 {
		wstest.Login(t, in.addr(), tok)
	}
	c := wstest.Connect(t, in.addr())
	c.Send("authenticate", map[string]any{"token": tok}, "")
	c.Expect(t, "error")
	c.ExpectClose(t, proto.CloseConnections) // 80
	refused := 0
	for range 61 {
		status, s, err := knock(t.Context(), "127.0.0.1", in.addr(), "")
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusTooManyRequests {
			refused++
		}
		_ = s.Close()
	}
	if refused < 1 {
		t.Error("81. 61 handshakes of one address at once, and none was refused")
	}
	redistest.Wait(t, func() bool {
		return rdb.PubSubNumSub(t.Context(), "sg:{76}:ch").Val()["sg:{76}:ch"] == 0
	}, "nobody to listen to the room of 76")
	return in.seen
}

func tokenInputs(t *testing.T) map[int]bool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, public, 0o600); err != nil {
		t.Fatal(err)
	}
	in := startInputs(t, func(c *signal.Config) { c.JWTKeys = path })
	outside, err := net.Listen("tcp", "127.0.0.1:0") // that nobody is to ask
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	go func() {
		for c, err := outside.Accept(); err == nil; c, err = outside.Accept() {
			t.Error("89. the node went to an address of the token's header")
			_ = c.Close()
		}
	}()
	good := in.token(t, "u", nil, nil)
	part := strings.Split(good, ".")
	head := func(alg string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + alg + `","typ":"signal+jwt"}`))
	}
	with := func(change func(h map[string]any, c jwt.MapClaims)) string { return in.token(t, "u", change, nil) }
	claim := func(name string, value any) string {
		return with(func(_ map[string]any, c jwt.MapClaims) { c[name] = value })
	}
	header := func(name string, value any) string {
		return with(func(h map[string]any, _ jwt.MapClaims) { h[name] = value })
	}
	without := func(name string) string { return with(func(_ map[string]any, c jwt.MapClaims) { delete(c, name) }) }
	es256 := func(change func(h map[string]any, c jwt.MapClaims)) string {
		made := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"sub": "u", "aud": "signal", "iss": "https://login.example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		})
		made.Header["typ"] = "signal+jwt"
		if change != nil {
			change(made.Header, made.Claims.(jwt.MapClaims))
		}
		s, err := made.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	confused, err := func() (string, error) { // signed with the public key as if it were a secret
		made := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"sub": "u", "aud": "signal", "iss": "https://login.example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
		})
		made.Header["typ"] = "signal+jwt"
		return made.SignedString(public)
	}()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, v := range []struct {
		number int
		what   string
		token  string
		ok     bool
	}{
		{86, "alg none", head("none") + "." + part[1] + ".", false}, {86, "None", head("None") + "." + part[1] + ".", false}, {86, "nOnE", head("nOnE") + "." + part[1] + "." + part[2], false},
		{87, "HS256 with the public key of ES256", confused, false}, {87, "ES256 with its own", es256(nil), true},
		{88, "unknown kid", es256(func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "unknown" }), true},                // the key of a PEM file has no name and is tried
		{88, "kid is a path", header("kid", "../../dev/null"), true}, {88, "kid is SQL", header("kid", "' OR 1=1"), true}, // not looked at with HS256
		{88, "kid is a list, of ES256", es256(func(h map[string]any, _ jwt.MapClaims) { h["kid"] = []string{"a"} }), false},
		{89, "jku, of ES256", es256(func(h map[string]any, _ jwt.MapClaims) { h["jku"] = "http://" + outside.Addr().String() }), true}, // not looked at
		{89, "x5u and x5c", es256(func(h map[string]any, _ jwt.MapClaims) {
			h["x5u"], h["x5c"] = "http://"+outside.Addr().String(), []string{"AA=="}
		}), true},
		{89, "jwk", strings.Replace(good, part[0], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"signal+jwt","jwk":{}}`)), 1), false},
		{90, "crit", header("crit", []string{"x"}), false},
		{91, "expired 31 s ago", claim("exp", now.Add(-31*time.Second).Unix()), false}, {91, "expired 27 s ago", claim("exp", now.Add(-27*time.Second).Unix()), true},
		{92, "nbf in 60 s", claim("nbf", now.Add(time.Minute).Unix()), false},
		{93, "iat in 5 min", claim("iat", now.Add(5*time.Minute).Unix()), false},
		{94, "no exp", without("exp"), false}, {94, "exp is text", claim("exp", "tomorrow"), false}, {94, "exp is 1e300", claim("exp", 1e300), false}, {94, "exp is negative", claim("exp", -1), false},
		{95, "30 days", claim("exp", now.Add(720*time.Hour).Unix()), false}, {95, "no iat, and so no lifetime", without("iat"), false},
		{96, "another aud", claim("aud", "other"), false}, {96, "a list of others", claim("aud", []string{"a", "b"}), false}, {96, "one of a list", claim("aud", []string{"a", "signal"}), true},
		{96, "no aud", without("aud"), false}, {96, "another iss", claim("iss", "https://evil.example.com"), false},
		{97, "empty sub", claim("sub", ""), false}, {97, "sub of 2 KiB", claim("sub", strings.Repeat("x", 2<<10)), false}, {97, "sub with a line break", claim("sub", "a\nb"), false}, {97, "sub with a colon", claim("sub", "a:b"), true}, // one grammar (DESIGN)
		{98, "100,000 dots", strings.Repeat(".", 8_000), false}, // more does not come through in one early frame
		{99, "5 KiB", good + strings.Repeat("A", 5<<10-len(good)), false},
		{100, "padding", good + "=", false}, {100, "a line break", good + "\n", false}, {100, "another text of the same bits", good[:len(good)-1] + string(good[len(good)-1]^1), false},
		{101, "typ of another service", header("typ", "at+jwt"), false}, {101, "tenant that could not be revoked", claim("tenant", "a}b"), false},
	} {
		in.row(v.number)
		c := wstest.Connect(t, in.addr())
		began := time.Now()
		c.Send("authenticate", map[string]any{"token": v.token}, "")
		f, err := c.Next()
		if err != nil || (f.Event == "connected") != v.ok {
			t.Errorf("%d. %s: %s %s %v, want it accepted: %t", v.number, v.what, f.Event, f.Data, err, v.ok)
		}
		if !v.ok {
			if f.Error().Message != "Authentication failed" {
				t.Errorf("%d. %s: told %s", v.number, v.what, f.Data)
			}
			c.ExpectClose(t, proto.CloseAuthFailed)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%d. %s: took %v", v.number, v.what, took)
		}
		c.Cut()
	}
	if strings.Contains(in.log.String(), "eyJ") {
		t.Error("the log has a token")
	}
	in.row(104, 105)
	c := wstest.Login(t, in.addr(), in.token(t, "u104", nil, nil))
	c.Send("authenticate", map[string]any{"token": in.token(t, "somebody else", nil, nil)}, "a")
	if e := c.Expect(t, "error").Error(); e.Code != proto.CodeAuthFailed {
		t.Errorf("104. a refresh of another user: %+v", e)
	}
	c.Send("leave", map[string]any{"rooms": []string{}}, "l") // it stays who it was
	c.Expect(t, "left")
	// 105. a thousand refresh together at the last moment.
	late := func(i int) string {
		return in.token(t, fmt.Sprint("u105-", i), func(_ map[string]any, c jwt.MapClaims) { c["exp"] = time.Now().Add(-20 * time.Second).Unix() }, nil)
	}
	var g sync.WaitGroup
	for w := range 20 {
		g.Go(func() {
			for i := range 50 {
				c := wstest.Connect(t, in.addr())
				if err := c.Login(late(w*50 + i)); err != nil {
					t.Error(err)
					return
				}
				c.Send("authenticate", map[string]any{"token": in.token(t, fmt.Sprint("u105-", w*50+i), nil, nil)}, "r")
				if f, err := c.Next(); err != nil || f.Event != "refreshed" {
					t.Errorf("105. %s %s %v", f.Event, f.Data, err)
				}
			}
		})
	}
	g.Wait()
	return in.seen
}

func busInputs(t *testing.T) map[int]bool {
	srv := redistest.Start(t)
	in := &inputs{node: run(t, settings(srv.Settings())), seen: map[int]bool{}}
	rdb := srv.Client()
	defer rdb.Close()
	c := wstest.Login(t, in.addr(), token(t, "u1", proto.Grants{"*"}, proto.Grants{"*"}), "orders")
	dropped := func() (n int) {
		_, _ = fmt.Sscan(in.metric(t, "signal_bus_malformed_total"), &n)
		return n
	}
	in.row(106, 107, 108, 110, 111, 112)
	bad := []string{
		"S1 only four words here\n{}", "S1 abcdefgh x 0123456789ab 0123456789ab e-1\n{\"event\":\"e\"}", "S1 abcdefgh 1 0123456789ab 0123456789ab e-1", "S2 x\n{}", "", "\n", "E1 e-1\nno JSON",
		"E1 e-1\n[1,2]", "E1 e 1\n{\"event\":\"e\"}", "E1 e-1\n{\"event\":\"connected\",\"event\":\"e\"}", "E1 e-1\n{\"event\":\"e\",\"data\":" + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}",
		"E1 e-1\n{\"event\":\"e\",\"data\":\"" + strings.Repeat("x", 10<<20) + "\"}",
	}
	for _, m := range bad {
		before := dropped()
		if err := rdb.Publish(t.Context(), "sg:{orders}:ch", m).Err(); err != nil {
			t.Fatal(err)
		}
		redistest.Wait(t, func() bool { return dropped() == before+1 }, "%.40q to be dropped", m)
	}
	_ = rdb.Publish(t.Context(), "sg:{nobody is here}:ch", "E1 e-1\n{\"event\":\"e\"}").Err() // 107
	_ = rdb.Publish(t.Context(), "other:{orders}:ch", "E1 e-1\n{\"event\":\"e\"}").Err()      // 108: of another prefix
	elsewhere := srv.Settings()
	elsewhere.Deployment = "production"
	first := emitter.New(elsewhere)
	defer first.Close()
	if err := first.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	elsewhere.Deployment = "staging"
	second := emitter.New(elsewhere)
	defer second.Close()
	if err := second.Check(t.Context()); !errors.Is(err, emitter.ErrDisagrees) {
		t.Errorf("108. another deployment: %v", err)
	}
	e := emitter.New(srv.Settings())
	defer e.Close()
	for what, send := range map[string]func() error{
		"110. no JSON": func() error {
			_, err := e.SendToRoom(t.Context(), "orders", "e", json.RawMessage("no JSON"))
			return err
		},
		"111. 1 MiB": func() error {
			_, err := e.SendToRoom(t.Context(), "orders", "e", strings.Repeat("x", 1<<20))
			return err
		},
		"112. an id with a space": func() error {
			_, err := e.SendToRoom(t.Context(), "orders", "e", 1, emitter.EventID("a b"))
			return err
		},
		"112. an id with a line break": func() error {
			_, err := e.SendToRoom(t.Context(), "orders", "e", 1, emitter.EventID("a\nb"))
			return err
		},
	} {
		if err := send(); !errors.Is(err, emitter.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	if _, err := e.SendToRoom(t.Context(), "orders", "good", 1); err != nil {
		t.Fatal(err)
	}
	c.Expect(t, "good") // and nothing before it
	if log := in.log.String(); strings.Contains(log, "xxxx") || slices.ContainsFunc([]string{"no JSON", "[1,2]"}, func(s string) bool { return strings.Contains(log, s) }) {
		t.Error("the log quotes a message")
	}
	return in.seen
}

// Package wstest is a till for tests: a WebSocket client that speaks frames.
package wstest

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/signal-team/signal/proto"
)

// Patience bounds every wait for a frame.
const Patience = 20 * time.Second

// A Frame is what a client was sent, decoded.
type Frame struct {
	Event   string          `json:"event"`
	Data    json.RawMessage `json:"data"`
	Room    proto.Room      `json:"room"`
	EventID proto.EventID   `json:"eventId"`
	ID      string          `json:"id"`
	Time    int64           `json:"time"`

	Sequence uint64         `json:"sequence"`
	Position proto.Position `json:"position"`

	Raw []byte `json:"-"` // the whole
}

// Error is the data of an error frame.
func (f Frame) Error() (e proto.Error) {
	_ = json.Unmarshal(f.Data, &e)
	return e
}

// A Client is one connection.
type Client struct {
	ID    proto.ClientID // once logged in
	ws    *websocket.Conn
	early []Frame // came before all rooms were joined

	private *ecdh.PrivateKey // nil unless it wants encryption
	sealing *proto.Sealing   // nil unless frames are encrypted
	Sealed  int              // frames that came encrypted
}

// Encrypt makes the client ask for encryption at its Login.
func (c *Client) Encrypt() *Client {
	var err error
	if c.private, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		panic(err)
	}
	return c
}

// Dial connects to the node on addr, with the headers given.
func Dial(ctx context.Context, addr string, header http.Header) (*Client, *http.Response, error) {
	return DialPath(ctx, addr, "/ws", header)
}

// DialPath is Dial to another path, perhaps with a query.
func DialPath(ctx context.Context, addr, path string, header http.Header) (*Client, *http.Response, error) {
	ws, r, err := websocket.Dial(ctx, "ws://"+addr+path, &websocket.DialOptions{HTTPHeader: header, Subprotocols: header.Values("Sec-Websocket-Protocol")})
	if err != nil {
		return nil, r, err
	}
	ws.SetReadLimit(-1)
	return &Client{ws: ws}, r, nil
}

// Connect is Dial for a test, which closes the connection at its end.
func Connect(tb testing.TB, addr string) *Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, _, err := Dial(ctx, addr, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Cut)
	return c
}

// Login connects, authenticates, joins the rooms, and returns when they are joined
// and the system's rooms too.
func Login(tb testing.TB, addr, token string, rooms ...proto.Room) *Client {
	tb.Helper()
	c := Connect(tb, addr)
	if err := c.Login(token, rooms...); err != nil {
		tb.Fatal(err)
	}
	return c
}

// Authenticate says who it is, and returns when it has been let in. If it wants encryption and is
// offered it, what comes from now on is encrypted.
func (c *Client) Authenticate(token string) error {
	hail := map[string]string{"type": "Bearer", "token": token}
	if c.private != nil {
		hail["publicKey"] = base64.StdEncoding.EncodeToString(c.private.PublicKey().Bytes())
	}
	c.Send("authenticate", hail, "")
	f, err := c.Next()
	if err != nil {
		return err
	}
	var hello proto.Connected
	if err := json.Unmarshal(f.Data, &hello); err != nil || f.Event != "connected" {
		return fmt.Errorf("login is answered by %s %s", f.Event, f.Data)
	}
	c.ID = hello.ID
	if c.private != nil && hello.PublicKey != "" {
		c.sealing, err = proto.NewSealing(c.private, hello.PublicKey, hello.Salt, proto.SealingInfo)
	}
	return err
}

// Login authenticates and joins rooms, and returns when all are joined.
func (c *Client) Login(token string, rooms ...proto.Room) error {
	if err := c.Authenticate(token); err != nil {
		return err
	}
	waits := map[string]bool{"": true}
	if len(rooms) > 0 {
		waits["login"] = true
		c.Send("join", map[string]any{"rooms": rooms}, "login")
	}
	var early []Frame
	for len(waits) > 0 {
		f, err := c.Next()
		if err != nil {
			return err
		}
		if f.Position != (proto.Position{}) { // an event of a room that is joined already
			early = append(early, f)
			continue
		}
		var j proto.Joined
		if err := json.Unmarshal(f.Data, &j); err != nil || f.Event != "joined" || len(j.Denied) > 0 {
			return fmt.Errorf("join is answered by %s %s", f.Event, f.Data)
		}
		if j.Done {
			delete(waits, f.ID)
		}
	}
	c.early = early
	return nil
}

// Send writes the frame {"event","data","id"}.
func (c *Client) Send(event string, data any, id string) {
	c.Raw(string(proto.AppendFrame(nil, proto.EventName(event), data, id)))
}

// Raw writes any text as a frame. That it cannot be written shows at the next read.
func (c *Client) Raw(text string) {
	if c.sealing != nil {
		text = string(c.sealing.AppendSealed(nil, []byte(text)))
	}
	c.Open(text)
}

// Open is Raw without encryption.
func (c *Client) Open(text string) {
	_ = c.ws.Write(context.Background(), websocket.MessageText, []byte(text))
}

// Next reads a frame. When the connection has ended, Closed tells the code of its
// error.
func (c *Client) Next() (f Frame, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return c.Read(ctx)
}

// Read is Next for those who set the bound themselves.
func (c *Client) Read(ctx context.Context) (f Frame, err error) {
	if len(c.early) > 0 {
		f, c.early = c.early[0], c.early[1:]
		return f, nil
	}
	_, b, err := c.ws.Read(ctx)
	if err != nil {
		return f, err
	}
	if c.sealing != nil {
		sealed, err := proto.DecodeFrame(b)
		if err == nil && sealed.Event != proto.EventEncrypted {
			err = errors.New("it is not encrypted")
		}
		if err == nil {
			b, err = c.sealing.Open(sealed)
		}
		if err != nil {
			return f, fmt.Errorf("frame %q: %w", b, err)
		}
		c.Sealed++
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("frame %q: %w", b, err)
	}
	f.Raw = b
	return f, nil
}

// Expect reads frames until one has the event, and returns it; others in between are
// a failure.
func (c *Client) Expect(tb testing.TB, event string) Frame {
	tb.Helper()
	f, err := c.Next()
	if err != nil || f.Event != event {
		tb.Fatalf("got %s %s %v, want %s", f.Event, f.Data, err, event)
	}
	return f
}

// ExpectClose wants the connection to end, with the code and its reason.
func (c *Client) ExpectClose(tb testing.TB, code proto.CloseCode) {
	tb.Helper()
	f, err := c.Next()
	if err == nil {
		tb.Fatalf("got %s %s, want the close code %d", f.Event, f.Data, code)
	}
	if got, reason := Closed(err); got != code || reason != code.Reason() {
		tb.Fatalf("closed with %d %q (%v), want %d %q", got, reason, err, code, code.Reason())
	}
}

// Closed is the code and reason of the Close frame that ended a connection; 0 if there
// was none.
func Closed(err error) (proto.CloseCode, string) {
	if c, ok := errors.AsType[websocket.CloseError](err); ok {
		return proto.CloseCode(c.Code), c.Reason
	}
	return 0, ""
}

// Close says goodbye.
func (c *Client) Close() { _ = c.ws.Close(websocket.StatusNormalClosure, "") }

// Cut drops the connection without a word.
func (c *Client) Cut() { _ = c.ws.CloseNow() }

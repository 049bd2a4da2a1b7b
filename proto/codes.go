package proto

// An ErrorCode is what a program reads in an error frame or a problem document.
type ErrorCode string

// The error codes, each with a line in Errors.
const (
	CodeBadRequest           ErrorCode = "bad_request"
	CodeAlreadyAuthenticated ErrorCode = "already_authenticated"
	CodeUnauthenticated      ErrorCode = "unauthenticated"
	CodeAuthFailed           ErrorCode = "authentication_failed"
	CodeAuthError            ErrorCode = "authentication_error"
	CodeEncryption           ErrorCode = "encryption_failed"
	CodeForbidden            ErrorCode = "forbidden"
	CodeBadName              ErrorCode = "bad_name"
	CodeReserved             ErrorCode = "reserved"
	CodeBadPosition          ErrorCode = "bad_position"
	CodeTooManyRooms         ErrorCode = "too_many_rooms"
	CodeRoomLimit            ErrorCode = "room_limit"
	CodeSuperseded           ErrorCode = "superseded"
	CodeTooLarge             ErrorCode = "too_large"
	CodeReused               ErrorCode = "event_id_reused"
	CodeBusy                 ErrorCode = "busy"
	CodeRateLimited          ErrorCode = "rate_limited"
	CodeConnections          ErrorCode = "too_many_connections"
	CodeUnavailable          ErrorCode = "unavailable"
	CodeUnknownEvent         ErrorCode = "unknown_event"
	CodeNoReceiver           ErrorCode = "no_receiver"
	CodeNotFound             ErrorCode = "not_found"
	CodeGone                 ErrorCode = "gone"
)

// An ErrorInfo is one line of the table of error codes.
type ErrorInfo struct {
	Code ErrorCode `json:"code"`
	// Message is the frame's text. Tills of the original compare it, so the first
	// six are the original's to the letter.
	Message string `json:"message"`
	// Retry says whether the same request may succeed later, unchanged.
	Retry bool `json:"retry"`
	// Meaning is what the docs say: why it comes, and what the caller can do.
	Meaning string `json:"-"`
}

// Errors is the table of error codes: Go, the browser and the docs read it.
var Errors = []ErrorInfo{
	{CodeBadRequest, "Invalid message format", false, "the frame, or the body, is not what it should be; `detail` says why"},
	{CodeAlreadyAuthenticated, "Already authenticated", false, "with this very token: nothing has changed"},
	{CodeUnauthenticated, "Not authenticated", false, "the first frame must be `authenticate`; over HTTP a bearer is missing"},
	{CodeAuthFailed, "Authentication failed", false, "the token is refused, `detail` says why; the connection ends with 4003. At a refresh it goes on with the token before"},
	{CodeAuthError, "Authentication error", true, "nobody can say what the token is worth: keys or the application do not answer; the connection ends with 1013"},
	{CodeEncryption, "Encryption handshake failed", false, "the public key is none, or there must be one; the connection ends with 4004"},
	{CodeForbidden, "Not allowed", false, "the token does not allow it, nor the application where it is asked, or it was taken back"},
	{CodeBadName, "Bad name", false, "a name has 1 to 256 bytes of UTF-8, no control characters and none of `{ } * ? [ ] \\`"},
	{CodeBadPosition, "Bad position", false, "not a position that was ever given out: join without it"},
	{CodeReserved, "Reserved name", false, "names that begin with `$`, `sg:` or `ws:`, and events that nodes say"},
	{CodeTooManyRooms, "Too many rooms in one frame", false, "split the frame"},
	{CodeRoomLimit, "Too many rooms on this connection", false, "leave a room first"},
	{CodeSuperseded, "Overtaken by a later frame", false, "the room was left again before the join took effect"},
	{CodeTooLarge, "Too large", false, "an event has at most 128 KiB"},
	{CodeReused, "Event id used for another event", false, "within two minutes an id names one event: give this one another"},
	{CodeBusy, "Too many requests under way", true, "wait for the answers to what is under way; of a publish also: too much of this user's, or of all, waits for Redis on this node"},
	{CodeRateLimited, "Too often", true, "`detail` names the limit and how much it allows; go on more slowly. With a close code after it, connect again later"},
	{CodeConnections, "Too many connections", false, "close another connection of the user; the connection ends with 4009"},
	{CodeUnavailable, "Not available at the moment", true, "Redis, the node of a client or the application does not answer. An event may have been sent: send it again under the same id. Join a room again a few seconds later; say an event of your own again after `retryAfter` milliseconds"},
	{CodeUnknownEvent, "Unknown event", false, "a client may send `authenticate`, `join`, `leave`, `publish`, `heartbeat` and `encrypted`, and events of its own where the application takes them"},
	{CodeNoReceiver, "Nobody there", false, "the client, or its node, is gone: it has another id when it comes back; send to its user"},
	{CodeNotFound, "Not found", false, "no such path, or nobody has written to the room"},
	{CodeGone, "Not kept any more", false, "what was missed is not kept any more: take the present state from the application"},
}

// Message is the code's text in the table.
func (c ErrorCode) Message() string {
	for _, e := range Errors {
		if e.Code == c {
			return e.Message
		}
	}
	return string(c)
}

// A CloseCode is the status with which a connection ends (RFC 6455, section 7.4).
type CloseCode uint16

// The close codes, each with a line in Closes.
const (
	CloseGoingAway   CloseCode = 1001
	CloseProtocol    CloseCode = 1002
	CloseBadUTF8     CloseCode = 1007
	CloseTooBig      CloseCode = 1009
	CloseInternal    CloseCode = 1011
	CloseTryAgain    CloseCode = 1013
	CloseAuthTimeout CloseCode = 4001
	CloseHeartbeat   CloseCode = 4002
	CloseAuthFailed  CloseCode = 4003
	CloseEncryption  CloseCode = 4004
	CloseExpired     CloseCode = 4005
	CloseRevoked     CloseCode = 4006
	CloseRate        CloseCode = 4007
	CloseBadRequests CloseCode = 4008
	CloseConnections CloseCode = 4009
	CloseSlow        CloseCode = 4010
	CloseReplaced    CloseCode = 4011
)

// Reconnect says what a client does after a close code.
type Reconnect string

// What a client does after its connection ended.
const (
	ReconnectBackoff Reconnect = "backoff" // try again, waiting longer each time
	ReconnectToken   Reconnect = "token"   // get a new token first
	ReconnectNever   Reconnect = "never"   // ask the person in front of it
)

// A CloseInfo is one line of the table of close codes.
type CloseInfo struct {
	Code CloseCode `json:"code"`
	// Reason is the close frame's text, at most 123 bytes (RFC 6455, section 5.5).
	// The original's are kept to the letter: 1001, 4001, 4002, 4003, 4004.
	Reason    string    `json:"reason"`
	Reconnect Reconnect `json:"reconnect"`
	Meaning   string    `json:"-"` // what the docs say
}

// Closes is the table of close codes: Go, the browser and the docs read it.
var Closes = []CloseInfo{
	{CloseGoingAway, "Server shutting down", ReconnectBackoff, "the node ends, or the other side is gone"},
	{CloseProtocol, "Protocol error", ReconnectBackoff, "framing that RFC 6455 forbids: the client has a bug"},
	{CloseBadUTF8, "Not UTF-8", ReconnectBackoff, "a text that is not UTF-8: the client has a bug"},
	{CloseTooBig, "Frame too big", ReconnectBackoff, "a frame above `APP_ENV_SIGNAL_FRAME_BYTES`, or in too many fragments: the client has a bug"},
	{CloseInternal, "Internal error", ReconnectBackoff, "a fault of the node, which is counted and logged"},
	{CloseTryAgain, "Try again later", ReconnectBackoff, "the token could not be judged"},
	{CloseAuthTimeout, "Authentication timeout", ReconnectBackoff, "no good `authenticate` in time"},
	{CloseHeartbeat, "Heartbeat timeout", ReconnectBackoff, "no sign of life for 35 s, or a message that does not end"},
	{CloseAuthFailed, "Authentication failed", ReconnectNever, "the token is refused: the person must log in again"},
	{CloseEncryption, "Encryption required", ReconnectNever, "the keys could not be agreed on, or something was said in the open"},
	{CloseExpired, "Token expired", ReconnectToken, "the token has expired and no newer one was shown"},
	{CloseRevoked, "Access revoked", ReconnectNever, "the access was taken back: `auth.revoked` before it says why"},
	{CloseRate, "Too many frames", ReconnectBackoff, "too many frames, pings or pongs, or no end of frames that are refused as `rate_limited`"},
	{CloseBadRequests, "Too many bad requests", ReconnectBackoff, "too many mistakes, or too many frames before authentication"},
	{CloseConnections, "Too many connections", ReconnectNever, "others of the same user are open"},
	{CloseSlow, "Too slow", ReconnectBackoff, "the client does not take what it is sent"},
	{CloseReplaced, "Replaced by a newer connection", ReconnectNever, "not used yet"},
}

// Reason is the close frame's text of the code in the table.
func (c CloseCode) Reason() string {
	for _, i := range Closes {
		if i.Code == c {
			return i.Reason
		}
	}
	return ""
}

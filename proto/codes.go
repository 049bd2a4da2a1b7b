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
}

// Errors is the table of error codes: Go, the browser and the docs read it.
var Errors = []ErrorInfo{
	{CodeBadRequest, "Invalid message format", false},
	{CodeAlreadyAuthenticated, "Already authenticated", false},
	{CodeUnauthenticated, "Not authenticated", false},
	{CodeAuthFailed, "Authentication failed", false},
	{CodeAuthError, "Authentication error", true},
	{CodeEncryption, "Encryption handshake failed", false},
	{CodeForbidden, "Not allowed", false},
	{CodeBadName, "Bad name", false},
	{CodeBadPosition, "Bad position", false},
	{CodeReserved, "Reserved name", false},
	{CodeTooManyRooms, "Too many rooms in one frame", false},
	{CodeRoomLimit, "Too many rooms on this connection", false},
	{CodeSuperseded, "Overtaken by a later frame", false},
	{CodeTooLarge, "Too large", false},
	{CodeReused, "Event id used for another event", false},
	{CodeBusy, "Too many requests under way", true},
	{CodeRateLimited, "Too often", true},
	{CodeConnections, "Too many connections", false},
	{CodeUnavailable, "Not available at the moment", true},
	{CodeUnknownEvent, "Unknown event", false},
	{CodeNoReceiver, "Nobody there", false},
	{CodeNotFound, "Not found", false},
	{CodeGone, "Not kept any more", false},
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
}

// Closes is the table of close codes: Go, the browser and the docs read it.
var Closes = []CloseInfo{
	{CloseGoingAway, "Server shutting down", ReconnectBackoff},
	{CloseProtocol, "Protocol error", ReconnectBackoff},
	{CloseBadUTF8, "Not UTF-8", ReconnectBackoff},
	{CloseTooBig, "Frame too big", ReconnectBackoff},
	{CloseInternal, "Internal error", ReconnectBackoff},
	{CloseTryAgain, "Try again later", ReconnectBackoff},
	{CloseAuthTimeout, "Authentication timeout", ReconnectBackoff},
	{CloseHeartbeat, "Heartbeat timeout", ReconnectBackoff},
	{CloseAuthFailed, "Authentication failed", ReconnectNever},
	{CloseEncryption, "Encryption required", ReconnectNever},
	{CloseExpired, "Token expired", ReconnectToken},
	{CloseRevoked, "Access revoked", ReconnectNever},
	{CloseRate, "Too many frames", ReconnectBackoff},
	{CloseBadRequests, "Too many bad requests", ReconnectBackoff},
	{CloseConnections, "Too many connections", ReconnectNever},
	{CloseSlow, "Too slow", ReconnectBackoff},
	{CloseReplaced, "Replaced by a newer connection", ReconnectNever},
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

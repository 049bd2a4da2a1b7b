package transport

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/signal-team/signal/proto"
)

const (
	// subprotocol is what we speak, for clients that want to hear it. A browser that offers a
	// token offers this too: it wants one of its offers to be chosen.
	subprotocol = "signal.v1"
	// tokenProtocol begins an offer that carries a token, since a browser's page cannot set
	// other headers. It is never chosen, so never sent back.
	tokenProtocol = "signal-token."
	headersMost   = 100
)

// refused says with which status and words a request is answered that the library would let in,
// or answer otherwise; 0 if there is none (RELIABILITY 4.3, inputs 8 to 22).
func refused(r *http.Request) (status int, why string) {
	q := r.URL.Query()
	switch {
	case count(r.Header) > headersMost:
		return http.StatusRequestHeaderFieldsTooLarge, "too many headers"
	case !r.ProtoAtLeast(1, 1):
		return http.StatusBadRequest, "a WebSocket needs HTTP/1.1"
	case len(r.Header.Values("Origin")) > 1:
		return http.StatusBadRequest, "more than one Origin"
	case tokenInQuery.MatchString(r.URL.RawQuery) || has(q, "token", "access_token"): // S4-115 wants it, and every proxy's log would have it
		return http.StatusBadRequest, "a token does not belong into an address: send it in the first frame, in Authorization or as a subprotocol, or a ticket here"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return http.StatusBadRequest, "a handshake has no body"
	}
	if v := r.Header.Get("Sec-WebSocket-Version"); v != "" && v != "13" && r.Method == http.MethodGet {
		return http.StatusUpgradeRequired, "the version must be 13" // RFC 6455, section 4.4
	}
	return 0, ""
}

// tokenInQuery finds what url.Query passes over.
var tokenInQuery = regexp.MustCompile(`(?i)(^|[&;])(access_)?token=`)

func has(q url.Values, names ...string) bool {
	for name := range q {
		if slices.Contains(names, strings.ToLower(name)) {
			return true
		}
	}
	return false
}

func count(h http.Header) (n int) {
	for _, values := range h {
		n += len(values)
	}
	return n
}

// presented is the token that comes with the handshake, if one does. What the page itself says
// counts before a header, which a proxy may have set for its own ends.
func presented(r *http.Request) string {
	for _, offers := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(offers, ",") {
			if token, is := strings.CutPrefix(strings.TrimSpace(offer), tokenProtocol); is {
				return token
			}
		}
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") { // RFC 9110, section 11.1
		return token
	}
	return ""
}

// authenticate hands what came with the handshake to the session, as if it were the first frame: a
// token, or a ticket for one.
func (c *conn) authenticate(r *http.Request) {
	kind, given := "token", presented(r)
	if given == "" {
		kind, given = "ticket", r.URL.Query().Get("ticket")
	}
	if given != "" {
		if c.polled {
			c.owner.poller.enter()
			defer c.owner.poller.leave()
		}
		c.receive(proto.AppendFrame(nil, proto.EventAuthenticate, map[string]string{kind: given}, ""))
	}
}

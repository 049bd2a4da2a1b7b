package auth

import (
	"net/url"
	"slices"
	"strings"
)

// Origins are the pages that may use this node: https://app.example.com, "*" for any, none for
// those of the node's own host. They are compared exactly, with scheme and port.
type Origins []string

// Allow says whether a page of an origin may use the host. A program that sends no Origin is not
// asked: it could send any.
func (o Origins) Allow(origin, host string) bool {
	if len(o) == 0 {
		u, err := url.Parse(origin)
		return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Scheme+"://"+u.Host, origin) && strings.EqualFold(u.Host, host)
	}
	return o.any() || o.Names(origin)
}

// Names says whether an origin is allowed by name: what is done with somebody's cookies wants that.
func (o Origins) Names(origin string) bool {
	return slices.ContainsFunc(o, func(one string) bool { return one != "*" && strings.EqualFold(one, origin) })
}

func (o Origins) any() bool { return slices.Contains(o, "*") }

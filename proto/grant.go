package proto

import (
	"slices"
	"strings"
)

// Grants are the rooms that somebody may join or publish to: exact names, or
// beginnings of names that end in "*".
type Grants []string

// Allow says whether the room is among the grants.
func (g Grants) Allow(r Room) bool {
	return slices.ContainsFunc(g, func(grant string) bool {
		if prefix, open := strings.CutSuffix(grant, "*"); open {
			return strings.HasPrefix(string(r), prefix)
		}
		return string(r) == grant
	})
}

// Check says what is wrong with grants: "*" may only stand at the end, and what is
// before it is the beginning of a name.
func (g Grants) Check() error {
	for _, grant := range g {
		prefix, open := strings.CutSuffix(grant, "*")
		if open && prefix == "" {
			continue
		}
		if err := Room(prefix).Check(); err != nil {
			return err
		}
	}
	return nil
}

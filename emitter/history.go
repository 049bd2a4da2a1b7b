package emitter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/signal-team/signal/proto"
)

// A History says how much of a durable room is kept on Redis, for clients that were away.
// Who is away for longer is told so, and fetches the present state.
type History struct {
	Rooms  string        // a room's name, the beginning of names and "*", or "*" for all
	Events int           // at least the last so many, at most an eighth more; 0 numbers events and keeps none
	Age    time.Duration // after the last event, in whole seconds
}

// DefaultHistory is for rooms that no other one names.
var DefaultHistory = History{"*", 256, 600 * time.Second}

// The largest History.
const (
	MaxHistoryEvents = 100_000
	MaxHistoryAge    = 24 * time.Hour // how long a room's position is kept
)

// History is how much is kept of the room: what names it most exactly counts.
func (s Settings) History(r proto.Room) History {
	best, length := DefaultHistory, -1
	for _, h := range s.Histories {
		prefix, open := strings.CutSuffix(h.Rooms, "*")
		switch {
		case !open && h.Rooms == string(r):
			return h
		case open && len(prefix) > length && strings.HasPrefix(string(r), prefix):
			best, length = h, len(prefix)
		}
	}
	return best
}

// ParseHistories reads "256/600s,orders:*=1000/1h,typing:*=0": how many events are kept and
// for how long, of all rooms and of some.
func ParseHistories(s string) (all []History, err error) {
	var errs []error
	for item := range strings.SplitSeq(s, ",") {
		h := DefaultHistory
		item = strings.TrimSpace(item)
		size := item
		if i := strings.LastIndexByte(item, '='); i >= 0 {
			h.Rooms, size = item[:i], item[i+1:]
		}
		events, age, aged := strings.Cut(size, "/")
		var err error
		if h.Events, err = strconv.Atoi(events); err != nil || h.Events < 0 || h.Events > MaxHistoryEvents {
			errs = append(errs, fmt.Errorf("%q: events must be 0 to %d", item, MaxHistoryEvents))
		}
		if aged {
			h.Age, err = time.ParseDuration(age)
			if err != nil || h.Age < time.Second || h.Age > MaxHistoryAge {
				errs = append(errs, fmt.Errorf("%q: the age must be 1s to %v", item, MaxHistoryAge))
			}
		}
		if name := strings.TrimSuffix(h.Rooms, "*"); name != "" && name != "$user:" && name != "$" && proto.Room(h.Rooms) != proto.Broadcasts {
			if err := proto.Room(name).Check(); err != nil {
				errs = append(errs, fmt.Errorf("%q: %w", item, err))
			}
		} else if h.Rooms == "" {
			errs = append(errs, fmt.Errorf("%q: the room is missing", item))
		}
		all = append(all, h)
	}
	return all, errors.Join(errs...)
}

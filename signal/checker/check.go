package checker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/signal-team/signal/proto"
)

// revokedWithin is how long events may still come after a Revoke.
const revokedWithin = 3 * time.Second

// Check finds what breaks a promise. kept is how many events the rooms' history holds.
func Check(records []Record, kept int) []Violation {
	rooms := map[proto.Room]*room{}
	of := func(name proto.Room) *room {
		r := rooms[name]
		if r == nil {
			r = &room{kept: uint64(kept), events: map[proto.EventID]*event{}, clients: map[string]*client{}, places: map[proto.Position]proto.EventID{}}
			rooms[name] = r
		}
		return r
	}
	var found []Violation
	for _, r := range records {
		if r.Room != "" {
			of(r.Room)
		}
	}
	for _, r := range records { // who was where, and what Redis has lost, is known before
		if (r.Kind == Loss || r.Kind == Fork) && r.Room == "" {
			for _, room := range rooms {
				room.know(r)
			}
		} else if r.Room != "" {
			of(r.Room).know(r)
		}
	}
	revoked := map[string]time.Duration{}
	for _, r := range records {
		switch {
		case r.Kind == Revoke:
			revoked[r.Client] = r.At
		case r.Kind == Gone && r.Room == "":
			for _, room := range rooms {
				room.gone(r.Client)
			}
		case r.Room != "":
			if at, is := revoked[r.Client]; is && r.At > at+revokedWithin && r.Kind != Joining {
				found = append(found, Violation{Revoked, r, fmt.Sprintf("it was revoked at %s", at)})
			}
			of(r.Room).check(r)
		}
	}
	for _, room := range rooms {
		room.end()
		found = append(found, room.found...)
	}
	slices.SortStableFunc(found, func(a, b Violation) int { return cmp.Compare(a.Record.At, b.Record.At) })
	return found
}

// A room is what is known of one room.
type room struct {
	kept   uint64
	events map[proto.EventID]*event
	places map[proto.Position]proto.EventID // what senders, clients and Redis say of them
	losses []Record
	forks  []Record // and losses: clients may be told of either
	trims  []Record
	final  *Record
	tops   []Record // sent, each with a higher number than the one before

	chain   map[proto.Position]bool // of final, as far back as it can be followed
	from    proto.Position          // the first of it
	forked  bool                    // something known is not on it
	clients map[string]*client
	found   []Violation
}

// An event is what its sender says of it.
type event struct {
	sending time.Duration // first
	print   string
	except  []string
	sent    []Record
	refused bool // the last time
}

// A client is one till in one room.
type client struct {
	in    bool
	at    proto.Position
	since map[string]proto.Position // by join
	ids   map[proto.EventID]bool    // since it was last told of a loss
	path  []Record                  // the events of ids
	open  map[string]Record         // joins without an answer
	last  Record
}

// know is the first look at a record: what was sent, where things stand and what was broken.
func (r *room) know(rec Record) {
	switch rec.Kind {
	case Sending:
		e := r.events[rec.ID]
		if e == nil {
			e = &event{sending: rec.At, print: rec.Print, except: rec.Except}
			r.events[rec.ID] = e
		}
		e.refused = false
	case Failed:
		if e := r.events[rec.ID]; e != nil {
			e.refused = true
		}
	case Sent:
		r.place(rec)
		if e := r.events[rec.ID]; e != nil {
			e.sent = append(e.sent, rec)
		}
		if n := len(r.tops); n == 0 || r.tops[n-1].Position.Epoch != rec.Position.Epoch || r.tops[n-1].Position.Sequence < rec.Position.Sequence {
			r.tops = append(r.tops, rec)
		}
	case Event:
		r.place(rec)
	case Loss:
		r.losses, r.forks = append(r.losses, rec), append(r.forks, rec)
	case Fork:
		r.forks = append(r.forks, rec)
	case Trim:
		r.trims = append(r.trims, rec)
	case Final:
		r.final = &rec
	}
}

// place takes down which event stands at a position. Two different ones are a violation.
func (r *room) place(rec Record) {
	if id, known := r.places[rec.Position]; known && id != rec.ID {
		r.bad(Agreement, rec, "there stands %s for others", id)
		return
	}
	r.places[rec.Position] = rec.ID
}

func (r *room) bad(rule Rule, rec Record, format string, a ...any) {
	r.found = append(r.found, Violation{rule, rec, fmt.Sprintf(format, a...)})
}

// check is the second look: with all that is known.
func (r *room) check(rec Record) {
	if r.chain == nil {
		r.follow()
	}
	c := r.clients[rec.Client]
	if c == nil && rec.Client != "" {
		c = &client{ids: map[proto.EventID]bool{}, since: map[string]proto.Position{}, open: map[string]Record{}}
		r.clients[rec.Client] = c
	}
	switch rec.Kind {
	case Joining:
		c.since[rec.Join], c.open[rec.Join] = rec.Position, rec
	case Joined:
		r.joined(c, rec)
	case Event:
		r.received(c, rec)
	case Skip:
		r.skipped(c, rec)
	case Gone:
		r.gone(rec.Client)
	case Resync:
		if !c.in {
			r.bad(Lost, rec, "it is not in the room")
		}
		r.told(c, rec, c.at)
	}
	if c != nil {
		c.last = rec
	}
}

func (r *room) joined(c *client, rec Record) {
	since, asked := c.since[rec.Join]
	delete(c.open, rec.Join)
	switch {
	case !asked:
		r.bad(Phantom, rec, "it has not asked for that")
	case rec.Reason == proto.OK && rec.Position != since:
		r.bad(Lost, rec, "it wanted what follows %s", since)
	case rec.Reason == proto.OK:
		if c.at != rec.Position { // what came beyond it comes again
			c.back(rec.Position)
		}
	case rec.Reason == proto.Fresh && since.IsZero():
		c.begin()
	case rec.Reason == proto.Fresh || rec.Reason == "":
		r.bad(Lost, rec, "it wanted what follows %s, and is not told why it gets nothing", since)
	default:
		r.told(c, rec, since)
	}
	c.in, c.at = true, rec.Position
}

// begin forgets what the client has had.
func (c *client) begin() {
	clear(c.ids)
	c.path = c.path[:0]
}

// back forgets what the client has had after a place to which it goes back.
func (c *client) back(at proto.Position) {
	c.path = slices.DeleteFunc(c.path, func(r Record) bool {
		after := r.Position.Epoch != at.Epoch || r.Position.Sequence > at.Sequence
		if after {
			delete(c.ids, r.ID)
		}
		return after
	})
}

// told is a client that is told of a loss, at where it stood.
func (r *room) told(c *client, rec Record, was proto.Position) {
	c.begin()
	switch rec.Reason {
	case proto.Behind, proto.Trimmed:
		if r.trimmed(rec, was) {
			break
		}
		fallthrough
	case proto.Epoch, proto.Forked, proto.Rewound:
		if !r.lost(rec.At, was) && !(rec.Reason == proto.Rewound && r.regained(rec, was)) {
			r.bad(FalseAlarm, rec, "%s, but Redis has lost nothing of the room, and it stood at %s", rec.Reason, was)
		}
	default:
		r.bad(Lost, rec, "%q is no reason", rec.Reason)
	}
	c.at = rec.Position
}

// lost says whether Redis had lost something of this room.
func (r *room) lost(at time.Duration, was proto.Position) bool {
	return (r.forked || r.off(was)) && slices.ContainsFunc(r.forks, func(l Record) bool { return l.Began <= at })
}

// regained says whether Redis may have lost what stood after rec's position up to was, and had it
// again in the same places with the retries of those who had sent it: so it is when a master
// stood still and, before it hears that it is none any more, does what a replica does after it.
func (r *room) regained(rec Record, was proto.Position) bool {
	return rec.Position.Epoch == was.Epoch && rec.Position.Sequence < was.Sequence &&
		slices.ContainsFunc(r.forks, func(l Record) bool { return l.Began <= rec.At && rec.At <= l.At+toldWithin })
}

// toldWithin is how long after a loss clients may be told of it.
const toldWithin = 10 * time.Second

// trimmed says whether history can have ended after a position.
func (r *room) trimmed(rec Record, was proto.Position) bool {
	if slices.ContainsFunc(r.trims, func(t Record) bool { return t.Began <= rec.At }) {
		return true
	}
	return slices.ContainsFunc(r.tops, func(t Record) bool {
		e := r.events[t.ID]
		return e != nil && e.sending <= rec.At && t.Position.Sequence > was.Sequence+r.kept
	})
}

func (r *room) received(c *client, rec Record) {
	e := r.events[rec.ID]
	switch {
	case e == nil:
		r.bad(Phantom, rec, "nobody has sent it")
	case e.sending > rec.At:
		r.bad(Phantom, rec, "it was sent only at %s", e.sending)
	case e.print != rec.Print:
		r.bad(Phantom, rec, "its sender said something else")
	case e.refused && len(e.sent) == 0:
		r.bad(Phantom, rec, "its sender was told that it is refused")
	case slices.Contains(e.except, rec.Client):
		r.bad(Phantom, rec, "it was to be left out")
	}
	if c.ids[rec.ID] {
		r.bad(Repeated, rec, "it has had it already")
	}
	c.ids[rec.ID] = true
	c.path = append(c.path, rec)
	if r.next(c, rec) && Next(c.at, rec.Print) != rec.Position {
		r.bad(Broken, rec, "after %s it would stand at %s", c.at, Next(c.at, rec.Print))
	}
	c.at = rec.Position
}

func (r *room) skipped(c *client, rec Record) {
	r.next(c, rec)
	if id, known := r.places[rec.Position]; known {
		if e := r.events[id]; e != nil && !slices.Contains(e.except, rec.Client) {
			r.bad(Lost, rec, "it was to get %s", id)
		} else if e != nil && Next(c.at, e.print) != rec.Position {
			r.bad(Broken, rec, "after %s it would stand at %s", c.at, Next(c.at, e.print))
		}
	}
	c.at = rec.Position
}

// next says whether a number follows the client's.
func (r *room) next(c *client, rec Record) bool {
	switch p := rec.Position; {
	case !c.in:
		r.bad(Phantom, rec, "it is not in the room")
	case p.Epoch != c.at.Epoch:
		r.bad(Broken, rec, "it stood at %s", c.at)
	case p.Sequence <= c.at.Sequence:
		r.bad(Repeated, rec, "it stood at %s", c.at)
	case p.Sequence > c.at.Sequence+1:
		r.bad(Lost, rec, "it stood at %s", c.at)
	default:
		return true
	}
	return false
}

func (r *room) gone(name string) {
	if c := r.clients[name]; c != nil {
		c.in = false
		clear(c.open)
	}
}

// follow goes back along the chain from its end. What is not in Redis' log any more is found
// by content: an event follows another one if its place does.
func (r *room) follow() {
	r.chain = map[proto.Position]bool{}
	if r.final == nil {
		return
	}
	bySequence := map[uint64][]proto.Position{}
	for p := range r.places {
		if p.Epoch == r.final.Position.Epoch {
			bySequence[p.Sequence] = append(bySequence[p.Sequence], p)
		}
	}
	at := r.final.Position
	r.chain[at] = true
	for at.Sequence > 0 {
		before, ok := proto.Position{}, false
		candidates := bySequence[at.Sequence-1]
		if at.Sequence == 1 {
			candidates = []proto.Position{First(at.Epoch)}
		}
		for _, p := range candidates {
			if e := r.events[r.places[at]]; e != nil && Next(p, e.print) == at {
				before, ok = p, true
			}
		}
		for _, p := range r.final.Log {
			if p.Epoch == at.Epoch && p.Sequence == at.Sequence-1 {
				before, ok = p, true
			}
		}
		if !ok {
			break // nobody knows: its sender has died, say
		}
		r.chain[before] = true
		at = before
	}
	r.from = at
	for p := range r.places {
		r.forked = r.forked || r.off(p)
	}
}

// off says that a position is not on the chain of the end.
func (r *room) off(p proto.Position) bool {
	if r.final == nil {
		return false
	}
	return p.Epoch != r.from.Epoch || p.Sequence >= r.from.Sequence && !r.chain[p]
}

// end is what can be said when all is over.
func (r *room) end() {
	if r.final == nil {
		return
	}
	numbers := map[proto.Position]proto.EventID{} // without tags
	for p, id := range r.places {
		p.Tag = proto.Tag{}
		if other, taken := numbers[p]; taken && other != id && len(r.forks) == 0 {
			r.bad(Agreement, Record{Kind: Final, Room: r.final.Room, ID: id, Position: p}, "the number is also that of %s", other)
		}
		numbers[p] = id
	}
	for id, e := range r.events {
		for _, sent := range e.sent {
			if r.off(sent.Position) && !slices.ContainsFunc(r.losses, func(l Record) bool { return e.sending <= l.At }) {
				r.bad(Unexcused, sent, "at the end it is not there: %s", id)
			}
		}
	}
	for name, c := range r.clients {
		if c.in && c.at != r.final.Position {
			last := c.last
			last.Client = name
			r.bad(Behind, last, "it stands at %s, the room at %s", c.at, r.final.Position)
		}
		for _, asked := range c.open {
			r.bad(Behind, asked, "it was never answered")
		}
		for _, had := range c.path {
			if c.in && r.off(had.Position) {
				r.bad(Unexcused, had, "at the end it is not there, and the client was not told")
			}
		}
	}
	r.realTime()
}

// realTime holds the numbers against the clock, where Redis lost nothing in between.
func (r *room) realTime() {
	var sent []Record
	for _, e := range r.events {
		sent = append(sent, e.sent...)
	}
	byTime := slices.SortedFunc(slices.Values(sent), func(a, b Record) int { return cmp.Compare(a.At, b.At) })
	begins := slices.SortedFunc(slices.Values(sent), func(a, b Record) int {
		return cmp.Compare(r.events[a.ID].sending, r.events[b.ID].sending)
	})
	top := map[proto.Incarnation]Record{} // of those acknowledged so far
	i := 0
	for _, b := range begins {
		sending := r.events[b.ID].sending
		for ; i < len(byTime) && byTime[i].At < sending; i++ {
			if a := byTime[i]; a.Position.Sequence > top[a.Position.Epoch].Position.Sequence {
				top[a.Position.Epoch] = a
			}
		}
		a, ok := top[b.Position.Epoch]
		if ok && a.Position.Sequence >= b.Position.Sequence && !slices.ContainsFunc(r.losses, func(l Record) bool { return l.Began <= b.At && l.At >= r.events[a.ID].sending }) {
			r.bad(RealTime, b, "%s was acknowledged as %s before it was sent", a.ID, a.Position)
		}
	}
}

package hub

import (
	"slices"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/room"
)

// What Redis is asked. A client that joins from a position which the ring does not show,
// and one that was too slow for the ring, want the events after a position: so does the
// room itself after a doubt. All are the same read, and who waits for the same position
// shares it. But a read only counts for who asked before it began, or it might miss what
// was published in between: who comes while one is out waits for the next
// (TestStaleRead).
type ask struct{ now, next asking }

// An asking is who waits for one read.
type asking struct {
	adds    []add
	members []*member
}

func (a *asking) empty() bool { return len(a.adds)+len(a.members) == 0 }

// ask says with whom to wait for what follows a position. It is called with mu held.
func (l *local) ask(since proto.Position) *asking {
	a := l.asked[since]
	if a == nil {
		if l.asked == nil {
			l.asked = map[proto.Position]*ask{}
		}
		a = &ask{}
		l.asked[since] = a
		l.hub.bus.Read(l.name, since, false)
		return &a.now
	}
	return &a.next
}

// A past is what reads have brought lately, one event after the other. When a node has gone,
// all clients of its rooms come to another one from about the same position: the first one
// of a room reads what they have missed, for all of them (BenchmarkStorm).
type past struct {
	since   proto.Position // before the first entry
	entries []room.Entry
	bytes   int
	used    bool // since the last check of the node
}

func (p *past) size() int {
	if p == nil {
		return 0
	}
	return p.bytes
}

// remember keeps a page, after what it goes on from. It is called with mu held.
func (l *local) remember(since proto.Position, entries []room.Entry) {
	if len(entries) == 0 {
		return
	}
	p := l.past
	if p == nil || p.entries[len(p.entries)-1].Position != since {
		p = &past{since: since}
		l.past = p
	}
	p.used = true
	p.entries = append(p.entries, entries...)
	for i := range entries {
		p.bytes += entries[i].Bytes()
	}
	for len(p.entries) > room.Retained || p.bytes > room.MaxBytes && len(p.entries) > 1 {
		p.bytes -= p.entries[0].Bytes()
		p.since = p.entries[0].Position
		p.entries[0] = room.Entry{}
		p.entries = p.entries[1:]
	}
}

// recall is what is known to follow a position up to the ring, at most the bytes of one
// batch; nil if that is not known. It is called with mu held.
func (l *local) recall(since proto.Position) []room.Entry {
	p := l.past
	if p == nil || !l.room.Has(p.entries[len(p.entries)-1].Position) {
		return nil
	}
	from := 0
	if since != p.since {
		from = 1 + slices.IndexFunc(p.entries, func(e room.Entry) bool { return e.Position == since })
		if from == 0 || from == len(p.entries) {
			return nil
		}
	}
	after := p.entries[from:]
	p.used = true
	bytes := 0
	for i := range after {
		if bytes += len(after[i].Frame); bytes > batchBytes && i > 0 {
			after = after[:i]
			break
		}
	}
	return slices.Clone(after) // a shard reads it while remember goes on
}

// fade forgets what nobody has come for since the last check. It is called with mu held.
func (l *local) fade() {
	if l.past == nil {
		return
	}
	if !l.past.used {
		l.past = nil
		l.trim() // less is kept: nobody has to make way
		return
	}
	l.past.used = false
}

// replied takes what Redis answered to a read, and returns what the shards are to do: who
// is in, and who goes on with the page. It also returns what took returns.
func (l *local) replied(since proto.Position, order bool, p proto.Page) (news uint64, ready []command, victims []*local) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range p.Events {
		p.Events[i].Room = l.name
	}
	head, by := l.room.Head(), byClient
	if order {
		by = bySame
		known := !l.room.At().IsZero()
		l.room.Replied(since, p)
		switch {
		case p.Found != proto.OK:
			l.past = nil // it may be of another branch
		case !known:
			l.remember(since, room.Entries(p.Events))
		}
		if known && !l.counted && l.room.Head() != head {
			l.counted = true
			l.hub.metrics.healed[l.noticed].Inc()
		}
		ready = l.admit()
	} else if a := l.asked[since]; a != nil {
		ready = l.answer(a, since, p)
	}
	if l.room.Head() != head {
		news = l.news()
	}
	l.read(by)
	return news, ready, l.trim()
}

// answer is called with mu held.
func (l *local) answer(a *ask, since proto.Position, p proto.Page) (ready []command) {
	got := page{local: l, since: since, verdict: l.room.Joined(since, p), members: a.now.members}
	if got.verdict.Found == proto.OK && got.verdict.InLog {
		got.entries = room.Entries(p.Events)
		l.remember(since, got.entries)
	}
	for _, add := range a.now.adds {
		add.verdict = got.verdict
		ready = append(ready, add)
		if add.verdict.InLog {
			got.members = append(got.members, add.member)
		}
	}
	if len(got.members) > 0 {
		ready = append(ready, got)
	}
	if a.now = a.next; a.now.empty() {
		delete(l.asked, since)
	} else {
		a.next = asking{}
		l.hub.bus.Read(l.name, since, false)
	}
	return ready
}

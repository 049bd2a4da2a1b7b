package hub

import (
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

// replied takes what Redis answered to a read, and returns what the shards are to do: who
// is in, and who goes on with the page.
func (l *local) replied(since proto.Position, order bool, p proto.Page) (news uint64, ready []command) {
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
	return news, ready
}

// answer is called with mu held.
func (l *local) answer(a *ask, since proto.Position, p proto.Page) (ready []command) {
	got := page{local: l, since: since, verdict: l.room.Joined(since, p), members: a.now.members}
	if got.verdict.Found == proto.OK && got.verdict.InLog {
		got.entries = room.Entries(p.Events)
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

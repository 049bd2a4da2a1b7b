package hub

import (
	"container/list"
	"sync"
)

// keptBytes is what all rooms of a node may keep for members that are behind.
const keptBytes = 48 << 20

// A budget bounds the rings of all rooms together: what they keep for members that are
// behind. What a shard has not taken yet is bounded by the room itself, and never taken
// away here (TestBudget).
type budget struct {
	most int

	mu    sync.Mutex
	kept  int                      // guarded by mu
	rooms map[*local]*list.Element // guarded by mu
	order list.List                // guarded by mu: of *holding, the room that last kept something at the front
}

type holding struct {
	local *local
	bytes int
}

func newBudget(most int) *budget { return &budget{most: most, rooms: map[*local]*list.Element{}} }

// note says what a room keeps now. It returns the rooms that must let go of what they
// keep, those that were last heard of longest ago; they do when no lock is held.
func (b *budget) note(l *local, bytes int) (victims []*local) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.rooms[l]
	if bytes == 0 {
		if e != nil {
			b.drop(e)
		}
		return nil
	}
	if e == nil {
		e = b.order.PushFront(&holding{local: l})
		b.rooms[l] = e
	}
	b.order.MoveToFront(e)
	h := e.Value.(*holding)
	b.kept += bytes - h.bytes
	h.bytes = bytes
	for b.kept > b.most {
		oldest := b.order.Back()
		victims = append(victims, oldest.Value.(*holding).local)
		b.drop(oldest)
	}
	return victims
}

// release makes rooms let go of what they keep.
func release(victims []*local) {
	for _, v := range victims {
		v.release()
	}
}

// drop is called with mu held.
func (b *budget) drop(e *list.Element) {
	h := b.order.Remove(e).(*holding)
	b.kept -= h.bytes
	delete(b.rooms, h.local)
}

func (b *budget) bytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept
}

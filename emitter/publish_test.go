package emitter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// TestDurable: events of a room are numbered and chained; the same event again is the same
// event, another one under its id is refused, and what was published is what is kept.
func TestDurable(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			e, next := open(t, srv.Settings()), listen(t, srv.Settings(), "sg:{orders}:ch")
			began, err := e.Position(t.Context(), "orders")
			if err != nil || began.Sequence != 0 {
				t.Fatalf("position %v, %v", began, err)
			}
			at := began
			for i := range 3 {
				r, err := e.SendToRoom(t.Context(), "orders", "e", i, emitter.EventID(proto.EventID(fmt.Sprint("id-", i))))
				if err != nil || r.Duplicate || r.Position.Epoch != at.Epoch || r.Position.Sequence != at.Sequence+1 || r.Receivers != 1 {
					t.Fatalf("receipt %+v, %v", r, err)
				}
				m, err := proto.DecodeMessage([]byte(next("sg:{orders}:ch").Payload))
				if err != nil || !m.Follows(at) || m.Position != r.Position || string(m.Data) != fmt.Sprint(i) || m.EventID != r.EventID {
					t.Fatalf("message %+v, %v, want %+v", m, err, r)
				}
				at = r.Position
			}
			if r, err := e.SendToRoom(t.Context(), "orders", "e", 2, emitter.EventID("id-2"), emitter.Except(nobody)); err != nil || !r.Duplicate || r.Position != at {
				t.Errorf("the same event again: %+v, %v", r, err)
			}
			if r, err := e.SendToRoom(t.Context(), "orders", "e", 3, emitter.EventID("id-2")); !errors.Is(err, emitter.ErrEventIDReused) || !r.Position.IsZero() {
				t.Errorf("another event under its id: %+v, %v", r, err)
			}
			if now, err := e.Position(t.Context(), "orders"); err != nil || now != at {
				t.Errorf("position %v, %v, want %v", now, err, at)
			}
			rdb := srv.Settings().Open()
			defer rdb.Close()
			if _, err := e.Position(t.Context(), "empty"); err != nil {
				t.Fatal(err)
			}
			empty, full := srv.Settings().Layout().Position("empty"), srv.Settings().Layout().Position("orders")
			rdb.Expire(t.Context(), empty, time.Minute)
			before := rdb.TTL(t.Context(), full).Val()
			if err := e.Renew(t.Context(), []proto.Room{"empty", "orders", "nobody's"}); err != nil {
				t.Error(err)
			}
			if ttl := rdb.TTL(t.Context(), empty).Val(); ttl < 50*time.Minute {
				t.Errorf("an empty room is kept for %v", ttl)
			}
			if ttl := rdb.TTL(t.Context(), full).Val(); ttl < before-time.Minute || ttl < 20*time.Hour {
				t.Errorf("a room with events was kept for %v, and now for %v", before, ttl)
			}
			forget(t, rdb)
			pages := e.Read(t.Context(), []emitter.Read{
				{Room: "orders", Since: began.String()}, {Room: "orders", Since: at.String()}, {Room: "orders"},
				{Room: "orders", Since: "abcdefgh.1.0123456789ab"}, {Room: "orders", Since: at.Epoch.String() + ".2.0123456789ab"},
			})
			var found []string
			for _, p := range pages {
				found = append(found, fmt.Sprintf("%s %d", p.Found, len(p.Events)))
				if p.Err != nil || p.Top != at {
					t.Errorf("page %+v", p)
				}
			}
			if want := []string{"ok 3", "ok 0", "fresh 0", "epoch 0", "forked 0"}; !slices.Equal(found, want) {
				t.Errorf("found %q, want %q", found, want)
			}
			if r, err := e.SendToRoom(t.Context(), "orders", "e", 4, emitter.Live()); err != nil || !r.Position.IsZero() || r.Receivers != 1 {
				t.Errorf("a live event: %+v, %v", r, err)
			}
		})
	}
}

// TestHistory: how much is kept is set by room.
func TestHistory(t *testing.T) {
	srv := redistest.Start(t)
	s := srv.Settings()
	var err error
	if s.Histories, err = emitter.ParseHistories("4/60s, orders:*=6/1h,orders:typing=0"); err != nil {
		t.Fatal(err)
	}
	e := open(t, s)
	rdb := srv.Client()
	defer rdb.Close()
	for room, kept := range map[proto.Room]int64{"a": 4, "orders:1": 6, "orders:typing": 0} {
		began, err := e.Position(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 9 {
			if r, err := e.SendToRoom(t.Context(), room, "e", i); err != nil || r.Position.Sequence != uint64(i+1) {
				t.Fatalf("%s: %+v, %v", room, r, err)
			}
		}
		log := s.Layout().Log(room)
		if n := rdb.LLen(t.Context(), log).Val(); n != kept {
			t.Errorf("%s keeps %d events, want %d", room, n, kept)
		}
		want := map[int64]time.Duration{4: time.Minute, 6: time.Hour}[kept]
		if ttl := rdb.TTL(t.Context(), log).Val(); kept > 0 && (ttl > want || ttl < want-10*time.Second) {
			t.Errorf("%s keeps them for %v, want %v", room, ttl, want)
		}
		if p := e.Read(t.Context(), []emitter.Read{{Room: room, Since: began.String()}})[0]; p.Found == proto.OK || p.Err != nil {
			t.Errorf("%s: %+v, want what is missing not to be there", room, p)
		}
	}
	for _, bad := range []string{"", "x", "-1", "256/0s", "256/25h", "=5", "a*b=5", "$x=5", "100001", "5/1.5"} {
		if _, err := emitter.ParseHistories(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	t.Setenv(emitter.EnvPrefix+"HISTORY", "x")
	if _, err := emitter.SettingsFromEnv(); err == nil || !strings.Contains(err.Error(), "HISTORY") {
		t.Errorf("error %v does not name the variable", err)
	}
}

// TestPages: what is kept is read in pages that are bounded in bytes, from a position or from a number on,
// and whoever only looks writes nothing.
func TestPages(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			e := open(t, srv.Settings())
			for size, perPage := range map[int]int{10: 16, 20 << 10: 6, 30 << 10: 4, 60 << 10: 2, 120 << 10: 1} {
				room := proto.Room(fmt.Sprint("r", size))
				if p := e.Read(t.Context(), []emitter.Read{{Room: room, Look: true}})[0]; p.Err != nil || p.Found != proto.None {
					t.Errorf("an untouched room: %+v", p)
				}
				const events = 40
				for i := range events {
					if _, err := e.SendToRoom(t.Context(), room, "e", strings.Repeat("x", size)); err != nil {
						t.Fatal(i, err)
					}
				}
				for _, from := range []uint64{1, 2, 33, events} {
					n, next := from, emitter.Read{Room: room, From: from, Look: true, All: true}
					for pages := 1; ; pages++ {
						p := e.Read(t.Context(), []emitter.Read{next})[0]
						if p.Err != nil || p.Found != proto.OK || len(p.Events) == 0 {
							t.Fatalf("%d bytes, after %d: %+v", size, n, p)
						}
						if want := min(perPage, int(events-n+1)); len(p.Events) != want {
							t.Errorf("%d bytes: %d events in a page, want %d", size, len(p.Events), want)
						}
						for _, m := range p.Events {
							if m.Position.Sequence != n {
								t.Fatalf("%d bytes: %d comes for %d", size, m.Position.Sequence, n)
							}
							n++
						}
						last := p.Events[len(p.Events)-1].Position
						if last == p.Top {
							break
						}
						next = emitter.Read{Room: room, Since: last.String(), Look: true, All: true}
					}
					if n != events+1 {
						t.Errorf("%d bytes, from %d: it ends at %d", size, from, n)
					}
				}
				for from, want := range map[uint64]proto.Found{events + 1: proto.OK, events + 2: proto.Rewound} {
					if p := e.Read(t.Context(), []emitter.Read{{Room: room, From: from, Look: true}})[0]; p.Err != nil || p.Found != want || len(p.Events) > 0 {
						t.Errorf("from %d: %+v, want %s", from, p, want)
					}
				}
			}
			rdb := srv.Settings().Open()
			defer rdb.Close()
			if n, err := rdb.Exists(t.Context(), srv.Settings().Layout().Position("untouched")).Result(); n != 0 || err != nil {
				t.Error(n, err)
			}
			e.Read(t.Context(), []emitter.Read{{Room: "untouched", Look: true}, {Room: "untouched", From: 1, Look: true}})
			if n, err := rdb.Exists(t.Context(), srv.Settings().Layout().Position("untouched")).Result(); n != 0 || err != nil {
				t.Errorf("a look has written %d keys, %v", n, err)
			}
		})
	}
}

// TestRetry: an event that Redis did not answer for is sent again under its id until it
// does, and is one event.
func TestRetry(t *testing.T) {
	srv := redistest.Start(t)
	e := open(t, srv.Settings())
	at, err := e.Position(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	sent := make(chan error)
	go func() {
		r, err := e.SendToRoom(t.Context(), "orders", "e", 1)
		if err == nil && r.Position.Sequence != at.Sequence+1 {
			err = fmt.Errorf("it is at %s", r.Position)
		}
		sent <- err
	}()
	time.Sleep(2500 * time.Millisecond) // longer than a command may take: the fault itself
	srv.Resume()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if now, err := e.Position(t.Context(), "orders"); err != nil || now.Sequence != at.Sequence+1 {
		t.Errorf("the room is at %v, %v, want one event", now, err)
	}
}

// TestRoll: the roll is called in one go, and says when one room is elsewhere or gone.
func TestRoll(t *testing.T) {
	srv := redistest.Start(t)
	e := emitter.New(srv.Settings())
	defer e.Close()
	rooms := []proto.Room{"a", "b c", "ö", "$user:u1"}
	var reads []emitter.Read
	for _, r := range rooms {
		reads = append(reads, emitter.Read{Room: r})
	}
	var at []proto.Position
	for _, p := range e.Read(t.Context(), reads) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
		at = append(at, p.Top)
	}
	var roll emitter.Roll
	call := func(what string, want bool) {
		t.Helper()
		for i, r := range rooms {
			roll.Add(r, at[i])
		}
		if all, err := roll.Call(t.Context(), e); all != want || err != nil {
			t.Errorf("%s: %t, %v", what, all, err)
		}
	}
	call("all are there", true)
	r, err := e.SendToRoom(t.Context(), rooms[1], "e", 1)
	if err != nil {
		t.Fatal(err)
	}
	call("one has moved", false)
	at[1] = r.Position
	call("it is known where to", true)
	rdb := srv.Client()
	defer rdb.Close()
	rdb.Del(t.Context(), srv.Settings().Layout().Position(rooms[3]))
	call("one is gone", false)
}

// forget makes Redis forget its scripts.
func forget(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	flush := func(ctx context.Context, c *redis.Client) error { return c.ScriptFlush(ctx).Err() }
	var err error
	if c, ok := rdb.(*redis.ClusterClient); ok {
		err = c.ForEachMaster(t.Context(), flush)
	} else {
		err = flush(t.Context(), rdb.(*redis.Client))
	}
	if err != nil {
		t.Fatal(err)
	}
}

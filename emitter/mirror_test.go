package emitter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// old is a client of a server of the original.
const old proto.ClientID = "5f0c2f6e-8f9d-4b8e-9f43-0d2f7c0f5a11"

// TestMirror: what is sent is heard by the original's servers too, once: also what is sent again,
// and what is left out where the original knows of it.
func TestMirror(t *testing.T) {
	for name, srv := range redistest.Each(t) {
		t.Run(name, func(t *testing.T) {
			rdb := srv.Settings().Open()
			defer rdb.Close()
			server := rdb.PSubscribe(t.Context(), proto.IgnisAll()...)
			defer server.Close()
			for range proto.IgnisAll() {
				if _, err := server.Receive(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			at := srv.Settings()
			at.Mirror = true
			e := open(t, at)
			send := func(to proto.Target, n int, opts ...emitter.Option) (emitter.Receipt, error) {
				return e.Send(t.Context(), to, "paid", n, opts...)
			}
			fine := func(_ emitter.Receipt, err error) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
			}
			fine(send(proto.ToRoom("orders"), 1, emitter.EventID("e-1"), emitter.Except(old, nobody)))
			if r, err := send(proto.ToRoom("orders"), 1, emitter.EventID("e-1"), emitter.Except(old, nobody)); err != nil || !r.Duplicate {
				t.Errorf("sent again: %+v, %v", r, err)
			}
			fine(send(proto.ToRoom("orders"), 2, emitter.Live()))
			fine(send(proto.ToUser("u1"), 3))
			fine(send(proto.ToEveryone(), 4))
			if _, err := send(proto.ToClient(nobody), 5); !errors.Is(err, emitter.ErrNoReceiver) && srv.Settings().Ways() == emitter.Classic {
				t.Errorf("a client of a node that is gone: %v", err)
			}
			fine(send(proto.ToClient(old), 6))
			want := []string{
				`ws:room:orders {"serverId":"signal","type":"room","target":"orders","event":"paid","data":1,"exclude":["` + string(old) + `","` + string(nobody) + `"]}`,
				`ws:room:orders {"serverId":"signal","type":"room","target":"orders","event":"paid","data":2}`,
				`ws:user:u1 {"serverId":"signal","type":"user","target":"u1","event":"paid","data":3}`,
				`ws:broadcast {"serverId":"signal","type":"broadcast","event":"paid","data":4}`,
				`ws:client:` + string(old) + ` {"serverId":"signal","type":"client","target":"` + string(old) + `","event":"paid","data":6}`,
			}
			var got []string
			for len(got) < len(want) {
				ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
				m, err := server.ReceiveMessage(ctx)
				cancel()
				if err != nil {
					t.Fatalf("%v after %q", err, got)
				}
				if proto.IsIgnisProbe(m.Channel) {
					continue
				}
				got = append(got, m.Channel+" "+m.Payload)
				if !proto.IsMirror([]byte(m.Payload)) {
					t.Errorf("a node would take %s for the original's", m.Payload)
				}
			}
			if srv.Settings().Mode == emitter.Cluster { // servers of a cluster keep no order between channels
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("the original hears\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestMirrorWhatWaited: what a service sends before its Redis answers goes to the original's servers
// too, although it cannot have known then that it must.
func TestMirrorWhatWaited(t *testing.T) {
	srv := redistest.Start(t)
	at := srv.Settings()
	at.Mirror = true
	if err := open(t, at).Enforce(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := listen(t, srv.Settings(), "ws:room:orders")
	srv.Pause()
	defer srv.Resume()
	e := open(t, srv.Settings())
	ctx, leave := context.WithCancel(t.Context())
	gone, stays := make(chan error), make(chan error)
	data := json.RawMessage(`"first"`)
	go func() {
		_, err := e.SendToRoom(ctx, "orders", "paid", data)
		gone <- err
	}()
	redistest.Wait(t, func() bool { return e.Stats().Waiting == 1 }, "the event to wait")
	go func() {
		_, err := e.SendToRoom(context.Background(), "orders", "paid", 2)
		stays <- err
	}()
	redistest.Wait(t, func() bool { return e.Stats().Waiting == 2 }, "the other one to wait")
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who waits no longer is told %v", err)
	}
	copy(data, `"later"`) // it is the caller's again, and the event may be under way
	srv.Resume()
	if err := <-stays; err != nil {
		t.Fatal(err)
	}
	for {
		m := next("ws:room:orders")
		if strings.Contains(m.Payload, `"data":2`) {
			return
		}
		if !strings.Contains(m.Payload, `"data":"first"`) {
			t.Errorf("the original hears %s", m.Payload)
		}
	}
}

// TestMirrorIsForAll: a client of the original cannot be told by who does not mirror; once a node says that
// it is needed everyone mirrors: who begins at once, who runs already within seconds; and no longer than
// it is.
func TestMirrorIsForAll(t *testing.T) {
	srv := redistest.Start(t)
	early, idle, began := open(t, srv.Settings()), open(t, srv.Settings()), time.Now()
	if err := idle.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := early.SendToClient(t.Context(), old, "paid", 1); !errors.Is(err, emitter.ErrInvalid) || !strings.Contains(err.Error(), emitter.IgnisEnv) {
		t.Errorf("a client of the original: %v", err)
	}
	at := srv.Settings()
	at.Mirror = true
	node := open(t, at)
	if err := node.Enforce(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrors := func(e *emitter.Emitter) bool {
		_, err := e.SendToClient(t.Context(), old, "paid", 1)
		return errors.Is(err, emitter.ErrNoReceiver)
	}
	if !mirrors(open(t, srv.Settings())) {
		t.Error("who begins does not mirror")
	}
	redistest.Wait(t, func() bool { return mirrors(early) }, "who runs already to mirror")
	rdb := srv.Client()
	defer rdb.Close()
	server := rdb.PSubscribe(t.Context(), "ws:room:r*")
	defer server.Close()
	if _, err := server.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(began.Add(6 * time.Second))) // everyone follows within five
	for i := range 20 {                                  // all at once
		go func() { _, _ = idle.SendToRoom(context.Background(), proto.Room(fmt.Sprint("r", i)), "paid", i) }()
	}
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
		_, err := server.ReceiveMessage(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%v after %d of 20 who were quiet", err, i)
		}
	}
	if err := errors.Join(rdb.FlushAll(t.Context()).Err(), open(t, srv.Settings()).Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	looks := func() (n int) {
		_, calls, _ := strings.Cut(rdb.Info(t.Context(), "commandstats").Val(), "cmdstat_hget:calls=")
		_, _ = fmt.Sscan(calls, &n)
		return n
	}
	before := looks()
	redistest.Wait(t, func() bool {
		if !mirrors(early) {
			t.Fatal("a Redis that has lost what was written ends it")
		}
		return looks() > before+1 // of one look the answer may come too late
	}, "it to look again")
	if err := rdb.HSet(t.Context(), "sg:{$ctl}:cfg", "mirror", "off").Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Wait(t, func() bool { return !mirrors(early) }, "it to end")
	srv.Kill()
	redistest.Wait(t, func() bool {
		_, err := early.SendToClient(t.Context(), old, "paid", 1)
		return errors.Is(err, emitter.ErrUnavailable)
	}, "it to say that it does not know")
	t.Setenv(emitter.IgnisEnv, "mirror")
	if s, err := emitter.SettingsFromEnv(); err != nil || !s.Mirror {
		t.Errorf("from the environment: %+v, %v", s, err)
	}
	t.Setenv(emitter.IgnisEnv, "echo")
	if _, err := emitter.SettingsFromEnv(); err == nil || !strings.Contains(err.Error(), emitter.IgnisEnv) {
		t.Errorf("a wrong word: %v", err)
	}
}

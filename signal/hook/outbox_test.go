package hook_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/signal-team/signal/proto"
	"github.com/signal-team/signal/signal/hook"
)

// An application takes notices, unless it fails.
type application struct {
	mu      sync.Mutex
	err     error // guarded by mu
	asked   int   // guarded by mu
	notices []hook.Notice
	dropped map[string]int // guarded by mu
}

func (a *application) drop(reason string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropped[reason] += n
}

func (a *application) never(reason string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dropped[reason]
}

func (a *application) Notice(_ context.Context, all []hook.Notice) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.err == nil {
		a.notices = append(a.notices, all...)
	}
	return a.err
}

func (a *application) fails(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *application) told() (lines []string, asked int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.notices {
		lines = append(lines, fmt.Sprint(n.Kind, n.Room, n.Client))
	}
	return lines, a.asked
}

// open runs an Outbox in a bubble of time of its own.
func open(t *testing.T, test func(t *testing.T, o *hook.Outbox, app *application, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		app := &application{dropped: map[string]int{}}
		o := hook.NewOutbox(app, app.drop, func(proto.ClientID, proto.UserID) bool { return true }, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			if err := o.Run(ctx); err != nil {
				t.Error(err)
			}
			close(ended)
		}()
		test(t, o, app, sync.OnceFunc(func() { stop(); <-ended }))
		stop()
	})
}

func room(i int) hook.Notice {
	return hook.Notice{Kind: hook.Occupied, Room: proto.Room(fmt.Sprint(i))}
}

// TestOutboxOrder: what an application does not take it is told again, in order, and nothing twice that it
// has taken; with longer and longer pauses.
func TestOutboxOrder(t *testing.T) {
	open(t, func(t *testing.T, o *hook.Outbox, app *application, _ func()) {
		app.fails(errors.New("down"))
		for i := range 600 {
			o.Add(room(i))
		}
		time.Sleep(30 * time.Second)
		if _, asked := app.told(); asked < 5 || asked > 10 {
			t.Errorf("in half a minute an application that fails is asked %d times", asked)
		}
		app.fails(nil)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		lines, _ := app.told()
		for i := range lines {
			if want := fmt.Sprint(hook.Occupied, i); lines[i] != want {
				t.Fatalf("notice %d is %q, want %q", i, lines[i], want)
			}
		}
		if len(lines) != 600 || app.never("full")+app.never("failed") > 0 {
			t.Errorf("%d notices are told, some dropped", len(lines))
		}
	})
}

// TestOutboxGivesUp: what is not taken for a minute is given up and counted, and so is what
// comes while too much waits; a node that ends tells what is left, once.
func TestOutboxGivesUp(t *testing.T) {
	open(t, func(t *testing.T, o *hook.Outbox, app *application, stop func()) {
		app.fails(errors.New("down"))
		o.Add(room(0))
		time.Sleep(time.Second) // it is on its way
		const most = 1 << 16
		for i := range most + 10 {
			o.Add(room(i))
		}
		if app.never("full") != 11 { // the one under way counts
			t.Errorf("beyond the limit: %d", app.never("full"))
		}
		time.Sleep(75 * time.Second)
		synctest.Wait()
		if app.never("failed") != 1 {
			t.Errorf("after a minute: %d", app.never("failed"))
		}
		app.fails(hook.ErrRefused) // it may have been set up wrongly
		time.Sleep(90 * time.Second)
		app.fails(nil)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if lines, _ := app.told(); app.never("failed") > 1+2*256 || len(lines)+app.never("failed") != most {
			t.Errorf("refused: %d dropped, %d told", app.never("failed"), len(lines))
		}
		before, _ := app.told()
		o.Disconnected(hook.Notice{Client: "c"})
		stop()
		if lines, _ := app.told(); len(lines) != len(before)+1 || lines[len(before)] != "disconnectedc" {
			t.Errorf("at the end %q", lines[len(before):])
		}
	})
}

// TestOutboxComesBack: the end of a connection is told after five seconds, unless its client has come
// back, before the end was noticed or after it.
func TestOutboxComesBack(t *testing.T) {
	open(t, func(t *testing.T, o *hook.Outbox, app *application, _ func()) {
		o.Disconnected(hook.Notice{Client: "gone"})
		o.Disconnected(hook.Notice{Client: "late"})
		o.Connected(hook.Notice{Client: "late2", Previous: "late"})
		o.Connected(hook.Notice{Client: "early2", Previous: "early"})
		o.Disconnected(hook.Notice{Client: "other", User: "u1"})
		o.Returned("other", "u2") // who is not of that user
		time.Sleep(4 * time.Second)
		o.Disconnected(hook.Notice{Client: "early"}) // a dead connection is noticed late
		if lines, _ := app.told(); fmt.Sprint(lines) != "[connectedlate2 connectedearly2]" {
			t.Errorf("after four seconds %q", lines)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if lines, _ := app.told(); fmt.Sprint(lines) != "[connectedlate2 connectedearly2 disconnectedgone disconnectedother]" {
			t.Errorf("at the end %q", lines)
		}
		time.Sleep(2 * time.Minute)
		o.Disconnected(hook.Notice{Client: "early"}) // it is long forgotten
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if lines, _ := app.told(); len(lines) != 5 {
			t.Errorf("two minutes later %q", lines)
		}
	})
}

// A slow application heeds its context, as one behind HTTP does.
type slow struct{ *application }

func (s slow) Notice(ctx context.Context, all []hook.Notice) error {
	select {
	case <-time.After(50 * time.Millisecond):
		return s.application.Notice(ctx, all)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestOutboxEnds: when the node ends, what waits is told, the call that is under way too, and nothing twice.
func TestOutboxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := &application{dropped: map[string]int{}}
		o := hook.NewOutbox(slow{app}, app.drop, func(proto.ClientID, proto.UserID) bool { return true }, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- o.Run(ctx) }()
		for i := range 1000 {
			o.Add(room(i))
		}
		o.Disconnected(hook.Notice{Client: "c"})
		time.Sleep(120 * time.Millisecond) // a call is under way
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		lines, _ := app.told()
		if len(lines) != 1001 || app.never("failed") > 0 {
			t.Fatalf("%d are told, %d dropped", len(lines), app.never("failed"))
		}
		for i, line := range lines[:1000] {
			if line != fmt.Sprint(hook.Occupied, i) {
				t.Fatalf("notice %d is %q", i, line)
			}
		}
	})
}

// TestOutboxSettles: a node that ends waits for those who come back elsewhere, and no longer.
func TestOutboxSettles(t *testing.T) {
	open(t, func(t *testing.T, o *hook.Outbox, app *application, _ func()) {
		o.Disconnected(hook.Notice{Client: "c"})
		time.AfterFunc(time.Second, func() { o.Returned("c", "") })
		began := time.Now()
		if err := o.Settle(t.Context()); err != nil || time.Since(began) < time.Second || time.Since(began) > 2*time.Second {
			t.Errorf("it settles after %s, %v", time.Since(began), err)
		}
		o.Disconnected(hook.Notice{Client: "d"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := o.Settle(ctx); err == nil {
			t.Error("it does not wait for who has gone")
		}
	})
}

package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ns = broker.DefaultNamespace

// start runs a broker until the test ends, or stop is called.
func start(t testing.TB, c broker.Config) (b *broker.Broker, stop func()) {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if os.Getenv("BROKER_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	b, err := broker.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-b.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("Run: %v", err)
	case <-time.After(90 * time.Second):
		t.Fatal("the broker is not ready after 90 s")
	}
	return b, stop
}

// limited bounds what a test waits for.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func event(t testing.TB, id string, more ...string) *schemas.Event {
	t.Helper()
	extra := ""
	if len(more) > 0 {
		extra = "," + strings.Join(more, ",")
	}
	e, err := schemas.ParseEvent([]byte(fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"test"%s}`, id, extra)))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func publish(t testing.TB, b *broker.Broker, topic schemas.Topic, ids ...string) broker.Receipt {
	t.Helper()
	events := make([]*schemas.Event, len(ids))
	for i, id := range ids {
		events[i] = event(t, id)
	}
	r, err := b.Publish(limited(t), ns, topic, events)
	if err != nil {
		t.Fatalf("Publish(%s, %v): %v", topic, ids, err)
	}
	return r
}

func subscribe(t testing.TB, b *broker.Broker, o broker.StreamOptions) *broker.Stream {
	t.Helper()
	s, err := b.Subscribe(limited(t), ns, o)
	if err != nil {
		t.Fatalf("Subscribe(%+v): %v", o, err)
	}
	t.Cleanup(s.Close)
	return s
}

// take reads n deliveries and names each: an event by its id, a gap by its reason
// and count.
func take(t testing.TB, s *broker.Stream, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		deliveries, err := s.Next(limited(t), n-len(got))
		if err != nil {
			t.Fatalf("Next after %v: %v", got, err)
		}
		for _, d := range deliveries {
			got = append(got, name(t, d))
		}
	}
	return got
}

func name(t testing.TB, d broker.Delivery) string {
	t.Helper()
	if g := d.Gap; g != nil {
		if g.Missed == nil {
			return "gap " + g.Reason
		}
		return fmt.Sprintf("gap %s %d", g.Reason, *g.Missed)
	}
	var e struct{ ID, Relaytopic, Relaycursor string }
	if err := json.Unmarshal(d.Event, &e); err != nil {
		t.Fatalf("delivered %s: %v", d.Event, err)
	}
	if e.Relaytopic == "" || (e.Relaycursor != "") != d.Stored || d.Stored && e.Relaycursor != d.Cursor.String() {
		t.Errorf("delivered %s with Stored %t, cursor %s", d.Event, d.Stored, d.Cursor)
	}
	return e.ID
}

// none checks that nothing is delivered before mark, which it publishes.
func none(t testing.TB, b *broker.Broker, s *broker.Stream, topic schemas.Topic) {
	t.Helper()
	mark := fmt.Sprintf("mark-%d", time.Now().UnixNano())
	publish(t, b, topic, mark)
	if got := take(t, s, 1); got[0] != mark {
		t.Errorf("got %v, want nothing", got)
	}
}

func ids(prefix string, from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}

func sscan(gap string, missed *int) (int, error) { return fmt.Sscanf(gap, "gap slow %d", missed) }

// cursorOf is the cursor in a delivered event.
func cursorOf(t testing.TB, delivered []byte) schemas.Cursor {
	t.Helper()
	var e struct{ Relaycursor string }
	if err := json.Unmarshal(delivered, &e); err != nil {
		t.Fatal(err)
	}
	c, err := schemas.ParseCursor(e.Relaycursor)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

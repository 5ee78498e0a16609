package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// put publishes events with these ids.
func put(t *testing.T, c *subscriber.Client, topic string, ids ...string) {
	t.Helper()
	raw := make([][]byte, len(ids))
	for i, id := range ids {
		raw[i] = fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/s","type":"t"}`, id)
	}
	if _, err := c.PublishJSON(t.Context(), topic, raw...); err != nil {
		t.Fatal(err)
	}
}

func openDurable(t *testing.T, c *subscriber.Client, name string, options subscriber.OpenOptions) *subscriber.Subscription {
	t.Helper()
	s, err := c.OpenSubscription(t.Context(), name, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// next is the next delivery, which must be of the event and the attempt.
func next(t *testing.T, s *subscriber.Subscription, id string, attempt int) subscriber.SubscriptionDelivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if idOf(t, d.Delivery) != id || d.Attempt != attempt {
		t.Fatalf("Next() = %s, attempt %d; want %s, attempt %d", d.Raw, d.Attempt, id, attempt)
	}
	return d
}

func idOf(t *testing.T, d subscriber.Delivery) string {
	t.Helper()
	e, err := schemas.ParseEvent(d.Raw)
	if err != nil {
		t.Fatalf("%s: %v", d.Raw, err)
	}
	return e.ID()
}

// settledState waits until the subscription has so many events handed out and not
// handed out.
func settledState(t *testing.T, c *subscriber.Client, name string, unsettled int, pending uint64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s, err := c.Subscription(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if s.Unsettled == unsettled && s.Pending == pending {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the subscription has %d unsettled, %d pending; want %d, %d", s.Unsettled, s.Pending, unsettled, pending)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubscriptionSettles(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s := openDurable(t, c, "billing", subscriber.OpenOptions{DurableOptions: subscriber.DurableOptions{
		Topic: "orders/*", DeadLetter: "dead/billing", AckWait: time.Minute,
	}})
	put(t, c, "orders/eu", "acked", "released", "rejected", "extended")
	acked := next(t, s, "acked", 1)
	must(t, acked.Ack(t.Context()))
	if err := acked.Ack(t.Context()); !errors.Is(err, subscriber.ErrNotHeld) {
		t.Errorf("a second Ack = %v, want ErrNotHeld", err)
	}
	released := next(t, s, "released", 1)
	rejected := next(t, s, "rejected", 1)
	extended := next(t, s, "extended", 1)
	must(t, extended.Extend(t.Context()))
	must(t, rejected.Reject(t.Context(), "not ours"))
	must(t, released.Release(t.Context(), 0))
	again := next(t, s, "released", 2)
	must(t, again.Ack(t.Context()))
	must(t, extended.Ack(t.Context()))
	settledState(t, c, "billing", 0, 0)

	var dead []string
	for d, err := range c.DeadLetters(t.Context(), "billing") {
		must(t, err)
		dead = append(dead, string(d.Raw))
	}
	if len(dead) != 1 || !strings.Contains(dead[0], `"id":"rejected"`) || !strings.Contains(dead[0], "not ours") {
		t.Fatalf("the dead letters are %q, want the rejected event with its reason", dead)
	}
	must(t, c.Requeue(t.Context(), "billing"))
	back := next(t, s, "rejected", 1)
	if back.Topic != "orders/eu" || strings.Contains(string(back.Raw), schemas.AttributeDeadPrefix) {
		t.Errorf("the requeued event is %s, want it as it was", back.Raw)
	}
	must(t, back.Ack(t.Context()))
}

func TestSubscriptionCreditIsTheMostUnsettled(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s := openDurable(t, c, "few", subscriber.OpenOptions{DurableOptions: subscriber.DurableOptions{Topic: "a/**"}, Credit: 3})
	put(t, c, "a/b", "1", "2", "3", "4", "5")
	first := next(t, s, "1", 1)
	next(t, s, "2", 1)
	next(t, s, "3", 1)
	settledState(t, c, "few", 3, 2)
	must(t, first.Ack(t.Context()))
	next(t, s, "4", 1)
	settledState(t, c, "few", 3, 1)
}

// A subscription goes on over a gateway's end: what was acked does not come again,
// what was held comes again with the next attempt, and an ack that is late counts.
func TestSubscriptionOutlivesItsGateway(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	var mu sync.Mutex
	var phases []string
	s := openDurable(t, c, "steady", subscriber.OpenOptions{
		DurableOptions: subscriber.DurableOptions{Topic: "a/**", AckWait: 8 * time.Second},
		OnState: func(s subscriber.State) {
			mu.Lock()
			defer mu.Unlock()
			phases = append(phases, s.Phase.String())
		},
	})
	put(t, c, "a/b", "1", "2", "3", "4")
	first := next(t, s, "1", 1)
	must(t, first.Ack(t.Context()))
	late := next(t, s, "2", 1)
	w.stop()
	var acking sync.WaitGroup
	acking.Go(func() { // waits for the next connection
		if err := late.Ack(t.Context()); err != nil {
			t.Errorf("an ack over a restart = %v", err)
		}
	})
	w.start()
	acking.Wait()
	got := map[string]int{}
	put(t, c, "a/b", "5")
	for len(got) < 3 {
		d, err := s.Next(t.Context())
		must(t, err)
		id := idOf(t, d.Delivery)
		if id == "1" || got[id] != 0 {
			t.Errorf("%s came again, attempt %d", id, d.Attempt)
		}
		if err := d.Ack(t.Context()); err != nil && !errors.Is(err, subscriber.ErrNotHeld) {
			t.Fatal(err)
		}
		if id != "2" { // it may have been on its way again before its late ack came
			got[id] = d.Attempt
		}
	}
	if got["5"] != 1 {
		t.Errorf("after the restart came %v, want 3, 4 and a first 5", got)
	}
	settledState(t, c, "steady", 0, 0)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Contains(phases, "reconnecting") || phases[len(phases)-1] != "connected" {
		t.Errorf("the states were %v", phases)
	}
}

func TestSubscriptionRefusals(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if _, _, err := c.PutSubscription(t.Context(), "there", subscriber.DurableOptions{Topic: "a/*"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		options subscriber.DurableOptions
		want    error
	}{
		{"absent", subscriber.DurableOptions{}, schemas.ErrNotFound},
		{"there", subscriber.DurableOptions{Topic: "b/*"}, schemas.ErrConflict},
		{"a/b", subscriber.DurableOptions{Topic: "a/*"}, schemas.ErrName},
		{"new", subscriber.DurableOptions{Topic: "a/**/b"}, schemas.ErrName},
		{"new", subscriber.DurableOptions{Topic: "a/*", Filter: []byte("{")}, schemas.ErrFilter},
		{"new", subscriber.DurableOptions{Topic: "a/*", AckWait: time.Nanosecond}, schemas.ErrParameter},
	} {
		if _, err := c.OpenSubscription(t.Context(), tt.name, subscriber.OpenOptions{DurableOptions: tt.options}); !errors.Is(err, tt.want) {
			t.Errorf("OpenSubscription(%s, %+v) = %v, want %v", tt.name, tt.options, err, tt.want)
		}
	}
	w.stop()
	if _, err := c.OpenSubscription(t.Context(), "there", subscriber.OpenOptions{FailFast: true}); err == nil {
		t.Error("OpenSubscription with FailFast and no gateway = nil")
	}
}

// A subscription that is deleted ends for who has it open, with the gateway's word.
func TestSubscriptionEndsWhenItIsDeleted(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s := openDurable(t, c, "short", subscriber.OpenOptions{DurableOptions: subscriber.DurableOptions{Topic: "a/*"}})
	must(t, c.DeleteSubscription(t.Context(), "short"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.Next(ctx); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Next on a deleted subscription = %v, want not-found", err)
	}
}

func TestReceive(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if _, created, err := c.PutSubscription(t.Context(), "polled", subscriber.DurableOptions{Topic: "a/*"}); err != nil || !created {
		t.Fatalf("PutSubscription = %v, %v", created, err)
	}
	if got, err := c.Receive(t.Context(), "polled", 10, 0); err != nil || len(got) != 0 {
		t.Fatalf("Receive of nothing = %v, %v", got, err)
	}
	put(t, c, "a/b", "1", "2")
	got, err := c.Receive(t.Context(), "polled", 1, time.Minute)
	if err != nil || len(got) != 1 || idOf(t, got[0].Delivery) != "1" {
		t.Fatalf("Receive(1) = %v, %v", got, err)
	}
	must(t, got[0].Ack(t.Context()))
	if err := got[0].Release(t.Context(), time.Second); !errors.Is(err, subscriber.ErrNotHeld) {
		t.Errorf("Release after Ack = %v, want ErrNotHeld", err)
	}
	must(t, c.ReplaySubscription(t.Context(), "polled", "earliest", ""))
	got, err = c.Receive(t.Context(), "polled", 100, 0)
	if err != nil || len(got) != 2 {
		t.Fatalf("Receive after a replay = %v, %v", got, err)
	}
	list, err := c.Subscriptions(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "polled" || list[0].Unsettled != 2 {
		t.Errorf("Subscriptions() = %+v, %v", list, err)
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	var want []string
	for i := range 450 { // more than two pages
		want = append(want, fmt.Sprint("event-", i))
	}
	put(t, c, "h/a", want...)
	var got []string
	for d, err := range c.History(t.Context(), "h/*", subscriber.HistoryOptions{}) {
		must(t, err)
		got = append(got, idOf(t, d))
	}
	if !slices.Equal(got, want) {
		t.Errorf("History brought %d events, want %d in order", len(got), len(want))
	}
	for _, err := range c.History(t.Context(), "h/**/a", subscriber.HistoryOptions{}) {
		if !errors.Is(err, schemas.ErrName) {
			t.Errorf("History of a bad filter: %v", err)
		}
	}
}

// Handlers work side by side, no more than they are allowed to, longer than the ack
// wait if need be, and what they return decides.
func TestHandle(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s := openDurable(t, c, "work", subscriber.OpenOptions{DurableOptions: subscriber.DurableOptions{
		Topic: "a/*", DeadLetter: "dead", AckWait: time.Second, MaxDeliver: 5,
	}})
	var ids []string
	for i := range 20 {
		ids = append(ids, fmt.Sprint("event-", i))
	}
	put(t, c, "a/b", ids...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var now, most atomic.Int32
	var mu sync.Mutex
	done := map[string][]int{}
	err := s.Handle(ctx, 4, func(ctx context.Context, d *subscriber.SubscriptionDelivery) error {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		id := idOf(t, d.Delivery)
		mu.Lock()
		done[id] = append(done[id], d.Attempt)
		all := len(done) == len(ids) && len(done["event-1"]) == 2
		mu.Unlock()
		if all {
			cancel()
		}
		switch {
		case id == "event-0" && d.Attempt == 1:
			select { // three times the ack wait, and nobody else gets it
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
			}
		case id == "event-1" && d.Attempt == 1:
			return &subscriber.ReleaseError{Delay: 10 * time.Millisecond}
		case id == "event-2":
			return &subscriber.RejectError{Reason: "not ours"}
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Handle = %v", err)
	}
	if most.Load() > 4 || most.Load() < 2 {
		t.Errorf("%d handlers worked at once, want 2 to 4", most.Load())
	}
	for id, attempts := range done {
		want := []int{1}
		if id == "event-1" {
			want = []int{1, 2}
		}
		if !slices.Equal(attempts, want) {
			t.Errorf("%s had the attempts %v, want %v", id, attempts, want)
		}
	}
	settledState(t, c, "work", 0, 0)
	for d, err := range c.DeadLetters(t.Context(), "work") {
		must(t, err)
		if id := idOf(t, d); id != "event-2" {
			t.Errorf("a dead letter is %s", id)
		}
	}
}

// A session's token is renewed while it lasts, on the connection that it opened.
func TestSubscriptionRenewsItsToken(t *testing.T) {
	const key = "a key of the test, long enough"
	w := newGuardedWorld(t, access.Namespace{Hosts: []string{"127.0.0.1"}, Keys: []access.Key{{Name: "k", Primary: key, Rights: []string{"send", "listen", "manage"}}}})
	var asked atomic.Int32
	address := "http://" + w.proxy.listener.Addr().String()
	c, err := subscriber.New(subscriber.Config{Gateway: address, Token: func(context.Context) (string, error) {
		asked.Add(1)
		return schemas.SignSAS(address+"/", "k", key, time.Now().Add(4*time.Second)), nil
	}})
	must(t, err)
	defer c.Close()
	var lost atomic.Bool
	s := openDurable(t, c, "long", subscriber.OpenOptions{
		DurableOptions: subscriber.DurableOptions{Topic: "a/*"},
		OnState: func(s subscriber.State) {
			if s.Phase == subscriber.Reconnecting {
				lost.Store(true)
			}
		},
	})
	before := asked.Load()
	for deadline := time.Now().Add(patience); asked.Load() < before+3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the token was not renewed")
		}
	}
	put(t, c, "a/b", "1")
	d := next(t, s, "1", 1)
	must(t, d.Ack(t.Context()))
	if lost.Load() {
		t.Error("the session was lost; want it renewed")
	}
}

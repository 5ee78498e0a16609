package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

func ptr[T any](v T) *T { return &v }

func put(t testing.TB, b *broker.Broker, name string, o broker.SubscriptionOptions, start broker.Start) {
	t.Helper()
	created, err := b.PutSubscription(limited(t), ns, name, o, start)
	if err != nil || !created {
		t.Fatalf("PutSubscription(%s, %+v) = %t, %v, want it created", name, o, created, err)
	}
}

func open(t testing.TB, b *broker.Broker, name string, o broker.SubscriberOptions) *broker.Subscriber {
	t.Helper()
	s, err := b.OpenSubscription(limited(t), ns, name, o)
	if err != nil {
		t.Fatalf("OpenSubscription(%s, %+v): %v", name, o, err)
	}
	t.Cleanup(s.Close)
	return s
}

// got is a delivery in short: the event's id, and the attempt unless it is the first.
func got(t testing.TB, d broker.SubscriptionDelivery) string {
	t.Helper()
	e := fields(t, d.Event)
	if e["relaytopic"] == nil || e["relaycursor"] == nil || d.Tag == "" {
		t.Errorf("delivered %s with tag %q", d.Event, d.Tag)
	}
	if d.Attempt == 1 {
		return e["id"].(string)
	}
	return fmt.Sprintf("%s/%d", e["id"], d.Attempt)
}

func fields(t testing.TB, event []byte) map[string]any {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatalf("%s: %v", event, err)
	}
	if _, err := schemas.ParseEvent(event); err != nil {
		t.Errorf("delivered %s, which is no event: %v", event, err)
	}
	return e
}

// handed reads n deliveries and returns them with their short forms.
func handed(t testing.TB, s *broker.Subscriber, n int) ([]broker.SubscriptionDelivery, []string) {
	t.Helper()
	var all []broker.SubscriptionDelivery
	var short []string
	for len(all) < n {
		some, err := s.Next(limited(t), n-len(all))
		if err != nil {
			t.Fatalf("Next after %v: %v", short, err)
		}
		for _, d := range some {
			all, short = append(all, d), append(short, got(t, d))
		}
	}
	return all, short
}

func tags(deliveries ...broker.SubscriptionDelivery) []string {
	var list []string
	for _, d := range deliveries {
		list = append(list, d.Tag)
	}
	return list
}

// settle settles deliveries, all of which must be known.
func settle(t testing.TB, b *broker.Broker, name string, verb broker.Verb, deliveries ...broker.SubscriptionDelivery) {
	t.Helper()
	settled, err := b.Settle(limited(t), ns, name, broker.Settlement{Verb: verb, Tags: tags(deliveries...)})
	if err != nil || len(settled.Unknown) > 0 {
		t.Fatalf("Settle(%s, %d) of %d = %+v, %v, want all accepted", name, verb, len(deliveries), settled, err)
	}
}

// unknown checks that none of the tags is accepted.
func unknown(t testing.TB, b *broker.Broker, name string, settlement broker.Settlement) {
	t.Helper()
	settled, err := b.Settle(limited(t), ns, name, settlement)
	if err != nil || len(settled.Accepted) > 0 || !slices.Equal(settled.Unknown, settlement.Tags) {
		t.Errorf("Settle(%s, %+v) = %+v, %v, want all unknown", name, settlement, settled, err)
	}
}

// quiet checks that nothing is handed out for a while.
func quiet(t testing.TB, s *broker.Subscriber, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(limited(t), d)
	defer cancel()
	if more, err := s.Next(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
		var short []string
		for _, d := range more {
			short = append(short, got(t, d))
		}
		t.Errorf("Next = %v, %v, want nothing", short, err)
	}
}

func receive(t testing.TB, b *broker.Broker, name string, max int, wait time.Duration) ([]broker.SubscriptionDelivery, []string) {
	t.Helper()
	all, err := b.Receive(limited(t), ns, name, broker.ReceiveOptions{Max: max, Wait: wait})
	if err != nil {
		t.Fatalf("Receive(%s): %v", name, err)
	}
	var short []string
	for _, d := range all {
		short = append(short, got(t, d))
	}
	return all, short
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// A subscription is created by its first subscriber, hands out what is published
// afterwards in order, and each event once if it is acked.
func TestSubscriptionHandsOutInOrder(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "orders/eu", "before")
	s := open(t, b, "billing", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "orders/**"}})
	want := ids("e", 1, 100)
	publish(t, b, "orders/eu", want...)
	publish(t, b, "other", "not")
	var short []string
	for len(short) < 100 {
		some, err := s.Next(limited(t), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range some {
			short = append(short, got(t, d))
		}
		settle(t, b, "billing", broker.Ack, some...)
	}
	equal(t, "handed out", short, want)
	state, err := b.Subscription(limited(t), ns, "billing")
	if err != nil || state.Pending+uint64(state.Unsettled+state.Delayed+state.Redelivered) != 0 || state.Subscribers != 1 || !state.OldestUnsettled.IsZero() {
		t.Errorf("Subscription = %+v, %v, want all settled and one subscriber", state, err)
	}
}

// With credit 10 exactly 10 deliveries come, the next only after a settlement.
func TestCreditIsExact(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 10})
	publish(t, b, "a", ids("e", 1, 50)...)
	first, short := handed(t, s, 10)
	equal(t, "on credit", short, ids("e", 1, 10))
	quiet(t, s, 200*time.Millisecond)
	settle(t, b, "s", broker.Ack, first[3])
	_, short = handed(t, s, 1)
	equal(t, "after one ack", short, []string{"e11"})
	quiet(t, s, 200*time.Millisecond)
	if unknown, err := s.AckUpTo(limited(t), first[9].Tag); err != nil || unknown {
		t.Errorf("AckUpTo(the tenth) = %t, %v", unknown, err)
	}
	_, short = handed(t, s, 9)
	equal(t, "after an ack of the first ten", short, ids("e", 12, 20))
	quiet(t, s, 200*time.Millisecond)
	state, err := b.Subscription(limited(t), ns, "s")
	if err != nil || state.Unsettled != 10 || state.Pending != 30 {
		t.Errorf("Subscription = %+v, %v, want 10 unsettled and 30 pending", state, err)
	}
}

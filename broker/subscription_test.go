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

// Subscribers of one subscription share its events; another subscription gets them all.
func TestSubscribersCompete(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "all", broker.SubscriptionOptions{Topics: "**"}, broker.Start{})
	var sharing []*broker.Subscriber
	for range 4 {
		sharing = append(sharing, open(t, b, "shared", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a/*"}, Credit: 5}))
	}
	want := ids("e", 1, 200)
	results := make(chan string, 400)
	ctx, cancel := context.WithCancel(limited(t))
	var done []chan struct{}
	for _, s := range sharing {
		end := make(chan struct{})
		done = append(done, end)
		go func() {
			defer close(end)
			for {
				some, err := s.Next(ctx, 10)
				if err != nil {
					return
				}
				for _, d := range some {
					results <- got(t, d)
				}
				settle(t, b, "shared", broker.Ack, some...)
			}
		}()
	}
	publish(t, b, "a/x", want...)
	publish(t, b, "b", "other")
	var short []string
	for range want {
		select {
		case id := <-results:
			short = append(short, id)
		case <-limited(t).Done():
			t.Fatalf("only %d of %d came", len(short), len(want))
		}
	}
	cancel()
	for _, end := range done {
		<-end
	}
	close(results)
	for id := range results {
		t.Errorf("%s came on top", id)
	}
	slices.SortFunc(short, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
	equal(t, "the four together", short, want)
	_, short = handed(t, open(t, b, "all", broker.SubscriberOptions{Credit: 1000}), 201)
	equal(t, "the other subscription", short, append(want, "other"))
}

// What a filter doesn't let through costs no attempt and no credit, and nobody sees it.
func TestSubscriptionFilters(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{
		Subscription: broker.SubscriptionOptions{
			Topics: "a", Filter: `{"prefix":{"id":"yes"}}`, SQL: "id LIKE '%9'",
			AckWait: 100 * time.Millisecond, MaxDeliver: 1, DeadLetter: ptr(schemas.Topic("dead")),
		}, Credit: 1,
	})
	dead := subscribe(t, b, broker.StreamOptions{Topics: "dead"})
	publish(t, b, "a", ids("no", 1, 30)...)
	publish(t, b, "a", ids("yes", 1, 30)...)
	for _, want := range []string{"yes9", "yes19", "yes29"} {
		one, short := handed(t, s, 1)
		equal(t, "filtered", short, []string{want})
		settle(t, b, "s", broker.Ack, one...)
	}
	// While nobody looks at them they lapse; none of them is a dead letter for that.
	publish(t, b, "a", ids("no", 31, 60)...)
	await(t, "end of all that is pending", func() bool {
		quiet(t, s, 150*time.Millisecond)
		state, err := b.Subscription(limited(t), ns, "s")
		return err == nil && state.Pending == 0 && state.Unsettled == 0
	})
	none(t, b, dead, "dead")
	if counts := b.SubscriptionCounts(ns); counts.Skipped != 87 || counts.Delivered != 3 || counts.Acked != 3 || counts.Redelivered != 0 {
		t.Errorf("SubscriptionCounts = %+v", counts)
	}
}

// Only what is stored is handed out, and what has expired is not.
func TestSubscriptionLeavesOut(t *testing.T) {
	b, _ := start(t, broker.Config{
		Namespaces: map[string]broker.NamespaceConfig{ns: {Topics: []broker.TopicRule{{Filter: "live", Unstored: true}}}},
	})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "*"}})
	publish(t, b, "live", "l1")
	soon := time.Now().Add(50 * time.Millisecond)
	if _, err := b.Publish(limited(t), ns, "a", []*schemas.Event{
		event(t, "e1"), event(t, "e2", `"expirytime":"`+soon.UTC().Format(time.RFC3339Nano)+`"`), event(t, "e3"),
	}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(soon))
	all, short := handed(t, s, 2)
	equal(t, "handed out", short, []string{"e1", "e3"})
	settle(t, b, "s", broker.Ack, all...)
	quiet(t, s, 50*time.Millisecond)
}

func TestSubscriptionOptionsAreChecked(t *testing.T) {
	b, _ := start(t, broker.Config{
		Namespaces: map[string]broker.NamespaceConfig{ns: {Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}}}},
		Limits:     broker.Limits{MaxSubscriptions: 3},
	})
	topic := func(s string) *schemas.Topic { return ptr(schemas.Topic(s)) }
	refused := func(name string, o broker.SubscriptionOptions, start broker.Start, want error) {
		t.Helper()
		if created, err := b.PutSubscription(limited(t), ns, name, o, start); !errors.Is(err, want) || created {
			t.Errorf("PutSubscription(%s, %+v) = %t, %v, want %v", name, o, created, err, want)
		}
		s, err := b.OpenSubscription(limited(t), ns, name, broker.SubscriberOptions{Subscription: o, Start: start})
		if !errors.Is(err, want) {
			t.Errorf("OpenSubscription(%s, %+v): %v, want %v", name, o, err, want)
		}
		if err == nil {
			s.Close()
		}
	}
	for _, bad := range []struct {
		name string
		o    broker.SubscriptionOptions
		want error
	}{
		{"a/b", broker.SubscriptionOptions{Topics: "a"}, schemas.ErrName},
		{"a*", broker.SubscriptionOptions{Topics: "a"}, schemas.ErrName},
		{"a>", broker.SubscriptionOptions{Topics: "a"}, schemas.ErrName},
		{"..", broker.SubscriptionOptions{Topics: "a"}, schemas.ErrName},
		{"", broker.SubscriptionOptions{Topics: "a"}, schemas.ErrName},
		{"s", broker.SubscriptionOptions{Topics: "a//b"}, schemas.ErrName},
		{"s", broker.SubscriptionOptions{Topics: "a", Filter: "{"}, schemas.ErrFilter},
		{"s", broker.SubscriptionOptions{Topics: "a", SQL: "1 +"}, schemas.ErrFilter},
		{"s", broker.SubscriptionOptions{Topics: "a", AckWait: time.Millisecond}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", AckWait: 25 * time.Hour}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", AckWait: -time.Second}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", Expires: time.Millisecond}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", MaxDeliver: -1}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", MaxDeliver: 1001}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", DeadLetter: topic("a")}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a/**", DeadLetter: topic("a/b/c")}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", DeadLetter: topic("live/dead")}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", DeadLetter: topic("outrelay/dead")}, schemas.ErrParameter},
		{"s", broker.SubscriptionOptions{Topics: "a", DeadLetter: topic("dead/*")}, schemas.ErrName},
	} {
		refused(bad.name, bad.o, broker.Start{}, bad.want)
	}
	refused("s", broker.SubscriptionOptions{Topics: "a"}, after(schemas.Cursor{Log: 1, Sequence: 5, Accepted: 5}), schemas.ErrCursor)
	if list, err := b.Subscriptions(limited(t), ns); err != nil || len(list) != 0 {
		t.Errorf("after refusals Subscriptions = %+v, %v, want none", list, err)
	}
	// Without a topic nothing is created.
	if _, err := b.OpenSubscription(limited(t), ns, "s", broker.SubscriberOptions{}); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("OpenSubscription of none, without a topic: %v", err)
	}
	if _, err := b.PutSubscription(limited(t), ns, "s", broker.SubscriptionOptions{}, broker.Start{}); !errors.Is(err, schemas.ErrParameter) {
		t.Errorf("PutSubscription of none, without a topic: %v", err)
	}

	// Names are apart, whatever NATS makes of their characters.
	put(t, b, "a.b", broker.SubscriptionOptions{Topics: "a", DeadLetter: topic("dead")}, broker.Start{})
	put(t, b, "a~B", broker.SubscriptionOptions{Topics: "a"}, broker.Start{})
	put(t, b, "a~b", broker.SubscriptionOptions{Topics: "a", Filter: `[{"exact":{"id":"x"}}]`}, broker.Start{})
	refused("a-b", broker.SubscriptionOptions{Topics: "a"}, broker.Start{}, schemas.ErrTooLarge)

	// What can't be changed is a conflict, also for who opens it.
	refused("a.b", broker.SubscriptionOptions{Topics: "a/b"}, broker.Start{}, schemas.ErrConflict)
	refused("a.b", broker.SubscriptionOptions{Exclusive: ptr(true)}, broker.Start{}, schemas.ErrConflict)
	refused("a.b", broker.SubscriptionOptions{Filter: `{"exact":{"id":"x"}}`}, broker.Start{}, schemas.ErrConflict)
	refused("a~b", broker.SubscriptionOptions{Filter: `{"exact":{"id":"y"}}`}, broker.Start{}, schemas.ErrConflict)
	if _, err := b.PutSubscription(limited(t), ns, "a.b", broker.SubscriptionOptions{DeadLetter: topic("a")}, broker.Start{}); !errors.Is(err, schemas.ErrParameter) {
		t.Errorf("PutSubscription with its own topic for dead letters: %v", err)
	}
	if created, err := b.PutSubscription(limited(t), ns, "a.b", broker.SubscriptionOptions{Topics: "a"}, after(schemas.Cursor{Log: 1, Sequence: 5, Accepted: 5})); !errors.Is(err, schemas.ErrCursor) || created {
		t.Errorf("PutSubscription of one that is there, with another log's cursor: %t, %v", created, err)
	}
	for _, o := range []broker.SubscriptionOptions{
		{AckWait: time.Minute}, {MaxDeliver: 5}, {Expires: time.Hour}, {DeadLetter: topic("other")}, {DeadLetter: topic("")},
	} {
		if _, err := b.OpenSubscription(limited(t), ns, "a.b", broker.SubscriberOptions{Subscription: o}); !errors.Is(err, schemas.ErrConflict) {
			t.Errorf("OpenSubscription with %+v: %v, want a conflict", o, err)
		}
	}
	// What is the same is none.
	open(t, b, "a~b", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{
		Topics: "a", Filter: `{"exact": {"id": "x"}}`, AckWait: 30 * time.Second, MaxDeliver: 10, Expires: 720 * time.Hour,
		Exclusive: ptr(false), DeadLetter: topic(""),
	}})

	// The rest is changed, and what is not said stays.
	change := broker.SubscriptionOptions{Topics: "a", AckWait: 5 * time.Second, Expires: time.Hour}
	if created, err := b.PutSubscription(limited(t), ns, "a.b", change, broker.Start{}); err != nil || created {
		t.Errorf("PutSubscription of a change = %t, %v", created, err)
	}
	o, err := b.SubscriptionOptions(limited(t), ns, "a.b")
	if err != nil || o.AckWait != 5*time.Second || o.Expires != time.Hour || o.MaxDeliver != 10 || *o.DeadLetter != "dead" || *o.Exclusive || o.Topics != "a" {
		t.Errorf("changed SubscriptionOptions = %+v, %v", o, err)
	}
	if _, err := b.PutSubscription(limited(t), ns, "a.b", broker.SubscriptionOptions{DeadLetter: topic("")}, broker.Start{}); err != nil {
		t.Error(err)
	}
	if state, err := b.Subscription(limited(t), ns, "a.b"); err != nil || *state.Options.DeadLetter != "" {
		t.Errorf("without dead letters Subscription = %+v, %v", state, err)
	}
	list, err := b.Subscriptions(limited(t), ns)
	if err != nil || len(list) != 3 || list[0].Name != "a.b" || list[1].Name != "a~B" || list[2].Name != "a~b" || list[2].Subscribers != 1 {
		t.Errorf("Subscriptions = %+v, %v", list, err)
	}
	// A place is free again once one is deleted.
	if err := b.DeleteSubscription(limited(t), ns, "a~B"); err != nil {
		t.Error(err)
	}
	put(t, b, "a-b", broker.SubscriptionOptions{Topics: "a"}, broker.Start{})
	for _, credit := range []int{-1, 10_001} {
		if _, err := b.OpenSubscription(limited(t), ns, "a-b", broker.SubscriberOptions{Credit: credit}); !errors.Is(err, schemas.ErrParameter) {
			t.Errorf("OpenSubscription with credit %d: %v", credit, err)
		}
	}
}

// Allow sees what the subscription is or would be, and has the last word.
func TestAllowIsAsked(t *testing.T) {
	b, _ := start(t, broker.Config{})
	no := schemas.Problemf("forbidden", "no")
	var seen []schemas.TopicFilter
	allow := func(o broker.SubscriptionOptions) error {
		seen = append(seen, o.Topics)
		if o.AckWait == 0 || o.Exclusive == nil || o.DeadLetter == nil {
			t.Errorf("Allow got %+v, want every field set", o)
		}
		return no
	}
	if _, err := b.OpenSubscription(limited(t), ns, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Allow: allow}); err != no {
		t.Errorf("OpenSubscription that creates: %v", err)
	}
	if _, err := b.Subscription(limited(t), ns, "s"); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("what was not allowed was created: %v", err)
	}
	put(t, b, "s", broker.SubscriptionOptions{Topics: "b"}, broker.Start{})
	if _, err := b.OpenSubscription(limited(t), ns, "s", broker.SubscriberOptions{Allow: allow}); err != no {
		t.Errorf("OpenSubscription: %v", err)
	}
	if _, err := b.Receive(limited(t), ns, "s", broker.ReceiveOptions{Max: 1, Allow: allow}); err != no {
		t.Errorf("Receive: %v", err)
	}
	if want := []schemas.TopicFilter{"a", "b", "b"}; !slices.Equal(seen, want) {
		t.Errorf("Allow saw %v, want %v", seen, want)
	}
}

// A subscription begins where it is told to.
func TestSubscriptionStarts(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "x", "x1")
	publish(t, b, "y", "y1")
	second := publish(t, b, "x", "x2")
	time.Sleep(2 * time.Millisecond) // so that a time lies between
	now := time.Now()
	publish(t, b, "y", "y2")
	publish(t, b, "x", "x3")
	publish(t, b, "z", "z1")
	for name, tt := range map[string]struct {
		start broker.Start
		want  []string
	}{
		"latest":   {broker.Start{}, nil},
		"earliest": {broker.Start{From: broker.FromEarliest}, []string{"x1", "y1", "x2", "y2", "x3", "z1"}},
		"after":    {after(second.Cursor), []string{"y2", "x3", "z1"}},
		"time":     {broker.Start{From: broker.FromTime, Time: now}, []string{"y2", "x3", "z1"}},
		"last":     {broker.Start{From: broker.FromLast}, []string{"y2", "x3", "z1"}},
		"lastless": {broker.Start{From: broker.FromTime, Time: now.Add(time.Hour)}, nil},
	} {
		put(t, b, name, broker.SubscriptionOptions{Topics: "**"}, tt.start)
		defer func() {
			if name == "lastless" { // from a time to come: nothing before it
				return
			}
			_, short := handed(t, open(t, b, name, broker.SubscriberOptions{}), len(tt.want)+2)
			equal(t, name, short, append(tt.want, "x4", "y3"))
		}()
	}
	publish(t, b, "x", "x4")
	publish(t, b, "y", "y3")
}

func TestSubscriptionIsDeleted(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}})
	publish(t, b, "a", "e1", "e2")
	first, _ := handed(t, s, 2)
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Next(limited(t), 1)
		waiting <- err
	}()
	if err := b.DeleteSubscription(limited(t), ns, "s"); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Next of a deleted subscription: %v", err)
	}
	if err := b.DeleteSubscription(limited(t), ns, "s"); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("DeleteSubscription twice: %v", err)
	}
	if _, err := b.Settle(limited(t), ns, "s", broker.Settlement{Tags: tags(first...)}); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Settle on a deleted subscription: %v", err)
	}
	if _, err := b.Receive(limited(t), ns, "s", broker.ReceiveOptions{Max: 1}); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Receive on a deleted subscription: %v", err)
	}
	// One of the same name is another: it has not the same events, nor tags.
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a"}, broker.Start{From: broker.FromEarliest})
	unknown(t, b, "s", broker.Settlement{Tags: tags(first...)})
	again, short := handed(t, open(t, b, "s", broker.SubscriberOptions{}), 2)
	equal(t, "the new one", short, []string{"e1", "e2"})
	unknown(t, b, "s", broker.Settlement{Tags: tags(first...)})
	settle(t, b, "s", broker.Ack, again...)
}

// It is deleted when nobody has used it for so long; to have it open is use.
func TestSubscriptionExpires(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "unused", broker.SubscriptionOptions{Topics: "a", Expires: time.Second}, broker.Start{})
	s := open(t, b, "open", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", Expires: time.Second}})
	full := open(t, b, "full", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", Expires: time.Second}, Credit: 1})
	publish(t, b, "a", "e1", "e2")
	one, _ := handed(t, full, 1)
	both, _ := handed(t, s, 2)
	settle(t, b, "open", broker.Ack, both...)
	idle := make(chan error, 1)
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	go func() {
		_, err := s.Next(ctx, 1)
		idle <- err
	}()
	await(t, "end of the unused subscription", func() bool {
		_, err := b.Subscription(limited(t), ns, "unused")
		return errors.Is(err, schemas.ErrNotFound)
	})
	time.Sleep(2 * time.Second) // as long again: the open ones must be there still
	cancel()
	if err := <-idle; !errors.Is(err, context.Canceled) {
		t.Errorf("Next of an idle subscriber: %v", err)
	}
	settle(t, b, "full", broker.Ack, one...)
	if _, short := handed(t, full, 1); short[0] != "e2" {
		t.Errorf("got %v", short)
	}
	s.Close()
	await(t, "end of the one that was closed", func() bool {
		_, err := b.Subscription(limited(t), ns, "open")
		return errors.Is(err, schemas.ErrNotFound)
	})
}

// A subscription that was open without anything to hand out is unused from its end on,
// not from when it was last asked for something.
func TestSubscriptionExpiresAfterItsUse(t *testing.T) {
	b, _ := start(t, broker.Config{})
	const expires = 2 * time.Second
	s := open(t, b, "idle", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", Expires: expires}})
	ctx, cancel := context.WithTimeout(limited(t), 2*expires-expires/5) // JetStream looks every expires
	defer cancel()
	if _, err := s.Next(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next = %v", err)
	}
	closed := time.Now()
	s.Close()
	for time.Since(closed) < expires/2 {
		if _, err := b.Subscription(limited(t), ns, "idle"); err != nil {
			t.Fatalf("%v after its end, of %v: %v", time.Since(closed), expires, err)
		}
		time.Sleep(50 * time.Millisecond) // the time that passes is what is tested
	}
	await(t, "end of the subscription", func() bool {
		_, err := b.Subscription(limited(t), ns, "idle")
		return errors.Is(err, schemas.ErrNotFound)
	})
}

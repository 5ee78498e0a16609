package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// A replay moves the subscription, also to where it never was, under its open
// subscribers. What was handed out before is forgotten.
func TestReplay(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "a", "before")
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", DeadLetter: ptr(deadTopic), Expires: time.Hour}, Credit: 3})
	second := publish(t, b, "a", "e1", "e2")
	publish(t, b, "a", "e3", "e4", "e5")
	old, _ := handed(t, s, 3)
	replay := func(start broker.Start) {
		t.Helper()
		if err := b.ReplaySubscription(limited(t), ns, "s", start); err != nil {
			t.Fatalf("ReplaySubscription(%+v): %v", start, err)
		}
	}
	for range 3 {
		replay(broker.Start{From: broker.FromEarliest})
		all, short := handed(t, s, 3)
		equal(t, "from the earliest", short, []string{"before", "e1", "e2"})
		for verb := range broker.Extend + 1 {
			unknown(t, b, "s", broker.Settlement{Verb: verb, Tags: tags(old...)})
		}
		if unknown, err := s.AckUpTo(limited(t), old[2].Tag); err != nil || !unknown {
			t.Errorf("AckUpTo of a tag from before = %t, %v", unknown, err)
		}
		quiet(t, s, 50*time.Millisecond) // the credit is what it was
		settle(t, b, "s", broker.Ack, all[1:]...)
		_, short = handed(t, s, 2)
		equal(t, "next", short, []string{"e3", "e4"})
		old = append(old, all...)
	}
	replay(after(second.Cursor))
	all, short := handed(t, s, 3)
	equal(t, "after a cursor", short, []string{"e3", "e4", "e5"})
	settle(t, b, "s", broker.Ack, all...)
	replay(broker.Start{})
	quiet(t, s, 50*time.Millisecond)
	publish(t, b, "a", "e6")
	all, short = handed(t, s, 1)
	equal(t, "from now on", short, []string{"e6"})
	settle(t, b, "s", broker.Ack, all...)

	lost := second.Cursor
	lost.Log++
	if err := b.ReplaySubscription(limited(t), ns, "s", after(lost)); !errors.Is(err, schemas.ErrCursor) {
		t.Errorf("ReplaySubscription after another log's cursor: %v", err)
	}
	if err := b.ReplaySubscription(limited(t), ns, "none", broker.Start{}); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("ReplaySubscription of none: %v", err)
	}
	quiet(t, s, 50*time.Millisecond)
	// It is the same subscription, with the same options, and one.
	list, err := b.Subscriptions(limited(t), ns)
	if err != nil || len(list) != 1 || list[0].Options.Expires != time.Hour || list[0].Pending != 0 || list[0].Unsettled != 0 || list[0].Subscribers != 1 {
		t.Errorf("Subscriptions = %+v, %v", list, err)
	}
	if err := b.DeleteSubscription(limited(t), ns, "s"); err != nil {
		t.Error(err)
	}
	if _, err := b.Subscription(limited(t), ns, "s"); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// A cursor older than what is kept is refused, also for a new subscription.
func TestReplayOfWhatIsGone(t *testing.T) {
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: {Retention: broker.Retention{MaxAge: time.Second}}}})
	old := publish(t, b, "a", "e1", "e2")
	old.Cursor.Sequence--
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a"}, broker.Start{From: broker.FromEarliest})
	some, _ := receive(t, b, "s", 1, 0)
	await(t, "end of the events", func() bool {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "**", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
		return err == nil && len(page.Events) == 0
	})
	c := cursorOf(t, some[0].Event)
	if err := b.ReplaySubscription(limited(t), ns, "s", after(c)); !errors.Is(err, schemas.ErrCursor) {
		t.Errorf("ReplaySubscription after an expired cursor: %v", err)
	}
	if _, err := b.PutSubscription(limited(t), ns, "s2", broker.SubscriptionOptions{Topics: "a"}, after(c)); !errors.Is(err, schemas.ErrCursor) {
		t.Errorf("PutSubscription after an expired cursor: %v", err)
	}
	// What retention took is unsettled no more, and no dead letter.
	settle(t, b, "s", broker.Release, some...)
	if _, short := receive(t, b, "s", 10, 200*time.Millisecond); len(short) > 0 {
		t.Errorf("received %v, which is gone", short)
	}
	await(t, "state without it", func() bool {
		state, err := b.Subscription(limited(t), ns, "s")
		return err == nil && state.Pending == 0 && state.Unsettled == 0
	})
}

// What was requeued comes once in a replay: as the event itself if that is replayed.
func TestReplayOfWhatWasRequeued(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", DeadLetter: ptr(deadTopic)}})
	publish(t, b, "a", "e1", "e2")
	all, _ := handed(t, s, 2)
	settle(t, b, "s", broker.Reject, all...)
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 2 || err != nil {
		t.Fatalf("RequeueAll = %d, %v", n, err)
	}
	first := cursorOf(t, all[0].Event)
	some, short := handed(t, s, 2)
	equal(t, "requeued", short, []string{"e1", "e2"})
	settle(t, b, "s", broker.Ack, some...)
	for name, tt := range map[string]struct {
		start broker.Start
		want  []string
	}{
		"earliest":       {broker.Start{From: broker.FromEarliest}, []string{"e1", "e2", "e3"}},
		"after e1":       {after(first), []string{"e2", "e1", "e3"}},
		"after all else": {after(publish(t, b, "b", "x").Cursor), []string{"e3"}},
	} {
		if err := b.ReplaySubscription(limited(t), ns, "s", tt.start); err != nil {
			t.Fatal(err)
		}
		mark := publish(t, b, "a", "e3"+name)
		want := append(tt.want[:len(tt.want)-1:len(tt.want)-1], "e3"+name)
		// The marks of the rounds before come in between; they are not looked at.
		var seen []string
		for {
			some, _ := handed(t, s, 1)
			settle(t, b, "s", broker.Ack, some...)
			id := fields(t, some[0].Event)["id"].(string)
			if id == "e1" || id == "e2" || id == "e3"+name {
				seen = append(seen, id)
			}
			if cursorOf(t, some[0].Event) == mark.Cursor {
				break
			}
		}
		equal(t, name, seen, want)
	}
}

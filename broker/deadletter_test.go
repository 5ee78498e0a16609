package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

const deadTopic = schemas.Topic("dead/letters")

// dying is a subscription whose dead letters are kept.
func dying(topics schemas.TopicFilter) broker.SubscriptionOptions {
	return broker.SubscriptionOptions{Topics: topics, AckWait: time.Minute, MaxDeliver: 2, DeadLetter: ptr(deadTopic)}
}

// deadLetters reads n dead letters and names each: id, reason, topic, subscription, count.
func deadLetters(t testing.TB, s *broker.Stream, n int) (short []string, cursors []schemas.Cursor) {
	t.Helper()
	for len(short) < n {
		some, err := s.Next(limited(t), n-len(short))
		if err != nil {
			t.Fatalf("Next after %v: %v", short, err)
		}
		for _, d := range some {
			e := fields(t, d.Event)
			if e["relaytopic"] != string(deadTopic) {
				t.Errorf("a dead letter has the topic %v", e["relaytopic"])
			}
			short = append(short, fmt.Sprintf("%v %v %v %v %v", e["id"], e["relaydeadreason"], e["relaydeadtopic"], e["relaydeadsubscription"], e["relaydeadcount"]))
			cursors = append(cursors, d.Cursor)
		}
	}
	return short, cursors
}

// An event whose attempts are used up becomes a dead letter, however the last of them
// ends; it keeps its id and says why.
func TestAttemptsAreUsedUp(t *testing.T) {
	b, _ := start(t, broker.Config{})
	dead := subscribe(t, b, broker.StreamOptions{Topics: "dead/**"})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: dying("a/*")})
	ackWait(t, b, "s", 200*time.Millisecond)
	r := publish(t, b, "a/b", "lapse")
	first, _ := handed(t, s, 1)
	handed(t, s, 1)
	short, _ := deadLetters(t, dead, 1)
	ackWait(t, b, "s", time.Minute)
	equal(t, "lapsed", short, []string{"lapse maxdeliver a/b s 2"})
	unknown(t, b, "s", broker.Settlement{Tags: tags(first...)})

	publish(t, b, "a/b", "release")
	for range 2 {
		some, _ := handed(t, s, 1)
		settle(t, b, "s", broker.Release, some...)
	}
	short, _ = deadLetters(t, dead, 1)
	equal(t, "released", short, []string{"release maxdeliver a/b s 2"})

	publish(t, b, "a/b", "leave")
	for range 2 {
		handed(t, s, 1)
		s.Close()
		s = open(t, b, "s", broker.SubscriberOptions{})
	}
	short, _ = deadLetters(t, dead, 1) // with nobody connected that pulls
	equal(t, "left", short, []string{"leave maxdeliver a/b s 2"})
	quiet(t, s, 300*time.Millisecond)

	// Nobody else sees them, and the original is as it was.
	page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "a/b", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
	if err != nil || len(page.Events) != 3 || cursorOf(t, page.Events[0]) != r.Cursor || strings.Contains(string(page.Events[0]), "relaydead") {
		t.Errorf("History = %s, %v", page.Events, err)
	}
	if c := b.SubscriptionCounts(ns); c.DeadLetters != 3 || c.Dropped != 0 {
		t.Errorf("SubscriptionCounts = %+v, want 3 dead letters", c)
	}
}

// With nobody connected at all, the gateway that handed out the last attempt sees to it.
func TestDeadLetterWithNobodyConnected(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "s", dying("a"), broker.Start{})
	ackWait(t, b, "s", 200*time.Millisecond)
	publish(t, b, "a", "e1")
	for _, want := range []string{"e1", "e1/2"} {
		_, short := receive(t, b, "s", 1, 5*time.Second)
		equal(t, "received", short, []string{want})
	}
	short, _ := deadLetters(t, subscribe(t, b, broker.StreamOptions{Topics: "dead/**"}), 1)
	equal(t, "nobody was connected", short, []string{"e1 maxdeliver a s 2"})
}

func TestReject(t *testing.T) {
	b, _ := start(t, broker.Config{})
	dead := subscribe(t, b, broker.StreamOptions{Topics: "dead/**"})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: dying("a")})
	publish(t, b, "a", ids("e", 1, 6)...)
	all, _ := handed(t, s, 6)
	long := strings.Repeat("é", 300)
	for i, reason := range []string{"not mine", "", "a\x00b\ufffec \"d\" \\", long, "\xff\xfe"} {
		settled, err := b.Settle(limited(t), ns, "s", broker.Settlement{Verb: broker.Reject, Tags: tags(all[i]), Reason: reason})
		if err != nil || len(settled.Accepted) != 1 {
			t.Fatalf("Reject = %+v, %v", settled, err)
		}
	}
	short, _ := deadLetters(t, dead, 5) // stored once Settle has returned
	equal(t, "rejected", short, []string{
		"e1 not mine a s 1", "e2 rejected a s 1", `e3 a b c "d" \ a s 1`, "e4 " + long[:512] + " a s 1", "e5 rejected a s 1",
	})
	unknown(t, b, "s", broker.Settlement{Verb: broker.Reject, Tags: tags(all[0])})
	unknown(t, b, "s", broker.Settlement{Verb: broker.Ack, Tags: tags(all[1])})
	settle(t, b, "s", broker.Ack, all[5])
	if c := b.SubscriptionCounts(ns); c.Rejected != 5 || c.DeadLetters != 5 || c.Acked != 1 {
		t.Errorf("SubscriptionCounts = %+v", c)
	}
}

// Where there is no dead-letter topic the event is dropped, and counted.
func TestDroppedWithoutDeadLetterTopic(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "**", AckWait: 100 * time.Millisecond, MaxDeliver: 1}})
	publish(t, b, "a", "e1", "e2", "e3")
	all, _ := handed(t, s, 3)
	settle(t, b, "s", broker.Reject, all[0])
	settle(t, b, "s", broker.Release, all[1])
	await(t, "drop of all three", func() bool { return b.SubscriptionCounts(ns).Dropped == 3 })
	await(t, "state with nothing left", func() bool {
		state, err := b.Subscription(limited(t), ns, "s")
		return err == nil && state.Pending == 0 && state.Unsettled == 0
	})
}

// Two subscriptions that fail on one event have a dead letter each; a subscription on
// dead letters has dead letters of its own, which say what it failed on.
func TestDeadLettersAreEventsOfTheirOwn(t *testing.T) {
	b, _ := start(t, broker.Config{})
	dead := subscribe(t, b, broker.StreamOptions{Topics: deadTopic2Filter})
	publish(t, b, "a", "e1")
	for _, name := range []string{"s1", "s2"} {
		put(t, b, name, dying("a"), broker.Start{From: broker.FromEarliest})
		some, _ := receive(t, b, name, 1, 0)
		settle(t, b, name, broker.Reject, some...)
	}
	short, _ := deadLetters(t, dead, 2)
	equal(t, "two subscriptions", short, []string{"e1 rejected a s1 1", "e1 rejected a s2 1"})

	put(t, b, "second", broker.SubscriptionOptions{Topics: deadTopic2Filter, DeadLetter: ptr(schemas.Topic("deader"))}, broker.Start{From: broker.FromEarliest})
	some, _ := receive(t, b, "second", 2, 0)
	settle(t, b, "second", broker.Reject, some...)
	page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "deader", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
	if err != nil || len(page.Events) != 2 {
		t.Fatalf("History of the dead letters' dead letters = %s, %v", page.Events, err)
	}
	for _, e := range page.Events {
		if f := fields(t, e); f["id"] != "e1" || f["relaydeadtopic"] != string(deadTopic) || f["relaydeadsubscription"] != "second" || strings.Count(string(e), "relaydeadreason") != 1 {
			t.Errorf("the dead letter of a dead letter is %s", e)
		}
	}
}

const deadTopic2Filter = schemas.TopicFilter(deadTopic)

// A requeued event goes to the subscription that failed on it alone, as it was, at
// attempt 1, also inside the dedup window and again after.
func TestRequeue(t *testing.T) {
	b, _ := start(t, broker.Config{})
	dead := subscribe(t, b, broker.StreamOptions{Topics: deadTopic2Filter})
	put(t, b, "other", broker.SubscriptionOptions{Topics: "**"}, broker.Start{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: dying("a/*")})
	everything := subscribe(t, b, broker.StreamOptions{Topics: "a/*"})
	published := publish(t, b, "a/x", "e1", "e2")
	all, _ := handed(t, s, 2)
	original := all[1].Event
	settle(t, b, "s", broker.Reject, all...)
	_, cursors := deadLetters(t, dead, 2)
	take(t, everything, 2)

	for range 2 {
		if err := b.Requeue(limited(t), ns, "s", []schemas.Cursor{cursors[1], cursors[1]}); err != nil {
			t.Fatal(err)
		}
		again, short := handed(t, s, 1)
		equal(t, "requeued", short, []string{"e2"})
		if string(again[0].Event) != string(original) || cursorOf(t, again[0].Event) != published.Cursor {
			t.Errorf("requeued %s, want it as it was: %s", again[0].Event, original)
		}
		settle(t, b, "s", broker.Ack, again...)
		unknown(t, b, "s", broker.Settlement{Tags: tags(all[1])}) // that one is another's
	}
	quiet(t, s, 300*time.Millisecond)
	// It fails again: a dead letter again, which says the same.
	if err := b.Requeue(limited(t), ns, "s", cursors[1:]); err != nil {
		t.Fatal(err)
	}
	again, _ := handed(t, s, 1)
	settle(t, b, "s", broker.Reject, again...)
	short, second := deadLetters(t, dead, 1)
	equal(t, "failed again", short, []string{"e2 rejected a/x s 1"})
	if err := b.Requeue(limited(t), ns, "s", second); err != nil {
		t.Fatal(err)
	}
	again, short = handed(t, s, 1)
	equal(t, "requeued twice", short, []string{"e2"})
	if string(again[0].Event) != string(original) {
		t.Errorf("requeued %s, want it as it was: %s", again[0].Event, original)
	}
	ackWait(t, b, "s", 500*time.Millisecond)
	_, short = handed(t, s, 1) // and it lapses as any other
	equal(t, "a requeued event's second attempt", short, []string{"e2/2"})

	// Nobody else saw any of it.
	none(t, b, everything, "a/y")
	_, short = handed(t, open(t, b, "other", broker.SubscriberOptions{}), 6)
	if want := "e1 e2 e1 e2 e2 mark"; !strings.HasPrefix(strings.Join(short, " "), want) {
		t.Errorf("the other subscription got %v, want %s", short, want)
	}
	page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "**", Start: broker.Start{From: broker.FromEarliest}, Limit: 100})
	if err != nil || len(page.Events) != 6 {
		t.Errorf("History has %d events, %v, want 6", len(page.Events), err)
	}
	if c := b.SubscriptionCounts(ns); c.Requeued != 4 {
		t.Errorf("SubscriptionCounts = %+v, want 4 requeued", c)
	}
}

func TestRequeueRefusesWhatIsNoDeadLetterOfIts(t *testing.T) {
	b, _ := start(t, broker.Config{})
	dead := subscribe(t, b, broker.StreamOptions{Topics: deadTopic2Filter})
	put(t, b, "s", dying("a"), broker.Start{})
	put(t, b, "other", dying("a"), broker.Start{})
	original := publish(t, b, "a", "e1")
	plain := publish(t, b, deadTopic, "forged")
	for _, name := range []string{"s", "other"} {
		some, _ := receive(t, b, name, 1, 0)
		settle(t, b, name, broker.Reject, some...)
	}
	take(t, dead, 1)
	_, cursors := deadLetters(t, dead, 2)
	rewound, moved, beyond := cursors[0], cursors[0], cursors[0]
	rewound.Log++
	moved.Accepted++
	beyond.Sequence += 1000
	for what, c := range map[string]schemas.Cursor{
		"an event": original.Cursor, "an event on the topic": plain.Cursor, "another's dead letter": cursors[1],
		"another log's": rewound, "another time's": moved, "one past the end": beyond, "no event's": {Log: original.Cursor.Log},
	} {
		if err := b.Requeue(limited(t), ns, "s", []schemas.Cursor{cursors[0], c}); !errors.Is(err, schemas.ErrCursor) {
			t.Errorf("Requeue of %s: %v, want ErrCursor", what, err)
		}
	}
	if err := b.Requeue(limited(t), ns, "s", make([]schemas.Cursor, 1001)); !errors.Is(err, schemas.ErrTooLarge) {
		t.Errorf("Requeue of 1001: %v", err)
	}
	if err := b.Requeue(limited(t), ns, "none", cursors); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Requeue for none: %v", err)
	}
	if _, short := receive(t, b, "s", 10, 100*time.Millisecond); len(short) > 0 {
		t.Errorf("after refusals %v came", short)
	}
	// Nor does a dead letter of an earlier life of the name count.
	if err := b.DeleteSubscription(limited(t), ns, "s"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "s", dying("b"), broker.Start{From: broker.FromEarliest})
	if err := b.Requeue(limited(t), ns, "s", cursors[:1]); !errors.Is(err, schemas.ErrCursor) {
		t.Errorf("Requeue of a former life's dead letter: %v, want ErrCursor", err)
	}
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 0 || err != nil {
		t.Errorf("RequeueAll of a former life's dead letters = %d, %v", n, err)
	}
}

// All dead letters are requeued once, also those of a dead-letter topic that was changed.
func TestRequeueAll(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: dying("a"), Credit: 1000})
	want := ids("e", 1, 700)
	publish(t, b, "a", want...)
	all, _ := handed(t, s, 700)
	settle(t, b, "s", broker.Reject, all[:650]...)
	if _, err := b.PutSubscription(limited(t), ns, "s", broker.SubscriptionOptions{DeadLetter: ptr(schemas.Topic("dead/other"))}, broker.Start{}); err != nil {
		t.Fatal(err)
	}
	settle(t, b, "s", broker.Reject, all[650:]...)
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 700 || err != nil {
		t.Fatalf("RequeueAll = %d, %v, want 700", n, err)
	}
	all, short := handed(t, s, 700)
	slices.SortFunc(short, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
	equal(t, "requeued", short, want)
	settle(t, b, "s", broker.Ack, all[10:]...)
	settle(t, b, "s", broker.Reject, all[:10]...)
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 10 || err != nil {
		t.Errorf("RequeueAll again = %d, %v, want the 10 that failed again", n, err)
	}
	again, _ := handed(t, s, 10)
	settle(t, b, "s", broker.Ack, again...)
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 0 || err != nil {
		t.Errorf("RequeueAll of none = %d, %v", n, err)
	}
}

package broker_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// soon is long enough for anything on a busy machine, and shorter than an ackwait.
const soon = 15 * time.Second

// within checks that something took as long as it should, and not much longer.
func within(t testing.TB, what string, since time.Time, least time.Duration) {
	t.Helper()
	if took := time.Since(since); took < least || took > least+soon {
		t.Errorf("%s took %s, want %s and little more", what, took, least)
	}
}

// ackWait changes a subscription's.
func ackWait(t testing.TB, b *broker.Broker, name string, d time.Duration) {
	t.Helper()
	if _, err := b.PutSubscription(limited(t), ns, name, broker.SubscriptionOptions{AckWait: d}, broker.Start{}); err != nil {
		t.Fatal(err)
	}
}

// What is not settled within ackwait is handed out again, one attempt higher; so is
// what its subscriber held when it left, at once.
func TestUnsettledIsHandedOutAgain(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", AckWait: time.Second}, Credit: 2})
	publish(t, b, "a", "e1", "e2")
	began := time.Now()
	_, short := handed(t, s, 2)
	equal(t, "first", short, []string{"e1", "e2"})
	again, short := handed(t, s, 2) // the credit is free again
	equal(t, "after ackwait", short, []string{"e1/2", "e2/2"})
	within(t, "ackwait of 1s", began, time.Second)
	ackWait(t, b, "s", time.Minute)
	settle(t, b, "s", broker.Ack, again[0])
	publish(t, b, "a", "e3")
	_, short = handed(t, s, 1)
	equal(t, "next", short, []string{"e3"})
	began = time.Now()
	s.Close()
	if _, err := s.Next(limited(t), 1); err == nil {
		t.Error("Next of a closed subscriber has no error")
	}
	all, short := handed(t, open(t, b, "s", broker.SubscriberOptions{}), 2)
	equal(t, "after the subscriber left", short, []string{"e2/3", "e3/2"})
	within(t, "going back", began, 0)
	state, err := b.Subscription(limited(t), ns, "s")
	if err != nil || state.Unsettled != 2 || state.Redelivered != 2 || state.OldestUnsettled.IsZero() || time.Since(state.OldestUnsettled) > 10*time.Second {
		t.Errorf("Subscription = %+v, %v, want two redelivered", state, err)
	}
	settle(t, b, "s", broker.Ack, all...)
	state, err = b.Subscription(limited(t), ns, "s")
	if err != nil || state.Unsettled != 0 || state.Redelivered != 0 || !state.OldestUnsettled.IsZero() {
		t.Errorf("Subscription = %+v, %v, want all settled", state, err)
	}
	if c := b.SubscriptionCounts(ns); c.Lapsed != 2 || c.Abandoned != 2 || c.Delivered != 7 || c.Redelivered != 4 || c.Acked != 3 {
		t.Errorf("SubscriptionCounts = %+v", c)
	}
}

// A late ack counts, also for the attempt that was made meanwhile. A late release,
// reject or extend, and a second settlement, are unknown.
func TestLateAndSecondSettlements(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", AckWait: 200 * time.Millisecond}, Credit: 2})
	publish(t, b, "a", "e1", "e2")
	first, _ := handed(t, s, 2)
	second, short := handed(t, s, 2)
	equal(t, "second attempts", short, []string{"e1/2", "e2/2"})
	for _, late := range []broker.Verb{broker.Release, broker.Reject, broker.Extend} {
		unknown(t, b, "s", broker.Settlement{Verb: late, Tags: tags(first...)})
	}
	settle(t, b, "s", broker.Ack, first[0])
	unknown(t, b, "s", broker.Settlement{Verb: broker.Ack, Tags: tags(first[0], second[0])})
	for _, verb := range []broker.Verb{broker.Release, broker.Reject, broker.Extend} {
		unknown(t, b, "s", broker.Settlement{Verb: verb, Tags: tags(second[0])})
	}
	settle(t, b, "s", broker.Ack, second[1])
	unknown(t, b, "s", broker.Settlement{Verb: broker.Ack, Tags: tags(first[1], second[1])})
	quiet(t, s, 300*time.Millisecond) // neither comes again

	// A release ends a delivery too.
	ackWait(t, b, "s", time.Minute)
	publish(t, b, "a", "e3", "e4")
	third, _ := handed(t, s, 2)
	settle(t, b, "s", broker.Release, third[0])
	for verb := range broker.Extend + 1 {
		unknown(t, b, "s", broker.Settlement{Verb: verb, Tags: tags(third[0])})
	}
	// One tag given twice is settled once.
	settled, err := s.Settle(limited(t), broker.Settlement{Tags: tags(third[1], third[1])})
	if err != nil || len(settled.Accepted) != 1 || len(settled.Unknown) != 1 {
		t.Errorf("Settle of a tag given twice = %+v, %v", settled, err)
	}
	// What is late when nobody took the next attempt counts as well.
	again, short := handed(t, s, 1)
	equal(t, "released", short, []string{"e3/2"})
	s.Close()
	settle(t, b, "s", broker.Ack, again...)
	quiet(t, open(t, b, "s", broker.SubscriberOptions{}), 200*time.Millisecond)
	unknown(t, b, "s", broker.Settlement{Tags: []string{"", "x", "not-a-tag", first[0].Tag[1:], first[0].Tag + "A"}})
}

// Extend restarts ackwait, and the tag stays good.
func TestExtend(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", AckWait: 1500 * time.Millisecond, MaxDeliver: 1, DeadLetter: ptr(schemas.Topic("dead"))}})
	publish(t, b, "a", "e1", "e2")
	all, _ := handed(t, s, 2)
	began := time.Now()
	for time.Since(began) < 2*time.Second || b.SubscriptionCounts(ns).DeadLetters == 0 {
		settle(t, b, "s", broker.Extend, all[0])
		time.Sleep(20 * time.Millisecond)
	}
	settle(t, b, "s", broker.Ack, all[0])
	unknown(t, b, "s", broker.Settlement{Verb: broker.Ack, Tags: tags(all[1])}) // it is a dead letter
	if c := b.SubscriptionCounts(ns); c.Lapsed != 1 || c.DeadLetters != 1 || c.Delivered != 2 {
		t.Errorf("SubscriptionCounts = %+v, want the other one lapsed", c)
	}
}

func TestReleaseWithDelay(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 1})
	publish(t, b, "a", "e1", "e2")
	for _, delay := range []time.Duration{-1, 15*time.Minute + 1} {
		if _, err := s.Settle(limited(t), broker.Settlement{Verb: broker.Release, Delay: delay}); !errors.Is(err, schemas.ErrParameter) {
			t.Errorf("Release with a delay of %s: %v", delay, err)
		}
	}
	if _, err := s.Settle(limited(t), broker.Settlement{Verb: 9}); !errors.Is(err, schemas.ErrParameter) {
		t.Errorf("an unknown verb: %v", err)
	}
	one, _ := handed(t, s, 1)
	began := time.Now()
	if settled, err := s.Settle(limited(t), broker.Settlement{Verb: broker.Release, Tags: tags(one...), Delay: 3 * time.Second}); err != nil || len(settled.Accepted) != 1 {
		t.Fatalf("Release = %+v, %v", settled, err)
	}
	two, short := handed(t, s, 1)
	equal(t, "meanwhile", short, []string{"e2"})
	state, err := b.Subscription(limited(t), ns, "s")
	if err != nil || state.Delayed != 1 || state.Unsettled != 1 || state.Pending != 0 {
		t.Errorf("Subscription = %+v, %v, want one delayed and one unsettled", state, err)
	}
	settle(t, b, "s", broker.Ack, two...)
	one, short = handed(t, s, 1)
	equal(t, "after the delay", short, []string{"e1/2"})
	within(t, "delay of 3s", began, 3*time.Second)
	if state, err := b.Subscription(limited(t), ns, "s"); err != nil || state.Delayed != 0 || state.Unsettled != 1 || state.Redelivered != 1 {
		t.Errorf("Subscription = %+v, %v, want none delayed", state, err)
	}
	began = time.Now()
	settle(t, b, "s", broker.Release, one...)
	_, short = handed(t, s, 1)
	equal(t, "without a delay", short, []string{"e1/3"})
	within(t, "release", began, 0)
}

// A change of ackwait holds for what is handed out already.
func TestAckWaitIsChanged(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}})
	publish(t, b, "a", "e1")
	handed(t, s, 1)
	if _, err := b.PutSubscription(limited(t), ns, "s", broker.SubscriptionOptions{AckWait: 200 * time.Millisecond, MaxDeliver: 2}, broker.Start{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, short := handed(t, s, 1)
	equal(t, "after the change", short, []string{"e1/2"})
	within(t, "the shorter ackwait", began, 0)
	await(t, "dead letter after the second of two attempts", func() bool { return b.SubscriptionCounts(ns).Dropped == 1 })
}

// One slow subscription, or one with much delayed, holds nobody up.
func TestStuckSubscriptionHoldsNobodyUp(t *testing.T) {
	b, _ := start(t, broker.Config{})
	stuck := open(t, b, "stuck", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 10})
	delayed := open(t, b, "delayed", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 100})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 100})
	const n = 2000
	for i := 0; i < n; i += 500 {
		publish(t, b, "a", ids("e", i+1, i+500)...)
	}
	handed(t, stuck, 10)
	for count := 0; count < n; {
		some, err := delayed.Next(limited(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		count += len(some)
		if _, err := delayed.Settle(limited(t), broker.Settlement{Verb: broker.Release, Delay: time.Minute, Tags: tags(some...)}); err != nil {
			t.Fatal(err)
		}
	}
	for count := 0; count < n; {
		some, err := s.Next(limited(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		count += len(some)
		if unknown, err := s.AckUpTo(limited(t), some[len(some)-1].Tag); err != nil || unknown {
			t.Fatalf("AckUpTo = %t, %v", unknown, err)
		}
	}
	for name, want := range map[string]broker.Subscription{
		"stuck": {Pending: n - 10, Unsettled: 10}, "delayed": {Delayed: n}, "s": {},
	} {
		state, err := b.Subscription(limited(t), ns, name)
		if err != nil || state.Pending != want.Pending || state.Unsettled != want.Unsettled || state.Delayed != want.Delayed {
			t.Errorf("Subscription(%s) = %+v, %v, want %+v", name, state, err, want)
		}
	}
}

// Acks up to a tag are those of one subscriber.
func TestAckUpTo(t *testing.T) {
	b, _ := start(t, broker.Config{})
	first := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a"}, Credit: 4})
	publish(t, b, "a", ids("e", 1, 8)...)
	mine, _ := handed(t, first, 4)
	second := open(t, b, "s", broker.SubscriberOptions{Credit: 4})
	other, _ := handed(t, second, 4)
	if unknown, err := first.AckUpTo(limited(t), other[0].Tag); err != nil || !unknown {
		t.Errorf("AckUpTo of another's tag = %t, %v, want unknown", unknown, err)
	}
	if unknown, err := first.AckUpTo(limited(t), "x"); err != nil || !unknown {
		t.Errorf("AckUpTo of no tag = %t, %v, want unknown", unknown, err)
	}
	settle(t, b, "s", broker.Ack, mine[1])
	if unknown, err := first.AckUpTo(limited(t), mine[1].Tag); err != nil || !unknown {
		t.Errorf("AckUpTo of one that was acked = %t, %v, want unknown", unknown, err)
	}
	unknown(t, b, "s", broker.Settlement{Tags: tags(mine[0])}) // it went with that
	if unknown, err := first.AckUpTo(limited(t), mine[2].Tag); err != nil || unknown {
		t.Errorf("AckUpTo = %t, %v", unknown, err)
	}
	settle(t, b, "s", broker.Ack, other...)
	ackWait(t, b, "s", 200*time.Millisecond)
	again, short := handed(t, first, 1)
	equal(t, "what was after it", short, []string{"e4/2"})
	settle(t, b, "s", broker.Ack, again...)
}

// What came for a subscriber that left before Next returned it was no attempt.
func TestOnlyHandingOutIsAnAttempt(t *testing.T) {
	b, _ := start(t, broker.Config{})
	options := dying("a")
	options.MaxDeliver = 1
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: options, Credit: 5})
	publish(t, b, "a", ids("e", 1, 5)...)
	some, _ := handed(t, s, 1)
	await(t, "arrival of the rest", func() bool {
		state, err := b.Subscription(limited(t), ns, "s")
		return err == nil && state.Unsettled == 5
	})
	settle(t, b, "s", broker.Ack, some...)
	s.Close()
	all, short := handed(t, open(t, b, "s", broker.SubscriberOptions{}), 4)
	slices.Sort(short)
	equal(t, "left to the next one", short, ids("e", 2, 5))
	settle(t, b, "s", broker.Ack, all...)
	if c := b.SubscriptionCounts(ns); c.Abandoned+c.DeadLetters+c.Redelivered != 0 {
		t.Errorf("SubscriptionCounts = %+v", c)
	}
}

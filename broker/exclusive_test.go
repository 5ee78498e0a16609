package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
)

var exclusive = broker.SubscriptionOptions{Topics: "a", Exclusive: ptr(true), Expires: time.Hour}

// next reads n deliveries in the background.
func next(t testing.TB, s *broker.Subscriber, n int) <-chan []string {
	t.Helper()
	out := make(chan []string, 1)
	go func() {
		_, short := handed(t, s, n)
		out <- short
	}()
	return out
}

// An exclusive subscription has one active subscriber; the others stand by and take
// over in the order in which they came.
func TestExclusive(t *testing.T) {
	b, _ := start(t, broker.Config{})
	first := open(t, b, "s", broker.SubscriberOptions{Subscription: exclusive, Credit: 2})
	second := open(t, b, "s", broker.SubscriberOptions{})
	third := open(t, b, "s", broker.SubscriberOptions{})
	publish(t, b, "a", ids("e", 1, 5)...)
	quiet(t, second, 100*time.Millisecond) // it came second
	held, short := handed(t, first, 2)
	equal(t, "the first", short, []string{"e1", "e2"})
	quiet(t, third, 100*time.Millisecond)
	if _, short := receive(t, b, "s", 1, 100*time.Millisecond); len(short) > 0 {
		t.Errorf("a receiver got %v past the active subscriber", short)
	}
	settle(t, b, "s", broker.Ack, held[0])
	_, short = handed(t, first, 1)
	equal(t, "the first, on credit", short, []string{"e3"})
	waiting, never := next(t, second, 4), next(t, third, 1)
	began := time.Now()
	first.Close()
	short = <-waiting
	within(t, "failover", began, 0)
	equal(t, "the second", short, []string{"e2/2", "e3/2", "e4", "e5"})
	select {
	case short := <-never:
		t.Errorf("the third got %v", short)
	case <-time.After(100 * time.Millisecond):
	}
	second.Close()
	if short := <-never; len(short) != 1 {
		t.Errorf("the third got %v", short)
	}
	third.Close()
	if _, short := receive(t, b, "s", 10, 5*time.Second); len(short) != 4 {
		t.Errorf("with nobody active a receiver got %v, want 4", short)
	}
	if state, err := b.Subscription(limited(t), ns, "s"); err != nil || state.Subscribers != 0 || !*state.Options.Exclusive {
		t.Errorf("Subscription = %+v, %v", state, err)
	}
}

// The same across gateways, of which one stops and one is killed.
func TestExclusiveAcrossGateways(t *testing.T) {
	config := broker.Config{NATS: broker.NATSConfig{URL: cluster(t, 1)[0]}}
	b1, _ := start(t, config)
	b2, stop2 := start(t, config)
	b3, _ := start(t, config)
	s1 := open(t, b1, "s", broker.SubscriberOptions{Subscription: exclusive})
	publish(t, b1, "a", "e1", "e2")
	_, short := handed(t, s1, 2)
	equal(t, "the first", short, []string{"e1", "e2"})
	s2 := open(t, b2, "s", broker.SubscriberOptions{})
	quiet(t, s2, 300*time.Millisecond)
	waiting := next(t, s2, 2)
	began := time.Now()
	s1.Close()
	equal(t, "the second, after the first closed", <-waiting, []string{"e1/2", "e2/2"})
	within(t, "failover", began, 0)

	s3 := open(t, b3, "s", broker.SubscriberOptions{})
	publish(t, b1, "a", "e3")
	quiet(t, s3, 300*time.Millisecond)
	_, short = handed(t, s2, 1)
	equal(t, "the second", short, []string{"e3"})
	waiting = next(t, s3, 3)
	began = time.Now()
	stop2() // its subscriber is not closed first
	equal(t, "the third, after the second's gateway stopped", <-waiting, []string{"e1/3", "e2/3", "e3/2"})
	within(t, "failover", began, 0)
}

// A gateway that is cut off from NATS gives nothing out meanwhile, and knows after
// that another one has the subscription.
func TestExclusiveWhenCutOff(t *testing.T) {
	url := cluster(t, 1)[0]
	c := newCutter(t, url)
	b1, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: "nats://" + c.listener.Addr().String()}})
	b2, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	s1 := open(t, b1, "s", broker.SubscriberOptions{Subscription: exclusive})
	s2 := open(t, b2, "s", broker.SubscriberOptions{})
	publish(t, b2, "a", "e1")
	_, short := handed(t, s1, 1)
	equal(t, "the first", short, []string{"e1"})
	c.refuse(true)
	c.cut()
	waiting := next(t, s2, 1)
	await(t, "end of the first gateway, as NATS sees it", func() bool {
		state, err := b2.Subscription(limited(t), ns, "s")
		return err == nil && state.Subscribers == 1
	})
	publish(t, b2, "a", "e2")
	equal(t, "the second, once the first is cut off", <-waiting, []string{"e2"})
	c.refuse(false)
	publish(t, b2, "a", "e3")
	_, short = handed(t, s2, 1)
	equal(t, "the second, once the first is back", short, []string{"e3"})
	ctx, cancel := context.WithTimeout(limited(t), 2*time.Second)
	defer cancel()
	publish(t, b2, "a", "e4")
	if some, err := s1.Next(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the first, once it is back: %v, %v", some, err)
	}
	_, short = handed(t, s2, 1)
	equal(t, "the second", short, []string{"e4"})
}

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// A broker that is stopped and started again on its data has its subscriptions as
// they were: position, attempts, dead letters; tags from before are still good.
func TestSubscriptionsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	b, stop := start(t, broker.Config{Dir: dir})
	options := dying("a")
	options.AckWait = 15 * time.Second // what was handed out before the restart comes again then
	put(t, b, "s", options, broker.Start{})
	publish(t, b, "a", ids("e", 1, 6)...)
	all, _ := receive(t, b, "s", 3, 0)
	settle(t, b, "s", broker.Ack, all[0])
	s := open(t, b, "s", broker.SubscriberOptions{Credit: 1})
	_, short := handed(t, s, 1)
	equal(t, "an open subscriber", short, []string{"e4"})
	time.Sleep(1100 * time.Millisecond) // JetStream writes a consumer's state ten times a second
	stop()

	b, stop = start(t, broker.Config{Dir: dir})
	settle(t, b, "s", broker.Ack, all[1])
	unknown(t, b, "s", broker.Settlement{Tags: tags(all[0])})
	settle(t, b, "s", broker.Release, all[2])
	rest, short := receive(t, b, "s", 10, 5*time.Second)
	for len(short) < 4 {
		more, ids := receive(t, b, "s", 10, 5*time.Second)
		rest, short = append(rest, more...), append(short, ids...)
	}
	slices.Sort(short)
	equal(t, "after the restart", short, []string{"e3/2", "e4/2", "e5", "e6"})
	for _, d := range rest {
		if d.Attempt == 1 {
			settle(t, b, "s", broker.Ack, d)
		}
	}
	time.Sleep(200 * time.Millisecond)
	stop() // with the last attempt of two events handed out

	b, _ = start(t, broker.Config{Dir: dir})
	ackWait(t, b, "s", 100*time.Millisecond)
	deadStream := subscribe(t, b, broker.StreamOptions{Topics: "dead/**", Start: broker.Start{From: broker.FromEarliest}})
	if _, short := receive(t, b, "s", 10, 3*time.Second); len(short) > 0 {
		t.Errorf("after the last attempt %v came", short)
	}
	short, _ = deadLetters(t, deadStream, 2)
	ackWait(t, b, "s", time.Minute)
	slices.Sort(short)
	equal(t, "dead letters", short, []string{"e3 maxdeliver a s 2", "e4 maxdeliver a s 2"})
	if n, err := b.RequeueAll(limited(t), ns, "s"); n != 2 || err != nil {
		t.Errorf("RequeueAll after the restart = %d, %v", n, err)
	}
	_, short = receive(t, b, "s", 10, 5*time.Second)
	equal(t, "requeued", short[:1], []string{"e3"})
}

// Two gateways on one NATS share a subscription; tags work on either, also when the
// one that handed out is gone.
func TestTwoGateways(t *testing.T) {
	config := broker.Config{NATS: broker.NATSConfig{URL: cluster(t, 1)[0]}}
	b1, stop1 := start(t, config)
	b2, _ := start(t, config)
	put(t, b1, "s", dying("a"), broker.Start{})
	publish(t, b2, "a", ids("e", 1, 8)...)
	all, _ := receive(t, b1, "s", 8, 0)

	settle(t, b2, "s", broker.Ack, all[0])
	for _, b := range []*broker.Broker{b1, b2} {
		unknown(t, b, "s", broker.Settlement{Tags: tags(all[0])})
	}
	settle(t, b2, "s", broker.Extend, all[1])
	settle(t, b2, "s", broker.Reject, all[2])
	settle(t, b2, "s", broker.Release, all[3])
	unknown(t, b2, "s", broker.Settlement{Verb: broker.Release, Tags: tags(all[3])})
	if settled, err := b2.Settle(limited(t), ns, "s", broker.Settlement{Verb: broker.Release, Tags: tags(all[4]), Delay: time.Minute}); err != nil || len(settled.Accepted) != 1 {
		t.Errorf("Release on another gateway = %+v, %v", settled, err)
	}
	s := open(t, b2, "s", broker.SubscriberOptions{})
	again, short := handed(t, s, 1)
	equal(t, "released on the other gateway", short, []string{"e4/2"})
	for _, b := range []*broker.Broker{b1, b2} {
		state, err := b.Subscription(limited(t), ns, "s")
		if err != nil || state.Delayed != 1 || state.Subscribers != 1 || state.Unsettled != 5 {
			t.Errorf("Subscription = %+v, %v, want one delayed, one subscriber", state, err)
		}
	}
	settle(t, b1, "s", broker.Ack, again...)
	quiet(t, s, 100*time.Millisecond)

	// A change on one gateway holds on the other.
	if _, err := b1.PutSubscription(limited(t), ns, "s", broker.SubscriptionOptions{AckWait: 20 * time.Second}, broker.Start{}); err != nil {
		t.Fatal(err)
	}
	await(t, "change on the other gateway", func() bool {
		o, err := b2.SubscriptionOptions(limited(t), ns, "s")
		return err == nil && o.AckWait == 20*time.Second
	})
	stop1() // what was received there stays where it is
	settle(t, b2, "s", broker.Extend, all[5])
	settle(t, b2, "s", broker.Ack, all[1])
	settle(t, b2, "s", broker.Release, all[5])
	again, short = handed(t, s, 1)
	equal(t, "released for a gateway that is gone", short, []string{"e6/2"})
	settle(t, b2, "s", broker.Ack, again...)
	settle(t, b2, "s", broker.Reject, all[6], all[7])
	unknown(t, b2, "s", broker.Settlement{Verb: broker.Release, Tags: tags(all[6])})
	dead := subscribe(t, b2, broker.StreamOptions{Topics: "dead/**", Start: broker.Start{From: broker.FromEarliest}})
	short, _ = deadLetters(t, dead, 3)
	equal(t, "dead letters", short, []string{"e3 rejected a s 1", "e7 rejected a s 1", "e8 rejected a s 1"})

	// Deleted on one, it is gone on the other.
	b3, _ := start(t, config)
	if err := b3.DeleteSubscription(limited(t), ns, "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(limited(t), 1); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Next of what was deleted on another gateway: %v", err)
	}
}

// A late ack on one gateway ends the attempt that another one made meanwhile.
func TestLateAckAcrossGateways(t *testing.T) {
	config := broker.Config{NATS: broker.NATSConfig{URL: cluster(t, 1)[0]}}
	b1, _ := start(t, config)
	b2, _ := start(t, config)
	o := dying("a")
	o.AckWait = 3 * time.Second
	put(t, b1, "s", o, broker.Start{})
	publish(t, b1, "a", "e1")
	first, _ := receive(t, b1, "s", 1, 0)
	second, short := receive(t, b2, "s", 1, 5*time.Second)
	equal(t, "the second attempt, which is the last", short, []string{"e1/2"})
	settle(t, b2, "s", broker.Ack, first...)
	await(t, "word of it", func() bool {
		settled, err := b2.Settle(limited(t), ns, "s", broker.Settlement{Verb: broker.Extend, Tags: tags(second...)})
		return err == nil && len(settled.Unknown) == 1
	})
	time.Sleep(o.AckWait) // the second attempt's time
	if c := b2.SubscriptionCounts(ns); c.DeadLetters+c.Lapsed != 0 {
		t.Errorf("SubscriptionCounts = %+v, want no dead letter", c)
	}
}

// checkSubscribers has events flow to three subscribers that ack, release and leave,
// makes a fault several times, and checks that every event is acked, and none is
// handed out again that was acked.
func checkSubscribers(t *testing.T, b *broker.Broker, times int, fault func(round int)) {
	t.Helper()
	options := broker.SubscriptionOptions{Topics: "**", AckWait: 2 * time.Second, MaxDeliver: 1000}
	put(t, b, "s", options, broker.Start{})
	var mu sync.Mutex
	acked := map[string]int{}
	var doubled []string
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for n := range 3 {
		all.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				s, err := b.OpenSubscription(ctx, ns, "s", broker.SubscriberOptions{Credit: 20})
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				for i := 0; ctx.Err() == nil && (n != 2 || i < 10); i++ {
					some, err := s.Next(ctx, 20)
					if err != nil {
						break
					}
					if n == 1 && i%5 == 4 {
						s.Settle(ctx, broker.Settlement{Verb: broker.Release, Tags: tags(some...)}) //nolint:errcheck // then it lapses
						continue
					}
					mu.Lock()
					for _, d := range some {
						if id := fields(t, d.Event)["id"].(string); acked[id] > 0 {
							doubled = append(doubled, got(t, d))
						}
					}
					mu.Unlock()
					limited, stop := context.WithTimeout(ctx, 20*time.Second)
					settled, err := s.Settle(limited, broker.Settlement{Tags: tags(some...)})
					stop()
					if err != nil {
						continue
					}
					mu.Lock()
					for _, d := range some {
						if slices.Contains(settled.Accepted, d.Tag) {
							acked[fields(t, d.Event)["id"].(string)]++
						}
					}
					mu.Unlock()
				}
				s.Close() // the third leaves with what it has, each time
			}
		})
	}
	stop := flow(t, b)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for round := range times {
		fault(round)
		before := count()
		await(t, "work after a fault", func() bool { return count() >= before+30 })
	}
	want := stop()
	await(t, "ack of every event", func() bool { return count() == len(want) })
	cancel()
	all.Wait()
	t.Logf("%d events, %d handed out again after their ack", len(want), len(doubled))
	if len(doubled) > 0 {
		t.Errorf("handed out again after their ack: %v", doubled)
	}
	state, err := b.Subscription(limited(t), ns, "s")
	if err != nil || state.Pending != 0 {
		t.Errorf("Subscription = %+v, %v, want nothing pending", state, err)
	}
}

func TestSubscribersHealWhenTheConnectionIsCut(t *testing.T) {
	c := newCutter(t, cluster(t, 1)[0])
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: "nats://" + c.listener.Addr().String()}})
	checkSubscribers(t, b, rounds(50), func(int) { c.cut() })
}

func TestSubscribersHealWhenTheLeaderStepsDown(t *testing.T) {
	urls := cluster(t, 3)
	b, _ := start(t, broker.Config{
		NATS: broker.NATSConfig{URL: strings.Join(urls, ",")},
		Log:  broker.LogConfig{Replicas: 3},
	})
	conn := connect(t, urls[0])
	checkSubscribers(t, b, rounds(50), func(round int) {
		step := []string{"STREAM.LEADER.STEPDOWN.LOG_default", "CONSUMER.LEADER.STEPDOWN.LOG_default.sub0-s"}[round%2]
		await(t, "leader that steps down", func() bool {
			m, err := conn.Request("$JS.API."+step, nil, 5*time.Second)
			return err == nil && strings.Contains(string(m.Data), `"success":true`)
		})
	})
}

// NATS is killed and comes back: what it forgot of its last moments is handed out
// again, and nothing is lost.
func TestSubscribersHealWhenNATSIsKilled(t *testing.T) {
	url, kill, run := natsProcess(t)
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	s := open(t, b, "s", broker.SubscriberOptions{Subscription: broker.SubscriptionOptions{Topics: "a", AckWait: 2 * time.Second}, Credit: 20})
	acked := map[string]bool{}
	work := func(until func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !until(); {
			if time.Now().After(deadline) {
				t.Fatal("not done after 30 s")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			some, err := s.Next(ctx, 20)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Next: %v", err)
			}
			settled, err := s.Settle(limited(t), broker.Settlement{Tags: tags(some...)})
			if err != nil {
				t.Logf("Settle: %v", err)
				continue
			}
			for _, d := range some {
				if slices.Contains(settled.Accepted, d.Tag) {
					acked[fields(t, d.Event)["id"].(string)] = true
				}
			}
		}
	}
	total := 0
	for round := range rounds(50) {
		publish(t, b, "a", ids(fmt.Sprintf("r%d-", round), 1, 100)...)
		total += 100
		before := len(acked)
		work(func() bool { return len(acked) > before+30 })
		kill()
		run()
	}
	work(func() bool { return len(acked) == total })
}

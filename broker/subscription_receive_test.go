package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

func TestReceive(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a", AckWait: time.Minute}, broker.Start{})
	for _, o := range []broker.ReceiveOptions{{}, {Max: 101}, {Max: 1, Wait: -1}, {Max: 1, Wait: 61 * time.Second}} {
		if _, err := b.Receive(limited(t), ns, "s", o); !errors.Is(err, schemas.ErrParameter) {
			t.Errorf("Receive(%+v): %v, want ErrParameter", o, err)
		}
	}
	if _, err := b.Receive(limited(t), ns, "none", broker.ReceiveOptions{Max: 1}); !errors.Is(err, schemas.ErrNotFound) {
		t.Errorf("Receive of none: %v", err)
	}
	began := time.Now()
	if _, short := receive(t, b, "s", 10, 0); len(short) > 0 {
		t.Errorf("received %v of nothing", short)
	}
	within(t, "no wait", began, 0)
	began = time.Now()
	if _, short := receive(t, b, "s", 10, 300*time.Millisecond); len(short) > 0 {
		t.Errorf("received %v of nothing", short)
	}
	within(t, "a wait of 300ms", began, 300*time.Millisecond)

	publish(t, b, "a", ids("e", 1, 15)...)
	some, short := receive(t, b, "s", 10, time.Minute)
	equal(t, "received", short, ids("e", 1, 10))
	rest, short := receive(t, b, "s", 10, 0)
	equal(t, "received next", short, ids("e", 11, 15))
	settle(t, b, "s", broker.Ack, some...)
	settle(t, b, "s", broker.Release, rest[:2]...)
	rest, short = receive(t, b, "s", 100, time.Minute)
	equal(t, "released", short, []string{"e11/2", "e12/2"})
	settle(t, b, "s", broker.Ack, rest...)
	ackWait(t, b, "s", 2*time.Second)
	rest, short = receive(t, b, "s", 100, time.Minute)
	slices.Sort(short)
	if len(short) == 0 || short[0] != "e13/2" {
		t.Errorf("lapsed: received %v", short)
	}
	for len(short) < 3 {
		more, ids := receive(t, b, "s", 100, time.Minute)
		rest, short = append(rest, more...), append(short, ids...)
	}
	slices.Sort(short)
	equal(t, "lapsed", short, []string{"e13/2", "e14/2", "e15/2"})
	settle(t, b, "s", broker.Ack, rest...)

	// It answers as soon as something comes.
	done := make(chan []string)
	go func() {
		_, short := receive(t, b, "s", 10, time.Minute)
		done <- short
	}()
	await(t, "a waiting receiver", func() bool {
		publish(t, b, "b", "other")
		return true
	})
	began = time.Now()
	publish(t, b, "a", "late")
	equal(t, "received at once", <-done, []string{"late"})
	within(t, "the answer", began, 0)
}

// A receiver that leaves while it waits costs nobody an attempt, and receivers share
// with subscribers: each event goes to one.
func TestReceiversCompete(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a"}, broker.Start{})
	for range 20 {
		ctx, cancel := context.WithTimeout(limited(t), 5*time.Millisecond)
		if all, err := b.Receive(ctx, ns, "s", broker.ReceiveOptions{Max: 10, Wait: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Receive that was left = %v, %v", all, err)
		}
		cancel()
	}
	want := ids("e", 1, 100)
	var mu sync.Mutex
	var short []string
	var all sync.WaitGroup
	deadline := time.Now().Add(time.Minute)
	for range 5 {
		all.Go(func() {
			for {
				some, ids := receive(t, b, "s", 7, time.Second)
				mu.Lock()
				short = append(short, ids...)
				over := len(short) >= len(want) || time.Now().After(deadline)
				mu.Unlock()
				if len(ids) > 0 {
					settle(t, b, "s", broker.Ack, some...)
				} else if over {
					return // nothing is left, and nothing comes twice
				}
			}
		})
	}
	publish(t, b, "a", want...)
	all.Wait()
	slices.SortFunc(short, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
	equal(t, "all receivers together", short, want)
}

// A receiver gets past what the filter doesn't let through.
func TestReceiveFilters(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a", Filter: `{"prefix":{"id":"yes"}}`}, broker.Start{})
	publish(t, b, "a", ids("no", 1, 500)...)
	publish(t, b, "a", "yes")
	publish(t, b, "a", ids("no", 501, 600)...)
	_, short := receive(t, b, "s", 10, 0)
	equal(t, "without a wait", short, []string{"yes"})
	began := time.Now()
	if _, short := receive(t, b, "s", 10, 200*time.Millisecond); len(short) > 0 {
		t.Errorf("received %v", short)
	}
	within(t, "a wait of 200ms", began, 200*time.Millisecond)
	if state, err := b.Subscription(limited(t), ns, "s"); err != nil || state.Pending != 0 || state.Unsettled != 1 {
		t.Errorf("Subscription = %+v, %v", state, err)
	}
}

// What the filter holds back takes no place in an answer: behind it there is more.
func TestReceiveFillsUp(t *testing.T) {
	b, _ := start(t, broker.Config{})
	put(t, b, "s", broker.SubscriptionOptions{Topics: "a", Filter: `{"prefix":{"id":"yes"}}`}, broker.Start{})
	for i := range 6 {
		publish(t, b, "a", fmt.Sprint("yes", i), fmt.Sprint("no", i))
	}
	_, first := receive(t, b, "s", 4, 0)
	equal(t, "without a wait", first, []string{"yes0", "yes1", "yes2", "yes3"})
	_, rest := receive(t, b, "s", 4, time.Second)
	equal(t, "what is left", rest, []string{"yes4", "yes5"})
	time.AfterFunc(100*time.Millisecond, func() { publish(t, b, "a", "yes6", "no6", "no7", "no8", "yes7") })
	var waited []string
	for len(waited) < 2 {
		_, some := receive(t, b, "s", 3, time.Second)
		if len(some) == 0 {
			break
		}
		waited = append(waited, some...)
	}
	equal(t, "after a wait", waited, []string{"yes6", "yes7"})
}

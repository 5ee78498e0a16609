package deliver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/deliver"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A journal is the order in which a service has dealt with events.
type journal struct {
	mu  sync.Mutex
	ids []string
}

func (j *journal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ids = append(j.ids, r.Header.Get("Ce-Id"))
}

// inOrder checks that each partition's events came in order, the first time, up to n.
func (j *journal) inOrder(t *testing.T, keys, n int) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	next := make([]int, keys)
	for _, id := range j.ids {
		var key, i int
		if _, err := fmt.Sscanf(id, "%d-%d", &key, &i); err != nil {
			t.Fatal(err)
		}
		if i > next[key] {
			t.Fatalf("%s came when %d-%d was due", id, key, next[key])
		}
		if i == next[key] {
			next[key]++
		}
	}
	for key, i := range next {
		if i != n/keys {
			t.Errorf("partition %d came up to %d, want %d", key, i, n/keys)
		}
	}
}

// What was handed out before the agent came, and comes again only when its ack wait is
// over, is waited for; also where what is newer uses up the credit meanwhile.
func TestOrderWaitsForWhatWasHandedOut(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]int{"some": 60, "more than the credit": 420} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const keys, taken = 3, 30
			c := newClient(t)
			if _, _, err := c.PutSubscription(t.Context(), "ordered", subscriber.DurableOptions{Topic: "a/*", AckWait: 2 * time.Second, Exclusive: true}); err != nil {
				t.Fatal(err)
			}
			put(t, c, "a/b", 0, events, keys)
			for left := taken; left > 0; {
				list, err := c.Receive(t.Context(), "ordered", left, 10*time.Second)
				if err != nil || len(list) == 0 {
					t.Fatalf("Receive = %d, %v", len(list), err)
				}
				left -= len(list)
			}
			var j journal
			r := newRun(t, &deliver.Agent{Client: c, Subscription: "ordered", Concurrency: 8, Ordered: true}, j.ServeHTTP)
			until(t, "all are settled", func() bool { return empty(t, c, "ordered") })
			if err := r.end(); err != nil {
				t.Errorf("Run = %v", err)
			}
			j.inOrder(t, keys, events)
			reports, told := r.said()
			ids := map[string]bool{}
			for _, report := range reports {
				ids[report.ID] = true
			}
			if len(ids) != events || slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, "overtake") }) {
				t.Errorf("it reported of %d events, and told %q", len(ids), told)
			}
		})
	}
}

// An event that fails keeps those of its partition waiting, and no others; when its last
// attempt has failed it is a dead letter, and the next may come.
func TestOrderOverFailures(t *testing.T) {
	t.Parallel()
	const keys, events = 4, 80
	c := newClient(t)
	if _, _, err := c.PutSubscription(t.Context(), "ordered", subscriber.DurableOptions{Topic: "a/*", MaxDeliver: 3, DeadLetter: "dead"}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "a/b", 0, events, keys)
	var j journal
	var failed atomic.Int32
	var atOnce [keys]atomic.Int32
	r := newRun(t, &deliver.Agent{Client: c, Subscription: "ordered", Concurrency: 8, Ordered: true}, func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("Ce-Id")
		key := int(id[0] - '0')
		if n := atOnce[key].Add(1); n > 1 {
			t.Errorf("%d events of partition %d are with the service", n, key)
		}
		defer atOnce[key].Add(-1)
		if id == "1-5" {
			if failed.Add(1) == 3 {
				j.ServeHTTP(w, r) // which is the end of it
			}
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		j.ServeHTTP(w, r)
	})
	until(t, "all are settled", func() bool { return empty(t, c, "ordered") })
	if err := r.end(); err != nil {
		t.Errorf("Run = %v", err)
	}
	j.inOrder(t, keys, events)
	// The others did not wait for the one.
	if at := slices.Index(j.ids, "1-6"); at != len(j.ids)-(events/keys-6) {
		t.Errorf("1-6 came at place %d of %d", at, len(j.ids))
	}
	reports, told := r.said()
	if len(reports) != events || failed.Load() != 3 {
		t.Errorf("%d reports, %d failures", len(reports), failed.Load())
	}
	for _, report := range reports {
		if want := report.ID == "1-5"; want != (report.Outcome == deliver.Rejected) || want && (report.Attempt != 3 || !strings.HasPrefix(report.Error, "maxdeliver: attempt 3 of 3 failed: 500 ")) {
			t.Errorf("a report is %+v", report)
		}
	}
	if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, "not exclusive") }) {
		t.Errorf("it told %q, and nothing of a subscription that is not exclusive", told)
	}
}

// What takes longer than the ack wait is extended, with the service and before it, and
// nobody else gets it.
func TestHeldEventsAreExtended(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	if _, _, err := c.PutSubscription(t.Context(), "slow", subscriber.DurableOptions{Topic: "a/*", AckWait: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "a/b", 0, 2, 2)
	var calls atomic.Int32
	r := newRun(t, &deliver.Agent{Client: c, Subscription: "slow", Concurrency: 1}, func(_ http.ResponseWriter, r *http.Request) {
		if calls.Add(1) > 1 {
			return
		}
		select {
		case <-time.After(6 * time.Second): // is how long the service takes for the first
		case <-r.Context().Done():
		}
	})
	until(t, "all are settled", func() bool { return empty(t, c, "slow") })
	if err := r.end(); err != nil {
		t.Errorf("Run = %v", err)
	}
	reports, _ := r.said()
	for _, report := range reports {
		if report.Outcome != deliver.Acked || report.Attempt != 1 {
			t.Errorf("a report is %+v", report)
		}
	}
	if calls.Load() != 2 || len(reports) != 2 {
		t.Errorf("the service was called %d times for 2 events", calls.Load())
	}
}

// An agent that is to stop finishes what is with the service, acks it, gives back the
// rest, and begins nothing.
func TestStop(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	if _, _, err := c.PutSubscription(t.Context(), "stopped", subscriber.DurableOptions{Topic: "a/*"}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "a/b", 0, 10, 10)
	began, proceed := make(chan bool, 10), make(chan struct{})
	r := newRun(t, &deliver.Agent{Client: c, Subscription: "stopped", Concurrency: 2}, func(http.ResponseWriter, *http.Request) {
		began <- true
		<-proceed
	})
	<-began
	<-began
	r.stop()
	until(t, "the rest is given back", func() bool {
		s, err := c.Subscription(t.Context(), "stopped")
		return err == nil && s.Redelivered >= 2
	})
	close(proceed)
	if err := r.end(); err != nil {
		t.Errorf("Run = %v", err)
	}
	reports, _ := r.said()
	if len(reports) != 2 || len(began) != 0 {
		t.Errorf("there were %d reports, and %d more requests", len(reports), len(began))
	}
	var s schemas.Subscription
	defer func() {
		if t.Failed() {
			t.Logf("the subscription is at last %+v", s)
		}
	}()
	until(t, "nobody has it open", func() bool {
		var err error
		s, err = c.Subscription(t.Context(), "stopped")
		return err == nil && s.Subscribers == 0 && s.Pending+uint64(s.Unsettled) == 8
	})
}

// A subscription that is deleted ends the agent with the gateway's word.
func TestDeletedSubscription(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	var j journal
	r := newRun(t, &deliver.Agent{Client: c, Subscription: "short", Options: subscriber.DurableOptions{Topic: "a/*"}, Concurrency: 2}, j.ServeHTTP)
	until(t, "it is there", func() bool {
		s, err := c.Subscription(t.Context(), "short")
		return err == nil && s.Subscribers == 1
	})
	if err := c.DeleteSubscription(t.Context(), "short"); err != nil {
		t.Fatal(err)
	}
	r.working.Wait()
	if err := r.end(); err == nil || !strings.Contains(err.Error(), "subscription") {
		t.Errorf("Run = %v, want the refusal", err)
	}
}

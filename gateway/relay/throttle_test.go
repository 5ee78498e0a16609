package relay

import (
	"slices"
	"testing"
	"time"
)

// A client that connects again twice for each failure, as hyco-ws does, is answered a
// few times a second at most, for a quarter of an hour on end, and at every moment its
// next answer is near, so that it is back soon once it is well.
func TestThrottleRationsAnswers(t *testing.T) {
	var th throttle
	th.init()
	key := throttleKey{"192.0.2.1", entity{"default", "name"}}
	type held struct {
		at time.Time
		w  *waiter
	}
	start := time.Unix(1_000_000, 0)
	now := start
	var waiting []held
	answers := map[int64]int{}
	arrive := 1
	var latest time.Time
	for now.Before(start.Add(15 * time.Minute)) {
		for range arrive {
			w := th.failed(key, now, false)
			if w == nil {
				answers[now.Unix()-start.Unix()]++
				waiting = append(waiting, held{now, nil})
				continue
			}
			waiting = append(waiting, held{now.Add(w.hold), w})
		}
		slices.SortStableFunc(waiting, func(a, b held) int { return a.at.Compare(b.at) })
		next := waiting[0]
		waiting = waiting[1:]
		if next.w != nil {
			if gap := next.at.Sub(latest); !latest.IsZero() && gap > throttleHold {
				t.Fatalf("%v after the start there was no answer for %v", next.at.Sub(start), gap)
			}
			latest = next.at
			th.done(key, next.w)
			answers[next.at.Unix()-start.Unix()]++
		}
		now, arrive = next.at, 2
	}
	for second, n := range answers {
		if n > int(throttleHold/throttlePace)+throttleFree {
			t.Errorf("%d answers in second %d", n, second)
		}
		if second > 60 && n > 2 {
			t.Errorf("%d answers in second %d, when it is known", n, second)
		}
	}
	if len(waiting) >= throttleWaiting {
		t.Errorf("%d handshakes wait", len(waiting))
	}
	// another address or name has nothing to do with it
	for _, other := range []throttleKey{{"192.0.2.2", key.entity}, {key.address, entity{"default", "other"}}, {key.address, entity{"other", "name"}}} {
		if w := th.failed(other, now, false); w != nil {
			t.Errorf("the first failure of %v waits for %v", other, w.hold)
		}
	}
	// one that succeeds lets some go, and the failures are forgotten when none waits
	th.succeeded(key)
	released := 0
	for _, h := range waiting {
		select {
		case <-h.w.release:
			released++
		default:
		}
		th.done(key, h.w)
	}
	if released != throttleRelease {
		t.Errorf("a success lets %d go, want %d", released, throttleRelease)
	}
	th.sweep(now.Add(throttleForget))
	if len(th.known) != 0 || th.waiting != 0 {
		t.Errorf("%d addresses are known and %d wait when all is over", len(th.known), th.waiting)
	}
}

// A listener that is one too many waits longer: others serve its name.
func TestThrottleFull(t *testing.T) {
	var th throttle
	th.init()
	key := throttleKey{"192.0.2.1", entity{"default", "name"}}
	now := time.Unix(1_000_000, 0)
	for i, want := range []time.Duration{0, throttleHold, throttleHold + throttleFull, throttleHold + 2*throttleFull} {
		w := th.failed(key, now, true)
		got := time.Duration(0)
		if w != nil {
			got = w.hold
		}
		if got != want {
			t.Errorf("failure %d is answered after %v, want %v", i, got, want)
		}
	}
}

// The memory of the throttle is bounded.
func TestThrottleIsBounded(t *testing.T) {
	var th throttle
	th.init()
	now := time.Unix(1_000_000, 0)
	for n := range throttleMost + 1000 {
		key := throttleKey{string(rune(n)), entity{"default", "name"}}
		th.failed(key, now, false)
	}
	if len(th.known) > throttleMost {
		t.Errorf("%d addresses are remembered", len(th.known))
	}
	key := throttleKey{string(rune(0)), entity{"default", "name"}}
	for range throttleWaiting + 1000 {
		th.failed(key, now, false)
	}
	if th.waiting != throttleWaiting {
		t.Errorf("%d of one address wait, want %d", th.waiting, throttleWaiting)
	}
}

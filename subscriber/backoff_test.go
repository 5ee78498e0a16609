package subscriber

import (
	"slices"
	"testing"
	"time"
)

func TestBackoffGrowsUpToItsCap(t *testing.T) {
	b := backoff{base: time.Second, cap: 10 * time.Second}
	want := []time.Duration{
		time.Second, time.Second, time.Second, time.Second, time.Second,
		time.Second, time.Second, time.Second, time.Second, time.Second,
		1500 * time.Millisecond, 2250 * time.Millisecond, 3375 * time.Millisecond, 5062500 * time.Microsecond,
		7593750 * time.Microsecond, 10 * time.Second, 10 * time.Second,
	}
	for n, w := range want {
		if got := b.limit(n); got != w {
			t.Errorf("limit(%d) = %v, want %v", n, got, w)
		}
	}
	if got := b.limit(1 << 40); got != b.cap {
		t.Errorf("limit(1<<40) = %v, want %v", got, b.cap)
	}
}

func TestBackoffIsFullJitter(t *testing.T) {
	lowest := func(int64) int64 { return 0 }
	highest := func(n int64) int64 { return n - 1 }
	tests := []struct {
		name   string
		random func(int64) int64
		wait   func(backoff) time.Duration
		want   time.Duration
	}{
		{"at once", lowest, func(b backoff) time.Duration { return b.delay(3) }, 0},
		{"at the limit", highest, func(b backoff) time.Duration { return b.delay(3) }, 250 * time.Millisecond},
		{"not before the time told", lowest, func(b backoff) time.Duration { return b.after(5*time.Second, 0) }, 5 * time.Second},
		{"spread after the time told", highest, func(b backoff) time.Duration { return b.after(5*time.Second, 0) }, 5250 * time.Millisecond},
		{"drained, soonest", lowest, func(b backoff) time.Duration { return b.drained(3 * time.Second) }, 3 * time.Second},
		{"drained, latest", highest, func(b backoff) time.Duration { return b.drained(3 * time.Second) }, 6 * time.Second},
		{"told nothing", highest, func(b backoff) time.Duration { return b.drained(0) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := backoff{base: 250 * time.Millisecond, cap: 30 * time.Second, random: tt.random}
			if got := tt.wait(b); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A thousand clients that are cut off together, and try until their gateway is there
// again: no twentieth of the time from the first attempt to the last has more than 15 %
// of the attempts.
func TestBackoffSpreadsClients(t *testing.T) {
	const clients = 1000
	b := backoff{base: backoffBase, cap: backoffCap}
	for _, outage := range []time.Duration{100 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second} {
		var attempts []time.Duration
		for range clients {
			var at time.Duration
			for n := 0; n == 0 || at < outage; n++ {
				at += b.delay(n)
				attempts = append(attempts, at)
			}
		}
		slices.Sort(attempts)
		part := (attempts[len(attempts)-1] - attempts[0]) / 20
		most, from := 0, 0
		for i, at := range attempts {
			for at-attempts[from] > part {
				from++
			}
			most = max(most, i-from+1)
		}
		if most > len(attempts)*15/100 {
			t.Errorf("after an outage of %v a twentieth of the time has %d of %d attempts", outage, most, len(attempts))
		}
	}
}

// Ten attempts at an event take minutes, not seconds.
func TestBackoffOfAttemptsDoubles(t *testing.T) {
	for attempt, most := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second,
		9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		for range 100 {
			if d := Backoff(attempt); d < most/2 || d > most {
				t.Fatalf("Backoff(%d) = %v, want %v to %v", attempt, d, most/2, most)
			}
		}
	}
}

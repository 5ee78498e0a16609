package subscriber

import (
	"testing"
	"time"
)

func TestBackoffDoublesUpToItsCap(t *testing.T) {
	b := backoff{base: 250 * time.Millisecond, cap: 30 * time.Second}
	want := []time.Duration{
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
		4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second,
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
		{"at the limit", highest, func(b backoff) time.Duration { return b.delay(3) }, 2 * time.Second},
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

// A thousand clients that are cut off together: no twentieth of the window gets
// more than 15 % of them.
func TestBackoffSpreadsClients(t *testing.T) {
	const clients, parts = 1000, 20
	b := backoff{base: backoffBase, cap: backoffCap}
	var count [parts]int
	for range clients {
		count[min(int(b.delay(6)*parts/b.limit(6)), parts-1)]++
	}
	for i, n := range count {
		if n > clients*15/100 {
			t.Errorf("part %d of %d of the window has %d of %d clients", i, parts, n, clients)
		}
	}
}

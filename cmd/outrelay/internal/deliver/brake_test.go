package deliver

import (
	"slices"
	"testing"
	"time"
)

// A simulation is a service that is asked by up to 8 at once, with no end of events.
type simulation struct {
	brake
	open []simulated
}

type simulated struct {
	began, ends time.Time
	probe       bool
	answer      Answer
}

// run counts the requests in a time. answer says how each ends, and after how long.
func (b *simulation) run(from time.Time, long time.Duration, answer func(now time.Time) (Answer, time.Duration)) int {
	n := 0
	for now := from; now.Before(from.Add(long)); now = now.Add(10 * time.Millisecond) {
		for i := 0; i < len(b.open); {
			if r := b.open[i]; !r.ends.After(now) {
				b.ended(now, r.began, r.probe, r.answer)
				b.open = slices.Delete(b.open, i, i+1)
				continue
			}
			i++
		}
		for len(b.open) < 8 {
			if ok, _ := b.mayBegin(now); !ok {
				break
			}
			a, takes := answer(now)
			b.open = append(b.open, simulated{now, now.Add(takes), b.began(), a})
			n++
		}
	}
	return n
}

func TestBrake(t *testing.T) {
	const ms = time.Millisecond
	always := func(h health, takes, retryAfter time.Duration) func(time.Time) (Answer, time.Duration) {
		return func(time.Time) (Answer, time.Duration) { return Answer{health: h, RetryAfter: retryAfter}, takes }
	}
	for _, tt := range []struct {
		name        string
		answer      func(time.Time) (Answer, time.Duration)
		least, most int // requests in ten minutes
	}{
		{"works", always(working, 100*ms, 0), 40000, 50000},
		{"refuses", always(down, 0, 0), 20, 8 + 6 + 40},
		{"hangs", always(stalled, 5*time.Second, 0), 15, 8 + 6 + 40},
		{"fails", always(failing, 10*ms, 0), 20, 8 + 6 + 40},
		{"wants a minute", always(down, 10*ms, time.Minute), 9, 8 + 10},
		{"fails one in ten", func() func(time.Time) (Answer, time.Duration) {
			n := 0
			return func(time.Time) (Answer, time.Duration) {
				if n++; n%10 == 0 {
					return Answer{health: failing}, 100 * ms
				}
				return Answer{health: working}, 100 * ms
			}
		}(), 40000, 50000},
		{"lets one in ten time out", func() func(time.Time) (Answer, time.Duration) {
			n := 0
			return func(time.Time) (Answer, time.Duration) {
				if n++; n%10 == 0 {
					return Answer{health: stalled}, time.Second
				}
				return Answer{health: working}, 100 * ms
			}
		}(), 10000, 50000},
	} {
		var b simulation
		start := time.Now()
		if n := b.run(start, 10*time.Minute, tt.answer); n < tt.least || n > tt.most {
			t.Errorf("a service that %s was asked %d times in ten minutes, want %d to %d", tt.name, n, tt.least, tt.most)
		}
		// And once it works, it is soon at full speed again.
		later := start.Add(10 * time.Minute)
		if n := b.run(later, 2*time.Minute, always(working, 100*ms, 0)); n < 2000 {
			t.Errorf("a service that %s works again, and was asked %d times in two minutes", tt.name, n)
		}
	}
}

// Nothing is begun before a Retry-After is over, even where a request that began before it
// succeeds.
func TestBrakeHonoursRetryAfter(t *testing.T) {
	var b brake
	now := time.Now()
	early, late := b.began(), b.began()
	b.ended(now.Add(time.Second), now, early, Answer{health: down, RetryAfter: 10 * time.Second})
	b.ended(now.Add(2*time.Second), now, late, Answer{health: working})
	if ok, wait := b.mayBegin(now.Add(2 * time.Second)); ok || wait != 9*time.Second {
		t.Errorf("mayBegin = %v, %v; want 9 s more", ok, wait)
	}
	if ok, _ := b.mayBegin(now.Add(11 * time.Second)); !ok {
		t.Error("it may not begin when the time is over")
	}
}

// While the brake is on one request at a time passes.
func TestBrakeTriesOne(t *testing.T) {
	var b brake
	now := time.Now()
	if !b.ended(now, now, b.began(), Answer{health: down}) {
		t.Error("the brake is not put on")
	}
	for range 20 { // pauses grow up to the most
		if ok, wait := b.mayBegin(now); ok || wait <= 0 || wait > maxPause {
			t.Fatalf("mayBegin = %v, %v", ok, wait)
		}
		now = b.until
		if ok, _ := b.mayBegin(now); !ok {
			t.Fatal("no try after the pause")
		}
		probe := b.began()
		if ok, wait := b.mayBegin(now); ok || wait != 0 {
			t.Errorf("a second one may begin: %v, %v", ok, wait)
		}
		b.ended(now, now, probe, Answer{health: failing})
	}
	if b.until.Sub(now) < maxPause/2 {
		t.Errorf("the pause is %v after 20 tries", b.until.Sub(now))
	}
	now = b.until
	probe := b.began()
	if b.ended(now, now, probe, Answer{health: unknown}) || !b.on {
		t.Error("a request that was ended from here says something")
	}
	if !b.ended(now, now, b.began(), Answer{health: working}) || b.on {
		t.Error("a success does not release the brake")
	}
}

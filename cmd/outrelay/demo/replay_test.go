package demo

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// published records what Replay publishes.
type published struct {
	topics []string // of each event
	ids    []string
	times  []time.Duration // since the beginning
	runs   []int
}

func (p *published) publish(begin time.Time) Publish {
	return func(_ context.Context, topic string, events ...[]byte) (int, error) {
		for _, b := range events {
			e, err := schemas.ParseEvent(b)
			if err != nil {
				return 0, err
			}
			p.topics, p.ids, p.times = append(p.topics, topic), append(p.ids, e.ID()), append(p.times, time.Since(begin))
		}
		p.runs = append(p.runs, len(events))
		return len(events), nil
	}
}

func (p *published) check(t *testing.T, w []Quake) {
	t.Helper()
	if want := shares[0].expect(w); !slices.Equal(p.ids, want) {
		t.Errorf("Replay published %d events, want the %d of the week in their order", len(p.ids), len(want))
		return
	}
	for i, q := range w {
		if want := "quakes/" + q.Network; p.topics[i] != want {
			t.Errorf("event %s went to %s, want %s", q.ID, p.topics[i], want)
		}
	}
}

// At a speed every event goes out when it is due, to the moment.
func TestReplayKeepsTime(t *testing.T) {
	w := week(t)
	synctest.Test(t, func(t *testing.T) {
		var p published
		calls := 0
		n, err := Replay(t.Context(), p.publish(time.Now()), w, 3000, func(int, Quake) { calls++ })
		if n != len(w) || err != nil {
			t.Fatalf("Replay = %d, %v; want all %d", n, err, len(w))
		}
		p.check(t, w)
		for i, q := range w {
			due := time.Duration(float64(q.Time.Sub(w[0].Time)) / 3000)
			if p.times[i] != due {
				t.Errorf("event %d was published after %v, want %v", i, p.times[i], due)
			}
		}
		if calls != len(p.runs) {
			t.Errorf("progress was told %d times of %d publishes", calls, len(p.runs))
		}
	})
}

// At full speed neighbours of one topic share a publish, and no time passes.
func TestReplayAtFullSpeed(t *testing.T) {
	w := week(t)
	synctest.Test(t, func(t *testing.T) {
		var p published
		begin := time.Now()
		n, err := Replay(t.Context(), p.publish(begin), w, 0, func(int, Quake) {})
		if n != len(w) || err != nil {
			t.Fatalf("Replay = %d, %v; want all %d", n, err, len(w))
		}
		p.check(t, w)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("Replay waited for %v", waited)
		}
		if len(p.runs) >= len(w) || slices.Max(p.runs) > maxRun {
			t.Errorf("%d events went out in %d publishes of at most %d; want fewer publishes than events, of at most %d",
				len(w), len(p.runs), slices.Max(p.runs), maxRun)
		}
	})
}

// A publisher that fell behind makes up for it.
func TestReplayCatchesUp(t *testing.T) {
	w := week(t)
	synctest.Test(t, func(t *testing.T) {
		var p published
		begin := time.Now()
		record, first := p.publish(begin), true
		slow := func(ctx context.Context, topic string, events ...[]byte) (int, error) {
			if first {
				time.Sleep(time.Minute)
				first = false
			}
			return record(ctx, topic, events...)
		}
		if n, err := Replay(t.Context(), slow, w, 3000, func(int, Quake) {}); n != len(w) || err != nil {
			t.Fatalf("Replay = %d, %v; want all %d", n, err, len(w))
		}
		p.check(t, w)
		if took, want := time.Since(begin), offset(w, len(w)-1, 3000); took != want {
			t.Errorf("a replay that was held up for a minute at first took %v, want %v", took, want)
		}
	})
}

func TestReplayEnds(t *testing.T) {
	w := week(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var p published
		n, err := Replay(ctx, p.publish(time.Now()), w, 3000, func(int, Quake) {})
		if !errors.Is(err, context.DeadlineExceeded) || n != len(p.ids) || n == 0 || n == len(w) {
			t.Errorf("Replay with 10 s = %d of %d, %v; want those of the first 10 s and the end of its context", n, len(p.ids), err)
		}
		refusal := schemas.Problemf("draining", "The gateway is about to stop.")
		n, err = Replay(t.Context(), func(context.Context, string, ...[]byte) (int, error) { return 0, refusal }, w, 0, func(int, Quake) {})
		if n != 0 || !errors.Is(err, refusal) {
			t.Errorf("Replay to one that refuses = %d, %v; want its refusal", n, err)
		}
	})
}

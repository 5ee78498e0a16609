package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A subscriber whose connection is reset again and again, at random bytes, from a
// gateway that is stopped once and killed once, gets every event once, in the order
// in which they are stored, and no notice of a gap.
func TestResume(t *testing.T) {
	w := flood{publishers: 4, events: 2000, cuts: 20}
	limit := 2 * patience
	if soak() {
		w.events, w.cuts, limit = 20_000, 200, 15*patience
	}
	for _, tt := range []struct {
		name string
		sse  bool
	}{{"WebSocket", false}, {"server-sent events", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			w.run(t, ctx, tt.sse)
		})
	}
}

// A flood is what a subscriber has to come through.
type flood struct{ publishers, events, cuts int }

// ahead is by how many events the publishers may be ahead of the subscriber, so that
// resets come while events flow and not only while the log is read.
const ahead = 300

func (w flood) run(t *testing.T, ctx context.Context, sse bool) {
	t.Helper()
	random := chance(t)
	bodies, size := w.bodies(random)
	g := start(t)
	c := newCutter(t, strings.TrimPrefix(g.HTTP, "http://"))
	// All limits together are less than what is sent, so that each is reached.
	most, left := size/w.cuts, w.cuts
	c.cutting(func() int {
		if left == 0 {
			return -1
		}
		left--
		if random.IntN(5) == 0 {
			return 1 + random.IntN(min(400, most)) // in the handshake or soon after it
		}
		return 1 + random.IntN(most)
	})

	credit := make(chan struct{}, ahead)
	milestones := []chan struct{}{make(chan struct{}), make(chan struct{})} // a third, two thirds
	topic := g.topics("resume/one")                                         // g is the test's own to look at, for it starts it again
	stream := c.address() + "/topics/resume/*?from=earliest"
	if !sse {
		stream += "&positions=true"
	}
	f := &follower{endpoint: endpoint{name: "the subscriber", address: stream, sse: sse, client: httpClient(t)}}
	f.each = func(a arrival) (bool, error) {
		if a.notice() || a.empty || a.ID == "last" {
			return true, nil
		}
		<-credit // there is one for every event
		for i, reached := range milestones {
			if len(f.ids) == (i+1)*w.events/3 {
				close(reached)
			}
		}
		return true, nil
	}

	ctx, stop := context.WithCancel(ctx)
	fail := func(err error) { // of goroutines; the first is what counts
		if ctx.Err() != context.Canceled {
			t.Error(err)
		}
		stop()
	}
	var publishing, following sync.WaitGroup
	defer following.Wait()
	defer publishing.Wait()
	defer stop() // before the two are waited for
	following.Go(func() {
		if err := f.follow(ctx, "last"); err != nil {
			fail(err)
		}
	})
	for p, list := range bodies {
		client := httpClient(t)
		publishing.Go(func() {
			for _, b := range list {
				for range b.events {
					select {
					case credit <- struct{}{}:
					case <-ctx.Done():
						return
					}
				}
				if err := untilTaken(ctx, client, topic, b.contentType, b.text, b.events); err != nil {
					fail(fmt.Errorf("publisher %d: %w", p, err))
					return
				}
			}
		})
	}
	for i, reached := range milestones {
		select {
		case <-reached:
		case <-ctx.Done():
			t.FailNow()
		}
		if i == 0 {
			g.stop(t)
		} else {
			g.kill(t)
			if strings.Contains(g.output.String(), "DATA RACE") {
				t.Errorf("serve has a data race:\n%s", g.output)
			}
		}
		g.run(t)
	}
	publishing.Wait()
	if err := untilTaken(ctx, httpClient(t), topic, structured, sample("last"), 1); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	if t.Failed() {
		return
	}

	if got := c.count(); got != w.cuts {
		t.Errorf("%d connections were reset, want %d", got, w.cuts)
	}
	// A stream that was open ends by a reset, by the stop or by the kill, or not at all.
	if most := w.cuts + 3; f.opened > most {
		t.Errorf("the subscriber opened %d streams, want at most %d: some ended for no reason", f.opened, most)
	}
	log := g.stored(t, "resume/*", "limit", "1000")
	if d := difference(f.ids, log); d != "" {
		t.Errorf("the subscriber and the log differ: %s", d)
	}
	w.check(t, log)
}

// A body is what a publisher posts at once.
type body struct {
	text, contentType string
	events            int
}

// bodies are what each publisher posts, and how many bytes that is at least.
func (w flood) bodies(random *rand.Rand) (bodies [][]body, size int) {
	bodies = make([][]body, w.publishers)
	for p := range w.publishers {
		for n := 0; n < w.events/w.publishers; {
			b := body{contentType: structured, events: 1}
			if random.IntN(2) == 0 {
				b.contentType, b.events = batched, min(1+random.IntN(40), w.events/w.publishers-n)
			}
			var events []string
			for range b.events {
				n++
				events = append(events, fmt.Sprintf(`{"specversion":"1.0","id":"%d-%d","source":"/publisher/%[1]d","type":"sample","data":{"padding":"%[3]s"}}`,
					p, n, strings.Repeat("x", random.IntN(600))))
			}
			b.text = strings.Join(events, ",")
			size += len(b.text)
			if b.contentType == batched {
				b.text = "[" + b.text + "]"
			}
			bodies[p] = append(bodies[p], b)
		}
	}
	return bodies, size
}

// check wants the log to have every event once, each publisher's in their order.
func (w flood) check(t *testing.T, log []string) {
	t.Helper()
	of := map[string][]string{}
	for _, id := range log {
		publisher, _, _ := strings.Cut(id, "-")
		of[publisher] = append(of[publisher], id)
	}
	for p := range w.publishers {
		var want []string
		for n := range w.events / w.publishers {
			want = append(want, fmt.Sprintf("%d-%d", p, n+1))
		}
		if d := difference(of[fmt.Sprint(p)], want); d != "" {
			t.Errorf("of publisher %d the log has %s", p, d)
		}
	}
	if !slices.Equal(of["last"], []string{"last"}) || len(of) != w.publishers+1 {
		t.Errorf("the log has events of %d kinds, want those of %d publishers and the last", len(of), w.publishers)
	}
}

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// Two hundred subscribers of the Go client and two hundred of the one for JavaScript, whose
// gateway is stopped, and another time killed, and started again: each gets every event once and
// in order, and they do not come back all at once.
func TestRestartUnderSubscribers(t *testing.T) {
	const subscribers, before, after = 200, 20, 20 // so many of each client
	program := bare(t)
	for name, end := range map[string]func(*gateway, *testing.T){"stopped": (*gateway).stop, "killed": (*gateway).kill} {
		t.Run(name, func(t *testing.T) {
			g := launch(t, &gateway{bare: program})
			c, scriptsCutter := newCutter(t, hostport(t, g.HTTP)), newCutter(t, hostport(t, g.HTTP))
			scripts := startNode(t, nil)
			js[any](t, scripts, `(async () => {
				globalThis.ids = Array.from({ length: %d }, () => []);
				globalThis.faults = [];
				globalThis.streams = ids.map((all) => outrelay.subscribe(%q, { onEvent: (e) => all.push(e.id), onGap: (g) => faults.push(g) }));
				while (!streams.every((s) => s.state.phase === 'connected')) await new Promise((resolve) => setTimeout(resolve, 10));
			})()`, subscribers, scriptsCutter.address()+"/topics/restart/*")
			client, err := subscriber.New(subscriber.Config{Gateway: c.address()})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			defer cancel()
			var reading sync.WaitGroup
			defer reading.Wait()
			halfway := make(chan bool, subscribers)
			for n := range subscribers {
				stream, err := client.Subscribe(ctx, "restart/*", subscriber.SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				reading.Go(func() {
					defer stream.Close()
					for want := range before + after {
						if want == before {
							halfway <- true
						}
						d, err := stream.Next(ctx)
						if err != nil {
							t.Errorf("subscriber %d, before event %d: %v", n, want, err)
							return
						}
						if e, err := d.Event(); err != nil || e.ID() != fmt.Sprint(want) {
							t.Errorf("subscriber %d got event %v, %v; want %d", n, e.ID(), err, want)
							return
						}
					}
				})
			}
			publishNumbered(t, ctx, client, 0, before)
			for range subscribers {
				select {
				case <-halfway:
				case <-ctx.Done():
					t.Fatal("not all subscribers have the first events")
				}
			}
			jsWait(t, scripts, fmt.Sprintf("ids.every((all) => all.length >= %d)", before), "ids")
			mark, scriptsMark := c.mark(), scriptsCutter.mark()
			end(g, t)
			// Long enough that a moment in which this machine is busy does not count.
			both := func() (own, scripts []time.Time) { return c.attempts(mark), scriptsCutter.attempts(scriptsMark) }
			for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
				own, scripts := both()
				if min(len(own), len(scripts)) >= 7*subscribers {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("without a gateway there were %d attempts in Go and %d in JavaScript in %v", len(own), len(scripts), patience)
				}
			}
			g.run(t)
			publishNumbered(t, ctx, client, before, after)
			reading.Wait()
			jsWait(t, scripts, fmt.Sprintf("ids.every((all) => all.length >= %d)", before+after), "ids")
			if wrong := js[int](t, scripts, "ids.filter((all) => all.length !== %d || all.some((id, n) => id !== String(n))).length", before+after); wrong > 0 {
				t.Errorf("%d subscribers did not get each event once and in order: %v", wrong, js[any](t, scripts, "ids"))
			}
			if faults := js[[]any](t, scripts, "faults"); len(faults) > 0 {
				t.Errorf("subscribers were told of gaps: %v", faults)
			}
			js[any](t, scripts, "(streams.forEach((s) => s.close()), null)")
			own, others := both()
			checkSpread(t, "Go", own, subscribers)
			checkSpread(t, "JavaScript", others, subscribers)
			checkSpread(t, "both", slices.Concat(own, others), 2*subscribers)
		})
	}
}

func publishNumbered(t *testing.T, ctx context.Context, client *subscriber.Client, from, count int) {
	t.Helper()
	for n := range count {
		if _, err := client.PublishJSON(ctx, "restart/one", []byte(sample(fmt.Sprint(from+n)))); err != nil {
			t.Fatal(err)
		}
	}
}

// checkSpread wants clients to have tried at least once each, and no twentieth of the
// time from the first attempt to the last to have more than 15 % of the attempts.
// And those that come first do not come at one time, which the rest would hide.
func checkSpread(t *testing.T, whose string, attempts []time.Time, clients int) {
	t.Helper()
	if len(attempts) < clients {
		t.Errorf("%s: there were %d attempts of %d clients", whose, len(attempts), clients)
		return
	}
	window, most := spread(attempts)
	if first := attempts[clients-1].Sub(attempts[0]); first < 400*time.Millisecond {
		t.Errorf("%s: the first %d attempts came within %v, want them over most of a second", whose, clients, first)
	}
	var twentieths [20]int
	for _, at := range attempts {
		twentieths[min(int(20*at.Sub(attempts[0])/window), 19)]++
	}
	t.Logf("%s: %d clients made %d attempts in %v: %v; the busiest twentieth has %.1f %%",
		whose, clients, len(attempts), window.Round(time.Millisecond), twentieths, 100*most)
	if most > 0.15 {
		t.Errorf("%s: a twentieth of the time has %.1f %% of the attempts, want at most 15 %%", whose, 100*most)
	}
}

// spread is how long it is from the first attempt to the last, and what share of them
// the busiest twentieth of that has.
func spread(attempts []time.Time) (window time.Duration, most float64) {
	slices.SortFunc(attempts, time.Time.Compare)
	window = attempts[len(attempts)-1].Sub(attempts[0])
	from, count := 0, 0
	for i, at := range attempts {
		for at.Sub(attempts[from]) > window/20 {
			from++
		}
		count = max(count, i-from+1)
	}
	return window, float64(count) / float64(len(attempts))
}

// The check of the spread finds clients that come at once.
func TestSpreadFindsAHerd(t *testing.T) {
	begin := time.Now()
	var even, herd []time.Time
	for n := range 1000 {
		at := begin.Add(time.Duration(n) * time.Millisecond)
		even = append(even, at)
		if n < 160 {
			at = begin.Add(500*time.Millisecond + time.Duration(n)*time.Microsecond)
		}
		herd = append(herd, at)
	}
	if _, most := spread(even); most > 0.06 {
		t.Errorf("even attempts are said to have %.3f in a twentieth", most)
	}
	if _, most := spread(herd); most < 0.16 {
		t.Errorf("a herd is said to have %.3f in a twentieth", most)
	}
}

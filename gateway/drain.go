package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// drainLeast is how long /healthz says 503 before the gateway is gone, so that
	// who asks it every second has heard.
	drainLeast = time.Second
	// drainRetry is when a request that came too late may try again.
	drainRetry = time.Second
	// drainPace is how far apart the streams of a drain close on average, at most
	// over half the drain's time, so that they do not all connect elsewhere at once.
	drainPace = time.Millisecond
)

// drain takes nothing new, tells every stream to go, waits for what is under way
// until the deadline, and closes.
func (g *Gateway) drain() {
	began := time.Now()
	deadline := began.Add(g.config.Limits.DrainTimeout)

	// From here on publishes and streams get 503, and so does /healthz.
	g.mu.Lock()
	g.draining.Store(true)
	waiting := len(g.open) > 0
	g.mu.Unlock()

	// Every stream says so, and closes at a moment of its own.
	open := g.occupants()
	spread := min(time.Duration(len(open))*drainPace, g.config.Limits.DrainTimeout/2)
	for _, o := range open {
		after := time.Duration(rand.Int64N(int64(spread) + 1))
		o.drain(began.Add(after), after+rand.N(drainRetry))
	}

	// The relay's listeners go elsewhere; what they have begun goes on.
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var relay sync.WaitGroup
	if g.config.Relay != nil {
		relay.Go(func() { g.config.Relay.Drain(ctx) })
	}

	// The listeners stay open meanwhile, to say that this gateway is not the one.
	least := time.NewTimer(g.drainLeast)
	defer least.Stop()
	last := time.NewTimer(time.Until(deadline))
	defer last.Stop()
	if waiting {
		select {
		case <-g.emptied:
		case <-last.C:
		}
	}
	relay.Wait()
	<-least.C

	// Requests under way are answered; then, or at the deadline, all is cut.
	for _, s := range []*http.Server{g.public, g.plain} {
		if s.Shutdown(ctx) != nil {
			g.abandon()
			for _, o := range g.occupants() {
				o.cutOff()
			}
			s.Close()
		}
	}
	g.abandon()
	for _, o := range g.occupants() {
		o.cutOff()
	}
	g.tasks.Wait()
	g.management.Close()
}

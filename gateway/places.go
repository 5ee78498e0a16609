package gateway

import (
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// An occupant is what stays open longer than an answer takes: a stream, a session, a
// long poll. Its methods may be called from any goroutine and don't wait.
type occupant interface {
	// drain says that the gateway is about to stop: it tells the client, if there is a
	// way to, and ends at the time given.
	drain(at time.Time, retry time.Duration)
	// cutOff takes the connection away from a client that takes nothing.
	cutOff()
	// recheck ends what the present rules no longer cover.
	recheck()
}

// enter takes a place among the namespace's streams; leave gives it back.
func (g *Gateway) enter(namespace string, o occupant) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.takeLocked(namespace); err != nil {
		return err
	}
	g.open[o] = struct{}{}
	return nil
}

func (g *Gateway) leave(namespace string, o occupant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, o)
	g.streams[namespace]--
	if g.draining.Load() && len(g.open) == 0 {
		close(g.emptied)
	}
}

// takePlace takes a place for what an occupant has open besides itself; givePlace
// gives it back.
func (g *Gateway) takePlace(namespace string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.takeLocked(namespace)
}

func (g *Gateway) givePlace(namespace string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams[namespace]--
}

func (g *Gateway) takeLocked(namespace string) error {
	most := g.config.Limits.MaxStreams
	switch {
	case g.draining.Load():
		return errDraining()
	case g.streams[namespace] >= most:
		p := schemas.Problemf("rate", "The namespace has %d streams open, which is its limit.", most)
		p.RetryAfter = 5 * time.Second
		return p
	}
	g.streams[namespace]++
	return nil
}

// occupants lists what is open.
func (g *Gateway) occupants() []occupant {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]occupant, 0, len(g.open))
	for o := range g.open {
		list = append(list, o)
	}
	return list
}

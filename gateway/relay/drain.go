package relay

import (
	"context"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

const (
	// drainPause is how often a drain looks at what is left.
	drainPause = 20 * time.Millisecond
	// drainGoodbye is how long before the deadline of a drain what is left is told.
	drainGoodbye = 2 * time.Second
)

// Drain takes nothing new: no listener, and no sender for those of this gateway, which
// are told to connect elsewhere once they have answered what they hold. Joined pairs
// go on until shortly before ctx's deadline, then they are closed. It blocks until
// nothing is left, or ctx ends.
func (r *Relay) Drain(ctx context.Context) {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.halt()
	late := make(<-chan time.Time)
	if deadline, ok := ctx.Deadline(); ok {
		timer := time.NewTimer(time.Until(deadline) - drainGoodbye)
		defer timer.Stop()
		late = timer.C
	}
	ticker := time.NewTicker(drainPause)
	defer ticker.Stop()
	for over := false; ; {
		listeners, splices := r.open()
		if len(listeners)+len(splices)+r.requests() == 0 {
			return
		}
		for _, l := range listeners {
			l.drain(over)
		}
		if over {
			for _, s := range splices {
				r.start(func() { s.finish(&s.sides[0], schemas.CloseDrain, &s.sides[1], schemas.CloseDrain) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-late:
			over = true
		case <-ticker.C:
		}
	}
}

// open lists what is open.
func (r *Relay) open() (listeners []*listener, splices []*splice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.listeners {
		listeners = append(listeners, l)
	}
	for s := range r.splices {
		splices = append(splices, s)
	}
	return listeners, splices
}

// requests is how many HTTP requests are under way.
func (r *Relay) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.exchanges)
}

// drain ends the control channel once nobody waits for its listener, or now.
func (l *listener) drain(now bool) {
	l.mu.Lock()
	left, idle := l.left, len(l.accepted) == 0
	l.mu.Unlock()
	if !left {
		l.leave()
	} else if idle || now {
		l.end(schemas.CloseDrain)
	}
}

// Reload replaces the rules. Listeners on what no rule is about any more are closed.
func (r *Relay) Reload(rules map[string][]Rule) error {
	book, err := newRuleBook(rules)
	if err != nil {
		return err
	}
	r.rules.Store(book)
	listeners, _ := r.open()
	for _, l := range listeners {
		if book.find(l.entity) == nil {
			l.end(schemas.CloseDeleted)
		}
	}
	return nil
}

// watchRights looks at the rights of all listeners when the rules of access change,
// until ctx ends.
func (r *Relay) watchRights(ctx context.Context) {
	for {
		changed := r.access.Changed()
		listeners, _ := r.open()
		for _, l := range listeners {
			l.recheck()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// recheck ends the control channel if the present rules no longer cover it.
func (l *listener) recheck() {
	l.mu.Lock()
	old := l.grant
	l.mu.Unlock()
	if !old.Expires.IsZero() && !time.Now().Before(old.Expires) {
		return // its time is over anyway, or a new token is on its way
	}
	grant, err := l.relay.access.Refresh(old)
	if err == nil {
		err = grant.Allows(access.Ask{Action: access.Listen, Name: l.entity.name})
	}
	if err != nil {
		l.end(schemas.CloseRightLost)
		return
	}
	l.mu.Lock()
	if l.grant == old {
		l.grant = grant
	}
	l.mu.Unlock()
}

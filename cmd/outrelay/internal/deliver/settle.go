package deliver

import (
	"context"
	"errors"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A Report is what became of an event.
type Report struct {
	ID           string `json:"id"`
	Source       string `json:"source"`
	Subscription string `json:"subscription"`
	// Attempt counts the attempts at the event, from 1, this one included.
	Attempt int     `json:"attempt"`
	Outcome Outcome `json:"outcome"`
	// Status is that of the answer, or the command's exit code; nil without an answer.
	Status *int `json:"status,omitempty"`
	// Milliseconds is how long this attempt took.
	Milliseconds int64 `json:"ms"`
	// Error says why, for any outcome but acked.
	Error string `json:"error,omitempty"`
}

// settle tells the gateway what became of an event. A report with an outcome is made once
// it knows.
func (o *office) settle(e *entry, outcome Outcome, delay time.Duration, report Report) {
	e.state = settling
	if o.stopping && outcome == Released {
		o.returned[e.place] = true
	}
	o.settlers++
	o.settled++
	d := e.delivery
	o.outsource(func() func() {
		var err error
		for {
			switch outcome {
			case Acked:
				err = d.Ack(o.settling)
			case Rejected:
				err = d.Reject(o.settling, report.Error)
			case Released:
				err = d.Release(o.settling, delay)
			}
			var problem *schemas.Problem
			if !errors.As(err, &problem) || problem.Status() < 500 && problem.Name != "rate" || !pause(o.settling, askAgain) {
				break
			}
		}
		return func() {
			o.settlers--
			o.settled++
			o.told(e, d, outcome, delay, report, err)
		}
	})
}

// told is what the gateway answered to the settlement of a delivery.
func (o *office) told(e *entry, d subscriber.SubscriptionDelivery, outcome Outcome, delay time.Duration, report Report, err error) {
	again := e.delivery.Tag != d.Tag // it was handed out again meanwhile
	switch {
	case errors.Is(err, subscriber.ErrNotHeld) && again, err == nil && again && outcome == Acked:
		o.settle(e, outcome, delay, report)
		return
	case err == nil && again:
		o.report(e, report)
		e.state, e.attempt, e.notBefore = waiting, e.delivery.Attempt, time.Time{}
		if o.stopping {
			o.settle(e, Released, 0, Report{})
		}
		return
	case errors.Is(err, subscriber.ErrNotHeld) && outcome == Acked:
		err = nil // it was settled: the answer to that was lost with a connection
	case errors.Is(err, subscriber.ErrNotHeld) && o.Ordered && !o.stopping:
		e.state, e.lost = waiting, true // it is to come again, and until then in the way
		o.settleIn.begin(time.Now())
		return
	case errors.Is(err, subscriber.ErrNotHeld):
		err = nil
		if report.Outcome != "" {
			report.Outcome = Released // what it comes to in the end
		}
	}
	o.held.remove(e)
	if err == nil {
		o.report(e, report)
	} else if o.settling.Err() == nil && o.failed == nil {
		o.Tell("not settled: " + printable(err.Error(), maxWhy))
	}
}

func (o *office) report(e *entry, r Report) {
	if r.Outcome == "" {
		return
	}
	if e.event.Event != nil {
		r.ID, r.Source = e.event.ID(), e.event.Source()
	}
	r.Subscription = o.Subscription
	o.Report(r)
}

// extend begins the ack wait of an entry anew.
func (o *office) extend(e *entry) {
	e.extending = true
	d := e.delivery
	o.outsource(func() func() {
		before := o.sessions.Load()
		err := d.Extend(o.settling)
		same := before == o.sessions.Load()
		return func() {
			e.extending = false
			if e.delivery.Tag != d.Tag || e.state != waiting && e.state != busy {
				return
			}
			e.extendAt = time.Now().Add(o.ackWait / 3)
			switch {
			case err == nil && same:
				e.session = before
			case err == nil:
				e.extendAt = time.Now() // it can't be told for which connection that holds
			case errors.Is(err, subscriber.ErrNotHeld):
				o.lost(e)
			}
		}
	})
}

// lost notes that a delivery is not ours any more.
func (o *office) lost(e *entry) {
	e.lost = true
	switch {
	case o.Ordered:
		o.settleIn.begin(time.Now())
	case e.state == waiting:
		o.held.remove(e)
	}
}

// reconnected begins a new session: whether what is held is still ours must be asked.
func (o *office) reconnected() {
	if n := o.sessions.Load(); n != o.session {
		o.session = n
		now := time.Now()
		for _, e := range o.held.entries {
			if e.state == away { // it comes on this connection, if it is still to come
				e.state, e.lost = waiting, true
			}
			if e.session != n {
				e.extendAt = now
			}
		}
		if o.Ordered && !o.stopping {
			o.settleIn = settleIn{}
			o.settleIn.begin(now)
		}
	}
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

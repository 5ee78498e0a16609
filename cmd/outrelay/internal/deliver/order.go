package deliver

import (
	"fmt"
	"time"
)

const (
	// minLook and maxLook bound the time between two looks at the subscription.
	minLook = 20 * time.Millisecond
	maxLook = time.Second
	// settleSlack is how long beyond the ack wait everything may take to come again, and
	// sharedSlack how long at all where others have the subscription open too.
	settleSlack = time.Minute
	sharedSlack = 10 * time.Second
)

// A settleIn is the wait, where events are ordered, until everything that the gateway has
// handed out before is here.
//
// What was handed out on a connection that is gone comes again: at once where the gateway
// saw the connection end, when its ack wait is over where the gateway itself was killed.
// Newer events may come before it. So nothing is begun until the gateway counts as many
// events handed out and not settled as are held here; then each event that is held has
// all of its predecessors beside it, or they are settled. As long as it lasts only
// requests that are under way end, and a count during which one is settled says nothing.
//
// Where the newer events use up the credit, the oldest could not come any more. Then as
// many of the newest as are missing are released. They are known to be away, so that what
// comes after them in their partitions waits for them.
type settleIn struct {
	on      bool
	since   time.Time
	lookAt  time.Time
	every   time.Duration
	looking bool
	freed   bool // some of the newest were released
}

func (s *settleIn) begin(now time.Time) {
	if !s.on {
		*s = settleIn{on: true, since: now, lookAt: now, every: minLook, looking: s.looking}
	}
}

// advance looks, when it is time.
func (s *settleIn) advance(o *office, now time.Time, due func(time.Time) bool) {
	if !s.on || s.looking || !due(s.lookAt) {
		return
	}
	s.looking = true
	session, here, moved := o.session, o.here(), o.settled
	quiet := o.settlers == 0
	o.outsource(func() func() {
		about, err := o.Client.Subscription(o.settling, o.Subscription)
		return func() {
			o.settleIn.looking = false
			s, now := &o.settleIn, time.Now()
			s.lookAt, s.every = now.Add(s.every), min(2*s.every, maxLook)
			if err == nil {
				err = o.learn(about)
			}
			if err != nil || session != o.session || !s.on {
				return
			}
			handedOut := about.Unsettled + about.Delayed
			if quiet && moved == o.settled && handedOut == here {
				o.settledIn()
				return
			}
			if quiet && here > handedOut { // some have been settled: to be found out now
				o.askForAll(now)
			}
			wait := o.ackWait + settleSlack
			if !about.Exclusive && about.Subscribers > 1 {
				wait = min(wait, sharedSlack)
			}
			switch {
			case now.Sub(s.since) > wait:
				o.Tell(fmt.Sprintf("of %d events handed out earlier %d have not come again; what comes next may overtake them", handedOut, max(handedOut-here, 0)))
				o.settledIn()
			case !s.freed && quiet && here >= o.credit && handedOut > here && now.Sub(s.since) > o.ackWait+2*askAgain:
				s.freed = true
				o.free(handedOut - here)
			}
		}
	})
}

// here counts the events that the gateway has handed out, that are not settled, and that
// are known here.
func (o *office) here() int {
	n := 0
	for _, e := range o.held.entries {
		if e.session == o.session && !e.lost && e.state != settling {
			n++
		}
	}
	return n
}

// askForAll has it asked of everything that waits whether it is still ours.
func (o *office) askForAll(now time.Time) {
	for _, e := range o.held.entries {
		if e.extends() {
			e.extendAt = now
		}
	}
}

// free releases up to n of the newest, but none on its last attempt.
func (o *office) free(n int) {
	for i := len(o.held.entries) - 1; i >= 0 && n > 0; i-- {
		e := o.held.entries[i]
		if e.state != waiting || e.lost || e.attempt >= o.maxDeliver {
			continue
		}
		n--
		e.state, e.extendAt = away, time.Now().Add(o.ackWait+settleSlack)
		d := e.delivery
		o.outsource(func() func() {
			err := d.Release(o.settling, 0)
			return func() {
				if err != nil && e.state == away && e.delivery.Tag == d.Tag {
					e.state, e.lost = waiting, true
				}
			}
		})
	}
}

// settledIn ends the wait. What is not ours any more has been settled.
func (o *office) settledIn() {
	o.settleIn.on = false
	for _, e := range o.held.all() {
		if e.state == waiting && (e.lost || e.session != o.session) {
			o.held.remove(e)
		}
	}
}

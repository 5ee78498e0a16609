package broker

import (
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// A delivery is one attempt that this gateway made or is about to make. Its fields
// but the first group are guarded by its durable's lock.
type delivery struct {
	sequence, attempt uint64
	subject           string // where it is settled
	stored, arrived   time.Time

	since    time.Time   // it is unsettled: its arrival, or when it was extended
	holder   *Subscriber // nil: nobody's credit
	order    uint64      // of handing out to its holder
	message  *nats.Msg   // until it is handed out
	settling bool        // somebody settles it now
	over     bool        // settled or gone back
}

// hold takes in a delivery that arrived. The lock is held.
func (d *durable) hold(v *delivery) {
	d.handed[v.sequence] = v
	delete(d.delayed, v.sequence)
	d.age(v)
}

// age puts a delivery at the end of those that will lapse. The lock is held.
func (d *durable) age(v *delivery) {
	if len(d.ages) == 0 {
		d.broker.lapses.schedule(d, v.since.Add(d.def.AckWait))
	}
	d.ages = append(d.ages, aging{v, v.since})
	if len(d.ages) > 2*len(d.handed)+64 {
		d.ages = slices.DeleteFunc(d.ages, aging.stale)
	}
}

// An aging is a delivery's place in the order of lapsing.
type aging struct {
	*delivery
	at time.Time // since, unless it was extended
}

func (a aging) stale() bool { return a.over || !a.since.Equal(a.at) }

// drop ends a delivery and gives its holder the credit back. The lock is held.
func (d *durable) drop(v *delivery) {
	if v.over {
		return
	}
	v.over = true
	if d.handed[v.sequence] == v {
		delete(d.handed, v.sequence)
	}
	s := v.holder
	if s == nil {
		return
	}
	if v.message != nil {
		if i := slices.Index(s.buffer, v); i >= 0 { // else it is about to be handed out, on credit
			s.buffer = slices.Delete(s.buffer, i, i+1)
			s.bytes -= len(v.message.Data)
			v.message = nil
			s.top()
			return
		}
	}
	s.out--
	s.trim()
	s.top()
}

// finish ends an event: it is dealt with, or is a dead letter. The lock is held.
func (d *durable) finish(sequence uint64) {
	if v := d.handed[sequence]; v != nil {
		d.drop(v)
	}
	delete(d.delayed, sequence)
	delete(d.spared, sequence)
	d.past.add(sequence, 0)
}

// giveBack ends a delivery that was not settled. The event is handed out again, or
// is a dead letter if that was its last attempt. The lock is held.
func (d *durable) giveBack(v *delivery) {
	if v.message != nil { // it never was handed out: that was no attempt
		d.drop(v)
		if len(d.spared) < maxSpared {
			d.spared[v.sequence]++
		}
		d.post(v.subject, "", sendNak)
		return
	}
	d.drop(v)
	if d.lastAttempt(v.attempt) {
		d.bury(v.sequence, v.attempt, v.subject, reasonAttempts, nil)
		return
	}
	d.post(v.subject, "", sendNak)
}

// maxSpared bounds the events whose attempts JetStream counts too high.
const maxSpared = 1024

func (d *durable) lastAttempt(attempt uint64) bool { return attempt >= uint64(d.def.MaxDeliver) }

// lapse gives back what has not been settled in time, and returns when the next is
// due; zero if nothing is unsettled.
func (d *durable) lapse(now time.Time) (next time.Time) {
	d.mu.Lock()
	defer d.unlock()
	for len(d.ages) > 0 && d.ages[0].stale() {
		d.ages = d.ages[1:]
	}
	for _, a := range d.ages {
		if a.stale() || a.settling {
			continue
		}
		due := a.since.Add(d.def.AckWait)
		if due.After(now) {
			return due
		}
		d.counts().lapsed.Add(1)
		if now.After(due.Add(ackSlack/2)) && !d.lastAttempt(a.attempt) {
			d.drop(a.delivery) // so late that the consumer may have handed it out again
			continue
		}
		d.giveBack(a.delivery)
	}
	if len(d.ages) > 0 { // being settled: look again
		return now.Add(d.def.AckWait)
	}
	return time.Time{}
}

// A past remembers the newest deliveries that were settled, so that a second
// settlement of one is unknown.
type past struct {
	known map[pastKey]struct{}
	ring  []pastKey
	next  int
}

type pastKey struct {
	sequence, attempt uint64 // attempt 0: all
}

// maxPast bounds what is remembered for a subscription: about 50 bytes each.
const maxPast = 1024

func (p *past) add(sequence, attempt uint64) {
	k := pastKey{sequence, attempt}
	if _, ok := p.known[k]; ok {
		return
	}
	if p.known == nil {
		p.known = map[pastKey]struct{}{}
	}
	p.known[k] = struct{}{}
	if len(p.ring) < maxPast {
		p.ring = append(p.ring, k)
		return
	}
	delete(p.known, p.ring[p.next])
	p.ring[p.next] = k
	p.next = (p.next + 1) % maxPast
}

func (p *past) has(sequence, attempt uint64) bool {
	if _, ok := p.known[pastKey{sequence, 0}]; ok {
		return true
	}
	_, ok := p.known[pastKey{sequence, attempt}]
	return ok
}

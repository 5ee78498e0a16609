package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// Settings of a subscriber's pulls. One at a time is open, for all the credit that
// there is; what is settled meanwhile goes into the next.
const (
	deliverExpires   = 30 * time.Second
	deliverHeartbeat = 5 * time.Second
	// deliverSilence without a sign of life means that the pull was lost.
	deliverSilence = 5 * deliverHeartbeat / 2
	// refreshInterval is how often a busy subscriber looks whether the subscription is
	// still what it was, should a change not have been heard of.
	refreshInterval = time.Minute
)

// A pullRequest asks a consumer for messages (NATS's JetStream API).
type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	NoWait    bool          `json:"no_wait,omitempty"`
}

// top has what the credit allows be pulled, if nothing is on its way, once the lock is
// given back. The lock is held.
func (s *Subscriber) top() {
	if !s.thirsty {
		s.thirsty = true
		s.durable.thirsty = append(s.durable.thirsty, s)
	}
}

// drink is top now. The lock is held.
func (s *Subscriber) drink() {
	d := s.durable
	s.thirsty = false
	free := s.credit - s.out - len(s.buffer)
	if s.open > 0 || free <= 0 || s.bytes > d.broker.config.Limits.SubscriberBytes/2 ||
		s.receiving || s.closed || s.fault != "" || d.gone || !d.mayPull(s) {
		return
	}
	r := pullRequest{Batch: free, Expires: d.pullLife(deliverExpires)}
	if r.Expires > 2*deliverHeartbeat {
		r.Heartbeat = deliverHeartbeat
	}
	s.ask(r)
}

// pullLife is how long a pull may wait: at most as said, and so short that the consumer
// hears of its use in time. JetStream counts from the beginning of a pull that is given up
// when it looks whether nobody has used the consumer for long. The lock is held.
func (d *durable) pullLife(most time.Duration) time.Duration {
	return min(most, d.def.Expires/4)
}

// ask opens a pull. The lock is held.
func (s *Subscriber) ask(r pullRequest) {
	d := s.durable
	if limit := d.broker.config.Limits.SubscriberBytes; r.Batch > limit/maxStored {
		r.MaxBytes = limit
	}
	request, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers can be written
	}
	s.pull++
	s.open, s.heard = r.Batch, time.Now()
	d.post("$JS.API.CONSUMER.MSG.NEXT."+d.namespace.log.stream+"."+d.consumer,
		s.inlet.base+"."+strconv.FormatUint(s.pull, 10), request)
}

// maxStored lies above the size of any stored message with what NATS adds.
const maxStored = schemas.MaxEvent + 16<<10

// arrive takes a message that came for the subscriber.
func (s *Subscriber) arrive(in *inlet, m *nats.Msg) {
	d := s.durable
	d.mu.Lock()
	defer d.unlock()
	current := in == s.inlet
	if status := m.Header.Get("Status"); status != "" {
		// Its subject is the inbox of the pull that it belongs to.
		if current = current && strings.TrimPrefix(m.Subject, in.base+".") == strconv.FormatUint(s.pull, 10); !current {
			return
		}
		s.heard = time.Now()
		if status != "100" {
			s.open = 0
			// 404, 408: there was no more, in its time. The rest must begin anew.
			if d := m.Header.Get("Description"); status != "404" && status != "408" && !strings.Contains(d, "MaxBytes") && !strings.Contains(d, "Batch Completed") {
				s.fail(status + " " + d)
			}
			s.signal()
		}
		return
	}
	s.came++
	if current { // one pull is open at a time, so it is of that one
		s.heard = time.Now()
		s.open = max(0, s.open-1)
	}
	meta, err := m.Metadata()
	if err != nil {
		d.broker.logger.Error("a delivery of NATS can't be read", "subscription", d.name, "error", err)
		return
	}
	if d.gone || meta.Consumer != d.consumer {
		return // it was moved: what was handed out before is forgotten
	}
	v := &delivery{
		sequence: meta.Sequence.Stream, subject: m.Reply,
		attempt: meta.NumDelivered - min(d.spared[meta.Sequence.Stream], meta.NumDelivered-1),
		holder:  s, message: m, stored: meta.Timestamp, arrived: time.Now(),
	}
	v.since = v.arrived
	if older := d.handed[v.sequence]; older != nil {
		d.drop(older) // this gateway was too slow to give it back
	}
	switch {
	case d.burying[v.sequence] != nil:
	case v.attempt > uint64(d.def.MaxDeliver): // whoever handed out the last attempt is gone
		d.bury(v.sequence, v.attempt-1, v.subject, reasonAttempts, nil)
	case s.closed:
		v.holder = nil
		d.giveBack(v)
	default:
		d.hold(v)
		s.buffer = append(s.buffer, v)
		s.bytes += len(m.Data)
		s.signal()
		return
	}
	s.top()
	s.signal()
}

// fail makes Next begin pulling anew. The lock is held.
func (s *Subscriber) fail(why string) {
	s.fault, s.open = why, 0
	s.signal()
}

// breakOff is fail for whoever doesn't hold the lock.
func (s *Subscriber) breakOff(in *inlet, why string) {
	d := s.durable
	d.mu.Lock()
	defer d.unlock()
	if in == s.inlet {
		s.fail(why)
		d.claim.checked = false
	}
}

// keepPulling sees that a pull is open if the credit allows one, and returns how long
// Next may wait before it calls again.
func (s *Subscriber) keepPulling(ctx context.Context) (time.Duration, error) {
	d := s.durable
	d.mu.Lock()
	silent := time.Since(s.heard)
	if s.open > 0 && silent > deliverSilence {
		s.fail("silence")
	}
	fault, stale := s.fault, time.Since(d.asked) > refreshInterval
	d.mu.Unlock()
	if fault != "" || stale {
		if err := s.heal(ctx, fault); err != nil {
			return 0, err
		}
	}
	if wait, err := d.activate(ctx, s); wait != 0 || err != nil {
		return wait, err
	}
	d.mu.Lock()
	defer d.unlock()
	s.drink()
	if s.open > 0 {
		return deliverSilence, nil
	}
	return refreshInterval, nil
}

// faultNew is the fault of a subscriber that has not pulled yet.
const faultNew = "new"

// heal asks whether the subscription is still there and begins pulling anew.
func (s *Subscriber) heal(ctx context.Context, fault string) error {
	d := s.durable
	if fault != faultNew {
		if s.backoff = 2 * s.backoff; time.Since(s.renewed) > maxHeal {
			s.backoff = 0
		} else if err := waitFor(ctx, d.broker.ctx, min(max(s.backoff, minHeal), maxHeal)); err != nil {
			return err
		} else {
			s.backoff = min(max(s.backoff, minHeal), maxHeal)
		}
		if _, err := d.ask(ctx); err != nil {
			if ctx.Err() == nil && d.broker.ctx.Err() == nil {
				d.broker.logger.Info("subscription can't be asked for", "subscription", d.name, "error", err)
			}
			return err
		}
		if fault == "" {
			return nil
		}
		d.broker.logger.Debug("subscriber pulls anew", "namespace", d.namespace.name, "subscription", d.name, "reason", fault)
	}
	s.renewed = time.Now()
	return s.renew()
}

// renew begins anew with another inlet: what the old one asked for must not come on
// top of what the new one asks for.
func (s *Subscriber) renew() error {
	d := s.durable
	in, err := d.line.open(s)
	if err != nil {
		return fmt.Errorf("inbox: %w", err)
	}
	d.mu.Lock()
	old := s.inlet
	if s.closed {
		old = in
	} else {
		s.inlet, s.fault, s.open, s.pull = in, "", 0, 0
	}
	d.mu.Unlock()
	s.leave(old)
	return nil
}

// leave ends an inlet that is used no more; nil is none.
func (s *Subscriber) leave(in *inlet) {
	if d := s.durable; in != nil {
		d.line.stop(in)
		d.broker.start(func(ctx context.Context) { d.line.drain(ctx, in) })
	}
}

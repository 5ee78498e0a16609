package broker

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// ReceiveOptions say what [Broker.Receive] takes.
type ReceiveOptions struct {
	Max  int           // 1 to [MaxReceive]
	Wait time.Duration // at most [MaxReceiveWait]; 0: what is there now
	// Allow is as in [SubscriberOptions].
	Allow func(SubscriptionOptions) error
}

// Receive hands out deliveries without an open session, for plain HTTP: as soon as
// there are some, up to Max, or none once Wait is over. They are unsettled for AckWait
// whatever becomes of the caller. If ctx ends first they go back, an attempt used. On
// an exclusive subscription it counts as a subscriber while it runs.
func (b *Broker) Receive(ctx context.Context, namespace, name string, o ReceiveOptions) ([]SubscriptionDelivery, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return nil, err
	}
	if o.Max < 1 || o.Max > MaxReceive {
		return nil, schemas.Problemf("parameter", "max is %d; write 1 to %d.", o.Max, MaxReceive)
	}
	if o.Wait < 0 || o.Wait > MaxReceiveWait {
		return nil, schemas.Problemf("parameter", "wait is %s; write 0s to %s.", o.Wait, MaxReceiveWait)
	}
	d, err := ns.subscriptions.find(ctx, name)
	if err == nil && o.Allow != nil {
		d.mu.Lock()
		options := d.def.options()
		d.mu.Unlock()
		err = o.Allow(options)
	}
	if err != nil {
		return nil, b.errStorage("receive", err)
	}
	out, err := d.receive(ctx, o)
	if err != nil {
		return nil, b.errStorage("receive", err)
	}
	return out, nil
}

// receivePatience bounds the look at what is there, beyond the caller's wait: NATS may
// be slow, and a filter may let nothing through of very much.
const receivePatience = 2 * time.Second

func (d *durable) receive(ctx context.Context, o ReceiveOptions) ([]SubscriptionDelivery, error) {
	s := d.newSubscriber(o.Max, true)
	defer s.Close()
	until := time.Now().Add(o.Wait)
	patience := until.Add(receivePatience)
	for delay := minHeal; ; {
		standby, err := s.ready(ctx)
		if err == nil && standby == 0 {
			out, came, failed := s.receiveNow(ctx, o.Max)
			if len(out) > 0 {
				return s.fill(ctx, out, came, o.Max), nil
			}
			if err = failed; err == nil && came == 0 && time.Now().Before(until) {
				if out, came, err = s.receiveNext(ctx, o.Max, until); len(out) > 0 {
					return s.fill(ctx, out, came, o.Max), nil
				}
			}
			if err == nil && came > 0 && ctx.Err() == nil && time.Now().Before(patience) {
				continue // what came did not pass; there may be more
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ended := s.ended(); ended != nil {
			return nil, ended
		}
		now := time.Now()
		if !now.Before(until) {
			return nil, err
		}
		if err != nil {
			standby, delay = delay, min(2*delay, maxHeal)
		}
		s.await(ctx, earlier(now.Add(standby), until), func() bool { return false })
	}
}

// fillPatience bounds the look behind a first delivery for more; the caller waits, and
// its ackwait runs.
const fillPatience = 100 * time.Millisecond

// fill takes what else is there, up to limit, where some of those that came with out did
// not pass: the place they left is for those behind them.
func (s *Subscriber) fill(ctx context.Context, out []SubscriptionDelivery, came, limit int) []SubscriptionDelivery {
	s.durable.mu.Lock()
	until := time.Now().Add(min(fillPatience, s.durable.def.AckWait/4))
	s.durable.mu.Unlock()
	for passed := len(out); came > passed && len(out) < limit && ctx.Err() == nil && time.Now().Before(until); {
		more, n, err := s.receiveNow(ctx, limit-len(out))
		if err != nil && ctx.Err() == nil {
			s.durable.broker.logger.Debug("receive", "subscription", s.durable.name, "error", err)
		}
		out, came, passed = append(out, more...), n, len(more)
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ready makes sure that s can pull; a standby says when to look again whether it may.
func (s *Subscriber) ready(ctx context.Context) (standby time.Duration, err error) {
	d := s.durable
	d.mu.Lock()
	fault := s.fault
	d.mu.Unlock()
	if fault != "" {
		if err := s.heal(ctx, fault); err != nil {
			return 0, err
		}
	}
	return d.activate(ctx, s)
}

// receiveNow hands out what is there. came is how many came, whether they passed or
// not.
func (s *Subscriber) receiveNow(ctx context.Context, limit int) (out []SubscriptionDelivery, came int, err error) {
	before := s.pullOnce(pullRequest{Batch: limit, NoWait: true})
	if !s.await(ctx, time.Now().Add(receivePatience), func() bool { return s.open == 0 }) {
		return nil, 0, s.unanswered()
	}
	if out, err = s.take(ctx, limit); err == nil {
		err = s.faulted()
	}
	return out, s.cameSince(before), err
}

// receiveNext waits for something to come and hands it out with what else is there
// then. It asks for one: a pull that is given up may have been given something.
func (s *Subscriber) receiveNext(ctx context.Context, limit int, until time.Time) (out []SubscriptionDelivery, came int, err error) {
	s.durable.mu.Lock()
	r := pullRequest{Batch: 1, Expires: max(s.durable.pullLife(time.Until(until)), time.Millisecond)}
	s.durable.mu.Unlock()
	if r.Expires > 2*deliverSilence {
		r.Heartbeat = deliverHeartbeat
	}
	before := s.pullOnce(r)
	for end := until.Add(receivePatience); ; {
		lost := func() bool { return r.Heartbeat > 0 && time.Since(s.heard) > deliverSilence }
		if s.await(ctx, earlier(end, time.Now().Add(deliverHeartbeat)), func() bool { return s.open == 0 || lost() }) {
			break
		}
		if ctx.Err() != nil || !time.Now().Before(end) {
			return nil, 0, s.unanswered()
		}
	}
	if out, err = s.take(ctx, limit); err == nil {
		err = s.faulted()
	}
	if len(out) == 1 && limit > 1 {
		more, _, failed := s.receiveNow(ctx, limit-1)
		if out = append(out, more...); failed != nil && ctx.Err() == nil {
			s.durable.broker.logger.Debug("receive", "subscription", s.durable.name, "error", failed)
		}
	}
	return out, s.cameSince(before), err
}

// unanswered gives a pull up.
func (s *Subscriber) unanswered() error {
	s.durable.mu.Lock()
	defer s.durable.mu.Unlock()
	s.fail("no answer")
	return nats.ErrTimeout
}

// faulted says why the pull failed, if it did.
func (s *Subscriber) faulted() error {
	s.durable.mu.Lock()
	defer s.durable.mu.Unlock()
	if s.fault == "" {
		return nil
	}
	return errors.New("pull: " + s.fault)
}

// pullOnce opens a pull and returns how many messages had come before it.
func (s *Subscriber) pullOnce(r pullRequest) uint64 {
	s.durable.mu.Lock()
	defer s.durable.unlock()
	s.ask(r)
	return s.came
}

func (s *Subscriber) cameSince(before uint64) int {
	s.durable.mu.Lock()
	defer s.durable.mu.Unlock()
	return int(s.came - before)
}

// await waits until ok, which is called with the lock held, and says whether it was.
func (s *Subscriber) await(ctx context.Context, until time.Time, ok func() bool) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		s.durable.mu.Lock()
		done := ok()
		s.durable.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-s.wake:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		case <-s.durable.broker.ctx.Done():
			return false
		}
	}
}

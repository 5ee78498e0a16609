package broker

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// SubscriberOptions say how a durable subscription is opened.
type SubscriberOptions struct {
	// Subscription is what the subscription must be; it is created so if it is not
	// there and Topics is said. What differs is ErrConflict.
	Subscription SubscriptionOptions
	// Start is where it begins if this creates it.
	Start Start
	// Credit is how many unsettled deliveries the subscriber takes at most: default
	// [DefaultCredit], from 1 to [MaxCredit].
	Credit int
	// Allow, if not nil, decides whether a subscription with these options may be
	// opened, or created; its error is returned.
	Allow func(SubscriptionOptions) error
}

// A SubscriptionDelivery is one attempt to have an event dealt with.
type SubscriptionDelivery struct {
	// Tag names the delivery to whoever settles it. It is URL-safe text, works on
	// every gateway, and tells nothing.
	Tag string
	// Attempt counts the times that the event was handed out, from 1.
	Attempt int
	// Event is the event in its JSON form with relaytopic and relaycursor added.
	Event []byte
}

// A Subscriber is an open session on a durable subscription. Next belongs to one
// goroutine at a time; the other methods may be called from any, also while Next
// waits. A delivery that is not settled within the subscription's AckWait of its
// arrival at this gateway goes back, and frees its credit.
type Subscriber struct {
	durable   *durable
	number    uint64 // among this gateway's
	options   SubscriptionOptions
	begin     schemas.Cursor
	credit    int
	receiving bool          // it is a call of Receive
	wake      chan struct{} // something happened; holds one

	// Guarded by the durable's lock.
	closed  bool
	thirsty bool        // among the durable\'s
	inlet   *inlet      // nil before the first pull
	pull    uint64      // the number of the newest pull
	open    int         // deliveries that it may still bring
	heard   time.Time   // the last sign of life of it
	came    uint64      // counts the messages that came
	fault   string      // why pulling must begin anew
	buffer  []*delivery // what came and was not handed out
	bytes   int         // of it
	out     int         // unsettled deliveries that were handed out
	order   uint64      // counts them
	handed  []*delivery // them in order, some of them over

	// Owned by whoever calls Next.
	renewed time.Time     // when pulling last began anew
	backoff time.Duration // where that fails at once, again and again
}

// OpenSubscription opens a durable subscription, and creates it if need be. Close the
// subscriber after use. On an exclusive subscription that has an active subscriber it
// stands by: Next waits.
//
// Errors: those of PutSubscription; ErrNotFound where there is none and o names no
// topics; Allow's.
func (b *Broker) OpenSubscription(ctx context.Context, namespace, name string, o SubscriberOptions) (*Subscriber, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return nil, err
	}
	if o.Credit == 0 {
		o.Credit = DefaultCredit
	}
	if o.Credit < 1 || o.Credit > MaxCredit {
		return nil, schemas.Problemf("parameter", "credit is %d; write 1 to %d.", o.Credit, MaxCredit)
	}
	s, err := ns.subscriptions.openSubscriber(ctx, name, o)
	if err != nil {
		return nil, b.errStorage("open a subscription", err)
	}
	return s, nil
}

func (s *subscriptions) openSubscriber(ctx context.Context, name string, o SubscriberOptions) (*Subscriber, error) {
	c, err := s.ensure(ctx, name, o)
	if err != nil {
		return nil, err
	}
	d, err := s.adopt(ctx, c)
	if err != nil {
		return nil, err
	}
	begin, err := s.settledUpTo(ctx, c)
	if err != nil {
		return nil, err
	}
	subscriber := d.newSubscriber(o.Credit, false)
	subscriber.options, subscriber.begin = c.options(), begin
	return subscriber, nil
}

// ensure finds the subscription, or creates it.
func (s *subscriptions) ensure(ctx context.Context, name string, o SubscriberOptions) (*consumer, error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return nil, err
	}
	wanted, err := o.Subscription.check(s.namespace.rules)
	if err != nil {
		return nil, err
	}
	for {
		c, err := s.broker.findConsumer(ctx, s.namespace, name)
		if errors.Is(err, schemas.ErrNotFound) && o.Subscription.Topics != "" {
			fresh, err := wanted.fresh()
			if err != nil {
				return nil, err
			}
			if o.Allow != nil {
				if err := o.Allow(fresh.options()); err != nil {
					return nil, err
				}
			}
			c, err = s.create(ctx, name, wanted, o.Start)
			if errors.Is(err, errExists) {
				continue // somebody else was first
			}
			return c, err
		}
		if err != nil {
			return nil, err
		}
		if o.Allow != nil {
			if err := o.Allow(c.options()); err != nil {
				return nil, err
			}
		}
		return c, wanted.same(c.definition)
	}
}

// settledUpTo is the place up to which the subscription has settled everything.
func (s *subscriptions) settledUpTo(ctx context.Context, c *consumer) (schemas.Cursor, error) {
	now, err := s.namespace.log.place(ctx)
	if err != nil {
		return schemas.Cursor{}, err
	}
	p, err := s.namespace.log.position(ctx, c.info.AckFloor.Stream, now)
	return schemas.Cursor{Log: now.log, Sequence: p.sequence, Accepted: p.accepted}, err
}

func (d *durable) newSubscriber(credit int, receiving bool) *Subscriber {
	s := &Subscriber{
		durable: d, number: d.broker.subscribers.Add(1), credit: credit, receiving: receiving,
		wake: make(chan struct{}, 1), fault: faultNew,
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enter(s)
	return s
}

// Options are the subscription's when it was opened.
func (s *Subscriber) Options() SubscriptionOptions { return s.options }

// Cursor is a place in the log up to which the subscription had settled everything
// when it was opened.
func (s *Subscriber) Cursor() schemas.Cursor { return s.begin }

// Next waits until something can be handed out and the credit allows it, and returns
// all that waits, up to max deliveries. The slice is the caller's. Where the log can't
// be used it waits until it can. The error is ctx's, or a problem: ErrNotFound once the
// subscription is deleted, ErrDraining when the broker stops.
func (s *Subscriber) Next(ctx context.Context, max int) ([]SubscriptionDelivery, error) {
	silence := time.NewTimer(time.Hour)
	defer silence.Stop()
	for delay := minHeal; ; {
		if err := s.ended(); err != nil {
			return nil, err
		}
		out, err := s.take(ctx, max)
		if len(out) > 0 {
			return out, nil
		}
		wait := time.Hour
		if err == nil {
			wait, err = s.keepPulling(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, schemas.ErrNotFound):
			return nil, err
		case err != nil: // it heals by itself
			wait, delay = delay, min(2*delay, maxHeal)
		default:
			delay = minHeal
		}
		silence.Reset(wait)
		select {
		case <-s.wake:
		case <-silence.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.durable.broker.ctx.Done():
			return nil, errDraining()
		}
	}
}

// How long a subscriber waits after a fault before it tries again.
const (
	minHeal = 50 * time.Millisecond
	maxHeal = time.Second
)

// ended says why nothing is handed out any more, if so.
func (s *Subscriber) ended() error {
	d := s.durable
	if d.broker.ctx.Err() != nil {
		return errDraining()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.gone:
		return schemas.Problemf("not-found", "The subscription was deleted, or had expired.")
	case s.closed:
		return errClosed
	}
	return nil
}

// take hands out what came, as far as the credit goes.
func (s *Subscriber) take(ctx context.Context, max int) ([]SubscriptionDelivery, error) {
	d := s.durable
	var out []SubscriptionDelivery
	for len(out) == 0 {
		d.mu.Lock()
		n := min(max, s.credit-s.out, len(s.buffer))
		if n <= 0 || s.closed {
			d.unlock()
			return nil, nil
		}
		taken := slices.Clone(s.buffer[:n])
		s.buffer = slices.Delete(s.buffer, 0, n)
		s.out += n // what doesn't pass gives the credit back
		for _, v := range taken {
			s.bytes -= len(v.message.Data)
		}
		sieve := d.sieve()
		d.unlock()

		passed, err := sieve.all(ctx, taken)
		if err != nil { // none of them: they are handed out later
			d.mu.Lock()
			for _, v := range slices.Backward(taken) {
				if v.over {
					continue
				}
				s.out--
				s.buffer = slices.Insert(s.buffer, 0, v)
				s.bytes += len(v.message.Data)
			}
			d.unlock()
			return nil, err
		}
		out = s.handOut(taken, passed, &sieve)
	}
	return out, nil
}

// handOut settles what did not pass, whose event is nil, and hands out the rest.
func (s *Subscriber) handOut(taken []*delivery, events [][]byte, sieve *sieve) []SubscriptionDelivery {
	d := s.durable
	out := make([]SubscriptionDelivery, 0, len(taken))
	tags := make([]tag, 0, len(taken))
	d.mu.Lock()
	epoch := d.def.Epoch
	for i, v := range taken {
		switch {
		case v.over: // it lapsed just now, or everything was moved
		case s.closed:
			d.giveBack(v)
		case events[i] == nil:
			d.counts().skipped.Add(1)
			d.drop(v)
			d.post(v.subject, "", sendAck)
		default:
			v.message = nil
			s.order++
			v.order = s.order
			if s.receiving { // it stays when the receiver goes
				v.holder = nil
				s.out--
			} else {
				s.handed = append(s.handed, v)
			}
			tags = append(tags, tag{
				owner: d.broker.gateway, epoch: epoch, sequence: v.sequence, attempt: v.attempt,
				arrived: v.arrived, subscriber: s.number, order: v.order, subject: v.subject,
			})
			out = append(out, SubscriptionDelivery{Attempt: int(min(v.attempt, math.MaxInt32)), Event: events[i]})
			d.counts().delivered.Add(1)
			if v.attempt > 1 {
				d.counts().redelivered.Add(1)
			}
		}
	}
	prefix := d.ackPrefix()
	s.top()
	d.unlock()
	for i := range out {
		out[i].Tag = tags[i].seal(d.seal, prefix)
	}
	return out
}

// trim forgets what is over of what was handed out. The lock is held.
func (s *Subscriber) trim() {
	for len(s.handed) > 0 && s.handed[0].over {
		s.handed[0] = nil
		s.handed = s.handed[1:]
	}
	if len(s.handed) > 2*s.out+16 {
		s.handed = slices.DeleteFunc(s.handed, func(v *delivery) bool { return v.over })
	}
}

// signal wakes Next.
func (s *Subscriber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the subscriber and wakes a waiting Next. What is unsettled goes back at
// once, an attempt used; after the last attempt to the dead letters. It doesn't wait
// for that, and may be called more than once.
func (s *Subscriber) Close() {
	if in, open := s.shut(); open {
		s.durable.broker.start(func(ctx context.Context) { s.goBack(ctx, in) })
	}
}

// shut has nothing more come; open says that it was open until now.
func (s *Subscriber) shut() (in *inlet, open bool) {
	d := s.durable
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.closed = true
	s.signal()
	in, s.inlet = s.inlet, nil
	return in, true
}

// goBack gives back what a closed subscriber held, so that whoever comes next gets it
// first and in order; then that one may come. Once ctx has ended it is quick instead.
func (s *Subscriber) goBack(ctx context.Context, in *inlet) {
	d := s.durable
	if in != nil {
		d.line.stop(in)
	}
	d.mu.Lock()
	left := len(s.buffer) + s.out
	info := "$JS.API.CONSUMER.INFO." + d.namespace.log.stream + "." + d.consumer
	d.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, receivePatience)
	defer cancel()
	if left > 0 && !d.line.conn.IsReconnecting() {
		// Asked about itself, the consumer forgets the pull that nobody waits for any
		// more; else it would try that one first, and put the event behind the others.
		d.line.conn.RequestWithContext(limited, info, nil) //nolint:errcheck // then they come in another order
	}
	d.mu.Lock()
	for _, v := range append(slices.Clone(s.buffer), s.handed...) {
		if !v.over && !v.settling {
			if v.message == nil {
				d.counts().abandoned.Add(1)
			}
			d.giveBack(v)
		}
	}
	out := d.outbox
	d.outbox = nil
	d.mu.Unlock()
	messages := make([]*nats.Msg, len(out))
	for i, o := range out {
		messages[i] = &nats.Msg{Subject: o.subject, Reply: o.reply, Data: o.data}
		if ctx.Err() != nil {
			d.line.conn.PublishMsg(messages[i]) //nolint:errcheck // the consumer's ack wait makes up for it
		}
	}
	if ctx.Err() == nil {
		d.line.confirm(limited, messages) //nolint:errcheck // the same
	}
	d.mu.Lock()
	d.leave(s)
	free := d.claim.held && len(d.subscribers) == 0
	d.mu.Unlock()
	if free {
		d.broker.claims.release(ctx, d)
	}
	if in != nil {
		d.line.drain(ctx, in)
	}
}

package broker

import (
	"context"
	"crypto/cipher"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A durable is a subscription as this gateway knows it: what it is, who has it open
// here, and what was handed out here.
type durable struct {
	broker        *Broker
	namespace     *namespace
	subscriptions *subscriptions
	name          string
	life          uint64
	line          *line
	seal          cipher.AEAD // of its tags

	claiming sync.Mutex // one claim at a time

	mu          sync.Mutex
	def         definition
	consumer    string // JetStream's name of it
	turn        int
	content     *filter.Filter
	stamp       time.Time            // when JetStream said so
	asked       time.Time            // when it was asked last
	used        time.Time            // by anybody here
	gone        bool                 // deleted
	subscribers []*Subscriber        // receivers too, in the order in which they came
	handed      map[uint64]*delivery // by sequence
	ages        []aging              // of handed, the oldest first
	past        past                 // what was settled
	delayed     map[uint64]time.Time // released, until when
	spared      map[uint64]uint64    // what came and was not handed out, how often
	burying     map[uint64]*burial   // on the way to the dead letters
	lasts       map[string]uint64    // the last sequence of a topic up to def.LastUpTo
	claim       claim                // of an exclusive subscription
	active      *Subscriber          // the one that is active, if exclusive
	thirsty     []*Subscriber        // whose credit unlock looks at
	outbox      []outgoing           // sent by unlock
}

type outgoing struct {
	subject, reply string
	data           []byte
}

// post sends a message once the lock is given back. The lock is held.
func (d *durable) post(subject, reply string, data []byte) {
	d.outbox = append(d.outbox, outgoing{subject, reply, data})
}

// unlock gives the lock back and sends what was posted. What can't be sent is lost
// with its connection, as if it had been sent just before: the consumer's ack wait, or
// the end of the connection, makes up for it.
func (d *durable) unlock() {
	for _, s := range d.thirsty { // after all else, and once each
		s.drink()
	}
	d.thirsty = d.thirsty[:0]
	out := d.outbox
	d.outbox = nil
	d.mu.Unlock()
	for _, o := range out {
		d.line.conn.PublishMsg(&nats.Msg{Subject: o.subject, Reply: o.reply, Data: o.data}) //nolint:errcheck // see above
	}
}

// ackPrefix begins the subjects at which its deliveries are settled. The lock is held.
func (d *durable) ackPrefix() string {
	return ackPrefix + d.namespace.log.stream + "." + d.consumer + "."
}

func (d *durable) counts() *subscriptionCounts { return &d.subscriptions.counts }

// adopt takes over what JetStream says of the subscription. It is called with the
// life of d.
func (d *durable) adopt(c *consumer, content *filter.Filter) {
	d.mu.Lock()
	defer d.unlock()
	d.asked = time.Now()
	if c.info.TimeStamp.Before(d.stamp) {
		return // another answer was faster
	}
	d.stamp = c.info.TimeStamp
	if c.Epoch < d.def.Epoch {
		return
	}
	replayed := d.consumer != "" && d.consumer != c.info.Name || c.Epoch != d.def.Epoch
	shorter := c.AckWait < d.def.AckWait
	d.def, d.consumer, d.turn, d.content = c.definition, c.info.Name, c.turn, content
	if replayed {
		for _, s := range d.subscribers {
			s.fail("replayed")
		}
		d.forget()
	}
	if shorter {
		d.broker.lapses.schedule(d, time.Now())
	}
}

// forget drops all that was handed out: none of it is known any more. The lock is held.
func (d *durable) forget() {
	for _, v := range d.handed {
		d.drop(v)
	}
	for _, s := range d.subscribers {
		s.buffer, s.bytes, s.out, s.order, s.handed = nil, 0, 0, 0, nil
	}
	d.ages, d.past, d.delayed, d.burying, d.lasts = nil, past{}, map[uint64]time.Time{}, map[uint64]*burial{}, nil
	d.spared = map[uint64]uint64{}
}

// end says that the subscription is no more.
func (d *durable) end() {
	d.mu.Lock()
	defer d.unlock()
	if d.gone {
		return
	}
	d.gone = true
	d.forget()
	for _, s := range d.subscribers {
		s.signal()
	}
}

// ask asks JetStream about the subscription as it is now; ErrNotFound if it is no more.
func (d *durable) ask(ctx context.Context) (*consumer, error) {
	c, err := d.broker.findConsumer(ctx, d.namespace, d.name)
	if err == nil {
		var now *durable
		if now, err = d.subscriptions.adopt(ctx, c); err == nil && now != d {
			err = errNoSubscription()
		}
	}
	if errors.Is(err, schemas.ErrNotFound) {
		d.subscriptions.lose(d)
	}
	return c, err
}

// idle says whether nothing would be lost with d.
func (d *durable) idle(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return true
	}
	for sequence, until := range d.delayed {
		if until.Before(now) {
			delete(d.delayed, sequence)
		}
	}
	return len(d.subscribers)+len(d.handed)+len(d.delayed)+len(d.burying) == 0 && now.Sub(d.used) > durableLinger
}

// durableLinger is how long a gateway remembers a subscription that nobody uses on it.
const durableLinger = time.Minute

// subscriptions are those of a namespace that this gateway knows.
type subscriptions struct {
	broker     *Broker
	namespace  *namespace
	undertaker *undertaker
	counts     subscriptionCounts

	mu       sync.Mutex
	durables map[string]*durable

	changing sync.Mutex // one change of a definition at a time
}

func newSubscriptions(b *Broker, ns *namespace) *subscriptions {
	s := &subscriptions{broker: b, namespace: ns, durables: map[string]*durable{}}
	s.undertaker = &undertaker{broker: b, namespace: ns, wake: make(chan struct{}, 1)}
	return s
}

// known is the subscription if this gateway knows it, else nil.
func (s *subscriptions) known(name string) *durable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durables[name]
}

// find returns a subscription, as this gateway last knew it; ErrNotFound if there is none.
func (s *subscriptions) find(ctx context.Context, name string) (*durable, error) {
	if d := s.known(name); d != nil {
		d.mu.Lock()
		gone := d.gone
		d.used = time.Now()
		d.mu.Unlock()
		if !gone {
			return d, nil
		}
	}
	return s.load(ctx, name)
}

// load asks JetStream for a subscription; ErrNotFound if there is none.
func (s *subscriptions) load(ctx context.Context, name string) (*durable, error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return nil, err
	}
	c, err := s.broker.findConsumer(ctx, s.namespace, name)
	if err != nil {
		if errors.Is(err, schemas.ErrNotFound) {
			s.lose(s.known(name))
		}
		return nil, err
	}
	return s.adopt(ctx, c)
}

// lose forgets a subscription that is no more; nil is none.
func (s *subscriptions) lose(d *durable) {
	if d == nil {
		return
	}
	s.mu.Lock()
	if s.durables[d.name] == d {
		delete(s.durables, d.name)
	}
	s.mu.Unlock()
	d.end()
}

// adopt finds or makes the durable of what JetStream has.
func (s *subscriptions) adopt(ctx context.Context, c *consumer) (*durable, error) {
	content, err := filter.Parse(c.Filter, c.SQL)
	if err != nil {
		return nil, err
	}
	seal, err := s.broker.seals.of(ctx, s.namespace.name, c.Life)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	d := s.durables[c.name]
	var former *durable
	if d == nil || d.life != c.Life {
		former = d
		d = &durable{
			broker: s.broker, namespace: s.namespace, subscriptions: s, name: c.name, life: c.Life,
			line: s.broker.lines[c.Life%uint64(len(s.broker.lines))], seal: seal,
			def: c.definition, used: time.Now(),
			handed: map[uint64]*delivery{}, delayed: map[uint64]time.Time{}, spared: map[uint64]uint64{}, burying: map[uint64]*burial{},
		}
		s.durables[c.name] = d
	}
	s.mu.Unlock()
	if former != nil {
		former.end()
	}
	d.adopt(c, content)
	return d, nil
}

// any says whether this gateway knows any.
func (s *subscriptions) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.durables) > 0
}

// all lists what this gateway knows.
func (s *subscriptions) all() []*durable {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*durable, 0, len(s.durables))
	for _, d := range s.durables {
		list = append(list, d)
	}
	return list
}

// tidy forgets what nobody uses here.
func (s *subscriptions) tidy(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.durables {
		if d.idle(now) {
			delete(s.durables, name)
		}
	}
}

// enter counts one more subscriber in. The lock is held.
func (d *durable) enter(s *Subscriber) { d.subscribers = append(d.subscribers, s) }

// leave counts it out. The lock is held.
func (d *durable) leave(s *Subscriber) {
	d.subscribers = slices.DeleteFunc(d.subscribers, func(other *Subscriber) bool { return other == s })
	d.used = time.Now()
	if d.active == s {
		d.active = nil
		for _, next := range d.subscribers { // the next in line looks whether it may be active
			next.signal()
		}
	}
}

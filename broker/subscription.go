package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// Bounds of a durable subscription's options (protocol section 5).
const (
	DefaultAckWait    = 30 * time.Second
	MinAckWait        = 100 * time.Millisecond
	MaxAckWait        = 24 * time.Hour
	DefaultMaxDeliver = 10
	MaxMaxDeliver     = 1000
	DefaultExpires    = 720 * time.Hour
	MinExpires        = time.Second
	MaxExpires        = 10 * 365 * 24 * time.Hour
	DefaultCredit     = 64
	MaxCredit         = 10_000
	MaxDelay          = 15 * time.Minute
	MaxReceive        = 100
	MaxReceiveWait    = time.Minute
)

// SubscriptionOptions are what a durable subscription is.
//
// In a request a field that is zero was not said: it gets its default when the
// subscription is created, and stays as it is when it is there already. What the
// broker returns has every field set.
type SubscriptionOptions struct {
	// Topics is the filter whose stored topics it gets. It must be said to create one.
	Topics schemas.TopicFilter
	// Filter and SQL are the parameters "filter" and "sql" as text (package filter).
	// Only events that pass both are delivered; the others count for nothing.
	Filter, SQL string
	// AckWait is how long a delivery may be unsettled before it is handed out again:
	// default [DefaultAckWait], from [MinAckWait] to [MaxAckWait].
	AckWait time.Duration
	// MaxDeliver is how many attempts there are: default [DefaultMaxDeliver], from 1
	// to [MaxMaxDeliver].
	MaxDeliver int
	// DeadLetter is where events go whose attempts are used up or that are rejected;
	// "" is nowhere: they are dropped and counted ([SubscriptionCounts]). It must be a
	// stored topic, not the broker's own, and not one of Topics.
	DeadLetter *schemas.Topic
	// Exclusive lets one subscriber at a time be active; the others stand by.
	Exclusive *bool
	// Expires is for how long nobody may use it before it is deleted: default
	// [DefaultExpires], from [MinExpires] to [MaxExpires].
	Expires time.Duration
}

// A Subscription is a durable subscription as it stands.
type Subscription struct {
	Name    string
	Options SubscriptionOptions
	// Pending counts the events not yet handed out, before Options.Filter and SQL.
	Pending uint64
	// Unsettled counts the events handed out and neither settled nor delayed; one that
	// was given back and waits for a subscriber is among them.
	Unsettled int
	// Delayed counts those released with a delay that is not over, as far as a gateway
	// that still runs took the release; else they count as unsettled.
	Delayed int
	// Redelivered counts the unsettled and delayed ones handed out more than once.
	Redelivered int
	// OldestUnsettled is when the oldest of the unsettled and delayed ones was
	// accepted (a requeued one: when it was requeued); zero if there is none.
	OldestUnsettled time.Time
	// Subscribers counts the open sessions on it, on all gateways.
	Subscribers int
}

// PutSubscription creates a durable subscription, or changes AckWait, MaxDeliver,
// DeadLetter and Expires of the one that is there. start is where a new one begins
// ([FromLatest] is now) and is looked at for its cursor only otherwise.
//
// Errors: ErrName, ErrFilter, ErrParameter; ErrCursor for a cursor of another log or
// past retention; ErrConflict where anything else differs; ErrTooLarge beyond
// [Limits.MaxSubscriptions]; ErrStorage; ctx's. Protocol: sections 5 and 6.
func (b *Broker) PutSubscription(ctx context.Context, namespace, name string, o SubscriptionOptions, start Start) (created bool, err error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return false, err
	}
	if created, err = ns.subscriptions.put(ctx, name, o, start); err != nil {
		return false, b.errStorage("put a subscription", err)
	}
	return created, nil
}

func (s *subscriptions) put(ctx context.Context, name string, o SubscriptionOptions, start Start) (created bool, err error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return false, err
	}
	w, err := o.check(s.namespace.rules)
	if err != nil {
		return false, err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	for {
		c, err := s.broker.findConsumer(ctx, s.namespace, name)
		if errors.Is(err, schemas.ErrNotFound) {
			if o.Topics == "" {
				return false, schemas.Problemf("parameter", "A new subscription needs a topic filter; give topic.")
			}
			c, err = s.create(ctx, name, w, start)
			if errors.Is(err, errExists) {
				continue // another gateway was first
			}
			if err == nil {
				_, err = s.adopt(ctx, c)
			}
			return err == nil, err
		}
		if err != nil {
			return false, err
		}
		if start.After != nil {
			if _, err := s.begin(ctx, c.Topics, Start{After: start.After}); err != nil {
				return false, err
			}
		}
		changed, err := w.change(c.definition)
		if err != nil || changed == nil {
			return false, err
		}
		return false, s.change(ctx, c, *changed)
	}
}

// change gives a subscription another definition.
func (s *subscriptions) change(ctx context.Context, c *consumer, to definition) error {
	c, err := s.broker.updateConsumer(ctx, s.namespace, c.name, c.turn, to)
	if err != nil {
		return err
	}
	_, err = s.adopt(ctx, c)
	s.broker.peers.tell(peerNote{Op: peerChanged, Namespace: s.namespace.name, Name: c.name})
	return err
}

// create makes a subscription; errExists if there is one.
func (s *subscriptions) create(ctx context.Context, name string, w wanted, start Start) (*consumer, error) {
	d, err := w.fresh()
	if err != nil {
		return nil, err
	}
	if err := s.room(ctx); err != nil {
		return nil, err
	}
	begin, err := s.begin(ctx, d.Topics, start)
	if err != nil {
		return nil, err
	}
	d.After, d.NotBefore, d.LastUpTo = begin.After, begin.NotBefore, begin.LastUpTo
	var life [8]byte
	rand.Read(life[:])
	d.Life = binary.BigEndian.Uint64(life[:])
	return s.broker.createConsumer(ctx, s.namespace, name, 0, d)
}

// room says whether one more subscription is allowed. Gateways that create some at
// the same time may go past the limit by as many.
func (s *subscriptions) room(ctx context.Context) error {
	limit := s.broker.config.Limits.MaxSubscriptions
	info, err := api[struct {
		State struct {
			Consumers int `json:"consumer_count"`
		} `json:"state"`
	}](ctx, s.broker, "STREAM.INFO."+s.namespace.log.stream, nil)
	if err != nil || info.State.Consumers < limit { // feeds' readers are among them
		return err
	}
	count, err := s.broker.countConsumers(ctx, s.namespace)
	if err == nil && count >= limit {
		err = schemas.Problemf("too-large", "There are %d durable subscriptions, as many as allowed. Delete those that are not used.", count)
	}
	return err
}

// begin finds the place of a start in the log: the fields After, NotBefore and
// LastUpTo of a definition.
func (s *subscriptions) begin(ctx context.Context, topics schemas.TopicFilter, start Start) (d definition, err error) {
	log := s.namespace.log
	now, err := log.place(ctx)
	if err != nil {
		return d, err
	}
	if start.After == nil && start.From == FromLast {
		lasts := &last{log: log, subject: filterSubject(logPrefix, log.namespace, topics), upTo: now.last}
		first, err := lasts.first(ctx)
		if d.After = now.last; first != 0 {
			d.After, d.LastUpTo = first-1, now.last
		}
		return d, err
	}
	begin, err := log.begin(ctx, now, topics, start)
	if err != nil {
		return d, err
	}
	if len(begin.gaps) > 0 {
		if begin.gaps[0].Reason == GapReset {
			return d, schemas.Problemf("cursor", "The cursor is of another log: the log was restored or made anew. Begin with \"from\".")
		}
		return d, schemas.Problemf("cursor", "The cursor is older than what the log keeps of these topics. Begin with \"from\".")
	}
	d.After, d.NotBefore = begin.sequence, begin.notBefore
	return d, nil
}

// SubscriptionOptions returns the options of a durable subscription, to decide who
// may use it. ErrNotFound: there is none.
func (b *Broker) SubscriptionOptions(ctx context.Context, namespace, name string) (SubscriptionOptions, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return SubscriptionOptions{}, err
	}
	d, err := ns.subscriptions.find(ctx, name)
	if err != nil {
		return SubscriptionOptions{}, b.errStorage("find a subscription", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.def.options(), nil
}

// Subscription returns a durable subscription's options and state. It doesn't count
// as use. ErrNotFound: there is none.
func (b *Broker) Subscription(ctx context.Context, namespace, name string) (Subscription, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return Subscription{}, err
	}
	state, err := ns.subscriptions.state(ctx, name)
	if err != nil {
		return Subscription{}, b.errStorage("find a subscription", err)
	}
	return state, nil
}

func (s *subscriptions) state(ctx context.Context, name string) (Subscription, error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return Subscription{}, err
	}
	c, err := s.broker.findConsumer(ctx, s.namespace, name)
	if err != nil {
		return Subscription{}, err
	}
	if c, err = s.counted(ctx, c); err != nil {
		return Subscription{}, err
	}
	uses, err := s.broker.peers.uses(ctx, s.namespace, name)
	if err != nil {
		return Subscription{}, err
	}
	return s.describe(ctx, c, uses[name])
}

// maxUncounted bounds the wait until JetStream has counted what it has stored.
const maxUncounted = 256 * time.Millisecond

// counted asks again while the consumer says that nothing is pending and something is:
// JetStream answers a publish before its consumers have counted it.
func (s *subscriptions) counted(ctx context.Context, c *consumer) (*consumer, error) {
	for delay := time.Millisecond; c.info.NumPending == 0; delay *= 2 {
		sequence, _, err := s.first(ctx, c, c.info.Delivered.Stream+1)
		if err != nil || sequence == 0 || delay > maxUncounted {
			return c, err
		}
		if err := waitFor(ctx, s.broker.ctx, delay); err != nil {
			return nil, err
		}
		if c, err = s.broker.findConsumer(ctx, s.namespace, c.name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// first finds the first event of a consumer's subjects in the log, at a sequence or
// after, and when it was accepted; 0 if there is none.
func (s *subscriptions) first(ctx context.Context, c *consumer, from uint64) (sequence uint64, accepted time.Time, err error) {
	for _, subject := range c.info.Config.FilterSubjects {
		r, err := s.namespace.log.leader(ctx, leaderGet{Sequence: from, Next: subject})
		switch {
		case errors.Is(err, errGone):
		case err != nil:
			return 0, time.Time{}, err
		case sequence == 0 || r.sequence < sequence:
			sequence, accepted = r.sequence, time.Unix(0, r.accepted)
		}
	}
	return sequence, accepted, nil
}

func (s *subscriptions) describe(ctx context.Context, c *consumer, use peerUse) (Subscription, error) {
	unsettled := c.info.NumAckPending
	state := Subscription{
		Name: c.name, Options: c.options(),
		Pending: c.info.NumPending, Delayed: min(use.Delayed, unsettled),
		Redelivered: c.info.NumRedelivered, Subscribers: use.Subscribers,
	}
	state.Unsettled = unsettled - state.Delayed
	if unsettled == 0 {
		return state, nil
	}
	_, oldest, err := s.first(ctx, c, c.info.AckFloor.Stream+1)
	if err != nil {
		return Subscription{}, err
	}
	state.OldestUnsettled = oldest
	return state, nil
}

// Subscriptions returns all durable subscriptions of a namespace by name.
func (b *Broker) Subscriptions(ctx context.Context, namespace string) ([]Subscription, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return nil, err
	}
	states, err := ns.subscriptions.states(ctx)
	if err != nil {
		return nil, b.errStorage("list the subscriptions", err)
	}
	return states, nil
}

func (s *subscriptions) states(ctx context.Context) ([]Subscription, error) {
	all, err := s.broker.listConsumers(ctx, s.namespace)
	if err != nil {
		return nil, err
	}
	uses, err := s.broker.peers.uses(ctx, s.namespace, "")
	if err != nil {
		return nil, err
	}
	states := make([]Subscription, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		state, err := s.describe(ctx, all[name], uses[name])
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return states, nil
}

// DeleteSubscription deletes a durable subscription with all that it has not yet
// handed out. Its open subscribers end with ErrNotFound and its tags are unknown,
// also to a later subscription of the same name.
func (b *Broker) DeleteSubscription(ctx context.Context, namespace, name string) error {
	ns, err := b.namespace(namespace)
	if err != nil {
		return err
	}
	if err := ns.subscriptions.delete(ctx, name); err != nil {
		return b.errStorage("delete a subscription", err)
	}
	return nil
}

func (s *subscriptions) delete(ctx context.Context, name string) error {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	found := false
	for turn := range slices.Backward(consumerPrefixes[:]) { // what hides the other goes last
		was, err := s.broker.deleteConsumer(ctx, s.namespace, name, turn)
		if err != nil {
			return err
		}
		found = found || was
	}
	s.lose(s.known(name))
	if !found {
		return errNoSubscription()
	}
	s.broker.peers.tell(peerNote{Op: peerChanged, Namespace: s.namespace.name, Name: name})
	return nil
}

// ReplaySubscription moves a durable subscription to another place: what was stored
// after it is handed out, again or for the first time, at attempt 1. What was handed
// out before is forgotten: its tags are unknown.
//
// Errors: ErrNotFound; ErrCursor as in PutSubscription; ErrStorage; ctx's.
func (b *Broker) ReplaySubscription(ctx context.Context, namespace, name string, start Start) error {
	ns, err := b.namespace(namespace)
	if err != nil {
		return err
	}
	if err := ns.subscriptions.replay(ctx, name, start); err != nil {
		return b.errStorage("replay a subscription", err)
	}
	return nil
}

func (s *subscriptions) replay(ctx context.Context, name string, start Start) error {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	c, err := s.broker.findConsumer(ctx, s.namespace, name)
	if err != nil {
		return err
	}
	begin, err := s.begin(ctx, c.Topics, start)
	if err != nil {
		return err
	}
	now, err := s.namespace.log.place(ctx)
	if err != nil {
		return err
	}
	to := c.definition
	to.Epoch++
	to.After, to.NotBefore, to.LastUpTo, to.Replayed = begin.After, begin.NotBefore, begin.LastUpTo, now.last
	turn := 1 - c.turn
	moved, err := s.broker.createConsumer(ctx, s.namespace, name, turn, to)
	if errors.Is(err, errExists) { // of a replay that a fault cut short
		if _, err = s.broker.deleteConsumer(ctx, s.namespace, name, turn); err == nil {
			moved, err = s.broker.createConsumer(ctx, s.namespace, name, turn, to)
		}
	}
	if err != nil {
		return err
	}
	if _, err := s.broker.deleteConsumer(ctx, s.namespace, name, c.turn); err != nil {
		return err
	}
	_, err = s.adopt(ctx, moved)
	s.broker.peers.tell(peerNote{Op: peerChanged, Namespace: s.namespace.name, Name: name})
	return err
}

func errNoSubscription() *schemas.Problem {
	return schemas.Problemf("not-found", "There is no such subscription; create it with PUT, or by subscribing with a topic.")
}

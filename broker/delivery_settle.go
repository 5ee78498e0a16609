package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// A Verb is what is done with deliveries (protocol section 5).
type Verb uint8

// The verbs.
const (
	Ack     Verb = iota // it is dealt with
	Release             // hand it out again, after Settlement.Delay
	Reject              // to the dead letters, with Settlement.Reason
	Extend              // restart its AckWait; the tag stays good
)

// A Settlement settles deliveries by their tags.
type Settlement struct {
	Verb   Verb
	Tags   []string
	Delay  time.Duration // of Release: 0 to [MaxDelay]
	Reason string        // of Reject, for people; cleaned and cut to [MaxReason] bytes
}

// MaxReason bounds the reason of a rejection in bytes.
const MaxReason = 512

// Settled says what became of each tag, in the order given.
type Settled struct {
	Accepted []string
	// Unknown are those that name no delivery of this life of the subscription, or one
	// that this gateway knows to be settled, or for any verb but Ack one whose AckWait
	// is over.
	Unknown []string
}

// Settle settles deliveries, on whatever gateway they were handed out. A late ack
// counts. When it returns, acks are kept as the log is, save for a kill within the
// next second, and rejected events are stored as dead letters.
//
// Errors: ErrNotFound, ErrParameter; ErrStorage, where some may have been settled:
// settle them again; ctx's.
func (b *Broker) Settle(ctx context.Context, namespace, name string, settlement Settlement) (Settled, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return Settled{}, err
	}
	if err := settlement.check(); err != nil {
		return Settled{}, err
	}
	d, err := ns.subscriptions.find(ctx, name)
	if err == nil {
		var settled Settled
		if settled, err = d.settle(ctx, settlement); err == nil {
			return settled, nil
		}
	}
	return Settled{}, b.errStorage("settle deliveries", err)
}

func (s Settlement) check() error {
	if s.Verb > Extend {
		return schemas.Problemf("parameter", "Deliveries are settled by ack, release, reject or extend.")
	}
	if s.Delay < 0 || s.Delay > MaxDelay {
		return schemas.Problemf("parameter", "The delay is %s; write 0s to %s.", s.Delay, MaxDelay)
	}
	return nil
}

// Settle settles deliveries of the subscription, this subscriber's or another's. It
// is [Broker.Settle].
func (s *Subscriber) Settle(ctx context.Context, settlement Settlement) (Settled, error) {
	if err := settlement.check(); err != nil {
		return Settled{}, err
	}
	settled, err := s.durable.settle(ctx, settlement)
	if err != nil {
		return Settled{}, s.durable.broker.errStorage("settle deliveries", err)
	}
	return settled, nil
}

// AckUpTo acks the delivery of tag and all unsettled ones that Next returned before
// it. unknown says that tag is none of this subscriber, or was settled before; in the
// latter case those before it are acked all the same.
func (s *Subscriber) AckUpTo(ctx context.Context, text string) (unknown bool, err error) {
	d := s.durable
	d.mu.Lock()
	t, ok := openTag(d.seal, d.ackPrefix(), text)
	if !ok || t.owner != d.broker.gateway || t.subscriber != s.number || t.epoch != d.def.Epoch {
		d.mu.Unlock()
		return true, s.ended()
	}
	tags := []tag{t}
	for _, v := range s.handed {
		if v.order < t.order && !v.over {
			tags = append(tags, tag{
				owner: t.owner, epoch: t.epoch, sequence: v.sequence, attempt: v.attempt, arrived: v.arrived, subject: v.subject,
			})
		}
	}
	d.mu.Unlock()
	accepted, err := d.settleHere(ctx, Settlement{Verb: Ack}, tags)
	if err != nil {
		return false, d.broker.errStorage("settle deliveries", err)
	}
	return !accepted[0], nil
}

// settle settles each delivery where it was handed out, or here if that gateway is
// no more.
func (d *durable) settle(ctx context.Context, settlement Settlement) (Settled, error) {
	tags, open := d.openTags(settlement.Tags)
	if slices.Contains(open, false) && d.old(time.Second) {
		now, err := d.subscriptions.load(ctx, d.name) // another life may have begun
		if err != nil {
			return Settled{}, err
		}
		d = now
		tags, open = d.openTags(settlement.Tags)
	}
	accepted := make([]bool, len(tags))
	var here []int
	elsewhere := map[uint64][]int{}
	d.mu.Lock()
	for i, t := range tags {
		switch v := d.handed[t.sequence]; {
		case !open[i]:
		case t.owner == d.broker.gateway, v != nil && v.attempt == t.attempt:
			here = append(here, i)
		default:
			elsewhere[t.owner] = append(elsewhere[t.owner], i)
		}
	}
	d.mu.Unlock()
	for owner, indexes := range elsewhere {
		part := settlement
		part.Tags = pick(settlement.Tags, indexes)
		known, err := d.broker.peers.settle(ctx, owner, d.namespace.name, d.name, part)
		if errors.Is(err, nats.ErrNoResponders) {
			here = append(here, indexes...)
			continue
		}
		if err != nil {
			return Settled{}, err
		}
		for n, i := range indexes {
			accepted[i] = known[n]
		}
	}
	slices.Sort(here)
	known, err := d.settleHere(ctx, settlement, pick(tags, here))
	if err != nil {
		return Settled{}, err
	}
	for n, i := range here {
		accepted[i] = known[n]
	}
	var settled Settled
	for i, text := range settlement.Tags {
		if accepted[i] {
			settled.Accepted = append(settled.Accepted, text)
		} else {
			settled.Unknown = append(settled.Unknown, text)
		}
	}
	return settled, nil
}

func pick[T any](list []T, indexes []int) []T {
	picked := make([]T, len(indexes))
	for n, i := range indexes {
		picked[n] = list[i]
	}
	return picked
}

func (d *durable) openTags(texts []string) (tags []tag, ok []bool) {
	d.mu.Lock()
	prefix := d.ackPrefix()
	d.mu.Unlock()
	tags, ok = make([]tag, len(texts)), make([]bool, len(texts))
	for i, text := range texts {
		tags[i], ok[i] = openTag(d.seal, prefix, text)
	}
	return tags, ok
}

// old says whether JetStream was last asked longer ago than that.
func (d *durable) old(than time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.asked) > than
}

// A settling is a round of settling deliveries on this gateway.
type settling struct {
	Settlement
	durable  *durable
	epoch    uint64
	tags     []tag
	accepted []bool
	chosen   []*delivery // of each tag; nil: none
	late     []int       // indexes of acks whose delivery is over
}

// settleHere settles deliveries on this gateway and says which were taken.
func (d *durable) settleHere(ctx context.Context, settlement Settlement, tags []tag) ([]bool, error) {
	s := &settling{
		Settlement: settlement, durable: d, tags: tags,
		accepted: make([]bool, len(tags)), chosen: make([]*delivery, len(tags)),
	}
	if err := s.choose(ctx); err != nil {
		s.giveUp()
		return nil, err
	}
	var err error
	switch settlement.Verb {
	case Ack:
		err = s.ack(ctx)
	case Release:
		err = s.release(ctx)
	case Reject:
		err = s.reject(ctx)
	case Extend:
		err = s.extend(ctx)
	}
	if err != nil {
		s.giveUp()
		return nil, err
	}
	return s.accepted, nil
}

// choose finds the deliveries of the tags.
func (s *settling) choose(ctx context.Context) error {
	d := s.durable
	var doubtful []int
	d.mu.Lock()
	if d.gone {
		d.mu.Unlock()
		return errNoSubscription()
	}
	s.epoch = d.def.Epoch
	for i, t := range s.tags {
		switch v := d.handed[t.sequence]; {
		case t.epoch != d.def.Epoch:
		case v != nil && v.attempt == t.attempt:
			if !v.settling && v.message == nil {
				v.settling = true
				s.chosen[i] = v
			}
		case d.past.has(t.sequence, t.attempt) || d.burying[t.sequence] != nil:
		case s.Verb == Ack, t.owner != d.broker.gateway && v == nil:
			doubtful = append(doubtful, i)
		}
	}
	d.mu.Unlock()
	if len(doubtful) == 0 {
		return nil
	}
	c, err := d.ask(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.unlock()
	taken := map[uint64]bool{}
	for _, i := range doubtful {
		t := s.tags[i]
		v := d.handed[t.sequence]
		if t.epoch != d.def.Epoch || t.epoch != s.epoch || t.sequence <= c.info.AckFloor.Stream || t.sequence > c.info.Delivered.Stream || taken[t.sequence] {
			continue // settled, or forgotten with a killed broker
		}
		taken[t.sequence] = true
		if s.Verb == Ack {
			s.late = append(s.late, i)
			continue
		}
		// The gateway that handed it out is gone; this one takes its place.
		if v == nil && time.Since(t.arrived) < d.def.AckWait {
			v = &delivery{
				sequence: t.sequence, attempt: t.attempt, subject: t.subject,
				arrived: t.arrived, since: t.arrived, settling: true,
			}
			d.hold(v)
			d.broker.lapses.schedule(d, v.since.Add(d.def.AckWait))
			s.chosen[i] = v
		}
	}
	return nil
}

// giveUp leaves the deliveries as they were.
func (s *settling) giveUp() {
	d := s.durable
	d.mu.Lock()
	defer d.unlock()
	for _, v := range s.chosen {
		if v == nil {
			continue
		}
		v.settling = false
		if v.holder != nil && v.holder.closed && !v.over {
			d.counts().abandoned.Add(1)
			d.giveBack(v)
		}
	}
	d.broker.lapses.schedule(d, time.Now())
}

func every(*delivery) bool { return true }

// notes are the same one about some of the deliveries.
func (s *settling) notes(payload []byte, which func(*delivery) bool) []note {
	notes := make([]note, 0, len(s.chosen))
	for _, v := range s.chosen {
		if v != nil && which(v) {
			notes = append(notes, note{v.sequence, v.subject, payload})
		}
	}
	return notes
}

func (s *settling) ack(ctx context.Context) error {
	notes := s.notes(sendAck, every)
	for _, i := range s.late {
		notes = append(notes, note{s.tags[i].sequence, s.tags[i].subject, sendAck})
	}
	forgotten, err := s.durable.tell(ctx, s.epoch, notes)
	if err != nil {
		return err
	}
	d := s.durable
	d.mu.Lock()
	defer d.unlock()
	var late []uint64
	for i, v := range s.chosen {
		if v != nil {
			s.accepted[i] = !forgotten[v.sequence]
			d.drop(v)
		}
	}
	for _, i := range s.late {
		s.accepted[i] = !forgotten[s.tags[i].sequence]
		if s.accepted[i] {
			late = append(late, s.tags[i].sequence)
		}
	}
	for i, ok := range s.accepted {
		if ok {
			d.counts().acked.Add(1)
			d.finish(s.tags[i].sequence)
		}
	}
	if len(late) > 0 { // another gateway may have handed them out again
		d.broker.peers.tell(peerNote{Op: peerDone, Namespace: d.namespace.name, Name: d.name, Life: d.life, Sequences: late})
	}
	return nil
}

func (s *settling) release(ctx context.Context) error {
	d := s.durable
	payload := sendNak
	if s.Delay > 0 {
		payload = fmt.Appendf(nil, `-NAK {"delay":%d}`, s.Delay)
	}
	d.mu.Lock()
	notes := s.notes(payload, func(v *delivery) bool { return !d.lastAttempt(v.attempt) })
	d.mu.Unlock()
	until := time.Now().Add(s.Delay)
	if _, err := d.tell(ctx, s.epoch, notes); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.unlock()
	for i, v := range s.chosen {
		if v == nil {
			continue
		}
		s.accepted[i] = true
		d.counts().released.Add(1)
		if v.over { // handed out again already, here
			continue
		}
		if d.lastAttempt(v.attempt) {
			d.giveBack(v)
			continue
		}
		d.drop(v)
		d.past.add(v.sequence, v.attempt)
		if s.Delay > 0 {
			d.delayed[v.sequence] = until
		}
	}
	return nil
}

func (s *settling) extend(ctx context.Context) error {
	d := s.durable
	notes := s.notes(sendProgress, every)
	since := time.Now()
	if _, err := d.tell(ctx, s.epoch, notes); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.unlock()
	for i, v := range s.chosen {
		if v == nil || v.over {
			continue
		}
		s.accepted[i] = true
		d.counts().extended.Add(1)
		v.settling = false
		if v.holder != nil && v.holder.closed {
			d.giveBack(v)
			continue
		}
		v.since = since
		d.age(v)
	}
	return nil
}

// reject returns when all are stored as dead letters.
func (s *settling) reject(ctx context.Context) error {
	d := s.durable
	reason := cleanReason(s.Reason)
	buried := map[int]chan error{}
	d.mu.Lock()
	for i, v := range s.chosen {
		if v != nil {
			buried[i] = make(chan error, 1)
			d.bury(v.sequence, v.attempt, v.subject, reason, buried[i])
		}
	}
	d.unlock()
	var failed error
	for i, done := range buried {
		select {
		case err := <-done:
			if err != nil {
				failed = err
				continue
			}
			s.accepted[i] = true
			d.counts().rejected.Add(1)
		case <-ctx.Done():
			return ctx.Err()
		case <-d.broker.ctx.Done():
			return errDraining()
		}
	}
	return failed
}

// A note is what JetStream is told of a delivery.
type note struct {
	sequence uint64
	subject  string
	payload  []byte
}

// How long JetStream is given to answer a note, and how long it is tried.
const (
	notePatience = 3 * time.Second
	noteTimeout  = 15 * time.Second
)

// tell has JetStream take notes of an epoch, in this order. It returns the sequences
// that it doesn't know to be handed out: a broker that was killed may have forgotten
// that. ErrNotFound: the subscription was moved or deleted.
func (d *durable) tell(ctx context.Context, epoch uint64, notes []note) (forgotten map[uint64]bool, err error) {
	deadline := time.Now().Add(noteTimeout)
	for delay := time.Millisecond; ; delay = min(2*delay, 250*time.Millisecond) {
		messages := make([]*nats.Msg, 0, len(notes))
		for _, n := range notes {
			if !forgotten[n.sequence] {
				messages = append(messages, &nats.Msg{Subject: n.subject, Data: n.payload})
			}
		}
		patient, cancel := context.WithTimeout(ctx, notePatience)
		err := d.line.confirm(patient, messages)
		cancel()
		if err == nil || ctx.Err() != nil || d.broker.ctx.Err() != nil {
			return forgotten, err
		}
		if time.Now().After(deadline) {
			return forgotten, err
		}
		if err := waitFor(ctx, d.broker.ctx, delay); err != nil {
			return forgotten, err
		}
		c, err := d.ask(ctx)
		switch {
		case errors.Is(err, schemas.ErrNotFound):
			return forgotten, err
		case err != nil:
			continue
		case c.Epoch != epoch:
			return forgotten, errNoSubscription()
		}
		for _, n := range notes {
			if n.sequence > c.info.Delivered.Stream {
				if forgotten == nil {
					forgotten = map[uint64]bool{}
				}
				forgotten[n.sequence] = true
			}
		}
	}
}

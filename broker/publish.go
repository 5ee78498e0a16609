package broker

import (
	"context"
	"crypto/sha256"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// An identity stands for (topic, source, id), which is what makes two events the
// same (protocol section 3).
type identity [16]byte

func newIdentity(t schemas.Topic, e *schemas.Event) identity {
	source, id := e.Source(), e.ID()
	b := make([]byte, 0, len(t)+len(source)+len(id)+2)
	b = append(b, t...)
	b = append(b, 0) // none of the three can hold it
	b = append(b, source...)
	b = append(b, 0)
	b = append(b, id...)
	sum := sha256.Sum256(b)
	return identity(sum[:16])
}

// An item is one event on its way into the log. The writer owns it from the queue
// on until it answers the publish that the item belongs to.
type item struct {
	identity identity
	subject  string
	header   nats.Header
	data     []byte
	accepted int64
	expired  bool // it is not stored

	// The outcome:
	settled   bool
	duplicate bool
	sequence  uint64
	first     int64 // when the first copy was accepted
}

func (i *item) settle(sequence uint64, first int64, duplicate bool) {
	i.settled, i.sequence, i.first, i.duplicate = true, sequence, first, duplicate
}

// newItem prepares an event for the log.
func newItem(ns *namespace, t schemas.Topic, rule TopicRule, e *schemas.Event, now time.Time) *item {
	i := &item{
		identity: newIdentity(t, e),
		subject:  topicSubject(logPrefix, ns.name, t),
		data:     e.JSON(),
		accepted: now.UnixNano(),
	}
	i.header = nats.Header{headerAccepted: {strconv.FormatInt(i.accepted, 10)}}
	ttl := time.Duration(0)
	longest := ns.rules.now().maxAge
	if rule.MaxAge < longest {
		ttl = rule.MaxAge
	}
	if expiry := e.Expiry(); !expiry.IsZero() {
		left := expiry.Sub(now)
		if left <= 0 {
			i.expired = true
			return i
		}
		i.header[headerExpires] = []string{strconv.FormatInt(expiry.UnixNano(), 10)}
		if left < longest && (ttl == 0 || left < ttl) {
			ttl = left
		}
	}
	if ttl != 0 { // whole seconds, at least one; what is left over is not delivered
		ns.log.expiring.Store(true)
		i.header[nats.MsgTTLHdr] = []string{strconv.FormatInt(int64((ttl+time.Second-1)/time.Second), 10)}
	}
	return i
}

// publishLive hands events to those who listen now.
func (b *Broker) publishLive(ns *namespace, t schemas.Topic, events []*schemas.Event) (Receipt, error) {
	now := time.Now()
	receipt := Receipt{Accepted: len(events)}
	expired := func(e *schemas.Event) bool {
		expiry := e.Expiry()
		return !expiry.IsZero() && !expiry.After(now)
	}
	if slices.ContainsFunc(events, expired) {
		events = slices.DeleteFunc(slices.Clone(events), expired)
	}
	if b.disk.embedded() { // nobody else can be listening
		ns.takeLive(t, events, now)
		return receipt, nil
	}
	for _, e := range events {
		if err := b.conn.Publish(topicSubject(livePrefix, ns.name, t), e.JSON()); err != nil {
			return Receipt{}, b.errStorage("publish live", err)
		}
	}
	return receipt, nil
}

// takeLive hands events that are not stored to this gateway's subscribers.
func (ns *namespace) takeLive(t schemas.Topic, events []*schemas.Event, now time.Time) {
	ns.mu.Lock()
	f := ns.feed
	ns.mu.Unlock()
	if f != nil {
		f.takeLive(t, events, now)
	}
}

// A Publishing is a publish that has begun: see [Broker.Begin].
type Publishing struct {
	receipt     Receipt
	publication *publication // nil: receipt is the outcome
	log         uint64
}

// Settled returns the receipt at once if nothing need be waited for.
func (p *Publishing) Settled() (Receipt, bool) { return p.receipt, p.publication == nil }

// begin queues events for the log.
func (w *writer) begin(ctx context.Context, t schemas.Topic, events []*schemas.Event) (*Publishing, error) {
	now := time.Now()
	rule := w.namespace.rules.find(t)
	p := &publication{items: make([]*item, len(events)), done: make(chan struct{})}
	waiting := 0
	for i, e := range events {
		p.items[i] = newItem(w.namespace, t, rule, e, now)
		if !p.items[i].expired {
			waiting++
		}
	}
	if waiting == 0 {
		return &Publishing{receipt: Receipt{Accepted: len(events)}}, nil
	}
	if err := w.enqueue(ctx, p); err != nil {
		return nil, err
	}
	return &Publishing{publication: p, log: w.namespace.log.id}, nil
}

// enqueue waits until there is room for a publication and hands it to the writer.
func (w *writer) enqueue(ctx context.Context, p *publication) error {
	if err := w.room(ctx, len(p.items)); err != nil {
		return err
	}
	select {
	case w.queue <- p:
		return nil
	case <-ctx.Done():
		w.leave(len(p.items))
		return ctx.Err()
	case <-w.broker.ctx.Done():
		w.leave(len(p.items))
		return errDraining()
	}
}

// Wait is the second half of [Broker.Publish].
func (p *Publishing) Wait(ctx context.Context) (Receipt, error) {
	if p.publication == nil {
		return p.receipt, nil
	}
	select {
	case <-p.publication.done:
	case <-ctx.Done():
		return Receipt{}, ctx.Err() // the writer settles it all the same
	}
	if p.publication.err != nil {
		return Receipt{}, p.publication.err
	}
	receipt := Receipt{Accepted: len(p.publication.items), Stored: true}
	for i, it := range p.publication.items {
		if it.expired {
			continue
		}
		if it.duplicate {
			receipt.Duplicates = append(receipt.Duplicates, i)
		}
		receipt.Cursor = schemas.Cursor{Log: p.log, Sequence: it.sequence, Accepted: it.first}
	}
	return receipt, nil
}

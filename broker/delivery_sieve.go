package broker

import (
	"bytes"
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// Headers of what was a delivery: a dead letter, or an event handed back.
const (
	headerTopic    = "Outrelay-Topic"      // of the event as it was published
	headerCursor   = "Outrelay-Cursor"     // the same
	headerDead     = "Outrelay-Dead"       // the life of the subscription that failed on it
	headerRequeued = "Outrelay-Requeue-Of" // the sequence of the dead letter
)

// A sieve decides what a subscription hands out of what its consumer brings, and in
// which form. It is made for one round, so that nothing changes under it.
type sieve struct {
	durable *durable
	def     definition
	content *filter.Filter
	log     uint64
}

// sieve is d's as it is now. The lock is held.
func (d *durable) sieve() sieve {
	return sieve{durable: d, def: d.def, content: d.content, log: d.namespace.log.id}
}

// all returns the events of deliveries in the form in which they are handed out; nil
// for those that are not.
func (s *sieve) all(ctx context.Context, deliveries []*delivery) ([][]byte, error) {
	events := make([][]byte, len(deliveries))
	for i, v := range deliveries {
		r := newRecord(v.sequence, v.message.Subject, v.message.Header, v.message.Data, v.stored)
		from, ok, err := s.passes(ctx, r)
		if err != nil {
			return nil, err
		}
		if ok {
			data := bytes.TrimSpace(r.data)
			events[i] = schemas.AppendDelivered(make([]byte, 0, len(data)+len(from.topic)+96), data, from.topic, &from.cursor)
		}
	}
	return events, nil
}

// An origin is what an event was when it was published.
type origin struct {
	topic  schemas.Topic
	cursor schemas.Cursor
}

// passes says whether an event is the subscription's, and what it was.
func (s *sieve) passes(ctx context.Context, r record) (from origin, ok bool, err error) {
	from = s.durable.origin(s.log, r)
	if r.expired(time.Now().UnixNano()) {
		return from, false, nil
	}
	if r.header.Get(headerRequeued) != "" {
		// A replay brings the event itself, if it begins before it.
		return from, r.sequence > s.def.Replayed || from.cursor.Sequence <= s.def.After, nil
	}
	if r.accepted < s.def.NotBefore || !s.def.Topics.Match(from.topic) {
		return from, false, nil
	}
	if r.sequence <= s.def.LastUpTo {
		if last, err := s.durable.lastOf(ctx, r.subject, s.def.LastUpTo); err != nil || last != r.sequence {
			return from, false, err
		}
	}
	if s.content != nil {
		e, err := schemas.ParseStored(r.data)
		if err != nil || !s.content.Match(e) {
			return from, false, nil
		}
	}
	return from, true, nil
}

// origin says what a message of the subscription's consumer was when it was published.
func (d *durable) origin(log uint64, r record) origin {
	from := origin{cursor: schemas.Cursor{Log: log, Sequence: r.sequence, Accepted: r.accepted}}
	if r.header.Get(headerRequeued) == "" {
		from.topic = subjectTopic(logPrefix, d.namespace.name, r.subject)
		return from
	}
	from.topic = schemas.Topic(r.header.Get(headerTopic))
	if c, err := schemas.ParseCursor(r.header.Get(headerCursor)); err == nil {
		from.cursor = c
	}
	return from
}

// maxLasts bounds what lastOf remembers.
const maxLasts = 10_000

// lastOf is the sequence of a subject's last message up to a sequence.
func (d *durable) lastOf(ctx context.Context, subject string, upTo uint64) (uint64, error) {
	d.mu.Lock()
	last, ok := d.lasts[subject]
	d.mu.Unlock()
	if ok {
		return last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	records, _, err := d.namespace.log.direct(ctx, directGet{MultiLast: []string{subject}, UpTo: upTo, MaxBytes: readBytes})
	if err != nil {
		return 0, err
	}
	if len(records) > 0 {
		last = records[0].sequence
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lasts == nil || len(d.lasts) >= maxLasts {
		d.lasts = map[string]uint64{}
	}
	d.lasts[subject] = last
	return last, nil
}

// setOrigin writes down what an event was.
func setOrigin(h nats.Header, from origin) {
	h[headerTopic] = []string{string(from.topic)}
	h[headerCursor] = []string{from.cursor.String()}
}

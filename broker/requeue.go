package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// Requeue hands dead letters back to the subscription that failed on them, and to no
// other, as the events that they were: own topic, id and cursor, attempt 1. It looks at
// all cursors before it requeues any; one that stands twice counts once. The dead
// letters stay where they are.
//
// Errors: ErrCursor where a cursor is no dead letter of this life of the subscription,
// or its event is gone; ErrTooLarge for more than [schemas.MaxBatchEvents];
// ErrNotFound; ErrStorage, where some may have been requeued; ctx's.
func (b *Broker) Requeue(ctx context.Context, namespace, name string, cursors []schemas.Cursor) error {
	ns, err := b.namespace(namespace)
	if err != nil {
		return err
	}
	if len(cursors) > schemas.MaxBatchEvents {
		return schemas.Problemf("too-large", "There are %d cursors; at most %d are allowed. Send several requests.", len(cursors), schemas.MaxBatchEvents)
	}
	if err := ns.subscriptions.requeue(ctx, name, cursors); err != nil {
		return b.errStorage("requeue", err)
	}
	return nil
}

// RequeueAll is [Broker.Requeue] of every dead letter of the subscription that is
// still kept and was not requeued yet, on its dead-letter topic and the last few that
// it had before. It returns how many; with an error, how many were requeued before it.
func (b *Broker) RequeueAll(ctx context.Context, namespace, name string) (int, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return 0, err
	}
	count, err := ns.subscriptions.requeueAll(ctx, name)
	if err != nil {
		return count, b.errStorage("requeue", err)
	}
	return count, nil
}

func (s *subscriptions) requeue(ctx context.Context, name string, cursors []schemas.Cursor) error {
	d, err := s.load(ctx, name)
	if err != nil {
		return err
	}
	log := s.namespace.log
	now, err := log.place(ctx)
	if err != nil {
		return err
	}
	seen := map[uint64]bool{}
	var sequences []uint64
	for _, c := range cursors {
		r, err := record{}, errGone
		if c.Log == now.log && c.Sequence > 0 && c.Sequence <= now.last {
			r, err = log.at(ctx, c.Sequence)
		}
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
		if err != nil || r.accepted != c.Accepted || !d.isDead(r) {
			return schemas.Problemf("cursor", "The cursor %s is no dead letter of this subscription. Take the relaycursor of one, as its dead-letter topic has it.", c)
		}
		if !seen[c.Sequence] {
			seen[c.Sequence] = true
			sequences = append(sequences, c.Sequence)
		}
	}
	var some []record
	size := 0
	for n, sequence := range sequences {
		r, err := log.at(ctx, sequence)
		if err == nil {
			some, size = append(some, r), size+len(r.data)
		} else if !errors.Is(err, errGone) { // else it expired this moment
			return err
		}
		if n == len(sequences)-1 || size >= readBytes {
			if _, err := d.handBack(ctx, some); err != nil {
				return err
			}
			some, size = nil, 0
		}
	}
	return nil
}

func (s *subscriptions) requeueAll(ctx context.Context, name string) (count int, err error) {
	s.changing.Lock() // two at once would each requeue all
	defer s.changing.Unlock()
	d, err := s.load(ctx, name)
	if err != nil {
		return 0, err
	}
	log := s.namespace.log
	now, err := log.place(ctx)
	if err != nil {
		return 0, err
	}
	requeued := map[uint64]bool{}
	err = log.scan(ctx, requeueSubject(log.namespace, name, d.life), now, func(records []record) error {
		for _, r := range records {
			if of, err := strconv.ParseUint(r.header.Get(headerRequeued), 10, 64); err == nil {
				requeued[of] = true
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	topics := append([]schemas.Topic{d.def.DeadLetter}, d.def.Former...)
	d.mu.Unlock()
	for _, topic := range topics {
		if topic == "" {
			continue
		}
		err := log.scan(ctx, topicSubject(logPrefix, log.namespace, topic), now, func(records []record) error {
			var some []record
			for _, r := range records {
				if d.isDead(r) && !requeued[r.sequence] {
					some = append(some, r)
				}
			}
			n, err := d.handBack(ctx, some)
			count += n
			return err
		})
		if err != nil {
			return count, err
		}
	}
	return count, nil
}

// scan reads all messages of a subject, some at a time.
func (l *eventLog) scan(ctx context.Context, subject string, now place, each func([]record) error) error {
	select {
	case l.broker.readers <- struct{}{}:
		defer func() { <-l.broker.readers }()
	case <-ctx.Done():
		return ctx.Err()
	}
	after := now.first - 1
	for more := true; more; {
		limited, cancel := context.WithTimeout(ctx, requestTimeout)
		var records []record
		var err error
		records, more, err = l.read(limited, subject, after, now.last, readRecords, readBytes)
		cancel()
		if err != nil {
			return err
		}
		if len(records) > 0 {
			after = records[len(records)-1].sequence
		}
		if err := each(records); err != nil {
			return err
		}
	}
	return nil
}

// isDead says whether a message is a dead letter of this life of the subscription.
func (d *durable) isDead(r record) bool {
	return r.header.Get(headerDead) == strconv.FormatUint(d.life, 16)
}

// handBack stores dead letters for the subscription alone, all or none, and returns
// how many; those that have expired are left out. Each is an event of its own to the
// dedup, also when it is requeued again.
func (d *durable) handBack(ctx context.Context, dead []record) (int, error) {
	var items []*item
	for _, r := range dead {
		event, err := schemas.ParseEvent(r.data) // without what the broker had added
		if err != nil {
			d.broker.logger.Error("the log holds what is no event", "sequence", r.sequence)
			continue
		}
		topic := schemas.Topic(r.header.Get(headerTopic))
		i := newItem(d.namespace, topic, TopicRule{MaxAge: d.namespace.rules.now().maxAge}, event, time.Now())
		if i.expired {
			continue
		}
		i.subject = requeueSubject(d.namespace.name, d.name, d.life)
		rand.Read(i.identity[:])
		i.header[headerTopic] = r.header[headerTopic]
		i.header[headerCursor] = r.header[headerCursor]
		i.header[headerRequeued] = []string{strconv.FormatUint(r.sequence, 10)}
		items = append(items, i)
	}
	if err := d.namespace.writer.submit(ctx, items); err != nil {
		return 0, err
	}
	d.counts().requeued.Add(uint64(len(items)))
	return len(items), nil
}

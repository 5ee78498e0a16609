package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/schemas"
)

// The attributes of a dead letter (protocol section 5).
const (
	deadReason       = schemas.AttributeDeadPrefix + "reason"
	deadTopic        = schemas.AttributeDeadPrefix + "topic"
	deadSubscription = schemas.AttributeDeadPrefix + "subscription"
	deadCount        = schemas.AttributeDeadPrefix + "count"
)

// The values of relaydeadreason that are not a subscriber's own words.
const (
	reasonAttempts = "maxdeliver" // the attempts were used up
	reasonRejected = "rejected"   // a subscriber rejected it and gave no reason
)

// A burial is an event on its way to the dead letters of a subscription.
type burial struct {
	durable  *durable
	epoch    uint64
	sequence uint64
	attempts uint64
	subject  string // where the delivery is settled
	reason   string
	waiting  []chan error // told the outcome; each holds one
	stored   bool
}

// bury has an event stored as a dead letter. done, if not nil, is told the outcome;
// nobody else is told of a failure: it is tried again. The lock is held.
func (d *durable) bury(sequence, attempts uint64, subject, reason string, done chan error) {
	b := d.burying[sequence]
	if b == nil {
		b = &burial{durable: d, epoch: d.def.Epoch, sequence: sequence, attempts: attempts, subject: subject, reason: reason}
		d.burying[sequence] = b
		d.post(subject, "", sendProgress) // not to be handed out meanwhile
		d.subscriptions.undertaker.take(b)
	}
	if done != nil {
		b.waiting = append(b.waiting, done)
	}
}

// An undertaker stores a namespace's dead letters. It takes all that wait at once, so
// that they share a flush.
type undertaker struct {
	broker    *Broker
	namespace *namespace
	wake      chan struct{}

	mu    sync.Mutex
	queue []*burial // bounded by what is unsettled
}

func (u *undertaker) take(b ...*burial) {
	u.mu.Lock()
	u.queue = append(u.queue, b...)
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Bounds of what is buried at once.
const (
	buryEvents = 100
	buryBytes  = 4 << 20
)

// run owns the namespace's burials until ctx ends. What is left then is found again
// by whoever is next given the event.
func (u *undertaker) run(ctx context.Context) {
	for delay := minHeal; ; {
		select {
		case <-u.wake:
		case <-ctx.Done():
			return
		}
		for {
			u.mu.Lock()
			n := min(len(u.queue), buryEvents)
			some := u.queue[:n:n]
			u.queue = u.queue[n:]
			u.mu.Unlock()
			if n == 0 {
				break
			}
			again := u.bury(ctx, some)
			if len(again) == 0 {
				delay = minHeal
				continue
			}
			if len(again) < n { // some of them went through
				delay = minHeal
			}
			u.take(again...)
			if waitFor(ctx, ctx, delay) != nil {
				return
			}
			delay = min(2*delay, maxHeal)
		}
	}
}

// bury stores events as dead letters and returns those that must be tried again.
func (u *undertaker) bury(ctx context.Context, burials []*burial) (again []*burial) {
	var items []*item
	var stored, over []*burial
	size := 0
	for _, b := range burials {
		if b.stored {
			over = append(over, b)
			continue
		}
		if size > buryBytes {
			again = append(again, b)
			continue
		}
		i, err := u.prepare(ctx, b)
		switch {
		case err != nil:
			again = u.failed(b, err, again)
		case i == nil:
			over = append(over, b)
		default:
			items, stored, size = append(items, i), append(stored, b), size+len(i.data)
		}
	}
	if err := u.namespace.writer.submit(ctx, items); err == nil {
		for _, b := range stored {
			b.stored = true
			b.durable.counts().deadLetters.Add(1)
		}
		over = append(over, stored...)
	} else if len(items) == 1 {
		again = u.failed(stored[0], err, again)
	} else { // perhaps it is one of them
		for n, i := range items {
			if err := u.namespace.writer.submit(ctx, []*item{i}); err != nil {
				again = u.failed(stored[n], err, again)
				continue
			}
			stored[n].stored = true
			stored[n].durable.counts().deadLetters.Add(1)
			over = append(over, stored[n])
		}
	}
	for _, b := range over {
		d := b.durable
		if _, err := d.tell(ctx, b.epoch, []note{{b.sequence, b.subject, sendTerm}}); err != nil && !errors.Is(err, schemas.ErrNotFound) {
			again = append(again, b)
			continue
		}
		d.mu.Lock()
		if d.burying[b.sequence] == b {
			delete(d.burying, b.sequence)
			d.finish(b.sequence)
		}
		waiting := b.waiting
		d.unlock()
		for _, done := range waiting {
			done <- nil
		}
	}
	return again
}

// failed tells those who wait, or has the burial tried again.
func (u *undertaker) failed(b *burial, err error, again []*burial) []*burial {
	d := b.durable
	d.mu.Lock()
	defer d.unlock()
	if len(b.waiting) == 0 && d.burying[b.sequence] == b {
		d.post(b.subject, "", sendProgress)
		return append(again, b)
	}
	if d.burying[b.sequence] == b {
		delete(d.burying, b.sequence)
	}
	for _, done := range b.waiting {
		done <- err
	}
	return again
}

// prepare makes the dead letter of an event; nil if there is to be none.
func (u *undertaker) prepare(ctx context.Context, b *burial) (*item, error) {
	d := b.durable
	d.mu.Lock()
	sieve := d.sieve()
	moved := d.gone || d.def.Epoch != b.epoch
	d.mu.Unlock()
	if moved {
		return nil, errNoSubscription()
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := u.namespace.log.at(limited, b.sequence)
	if errors.Is(err, errGone) {
		return nil, nil // retention took it
	}
	if err != nil {
		return nil, err
	}
	from, ok, err := sieve.passes(limited, r)
	if err != nil || !ok { // it was pulled, and never looked at
		return nil, err
	}
	if sieve.def.DeadLetter == "" {
		d.counts().dropped.Add(1)
		return nil, nil
	}
	event, err := schemas.ParseEvent(r.data)
	if err != nil {
		d.broker.logger.Error("the log holds what is no event", "sequence", r.sequence)
		return nil, nil
	}
	i := newItem(u.namespace, sieve.def.DeadLetter, u.namespace.rules.find(sieve.def.DeadLetter), event, time.Now())
	if i.expired {
		return nil, nil
	}
	i.identity = deadIdentity(d.life, sieve.def.Epoch, b.sequence)
	i.header[headerDead] = []string{strconv.FormatUint(d.life, 16)}
	setOrigin(i.header, from)
	i.data = appendDead(event.JSON(), b.reason, from.topic, d.name, b.attempts)
	return i, nil
}

// deadIdentity is that of one dead letter: an event of its own to the dedup, and the
// same whichever gateway stores it.
func deadIdentity(life, epoch, sequence uint64) identity {
	b := []byte("\x00dead\x00") // no topic begins so
	for _, n := range []uint64{life, epoch, sequence} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	sum := sha256.Sum256(b)
	return identity(sum[:16])
}

// appendDead is a new event in its JSON form: the given one with the attributes of a
// dead letter.
func appendDead(event []byte, reason string, topic schemas.Topic, subscription string, count uint64) []byte {
	b := make([]byte, 0, len(event)+len(reason)+len(topic)+len(subscription)+128)
	b = append(b, event[:len(event)-1]...)
	b = append(b, `,"`+deadReason+`":`...)
	b, _ = jsontext.AppendQuote(b, reason) // it is UTF-8
	b = append(b, `,"`+deadTopic+`":"`+string(topic)+`","`+deadSubscription+`":"`+subscription+`","`+deadCount+`":`...)
	b = strconv.AppendUint(b, count, 10)
	return append(b, '}')
}

// cleanReason makes a subscriber's reason fit for an attribute: what CloudEvents
// doesn't allow in one becomes a blank.
func cleanReason(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), MaxReason+utf8.UTFMax)], " ")
	for s = s[:min(len(s), MaxReason)]; !utf8.ValidString(s); { // cut inside a character
		s = s[:len(s)-1]
	}
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7F && r <= 0x9F || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE {
			return ' '
		}
		return r
	}, s)
	if s = strings.TrimSpace(s); s == "" {
		return reasonRejected
	}
	return s
}

// submit stores items that are no publish of a client, all or none.
func (w *writer) submit(ctx context.Context, items []*item) error {
	if len(items) == 0 {
		return nil
	}
	p := &publication{items: items, done: make(chan struct{})}
	if err := w.enqueue(ctx, p); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err() // the writer settles it all the same
	}
}

package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// A source is what a session has subscribed to under an id: a live stream or a
// durable subscription. Its goroutine takes deliveries from the broker and hands them
// to the writer, a chunk of messages at a time, and takes no more while a chunk waits.
type source struct {
	session   *session
	line      *line
	ask       []access.Ask // what it needs rights to
	head      []byte       // of a message with an event of a stream
	slowClose bool
	ctx       context.Context // ends when the source is to end
	cancel    context.CancelFunc
	done      chan struct{} // closed when its goroutine has ended

	stream     *broker.Stream     // one of these two
	subscriber *broker.Subscriber // is set

	// Owned by the goroutine.
	chunk    *frame.Chunk    // being made; nil while it has nothing
	idle     context.Context // of a stream: ends when its position may be due
	idleDone context.CancelFunc

	room chan struct{} // has an item unless a chunk waits for the writer

	// Guarded by the session's mu.
	waiting *frame.Chunk // for the writer
	lost    *ending      // ordered to end, and why
	ended   bool         // its place is given back
}

// sourceBatch is how many deliveries a source asks for at a time.
const sourceBatch = 64

// subscribe opens a source.
func (s *session) subscribe(l *line, r *request) {
	u, cursor, err := s.open(l, r.subscribe)
	if err != nil {
		s.refuse(r, err)
		return
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		u.close()
		s.refuse(r, errDraining())
		return
	}
	l.source = u
	s.replyLocked(r, subscribedMessage(l.quoted, cursor))
	u.recheckLocked() // the rights may have changed meanwhile
	s.mu.Unlock()
	s.gateway.metrics.session.subscribed(u, 1)
	s.tasks.Go(u.run)
}

// open asks for what a source needs. The source is not of the line yet.
func (s *session) open(l *line, p *subscribing) (u *source, cursor schemas.Cursor, err error) {
	u = &source{
		session: s, line: l, head: eventHead(l.quoted), slowClose: p.slowClose,
		done: make(chan struct{}), room: make(chan struct{}, 1),
	}
	u.room <- struct{}{}
	if err := s.allowed(p.asks()...); err != nil {
		return nil, cursor, err
	}
	if err := s.takeSource(); err != nil {
		return nil, cursor, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.brokerTimeout())
	defer cancel()
	if p.name == "" {
		u.ask = p.asks()
		u.stream, err = s.gateway.config.Broker.Subscribe(ctx, s.namespace, broker.StreamOptions{
			Topics: p.topics, Filter: p.filter, Start: p.start,
		})
	} else {
		u.subscriber, err = s.gateway.config.Broker.OpenSubscription(ctx, s.namespace, p.name, broker.SubscriberOptions{
			Subscription: p.durable, Start: p.start, Credit: p.credit,
			Allow: func(o broker.SubscriptionOptions) error { return allowsSubscription(s.grant.Load(), p.name, o) },
		})
	}
	if err != nil {
		s.giveSource()
		return nil, cursor, err
	}
	if u.stream != nil {
		cursor = u.stream.Cursor()
	} else {
		cursor = u.subscriber.Cursor()
		u.ask = asksSubscription(p.name, u.subscriber.Options())
	}
	u.ctx, u.cancel = context.WithCancel(s.ctx)
	return u, cursor, nil
}

// asks are the rights that a subscribe needs whatever the broker says of it.
func (p *subscribing) asks() (asks []access.Ask) {
	if p.name != "" {
		asks = append(asks, access.Ask{Action: access.Subscription, Name: p.name})
	}
	if p.topics != "" {
		asks = append(asks, access.Ask{Action: access.Subscribe, Topics: p.topics})
	}
	if d := p.durable.DeadLetter; d != nil && *d != "" {
		asks = append(asks, access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(*d)})
	}
	return asks
}

// takeSource takes a place among the session's subscriptions and the namespace's
// streams.
func (s *session) takeSource() error {
	most := s.gateway.config.Limits.SessionSubscriptions
	s.mu.Lock()
	full := s.sources >= most
	if !full {
		s.sources++
	}
	s.mu.Unlock()
	if full {
		s.gateway.metrics.session.full.WithLabelValues(s.namespace).Inc()
		return schemas.Problemf("rate", "The session has %d subscriptions open, which is its limit; open another session.", most)
	}
	err := s.gateway.takePlace(s.namespace)
	if err != nil {
		s.mu.Lock()
		s.sources--
		s.mu.Unlock()
	}
	return err
}

func (s *session) giveSource() {
	s.mu.Lock()
	s.sources--
	s.mu.Unlock()
	s.gateway.givePlace(s.namespace)
}

// close gives back what open took. The goroutine has ended, or never began.
func (u *source) close() {
	u.cancel()
	if u.stream != nil {
		u.stream.Close()
	} else {
		u.subscriber.Close()
	}
	u.session.giveSource()
}

// unsubscribe ends a source at the client's wish: nothing of it comes after the answer.
func (s *session) unsubscribe(l *line, r *request) {
	s.mu.Lock()
	u := l.source
	if u == nil {
		s.mu.Unlock()
		s.refuse(r, errNotOpen())
		return
	}
	u.detachLocked()
	s.mu.Unlock()
	u.stop()
	s.reply(r, plainMessage(schemas.OpOK, l.quoted))
}

// detachLocked takes the source off its line; whoever does so ends it. What waits for
// the writer is dropped. The session's mu is held.
func (u *source) detachLocked() {
	u.line.source = nil
	u.ended = true
	u.dropLocked()
}

// stop ends a source that was detached, and waits for its goroutine.
func (u *source) stop() {
	u.cancel()
	<-u.done
	u.session.gateway.metrics.session.subscribed(u, -1)
	u.close()
}

// dropLocked drops what waits for the writer.
func (u *source) dropLocked() {
	if u.waiting != nil {
		u.waiting.Reset()
	}
}

// recheckLocked orders the source to end if the session's rights no longer cover it.
func (u *source) recheckLocked() {
	if err := u.session.allowed(u.ask...); err != nil && u.lost == nil {
		u.lost = &ending{schemas.CloseRightLost, "the token's rights no longer cover it"}
		u.dropLocked()
		u.cancel()
	}
}

// run feeds the writer until the source is to end. If that was not the client's wish
// the client is told.
func (u *source) run() {
	s := u.session
	var end *ending
	problem := schemas.Problemf("internal", "The gateway failed on this subscription; its log says where.")
	func() {
		defer close(u.done)
		defer s.guard()
		end, problem = u.feed()
	}()
	s.mu.Lock()
	if u.lost != nil {
		end = u.lost
		problem = schemas.Problemf("forbidden", "The token's rights no longer cover this subscription.")
	}
	if u.ended || end == nil { // somebody waits for it, or the session ends
		s.mu.Unlock()
		return
	}
	u.line.source = nil
	u.ended = true
	s.sayLocked(u, endedMessage(u.line.quoted, end, problem))
	s.dropLocked(u.line)
	s.mu.Unlock()
	s.gateway.metrics.session.ended(u, end.reason)
	u.close()
}

// feed takes deliveries and hands them on. The ending is nil where somebody else
// ended the source.
func (u *source) feed() (*ending, *schemas.Problem) {
	if u.stream != nil {
		return u.feedStream()
	}
	return u.feedDurable()
}

func (u *source) feedStream() (*ending, *schemas.Problem) {
	delivered := time.Now()
	u.lookAt(delivered.Add(u.session.interval))
	defer func() { u.idleDone() }()
	var patience patience
	for {
		deliveries, err := u.stream.Next(u.idle, sourceBatch)
		switch {
		case err == nil:
			patience.reset()
			delivered = time.Now()
			if end, problem := u.pass(deliveries); end != nil || !u.push() {
				return end, problem
			}
		case u.ctx.Err() != nil:
			return nil, nil
		case u.idle.Err() != nil:
			if now := time.Now(); !now.Before(delivered.Add(u.session.interval)) {
				delivered = now
				u.say(positionMessage(u.line.quoted, u.stream.Cursor()))
				if !u.push() {
					return nil, nil
				}
			}
			u.lookAt(delivered.Add(u.session.interval))
		default:
			if end, problem := u.failed(err, &patience); end != nil {
				return end, problem
			}
		}
	}
}

// lookAt makes idle end at the time given: one context for many waits.
func (u *source) lookAt(t time.Time) {
	if u.idleDone != nil {
		u.idleDone()
	}
	u.idle, u.idleDone = context.WithDeadline(u.ctx, t)
}

// pass puts a stream's deliveries into the chunk.
func (u *source) pass(deliveries []broker.Delivery) (*ending, *schemas.Problem) {
	s := u.session
	events, size := 0, 0
	defer func() { s.gateway.metrics.delivered(s.namespace, events, size) }()
	for i := range deliveries {
		d := &deliveries[i]
		if d.Gap != nil {
			s.gateway.metrics.gap(s.namespace, d.Gap.Reason)
			u.say(gapMessage(u.line.quoted, d.Gap))
			if d.Gap.Reason == schemas.GapSlow && u.slowClose {
				return &ending{reason: schemas.CloseSlow}, schemas.Problemf("rate", "The client fell behind on a topic that is not stored.")
			}
		} else {
			events, size = events+1, size+len(d.Event)
			u.say(u.head, d.Event, closeObject)
		}
		if len(u.chunk.Bytes) >= joined && !u.push() {
			return nil, nil
		}
	}
	return nil, nil
}

func (u *source) feedDurable() (*ending, *schemas.Problem) {
	s := u.session
	var patience patience
	var head []byte
	for {
		deliveries, err := u.subscriber.Next(u.ctx, sourceBatch)
		if err != nil {
			if u.ctx.Err() != nil {
				return nil, nil
			}
			if end, problem := u.failed(err, &patience); end != nil {
				return end, problem
			}
			continue
		}
		patience.reset()
		size := 0
		for i := range deliveries {
			d := &deliveries[i]
			head = appendDelivery(head[:0], u.line.quoted, d)
			u.say(head, d.Event, closeObject)
			size += len(d.Event)
			if len(u.chunk.Bytes) >= joined && !u.push() {
				return nil, nil
			}
		}
		s.gateway.metrics.delivered(s.namespace, len(deliveries), size)
		if !u.push() {
			return nil, nil
		}
	}
}

// failed judges an error of the broker. Without an ending the source tries again,
// after a pause that it has waited.
func (u *source) failed(err error, p *patience) (*ending, *schemas.Problem) {
	s := u.session
	switch {
	case errors.Is(err, schemas.ErrDraining):
		s.finish(schemas.CloseDrain, "")
		<-u.ctx.Done()
		return nil, nil
	case errors.Is(err, schemas.ErrNotFound):
		return &ending{reason: schemas.CloseDone}, s.gateway.problem(err)
	case errors.Is(err, schemas.ErrStorage), errors.Is(err, context.DeadlineExceeded):
		if !p.wait(u.ctx) {
			return &ending{reason: schemas.CloseFault}, s.gateway.problem(err)
		}
		return nil, nil
	}
	return &ending{reason: schemas.CloseFault}, s.gateway.problem(err)
}

// A patience is for a log that can't be read to come back.
type patience struct{ since time.Time }

func (p *patience) reset() { p.since = time.Time{} }

// wait waits a little; false once that has lasted for too long.
func (p *patience) wait(ctx context.Context) bool {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if time.Since(p.since) > storagePatience {
		return false
	}
	pause := time.NewTimer(storagePause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	}
	return true
}

// say adds a message to the chunk.
func (u *source) say(message ...[]byte) {
	if u.chunk == nil {
		u.chunk = newChunk()
	}
	u.chunk.Text(message...)
}

// push hands the chunk to the writer, once the one before has been taken. It returns
// false if the source is to end instead.
func (u *source) push() bool {
	if u.chunk == nil {
		return u.ctx.Err() == nil
	}
	select {
	case <-u.room:
	case <-u.ctx.Done():
		return false
	}
	s := u.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.ended || u.lost != nil {
		return false
	}
	u.waiting, u.chunk = u.chunk, nil
	s.ready = append(s.ready, u)
	s.rouse()
	return true
}

// sayLocked adds a message behind all that waits of a source. The session's mu is held.
func (s *session) sayLocked(u *source, message []byte) {
	if u.chunk != nil && u.lost == nil { // its goroutine is at its end
		if u.waiting == nil {
			u.waiting = newChunk()
			s.ready = append(s.ready, u)
		}
		joinChunk(u.waiting, u.chunk)
	}
	if u.waiting == nil {
		u.waiting = newChunk()
		s.ready = append(s.ready, u)
	}
	u.waiting.Text(message)
	s.rouse()
}

package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A Stream is one subscriber's flow of events. Next and Cursor belong to one
// goroutine at a time; Close may be called from any.
type Stream struct {
	broker    *Broker
	namespace *namespace
	feed      *feed
	view      *view
	topics    schemas.TopicFilter
	filter    *filter.Filter
	notBefore int64

	// Owned by whoever calls Next.
	out        []Delivery
	gaps       []*Gap   // to be said before anything else
	snapshot   *last    // of "from": "last", until it is delivered
	place      position // the newest stored event that was delivered, or did not pass
	log        uint64
	generation uint64
	behind     bool   // the log is read, until the view holds what comes next
	next       uint64 // the place in the view, when not behind
	began      uint64 // unstored events of the view before this place came before the stream
	live       uint64 // unstored events of the view before next or missed, since the feed began

	closing   sync.Once
	closed    chan struct{}
	abandoned context.Context // ends with Close
	abandon   context.CancelFunc
}

// errClosed is what Next returns after Close.
var errClosed = errors.New("stream closed")

// Subscribe opens a stream. It stands when Subscribe returns: what is published
// afterwards is delivered, or announced as a gap. Close it after use.
//
// Errors are of type [schemas.Problem], or ctx's.
func (b *Broker) Subscribe(ctx context.Context, namespace string, o StreamOptions) (*Stream, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return nil, err
	}
	s, err := b.subscribe(ctx, ns, o)
	if err != nil {
		return nil, b.errStorage("subscribe", err)
	}
	return s, nil
}

func (b *Broker) subscribe(ctx context.Context, ns *namespace, o StreamOptions) (*Stream, error) {
	s := &Stream{
		broker: b, namespace: ns,
		topics: o.Topics, filter: o.Filter,
		closed: make(chan struct{}),
	}
	for {
		f, err := b.feed(ctx, ns)
		if err != nil {
			return nil, err
		}
		if view, ok := f.join(o.Topics, o.Filter); ok {
			s.feed, s.view = f, view
			break
		}
		if b.ctx.Err() != nil { // else it ended this moment
			return nil, errDraining()
		}
	}
	s.abandoned, s.abandon = context.WithCancel(b.ctx)
	if err := s.begin(ctx, o.Start); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// beginning is the log's place for a start. Where this broker alone writes to the
// log, its end is that of the last event answered: what comes after it has not been
// published yet. Only the end is known then.
func (ns *namespace) beginning(ctx context.Context, start Start) (place, error) {
	if ns.log.broker.disk.embedded() && start.After == nil && start.From == FromLatest {
		end := ns.writer.end.Load()
		return place{log: ns.log.id, last: end.sequence, accepted: end.accepted}, nil
	}
	return ns.log.place(ctx)
}

// begin finds the stream's place in log and view.
func (s *Stream) begin(ctx context.Context, start Start) error {
	log := s.namespace.log
	now, err := s.namespace.beginning(ctx, start)
	if err != nil {
		return err
	}
	begin, err := log.begin(ctx, now, s.topics, start)
	if err != nil {
		return err
	}
	s.place, s.gaps, s.notBefore = begin.position, begin.gaps, begin.notBefore
	if start.After != nil && log.rules.unstored(s.topics, start.After.Accepted) {
		s.gaps = append(s.gaps, &Gap{Reason: GapUnstored})
	}
	if (start.After != nil || start.From != FromLast) && len(s.gaps) == 0 && log.damaged(s.place.sequence, now.last) {
		s.gaps = append(s.gaps, &Gap{Reason: GapExpired})
	}
	if start.After == nil && start.From == FromLast {
		s.snapshot = &last{log: log, subject: filterSubject(logPrefix, log.namespace, s.topics), upTo: now.last}
		first, err := s.snapshot.first(ctx)
		if err != nil {
			return err
		}
		if first != 0 { // whoever is cut before it resumes before it
			if s.place, err = log.position(ctx, first-1, now); err != nil {
				return err
			}
		}
		s.snapshot.end = position{now.last, now.accepted}
	}
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	s.log, s.generation = now.log, f.generation
	s.began = s.view.end()
	s.live = s.view.lost
	for place := s.view.base; place < s.view.end(); place++ {
		e := s.view.at(place)
		if !e.stored() {
			s.live++
		}
	}
	s.behind = true
	s.rejoin()
	return nil
}

// Next waits until something is to be delivered and returns all that waits, up to
// max deliveries. The slice is valid until the next call. The error is ctx's, or a
// problem when the broker stops or the log can't be read; nothing is lost by it, so
// Next may be called again.
func (s *Stream) Next(ctx context.Context, max int) ([]Delivery, error) {
	clear(s.out) // what was delivered may go
	s.out = s.out[:0]
	for {
		if s.feedReset() {
			s.gaps = append(s.gaps, &Gap{Reason: GapReset})
		}
		for _, g := range s.gaps {
			s.out = append(s.out, Delivery{Gap: g})
		}
		s.gaps = s.gaps[:0]
		if len(s.out) > 0 {
			return s.out, nil // at once: what comes next may fail, and they would be lost with it
		}
		var wake <-chan struct{}
		switch {
		case s.snapshot != nil:
			if err := s.readSnapshot(ctx); err != nil {
				return nil, s.broker.errStorage("read the log", err)
			}
		case s.behind:
			if err := s.readLog(ctx, max); err != nil {
				return nil, s.broker.errStorage("read the log", err)
			}
		default:
			wake = s.readView(max)
		}
		if len(s.out) > 0 {
			return s.out, nil
		}
		if wake == nil {
			if err := s.ended(ctx); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.abandoned.Done():
			return nil, s.ended(ctx)
		}
	}
}

func (s *Stream) ended(ctx context.Context) error {
	select {
	case <-s.closed:
		return errClosed
	default:
	}
	if s.broker.ctx.Err() != nil {
		return errDraining()
	}
	return ctx.Err()
}

// feedReset notices that the feed's log is another one than the stream's.
func (s *Stream) feedReset() bool {
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation == s.generation {
		return false
	}
	s.generation, s.log = f.generation, f.log
	s.place = f.gone
	s.snapshot = nil
	s.behind = true
	return true
}

// readView takes what waits in the view. If nothing does, it returns a channel that
// is closed when something comes.
func (s *Stream) readView(max int) <-chan struct{} {
	now := time.Now().UnixNano()
	f, v := s.feed, s.view
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.next < v.base {
		s.behind = true
		return nil
	}
	for ; s.next < v.end() && len(s.out) < max; s.next++ {
		e := v.at(s.next)
		if !e.stored() {
			if s.next >= s.began {
				s.live++
				s.out = append(s.out, Delivery{Event: e.json})
			}
			continue
		}
		if e.sequence <= s.place.sequence {
			continue
		}
		s.place = e.position
		if (e.expires == 0 || e.expires > now) && e.accepted >= s.notBefore {
			s.out = append(s.out, Delivery{Event: e.json, Stored: true, Cursor: s.cursor(e.position)})
		}
	}
	if s.next == v.end() && f.head.sequence > s.place.sequence {
		s.place = f.head // nothing of the view lies between
	}
	if len(s.out) > 0 {
		return nil
	}
	if f.closed {
		return closedChannel
	}
	if v.wake == nil {
		v.wake = make(chan struct{})
	}
	return v.wake
}

var closedChannel = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// rejoin goes over to the view if it holds all that comes after the stream's place.
// The feed's lock is held.
func (s *Stream) rejoin() {
	f, v := s.feed, s.view
	if f.generation != s.generation || f.covered(v).sequence > s.place.sequence {
		return
	}
	s.behind = false
	s.next = v.base
	if v.lost > s.live {
		missed := v.lost - s.live
		s.live = v.lost
		s.gaps = append(s.gaps, &Gap{Reason: GapSlow, Missed: &missed})
	} else {
		// The unstored events between base and the stream's place were delivered.
		skip := s.live - v.lost
		for at := v.base; skip > 0 && at < v.end(); at++ {
			if !v.at(at).stored() {
				skip--
				s.began = max(s.began, at+1)
			}
		}
	}
}

// readLog reads stored events after the stream's place until the view holds the rest.
func (s *Stream) readLog(ctx context.Context, limit int) error {
	f := s.feed
	f.mu.Lock()
	s.rejoin()
	target, page := f.covered(s.view), f.page()
	f.mu.Unlock()
	if !s.behind {
		return nil
	}
	select { // a few read at once
	case s.broker.readers <- struct{}{}:
		defer func() { <-s.broker.readers }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.abandoned.Done():
		return s.ended(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	log := s.namespace.log
	records, more, err := log.read(ctx, filterSubject(logPrefix, log.namespace, s.topics), s.place.sequence, target.sequence, limit, page)
	if err != nil {
		return err
	}
	s.broker.config.Observer.Behind(log.namespace, len(records))
	now, err := log.place(ctx)
	if err != nil {
		return err
	}
	if now.log != s.log { // the feed will notice
		return waitFor(ctx, s.abandoned, 100*time.Millisecond)
	}
	if now.first > s.place.sequence+1 && log.old(now, s.place, s.topics) {
		s.out = append(s.out, Delivery{Gap: &Gap{Reason: GapExpired}})
	}
	for _, r := range records {
		s.deliver(r)
	}
	if !more && target.sequence > s.place.sequence {
		s.place = target
	}
	return nil
}

// deliver takes a record of the log if it passes.
func (s *Stream) deliver(r record) {
	s.place = position{r.sequence, r.accepted}
	if r.accepted < s.notBefore || r.expired(time.Now().UnixNano()) {
		return
	}
	if topic := subjectTopic(logPrefix, s.namespace.name, r.subject); !s.topics.Match(topic) {
		return
	}
	if s.filter != nil {
		e, err := schemas.ParseStored(r.data)
		if err != nil || !s.filter.Match(e) {
			return
		}
	}
	s.out = append(s.out, Delivery{
		Event: s.namespace.log.delivered(s.log, r), Stored: true, Cursor: s.cursor(s.place),
	})
}

// readSnapshot delivers the next part of the last event of each topic.
func (s *Stream) readSnapshot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	records, more, err := s.snapshot.read(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		s.deliver(r)
	}
	if !more {
		s.place = s.snapshot.end
		s.snapshot = nil
	}
	return nil
}

func (s *Stream) cursor(p position) schemas.Cursor {
	return schemas.Cursor{Log: s.log, Sequence: p.sequence, Accepted: p.accepted}
}

// Cursor is the stream's place: resuming after it misses and doubles nothing of
// what Next has returned so far.
func (s *Stream) Cursor() schemas.Cursor {
	if !s.behind && s.snapshot == nil && len(s.gaps) == 0 {
		f, v := s.feed, s.view
		f.mu.Lock()
		if f.generation == s.generation && s.next == v.end() && f.head.sequence > s.place.sequence {
			s.place = f.head
		}
		f.mu.Unlock()
	}
	return s.cursor(s.place)
}

// Close ends the stream and wakes a waiting Next.
func (s *Stream) Close() {
	s.closing.Do(func() {
		close(s.closed)
		s.abandon()
		s.feed.leave(s.view)
	})
}

// waitFor waits, or until one of the contexts ends.
func waitFor(ctx, other context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-other.Done():
		return other.Err()
	}
}

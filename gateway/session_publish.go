package gateway

import (
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// An outcome is a publish that has its place in the log's order and waits for the
// log's answer.
type outcome struct {
	request    *request
	publishing *broker.Publishing
	began      time.Time
	ctx        *deadline
}

// publishLocked puts a publish behind those before it. They are begun one after the
// other, so that they keep their order, and awaited together. mu is held.
func (s *session) publishLocked(r *request) {
	s.publishes = append(s.publishes, r)
	if !s.publishing {
		s.publishing = true
		s.tasks.Go(func() {
			defer s.guard()
			s.beginAll()
		})
	}
}

// beginAll begins publishes until none waits.
func (s *session) beginAll() {
	for {
		s.mu.Lock()
		if len(s.publishes) == 0 {
			s.publishes, s.publishing = nil, false
			s.mu.Unlock()
			return
		}
		r := s.publishes[0]
		s.publishes[0] = nil
		s.publishes = s.publishes[1:]
		s.mu.Unlock()
		s.begin(r)
	}
}

func (s *session) begin(r *request) {
	events, err := s.publishable(r)
	if err != nil {
		s.refuse(r, err)
		s.advance(r.line)
		return
	}
	if len(events) == 0 {
		s.reply(r, publishedMessage(r.line.quoted, broker.Receipt{}))
		s.advance(r.line)
		return
	}
	s.gateway.metrics.received(s.namespace, events)
	o := outcome{request: r, began: time.Now()}
	o.ctx = newDeadline(s.ctx, s.brokerTimeout())
	if o.publishing, err = s.gateway.config.Broker.Begin(o.ctx, s.namespace, r.topic, events); err != nil {
		o.ctx.cancel()
		s.refuse(r, err)
		s.advance(r.line)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if receipt, ok := o.publishing.Settled(); ok && !s.awaiting { // nothing before it waits either
		o.ctx.cancel()
		s.publishedLocked(&o, receipt)
		return
	}
	s.outcomes = append(s.outcomes, o)
	if !s.awaiting {
		s.awaiting = true
		s.tasks.Go(func() {
			defer s.guard()
			s.awaitAll()
		})
	}
}

// publishable returns the events of a request that has the right to publish them.
func (s *session) publishable(r *request) ([]*schemas.Event, error) {
	if err := publishable(r.topic); err != nil {
		return nil, err
	}
	if err := s.allowed(access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(r.topic)}); err != nil {
		return nil, err
	}
	return r.events, r.flaw
}

// awaitAll answers publishes until none waits for the log.
func (s *session) awaitAll() {
	for {
		s.mu.Lock()
		if len(s.outcomes) == 0 {
			s.outcomes, s.awaiting = nil, false
			s.mu.Unlock()
			return
		}
		o := s.outcomes[0]
		s.outcomes[0] = outcome{}
		s.outcomes = s.outcomes[1:]
		s.mu.Unlock()
		receipt, err := o.publishing.Wait(o.ctx)
		o.ctx.cancel()
		if err != nil {
			s.refuse(o.request, err)
			s.advance(o.request.line)
			continue
		}
		s.mu.Lock()
		s.publishedLocked(&o, receipt)
		s.mu.Unlock()
	}
}

// publishedLocked answers a publish that was taken. mu is held.
func (s *session) publishedLocked(o *outcome, receipt broker.Receipt) {
	s.gateway.metrics.published(s.namespace, time.Since(o.began), len(receipt.Duplicates))
	s.replyLocked(o.request, publishedMessage(o.request.line.quoted, receipt))
	s.advanceLocked(o.request.line)
}

// advance goes on with what was asked on the id of a publish since.
func (s *session) advance(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advanceLocked(l)
}

func (s *session) advanceLocked(l *line) {
	l.busy = false
	if len(l.waiting) > 0 {
		s.startLocked(l)
		return
	}
	s.dropLocked(l)
}

package gateway

import (
	"sync"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// together is how many messages that came together are published together.
const together = 128

// An inlet is what a stream's client publishes. It belongs to the stream's reader.
type inlet struct {
	// topic is where the client may publish, "" on a filter with wildcards.
	topic   schemas.Topic
	waiting []*schemas.Event // to be published with what comes behind them
	arena   *schemas.Arena   // holds them; nil if nothing waits
	refusal error            // of all of them: decided once
}

var arenas = sync.Pool{New: func() any { return new(schemas.Arena) }}

// receive takes the client's messages in their order. What lies in the socket's buffer
// is published together, and nothing more is read before it is kept, so that a client
// that sends too fast waits, and one whose Close frame is answered knows that all before
// it was taken.
func (s *stream) receive() {
	defer close(s.read)
	defer s.guard()
	for {
		message, release, end := s.socket.read()
		if end != nil {
			s.flow.finish(end.reason, end.detail)
			return
		}
		if !s.flow.over() {
			s.take(message)
		}
		release()
		if !s.socket.Ready() || len(s.inlet.waiting) == together {
			s.publish()
		}
	}
}

// take reads a message of the client; what is in it waits to be published.
func (s *stream) take(message []byte) {
	in := &s.inlet
	if in.arena == nil {
		in.arena, in.refusal = arenas.Get().(*schemas.Arena), s.mayPublish()
	}
	err := in.refusal
	if err == nil {
		var e *schemas.Event
		if e, err = in.arena.ParseEvent(message); err == nil {
			in.waiting = append(in.waiting, e)
			return
		}
	}
	s.publish() // notices come in the order of what they are about
	s.reject(err, eventID(message))
}

// mayPublish says whether the client may publish here.
func (s *stream) mayPublish() error {
	topic := s.inlet.topic
	if topic == "" {
		return schemas.Problemf("name", "This stream is of a topic filter with wildcards; publish on a stream of one topic.")
	}
	if err := publishable(topic); err != nil {
		return err
	}
	return s.flow.grant.Load().Allows(access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(topic)})
}

// publish publishes what waits.
func (s *stream) publish() {
	events, arena := s.inlet.waiting, s.inlet.arena
	s.inlet.arena = nil
	if len(events) == 0 {
		return
	}
	g, namespace := s.flow.gateway, s.flow.namespace
	g.metrics.received(namespace, events)
	ctx := newDeadline(g.ctx, g.config.Limits.BrokerTimeout)
	defer ctx.cancel()
	began := time.Now()
	receipt, err := g.config.Broker.Publish(ctx, namespace, s.inlet.topic, events)
	if err == nil {
		g.metrics.published(namespace, time.Since(began), len(receipt.Duplicates))
	}
	for _, e := range events {
		if err != nil {
			s.reject(err, e.ID())
		}
	}
	clear(events)
	s.inlet.waiting = events[:0]
	if err == nil && !receipt.Stored { // else the broker may be at work on them yet
		arena.Reset()
		arenas.Put(arena)
	}
}

// reject tells the client that an event of this id, as far as one could be made out, was
// not taken. It waits until the client takes the notice; one that does not is not read
// from either.
func (s *stream) reject(err error, id string) {
	g := s.flow.gateway
	p := g.problem(err)
	g.metrics.refused(s.flow.namespace, p)
	if err := s.socket.WriteText(rejectedNotice(p, id)); err != nil {
		s.flow.finish(connectionLost, "")
	}
}

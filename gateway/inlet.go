package gateway

import (
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// An inlet is what a stream's client publishes. It belongs to the stream's reader.
type inlet struct {
	// topic is where the client may publish, "" on a filter with wildcards.
	topic   schemas.Topic
	waiting gathering // what is to be published with what comes behind it
	refusal error     // of all of it: decided once
}

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
		if !s.socket.Ready() || len(s.inlet.waiting.events) == together {
			s.publish()
		}
	}
}

// take reads a message of the client; what is in it waits to be published.
func (s *stream) take(message []byte) {
	in := &s.inlet
	if len(in.waiting.events) == 0 {
		in.refusal = s.mayPublish()
	}
	err := in.refusal
	if err == nil {
		err = in.waiting.add(message)
	}
	if err != nil {
		s.publish() // notices come in the order of what they are about
		s.reject(err, eventID(message))
	}
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
	waiting := &s.inlet.waiting
	defer waiting.clear()
	if len(waiting.events) == 0 {
		return
	}
	if _, err := waiting.publish(s.flow.gateway, s.flow.namespace, s.inlet.topic); err != nil {
		for _, e := range waiting.events {
			s.reject(err, e.ID())
		}
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

package gateway

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A live is the publishes of one topic that need no answer of the log, so that the
// session's reader does them itself: those that came together at once. It belongs to
// the reader.
type live struct {
	name    []byte // the topic, as it stands in the messages; nil if it is none of these
	topic   schemas.Topic
	alone   bool // nothing has an id, so that no publish can be at odds with it
	waiting gathering
	ids     []jsontext.Value // of each
	text    []byte           // holds the ids
	held    int              // bytes of the messages, which the budget is charged with
}

// A publishing is the members of a publish that has one event.
type publishing struct {
	id, topic jsontext.Value
}

// read reads the message of a publish of one event with an id that stands in answers as
// it is; false if it is none.
func (p *publishing) read(o *schemas.Object) bool {
	var op, event jsontext.Value
	for i := range o.Len() {
		switch name, value := o.Member(i); string(name) {
		case "op":
			op = value
		case "id":
			p.id = value
		case "topic":
			p.topic = value
		case "event":
			event = value
		case "events":
			return false
		}
	}
	id := p.id
	return string(op) == `"publish"` && event.Kind() == '{' && id.Kind() == '"' &&
		len(id) > len(`""`) && len(id) <= schemas.MaxRequestID && bytes.IndexByte(id, '\\') < 0
}

// takeLive takes a publish that needs no other's work; false if it is not one, or
// anything is wrong with it.
func (s *session) takeLive(o *schemas.Object, size int) bool {
	l := &s.live
	var p publishing
	if !p.read(o) {
		return false
	}
	if len(l.ids) == 0 || !bytes.Equal(p.topic, l.name) {
		s.publishLive()
		if !s.mayPublishLive(p.topic) {
			return false
		}
	}
	if !s.gateway.bodies.Take(size) {
		return false
	}
	if !l.alone && s.named(p.id) || !l.waiting.addWithin(o) {
		s.gateway.bodies.Give(size)
		return false
	}
	l.held += size
	start := len(l.text)
	l.text = append(l.text, p.id...)
	l.ids = append(l.ids, l.text[start:len(l.text):len(l.text)])
	return true
}

// mayPublishLive says whether the topic of a publish is one that is not stored, all
// publishes before it are answered, and the client has the right.
func (s *session) mayPublishLive(name jsontext.Value) bool {
	l := &s.live
	if !bytes.Equal(name, l.name) {
		if name.Kind() != '"' {
			return false
		}
		var err error
		if l.topic, err = schemas.ParseTopic(unquote(name)); err != nil {
			l.name = nil
			return false
		}
		l.name = append(l.name[:0], name...)
	}
	s.mu.Lock()
	behind := s.publishing || s.awaiting || s.closing
	l.alone = len(s.lines) == 0
	s.mu.Unlock()
	return !behind && !s.gateway.config.Broker.Stored(s.namespace, l.topic) && publishable(l.topic) == nil &&
		s.allowed(access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(l.topic)}) == nil
}

// named says whether something else goes by the id.
func (s *session) named(id jsontext.Value) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[string(id[1:len(id)-1])] != nil
}

// publishLive publishes what waits and answers it.
func (s *session) publishLive() {
	l := &s.live
	if len(l.ids) == 0 {
		return
	}
	defer l.waiting.clear()
	s.gateway.metrics.session.requested(s.namespace, schemas.OpPublish, len(l.ids))
	receipt, err := l.waiting.publish(s.gateway, s.namespace, l.topic)
	// Where a reload has just begun to store the topic, the cursor is that of the last.
	one := broker.Receipt{Accepted: 1, Stored: receipt.Stored, Cursor: receipt.Cursor}
	tail := publishedTail(nil, one)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range l.ids {
		if err != nil {
			s.answers.Text(s.errorMessage(id, err))
		} else {
			s.answers.Text(publishedHead, id, tail)
		}
	}
	s.answered += len(l.ids)
	s.rouse()
	if s.closing { // the writer may have given back for the last time
		s.gateway.bodies.Give(l.held)
	} else {
		s.held += l.held
	}
	l.ids, l.text, l.held = l.ids[:0], l.text[:0], 0
}

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
	waiting gathering
	ids     []jsontext.Value // of each
	text    []byte           // holds the ids
	held    int              // bytes of the messages, which the budget is charged with
}

// takeLive takes a publish, strictly read, that needs no other's work; false if it is not one, or
// anything is wrong with it.
func (s *session) takeLive(f *fields, size int) bool {
	l := &s.live
	id := f[fieldID]
	if string(f[fieldOp]) != `"publish"` || f[fieldEvent].Kind() != '{' || f[fieldEvents] != nil ||
		id.Kind() != '"' || len(id) == len(`""`) || len(id) > schemas.MaxRequestID || bytes.IndexByte(id, '\\') >= 0 {
		return false
	}
	if len(l.ids) == 0 || !bytes.Equal(f[fieldTopic], l.name) {
		s.publishLive()
		if !s.mayPublishLive(f) {
			return false
		}
	}
	if !s.gateway.bodies.Take(size) {
		return false
	}
	if s.named(id) || l.waiting.addObject(f[fieldEvent]) != nil {
		s.gateway.bodies.Give(size)
		return false
	}
	l.held += size
	start := len(l.text)
	l.text = append(l.text, id...)
	l.ids = append(l.ids, l.text[start:len(l.text):len(l.text)])
	return true
}

// mayPublishLive says whether the topic of a publish is one that is not stored, all
// publishes before it are answered, and the client has the right.
func (s *session) mayPublishLive(f *fields) bool {
	l := &s.live
	if !bytes.Equal(f[fieldTopic], l.name) {
		name, err := f.text(fieldTopic)
		if err != nil {
			return false
		}
		if l.topic, err = schemas.ParseTopic(name); err != nil {
			l.name = nil
			return false
		}
		l.name = append(l.name[:0], f[fieldTopic]...)
	}
	s.mu.Lock()
	behind := s.publishing || s.awaiting || s.closing
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
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range l.ids {
		if err != nil {
			s.answerLocked(s.errorMessage(id, err), 0)
		} else {
			s.answerLocked(publishedMessage(id, one), 0)
		}
	}
	if s.closing { // the writer may have given back for the last time
		s.gateway.bodies.Give(l.held)
	} else {
		s.held += l.held
	}
	l.ids, l.text, l.held = l.ids[:0], l.text[:0], 0
}

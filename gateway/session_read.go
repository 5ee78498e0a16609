package gateway

import (
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A request is what a client asked for in a message, checked as far as that takes no
// right and no broker.
type request struct {
	op  string
	err error // what is wrong with it: then that is its answer

	subscribe *subscribing
	settle    broker.Settlement
	upTo      string // of an ack; "" for settle

	topic  schemas.Topic
	events []*schemas.Event // to be published
	flaw   error            // of the events: it is said to who may publish them
	token  string

	line *line
	held int // bytes that the budget is charged with until the answer is written
}

// A subscribing is the request for a source.
type subscribing struct {
	topics    schemas.TopicFilter
	start     broker.Start
	filter    *filter.Filter
	slowClose bool

	name    string // of a durable subscription; "" is a live stream
	durable broker.SubscriptionOptions
	credit  int
}

// receive takes the client's messages one after the other. While too many of its
// requests have no answer it reads no further, so that a client that asks too fast
// waits.
func (s *session) receive() {
	defer close(s.read)
	defer s.guard()
	for {
		message, release, end := s.socket.read()
		if end != nil {
			s.finish(end.reason, end.detail)
			return
		}
		if s.over() || !s.slot() {
			release()
			s.publishLive() // what was taken before the end
			continue
		}
		ok := s.take(message)
		release()
		if !s.socket.Ready() || len(s.live.ids) == together {
			s.publishLive()
		}
		if !ok {
			s.finish(schemas.CloseQuota, "the gateway has its hands full with messages")
			return
		}
	}
}

// slot waits until one more request may be without an answer; false if the session
// ended first.
func (s *session) slot() bool {
	for waited := false; ; waited = true {
		if s.asked-s.gathered.Load() < uint64(s.gateway.config.Limits.SessionRequests) {
			s.asked++
			if waited {
				s.socket.Sign() // what it sent meanwhile has not been looked at
			}
			return true
		}
		if !waited {
			s.publishLive()
			s.gateway.metrics.session.waits.WithLabelValues(s.namespace).Inc()
		}
		select {
		case <-s.slots:
		case <-s.ended:
			return false
		}
	}
}

var objects = sync.Pool{New: func() any { return new(schemas.Object) }}

// take puts a message's request into its line. It keeps nothing of the message. False is
// that there is no memory for the request.
func (s *session) take(message []byte) bool {
	o := objects.Get().(*schemas.Object)
	read := o.Read(message, fieldNames[fieldEvent])
	live := read && s.takeLive(o, len(message))
	if read && !live {
		s.fields.take(o)
	}
	o.Clear()
	objects.Put(o)
	if live {
		return true
	}
	var wrong error
	if !read {
		wrong = s.fields.read(message)
	}
	s.publishLive()
	id, r := s.interpret(wrong)
	if len(r.events) > 0 || len(message) > firstRead {
		if !s.gateway.bodies.Take(len(message)) {
			return false
		}
		r.held = len(message)
	}
	s.gateway.metrics.session.requested(s.namespace, r.op, 1)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		s.gateway.bodies.Give(r.held)
		return true
	}
	l := s.lines[id]
	if l != nil && l.source == nil && l.pending == 0 {
		l = nil // whoever worked on it is about to find out
	}
	if r.err == nil {
		r.err = l.admits(r.op)
	}
	switch {
	case l != nil:
	case r.err != nil:
		s.answerLocked(s.errorMessage(quote(id), r.err), r.held)
		return true
	case r.op == schemas.OpPing:
		s.answerLocked(plainMessage(schemas.OpPong, quote(id)), r.held)
		return true
	default:
		l = &line{id: id, quoted: quote(id)}
		s.lines[id] = l
	}
	r.line = l
	l.pending++
	if r.op == schemas.OpPublish && r.err == nil {
		l.busy = true
		s.publishLocked(r)
		return true
	}
	l.waiting = append(l.waiting, r)
	if !l.busy {
		s.startLocked(l)
	}
	return true
}

// interpret says what the message asks for whose fields were read, wrong is what was wrong
// with them. The id is "" if it can't be made out.
func (s *session) interpret(wrong error) (id string, r *request) {
	f, r := &s.fields, &request{}
	id, err := f.text(fieldID)
	switch {
	case wrong != nil:
		r.err = wrong
	case err != nil:
		r.err = err
	case id == "":
		r.err = schemas.Problemf("parameter", "The message has no \"id\"; give it a text of your own, which the answer repeats.")
	case len(id) > schemas.MaxRequestID:
		id, r.err = "", schemas.Problemf("parameter", "The \"id\" has more than %d bytes.", schemas.MaxRequestID)
	default:
		op, err := f.text(fieldOp)
		if err != nil {
			r.err = err
		} else {
			r.err = r.read(op, f)
		}
	}
	if len(id) > schemas.MaxRequestID {
		id = ""
	}
	return id, r
}

// read reads what the op has. What is wrong with it is its answer.
func (r *request) read(op string, f *fields) (err error) {
	switch op {
	case schemas.OpSubscribe:
		r.subscribe, err = f.subscribing()
	case schemas.OpUnsubscribe, schemas.OpPing:
	case schemas.OpAck:
		r.settle, r.upTo, err = f.settlement(broker.Ack)
	case schemas.OpRelease:
		r.settle, _, err = f.settlement(broker.Release)
	case schemas.OpReject:
		r.settle, _, err = f.settlement(broker.Reject)
	case schemas.OpExtend:
		r.settle, _, err = f.settlement(broker.Extend)
	case schemas.OpPublish:
		err = r.readPublish(f)
	case schemas.OpToken:
		if r.token, err = f.text(fieldToken); err == nil && r.token == "" {
			err = schemas.Problemf("parameter", "The message has no \"token\".")
		}
	case "":
		return schemas.Problemf("parameter", "The message has no \"op\", which says what it asks for.")
	default:
		return schemas.Problemf("parameter", "The \"op\" is none that a client sends: subscribe, unsubscribe, ack, release, reject, extend, publish, token or ping.")
	}
	if err == nil {
		r.op = op
	}
	return err
}

func (r *request) readPublish(f *fields) error {
	name, err := f.text(fieldTopic)
	if err != nil {
		return err
	}
	if r.topic, err = schemas.ParseTopic(name); err != nil {
		return err
	}
	one, many := f.given(fieldEvent), f.given(fieldEvents)
	if one == many {
		return schemas.Problemf("parameter", "A publish has either \"event\" or \"events\".")
	}
	if one {
		r.events, r.flaw = only(schemas.ParseEvent(f[fieldEvent]))
	} else {
		r.events, r.flaw = schemas.ParseBatch(f[fieldEvents])
	}
	return nil
}

// subscribing reads what a subscribe has.
func (f *fields) subscribing() (*subscribing, error) {
	name, err := f.text(fieldSubscription)
	if err != nil {
		return nil, err
	}
	p := &subscribing{name: name}
	if p.start, err = f.start(); err != nil {
		return nil, err
	}
	slow, err := f.text(fieldSlow)
	if err != nil || f.given(fieldSlow) && slow != "gap" && slow != "close" {
		return nil, schemas.Problemf("parameter", "The field \"slow\" is gap or close.")
	}
	p.slowClose = slow == "close"
	if f.given(fieldSubscription) {
		if _, err := schemas.ParseSegment("subscription", name); err != nil {
			return nil, err
		}
		if p.durable, err = f.durable(); err != nil {
			return nil, err
		}
		p.topics = p.durable.Topics
		p.credit, err = f.number(fieldCredit, 1, broker.MaxCredit)
		return p, err
	}
	for _, k := range []field{fieldCredit, fieldAckWait, fieldMaxDeliver, fieldDeadLetter, fieldExclusive, fieldExpires} {
		if f.given(k) {
			return nil, schemas.Problemf("parameter", "The field %q is of durable subscriptions; name one with \"subscription\".", fieldNames[k])
		}
	}
	if p.topics, err = f.topics(); err != nil {
		return nil, err
	}
	if p.topics == "" {
		return nil, schemas.Problemf("name", "The message has no \"topic\" to subscribe to.")
	}
	_, _, p.filter, err = f.content()
	return p, err
}

// answerLocked puts an answer into the writer's hands. Once it is written, held bytes go
// back to the budget. mu is held.
func (s *session) answerLocked(message []byte, held int) {
	s.answers.Text(message)
	s.answered++
	s.held += held
	s.rouse()
}

// reply answers a request.
func (s *session) reply(r *request, message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replyLocked(r, message)
}

func (s *session) replyLocked(r *request, message []byte) {
	r.line.pending--
	s.answerLocked(message, r.held)
}

// refuse answers a request with what is wrong with it.
func (s *session) refuse(r *request, err error) {
	s.reply(r, s.errorMessage(r.line.quoted, err))
}

// brokerTimeout is for one thing that is asked of the broker.
func (s *session) brokerTimeout() time.Duration { return s.gateway.config.Limits.BrokerTimeout }

package gateway

import (
	"context"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A line is what is asked on one id, which is answered in the order sent. It is there
// as long as a request waits or a subscription is open under the id. Its fields but
// the first two are guarded by the session's mu.
type line struct {
	id      string
	quoted  []byte // the id in JSON
	waiting []*request
	pending int     // requests without an answer, waiting or not
	busy    bool    // somebody works on a request
	source  *source // open; set by whoever is busy, taken away by whoever ends it
}

// admits says whether the line, nil if there is none, takes a request with the op.
func (l *line) admits(op string) error {
	switch op {
	case schemas.OpSubscribe, schemas.OpPublish, schemas.OpToken, schemas.OpPing:
		if l != nil {
			return schemas.Problemf("parameter", "The id is in use, by an open subscription or a request without an answer; take another.")
		}
	default:
		if l == nil {
			return errNotOpen()
		}
	}
	return nil
}

func errNotOpen() *schemas.Problem {
	return schemas.Problemf("not-found", "No subscription is open under this id.")
}

// startLocked makes somebody work on the line. mu is held.
func (s *session) startLocked(l *line) {
	l.busy = true
	s.tasks.Go(func() {
		defer s.guard()
		s.work(l)
	})
}

// work answers what waits in the line.
func (s *session) work(l *line) {
	var batch []*request
	for {
		s.mu.Lock()
		batch, l.waiting = l.waiting, batch[:0]
		if len(batch) == 0 {
			l.busy = false
			s.dropLocked(l)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for i := 0; i < len(batch); {
			i += s.serve(l, batch[i:])
		}
		clear(batch)
	}
}

// dropLocked forgets a line of which nothing is left. mu is held.
func (s *session) dropLocked(l *line) {
	if !l.busy && l.source == nil && s.lines[l.id] == l {
		delete(s.lines, l.id)
	}
}

// serve does what the first of some requests asks for, perhaps with those after it,
// and returns how many are answered.
func (s *session) serve(l *line, batch []*request) int {
	r := batch[0]
	if r.err != nil {
		s.refuse(r, r.err)
		return 1
	}
	switch r.op {
	case schemas.OpSubscribe:
		s.subscribe(l, r)
	case schemas.OpUnsubscribe:
		s.unsubscribe(l, r)
	case schemas.OpToken:
		s.renew(r)
	default:
		return s.settle(l, batch)
	}
	return 1
}

// maxSettled is how many deliveries the acks of several messages settle at once.
const maxSettled = 1000

// settle settles deliveries: acks that follow one another at once, as they are many.
func (s *session) settle(l *line, batch []*request) int {
	s.mu.Lock()
	u := l.source
	s.mu.Unlock()
	r := batch[0]
	switch {
	case u == nil:
		s.refuse(r, errNotOpen())
		return 1
	case u.subscriber == nil:
		s.refuse(r, schemas.Problemf("parameter", "The subscription is not durable; its events need no settlement."))
		return 1
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.brokerTimeout())
	defer cancel()
	if r.upTo != "" {
		unknown, err := u.subscriber.AckUpTo(ctx, r.upTo)
		switch {
		case err != nil:
			s.refuse(r, err)
		case unknown:
			s.reply(r, settledMessage(l.quoted, []string{r.upTo}))
		default:
			s.reply(r, settledMessage(l.quoted, nil))
		}
		return 1
	}
	n, all := 1, r.settle
	for ; n < len(batch) && batch[n].joins(r) && len(all.Tags)+len(batch[n].settle.Tags) <= maxSettled; n++ {
		if n == 1 {
			all.Tags = append([]string(nil), all.Tags...)
		}
		all.Tags = append(all.Tags, batch[n].settle.Tags...)
	}
	settled, err := u.subscriber.Settle(ctx, all)
	for _, r := range batch[:n] {
		if err != nil {
			s.refuse(r, err)
			continue
		}
		s.reply(r, settledMessage(l.quoted, unknown(r.settle.Tags, &settled)))
	}
	return n
}

// joins says whether a request may be settled together with an ack.
func (r *request) joins(first *request) bool {
	return first.op == schemas.OpAck && r.op == first.op && r.err == nil && r.upTo == ""
}

// unknown takes what became of the tags off the front of s and returns those that
// were none.
func unknown(tags []string, s *broker.Settled) []string {
	var none []string
	for _, tag := range tags {
		switch {
		case len(s.Accepted) > 0 && s.Accepted[0] == tag:
			s.Accepted = s.Accepted[1:]
		case len(s.Unknown) > 0 && s.Unknown[0] == tag:
			s.Unknown = s.Unknown[1:]
			none = append(none, tag)
		}
	}
	return none
}

// renew puts another token in the place of the session's.
func (s *session) renew(r *request) {
	ctx, cancel := context.WithTimeout(s.ctx, s.brokerTimeout())
	defer cancel()
	grant, err := s.gateway.config.Access.RenewContext(ctx, s.namespace, s.grant.Load(), r.token)
	if err != nil {
		s.refuse(r, err)
		return
	}
	s.grant.Store(grant)
	s.recheck()
	s.reply(r, plainMessage(schemas.OpOK, r.line.quoted))
	s.rouse() // it has another end now
}

// allowed asks for rights.
func (s *session) allowed(asks ...access.Ask) error {
	grant := s.grant.Load()
	for _, a := range asks {
		if err := grant.Allows(a); err != nil {
			return err
		}
	}
	return nil
}

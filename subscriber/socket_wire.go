package subscriber

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// run connects, again and again, until the socket is to end.
func (s *Socket) run() error {
	var lost time.Time
	open := false
	for n := 0; ; n++ {
		began := time.Now()
		stood, err := s.connect()
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		if stood && time.Since(began) > settled {
			n, lost = 0, time.Time{}
		}
		open = open || stood
		if lost.IsZero() {
			lost = time.Now()
		}
		told, ok := passing(err)
		var c *CloseError
		final := !ok || !open || errors.As(err, &c) && c.final(s.client.config.Token != nil)
		wait := s.client.backoff.after(told, n)
		if final || time.Since(lost)+wait > s.client.config.PublishRetry {
			return fmt.Errorf("publish to %s: %w", s.topic, err)
		}
		s.client.config.Logger.LogAttrs(s.ctx, levelRetry, "connect again", attrTopic(string(s.topic)), attrErr(err), attrWait(wait))
		if !sleep(s.ctx, wait) {
			return ErrClosed
		}
	}
}

// connect opens a connection and reads it until it ends. stood says that it was
// open.
func (s *Socket) connect() (stood bool, err error) {
	query := url.Values{"positions": {"true"}}
	if s.place != "" {
		query.Set("after", s.place)
	}
	w, err := s.client.dial(s.ctx, schemas.TopicFilter(s.topic), query.Encode(), true)
	if err != nil {
		return false, err
	}
	var resending sync.WaitGroup
	defer resending.Wait()
	defer w.close()
	opening := time.AfterFunc(answerTimeout, w.cut)
	defer opening.Stop()
	for {
		raw, err := w.read()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.refused != nil {
				err, s.refused = s.refused, nil
			}
			return stood, err
		}
		d, err := parse(raw, string(s.topic))
		if err != nil {
			return stood, err
		}
		if !stood {
			stood = true
			opening.Stop()
			resending.Go(func() { s.resend(w) })
		}
		s.heard(&d, w)
	}
}

// resend makes the wire the one to write to, and sends what waits from before.
func (s *Socket) resend(w *wire) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.wire = w
	s.mu.Lock()
	before := slices.Clone(s.sent)
	s.mu.Unlock()
	for _, one := range before {
		s.mu.Lock()
		if one.state == overtaken { // the notice of its rejection may be lost
			s.unsettle(one)
		}
		waits := one.state == waiting
		s.mu.Unlock()
		if waits {
			s.write(one)
		}
	}
	select {
	case <-s.opened:
	default:
		close(s.opened)
	}
}

// heard takes a delivery.
func (s *Socket) heard(d *Delivery, w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	if n := d.Notice; n != nil {
		switch n.Type {
		case schemas.NoticeOpen, schemas.NoticePosition:
			if n.cursor != "" {
				s.place = n.cursor
			}
		case schemas.NoticeRejected:
			s.rejected(n.Problem, w)
		}
		return
	}
	if d.Cursor != "" {
		s.place, s.stored = d.Cursor, true
	} else {
		s.live = true
	}
	e, err := schemas.ParseEvent(d.Raw)
	if err != nil {
		return
	}
	i := slices.IndexFunc(s.sent, func(one *sent) bool {
		return one.state == waiting && one.id == e.ID() && one.source == e.Source()
	})
	if i < 0 {
		return // somebody else's
	}
	// The gateway takes a socket's events in order: what was sent before this one
	// and has not come back was known already, or is never delivered.
	for _, one := range s.sent[:i] {
		if one.state == waiting && !one.again {
			s.settle(one, overtaken, "", d.Cursor != "" && !one.expired)
		}
	}
	s.settle(s.sent[i], returned, d.Cursor, false)
}

// settle counts an event as accepted. mu is held.
func (s *Socket) settle(one *sent, state sentState, cursor string, duplicate bool) {
	one.state, one.since, one.duplicate = state, time.Now(), duplicate
	s.waiting--
	s.size -= len(one.raw)
	s.taken.Accepted++
	if duplicate {
		s.taken.Duplicates++
	}
	if cursor != "" {
		s.taken.Cursor = cursor
	}
	s.change()
}

// unsettle takes that back. mu is held.
func (s *Socket) unsettle(one *sent) {
	one.state = waiting
	s.waiting++
	s.size += len(one.raw)
	s.taken.Accepted--
	if one.duplicate {
		s.taken.Duplicates--
	}
}

// forget drops what came back, and what was overtaken so long ago that its
// rejection would be here. mu is held.
func (s *Socket) forget() {
	before := time.Now().Add(-unheard)
	s.sent = slices.DeleteFunc(s.sent, func(one *sent) bool {
		return one.state == returned || one.state == overtaken && one.since.Before(before)
	})
}

// rejected takes the notice that an event was not taken. mu is held.
func (s *Socket) rejected(p *schemas.Problem, w *wire) {
	i := slices.IndexFunc(s.sent, func(one *sent) bool {
		return one.state != returned && one.id == p.EventID
	})
	if i < 0 {
		return
	}
	one := s.sent[i]
	if one.state == overtaken {
		s.unsettle(one)
	}
	if passingStatus(p.Status()) && s.client.config.PublishRetry > 0 {
		one.again, s.refused = true, p
		w.end()
		return
	}
	s.waiting--
	s.size -= len(one.raw)
	s.sent = slices.Delete(s.sent, i, i+1)
	if s.err == nil {
		s.err = &RejectedError{one.index, p}
	}
	s.change()
}

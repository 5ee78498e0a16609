package subscriber

import (
	"errors"
	"fmt"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// settled is how long a connection lasts that counts as a success though it
// brought nothing.
const settled = 10 * time.Second

// run connects, again and again, until the stream is to end.
func (s *Stream) run() error {
	since, later := s.state.Since, 0
	for {
		began := s.now()
		resume, err := s.connect()
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if s.now().Sub(began) >= settled {
			s.attempts = 0
		}
		if s.client.final(err, s.wasOpen, s.options.FailFast) {
			return err
		}
		if s.State().Phase == Connected {
			since = s.now()
		}
		told, _ := passing(err)
		var c *CloseError
		if errors.As(err, &c) && c.Reason.Retry == schemas.RetryLater {
			later++
			s.attempts = max(s.attempts, later) // whatever it brought before
		} else {
			later = 0
		}
		wait := s.client.backoff.after(told, s.attempts)
		if !resume.IsZero() {
			wait = max(resume.Sub(s.now()), 0)
		}
		s.attempts++
		phase := Reconnecting
		if !s.wasOpen {
			phase = Connecting
		}
		s.tell(State{Phase: phase, Since: since, Why: err, Attempt: s.attempts, Wait: wait})
		s.client.config.Logger.LogAttrs(s.ctx, levelRetry, "connect again", attrTopic(string(s.filter)), attrErr(err), attrWait(wait))
		if !sleep(s.ctx, wait) {
			return s.ctx.Err()
		}
	}
}

// final says whether another try is in vain, or not wanted, for a stream or a
// subscription that the gateway has opened once or not yet.
func (c *Client) final(err error, wasOpen, failFast bool) bool {
	var problem *schemas.Problem
	var closed *CloseError
	if errors.As(err, &closed) && closed.final(c.config.Token != nil) {
		return true
	}
	_, ok := passing(err)
	if wasOpen {
		// A proxy may answer 404 while the gateway starts again behind it.
		return !ok && errors.As(err, &problem) && !c.renewable(err)
	}
	var status *StatusError
	answered := errors.As(err, &problem) || errors.As(err, &status)
	return !ok || misconfigured(err) || failFast && !answered
}

// connect opens the stream and reads it until the connection ends. The time, if
// any, is when a draining gateway wants to see its clients again.
func (s *Stream) connect() (resume time.Time, err error) {
	query := s.options.query()
	if s.place != "" {
		query.Set("after", s.place)
	} else if s.options.From != "" {
		query.Set("from", s.options.From)
	}
	conn, err := s.client.dial(s.ctx, s.filter, query.Encode(), false)
	if err != nil {
		return resume, err
	}
	defer conn.close()
	// The stream stands from the answer on, but only the notice says where.
	opening := time.AfterFunc(answerTimeout, conn.cut)
	defer opening.Stop()
	var drain *time.Timer
	for first := true; ; first = false {
		raw, err := conn.read()
		if err != nil {
			switch {
			case first && !opening.Stop():
				err = fmt.Errorf("the stream did not open in %v: %w", answerTimeout, err)
			case drain != nil && conn.ctx.Err() != nil:
				err = &CloseError{schemas.CloseDrain, schemas.CloseDrain.Word}
			}
			return resume, err
		}
		d, err := parse(raw, s.topic)
		if err != nil {
			return resume, err
		}
		if first {
			opening.Stop()
			s.open()
		}
		if n := d.Notice; n != nil && n.Type == schemas.NoticeDraining && drain == nil {
			wait := s.client.backoff.drained(n.ReconnectAfter)
			resume = s.now().Add(wait)
			drain = time.AfterFunc(wait, conn.end)
			defer drain.Stop()
		}
		s.take(&d)
		select {
		case s.queue <- d:
		case <-s.ctx.Done():
			return resume, s.ctx.Err()
		}
	}
}

func (s *Stream) open() {
	s.tell(State{Phase: Connected, Since: s.now()})
	if !s.wasOpen {
		s.wasOpen = true
		close(s.opened)
	}
}

// take moves the stream's place on to a delivery.
func (s *Stream) take(d *Delivery) {
	if n := d.Notice; n != nil {
		switch n.Type {
		case schemas.NoticeOpen:
			// From "last", the place before the last events would bring others too.
			if s.place == "" && s.options.From != "last" {
				s.place = n.cursor
			}
		case schemas.NoticePosition:
			s.place = n.cursor
			s.attempts = 0
		case schemas.NoticeGap:
			if n.Gap.Reason == schemas.GapReset {
				s.order = schemas.Cursor{}
			}
		}
		return
	}
	s.attempts = 0
	s.topic = d.Topic
	if d.Cursor == "" {
		return
	}
	if c, err := schemas.ParseCursor(d.Cursor); err == nil {
		if c.Log == s.order.Log && c.Sequence <= s.order.Sequence {
			d.Repeated = true
			s.client.config.Logger.LogAttrs(s.ctx, levelFault, "the gateway broke its order", attrTopic(d.Topic))
			return
		}
		s.order = c
	}
	s.place = d.Cursor
}

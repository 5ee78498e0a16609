package subscriber

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// The ids that a session of a [Subscription] uses for its requests.
const (
	subscriptionID = "s"
	tokenID        = "t"
)

// run opens a session, again and again, until the subscription is to end.
func (s *Subscription) run() error {
	since, attempts, wasOpen := s.State().Since, 0, false
	for {
		began := time.Now()
		opened, resume, err := s.session()
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.lost()
		if opened {
			since, wasOpen = time.Now(), true
			if time.Since(began) >= settled {
				attempts = 0
			}
		}
		if s.client.final(err, wasOpen, s.options.FailFast) {
			return err
		}
		told, _ := passing(err)
		wait := s.client.backoff.after(told, attempts)
		if !resume.IsZero() {
			wait = max(time.Until(resume), 0)
		}
		attempts++
		phase := Reconnecting
		if !wasOpen {
			phase = Connecting
		}
		s.tell(State{Phase: phase, Since: since, Why: err, Attempt: attempts, Wait: wait})
		s.client.config.Logger.LogAttrs(s.ctx, levelRetry, "connect again", attrName(s.name), attrErr(err), attrWait(wait))
		if !sleep(s.ctx, wait) {
			return s.ctx.Err()
		}
	}
}

// lost drops what a connection that is gone had brought and nobody has taken, because
// it comes again, and keeps what was to be settled for the next connection.
func (s *Subscription) lost() {
	for len(s.queue) > 0 {
		select {
		case <-s.queue:
		default:
		}
	}
	s.mu.Lock()
	s.pending = s.unanswered()
	s.mu.Unlock()
}

// session opens one and takes what it brings until it ends. opened says that the
// gateway opened the subscription; the time, if any, is when a draining gateway wants
// to see its clients again.
func (s *Subscription) session() (opened bool, resume time.Time, err error) {
	w, err := s.client.dialWire(s.ctx, "/connect", schemas.SubprotocolSession, true)
	if err != nil {
		return false, resume, err
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer w.close()
	opening := time.AfterFunc(answerTimeout, w.cut)
	defer opening.Stop()
	if err := s.ask(w); err != nil {
		return false, resume, err
	}
	for {
		raw, err := w.read()
		if err != nil {
			if !opened && !opening.Stop() {
				err = fmt.Errorf("the subscription did not open in %v: %w", answerTimeout, err)
			}
			if !resume.IsZero() && w.ctx.Err() != nil {
				err = &CloseError{schemas.CloseDrain, schemas.CloseDrain.Word}
			}
			return opened, resume, err
		}
		var m schemas.SessionMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			return opened, resume, fmt.Errorf("a message can't be read: %w", err)
		}
		switch {
		case m.Op == schemas.OpWelcome && !m.TokenExpires.IsZero() && s.client.config.Token != nil:
			expires := m.TokenExpires
			tasks.Go(func() { s.renew(w, expires) })
		case m.Op == schemas.OpDraining && resume.IsZero():
			wait := s.client.backoff.drained(time.Duration(m.ReconnectAfterMS) * time.Millisecond)
			resume = time.Now().Add(wait)
			drain := time.AfterFunc(wait, w.end)
			defer drain.Stop()
		case m.ID == tokenID && m.Op == schemas.OpError:
			s.client.config.Logger.LogAttrs(s.ctx, levelFault, "the new token was refused", attrName(s.name), attrErr(readable(m.Problem)))
		case m.ID != subscriptionID:
		case m.Op == schemas.OpSubscribed:
			opened = true
			opening.Stop()
			s.tell(State{Phase: Connected, Since: time.Now()})
			select {
			case <-s.opened:
			default:
				close(s.opened)
			}
			tasks.Go(func() { s.write(w) })
		case m.Op == schemas.OpError && (!opened || m.Reason != ""):
			// It was refused, or has ended: the session alone is of no use.
			return opened, resume, readable(m.Problem)
		case m.Op == schemas.OpOK, m.Op == schemas.OpError:
			s.answered(&m)
		case m.Op == schemas.OpEvent:
			d, err := parse(m.Event, "")
			if err != nil {
				return opened, resume, err
			}
			select {
			case s.queue <- SubscriptionDelivery{Delivery: d, Tag: m.Delivery, Attempt: m.Attempt, by: s}:
			case <-s.ctx.Done():
				return opened, resume, s.ctx.Err()
			}
		}
	}
}

// ask sends the subscribe.
func (s *Subscription) ask(w *wire) error {
	type subscribe struct {
		Op           string `json:"op"`
		ID           string `json:"id"`
		Subscription string `json:"subscription"`
		Credit       int    `json:"credit"`
		durable
	}
	return send(w, subscribe{schemas.OpSubscribe, subscriptionID, s.name, s.options.Credit, s.request})
}

func send(w *wire, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return w.Write(w.ctx, websocket.MessageText, b)
}

// write sends settlements as they come, those that wait together in one message, until
// the connection ends.
func (s *Subscription) write(w *wire) {
	for {
		for {
			message, ok := s.gather()
			if !ok {
				break
			}
			if send(w, message) != nil {
				w.end()
				return
			}
		}
		select {
		case <-s.kick:
		case <-w.ctx.Done():
			return
		}
	}
}

// gather takes the settlements that wait first and are alike.
func (s *Subscription) gather() (message schemas.SessionRequest, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return message, false
	}
	alike := func(a, b settlement) bool { return a.op == b.op && a.delay == b.delay && a.reason == b.reason }
	first := s.pending[0].settlement
	n := 1
	for n < len(s.pending) && n < schemas.MaxTags && alike(s.pending[n].settlement, first) {
		n++
	}
	group := s.pending[:n:n]
	s.pending = s.pending[n:]
	s.sent = append(s.sent, group)
	tags := make([]string, n)
	for i, one := range group {
		tags[i] = one.tag
	}
	return schemas.SessionRequest{
		Op: first.op, ID: subscriptionID, Deliveries: tags, Delay: first.delayText(), Reason: first.reason,
	}, true
}

// answered tells those whose settlements were sent first what became of them.
func (s *Subscription) answered(m *schemas.SessionMessage) {
	s.mu.Lock()
	if len(s.sent) == 0 {
		s.mu.Unlock()
		return
	}
	group := s.sent[0]
	s.sent = s.sent[1:]
	s.mu.Unlock()
	unknown := make(map[string]bool, len(m.Unknown))
	for _, tag := range m.Unknown {
		unknown[tag] = true
	}
	for _, one := range group {
		switch {
		case m.Op == schemas.OpError:
			one.result <- readable(m.Problem)
		case unknown[one.tag]:
			one.result <- ErrNotHeld
		default:
			one.result <- nil
		}
	}
}

// renew gives the session a new token before the old one ends, until the connection
// does. Where none is to be had, the session ends with its token, and the next one
// asks again.
func (s *Subscription) renew(w *wire, expires time.Time) {
	for {
		wait := max(time.Until(expires)/4*3, renewLeast)
		if !sleep(w.ctx, wait) {
			return
		}
		ctx, cancel := context.WithTimeout(w.ctx, answerTimeout)
		token, err := s.client.token(ctx)
		cancel()
		if err != nil || token == "" {
			if err != nil {
				s.client.config.Logger.LogAttrs(s.ctx, levelRetry, "no new token", attrName(s.name), attrErr(err))
			}
			continue
		}
		if send(w, schemas.SessionRequest{Op: schemas.OpToken, ID: tokenID, Token: token}) != nil {
			return
		}
		next, ok := expiry(token)
		if !ok {
			next = time.Now().Add(renewUnknown)
		}
		expires = next
	}
}

package subscriber

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// channelPing is how often a control channel is pinged, as the gateway does it
	// (protocol section 4), and channelSilence how long nothing may come.
	channelPing    = 10 * time.Second
	channelSilence = 25 * time.Second
	// maxOffer is the longest JSON message of the gateway, in bytes, and
	// maxInlineBody the longest body that is taken on the control channel.
	maxOffer      = 256 << 10
	maxInlineBody = 1 << 20
	// moving is how long a listener that closes waits until its requests have moved
	// to connections of their own.
	moving = 5 * time.Second
)

// A channel is one control channel: a connection to the gateway on which it offers
// connections and requests.
type channel struct {
	*link
	in       *messages
	listener *Listener
	moving   chan struct{} // closed when requests are to move to their own connections

	mu      sync.Mutex
	pending map[string]*exchange // requests that are to be answered here, by id
	idle    chan struct{}        // closed when there are none, once it is awaited
	once    sync.Once            // of that
	over    bool                 // takes no answers any more
}

// run connects, again and again, until the listener is to end.
func (l *Listener) run() error {
	since, later := l.state.Since, 0
	for {
		began := time.Now()
		err := l.connect()
		if l.ctx.Err() != nil || l.isClosing() {
			return err
		}
		if l.State().Phase == Connected {
			since = time.Now()
			if since.Sub(began) >= settled {
				l.attempts = 0
			}
		}
		if l.final(err) {
			return err
		}
		told, _ := passing(err)
		var c *CloseError
		if errors.As(err, &c) && c.Reason.Retry == schemas.RetryLater {
			later++
			l.attempts = max(l.attempts, later)
		} else {
			later = 0
		}
		wait := l.client.backoff.after(told, l.attempts)
		l.attempts++
		phase := Reconnecting
		if !l.wasOpen {
			phase = Connecting
		}
		l.tell(State{Phase: phase, Since: since, Why: err, Attempt: l.attempts, Wait: wait})
		l.client.config.Logger.LogAttrs(l.ctx, levelRetry, "connect again", attrName(l.name), attrErr(err), attrWait(wait))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.ctx.Done():
		case <-l.closing:
		}
		timer.Stop()
		if l.ctx.Err() != nil || l.isClosing() {
			return err
		}
	}
}

// final says whether another try is in vain. A listener that stood once tries on even
// where it is refused: its place may be held by its own lost connection, its rule may
// come back with the next reload, and nobody is there to start it again. Only a token
// that was refused and can't be had anew is the end.
func (l *Listener) final(err error) bool {
	var c *CloseError
	if errors.As(err, &c) && c.Reason.Retry == schemas.RetryToken {
		return l.client.config.Token == nil
	}
	var problem *schemas.Problem
	if l.wasOpen {
		return errors.As(err, &problem) && problem.Status() == http.StatusUnauthorized && !l.client.renewable(err)
	}
	var status *StatusError
	answered := errors.As(err, &problem) || errors.As(err, &status)
	_, ok := passing(err)
	return !ok || misconfigured(err) || l.options.FailFast && !answered
}

// connect opens a control channel and serves it until it ends.
func (l *Listener) connect() error {
	query := "sb-hc-cancels=true"
	if l.options.ID != "" {
		query += "&sb-hc-listener=" + url.QueryEscape(l.options.ID)
	}
	address, err := l.client.relayAddress(l.name, query, actionListen)
	if err != nil {
		return err
	}
	header := http.Header{}
	token, err := l.client.authorizeRelay(l.ctx, header)
	if err != nil {
		return err
	}
	received := time.Now()
	if err := l.client.spent.check(token); err != nil {
		return err
	}
	ln, _, err := l.client.openLink(l.ctx, address, header)
	if err != nil {
		l.client.spent.refuse(token, err)
		return err
	}
	ch := &channel{
		link: ln, listener: l, in: newMessages(ln, channelSilence),
		moving: make(chan struct{}), idle: make(chan struct{}), pending: map[string]*exchange{},
	}
	defer ch.raw.Close()
	l.tell(State{Phase: Connected, Since: time.Now()})
	if !l.wasOpen {
		l.wasOpen = true
		close(l.opened)
	}
	ctx, cancel := context.WithCancel(l.ctx)
	var tending sync.WaitGroup
	defer tending.Wait()
	defer cancel()
	tending.Go(func() { ch.tend(ctx, &token, received) })
	err = ch.read()
	ch.finish()
	cancel()
	tending.Wait() // the token may be another one now
	l.client.spent.refuse(token, err)
	return err
}

// tend pings, renews the token and, when the listener ends, says goodbye. It ends with
// ctx. The token is its own until then.
func (ch *channel) tend(ctx context.Context, token *string, received time.Time) {
	l := ch.listener
	ping := time.NewTicker(channelPing)
	defer ping.Stop()
	renew := time.NewTimer(renewal(*token, received, received))
	defer renew.Stop()
	for {
		select {
		case <-ping.C:
			ch.control(opPing, nil)
		case <-renew.C:
			renew.Reset(ch.renew(ctx, token, &received))
		case <-l.closing:
			ch.drain(ctx)
			ch.part()
			return
		case <-ctx.Done():
			ch.part()
			return
		}
	}
}

// part says goodbye and gives the gateway the time to answer.
func (ch *channel) part() {
	_ = ch.raw.SetWriteDeadline(time.Now().Add(farewell))
	if ch.goodbye(schemas.CloseDone.Code, "") != nil {
		ch.raw.Close()
		return
	}
	time.AfterFunc(farewell, func() { ch.raw.Close() })
}

// drain moves the requests under way off the channel.
func (ch *channel) drain(ctx context.Context) {
	close(ch.moving)
	ch.mu.Lock()
	if len(ch.pending) == 0 {
		ch.mu.Unlock()
		return
	}
	ch.mu.Unlock()
	timer := time.NewTimer(moving)
	defer timer.Stop()
	select {
	case <-ch.idle:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// finish marks the channel as gone.
func (ch *channel) finish() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.over = true
}

// begin notes a request that is to be answered on the channel; settle takes it out,
// answered or moved.
func (ch *channel) begin(x *exchange) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.pending[x.offer.ID] = x
}

func (ch *channel) settle(x *exchange) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.pending[x.offer.ID] != x {
		return // its id was used again
	}
	delete(ch.pending, x.offer.ID)
	if len(ch.pending) > 0 {
		return
	}
	select {
	case <-ch.moving:
		ch.once.Do(func() { close(ch.idle) })
	default:
	}
}

// cancelled ends a request whose sender has gone.
func (ch *channel) cancelled(id string) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if x := ch.pending[id]; x != nil {
		select {
		case <-x.cancel:
		default:
			close(x.cancel)
		}
	}
}

// An offer is a message of the gateway on a control channel.
type offer struct {
	Accept  *acceptOffer  `json:"accept"`
	Request *requestOffer `json:"request"`
	Cancel  *struct {
		ID string `json:"id"`
	} `json:"cancel"` // the sender of that request has gone
}

// read takes what the gateway offers until the channel ends.
func (ch *channel) read() error {
	l := ch.listener
	for {
		op, err := ch.in.next()
		if err != nil {
			return err
		}
		if op != opText {
			continue // a body that belongs to nothing
		}
		text, err := ch.in.all(maxOffer)
		if err != nil {
			return err
		}
		var o offer
		if json.Unmarshal(text, &o) != nil {
			continue // other words than ours
		}
		switch {
		case o.Cancel != nil:
			ch.cancelled(o.Cancel.ID)
		case o.Accept != nil:
			l.offered(o.Accept)
		case o.Request != nil:
			var body []byte
			if o.Request.hasBody() {
				if op, err = ch.in.next(); err == nil && op == opText {
					err = fmt.Errorf("%w: a request has no body behind it", errProtocol)
				}
				if err == nil {
					body, err = ch.in.all(maxInlineBody)
				}
				if err != nil {
					return err
				}
			}
			l.requested(ch, o.Request, body)
		}
	}
}

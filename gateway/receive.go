package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// defaultReceive is how many deliveries a receive takes that names no number.
const defaultReceive = 10

// A poll is a receive that waits: an occupant while it does.
type poll struct {
	call   *call
	name   string
	grant  *access.Grant
	cancel context.CancelFunc // ends the wait

	mu   sync.Mutex
	asks []access.Ask
	lost error // the rights were taken away
}

// drain ends the wait, so that the client asks another gateway soon.
func (p *poll) drain(time.Time, time.Duration) { p.cancel() }
func (p *poll) cutOff()                        { p.cancel() }

func (p *poll) recheck() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.call.gateway.config.Access.Recheck(p.grant, p.asks...); err != nil {
		p.lost = err
		p.cancel()
	}
}

// allow decides whether a subscription with these options may be received from.
func (p *poll) allow(o broker.SubscriptionOptions) error {
	p.mu.Lock()
	p.asks = asksSubscription(p.name, o)
	p.mu.Unlock()
	return allowsSubscription(p.grant, p.name, o)
}

func (p *poll) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// receive takes POST /subscriptions/{name}/receive: deliveries, as soon as there are
// some, or none once the wait is over.
func (c *call) receive(name string, grant *access.Grant) error {
	most, wait, err := receiveParams(c.r)
	if err != nil {
		return err
	}
	// To the end, so that the server notices a client that leaves.
	_, release, err := c.body(schemas.MaxStreamMessage)
	release()
	if err != nil {
		return err
	}
	if !grant.Expires.IsZero() {
		wait = max(0, min(wait, time.Until(grant.Expires)))
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), wait+c.gateway.config.Limits.BrokerTimeout)
	defer cancel()
	p := &poll{call: c, name: name, grant: grant, cancel: cancel}
	g := c.gateway
	if err := g.enter(c.namespace, p); err != nil {
		return err
	}
	g.metrics.polls.WithLabelValues(c.namespace).Inc()
	defer func() {
		g.metrics.polls.WithLabelValues(c.namespace).Dec()
		g.leave(c.namespace, p)
	}()
	deliveries, err := g.config.Broker.Receive(ctx, c.namespace, name, broker.ReceiveOptions{
		Max: most, Wait: wait, Allow: p.allow,
	})
	if lost := p.refused(); lost != nil {
		p.giveBack(deliveries)
		return lost
	}
	if err != nil && !errors.Is(err, context.Canceled) { // by a drain, or nobody listens any more
		return err
	}
	size := 0
	for i := range deliveries {
		size += len(deliveries[i].Event)
	}
	g.metrics.delivered(c.namespace, len(deliveries), size)
	if c.answerDeliveries(deliveries) != nil {
		p.giveBack(deliveries)
	}
	return nil
}

func receiveParams(r *http.Request) (most int, wait time.Duration, err error) {
	most = defaultReceive
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return 0, 0, schemas.Problemf("parameter", "The query can't be read.")
	}
	for _, name := range []string{"max", "wait"} {
		if len(query[name]) > 1 {
			return 0, 0, schemas.Problemf("parameter", "The parameter %q is given %d times; give it once.", name, len(query[name]))
		}
	}
	if query.Has("max") {
		n, err := strconv.ParseUint(query.Get("max"), 10, 16)
		if err != nil || n < 1 || n > broker.MaxReceive {
			return 0, 0, schemas.Problemf("parameter", "The parameter \"max\" is a whole number from 1 to %d.", broker.MaxReceive)
		}
		most = int(n)
	}
	if query.Has("wait") {
		wait, err = schemas.ParseDuration("parameter \"wait\"", query.Get("wait"))
		if err == nil && wait > broker.MaxReceiveWait {
			err = schemas.Problemf("parameter", "The parameter \"wait\" is a duration from 0s to %s.", schemas.FormatDuration(broker.MaxReceiveWait))
		}
	}
	return most, wait, err
}

// answerDeliveries writes the answer piece by piece, so that the events are not
// joined in memory first.
func (c *call) answerDeliveries(deliveries []broker.SubscriptionDelivery) error {
	if err := c.r.Context().Err(); err != nil {
		return err
	}
	const begin, end = `{"deliveries":[`, `]}`
	heads := make([][]byte, len(deliveries))
	length := len(begin) + len(end)
	for i := range deliveries {
		d := &deliveries[i]
		var b []byte
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"delivery":"`+d.Tag+`","attempt":`...)
		b = strconv.AppendInt(b, int64(d.Attempt), 10)
		heads[i] = append(b, `,"event":`...)
		length += len(heads[i]) + len(d.Event) + len(closeObject)
	}
	h := c.w.Header()
	h.Set("Content-Type", mediaTypeJSON)
	h.Set("Content-Length", strconv.Itoa(length))
	c.answered = true
	c.w.WriteHeader(http.StatusOK)
	if err := c.write([]byte(begin)); err != nil {
		return err
	}
	for i := range deliveries {
		for _, piece := range [][]byte{heads[i], deliveries[i].Event, closeObject} {
			if err := c.write(piece); err != nil {
				return err
			}
		}
	}
	if err := c.write([]byte(end)); err != nil {
		return err
	}
	return c.control.Flush()
}

// giveBack releases what the client did not take.
func (p *poll) giveBack(deliveries []broker.SubscriptionDelivery) {
	if len(deliveries) == 0 {
		return
	}
	g := p.call.gateway
	tags := make([]string, len(deliveries))
	for i := range deliveries {
		tags[i] = deliveries[i].Tag
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.config.Limits.BrokerTimeout)
	defer cancel()
	// What is not given back so comes again once its ack wait is over.
	g.config.Broker.Settle(ctx, p.call.namespace, p.name, broker.Settlement{Verb: broker.Release, Tags: tags}) //nolint:errcheck // see above
}

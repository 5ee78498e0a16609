package subscriber

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// DurableOptions are those of a durable subscription (protocol section 5). What is
// zero is left to the gateway where the subscription is made, and left alone where it
// exists.
type DurableOptions struct {
	// Topic is the topic filter. A subscription that exists needs none.
	Topic string
	// From and After say where a new one begins, as in [SubscribeOptions].
	From, After string
	// Filter and SQL are as in [SubscribeOptions].
	Filter json.RawMessage
	SQL    string
	// AckWait is how long a delivery may stay unsettled before it is handed out again;
	// 30 s where nothing is said.
	AckWait time.Duration
	// MaxDeliver is the number of attempts before an event goes to DeadLetter; 10 where
	// nothing is said.
	MaxDeliver int
	// DeadLetter is the topic for events whose attempts are used up, or which are
	// rejected. Without one they are dropped.
	DeadLetter string
	// Exclusive gives all events to one subscriber at a time; the others stand by.
	Exclusive bool
	// Expires is how long the subscription may be unused before it is deleted; 30 days
	// where nothing is said.
	Expires time.Duration
}

// durable is the same on the wire: in a session's subscribe, and the body of a PUT.
type durable struct {
	Topic      string          `json:"topic,omitempty"`
	From       string          `json:"from,omitempty"`
	After      string          `json:"after,omitempty"`
	Filter     json.RawMessage `json:"filter,omitempty"`
	SQL        string          `json:"sql,omitempty"`
	AckWait    string          `json:"ackwait,omitempty"`
	MaxDeliver int             `json:"maxdeliver,omitempty"`
	DeadLetter string          `json:"deadletter,omitempty"`
	Exclusive  *bool           `json:"exclusive,omitempty"`
	Expires    string          `json:"expires,omitempty"`
}

func (o DurableOptions) wire() (durable, error) {
	d := durable{
		Topic: o.Topic, From: o.From, After: o.After, Filter: o.Filter, SQL: o.SQL,
		MaxDeliver: o.MaxDeliver, DeadLetter: o.DeadLetter,
	}
	if o.Filter != nil && !json.Valid(o.Filter) {
		return d, schemas.Problemf("filter", "The filter is no JSON.")
	}
	if o.AckWait != 0 {
		d.AckWait = schemas.FormatDuration(o.AckWait)
	}
	if o.Expires != 0 {
		d.Expires = schemas.FormatDuration(o.Expires)
	}
	if o.Exclusive {
		d.Exclusive = &o.Exclusive
	}
	return d, nil
}

// subscriptionAddress is a subscription's address at the gateway, checked.
func subscriptionAddress(name string) (string, error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return "", err
	}
	return "/subscriptions/" + name, nil
}

// PutSubscription makes a durable subscription, or changes AckWait, MaxDeliver,
// DeadLetter and Expires of one that exists.
//
// Errors: a [schemas.Problem]; [schemas.ErrConflict] where the one that exists differs
// in what can't be changed.
func (c *Client) PutSubscription(ctx context.Context, name string, options DurableOptions) (s schemas.Subscription, created bool, err error) {
	address, err := subscriptionAddress(name)
	if err != nil {
		return s, false, fmt.Errorf("subscription %q: %w", name, err)
	}
	body, err := options.wire()
	if err != nil {
		return s, false, fmt.Errorf("subscription %s: %w", name, err)
	}
	a, err := c.ask(ctx, http.MethodPut, address, body)
	if err == nil {
		err = a.into(&s)
	}
	if err != nil {
		return s, false, fmt.Errorf("subscription %s: %w", name, err)
	}
	return s, a.status == http.StatusCreated, nil
}

// Subscription describes a durable subscription and its state.
func (c *Client) Subscription(ctx context.Context, name string) (s schemas.Subscription, err error) {
	err = c.about(ctx, http.MethodGet, name, "", nil, &s)
	return s, err
}

// Subscriptions describes all durable subscriptions that the token may use, in the
// order of their names.
func (c *Client) Subscriptions(ctx context.Context) ([]schemas.Subscription, error) {
	a, err := c.ask(ctx, http.MethodGet, "/subscriptions", nil)
	var list struct {
		Subscriptions []schemas.Subscription `json:"subscriptions"`
	}
	if err == nil {
		err = a.into(&list)
	}
	if err != nil {
		return nil, fmt.Errorf("subscriptions: %w", err)
	}
	return list.Subscriptions, nil
}

// DeleteSubscription ends a durable subscription. Events that are not settled stay in
// the log and are handed out to nobody.
func (c *Client) DeleteSubscription(ctx context.Context, name string) error {
	return c.about(ctx, http.MethodDelete, name, "", nil, nil)
}

// ReplaySubscription moves a durable subscription to another place: from is as in
// [SubscribeOptions], after a cursor; one of them is given.
func (c *Client) ReplaySubscription(ctx context.Context, name, from, after string) error {
	return c.about(ctx, http.MethodPost, name, "/replay", durable{From: from, After: after}, nil)
}

// Requeue hands dead letters back to the subscription that failed on them, by the
// cursors that they have on the dead-letter topic; all of those that were not handed
// back yet if there are none.
func (c *Client) Requeue(ctx context.Context, name string, cursors ...string) error {
	var which struct {
		Cursors any `json:"cursors"`
	}
	which.Cursors = cursors
	if len(cursors) == 0 {
		which.Cursors = "all"
	}
	return c.about(ctx, http.MethodPost, name, "/requeue", which, nil)
}

// DeadLetters reads the dead letters of a subscription that its dead-letter topic
// keeps, oldest first, those that were requeued among them. Without such a topic there
// are none.
func (c *Client) DeadLetters(ctx context.Context, name string) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		s, err := c.Subscription(ctx, name)
		if err != nil {
			yield(Delivery{}, err)
			return
		}
		if s.DeadLetter == "" {
			return
		}
		filter, err := json.Marshal(map[string]map[string]string{"exact": {schemas.AttributeDeadPrefix + "subscription": name}})
		if err != nil {
			yield(Delivery{}, err)
			return
		}
		for d, err := range c.History(ctx, string(s.DeadLetter), HistoryOptions{Filter: filter}) {
			if !yield(d, err) {
				return
			}
		}
	}
}

// Receive takes up to limit deliveries of a durable subscription (at most 100) over
// one HTTPS request, and waits for the first of them at most wait (60 s). Each is to be
// settled within the subscription's ack wait; who takes events all the time opens a
// [Subscription] with [Client.OpenSubscription].
func (c *Client) Receive(ctx context.Context, name string, limit int, wait time.Duration) ([]SubscriptionDelivery, error) {
	query := url.Values{"max": {fmt.Sprint(limit)}, "wait": {schemas.FormatDuration(wait)}}
	var received struct {
		Deliveries []schemas.Delivery `json:"deliveries"`
	}
	if err := c.about(ctx, http.MethodPost, name, "/receive?"+query.Encode(), nil, &received); err != nil {
		return nil, err
	}
	list := make([]SubscriptionDelivery, 0, len(received.Deliveries))
	for _, r := range received.Deliveries {
		d, err := parse(r.Event, "")
		if err != nil {
			return list, fmt.Errorf("subscription %s: %w", name, err)
		}
		list = append(list, SubscriptionDelivery{Delivery: d, Tag: r.Delivery, Attempt: r.Attempt, by: polled{c, name}})
	}
	return list, nil
}

// polled settles deliveries over HTTPS.
type polled struct {
	client *Client
	name   string
}

func (r polled) settle(ctx context.Context, s settlement) error {
	body := struct {
		Deliveries []string `json:"deliveries"`
		Delay      string   `json:"delay,omitempty"`
		Reason     string   `json:"reason,omitempty"`
	}{[]string{s.tag}, s.delayText(), s.reason}
	var settled schemas.Settled
	if err := r.client.about(ctx, http.MethodPost, r.name, "/"+s.op, body, &settled); err != nil {
		return err
	}
	if len(settled.Unknown) > 0 {
		return ErrNotHeld
	}
	return nil
}

// about asks about one subscription.
func (c *Client) about(ctx context.Context, method, name, what string, body, into any) error {
	address, err := subscriptionAddress(name)
	if err != nil {
		return fmt.Errorf("subscription %q: %w", name, err)
	}
	a, err := c.ask(ctx, method, address+what, body)
	if err == nil && into != nil {
		err = a.into(into)
	}
	if err != nil {
		return fmt.Errorf("subscription %s: %w", name, err)
	}
	return nil
}

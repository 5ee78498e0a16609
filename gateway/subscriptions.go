package gateway

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// asksSubscription are the rights that every use of a durable subscription needs.
func asksSubscription(name string, o broker.SubscriptionOptions) []access.Ask {
	return []access.Ask{
		{Action: access.Subscription, Name: name},
		{Action: access.Subscribe, Topics: o.Topics},
	}
}

// allowsSubscription says whether the grant covers the use of a subscription. Whoever
// may not use the name learns nothing of it, and nobody learns its topics from a
// refusal.
func allowsSubscription(grant *access.Grant, name string, o broker.SubscriptionOptions) error {
	asks := asksSubscription(name, o)
	if err := grant.Allows(asks[0]); err != nil {
		return err
	}
	err := grant.Allows(asks[1])
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		return schemas.Problemf(p.Name, "To use this subscription a right to subscribe to all its topics is needed.")
	}
	return err
}

// about makes a handler of what is done with the durable subscription in the path. Its
// name is checked, and the right to the name.
func about(do func(c *call, name string, grant *access.Grant) error) func(*call) {
	return func(c *call) {
		name, err := c.joined("subscription")
		if err == nil {
			_, err = schemas.ParseSegment("subscription", name)
		}
		if err == nil {
			var grant *access.Grant
			if grant, err = c.authorizeAll(access.Ask{Action: access.Subscription, Name: name}); err == nil {
				err = do(c, name, grant)
			}
		}
		if err != nil {
			c.refuse(err)
		}
	}
}

// usable says whether the subscription is there and may be used.
func (c *call) usable(name string, grant *access.Grant) error {
	ctx, cancel := c.brokerContext()
	defer cancel()
	o, err := c.gateway.config.Broker.SubscriptionOptions(ctx, c.namespace, name)
	if err != nil {
		return err
	}
	return allowsSubscription(grant, name, o)
}

// readFields reads the body, a JSON object. release, which the caller owes, gives its
// memory back; f is no longer valid then.
func (c *call) readFields(f *fields) (release func(), err error) {
	body, release, err := c.body(schemas.MaxStreamMessage)
	if err == nil {
		err = f.read(body)
	}
	if p := (*schemas.Problem)(nil); errors.As(err, &p) && p.Name == "event" {
		err = schemas.Problemf("parameter", "%s", p.Detail)
	}
	return release, err
}

// putSubscription takes PUT /subscriptions/{name}: it creates, or changes what may be
// changed.
func (c *call) putSubscription(name string, grant *access.Grant) error {
	var f fields
	release, err := c.readFields(&f)
	defer release()
	if err != nil {
		return err
	}
	o, err := f.durable()
	if err != nil {
		return err
	}
	start, err := f.start()
	if err != nil {
		return err
	}
	if o.Topics != "" {
		if err := grant.Allows(access.Ask{Action: access.Subscribe, Topics: o.Topics}); err != nil {
			return err
		}
	}
	if o.DeadLetter != nil && *o.DeadLetter != "" {
		if err := grant.Allows(access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(*o.DeadLetter)}); err != nil {
			return err
		}
	}
	if err := c.usable(name, grant); err != nil && !errors.Is(err, schemas.ErrNotFound) {
		return err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	b := c.gateway.config.Broker
	created, err := b.PutSubscription(ctx, c.namespace, name, o, start)
	if err != nil {
		return err
	}
	s, err := b.Subscription(ctx, c.namespace, name)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		c.w.Header().Set("Location", "/subscriptions/"+name)
	}
	c.answerJSON(status, described(s))
	return nil
}

// getSubscription takes GET /subscriptions/{name}.
func (c *call) getSubscription(name string, grant *access.Grant) error {
	ctx, cancel := c.brokerContext()
	defer cancel()
	s, err := c.gateway.config.Broker.Subscription(ctx, c.namespace, name)
	if err == nil {
		err = allowsSubscription(grant, name, s.Options)
	}
	if err != nil {
		return err
	}
	c.answerJSON(http.StatusOK, described(s))
	return nil
}

// listSubscriptions takes GET /subscriptions. It shows what the request may use.
func (c *call) listSubscriptions() {
	list, err := c.usableSubscriptions()
	if err != nil {
		c.refuse(err)
		return
	}
	c.answerJSON(http.StatusOK, map[string]any{"subscriptions": list})
}

func (c *call) usableSubscriptions() ([]schemas.Subscription, error) {
	grant, err := c.authorizeAll()
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	all, err := c.gateway.config.Broker.Subscriptions(ctx, c.namespace)
	list := make([]schemas.Subscription, 0, len(all))
	for _, s := range all {
		if allowsSubscription(grant, s.Name, s.Options) == nil {
			list = append(list, described(s))
		}
	}
	return list, err
}

// deleteSubscription takes DELETE /subscriptions/{name}.
func (c *call) deleteSubscription(name string, grant *access.Grant) error {
	if err := c.usable(name, grant); err != nil {
		return err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	return c.done(c.gateway.config.Broker.DeleteSubscription(ctx, c.namespace, name))
}

// done answers 204 unless there is an error.
func (c *call) done(err error) error {
	if err == nil {
		c.answer(http.StatusNoContent, "", nil)
	}
	return err
}

// settle takes POST /subscriptions/{name}/ack, /release, /reject and /extend.
func settle(verb broker.Verb) func(*call) {
	return about(func(c *call, name string, grant *access.Grant) error {
		var f fields
		release, err := c.readFields(&f)
		defer release()
		if err != nil {
			return err
		}
		if f.given(fieldUpTo) {
			return schemas.Problemf("parameter", "The field \"upto\" is for sessions; name the deliveries.")
		}
		settlement, _, err := f.settlement(verb)
		if err != nil {
			return err
		}
		if err := c.usable(name, grant); err != nil {
			return err
		}
		ctx, cancel := c.brokerContext()
		defer cancel()
		settled, err := c.gateway.config.Broker.Settle(ctx, c.namespace, name, settlement)
		if err != nil {
			return err
		}
		c.answerJSON(http.StatusOK, schemas.Settled{Accepted: list(settled.Accepted), Unknown: list(settled.Unknown)})
		return nil
	})
}

// list is an array in JSON also where it is empty.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// replay takes POST /subscriptions/{name}/replay.
func (c *call) replay(name string, grant *access.Grant) error {
	var f fields
	release, err := c.readFields(&f)
	defer release()
	if err != nil {
		return err
	}
	start, err := f.start()
	if err != nil {
		return err
	}
	if !f.given(fieldFrom) && !f.given(fieldAfter) {
		return schemas.Problemf("parameter", "Say where to replay from: \"from\" or \"after\".")
	}
	if err := c.usable(name, grant); err != nil {
		return err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	return c.done(c.gateway.config.Broker.ReplaySubscription(ctx, c.namespace, name, start))
}

// requeue takes POST /subscriptions/{name}/requeue.
func (c *call) requeue(name string, grant *access.Grant) error {
	var f fields
	release, err := c.readFields(&f)
	defer release()
	if err != nil {
		return err
	}
	all, cursors, err := f.cursors()
	if err != nil {
		return err
	}
	if err := c.usable(name, grant); err != nil {
		return err
	}
	ctx, cancel := c.brokerContext()
	defer cancel()
	if all {
		_, err = c.gateway.config.Broker.RequeueAll(ctx, c.namespace, name)
	} else {
		err = c.gateway.config.Broker.Requeue(ctx, c.namespace, name, cursors)
	}
	return c.done(err)
}

// cursors reads those of dead letters, or that all are meant.
func (f *fields) cursors() (all bool, cursors []schemas.Cursor, err error) {
	if f[fieldCursors].Kind() == '"' && unquote(f[fieldCursors]) == "all" {
		return true, nil, nil
	}
	if f[fieldCursors].Kind() != '[' {
		return false, nil, wrongType(fieldCursors, "an array of cursors, or \"all\"")
	}
	texts, err := f.list(fieldCursors, schemas.MaxBatchEvents, schemas.MaxCursor)
	if err != nil {
		return false, nil, err
	}
	for _, text := range texts {
		cursor, err := schemas.ParseCursor(text)
		if err != nil {
			return false, nil, err
		}
		cursors = append(cursors, cursor)
	}
	return false, cursors, nil
}

// described is a subscription as the wire has it.
func described(s broker.Subscription) schemas.Subscription {
	o := s.Options
	d := schemas.Subscription{
		Name: s.Name, Topic: o.Topics, SQL: o.SQL, AckWait: schemas.FormatDuration(o.AckWait),
		MaxDeliver: o.MaxDeliver, Expires: schemas.FormatDuration(o.Expires),
		Pending: s.Pending, Unsettled: s.Unsettled, Delayed: s.Delayed, Redelivered: s.Redelivered,
		Subscribers: s.Subscribers,
	}
	if o.Filter != "" {
		d.Filter = json.RawMessage(o.Filter)
	}
	if o.DeadLetter != nil {
		d.DeadLetter = *o.DeadLetter
	}
	if o.Exclusive != nil {
		d.Exclusive = *o.Exclusive
	}
	if !s.OldestUnsettled.IsZero() {
		t := s.OldestUnsettled.UTC()
		d.OldestUnsettled = &t
	}
	return d
}

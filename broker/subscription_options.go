package broker

import (
	"cmp"
	"slices"
	"time"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// wanted are options that were checked as far as they can be by themselves.
type wanted struct {
	SubscriptionOptions
	filter string // the key of Filter and SQL
}

// check checks what was said.
func (o SubscriptionOptions) check(r *rulebook) (wanted, error) {
	w := wanted{SubscriptionOptions: o}
	content, err := filter.Parse(o.Filter, o.SQL)
	if err != nil {
		return w, err
	}
	w.filter = content.Key()
	if o.Topics != "" {
		if _, err := schemas.ParseTopicFilter(string(o.Topics)); err != nil {
			return w, err
		}
	}
	for _, d := range []struct {
		name               string
		value, least, most time.Duration
	}{{"ackwait", o.AckWait, MinAckWait, MaxAckWait}, {"expires", o.Expires, MinExpires, MaxExpires}} {
		if d.value != 0 && (d.value < d.least || d.value > d.most) {
			return w, schemas.Problemf("parameter", "%s is %s; write %s to %s.", d.name, d.value, d.least, d.most)
		}
	}
	if o.MaxDeliver < 0 || o.MaxDeliver > MaxMaxDeliver {
		return w, schemas.Problemf("parameter", "maxdeliver is %d; write 1 to %d.", o.MaxDeliver, MaxMaxDeliver)
	}
	if o.DeadLetter != nil && *o.DeadLetter != "" {
		if _, err := schemas.ParseTopic(string(*o.DeadLetter)); err != nil {
			return w, err
		}
		if o.DeadLetter.Notices() {
			return w, schemas.Problemf("parameter", "The deadletter topic %s is the broker's own; take another.", *o.DeadLetter)
		}
		if r.find(*o.DeadLetter).Unstored {
			return w, schemas.Problemf("parameter", "The deadletter topic %s is not stored; take one that is.", *o.DeadLetter)
		}
	}
	return w, nil
}

// fresh is the definition of a new subscription.
func (w wanted) fresh() (definition, error) {
	d := definition{
		Topics: w.Topics, Filter: w.Filter, SQL: w.SQL,
		AckWait:    cmp.Or(w.AckWait, DefaultAckWait),
		MaxDeliver: cmp.Or(w.MaxDeliver, DefaultMaxDeliver),
		Expires:    cmp.Or(w.Expires, DefaultExpires),
	}
	if w.DeadLetter != nil {
		d.DeadLetter = *w.DeadLetter
	}
	if w.Exclusive != nil {
		d.Exclusive = *w.Exclusive
	}
	return d, d.checkDeadLetter()
}

func (d definition) checkDeadLetter() error {
	if d.DeadLetter != "" && d.Topics.Match(d.DeadLetter) {
		return schemas.Problemf("parameter", "The deadletter topic %s is one of the subscription's own topics, %s; its dead letters would come round again.", d.DeadLetter, d.Topics)
	}
	return nil
}

// same is a problem if d is not what was said.
func (w wanted) same(d definition) error {
	differs := func(what string, is, said any) error {
		return schemas.Problemf("conflict", "The subscription has the %s %v, not %v. Leave it out, or use another name.", what, is, said)
	}
	if err := w.sameNature(d); err != nil {
		return err
	}
	switch {
	case w.AckWait != 0 && w.AckWait != d.AckWait:
		return differs("ackwait", d.AckWait, w.AckWait)
	case w.MaxDeliver != 0 && w.MaxDeliver != d.MaxDeliver:
		return differs("maxdeliver", d.MaxDeliver, w.MaxDeliver)
	case w.DeadLetter != nil && *w.DeadLetter != d.DeadLetter:
		return differs("deadletter topic", orNone(d.DeadLetter), orNone(*w.DeadLetter))
	case w.Expires != 0 && w.Expires != d.Expires:
		return differs("expiry", d.Expires, w.Expires)
	}
	return nil
}

func orNone(t schemas.Topic) string { return cmp.Or(string(t), "none") }

// sameNature is same for what can't be changed.
func (w wanted) sameNature(d definition) error {
	switch {
	case w.Topics != "" && w.Topics != d.Topics:
		return schemas.Problemf("conflict", "The subscription is on %s, not %s. Use another name, or delete it first.", d.Topics, w.Topics)
	case w.Exclusive != nil && *w.Exclusive != d.Exclusive:
		return schemas.Problemf("conflict", "The subscription has exclusive %t. Use another name, or delete it first.", d.Exclusive)
	case w.Filter+w.SQL != "":
		content, err := filter.Parse(d.Filter, d.SQL)
		if err != nil {
			return err
		}
		if content.Key() != w.filter {
			return schemas.Problemf("conflict", "The subscription has another filter. Use another name, or delete it first.")
		}
	}
	return nil
}

// change is d with what was said, nil if that is d itself.
func (w wanted) change(d definition) (*definition, error) {
	if err := w.sameNature(d); err != nil {
		return nil, err
	}
	if w.same(d) == nil {
		return nil, nil
	}
	d.AckWait = cmp.Or(w.AckWait, d.AckWait)
	d.MaxDeliver = cmp.Or(w.MaxDeliver, d.MaxDeliver)
	d.Expires = cmp.Or(w.Expires, d.Expires)
	if w.DeadLetter != nil && *w.DeadLetter != d.DeadLetter {
		d.Former = slices.DeleteFunc(slices.Clone(d.Former), func(t schemas.Topic) bool { return t == d.DeadLetter || t == *w.DeadLetter })
		if d.DeadLetter != "" {
			d.Former = append(d.Former, d.DeadLetter)
		}
		d.Former = d.Former[max(0, len(d.Former)-maxFormer):]
		d.DeadLetter = *w.DeadLetter
	}
	return &d, d.checkDeadLetter()
}

package subscriber

import (
	"context"
	"errors"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// ErrNotHeld says that a delivery could not be settled because it is none of the
// subscription's any more: it was settled already, or it was handed out again
// meanwhile and this was no ack. An ack that comes late counts.
var ErrNotHeld = errors.New("the delivery is not held any more: it was settled, or handed out again")

// A SubscriptionDelivery is an event that a durable subscription handed out. It is to
// be settled, once, by Ack, Release or Reject; one that is not is handed out again
// when the subscription's ack wait is over. The methods may be called from any
// goroutine. They wait for the gateway's answer; their errors are [ErrNotHeld], ctx's,
// [ErrClosed], or a [schemas.Problem]. When ctx ends first the settlement may have
// happened all the same.
type SubscriptionDelivery struct {
	Delivery
	// Tag names this delivery; it is good on any gateway of the broker, for this
	// subscription alone.
	Tag string
	// Attempt counts the times that the event was handed out, from 1.
	Attempt int

	by settler
}

// A settler knows the way on which a delivery came.
type settler interface {
	settle(ctx context.Context, s settlement) error
}

// A settlement is what is to become of a delivery.
type settlement struct {
	op, tag, reason string
	delay           time.Duration
}

func (s settlement) delayText() string {
	if s.delay <= 0 {
		return ""
	}
	return schemas.FormatDuration(s.delay)
}

// Ack says that the event is done.
func (d *SubscriptionDelivery) Ack(ctx context.Context) error {
	return d.by.settle(ctx, settlement{op: schemas.OpAck, tag: d.Tag})
}

// Release gives the event back, to be handed out again after a delay of at most 15
// minutes; 0 is at once.
func (d *SubscriptionDelivery) Release(ctx context.Context, delay time.Duration) error {
	return d.by.settle(ctx, settlement{op: schemas.OpRelease, tag: d.Tag, delay: min(delay, MaxDelay)})
}

// Reject sends the event to the dead-letter topic, with a reason for people; without
// such a topic it is dropped.
func (d *SubscriptionDelivery) Reject(ctx context.Context, reason string) error {
	return d.by.settle(ctx, settlement{op: schemas.OpReject, tag: d.Tag, reason: reason})
}

// Extend begins the ack wait anew.
func (d *SubscriptionDelivery) Extend(ctx context.Context) error {
	return d.by.settle(ctx, settlement{op: schemas.OpExtend, tag: d.Tag})
}

// MaxDelay is the longest delay of a release (protocol section 5).
const MaxDelay = 15 * time.Minute

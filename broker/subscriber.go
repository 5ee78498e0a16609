package broker

import (
	"context"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// SubscriberOptions say how a durable subscription is opened.
type SubscriberOptions struct {
	// Subscription is what the subscription must be; it is created so if it is not
	// there and Topics is said. What differs is ErrConflict.
	Subscription SubscriptionOptions
	// Start is where it begins if this creates it.
	Start Start
	// Credit is how many unsettled deliveries the subscriber takes at most: default
	// [DefaultCredit], from 1 to [MaxCredit].
	Credit int
	// Allow, if not nil, decides whether a subscription with these options may be
	// opened, or created; its error is returned.
	Allow func(SubscriptionOptions) error
}

// A SubscriptionDelivery is one attempt to have an event dealt with.
type SubscriptionDelivery struct {
	// Tag names the delivery to whoever settles it. It is URL-safe text, works on
	// every gateway, and tells nothing.
	Tag string
	// Attempt counts the times that the event was handed out, from 1.
	Attempt int
	// Event is the event in its JSON form with relaytopic and relaycursor added.
	Event []byte
}

// A Subscriber is an open session on a durable subscription. Next belongs to one
// goroutine at a time; the other methods may be called from any, also while Next
// waits. A delivery that is not settled within the subscription's AckWait of its
// arrival at this gateway goes back, and frees its credit.
type Subscriber struct {
	options SubscriptionOptions
}

// OpenSubscription opens a durable subscription, and creates it if need be. Close the
// subscriber after use. On an exclusive subscription that has an active subscriber it
// stands by: Next waits.
//
// Errors: those of PutSubscription; ErrNotFound where there is none and o names no
// topics; Allow's.
func (b *Broker) OpenSubscription(ctx context.Context, namespace, name string, o SubscriberOptions) (*Subscriber, error) {
	return nil, errNoSubscription()
}

// Options are the subscription's when it was opened.
func (s *Subscriber) Options() SubscriptionOptions { return s.options }

// Cursor is a place in the log up to which the subscription had settled everything
// when it was opened.
func (s *Subscriber) Cursor() schemas.Cursor { return schemas.Cursor{} }

// Next waits until something can be handed out and the credit allows it, and returns
// all that waits, up to max deliveries. The slice is the caller's. The error is ctx's,
// or a problem: ErrNotFound once the subscription is deleted, ErrDraining, ErrStorage;
// after the last two Next may be called again.
func (s *Subscriber) Next(ctx context.Context, max int) ([]SubscriptionDelivery, error) {
	return nil, errNoSubscription()
}

// Settle settles deliveries of the subscription, this subscriber's or another's. It
// is [Broker.Settle].
func (s *Subscriber) Settle(ctx context.Context, settlement Settlement) (Settled, error) {
	return Settled{}, errNoSubscription()
}

// AckUpTo acks the delivery of tag and all unsettled ones that Next returned before
// it. unknown says that tag is none of this subscriber, or was settled before; in the
// latter case those before it are acked all the same.
func (s *Subscriber) AckUpTo(ctx context.Context, tag string) (unknown bool, err error) {
	return true, errNoSubscription()
}

// Close ends the subscriber and wakes a waiting Next. What is unsettled goes back at
// once, an attempt used; after the last attempt to the dead letters. It doesn't wait
// for that, and may be called more than once.
func (s *Subscriber) Close() {}

// ReceiveOptions say what [Broker.Receive] takes.
type ReceiveOptions struct {
	Max  int           // 1 to [MaxReceive]
	Wait time.Duration // at most [MaxReceiveWait]; 0: what is there now
	// Allow is as in [SubscriberOptions].
	Allow func(SubscriptionOptions) error
}

// Receive hands out deliveries without an open session, for plain HTTP: as soon as
// there are some, up to Max, or none once Wait is over. They are unsettled for AckWait
// whatever becomes of the caller. If ctx ends first they go back, an attempt used. On
// an exclusive subscription it counts as a subscriber while it runs.
func (b *Broker) Receive(ctx context.Context, namespace, name string, o ReceiveOptions) ([]SubscriptionDelivery, error) {
	return nil, errNoSubscription()
}

// A Verb is what is done with deliveries (protocol section 5).
type Verb uint8

// The verbs.
const (
	Ack     Verb = iota // it is dealt with
	Release             // hand it out again, after Settlement.Delay
	Reject              // to the dead letters, with Settlement.Reason
	Extend              // restart its AckWait; the tag stays good
)

// A Settlement settles deliveries by their tags.
type Settlement struct {
	Verb   Verb
	Tags   []string
	Delay  time.Duration // of Release: 0 to [MaxDelay]
	Reason string        // of Reject, for people; cleaned and cut to [MaxReason] bytes
}

// MaxReason bounds the reason of a rejection in bytes.
const MaxReason = 512

// Settled says what became of each tag, in the order given.
type Settled struct {
	Accepted []string
	// Unknown are those that name no delivery of this life of the subscription, or one
	// that this gateway knows to be settled, or for any verb but Ack one whose AckWait
	// is over.
	Unknown []string
}

// Settle settles deliveries, on whatever gateway they were handed out. A late ack
// counts. When it returns, acks are kept as the log is, save for a kill within the
// next second, and rejected events are stored as dead letters.
//
// Errors: ErrNotFound, ErrParameter; ErrStorage, where some may have been settled:
// settle them again; ctx's.
func (b *Broker) Settle(ctx context.Context, namespace, name string, settlement Settlement) (Settled, error) {
	return Settled{}, errNoSubscription()
}

// SubscriptionCounts count what became of the deliveries of a namespace on this
// gateway since it started.
type SubscriptionCounts struct {
	Delivered   uint64 // attempts handed out
	Redelivered uint64 // those of them that were no first attempts
	Acked       uint64
	Released    uint64
	Rejected    uint64
	Extended    uint64
	Lapsed      uint64 // not settled within AckWait
	Abandoned   uint64 // unsettled when their subscriber left
	Skipped     uint64 // events that the filter did not let through, or that had expired
	DeadLetters uint64 // events stored as dead letters
	Dropped     uint64 // events dropped for want of a dead-letter topic
	Requeued    uint64
	Subscribers int // open now
}

// SubscriptionCounts returns the counts of a namespace, zero if there is none.
func (b *Broker) SubscriptionCounts(namespace string) SubscriptionCounts {
	return SubscriptionCounts{}
}

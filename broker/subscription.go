package broker

import (
	"context"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// Bounds of a durable subscription's options (protocol section 5).
const (
	DefaultAckWait    = 30 * time.Second
	MinAckWait        = 100 * time.Millisecond
	MaxAckWait        = 24 * time.Hour
	DefaultMaxDeliver = 10
	MaxMaxDeliver     = 1000
	DefaultExpires    = 720 * time.Hour
	MinExpires        = time.Second
	MaxExpires        = 10 * 365 * 24 * time.Hour
	DefaultCredit     = 64
	MaxCredit         = 10_000
	MaxDelay          = 15 * time.Minute
	MaxReceive        = 100
	MaxReceiveWait    = time.Minute
)

// SubscriptionOptions are what a durable subscription is.
//
// In a request a field that is zero was not said: it gets its default when the
// subscription is created, and stays as it is when it is there already. What the
// broker returns has every field set.
type SubscriptionOptions struct {
	// Topics is the filter whose stored topics it gets. It must be said to create one.
	Topics schemas.TopicFilter
	// Filter and SQL are the parameters "filter" and "sql" as text (package filter).
	// Only events that pass both are delivered; the others count for nothing.
	Filter, SQL string
	// AckWait is how long a delivery may be unsettled before it is handed out again:
	// default [DefaultAckWait], from [MinAckWait] to [MaxAckWait].
	AckWait time.Duration
	// MaxDeliver is how many attempts there are: default [DefaultMaxDeliver], from 1
	// to [MaxMaxDeliver].
	MaxDeliver int
	// DeadLetter is where events go whose attempts are used up or that are rejected;
	// "" is nowhere: they are dropped and counted ([SubscriptionCounts]). It must be a
	// stored topic, not the broker's own, and not one of Topics.
	DeadLetter *schemas.Topic
	// Exclusive lets one subscriber at a time be active; the others stand by.
	Exclusive *bool
	// Expires is for how long nobody may use it before it is deleted: default
	// [DefaultExpires], from [MinExpires] to [MaxExpires].
	Expires time.Duration
}

// A Subscription is a durable subscription as it stands.
type Subscription struct {
	Name    string
	Options SubscriptionOptions
	// Pending counts the events not yet handed out, before Options.Filter and SQL.
	Pending uint64
	// Unsettled counts the events handed out and neither settled nor delayed; one that
	// was given back and waits for a subscriber is among them.
	Unsettled int
	// Delayed counts those released with a delay that is not over, as far as a gateway
	// that still runs took the release; else they count as unsettled.
	Delayed int
	// Redelivered counts the unsettled and delayed ones handed out more than once.
	Redelivered int
	// OldestUnsettled is when the oldest of the unsettled and delayed ones was
	// accepted (a requeued one: when it was requeued); zero if there is none.
	OldestUnsettled time.Time
	// Subscribers counts the open sessions on it, on all gateways.
	Subscribers int
}

// PutSubscription creates a durable subscription, or changes AckWait, MaxDeliver,
// DeadLetter and Expires of the one that is there. start is where a new one begins
// ([FromLatest] is now) and is looked at for its cursor only otherwise.
//
// Errors: ErrName, ErrFilter, ErrParameter; ErrCursor for a cursor of another log or
// past retention; ErrConflict where anything else differs; ErrTooLarge beyond
// [Limits.MaxSubscriptions]; ErrStorage; ctx's. Protocol: sections 5 and 6.
func (b *Broker) PutSubscription(ctx context.Context, namespace, name string, o SubscriptionOptions, start Start) (created bool, err error) {
	return false, errNoSubscription()
}

// SubscriptionOptions returns the options of a durable subscription, to decide who
// may use it. ErrNotFound: there is none.
func (b *Broker) SubscriptionOptions(ctx context.Context, namespace, name string) (SubscriptionOptions, error) {
	return SubscriptionOptions{}, errNoSubscription()
}

// Subscription returns a durable subscription's options and state. It doesn't count
// as use. ErrNotFound: there is none.
func (b *Broker) Subscription(ctx context.Context, namespace, name string) (Subscription, error) {
	return Subscription{}, errNoSubscription()
}

// Subscriptions returns all durable subscriptions of a namespace by name.
func (b *Broker) Subscriptions(ctx context.Context, namespace string) ([]Subscription, error) {
	return nil, errNoSubscription()
}

// DeleteSubscription deletes a durable subscription with all that it has not yet
// handed out. Its open subscribers end with ErrNotFound and its tags are unknown,
// also to a later subscription of the same name.
func (b *Broker) DeleteSubscription(ctx context.Context, namespace, name string) error {
	return errNoSubscription()
}

// ReplaySubscription moves a durable subscription to another place: what was stored
// after it is handed out, again or for the first time, at attempt 1. What was handed
// out before is forgotten: its tags are unknown.
//
// Errors: ErrNotFound; ErrCursor as in PutSubscription; ErrStorage; ctx's.
func (b *Broker) ReplaySubscription(ctx context.Context, namespace, name string, start Start) error {
	return errNoSubscription()
}

// Requeue hands dead letters back to the subscription that failed on them, and to no
// other, as the events that they were: own topic, id and cursor, attempt 1. It takes
// all or none. The dead letters stay where they are.
//
// Errors: ErrCursor where a cursor is no dead letter of this subscription, or its
// event is gone; ErrTooLarge for more than [schemas.MaxBatchEvents]; ErrNotFound;
// ErrStorage; ctx's.
func (b *Broker) Requeue(ctx context.Context, namespace, name string, cursors []schemas.Cursor) error {
	return errNoSubscription()
}

// RequeueAll is [Broker.Requeue] of every dead letter of the subscription that is
// still kept and was not requeued yet. It returns how many; with an error, how many
// were requeued before it.
func (b *Broker) RequeueAll(ctx context.Context, namespace, name string) (int, error) {
	return 0, errNoSubscription()
}

func errNoSubscription() *schemas.Problem {
	return schemas.Problemf("not-found", "There is no such subscription; create it with PUT, or by subscribing with a topic.")
}

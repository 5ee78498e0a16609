package subscriber

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// DefaultCredit is [OpenOptions.Credit] where it is zero.
const DefaultCredit = 64

// OpenOptions say how a durable subscription is opened.
type OpenOptions struct {
	// DurableOptions make the subscription where there is none of its name; one that
	// exists must agree with what is said here. Without a Topic it must exist.
	DurableOptions
	// Credit is how many deliveries the program holds unsettled at most, those that
	// wait for Next included; the gateway hands out no more. 0 is [DefaultCredit].
	Credit int
	// FailFast makes OpenSubscription return where no connection can be had at first,
	// instead of trying on.
	FailFast bool
	// OnState is told each change of state as it happens, by the subscription's own
	// goroutine: it must not wait, nor call Close.
	OnState func(State)
}

// A Subscription is a durable subscription that this program takes events of, made by
// [Client.OpenSubscription]. Others may have it open too; each event goes to one of
// them.
//
// It connects again by itself. What it held unsettled is then handed out again, to
// whoever is there, with the next attempt; an ack of it that comes late counts. What
// waited for Next is dropped, because it comes again.
//
// Next, All and Handle are for one caller at a time, the other methods for any.
type Subscription struct {
	client  *Client
	name    string
	options OpenOptions
	request durable

	ctx    context.Context
	cancel context.CancelFunc
	opened chan struct{}             // closed when the gateway has opened it, once
	queue  chan SubscriptionDelivery // closed when it has ended; has room for the credit
	done   chan struct{}             // closed when its goroutine has ended
	err    error                     // why, set before queue is closed
	kick   chan struct{}             // there is something to settle

	mu      sync.Mutex
	state   State
	pending []*settling   // to be sent
	sent    [][]*settling // sent and not answered, a message each, in order
	over    bool          // nothing is settled any more
}

// A settling is a settlement that somebody waits for.
type settling struct {
	settlement
	result chan error // has room for one
}

// OpenSubscription opens a durable subscription, and makes it if there is none of this
// name and the options have a Topic. It returns when the gateway has opened it.
//
// Until ctx ends or the subscription is closed, it connects again by itself. The
// caller must call [Subscription.Close].
//
// Errors: a [schemas.Problem], among them [schemas.ErrNotFound] and
// [schemas.ErrConflict]; else as those of [Client.Subscribe].
func (c *Client) OpenSubscription(ctx context.Context, name string, options OpenOptions) (*Subscription, error) {
	if _, err := schemas.ParseSegment("subscription", name); err != nil {
		return nil, fmt.Errorf("subscription %q: %w", name, err)
	}
	request, err := options.wire()
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", name, err)
	}
	if options.Credit == 0 {
		options.Credit = DefaultCredit
	}
	if options.Credit < 0 {
		return nil, fmt.Errorf("subscription %s: a credit of %d; 1 is the least", name, options.Credit)
	}
	caller := ctx
	ctx, done, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", name, err)
	}
	s := &Subscription{
		client: c, name: name, options: options, request: request,
		opened: make(chan struct{}),
		queue:  make(chan SubscriptionDelivery, options.Credit),
		done:   make(chan struct{}),
		kick:   make(chan struct{}, 1),
		state:  State{Phase: Connecting, Since: time.Now()},
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		defer done()
		s.end(s.run(), caller)
	}()
	if !stands(s.opened, s.done) {
		s.cancel()
		return nil, s.err
	}
	return s, nil
}

// end tells everybody that it is over, and why.
func (s *Subscription) end(err error, caller context.Context) {
	switch {
	case caller.Err() != nil:
		err = context.Cause(caller)
	case s.ctx.Err() != nil:
		err = ErrClosed
	}
	s.err = fmt.Errorf("subscription %s: %w", s.name, err)
	ended := State{Phase: Ended, Since: time.Now(), Why: err}
	s.mu.Lock()
	s.state, s.over = ended, true
	rest := s.unanswered()
	s.mu.Unlock()
	for _, one := range rest {
		one.result <- s.err
	}
	close(s.queue)
	s.tell(ended)
}

// unanswered takes all that waits for an answer, in order. mu is held.
func (s *Subscription) unanswered() []*settling {
	var all []*settling
	for _, group := range s.sent {
		all = append(all, group...)
	}
	all = append(all, s.pending...)
	s.sent, s.pending = nil, nil
	return all
}

// Next waits for the next delivery. It returns the subscription's error once it has
// ended, always the same: [ErrClosed] after Close, the error of its context, or the
// refusal that ended it. The end of ctx ends the wait alone.
func (s *Subscription) Next(ctx context.Context) (SubscriptionDelivery, error) {
	if err := ctx.Err(); err != nil {
		return SubscriptionDelivery{}, err
	}
	select {
	case d, ok := <-s.queue:
		if !ok {
			return SubscriptionDelivery{}, s.err
		}
		return d, nil
	case <-ctx.Done():
		return SubscriptionDelivery{}, ctx.Err()
	}
}

// All ranges over the deliveries until the loop ends or the subscription does. Its one
// error is that of [Subscription.Next].
func (s *Subscription) All(ctx context.Context) iter.Seq2[SubscriptionDelivery, error] {
	return func(yield func(SubscriptionDelivery, error) bool) {
		for {
			d, err := s.Next(ctx)
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// State is what the subscription is doing about its connection.
func (s *Subscription) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Close ends the subscription for this program and waits for it; the subscription
// itself stays, and what is unsettled is handed out again.
func (s *Subscription) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *Subscription) tell(state State) {
	s.mu.Lock()
	s.state = state
	s.mu.Unlock()
	if s.options.OnState != nil {
		s.options.OnState(state)
	}
}

// settle implements [settler] over the session. While there is no connection it waits
// for the next one.
func (s *Subscription) settle(ctx context.Context, what settlement) error {
	one := &settling{what, make(chan error, 1)}
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return s.err
	}
	s.pending = append(s.pending, one)
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	select {
	case err := <-one.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

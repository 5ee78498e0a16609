package subscriber

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A RejectError, returned by a handler, sends the event to the dead-letter topic.
type RejectError struct{ Reason string }

func (e *RejectError) Error() string { return "rejected: " + e.Reason }

// A ReleaseError, returned by a handler, gives the event back to be handed out again
// after a delay.
type ReleaseError struct {
	Delay time.Duration
	Why   error // may be nil
}

func (e *ReleaseError) Error() string {
	if e.Why == nil {
		return fmt.Sprintf("released for %v", e.Delay)
	}
	return fmt.Sprintf("released for %v: %v", e.Delay, e.Why)
}

func (e *ReleaseError) Unwrap() error { return e.Why }

// Handle calls f for each delivery, at most n at a time, and settles the delivery by
// what f returns: nil acks it, a [RejectError] rejects it, a [ReleaseError] releases
// it, and any other error releases it with a delay that grows with its attempts. While
// f works the delivery's ack wait is begun anew again and again. The subscription's
// credit should be n or more.
//
// It returns when ctx or the subscription has ended and every f has returned; the
// context of f ends then too. An f that returned nil is acked all the same.
func (s *Subscription) Handle(ctx context.Context, n int, f func(context.Context, *SubscriptionDelivery) error) error {
	about, err := s.client.Subscription(ctx, s.name)
	if err != nil {
		return err
	}
	wait, err := time.ParseDuration(about.AckWait)
	if err != nil {
		return fmt.Errorf("subscription %s: its ackwait is %q: %w", s.name, printable([]byte(about.AckWait)), err)
	}
	var working sync.WaitGroup
	defer working.Wait()
	slots := make(chan struct{}, max(n, 1))
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		d, err := s.Next(ctx)
		if err != nil {
			return err
		}
		working.Go(func() {
			defer func() { <-slots }()
			s.settled(ctx, &d, keepHeld(ctx, &d, wait/3, f))
		})
	}
}

// keepHeld calls f and extends the delivery, every so often, until it returns.
func keepHeld(ctx context.Context, d *SubscriptionDelivery, every time.Duration, f func(context.Context, *SubscriptionDelivery) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var extending sync.WaitGroup
	defer extending.Wait()
	defer cancel()
	extending.Go(func() {
		for sleep(ctx, every) {
			if errors.Is(d.Extend(ctx), ErrNotHeld) {
				return // somebody else has it by now; an ack counts all the same
			}
		}
	})
	return f(ctx, d)
}

// settled settles a delivery by the error of its handler. What can't be settled is
// handed out again.
func (s *Subscription) settled(ctx context.Context, d *SubscriptionDelivery, result error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	var rejected *RejectError
	var released *ReleaseError
	var err error
	switch {
	case result == nil:
		err = d.Ack(ctx)
	case errors.As(result, &rejected):
		err = d.Reject(ctx, rejected.Reason)
	case errors.As(result, &released):
		err = d.Release(ctx, released.Delay)
	default:
		err = d.Release(ctx, Backoff(d.Attempt))
	}
	if err != nil {
		s.client.config.Logger.LogAttrs(ctx, levelRetry, "not settled", attrName(s.name), attrErr(err))
	}
}

// Backoff is the delay before another attempt at an event that failed: from half to
// the whole of 1 s after the first attempt, twice as much after each further one, and
// at most 5 minutes.
func Backoff(attempt int) time.Duration {
	const base, most = time.Second, 5 * time.Minute
	d := min(base<<min(max(attempt, 1)-1, 16), most)
	return d/2 + backoff{}.spread(d/2)
}

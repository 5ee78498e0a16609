package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

const (
	// receiveMost is how many deliveries one receive may ask for (protocol section 6).
	receiveMost = 100
	// receiveWait is how long one receive waits for the first of them.
	receiveWait = time.Minute
	// receivePause comes before another receive where one failed that had succeeded.
	receivePause = time.Second
	// ackPatience is how long acks of lines that are written may take at the end.
	ackPatience = 5 * time.Second
)

// A worker prints the deliveries of a durable subscription and acks them.
type worker struct {
	client  *subscriber.Client
	name    string
	topic   string // makes the subscription; "" takes one that exists
	options subscriber.SubscribeOptions
	count   int // ends after so many; 0 has no end
	noAck   bool
	printer *linePrinter
}

func (w *worker) durable() subscriber.DurableOptions {
	return subscriber.DurableOptions{Topic: w.topic, From: w.options.From, After: w.options.After, Filter: w.options.Filter, SQL: w.options.SQL}
}

// work prints until the count is reached or ctx ends.
func (w *worker) work(ctx context.Context) error {
	if w.count > 0 {
		return w.receive(ctx)
	}
	s, err := w.client.OpenSubscription(ctx, w.name, subscriber.OpenOptions{
		DurableOptions: w.durable(), FailFast: true, OnState: w.options.OnState,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	var acks sync.WaitGroup
	failed := make(chan error, 1)
	defer acks.Wait()
	for d, err := range s.All(ctx) {
		if err != nil {
			return err
		}
		if err := w.printer.delivery(&d); err != nil {
			return err
		}
		if w.noAck {
			continue
		}
		acks.Go(func() { // as many as the credit lets be unsettled
			if err := w.ack(&d); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		select {
		case err := <-failed:
			return err
		default:
		}
	}
	return nil
}

// receive asks for no more than is to be printed, which a session's credit can't: there
// each ack brings another.
func (w *worker) receive(ctx context.Context) error {
	if w.topic != "" || w.options.Filter != nil || w.options.SQL != "" { // of one that is there, they must be the same
		if _, _, err := w.client.PutSubscription(ctx, w.name, w.durable()); err != nil {
			return err
		}
	}
	for left, received := w.count, false; left > 0; {
		list, err := w.client.Receive(ctx, w.name, min(left, receiveMost), receiveWait)
		if err != nil {
			var problem *schemas.Problem
			if !received || ctx.Err() != nil || errors.As(err, &problem) && problem.Status() < 500 && problem.Name != "rate" {
				return err
			}
			select {
			case <-time.After(receivePause):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		received = true
		for i := range list {
			if err := w.printer.delivery(&list[i]); err != nil {
				return err
			}
			left--
			if w.noAck {
				continue
			}
			if err := w.ack(&list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// ack acks what was printed, also where the command was interrupted meanwhile. An
// event that somebody else has by now is no failure: it will be printed there.
func (w *worker) ack(d *subscriber.SubscriptionDelivery) error {
	ctx, cancel := context.WithTimeout(context.Background(), ackPatience)
	defer cancel()
	err := d.Ack(ctx)
	if errors.Is(err, subscriber.ErrNotHeld) || errors.Is(err, subscriber.ErrClosed) {
		return nil
	}
	return err
}

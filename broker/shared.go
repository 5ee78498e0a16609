package broker

import (
	"context"
	"sync"
)

// shared lets callers that wait at the same time share one answer. The question is
// always asked after the call began, so that the answer is never older than it.
type shared[T any] struct {
	mu      sync.Mutex
	waiting *sharedCall[T] // not begun yet; nil if nobody waits
	running bool
}

type sharedCall[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// get asks with the others that wait. The question itself is bounded by the
// broker's life, not by ctx, for it is not this caller's alone.
func (s *shared[T]) get(ctx context.Context, b *Broker, ask func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = &sharedCall[T]{done: make(chan struct{})}
	}
	call, began := s.waiting, s.running
	s.running = true
	s.mu.Unlock()
	if !began {
		b.start(func(ctx context.Context) { s.run(ctx, ask) }) // here and now, if the broker ends
	}
	select {
	case <-call.done:
		return call.value, call.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// run asks until nobody waits.
func (s *shared[T]) run(ctx context.Context, ask func(context.Context) (T, error)) {
	for {
		s.mu.Lock()
		call := s.waiting
		s.waiting = nil
		if call == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, requestTimeout)
		call.value, call.err = ask(limited)
		cancel()
		close(call.done)
	}
}

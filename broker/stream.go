package broker

import (
	"context"

	"github.com/outrelay/outrelay/schemas"
)

// A Stream is one subscriber's flow of events. Next and Cursor belong to one
// goroutine at a time; Close may be called from any.
type Stream struct{}

// Next waits until something is to be delivered and returns all that waits, up to
// max deliveries. The slice is valid until the next call. The error is ctx's, or a
// problem when the broker stops or the log can't be read.
func (s *Stream) Next(ctx context.Context, max int) ([]Delivery, error) { panic("to come") }

// Cursor is the stream's place: resuming after it misses and doubles nothing of
// what Next has returned so far.
func (s *Stream) Cursor() schemas.Cursor { panic("to come") }

// Close ends the stream and wakes a waiting Next.
func (s *Stream) Close() { panic("to come") }

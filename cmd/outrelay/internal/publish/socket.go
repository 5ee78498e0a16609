package publish

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/outrelay/outrelay/subscriber"
)

// A Socket sends events one by one; [subscriber.Socket] is one.
type Socket interface {
	Send(ctx context.Context, event []byte) error
	Settle(ctx context.Context) (subscriber.Taken, error)
}

// keptLines is how many lines are remembered, more than a socket leaves unsettled.
const keptLines = 1024

// RunSocket sends the events of in over a socket, the elements of an array one by
// one. The summary holds with an error too; [Options.Progress] is told what was sent.
//
// A refusal is an error that tells the line, wrapping the [schemas.Problem]. What
// stands before it is taken; what stands after it may be.
func RunSocket(ctx context.Context, in io.Reader, to Socket, o Options) (Summary, error) {
	l := newLoader(in, o)
	l.split = true
	var lines []int // of the last events that were sent
	sent := 0
	err := l.each(ctx, func(next load) error {
		for _, it := range next.items {
			if len(lines) == keptLines {
				lines = slices.Delete(lines, 0, keptLines/2)
			}
			if err := to.Send(ctx, it.raw); err != nil {
				if lateRefusal(err) {
					return err
				}
				return refused(it.line, err)
			}
			lines = append(lines, it.line)
			sent++
		}
		if o.Progress != nil {
			o.Progress(sent)
		}
		return nil
	})
	taken, settleErr := to.Settle(ctx)
	if lateRefusal(settleErr) || err == nil {
		err = settleErr // it stands before whatever ended the input
	}
	if r := (*subscriber.RejectedError)(nil); errors.As(err, &r) {
		if i := r.Index - (sent - len(lines)); i >= 0 && i < len(lines) {
			err = refused(lines[i], r.Problem)
		}
	}
	return Summary{Accepted: taken.Accepted, Duplicates: taken.Duplicates, Cursor: taken.Cursor}, err
}

// lateRefusal says whether err is about an event that was sent before.
func lateRefusal(err error) bool {
	var r *subscriber.RejectedError
	return errors.As(err, &r)
}

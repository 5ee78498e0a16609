package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A Publisher sends events; [subscriber.Client] is one.
type Publisher interface {
	PublishJSON(ctx context.Context, topic string, events ...[]byte) (subscriber.Receipt, error)
	PublishBatch(ctx context.Context, topic string, batch []byte) (subscriber.Receipt, error)
}

// Options say where events go and how fast.
type Options struct {
	// Topic is where they go.
	Topic string
	// From, if not nil, leads to a value in each event that is put behind Topic and
	// a slash. An array is then no batch, but as good as its events one by one.
	From *Path
	// Rate is how many events are sent a second, 0 as many as can be.
	Rate float64
	// Progress, if not nil, is called with the count so far.
	Progress func(accepted int)
}

// A Summary says what was taken.
type Summary struct {
	Accepted   int
	Duplicates int
	Cursor     string // of the last event that was stored
}

func (s *Summary) add(r subscriber.Receipt) {
	s.Accepted += r.Accepted
	s.Duplicates += len(r.Duplicates)
	if r.Cursor != "" {
		s.Cursor = r.Cursor
	}
}

// A lineError is a refusal of the value that begins at a line of the input.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string {
	var p *schemas.Problem
	if !errors.As(e.err, &p) {
		return fmt.Sprintf("line %d: %v", e.line, e.err)
	}
	plain := *p
	plain.Index = nil // the line says more
	return fmt.Sprintf("line %d: %v (problem %s)", e.line, &plain, p.Name)
}

func (e *lineError) Unwrap() error { return e.err }

// refused makes a lineError of a refusal; any other error stays what it is.
func refused(line int, err error) error {
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		return &lineError{line, err}
	}
	return err
}

// A load is what is sent at once: an array, or some events of one topic. err, if
// not nil, is what ends the input after them.
type load struct {
	topic string
	items []item
	err   error
}

// A loader makes loads of its input.
type loader struct {
	in      *reader
	options Options
	most    int    // events in a load
	split   bool   // arrays are as good as their events
	held    []item // read, and not in a load yet
}

func newLoader(in io.Reader, o Options) *loader {
	l := &loader{in: newReader(in), options: o, most: schemas.MaxBatchEvents, split: o.From != nil}
	if o.Rate > 0 { // what is due within a twentieth of a second
		l.most = max(1, min(l.most, int(o.Rate/20)))
	}
	return l
}

// next waits for an event and takes with it what waits behind it.
func (l *loader) next() load {
	var out load
	size := 2 // the brackets
	for len(out.items) < l.most {
		if len(l.held) == 0 {
			if len(out.items) > 0 && !l.in.waiting() {
				return out
			}
			it, err := l.in.next()
			if err != nil {
				out.err = err
				return out
			}
			if l.held = []item{it}; l.split && it.array {
				if l.held = it.elements(); len(l.held) == 0 {
					continue
				}
			}
		}
		it := l.held[0]
		topic, err := l.topic(it)
		if err != nil {
			out.err = err
			return out
		}
		size += len(it.raw) + 1
		if len(out.items) > 0 && (topic != out.topic || it.array || size > schemas.MaxBatch) {
			return out
		}
		l.held = l.held[1:]
		out.topic, out.items = topic, append(out.items, it)
		if it.array {
			return out
		}
	}
	return out
}

func (l *loader) topic(it item) (string, error) {
	if l.options.From == nil {
		return l.options.Topic, nil
	}
	// What can't be read has a worse fault than no topic.
	if _, err := schemas.ParseEvent(it.raw); err != nil {
		return "", refused(it.line, err)
	}
	topic, err := l.options.From.topic(l.options.Topic, it.raw)
	if err != nil {
		return "", refused(it.line, err)
	}
	return topic, nil
}

// each calls send with one load after the other, at the rate of the options, until
// the input ends, send fails or ctx ends. A Read of the input that is under way then
// is not waited for: closing the input is the caller's part.
func (l *loader) each(ctx context.Context, send func(load) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loads := make(chan load)
	go func() { // reads ahead by one load, until the loop below is over
		for {
			next := l.next()
			select {
			case loads <- next:
			case <-ctx.Done():
				return
			}
			if next.err != nil {
				return
			}
		}
	}()
	pace := pacer{rate: l.options.Rate}
	for {
		select {
		case next := <-loads:
			if len(next.items) > 0 {
				if err := pace.wait(ctx, len(next.items)); err != nil {
					return err
				}
				if err := send(next); err != nil {
					return err
				}
			}
			if errors.Is(next.err, io.EOF) {
				return nil
			}
			if next.err != nil {
				return next.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A pacer keeps events at a rate. What a slow network holds up is made good, but
// for what is late by more than a second.
type pacer struct {
	rate float64
	due  time.Time // of the next event
}

func (p *pacer) wait(ctx context.Context, events int) error {
	if p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if p.due.IsZero() {
		p.due = now
	}
	if late := now.Add(-time.Second); p.due.Before(late) {
		p.due = late
	}
	wait := p.due.Sub(now)
	p.due = p.due.Add(time.Duration(float64(events) * float64(time.Second) / p.rate))
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run sends the events of in over HTTPS. The summary holds with an error too.
//
// A refusal is an error that tells the line, wrapping the [schemas.Problem].
func Run(ctx context.Context, in io.Reader, to Publisher, o Options) (Summary, error) {
	var s Summary
	err := newLoader(in, o).each(ctx, func(next load) error {
		err := s.send(ctx, to, next)
		if o.Progress != nil {
			o.Progress(s.Accepted)
		}
		return err
	})
	return s, err
}

// send publishes a load. Of events that stood one by one, those before the one that
// is refused are taken.
func (s *Summary) send(ctx context.Context, to Publisher, next load) error {
	if first := next.items[0]; first.array {
		r, err := to.PublishBatch(ctx, next.topic, first.raw)
		if err != nil {
			line := first.line
			if i, ok := index(err); ok {
				if elements := first.elements(); i < len(elements) {
					line = elements[i].line
				}
			}
			return refused(line, err)
		}
		s.add(r)
		return nil
	}
	raw := make([][]byte, len(next.items))
	for i, it := range next.items {
		raw[i] = it.raw
	}
	r, err := to.PublishJSON(ctx, next.topic, raw...)
	if err == nil {
		s.add(r)
		return nil
	}
	i, ok := index(err)
	if !ok || i >= len(next.items) {
		return refused(next.items[0].line, err)
	}
	if i > 0 {
		if err := s.send(ctx, to, load{topic: next.topic, items: next.items[:i]}); err != nil {
			return err
		}
	}
	return refused(next.items[i].line, err)
}

// index is the place of the event that a refusal names.
func index(err error) (int, bool) {
	var p *schemas.Problem
	if errors.As(err, &p) && p.Index != nil && *p.Index >= 0 {
		return *p.Index, true
	}
	return 0, false
}

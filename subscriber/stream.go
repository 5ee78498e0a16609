package subscriber

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// queueLength is how many deliveries wait for Next; when they are as many, the
// stream stops reading and the gateway feels it.
const queueLength = 64

// SubscribeOptions say where a stream begins and what it lets through. The zero
// value takes everything that is published from now on.
type SubscribeOptions struct {
	// From is "latest" (the default), "earliest", "last" or an RFC 3339 time
	// (protocol section 2). It counts for the beginning only; once a place is known,
	// the stream goes on from there. A stream from "last" that is cut off before it
	// has brought all the last events goes on after the one it brought, with what
	// was stored between it and the others too.
	From string
	// After is a cursor; the stream begins with what comes next. It wins over From.
	After string
	// Filter is a filter of the CloudEvents Subscriptions dialects, or an array of
	// them, as JSON.
	Filter json.RawMessage
	// SQL is a CloudEvents SQL expression.
	SQL string
	// Slow is "gap" (the default) or "close": what the gateway does with a stream
	// that falls behind on a topic that is not stored.
	Slow string
	// FailFast makes Subscribe return where no connection can be had at first,
	// instead of trying on. A refusal that may pass (429, 503) is tried again.
	FailFast bool
	// Notices makes Next hand out the gateway's notices as deliveries, and OnNotice
	// gets them at the same place among the events, called by Next. With either of
	// them a gap is no error of Next.
	Notices  bool
	OnNotice func(Notice)
	// OnState is told each change of state as it happens, by the stream's own
	// goroutine: it must not wait, nor call the stream's Close.
	OnState func(State)
}

// check finds what the gateway would refuse for its form alone.
func (o SubscribeOptions) check() error {
	if o.Filter != nil && !json.Valid(o.Filter) {
		return schemas.Problemf("filter", "The filter is no JSON.")
	}
	return nil
}

func (o SubscribeOptions) query() url.Values {
	q := url.Values{"positions": {"true"}}
	for name, v := range map[string]string{"filter": string(o.Filter), "sql": o.SQL, "slow": o.Slow} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// A Stream is a live flow of a topic filter's events, made by [Client.Subscribe].
type Stream struct {
	client  *Client
	filter  schemas.TopicFilter
	options SubscribeOptions
	now     func() time.Time

	ctx    context.Context // ends the stream's goroutine
	cancel context.CancelFunc
	opened chan struct{} // closed when the gateway has opened the stream, once
	queue  chan Delivery // closed when the stream has ended
	done   chan struct{} // closed when its goroutine has
	err    error         // why, set before queue is closed

	// Owned by the goroutine.
	place    string // the cursor after which to go on; empty: from the beginning
	topic    string // the last event's
	order    schemas.Cursor
	wasOpen  bool
	attempts int // that failed since the last progress

	mu     sync.Mutex
	state  State
	cursor string // what Next has handed out goes up to here
}

// Subscribe opens a stream of the events whose topic the filter matches. It
// returns when the stream stands: what is published after that is delivered.
//
// Until ctx ends or the stream is closed, it connects again by itself. ctx is the
// whole stream's, so a limit on the time to connect does not belong in it. The
// caller must call [Stream.Close].
//
// Errors: a [schemas.Problem], a [StatusError] or a certificate that is not
// trusted, where a further try would bring the same; ctx's error; with
// [SubscribeOptions.FailFast] whatever the network said.
func (c *Client) Subscribe(ctx context.Context, filter string, options SubscribeOptions) (*Stream, error) {
	f, err := schemas.ParseTopicFilter(filter)
	if err == nil {
		err = options.check()
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %q: %w", filter, err)
	}
	caller := ctx
	ctx, done, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	s := &Stream{
		client:  c,
		filter:  f,
		options: options,
		now:     time.Now,
		ctx:     ctx,
		opened:  make(chan struct{}),
		queue:   make(chan Delivery, queueLength),
		done:    make(chan struct{}),
		place:   options.After,
		cursor:  options.After,
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.state = State{Phase: Connecting, Since: s.now()}
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

// stands waits until something has opened, or is done without having done so.
func stands(opened, done <-chan struct{}) bool {
	select {
	case <-opened:
		return true
	case <-done:
	}
	select {
	case <-opened: // and is over already, which who takes from it learns
		return true
	default:
		return false
	}
}

// end tells everybody that the stream is over, and why.
func (s *Stream) end(err error, caller context.Context) {
	switch {
	case caller.Err() != nil:
		err = context.Cause(caller)
	case s.ctx.Err() != nil:
		err = ErrClosed
	}
	s.err = fmt.Errorf("subscribe to %s: %w", s.filter, err)
	ended := State{Phase: Ended, Since: s.now(), Why: err}
	s.mu.Lock()
	s.state = ended // who learns the end from Next finds it here too
	s.mu.Unlock()
	close(s.queue)
	s.tell(ended)
}

// Next waits for the next delivery. It returns what came before an end of the
// stream first, then the stream's error, always the same: [ErrClosed] after Close,
// the error of Subscribe's context, or the refusal that ended it.
//
// A gap is a [GapError] between two deliveries, unless the options ask for
// notices; call Next again. The end of ctx ends the wait, not the stream.
func (s *Stream) Next(ctx context.Context) (Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Delivery{}, err
		}
		var d Delivery
		var ok bool
		select {
		case d, ok = <-s.queue:
		default:
			select {
			case d, ok = <-s.queue:
			case <-ctx.Done():
				return Delivery{}, ctx.Err()
			}
		}
		if !ok {
			return Delivery{}, s.err
		}
		n := d.Notice
		if n == nil {
			if d.Cursor != "" && !d.Repeated {
				s.moveTo(d.Cursor)
			}
			return d, nil
		}
		if n.Type == schemas.NoticeOpen || n.Type == schemas.NoticePosition {
			s.moveTo(n.cursor)
			continue
		}
		if s.options.OnNotice != nil {
			s.options.OnNotice(*n)
		}
		if s.options.Notices {
			return d, nil
		}
		if s.options.OnNotice == nil && n.Gap != nil {
			return Delivery{}, &GapError{Gap: *n.Gap, Notice: n.Raw}
		}
	}
}

func (s *Stream) moveTo(cursor string) {
	s.mu.Lock()
	s.cursor = cursor
	s.mu.Unlock()
}

// All ranges over the deliveries until the loop ends or the stream does; the
// error, if there is one, is that of [Stream.Next], and after a [GapError] the
// loop may go on. ctx's end is an error too.
func (s *Stream) All(ctx context.Context) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		for {
			d, err := s.Next(ctx)
			var gap *GapError
			if !yield(d, err) || err != nil && !errors.As(err, &gap) {
				return
			}
		}
	}
}

// Cursor is the stream's place: another one with After set to it begins with what
// Next has not handed out yet. It moves on behind a filter that lets little
// through, too. Empty while no place is known.
func (s *Stream) Cursor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor
}

// State is what the stream is doing now.
func (s *Stream) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Close ends the stream and waits for it. What was not taken by Next is still
// there to be taken.
func (s *Stream) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *Stream) tell(state State) {
	s.mu.Lock()
	s.state = state
	s.mu.Unlock()
	if s.options.OnState != nil {
		s.options.OnState(state)
	}
}

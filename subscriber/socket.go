package subscriber

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// mostUnsettled and mostUnsettledBytes bound what a socket has sent and not
	// heard of; Send waits beyond.
	mostUnsettled      = 256
	mostUnsettledBytes = schemas.MaxBatch
	// quiet is how long nothing must come before a socket asks over HTTPS what
	// became of the rest.
	quiet = time.Second
	// unheard is how long an event that others have overtaken may still be rejected.
	unheard = 500 * time.Millisecond
)

// A RejectedError says that an event sent on a [Socket] was not taken.
type RejectedError struct {
	// Index is the event's place among those given to Send, from 0.
	Index int
	// Problem is the gateway's.
	Problem *schemas.Problem
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("event %d: %v", e.Index, e.Problem)
}

func (e *RejectedError) Unwrap() error { return e.Problem }

// A Socket publishes events to one topic over a WebSocket, one a message. It costs
// the gateway less than a request each, and passes where only WebSockets do; it
// needs the right to subscribe to the topic, too, because the answer to an event is
// that it comes back.
//
// A message has no answer of its own: what is taken comes back on the stream, what
// is refused comes back as a notice, and what the gateway knew already does not
// come back at all. So the socket settles an event when it comes back, or when one
// that was sent after it does, and asks over HTTPS about those at the end that did
// not: on a stored topic the gateway then says that it has them.
//
// A lost connection is made again, and what is not settled is sent again, for
// [Config.PublishRetry]; negative ends the socket instead. All methods may be
// called from any goroutine.
type Socket struct {
	client *Client
	topic  schemas.Topic
	ctx    context.Context
	cancel context.CancelFunc
	opened chan struct{} // closed when the first connection stands
	done   chan struct{} // closed when its goroutine has ended

	writing sync.Mutex // held while events are written, so that they go in order
	wire    *wire      // guarded by writing; nil while there is none

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, when something below changes
	sent    []*sent       // in order: what is not settled, and what may still be rejected
	size    int           // of the events in it that are waiting, in bytes
	waiting int           // their number
	count   int           // given to Send so far
	taken   Taken
	stored  bool // events came back with a cursor
	live    bool // events came back without
	place   string
	refused error // what made the socket leave its connection
	err     error // why nothing more is taken
}

// Taken says what became of the events of a [Socket].
type Taken struct {
	// Accepted counts the events taken, duplicates included.
	Accepted int
	// Duplicates counts those that the gateway knew already. After a lost connection
	// some may be this socket's own.
	Duplicates int
	// Cursor is the place of the last event that came back; empty if none is stored.
	Cursor string
}

// A sent is an event that was given to Send.
type sent struct {
	index      int
	source, id string
	raw        []byte
	expired    bool
	again      bool // refused for the moment: only its own return settles it

	state     sentState
	duplicate bool      // counted as one
	since     time.Time // when its state became overtaken
}

// A sentState is how much is known of an event.
type sentState uint8

const (
	waiting   sentState = iota
	overtaken           // one sent after it came back: taken, unless its rejection is on the way
	returned            // came back itself, or was asked about
)

// OpenSocket opens a socket. Errors are as with [SubscribeOptions.FailFast]. The
// caller must call [Socket.Close]; the end of ctx ends the socket.
func (c *Client) OpenSocket(ctx context.Context, topic string) (*Socket, error) {
	name, err := schemas.ParseTopic(topic)
	if err != nil {
		return nil, fmt.Errorf("publish to %q: %w", topic, err)
	}
	ctx, done, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &Socket{
		client:  c,
		topic:   name,
		opened:  make(chan struct{}),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		defer done()
		s.fail(s.run())
	}()
	if !stands(s.opened, s.done) {
		s.cancel()
		return nil, s.failure()
	}
	return s, nil
}

// Send sends an event, in the JSON event format, and waits only while too many are
// unsettled: 256, or 8 MiB. The bytes are not kept after it is settled.
//
// Errors: a [schemas.Problem] where the event is none; it was not sent, and others
// may be. A [RejectedError] of this or an earlier event, after which nothing is
// sent any more; what became of the rest [Socket.Settle] says. ctx's error.
func (s *Socket) Send(ctx context.Context, event []byte) error {
	e, err := schemas.ParseEvent(event)
	if err != nil {
		return err
	}
	expiry := e.Expiry()
	one := &sent{
		source: e.Source(), id: e.ID(), raw: event,
		expired: !expiry.IsZero() && !expiry.After(time.Now()),
	}
	if err := s.room(ctx, len(event)); err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	one.index = s.count
	s.count++
	s.sent = append(s.sent, one)
	s.waiting++
	s.size += len(event)
	s.mu.Unlock()
	s.write(one)
	return nil
}

// room waits until an event may be sent.
func (s *Socket) room(ctx context.Context, size int) error {
	for {
		s.mu.Lock()
		room := s.waiting == 0 || s.waiting < mostUnsettled && s.size+size <= mostUnsettledBytes
		err, changed := s.err, s.changed
		s.mu.Unlock()
		if err != nil || room {
			return err
		}
		t := time.NewTimer(quiet)
		select {
		case <-changed:
			t.Stop()
			continue
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		// Nothing comes back of what the gateway knew already.
		if s.fence(ctx) {
			if err := s.ask(ctx); err != nil {
				s.fail(err)
			}
		}
	}
}

// write puts an event on the wire; what fails there is sent again on the next one.
// writing is held.
func (s *Socket) write(one *sent) {
	if s.wire != nil && s.wire.Write(s.wire.ctx, websocket.MessageText, one.raw) != nil {
		s.wire.end()
		s.wire = nil
	}
}

// Settle waits until the gateway has taken everything that was sent, and says what
// became of all of it since the socket was opened. With an error the count holds
// for what is known.
func (s *Socket) Settle(ctx context.Context) (Taken, error) {
	for {
		if !s.rest(ctx) {
			break
		}
		if s.fence(ctx) {
			if err := s.ask(ctx); err != nil {
				return s.result(err)
			}
			break
		}
		if !sleep(ctx, quiet/4) { // until there is a connection again
			break
		}
	}
	if ctx.Err() != nil {
		return s.result(ctx.Err())
	}
	return s.result(s.failure())
}

// rest waits until nothing waits, or nothing has come for a while. False: it is no
// use to go on.
func (s *Socket) rest(ctx context.Context) bool {
	for {
		s.mu.Lock()
		waiting, changed, err := s.waiting, s.changed, s.err
		s.mu.Unlock()
		if err != nil && !isRejected(err) {
			return false
		}
		if waiting == 0 {
			return true
		}
		t := time.NewTimer(quiet)
		select {
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return false
		case <-t.C:
			return true
		}
	}
}

func isRejected(err error) bool {
	var r *RejectedError
	return errors.As(err, &r)
}

// fence waits for two pongs. The gateway reads in order, so that it has read all that
// was sent, and the notice of an event that it rejected comes before the second.
func (s *Socket) fence(ctx context.Context) bool {
	s.writing.Lock()
	w := s.wire
	s.writing.Unlock()
	if w == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for range 2 {
		if w.Ping(ctx) != nil {
			return false
		}
	}
	return true
}

// ask publishes what did not come back over HTTPS: on a stored topic the gateway
// knows it or takes it now, and says so. On a topic that is not stored that would
// deliver it twice; there what was read and not rejected is taken.
func (s *Socket) ask(ctx context.Context) error {
	s.mu.Lock()
	var rest []*sent
	for _, one := range s.sent {
		switch {
		case one.state != waiting:
		case one.expired, s.live && !s.stored && !one.again:
			s.settle(one, returned, "", false)
		default:
			rest = append(rest, one)
		}
	}
	s.mu.Unlock()
	if len(rest) == 0 {
		return nil
	}
	raw := make([][]byte, len(rest))
	for i, one := range rest {
		raw[i] = one.raw
	}
	receipt, err := s.client.PublishJSON(ctx, string(s.topic), raw...)
	var p *schemas.Problem
	if errors.As(err, &p) && p.Index != nil && *p.Index < len(rest) {
		return &RejectedError{rest[*p.Index].index, p}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, one := range rest {
		if one.state == waiting { // it may have come back meanwhile
			s.settle(one, returned, receipt.Cursor, slices.Contains(receipt.Duplicates, i))
		}
	}
	return nil
}

// result is the count so far.
func (s *Socket) result(err error) (Taken, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, err
}

// Close ends the socket and waits for it. What is not settled may be taken or not.
func (s *Socket) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *Socket) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail keeps the first reason why nothing more is taken.
func (s *Socket) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.change()
}

// change wakes who waits. mu is held.
func (s *Socket) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

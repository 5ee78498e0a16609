package broker

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
)

// lines is the number of connections that subscriptions are delivered on. They are
// not those that publish or feed, so that deliveries hold up neither.
const lines = 2

// lineBacklog bounds the messages that wait for the dispatcher of a line. It does
// nothing but sort them, so they are few; what doesn't fit comes again as one that
// was not settled.
const lineBacklog = 1 << 16

// A line is a connection that subscriptions are delivered on. One goroutine sorts
// what comes for all subscribers on it, who have none of their own.
type line struct {
	broker   *Broker
	conn     *nats.Conn
	cut      cuts
	incoming chan *nats.Msg

	mu     sync.Mutex
	inlets map[*nats.Subscription]*inlet
	marks  map[*nats.Msg]chan struct{}
}

// An inlet is the inbox of one subscriber. NATS gives nothing to who asked from an
// inbox that is no more, so it ends with the subscriber.
type inlet struct {
	subscriber *Subscriber
	sub        *nats.Subscription
	base       string // of the inboxes, one for each pull
}

func newLine(ctx context.Context, b *Broker) (*line, error) {
	l := &line{
		broker: b, incoming: make(chan *nats.Msg, lineBacklog),
		inlets: map[*nats.Subscription]*inlet{}, marks: map[*nats.Msg]chan struct{}{},
	}
	var err error
	l.conn, err = b.connect(ctx, "outrelay deliver", l.again)
	return l, err
}

// run sorts what comes until ctx ends.
func (l *line) run(ctx context.Context) {
	for {
		select {
		case m := <-l.incoming:
			l.sort(m)
		case <-ctx.Done():
			return
		}
	}
}

func (l *line) sort(m *nats.Msg) {
	l.mu.Lock()
	if done, ok := l.marks[m]; ok {
		delete(l.marks, m)
		close(done)
		l.mu.Unlock()
		return
	}
	in := l.inlets[m.Sub]
	l.mu.Unlock()
	switch {
	case in != nil:
		in.subscriber.arrive(in, m)
	case m.Reply != "" && m.Header.Get("Status") == "": // its subscriber just left
		l.conn.Publish(m.Reply, sendNak) //nolint:errcheck // then it comes back when its ack wait is over
	}
}

// again tells all subscribers that what they asked for is lost.
func (l *line) again() {
	l.cut.tell()
	l.mu.Lock()
	inlets := make([]*inlet, 0, len(l.inlets))
	for _, in := range l.inlets {
		inlets = append(inlets, in)
	}
	l.mu.Unlock()
	for _, in := range inlets {
		in.subscriber.breakOff(in, "the connection was cut")
	}
}

// open makes an inlet.
func (l *line) open(s *Subscriber) (*inlet, error) {
	in := &inlet{subscriber: s, base: l.conn.NewInbox()}
	l.mu.Lock() // no message is sorted before the inlet is known
	defer l.mu.Unlock()
	var err error
	if in.sub, err = l.conn.ChanSubscribe(in.base+".*", l.incoming); err != nil {
		return nil, err
	}
	l.inlets[in.sub] = in
	return in, nil
}

// stop has NATS send nothing more to an inlet. What is sent on the line afterwards
// comes after that.
func (l *line) stop(in *inlet) {
	if l.conn.IsReconnecting() || in.sub.Drain() != nil {
		in.sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	}
}

// drain ends an inlet that was stopped. When it returns, what was sent to it has been
// sorted.
func (l *line) drain(ctx context.Context, in *inlet) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.inlets, in.sub)
	}()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if l.conn.FlushWithContext(ctx) != nil || l.broker.ctx.Err() != nil { // nobody sorts any more
		return
	}
	mark, done := &nats.Msg{}, make(chan struct{})
	l.mu.Lock()
	l.marks[mark] = done
	l.mu.Unlock()
	select {
	case l.incoming <- mark:
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.marks, mark)
	}
}

// confirm sends messages and waits until the last of them is answered, or each of
// them if they may go through several hands on their way (replicas). It fails at once
// when the line is cut: some may have arrived then.
func (l *line) confirm(ctx context.Context, messages []*nats.Msg) error {
	if len(messages) == 0 {
		return nil
	}
	watched, stop := l.cut.watch(ctx)
	defer stop()
	if l.broker.config.Log.Replicas > 1 && len(messages) > 1 {
		return cutError(ctx, l.confirmEach(watched, messages))
	}
	last := len(messages) - 1
	for _, m := range messages[:last] {
		if err := l.conn.PublishMsg(m); err != nil {
			return err
		}
	}
	_, err := l.conn.RequestMsgWithContext(watched, messages[last])
	return cutError(ctx, err)
}

func (l *line) confirmEach(ctx context.Context, messages []*nats.Msg) error {
	inbox := l.conn.NewInbox()
	answers := make(chan *nats.Msg, len(messages))
	sub, err := l.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	for _, m := range messages {
		m.Reply = inbox
		if err := l.conn.PublishMsg(m); err != nil {
			return err
		}
	}
	for range messages {
		select {
		case m := <-answers:
			if m.Header.Get("Status") == "503" {
				return nats.ErrNoResponders
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// What is sent to the subject at which a delivery is settled (NATS's ack protocol).
var (
	sendAck      = []byte("+ACK")
	sendNak      = []byte("-NAK")
	sendProgress = []byte("+WPI")
	sendTerm     = []byte("+TERM")
)

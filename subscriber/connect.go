package subscriber

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// readLimit is the longest message taken, in bytes: well above an event with
	// what the broker adds.
	readLimit = schemas.MaxSessionMessage
	// keepBuffer is the size in bytes up to which a stream keeps its read buffer.
	keepBuffer = 64 << 10
	// settled is how long a connection lasts that counts as a success though it
	// brought nothing.
	settled = 10 * time.Second
	// farewell is how long a Close frame may wait for its answer.
	farewell = time.Second
)

// A CloseError is why the gateway closed a stream's WebSocket.
type CloseError struct {
	// Reason is the contract's; its Word is empty where the gateway gave none of them.
	Reason schemas.CloseReason
	// Text is what the gateway said, in printable characters.
	Text string
}

// Error is the code and the gateway's words.
func (e *CloseError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the gateway closed the connection: %d %s", e.Reason.Code, e.Text))
}

// final says that the contract forbids another try: the gateway was done, or wants
// a new token and there is nobody to ask for one.
func (e *CloseError) final(token bool) bool {
	switch e.Reason.Retry {
	case schemas.RetryNever:
		return strings.HasPrefix(e.Text, e.Reason.Word) // in the gateway's own word
	case schemas.RetryToken:
		return !token
	}
	return false
}

// closed puts the end of a WebSocket into the contract's words.
func closed(err error) error {
	var c websocket.CloseError
	if !errors.As(err, &c) {
		return err
	}
	return &CloseError{schemas.ParseClose(int(c.Code), c.Reason), printable([]byte(c.Reason))}
}

// A socket is an open WebSocket of the subprotocol cloudevents.json.
type socket struct {
	*websocket.Conn
	raw     net.Conn // what the library writes to, one Write for a control frame
	ctx     context.Context
	end     context.CancelFunc
	tasks   sync.WaitGroup
	reading atomic.Bool
	buffer  []byte // of read
}

// dial opens a WebSocket on a topic filter. It has a goroutine until close.
func (c *Client) dial(ctx context.Context, filter schemas.TopicFilter, query string) (*socket, error) {
	header := http.Header{"User-Agent": {userAgent}}
	if err := c.authorize(ctx, header); err != nil {
		return nil, err
	}
	s := &socket{}
	limited, cancel := context.WithTimeout(ctx, answerTimeout+handshakeTimeout)
	defer cancel()
	limited = httptrace.WithClientTrace(limited, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { s.raw = info.Conn },
	})
	conn, _, err := websocket.Dial(limited, c.base+"/topics/"+string(filter)+"?"+query, &websocket.DialOptions{
		HTTPClient:   c.sockets,
		HTTPHeader:   header,
		Subprotocols: []string{schemas.SubprotocolCloudEvents},
	})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(readLimit)
	s.Conn = conn
	s.ctx, s.end = context.WithCancel(ctx)
	if conn.Subprotocol() != schemas.SubprotocolCloudEvents {
		s.end()
		_ = conn.CloseNow()
		return nil, fmt.Errorf("the answer names no subprotocol %q: this is no gateway, or a proxy in between speaks for it", schemas.SubprotocolCloudEvents)
	}
	s.tasks.Go(s.keep)
	return s, nil
}

// keep tells the gateway that the client is there, and closes the connection when
// its context ends. It ends then.
func (s *socket) keep() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.live()
		case <-s.ctx.Done():
			cut := time.AfterFunc(farewell, s.cut)
			_ = s.Conn.Close(websocket.StatusNormalClosure, schemas.CloseDone.Word)
			cut.Stop()
			return
		}
	}
}

// live sends a ping, whose answer is heard, or, while the program is slow and
// nobody reads, a pong, which has none: a gateway whose answer finds no room may
// take the connection for dead.
func (s *socket) live() {
	if s.reading.Load() {
		ctx, cancel := context.WithTimeout(s.ctx, pingEvery/2)
		defer cancel()
		_ = s.Ping(ctx) // silence is the business of heardConn
		return
	}
	defer time.AfterFunc(pingEvery/2, s.cut).Stop()
	pong := [6]byte{0x8A, 0x80} // RFC 6455 section 5.2: final, masked, empty
	binary.BigEndian.PutUint32(pong[2:], rand.Uint32())
	_, _ = s.raw.Write(pong[:])
}

// close ends the connection and waits for its goroutine.
func (s *socket) close() {
	s.end()
	s.tasks.Wait()
}

// cut ends the connection without a word, and wakes whoever reads.
func (s *socket) cut() {
	if t, ok := s.raw.(*tls.Conn); ok {
		t.NetConn().Close() // Close of a tls.Conn writes, and may wait for that
		return
	}
	s.raw.Close()
}

// read waits for a message. Its bytes are the caller's. No message counts once the
// socket's context has ended: those before it may have been thrown away.
func (s *socket) read() ([]byte, error) {
	s.reading.Store(true)
	defer s.reading.Store(false)
	kind, r, err := s.Reader(context.Background()) // heardConn has the deadline
	if err != nil {
		return nil, closed(err)
	}
	b := s.buffer[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, make([]byte, max(512, len(b)))...)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, closed(err)
		}
	}
	s.buffer = b
	if cap(b) > keepBuffer {
		s.buffer = nil
	}
	if s.ctx.Err() != nil {
		return nil, s.ctx.Err()
	}
	if kind != websocket.MessageText {
		return nil, errors.New("a message is binary, which this subprotocol has not")
	}
	return bytes.Clone(b), nil
}

// run connects, again and again, until the stream is to end.
func (s *Stream) run() error {
	since, later := s.state.Since, 0
	for {
		began := s.now()
		resume, err := s.connect()
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if s.now().Sub(began) >= settled {
			s.attempts = 0
		}
		if s.final(err) {
			return err
		}
		if s.State().Phase == Connected {
			since = s.now()
		}
		told, _ := passing(err)
		var c *CloseError
		if errors.As(err, &c) && c.Reason.Retry == schemas.RetryLater {
			later++
			s.attempts = max(s.attempts, later) // whatever it brought before
		} else {
			later = 0
		}
		wait := s.client.backoff.after(told, s.attempts)
		if !resume.IsZero() {
			wait = max(resume.Sub(s.now()), 0)
		}
		s.attempts++
		phase := Reconnecting
		if !s.wasOpen {
			phase = Connecting
		}
		s.tell(State{Phase: phase, Since: since, Why: err, Attempt: s.attempts, Wait: wait})
		s.client.config.Logger.LogAttrs(s.ctx, levelRetry, "connect again", attrTopic(string(s.filter)), attrErr(err), attrWait(wait))
		if !sleep(s.ctx, wait) {
			return s.ctx.Err()
		}
	}
}

// final says whether another try is in vain, or not wanted.
func (s *Stream) final(err error) bool {
	var problem *schemas.Problem
	var c *CloseError
	if errors.As(err, &c) && c.final(s.client.config.Token != nil) {
		return true
	}
	_, ok := passing(err)
	if s.wasOpen {
		// A proxy may answer 404 while the gateway starts again behind it.
		return !ok && errors.As(err, &problem)
	}
	var status *StatusError
	answered := errors.As(err, &problem) || errors.As(err, &status)
	return !ok || misconfigured(err) || s.options.FailFast && !answered
}

// connect opens the stream and reads it until the connection ends. The time, if
// any, is when a draining gateway wants to see its clients again.
func (s *Stream) connect() (resume time.Time, err error) {
	query := s.options.query()
	if s.place != "" {
		query.Set("after", s.place)
	} else if s.options.From != "" {
		query.Set("from", s.options.From)
	}
	conn, err := s.client.dial(s.ctx, s.filter, query.Encode())
	if err != nil {
		return resume, err
	}
	defer conn.close()
	// The stream stands from the answer on, but only the notice says where.
	opening := time.AfterFunc(answerTimeout, conn.cut)
	defer opening.Stop()
	var drain *time.Timer
	for first := true; ; first = false {
		raw, err := conn.read()
		if err != nil {
			switch {
			case first && !opening.Stop():
				err = fmt.Errorf("the stream did not open in %v: %w", answerTimeout, err)
			case drain != nil && conn.ctx.Err() != nil:
				err = &CloseError{schemas.CloseDrain, schemas.CloseDrain.Word}
			}
			return resume, err
		}
		d, err := parse(raw, s.topic)
		if err != nil {
			return resume, err
		}
		if first {
			opening.Stop()
			s.open()
		}
		if n := d.Notice; n != nil && n.Type == schemas.NoticeDraining && drain == nil {
			wait := s.client.backoff.drained(n.ReconnectAfter)
			resume = s.now().Add(wait)
			drain = time.AfterFunc(wait, conn.end)
			defer drain.Stop()
		}
		s.take(&d)
		select {
		case s.queue <- d:
		case <-s.ctx.Done():
			return resume, s.ctx.Err()
		}
	}
}

func (s *Stream) open() {
	s.tell(State{Phase: Connected, Since: s.now()})
	if !s.wasOpen {
		s.wasOpen = true
		close(s.opened)
	}
}

// take moves the stream's place on to a delivery.
func (s *Stream) take(d *Delivery) {
	if n := d.Notice; n != nil {
		switch n.Type {
		case schemas.NoticeOpen:
			// From "last", the place before the last events would bring others too.
			if s.place == "" && s.options.From != "last" {
				s.place = n.cursor
			}
		case schemas.NoticePosition:
			s.place = n.cursor
			s.attempts = 0
		case schemas.NoticeGap:
			if n.Gap.Reason == schemas.GapReset {
				s.order = schemas.Cursor{}
			}
		}
		return
	}
	s.attempts = 0
	s.topic = d.Topic
	if d.Cursor == "" {
		return
	}
	if c, err := schemas.ParseCursor(d.Cursor); err == nil {
		if c.Log == s.order.Log && c.Sequence <= s.order.Sequence {
			d.Repeated = true
			s.client.config.Logger.LogAttrs(s.ctx, levelFault, "the gateway broke its order", attrTopic(d.Topic))
			return
		}
		s.order = c
	}
	s.place = d.Cursor
}

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
	"net/url"
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

// A wire is an open WebSocket of a stream or a session.
type wire struct {
	*websocket.Conn
	raw     net.Conn // what the library writes to, one Write for a control frame
	writes  bool     // data frames too, of which one may be several Writes
	ctx     context.Context
	end     context.CancelFunc
	tasks   sync.WaitGroup
	reading atomic.Bool
	refused func(error) // told why the gateway closed it, which may be its token
	buffer  []byte      // of read
}

// dial opens a stream of a topic filter; writes says that messages will be sent on it.
// It has a goroutine until close.
func (c *Client) dial(ctx context.Context, filter schemas.TopicFilter, query string, writes bool) (*wire, error) {
	return c.dialWire(ctx, "/topics/"+string(filter)+"?"+query, schemas.SubprotocolCloudEvents, writes)
}

// dialWire opens a WebSocket at an address of the gateway.
func (c *Client) dialWire(ctx context.Context, address, subprotocol string, writes bool) (*wire, error) {
	header := http.Header{"User-Agent": {userAgent}}
	token, err := c.token(ctx)
	if err == nil {
		err = c.spent.check(token)
	}
	if err != nil {
		return nil, err
	}
	bear(header, token)
	s := &wire{writes: writes, refused: func(err error) { c.spent.refuse(token, err) }}
	limited, cancel := context.WithTimeout(ctx, answerTimeout+handshakeTimeout)
	defer cancel()
	limited = httptrace.WithClientTrace(limited, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { s.raw = info.Conn },
	})
	conn, _, err := websocket.Dial(limited, c.base+address, &websocket.DialOptions{
		HTTPClient:   c.sockets,
		HTTPHeader:   header,
		Subprotocols: []string{subprotocol},
	})
	if err != nil {
		err = c.plain(err)
		s.refused(err)
		return nil, err
	}
	conn.SetReadLimit(readLimit)
	s.Conn = conn
	s.ctx, s.end = context.WithCancel(ctx)
	if conn.Subprotocol() != subprotocol {
		s.end()
		_ = conn.CloseNow()
		return nil, fmt.Errorf("the answer names no subprotocol %q: this is no gateway, or a proxy in between speaks for it", subprotocol)
	}
	s.tasks.Go(s.keep)
	return s, nil
}

// plain takes the layers of the handshake, and the query with its filters, off an
// error: a refusal stands for itself, and what the network said is about the gateway.
func (c *Client) plain(err error) error {
	var problem *schemas.Problem
	var status *StatusError
	var attempt *url.Error
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &status):
		return status
	case errors.As(err, &attempt):
		return &url.Error{Op: "connect to", URL: c.base, Err: attempt.Err}
	}
	return err
}

// keep tells the gateway that the client is there, and closes the connection when
// its context ends. It ends then.
func (s *wire) keep() {
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
func (s *wire) live() {
	if s.writes || s.reading.Load() {
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
func (s *wire) close() {
	s.end()
	s.tasks.Wait()
}

// cut ends the connection without a word, and wakes whoever reads.
func (s *wire) cut() {
	if t, ok := s.raw.(*tls.Conn); ok {
		t.NetConn().Close() // Close of a tls.Conn writes, and may wait for that
		return
	}
	s.raw.Close()
}

// read waits for a message. Its bytes are the caller's. No message counts once the
// wire's context has ended: those before it may have been thrown away.
func (s *wire) read() ([]byte, error) {
	s.reading.Store(true)
	defer s.reading.Store(false)
	kind, r, err := s.Reader(context.Background()) // heardConn has the deadline
	if err != nil {
		err = closed(err)
		s.refused(err)
		return nil, err
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

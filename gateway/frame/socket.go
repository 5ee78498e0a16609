package frame

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// bufferSize is that of coder's reader and writer. A control frame, at most 127
// bytes, must fit, so that it reaches us as one Write.
const bufferSize = 512

// tlsPiece is how much is encrypted at a time: no more than one TLS record, so that
// a full socket leaves little ciphertext behind.
const tlsPiece = 16 << 10

// ErrClosed says that a Close frame was sent or the socket is gone: no data may follow.
var ErrClosed = errors.New("websocket closed")

// A Socket is a server's end of a WebSocket. Make one with [Accept].
type Socket struct {
	ws   *websocket.Conn
	conn *conn
	tls  *tls.Conn // above conn, or nil
	// Deflate says that the client takes compressed messages.
	Deflate bool
	stall   time.Duration

	mu        sync.Mutex // guards writing; taken before conn.mu
	closeSent bool
	waiting   bool       // a control frame lies behind what the full socket keeps
	flushing  sync.Mutex // held by the one who flushes; taken before mu

	// When a frame came, and when the socket took bytes, in nanoseconds since 1970.
	received, progressed atomic.Int64
	gone                 atomic.Bool
}

// Options of [Accept].
type Options struct {
	// Subprotocol is named in the answer; "" names none.
	Subprotocol string
	// Deflate offers permessage-deflate without context takeover (RFC 7692).
	Deflate bool
	// Stall is how long a write may make no progress before the socket is given up.
	Stall time.Duration
}

// Accept answers the handshake of r, which the caller has checked (version, key,
// origin, subprotocol), and takes its connection over from net/http: the handler
// should return soon after, so that net/http's memory goes. The listener must be a
// [Listener].
func Accept(w http.ResponseWriter, r *http.Request, o Options) (*Socket, error) {
	s := &Socket{stall: o.Stall}
	options := &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled}
	if o.Subprotocol != "" {
		options.Subprotocols = []string{o.Subprotocol}
	}
	if o.Deflate {
		options.CompressionMode = websocket.CompressionNoContextTakeover
	}
	now := time.Now().UnixNano()
	s.received.Store(now)
	s.progressed.Store(now)
	h := &hijacker{ResponseWriter: w, socket: s}
	ws, err := websocket.Accept(h, r, options)
	if err != nil {
		return nil, err
	}
	s.Deflate = w.Header().Get("Sec-WebSocket-Extensions") != ""
	s.ws = ws
	return s, nil
}

// A hijacker gives coder the socket in place of the connection, with small buffers.
type hijacker struct {
	http.ResponseWriter
	socket *Socket
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	s := h.socket
	under := c
	if t, ok := c.(*tls.Conn); ok {
		s.tls, under = t, t.NetConn()
	}
	own, ok := under.(*conn)
	if !ok {
		c.Close()
		return nil, nil, errors.New("frame: the connection is not one of a frame.Listener")
	}
	s.conn = own
	// What came with the handshake must come out of our Read: coder keeps only what
	// the reader that it is given holds, and then reads the connection.
	var early []byte
	if n := rw.Reader.Buffered(); n > 0 {
		peeked, err := rw.Reader.Peek(n)
		if err != nil {
			c.Close()
			return nil, nil, err
		}
		early = slices.Clone(peeked)
	}
	if err := rw.Writer.Flush(); err != nil { // the answer to the handshake
		c.Close()
		return nil, nil, err
	}
	own.detach()
	inner := &coderConn{Conn: c, socket: s, early: early}
	return inner, bufio.NewReadWriter(bufio.NewReaderSize(inner, bufferSize), bufio.NewWriterSize(inner, bufferSize)), nil
}

// coderConn is what coder/websocket reads and writes: whole control frames are all
// that it writes.
type coderConn struct {
	net.Conn
	socket *Socket
	early  []byte
}

func (c *coderConn) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		if len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.socket.received.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *coderConn) Write(b []byte) (int, error) {
	return len(b), c.socket.control(b)
}

func (c *coderConn) Close() error { return c.socket.close() }

// control sends one control frame, after the frame in progress. While the socket is
// full, at most one pong and one Close wait: a newer pong is not needed
// (RFC 6455 section 5.5.3).
func (s *Socket) control(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch full := s.fullLocked(); {
	case s.closeSent:
		return nil // nothing follows a Close frame
	case b[0]&0xF == opClose:
		s.closeSent = true
	case full && s.waiting:
		return nil
	default:
		s.waiting = full
	}
	return s.putLocked(b)
}

// putLocked writes b, and keeps what the socket refuses. mu is held.
func (s *Socket) putLocked(b []byte) error {
	if s.tls != nil {
		_, err := s.tls.Write(b)
		return err
	}
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.conn.put(b)
}

func (s *Socket) fullLocked() bool {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.conn.full()
}

// TryWrite writes joined frames as far as the socket takes them without waiting.
// ends are where each frame of b ends, counted from base. It returns how many frames
// are on their way; of the last of them the socket may keep a part. If that is not
// all of them, the socket is full: call [Socket.Flush] before the next try.
func (s *Socket) TryWrite(b []byte, ends []int, base int) (frames int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent || s.gone.Load() {
		return 0, ErrClosed
	}
	if s.tls != nil {
		return s.tryTLS(b, ends, base)
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full() {
		return 0, nil
	}
	n, err := c.try(b)
	if err != nil {
		return 0, err
	}
	if n == len(b) {
		return len(ends), nil
	}
	if n > 0 {
		s.progressed.Store(time.Now().UnixNano())
	}
	frames, whole := slices.BinarySearch(ends, n+base)
	if whole {
		return frames + 1, nil
	}
	begun := 0
	if frames > 0 {
		begun = ends[frames-1] - base
	}
	if n == begun {
		return frames, nil
	}
	c.kept = append(c.kept, b[n:ends[frames]-base]...)
	return frames + 1, nil
}

// tryTLS encrypts some frames at a time, and none while ciphertext waits. mu is held.
func (s *Socket) tryTLS(b []byte, ends []int, base int) (frames int, err error) {
	start := 0
	for frames < len(ends) {
		if s.fullLocked() {
			return frames, nil
		}
		last := frames
		for last+1 < len(ends) && ends[last+1]-base-start <= tlsPiece {
			last++
		}
		if _, err := s.tls.Write(b[start : ends[last]-base]); err != nil {
			return frames, err
		}
		start, frames = ends[last]-base, last+1
	}
	return frames, nil
}

// Full says whether the socket keeps something that it has not taken yet.
func (s *Socket) Full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fullLocked()
}

// Flush waits until the socket has taken what it keeps. It fails when that makes no
// progress for the time of Options.Stall.
func (s *Socket) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	return s.conn.flush(func() error {
		now := time.Now()
		s.progressed.Store(now.UnixNano())
		return s.conn.Conn.SetWriteDeadline(now.Add(s.stall))
	})
}

// Write writes joined frames and waits until the socket has taken them.
func (s *Socket) Write(c *Chunk) error {
	for done := 0; done < len(c.Ends); {
		b, base := c.From(done)
		n, err := s.TryWrite(b, c.Ends[done:], base)
		if err != nil {
			return err
		}
		done += n
		if err := s.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// WriteText writes one message and waits until the socket has taken it.
func (s *Socket) WriteText(payload ...[]byte) error {
	var c Chunk
	c.Text(payload...)
	return s.Write(&c)
}

// Read returns a reader of the next message; its end is the message's. It answers
// pings and Close frames meanwhile. The error of a Close is coder's
// [websocket.CloseError].
func (s *Socket) Read(ctx context.Context) (websocket.MessageType, io.Reader, error) {
	return s.ws.Reader(ctx)
}

// SetReadLimit bounds a message in bytes, -1 for no bound.
func (s *Socket) SetReadLimit(n int64) { s.ws.SetReadLimit(n) }

// ping is the frame with which an idle socket is asked whether it lives.
var ping = appendHeader(nil, final|opPing, 0)

// Ping sends a ping, unless the socket is full: then bytes are on their way anyway.
func (s *Socket) Ping() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent || s.fullLocked() {
		return nil
	}
	return s.putLocked(ping)
}

// Received is when bytes last came.
func (s *Socket) Received() time.Time { return time.Unix(0, s.received.Load()) }

// Alive is when bytes last came, or the full socket last took some.
func (s *Socket) Alive() time.Time {
	return time.Unix(0, max(s.received.Load(), s.progressed.Load()))
}

// CloseFrame sends a Close frame and gives the peer until then to answer; the reader
// ends by then. It does not wait.
func (s *Socket) CloseFrame(code websocket.StatusCode, reason string, until time.Time) {
	s.mu.Lock()
	if !s.closeSent {
		s.closeSent = true
		if s.putLocked(appendClose(nil, uint16(code), reason)) != nil {
			s.gone.Store(true)
		}
	}
	s.mu.Unlock()
	s.conn.Conn.SetDeadline(until) //nolint:errcheck // a closed connection needs none
}

// Closing says whether a Close frame was sent.
func (s *Socket) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeSent
}

// Close ends the connection at once, without a Close frame.
func (s *Socket) Close() error { return s.close() }

func (s *Socket) close() error {
	if s.gone.Swap(true) {
		return nil
	}
	return s.conn.Conn.Close() // TLS's goodbye could wait on a full socket
}

package frame

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// writeBuffer is the size of coder's buffer: it must hold a control frame, at most 127
// bytes, and twice that, so that it reaches us as one Write.
const writeBuffer = 256

// tlsPiece is how much is encrypted at a time: no more than one TLS record, so that
// a full socket leaves little ciphertext behind.
const tlsPiece = 16 << 10

// ErrClosed says that a Close frame was sent or the socket is gone: no data may follow.
var ErrClosed = errors.New("websocket closed")

// ErrSilent says that the client gave no sign of life for two intervals.
var ErrSilent = errors.New("silent")

// A Socket is a server's end of a WebSocket. Make one with [Accept].
type Socket struct {
	ws   *websocket.Conn
	conn *conn
	tls  *tls.Conn // above conn, or nil

	interval time.Duration

	flushing sync.Mutex // held by the one who flushes; taken before mu
	gone     atomic.Bool

	reading reading // owned by the reader
	limit   int     // of a message in bytes

	mu        sync.Mutex // guards what follows, and writing; taken before conn.mu
	closeSent bool
	waiting   bool      // a pong lies behind what the full socket keeps
	closeBy   time.Time // when the connection ends whatever happens; zero while it is open
	alive     time.Time // when a frame was received, or a backlog was seen to shrink
	acked     uint64    // by the client's TCP, at the last look
	controls  int       // control frames written since then
}

// ackedPerControl is more than a control frame takes on the wire, TLS included:
// what goes beyond was data.
const ackedPerControl = 192

// Options of [Accept].
type Options struct {
	// Subprotocol is named in the answer; "" names none.
	Subprotocol string
	// Deflate offers permessage-deflate without context takeover (RFC 7692).
	Deflate bool
	// Interval is that of pings. A client that for two of them sends no frame and
	// whose TCP takes no data is silent: reads and writes fail with [ErrSilent].
	Interval time.Duration
	// Memory bounds what is read ahead; nil sets no bound.
	Memory Memory
}

// Accept answers the handshake of r, which the caller has checked (version, key,
// origin, subprotocol), and takes its connection over from net/http: the handler
// should return soon after, so that net/http's memory goes. The listener must be a
// [Listener].
func Accept(w http.ResponseWriter, r *http.Request, o Options) (*Socket, error) {
	s := &Socket{interval: o.Interval, alive: time.Now(), limit: math.MaxInt, reading: reading{memory: o.Memory}}
	options := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin has been checked
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     func(context.Context, []byte) bool { s.live(); return true },
		OnPongReceived:     func(context.Context, []byte) { s.live() },
	}
	if o.Subprotocol != "" {
		options.Subprotocols = []string{o.Subprotocol}
	}
	if o.Deflate {
		options.CompressionMode = websocket.CompressionNoContextTakeover
	}
	h := &hijacker{ResponseWriter: w, socket: s}
	ws, err := websocket.Accept(h, r, options)
	if err != nil {
		return nil, err
	}
	s.ws = ws
	s.conn.attach(s, w.Header().Get("Sec-WebSocket-Extensions") != "")
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
	if n := rw.Reader.Buffered(); n > 0 {
		peeked, err := rw.Reader.Peek(n)
		if err != nil {
			c.Close()
			return nil, nil, err
		}
		s.reading.in = slices.Clone(peeked)
	}
	if err := rw.Writer.Flush(); err != nil { // the answer to the handshake
		c.Close()
		return nil, nil, err
	}
	own.detach()
	s.reading.from = c
	inner := &coderConn{Conn: c, socket: s}
	return inner, bufio.NewReadWriter(bufio.NewReaderSize(inner, coderBuffer), bufio.NewWriterSize(inner, writeBuffer)), nil
}

// coderConn is what coder/websocket reads and writes: whole control frames are all
// that it writes.
type coderConn struct {
	net.Conn
	socket *Socket
}

func (c *coderConn) Read(b []byte) (int, error) { return c.socket.read(b) }

func (c *coderConn) Write(b []byte) (int, error) { return len(b), c.socket.control(b) }

// Close does nothing: the socket's owner closes, after its Close frame was read.
func (c *coderConn) Close() error { return nil }

// silent says whether the client gave no sign of life for two intervals. That its
// TCP has taken more than control frames is one; that the kernel accepted a write
// shows nothing. mu is held.
func (s *Socket) silent(now time.Time) bool {
	if now.Before(s.alive.Add(s.interval)) {
		return false // it will be asked again before it counts as silent
	}
	if acked, ok := s.conn.acked(); ok {
		if acked > s.acked+uint64(s.controls)*ackedPerControl {
			s.alive = now
		}
		s.acked, s.controls = acked, 0
	}
	return !now.Before(s.alive.Add(2 * s.interval))
}

// control sends one control frame, after the frame in progress. While the socket is
// full, one pong waits; a newer one is not needed (RFC 6455 section 5.5.3). A Close
// frame of coder's making is left out: the socket's owner sends its own.
func (s *Socket) control(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.fullLocked()
	if s.closeSent || b[0]&0xF == opClose || full && s.waiting {
		return nil
	}
	s.waiting = full
	s.controls++
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
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.conn.tryFrames(b, ends, base)
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

// Flush waits until the socket has taken what it keeps. It fails when the client is
// silent.
func (s *Socket) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	if s.gone.Load() {
		return ErrClosed
	}
	return s.conn.flush(func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		deadline := time.Now().Add(s.interval)
		if !s.closeBy.IsZero() && s.closeBy.Before(deadline) {
			deadline = s.closeBy
		}
		return deadline
	}, func() bool {
		now := time.Now()
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.silent(now) && (s.closeBy.IsZero() || now.Before(s.closeBy))
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

// ping is the frame with which an idle socket is asked whether it lives.
var ping = appendHeader(nil, final|opPing, 0)

// Ping sends a ping, unless the socket is full: then bytes are on their way anyway.
func (s *Socket) Ping() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent || s.fullLocked() {
		return nil
	}
	s.controls++
	return s.putLocked(ping)
}

// Goodbye sends a Close frame, after what the socket keeps, and sets when the
// connection ends whatever happens. It does not wait: the reader ends with the
// client's own Close frame, or then. Code 0 sends a Close frame without a code.
func (s *Socket) Goodbye(code int, reason string, by time.Time) error {
	s.mu.Lock()
	s.closeBy = by
	var err error
	if !s.closeSent {
		s.closeSent = true
		s.conn.shut()
		err = s.putLocked(appendClose(nil, code, reason))
	}
	s.mu.Unlock()
	s.conn.Conn.SetDeadline(by) //nolint:errcheck // a closed connection needs none
	return err
}

// Closing says whether a Close frame was sent.
func (s *Socket) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeSent
}

// CloseWrite tells the client's TCP that nothing more comes, so that what it still
// sends does not reset the connection before it has read the Close frame. Discard
// what it sends until then.
func (s *Socket) CloseWrite() {
	s.conn.CloseWrite() //nolint:errcheck // the connection ends anyway
}

// Discard reads and forgets up to n bytes, or until the connection ends.
func (s *Socket) Discard(n int64) {
	io.CopyN(io.Discard, s.conn.Conn, n) //nolint:errcheck // it ends anyway
}

// Close ends the connection at once, without a Close frame. It may be called more
// than once. What coder/websocket holds is freed by Release.
func (s *Socket) Close() error {
	if s.gone.Swap(true) {
		return nil
	}
	return s.conn.Close() // TLS's goodbye could wait on a full socket
}

// Release frees what coder/websocket and the reader hold, once the reader has ended.
func (s *Socket) Release() {
	s.reading.in = nil
	s.reading.rest()
	s.ws.CloseNow() //nolint:errcheck // the connection is closed
}

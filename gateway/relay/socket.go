package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/outrelay/outrelay/schemas"
)

// A socket is our end of a WebSocket on which the relay itself speaks: a control
// channel, or the rendezvous of an HTTP request. One goroutine reads; any may write.
type socket struct {
	conn     net.Conn
	in       *bufio.Reader // what came with the handshake, then conn
	patience time.Duration // for the peer to take a write

	// Owned by the reader.
	silence  time.Duration // for the peer to send something
	sequence sequence

	stopped atomic.Bool // reading has been interrupted

	mu     sync.Mutex // of writing
	closed bool       // a Close frame was sent; guarded by mu
}

// A closeError says that the peer closed.
type closeError struct {
	code   int // 0: the Close frame had none
	reason string
}

func (e closeError) Error() string { return fmt.Sprintf("closed by the peer with %d", e.code) }

// newSocket speaks on a connection whose handshake is done.
func newSocket(c hijacked, buffer int, patience time.Duration) *socket {
	return &socket{conn: c.conn, in: bufio.NewReaderSize(c.reader(), buffer), patience: patience, silence: patience}
}

// await sets the deadline of the next read.
func (s *socket) await() {
	s.conn.SetReadDeadline(time.Now().Add(s.silence)) //nolint:errcheck // the read will say it
	if s.stopped.Load() {
		s.conn.SetReadDeadline(longAgo) //nolint:errcheck // the read will say it
	}
}

// interrupt makes the reader's present read and all others fail with a timeout. Any
// goroutine may call it.
func (s *socket) interrupt() {
	s.stopped.Store(true)
	s.conn.SetReadDeadline(longAgo) //nolint:errcheck // the connection ends anyway
}

// longAgo is a deadline that is over.
var longAgo = time.Unix(1, 0)

// next reads up to the next data frame's payload. It answers pings, and returns a
// [closeError] for a Close frame.
func (s *socket) next() (frameHeader, error) {
	for {
		s.await()
		h, err := s.header()
		if err != nil {
			return h, err
		}
		if err := s.sequence.next(h); err != nil || !h.masked || h.first&bitsRSV != 0 {
			return h, errFrame
		}
		if !h.control() {
			return h, nil
		}
		var payload [maxControl]byte
		p := payload[:h.length]
		if _, err := io.ReadFull(s.in, p); err != nil {
			return h, err
		}
		unmask(p, 0, 0, len(p), h.key)
		switch h.opcode() {
		case opPing:
			if err := s.write(bitFinal|opPong, p); err != nil {
				return h, err
			}
		case opClose:
			return h, parseClose(p)
		}
	}
}

func (s *socket) header() (frameHeader, error) {
	for n := 2; ; {
		b, err := s.in.Peek(n)
		if err != nil {
			return frameHeader{}, err
		}
		h, size, err := parseHeader(b)
		switch {
		case err != nil:
			return h, err
		case size > 0:
			s.in.Discard(size) //nolint:errcheck // it was peeked at
			return h, nil
		}
		n = len(b) + 2 // every length of a header is even
	}
}

// parseClose reads the payload of a Close frame.
func parseClose(p []byte) error {
	switch {
	case len(p) == 0:
		return closeError{}
	case len(p) == 1 || !utf8.Valid(p[2:]):
		return errFrame
	}
	return closeError{int(binary.BigEndian.Uint16(p)), string(p[2:])}
}

// A message is one that is being read. Its Read returns what has come, and [io.EOF]
// at the message's end, however many frames it takes.
type message struct {
	socket *socket
	kind   byte // opText or opBinary
	frame  frameHeader
	left   uint64 // bytes of the frame still to read
	whole  bool   // the message is this one frame, so that its length is known
	paused func() // called before a wait for the next bytes; may be nil
}

// message waits for the next message. The one before must have been read to its end.
func (s *socket) message() (*message, error) {
	h, err := s.next()
	if err != nil {
		return nil, err
	}
	return &message{socket: s, kind: h.opcode(), frame: h, left: h.length, whole: h.final()}, nil
}

func (m *message) Read(b []byte) (int, error) {
	for m.left == 0 {
		if m.frame.final() {
			return 0, io.EOF
		}
		if m.paused != nil && m.socket.in.Buffered() == 0 {
			m.paused()
		}
		h, err := m.socket.next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the message has not ended
		}
		if err != nil {
			return 0, err
		}
		m.frame, m.left = h, h.length
	}
	if uint64(len(b)) > m.left {
		b = b[:m.left]
	}
	if m.socket.in.Buffered() == 0 {
		if m.paused != nil {
			m.paused()
		}
		m.socket.await()
	}
	n, err := m.socket.in.Read(b)
	m.frame.key = unmask(b, 0, 0, n, m.frame.key)
	m.left -= uint64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// errLong says that a message is longer than it may be.
var errLong = errors.New("the message is too long")

// all reads the whole message, at most limit bytes.
func (m *message) all(limit int) ([]byte, error) {
	if m.left > uint64(limit) {
		return nil, errLong
	}
	first := 512
	if m.frame.final() {
		first = int(m.left) + 1
	}
	b := make([]byte, 0, min(first, 16<<10))
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := m.Read(b[len(b):cap(b)])
		if b = b[:len(b)+n]; len(b) > limit {
			return nil, errLong
		}
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// skip reads the rest of the message and forgets it.
func (m *message) skip() error {
	_, err := io.Copy(io.Discard, m)
	return err
}

// errClosed says that a Close frame was sent: nothing may follow.
var errClosed = errors.New("websocket closed")

// write sends one frame.
func (s *socket) write(first byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return s.put(appendFrame(make([]byte, 0, 10+len(payload)), first, payload))
}

// send sends frames that were joined, with nothing in between.
func (s *socket) send(frames []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return s.put(frames)
}

// put writes, mu being held.
func (s *socket) put(b []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(s.patience)) //nolint:errcheck // the write will say it
	_, err := s.conn.Write(b)
	return err
}

func appendFrame(dst []byte, first byte, payload []byte) []byte {
	return append(appendHeader(dst, first, uint64(len(payload))), payload...)
}

// goodbye sends a Close frame, unless one was sent. Code 0 is none. It waits no longer
// than a peer has to answer.
func (s *socket) goodbye(code int, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.conn.SetWriteDeadline(time.Now().Add(min(s.patience, closeWait))) //nolint:errcheck // the write will say it
	_, err := s.conn.Write(closeFrame(code, reason))
	return err
}

// closeFrame is a Close frame of ours.
func closeFrame(code int, reason string) []byte {
	if code == 0 {
		return []byte{bitFinal | opClose, 0}
	}
	payload := binary.BigEndian.AppendUint16(make([]byte, 0, maxControl), uint16(code))
	payload = append(payload, schemas.CloseReason{Word: reason}.Text("")...)
	return appendFrame(nil, bitFinal|opClose, payload[:min(len(payload), maxControl)])
}

// closeWait is how long a peer has to answer our Close frame, and to read it.
const closeWait = 5 * time.Second

// maxDiscard is how much a peer may still send that was told to stop.
const maxDiscard = 16 << 20

// end closes the connection after a Close frame was sent: it lets the peer read it.
func (s *socket) end() { linger(s.conn, closeWait) }

// linger ends our side of a connection, waits until the peer has ended its own, and
// closes. Closing at once would reset the connection, and with it what the peer has
// not read yet.
func linger(c net.Conn, wait time.Duration) {
	defer c.Close()
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		c.SetWriteDeadline(time.Now().Add(wait)) //nolint:errcheck // the connection ends anyway
		if half.CloseWrite() != nil {
			return
		}
		c.SetReadDeadline(time.Now().Add(wait)) //nolint:errcheck // the connection ends anyway
		io.CopyN(io.Discard, c, maxDiscard)     //nolint:errcheck // it ends anyway
	}
}

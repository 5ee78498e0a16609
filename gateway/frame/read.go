package frame

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// coderBuffer is the size of coder's read buffer, the least that bufio makes. What is
// read ahead lies with us, so that coder never holds a part of the next frame.
const coderBuffer = 16

// readBuffer is how much lies in a socket's own buffer: a small message or two.
const readBuffer = 512

// readAhead is how much is read at a time where there is more, and the longest frame that
// [Socket.Next] returns.
const readAhead = 32 << 10

var readAheads = sync.Pool{New: func() any { return new([readAhead]byte) }}

// Memory bounds what sockets read ahead. Its methods may be called from any goroutine.
type Memory interface {
	// Take asks for n bytes; they are not to be used if it is false.
	Take(n int) bool
	// Give gives them back.
	Give(n int)
}

// A reading is what a socket has read and nobody has taken yet. It belongs to the
// reader.
type reading struct {
	from     net.Conn // the connection, TLS included
	memory   Memory   // nil sets no bound
	in       []byte   // not taken yet
	small    []byte
	ahead    *[readAhead]byte // in place of small while a frame begun is longer than that, or more waits
	busy     bool             // the last read filled its buffer: more is waiting
	signed   bool             // a sign of life was noted since the last read
	frame    uint64           // bytes of the frame in which coder is
	by       time.Time        // when the message being read must be here; zero between messages
	broken   error            // of the connection, not of what came over it
	directly directly
}

// Next waits for the next frame. If that is a text message of its own, short and not
// compressed, it is returned, its mask taken off: it is valid until the next call of
// Next or Read. If it is anything else, whole is false, and Read has it. timeout is for
// a frame that has begun.
//
// The error is the connection's.
func (s *Socket) Next(timeout time.Duration) (message []byte, whole bool, err error) {
	r := &s.reading
	for {
		header, length, known := clientFrame(r.in)
		switch {
		case !known:
		case r.in[0] != final|opText || r.in[1]&masked == 0 || length > uint64(min(readAhead-header, s.limit)):
			return nil, false, nil
		case len(r.in)-header >= int(length):
			message = r.in[header : header+int(length)]
			unmask(message, r.in[header-4:header])
			r.in, r.by = r.in[header+int(length):], time.Time{}
			if !r.signed { // once for all that came together
				s.Sign()
			}
			return message, true, nil
		case r.by.IsZero():
			r.by = time.Now().Add(timeout)
		}
		if known && !s.room(header+int(length)) {
			return nil, false, nil
		}
		if err := s.fill(); err != nil {
			return nil, false, err
		}
	}
}

// Ready says whether Next would return a message without waiting.
func (s *Socket) Ready() bool {
	in := s.reading.in
	header, length, known := clientFrame(in)
	return known && in[0] == final|opText && in[1]&masked != 0 && uint64(len(in)-header) >= length
}

// room sees to it that a frame of n bytes, the next, fits into the buffer; false if
// there is no memory for it.
func (s *Socket) room(n int) bool {
	r := &s.reading
	if r.ahead != nil || n <= readBuffer && !r.busy {
		return true
	}
	if r.ahead = r.large(); r.ahead == nil {
		return n <= readBuffer
	}
	r.in = r.ahead[:copy(r.ahead[:], r.in)]
	return true
}

// own is the socket's small buffer.
func (r *reading) own() []byte {
	if r.small == nil {
		r.small = make([]byte, readBuffer)
	}
	return r.small
}

// large takes a large buffer, which is not the socket's yet; nil if there is no memory for
// it.
func (r *reading) large() *[readAhead]byte {
	if r.memory != nil && !r.memory.Take(readAhead) {
		return nil
	}
	return readAheads.Get().(*[readAhead]byte)
}

// rest gives the large buffer back once it is empty, so that nothing is held while the
// socket waits.
func (r *reading) rest() {
	if r.ahead == nil || len(r.in) > 0 {
		return
	}
	r.unused(r.ahead)
	r.ahead = nil
}

// unused gives a large buffer back, if it is one.
func (r *reading) unused(large *[readAhead]byte) {
	if large == nil {
		return
	}
	readAheads.Put(large)
	if r.memory != nil {
		r.memory.Give(readAhead)
	}
}

// fill reads more behind what has not been taken, of which the buffer has more to hold.
func (s *Socket) fill() error {
	r := &s.reading
	r.rest()
	if direct && r.ahead == nil && s.tls == nil {
		_, err := s.readSocket(nil)
		return err
	}
	var buf []byte
	if r.ahead != nil {
		buf = r.ahead[:]
	} else {
		buf = r.own()
	}
	kept := copy(buf, r.in)
	n, err := s.readSocket(buf[kept:])
	r.in = buf[:kept+n]
	r.busy = kept+n == len(buf)
	return err
}

// read is coder's. It goes to the end of a frame at most.
func (s *Socket) read(b []byte) (int, error) {
	r := &s.reading
	for r.frame == 0 {
		header, length, known := clientFrame(r.in)
		if known {
			r.frame = uint64(header) + min(length, math.MaxInt64)
		} else if err := s.fill(); err != nil {
			return 0, err
		}
	}
	b = b[:min(uint64(len(b)), r.frame)]
	n := len(r.in)
	switch {
	case n > 0:
		n = copy(b, r.in)
		r.in = r.in[n:]
	case len(b) >= readBuffer:
		r.rest()
		var err error
		if n, err = s.readSocket(b); err != nil {
			return 0, err
		}
	default:
		if err := s.fill(); err != nil {
			return 0, err
		}
		n = copy(b, r.in)
		r.in = r.in[n:]
	}
	r.frame -= uint64(n)
	return n, nil
}

// readSocket reads from the connection itself, into a buffer that it finds if b is nil. Its
// deadline is the message's, or between messages that of silence.
func (s *Socket) readSocket(b []byte) (int, error) {
	r := &s.reading
	for {
		deadline, ok := s.readDeadline()
		if !ok {
			r.broken = ErrSilent
			return 0, ErrSilent
		}
		r.from.SetReadDeadline(deadline) //nolint:errcheck // the read will say it
		var n int
		var err error
		if b == nil {
			n, err = s.readAll()
		} else {
			n, err = r.from.Read(b)
		}
		if n > 0 || err == nil {
			r.signed = false
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !r.by.IsZero() || s.Closing() {
			r.broken = err
			return 0, err
		}
	}
}

// readDeadline is until when a read may wait, false if the client is silent.
func (s *Socket) readDeadline() (time.Time, bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := s.reading.by
	if deadline.IsZero() {
		if s.silent(now) {
			return deadline, false
		}
		deadline = now.Add(s.interval)
		if last := s.alive.Add(2 * s.interval); last.Before(deadline) {
			deadline = last
		}
	}
	if !s.closeBy.IsZero() && s.closeBy.Before(deadline) {
		deadline = s.closeBy
	}
	return deadline, true
}

// Sign notes a sign of life: a frame was received.
func (s *Socket) Sign() {
	s.reading.signed = true
	s.live()
}

// live is Sign for whoever is not the reader.
func (s *Socket) live() {
	s.mu.Lock()
	s.alive = time.Now()
	s.mu.Unlock()
}

// Expect says by when the rest of the message that is being read must be here; the
// zero time stands between messages. It belongs to the reader.
func (s *Socket) Expect(by time.Time) { s.reading.by = by }

// Broken is the error of the connection, after Next, Read or its reader failed; nil if
// what came over it was wrong. It belongs to the reader.
func (s *Socket) Broken() error { return s.reading.broken }

// Read returns a reader of the next message; its end is the message's. It answers
// pings and Close frames meanwhile. The error of a Close is coder's
// [websocket.CloseError].
func (s *Socket) Read(ctx context.Context) (websocket.MessageType, io.Reader, error) {
	return s.ws.Reader(ctx)
}

// SetReadLimit bounds a message in bytes, -1 for no bound. It belongs to the reader.
func (s *Socket) SetReadLimit(n int64) {
	s.ws.SetReadLimit(n)
	s.limit = math.MaxInt
	if n >= 0 {
		s.limit = int(n)
	}
}

// clientFrame reads the header of a client's frame (RFC 6455 section 5.2): its length,
// mask included, and that of the payload. It is not known until b holds the header. What
// is wrong with a header is coder's to find.
func clientFrame(b []byte) (header int, length uint64, known bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	header, length = 2, uint64(b[1]&^masked)
	switch length {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	start := header
	if b[1]&masked != 0 {
		header += 4
	}
	if len(b) < header {
		return 0, 0, false
	}
	switch start {
	case 4:
		length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 10:
		length = binary.BigEndian.Uint64(b[2:])
	}
	return header, length, true
}

// unmask takes a mask off in place (RFC 6455 section 5.3).
func unmask(b, key []byte) {
	half := uint64(binary.LittleEndian.Uint32(key))
	word := half<<32 | half
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}

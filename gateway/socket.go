package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// Opcodes, with the bit that says that the frame is the message's last (RFC 6455
// section 5.2). A frame of a server has no mask.
const (
	frameText  = 0x81
	frameClose = 0x88
	framePing  = 0x89
	framePong  = 0x8A
)

// appendFrame appends a frame's header and payload.
func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, opcode, byte(n))
	case n < 1<<16:
		dst = append(dst, opcode, 126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, opcode, 127), uint64(n))
	}
	return append(dst, payload...)
}

// A socket is one WebSocket. coder/websocket does its handshake and reads, so it
// judges frames and puts messages together; all that is written, the socket's
// owner writes, through [socket.write] and [socket.close], from one goroutine.
// What coder/websocket wants to write itself never gets onto the wire: a pong waits
// for the owner, and a close frame is left to the owner's own.
//
// One goroutine reads, one writes.
type socket struct {
	// Fixed by upgrade.
	raw      net.Conn
	ws       *websocket.Conn
	bodies   *budget
	interval time.Duration // between pings; two without a sign of life are too much
	message  time.Duration // for one message to arrive
	ring     func()        // tells the owner that a pong waits

	// Owned by the reader.
	early     []byte    // came with the handshake
	messageBy time.Time // when the message being read must be here; zero between messages
	broken    error     // of the connection, not of what came over it
	answered  bool      // the client has sent its Close frame

	mu       sync.Mutex
	pong     []byte    // to be sent; nil if none. The last ping's, which is enough (RFC 6455 section 5.5.3)
	alive    time.Time // when a frame was received, or a backlog was seen to shrink
	progress progress
	writing  bool
	closeBy  time.Time // when the connection ends whatever happens; zero while it is open
}

// progress is how far the client has taken what was written, as of the last look.
type progress struct {
	acked  uint64 // by the client's TCP
	frames int    // of control, written since
}

// ackedPerControl is more than a control frame takes on the wire, TLS included:
// what goes beyond was events.
const ackedPerControl = 192

// longWrite is how long a write takes that did not just fill the kernel's buffer.
const longWrite = time.Second

// closeWait is how long a client has to answer a Close frame, and to read it.
const closeWait = 5 * time.Second

var errSilent = errors.New("silent")

// upgrade completes a WebSocket handshake that has been checked. The protocol, ""
// for none, is named in the answer. After an error the answer has been written.
func (c *call) upgrade(protocol string, ring func()) (*socket, error) {
	l := c.gateway.config.Limits
	s := &socket{
		bodies: &c.gateway.bodies, interval: l.PingInterval, message: l.BodyTimeout,
		ring: ring, alive: time.Now(),
	}
	h := c.w.Header()
	for _, name := range []string{"Cache-Control", "X-Content-Type-Options", "Vary"} {
		h.Del(name)
	}
	if protocol != "" {
		h.Set("Sec-WebSocket-Protocol", protocol)
	}
	c.answered = true
	var err error
	s.ws, err = websocket.Accept(&hijacker{c.w, s}, c.r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin has been checked
		OnPingReceived: func(_ context.Context, payload []byte) bool {
			s.sign()
			s.mu.Lock()
			s.pong = append([]byte{}, payload...)
			s.mu.Unlock()
			s.ring()
			return false
		},
		OnPongReceived: func(context.Context, []byte) { s.sign() },
	})
	if err != nil {
		return nil, err
	}
	s.ws.SetReadLimit(schemas.MaxStreamMessage)
	s.progress.frames = 4 // for the handshake's answer, which may not be acknowledged yet
	s.progress.acked, _ = ackedBytes(s.raw)
	return s, nil
}

// A hijacker gives coder/websocket the socket in place of the connection.
type hijacker struct {
	http.ResponseWriter
	socket *socket
}

// Buffers of coder/websocket: frame headers and control frames go through them.
const socketBuffer = 512

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.socket.raw = raw
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	h.socket.early = bytes.Clone(early)
	side := &side{Conn: raw, socket: h.socket}
	return side, bufio.NewReadWriter(bufio.NewReaderSize(side, socketBuffer), bufio.NewWriterSize(side, socketBuffer)), nil
}

// A side is the connection as coder/websocket sees it.
type side struct {
	net.Conn
	socket *socket
}

func (s *side) Read(p []byte) (int, error) { return s.socket.readRaw(p) }

// Write and Close do nothing: see [socket].
func (s *side) Write(p []byte) (int, error) { return len(p), nil }
func (s *side) Close() error                { return nil }

// sign notes that a frame was received. It buys a write that waits more time.
func (s *socket) sign() {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive = now
	if s.writing {
		s.raw.SetWriteDeadline(s.bounded(now.Add(2 * s.interval)))
	}
}

// bounded is t, but not after closeBy. The lock is held.
func (s *socket) bounded(t time.Time) time.Time { return earlier(t, s.closeBy) }

// readRaw reads from the connection. Its deadline is the message's, or between
// messages that of silence.
func (s *socket) readRaw(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	for {
		if !s.setReadDeadline(time.Now()) {
			s.broken = errSilent
			return 0, errSilent
		}
		n, err := s.raw.Read(p)
		if n > 0 || err == nil {
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !s.messageBy.IsZero() || s.closing() {
			s.broken = err
			return 0, err
		}
	}
}

func (s *socket) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closeBy.IsZero()
}

// setReadDeadline returns false if the client has been silent for too long.
func (s *socket) setReadDeadline(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := s.messageBy
	if deadline.IsZero() {
		s.look(now)
		if !now.Before(s.alive.Add(2 * s.interval)) {
			return false
		}
		deadline = earlier(now.Add(s.interval), s.alive.Add(2*s.interval))
	}
	s.raw.SetReadDeadline(s.bounded(deadline))
	return true
}

// look counts it as a sign of life if the client's TCP has taken more than control
// frames. A write that the kernel accepts shows nothing: the client may be gone. The
// lock is held.
func (s *socket) look(now time.Time) {
	if now.Before(s.alive.Add(s.interval)) {
		return // it will be asked again before it counts as silent
	}
	acked, ok := ackedBytes(s.raw)
	if !ok {
		return
	}
	if acked > s.progress.acked+uint64(s.progress.frames)*ackedPerControl {
		s.alive = now
	}
	s.progress = progress{acked: acked}
}

// read returns the next text message. release, which the caller owes, gives its
// memory back. The ending is for the flow, nil for a message.
func (s *socket) read() (message []byte, release func(), end *ending) {
	release = func() {}
	kind, r, err := s.ws.Reader(context.Background())
	if err != nil {
		return nil, release, s.judge(err)
	}
	s.sign()
	if kind != websocket.MessageText {
		return nil, release, &ending{schemas.CloseFrameKind, "only text messages are taken"}
	}
	s.messageBy = time.Now().Add(s.message)
	message, release, err = s.bodies.readAll(r)
	s.messageBy = time.Time{}
	s.sign()
	switch {
	case errors.Is(err, errBudget):
		return nil, release, &ending{schemas.CloseQuota, "the gateway has its hands full with messages"}
	case err != nil:
		return nil, release, s.judge(err)
	case !utf8.Valid(message):
		return nil, release, &ending{schemas.CloseNotUTF8, "a text message was not UTF-8"}
	}
	return message, release, nil
}

// judge says what an error of coder/websocket means for the stream.
func (s *socket) judge(err error) *ending {
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed):
		s.answered = true
		reason := closedByClient
		reason.Code = int(closed.Code) // which the answer repeats
		return &ending{reason: reason}
	case errors.Is(s.broken, errSilent):
		return &ending{reason: schemas.CloseSilent}
	case s.broken != nil:
		return &ending{reason: connectionLost}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return &ending{schemas.CloseTooBig, "a message was longer than 2 MiB"}
	}
	return &ending{closeProtocol, "a frame broke the WebSocket protocol"}
}

// closeProtocol is for frames that RFC 6455 does not allow.
var closeProtocol = schemas.CloseReason{Word: "protocol", Code: 1002, Retry: schemas.RetryLater}

// takePong returns the payload of the pong that waits to be sent, if one does.
func (s *socket) takePong() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pong := s.pong
	s.pong = nil
	if pong != nil {
		s.progress.frames++
	}
	return pong, pong != nil
}

// wrotePing notes that a ping is on its way.
func (s *socket) wrotePing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress.frames++
}

// write writes frames. It blocks as long as the client shows a sign of life: takes
// a piece of them, or sends a frame.
func (s *socket) write(frames []byte) error {
	for len(frames) > 0 {
		n := min(len(frames), maxWrite)
		s.mu.Lock()
		s.writing = true
		began := time.Now()
		s.raw.SetWriteDeadline(s.bounded(began.Add(2 * s.interval)))
		s.mu.Unlock()
		_, err := s.raw.Write(frames[:n])
		s.mu.Lock()
		s.writing = false
		if now := time.Now(); err == nil && now.Sub(began) > longWrite {
			s.alive = now // it waited for the client to take what lay before it
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// close ends the WebSocket: it sends the Close frame unless the connection is lost,
// lets the client answer or at least read it, and closes the connection. read is
// closed when the reader has ended, which close brings about. Nothing may be written
// after it.
func (s *socket) close(end ending, read <-chan struct{}) {
	defer func() {
		s.raw.Close()
		<-read
		s.ws.CloseNow() // lets go of its memory; the connection is closed
	}()
	if end.reason == connectionLost {
		return
	}
	s.mu.Lock()
	s.closeBy = time.Now().Add(closeWait)
	s.raw.SetDeadline(s.closeBy)
	s.mu.Unlock()
	var payload []byte
	if code := end.reason.Code; code != int(websocket.StatusNoStatusRcvd) {
		payload = binary.BigEndian.AppendUint16(nil, uint16(code))
		if end.reason.Word != closedByClient.Word {
			payload = append(payload, end.reason.Text(end.detail)...)
		}
	}
	if s.write(appendFrame(nil, frameClose, payload)) != nil {
		return
	}
	<-read // by the client's Close frame, by what else ended the reader, or at closeBy
	if s.answered {
		return // the server closes first (RFC 6455 section 7.1.1)
	}
	// The reader gave up in the middle of something. Closing now would reset the
	// connection, and with it the Close frame that the client has not read yet.
	if c, ok := s.raw.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	discard(s.raw)
}

// maxDiscard is how much a client may still send that has been told to stop.
const maxDiscard = 16 << 20

func discard(c net.Conn) {
	b := make([]byte, 4<<10)
	for n := 0; n < maxDiscard; {
		m, err := c.Read(b)
		if err != nil {
			return
		}
		n += m
	}
}

// tcpOf finds the TCP connection beneath.
func tcpOf(c net.Conn) *net.TCPConn {
	for {
		switch under := c.(type) {
		case *net.TCPConn:
			return under
		case *connection:
			return under.TCPConn
		case *tls.Conn:
			c = under.NetConn()
		default:
			return nil
		}
	}
}

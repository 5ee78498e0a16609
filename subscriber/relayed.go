package subscriber

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// relayTimeout bounds a handshake with the relay, which answers a sender once a
	// listener has come: 30 seconds at most, and some slack.
	relayTimeout = 45 * time.Second
	// linger is how long a connection that was closed waits for the other side's
	// Close frame, so that nothing on the way is lost.
	linger = 5 * time.Second
	// smallRead is the length of a read below which the connection's own buffer is
	// used, in bytes.
	smallRead = 512
	// smallCopy is the buffer of a copy that has little to do, in bytes.
	smallCopy = 4 << 10
)

// An AbortedError says that the other side, or the gateway in its name, ended a
// relayed connection in another way than by closing it: what was read may not be all.
type AbortedError struct {
	// Code is the Close frame's (RFC 6455 section 7.4), and 1006 where none came.
	Code int
	// Text is its reason, in printable characters.
	Text string
}

// Error is the code and the reason.
func (e *AbortedError) Error() string {
	if e.Code == 1006 {
		return "the connection was lost"
	}
	s := fmt.Sprintf("the other side ended the connection: %d", e.Code)
	if e.Text != "" {
		s += " " + e.Text
	}
	return s
}

// errSilent is why a connection is given up on which nothing comes.
var errSilent = fmt.Errorf("nothing was heard of the gateway for %v", silence)

// A Conn is a relayed connection: a stream of bytes, carried in the binary messages
// of a WebSocket. It is a [net.Conn], and may be used as one: reading, writing and
// closing at the same time from any goroutines.
//
// Its two directions end apart: [Conn.CloseWrite] ends the writing, which the other
// side reads as io.EOF, and reading goes on. Close ends both. A connection that is
// lost, or ended by [Conn.Abort], reads as an [AbortedError]: the end is never taken
// for io.EOF by mistake.
type Conn struct {
	*link
	local, remote net.Addr
	header        http.Header
	target        string

	pongs   chan []byte // answers to pings, which the reader must not wait for
	ctx     context.Context
	ends    func()        // of the client's registration
	closing chan struct{} // closed by Close
	once    sync.Once
	parting atomic.Pointer[closeFrame] // what Close is to say, if it is not the usual
	said    atomic.Bool                // the other side's Close frame has come
	waits   atomic.Bool                // somebody reads

	timing sync.Mutex // of deadlines, whose last change is Close's

	reading sync.Mutex // guards what follows
	frames  deframer
	own     []byte // the buffer of small reads
	rest    []byte // of own: read and not yet taken
	end     error  // what Read says once rest is empty
}

// newConn makes a connection of a link. It has a goroutine until it is closed.
func (c *Client) newConn(l *link, local, remote net.Addr) (*Conn, error) {
	ctx, done, err := c.open(context.Background())
	if err != nil {
		l.raw.Close()
		return nil, err
	}
	conn := &Conn{
		link: l, local: local, remote: remote,
		pongs: make(chan []byte, 1), ctx: ctx, ends: done, closing: make(chan struct{}),
	}
	conn.frames.control = conn.heardControl
	go conn.keep()
	return conn, nil
}

// errClosing stops the reading behind the other side's Close frame.
var errClosing = errors.New("the other side's Close frame")

// heardControl takes a control frame. reading is held.
func (c *Conn) heardControl(op byte, payload []byte) error {
	switch op {
	case opPing:
		select {
		case c.pongs <- append([]byte(nil), payload...):
		default: // the last one's is still to be sent, and does as well
		}
	case opClose:
		said := parseClose(payload)
		c.end = io.EOF
		if said.code != int(schemas.CloseDone.Code) && said.code != 1005 {
			c.end = &AbortedError{said.code, said.reason}
		}
		c.said.Store(true)
		return errClosing
	}
	return nil
}

// Read reads what has come, at least a byte. Its error is io.EOF once the other side
// has ended its writing; an [AbortedError] where it ended otherwise; one that is
// [os.ErrDeadlineExceeded] after the read deadline, after which it may go on; and
// [net.ErrClosed] after Close.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	c.waits.Store(true)
	defer c.waits.Store(false)
	for {
		switch {
		case c.isClosed():
			return 0, c.failed("read", net.ErrClosed)
		case len(c.rest) > 0:
			n := copy(p, c.rest)
			c.rest = c.rest[n:]
			return n, nil
		case c.end != nil:
			if c.end == io.EOF {
				return 0, io.EOF
			}
			return 0, c.failed("read", c.end)
		}
		b := p
		if len(p) < smallRead {
			if c.own == nil {
				c.own = make([]byte, 2*smallRead)
			}
			b = c.own
		}
		n, err := c.fill(b)
		if len(p) < smallRead {
			c.rest = b[:n]
		} else if n > 0 {
			return n, nil
		}
		if err != nil && n == 0 {
			if c.isClosed() {
				err = net.ErrClosed
			}
			return 0, c.failed("read", err)
		}
	}
}

// fill reads once and leaves the payload at the start of b. The error that it returns
// may pass; any other is c.end. reading is held.
func (c *Conn) fill(b []byte) (n int, passing error) {
	got, err := c.link.Read(b)
	n, wrong := c.frames.feed(b[:got])
	var timeout net.Error
	switch {
	case wrong == errClosing:
	case wrong != nil:
		c.end = wrong
	case err == nil:
	case errors.As(err, &timeout) && timeout.Timeout():
		return n, err
	default:
		c.end = &AbortedError{Code: 1006}
	}
	return n, nil
}

// WriteTo writes what comes to w until the end of the stream, with buffers that fit
// the traffic; [io.Copy] calls it.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	small, large := make([]byte, smallCopy), (*[headroom + frameBuffer]byte)(nil)
	b := small
	defer func() {
		if large != nil {
			frameBuffers.Put(large)
		}
	}()
	for {
		m, err := c.Read(b)
		if m > 0 {
			written, err := w.Write(b[:m])
			n += int64(written)
			if err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		switch {
		case m > len(b)*3/4 && large == nil:
			large = frameBuffers.Get().(*[headroom + frameBuffer]byte)
			b = large[:frameBuffer]
		case m < smallCopy/2 && large != nil:
			frameBuffers.Put(large)
			b, large = small, nil
		}
	}
}

// Write sends p in binary messages of at most 32 KiB. A write that a deadline cuts
// within a message ends the writing for good.
func (c *Conn) Write(p []byte) (n int, err error) {
	for first := true; first || len(p) > 0; first = false {
		part := p[:min(len(p), frameBuffer)]
		if len(part) == 0 {
			return n, nil
		}
		if err := c.send(finalBit|opBinary, part); err != nil {
			return n, c.writeFailed(err)
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// ReadFrom sends what r brings until its end, which it does not pass on, with buffers
// that fit the traffic; [io.Copy] calls it.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	small, large := make([]byte, headroom+smallCopy), (*[headroom + frameBuffer]byte)(nil)
	b := small
	defer func() {
		if large != nil {
			frameBuffers.Put(large)
		}
	}()
	for {
		m, err := r.Read(b[headroom:])
		if m > 0 {
			c.writing.Lock()
			wrong := c.frame(b[:headroom+m], finalBit|opBinary)
			c.writing.Unlock()
			if wrong != nil {
				return n, c.writeFailed(wrong)
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		switch {
		case m > len(b)*3/4 && large == nil:
			large = frameBuffers.Get().(*[headroom + frameBuffer]byte)
			b = large[:]
		case m < smallCopy/2 && large != nil:
			frameBuffers.Put(large)
			b, large = small, nil
		}
	}
}

func (c *Conn) writeFailed(err error) error {
	if c.isClosed() {
		err = net.ErrClosed
	}
	return c.failed("write", err)
}

// failed is an error as the connections of package net have it.
func (c *Conn) failed(op string, err error) error {
	var one *net.OpError
	if errors.As(err, &one) {
		err = one.Err
	}
	return &net.OpError{Op: op, Net: Addr("").Network(), Source: c.local, Addr: c.remote, Err: err}
}

// CloseWrite ends the writing: the other side reads io.EOF. Reading goes on.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return c.failed("close", net.ErrClosed)
	}
	if err := c.goodbye(schemas.CloseDone.Code, ""); err != nil {
		return c.writeFailed(err)
	}
	return nil
}

// Close ends the connection: the other side reads what was written, then io.EOF. It
// does not wait; the client's Close does, for a few seconds.
func (c *Conn) Close() error { return c.part(nil) }

// Abort ends the connection so that the other side reads an [AbortedError] and no
// io.EOF: for when what was written is not all there is.
func (c *Conn) Abort() error {
	return c.part(&closeFrame{schemas.CloseFault.Code, schemas.CloseFault.Word})
}

func (c *Conn) part(as *closeFrame) error {
	err := c.failed("close", net.ErrClosed)
	c.once.Do(func() {
		c.parting.Store(as)
		c.timing.Lock()
		defer c.timing.Unlock()
		close(c.closing)
		_ = c.raw.SetDeadline(time.Now()) // wakes who reads or writes; keep has the rest
		err = nil
	})
	return err
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// keep tells the gateway that the connection lives, notices when it does not, and
// parts with it once it is closed.
func (c *Conn) keep() {
	defer c.ends()
	defer c.raw.Close()
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	unread := time.Now() // when last seen that nobody reads
	for {
		select {
		case payload := <-c.pongs:
			c.control(opPong, payload)
		case now := <-ticker.C:
			quiet := now.Sub(time.Unix(0, c.heard.Load()))
			switch {
			case !c.waits.Load():
				unread = now
				c.control(opPong, nil) // for which there is no answer
			case c.said.Load() || c.isHalf():
			case min(quiet, now.Sub(unread)) > silence:
				c.lose()
				return
			default:
				c.control(opPing, nil)
			}
		case <-c.closing:
			c.depart()
			return
		case <-c.ctx.Done(): // of the client
			_ = c.part(&closeFrame{1001, "going-away"})
			c.depart()
			return
		}
	}
}

// isHalf says whether our own Close frame was sent, behind which nothing else may be.
func (c *Conn) isHalf() bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.closed
}

// lose gives the connection up.
func (c *Conn) lose() {
	c.raw.Close()
	c.reading.Lock()
	defer c.reading.Unlock()
	c.end = errSilent
}

// depart says goodbye and reads what still comes until the other side has done so too:
// to cut the connection with bytes unread would cut those on the way to the gateway.
func (c *Conn) depart() {
	_ = c.raw.SetWriteDeadline(time.Now().Add(farewell))
	code, reason := schemas.CloseDone.Code, ""
	if as := c.parting.Load(); as != nil {
		code, reason = as.code, as.reason
	}
	if c.goodbye(code, reason) != nil || c.said.Load() {
		return
	}
	deadline := time.Now().Add(linger)
	stop := context.AfterFunc(c.ctx, func() { _ = c.raw.SetReadDeadline(time.Now().Add(farewell)) })
	defer stop()
	c.reading.Lock() // who read leaves, and nobody reads any more
	c.rest = nil
	c.reading.Unlock()
	_ = c.raw.SetReadDeadline(deadline)
	b := make([]byte, 4<<10)
	for c.end == nil {
		if _, err := c.fill(b); err != nil {
			return
		}
	}
}

// LocalAddr is the hybrid connection's name at a listener, as an [Addr], and the
// machine's own address at a sender.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the sender's address at a listener, as the gateway saw it, and the
// hybrid connection's name at a sender.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines, as [net.Conn] has it.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(c.raw.SetDeadline, t) }

// SetReadDeadline sets the read deadline. A read that it ends may be tried again.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.raw.SetReadDeadline, t) }

// SetWriteDeadline sets the write deadline.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.raw.SetWriteDeadline, t) }

func (c *Conn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.timing.Lock()
	defer c.timing.Unlock()
	if c.isClosed() {
		return c.failed("set", net.ErrClosed)
	}
	return set(t)
}

// Header is, at a listener, the header of the sender's handshake without its token;
// nil at a sender. It is not to be changed.
func (c *Conn) Header() http.Header { return c.header }

// Target is, at a listener, what of the sender's address comes behind the hybrid
// connection's name, with its query: "/" where there is nothing. Empty at a sender.
func (c *Conn) Target() string { return c.target }

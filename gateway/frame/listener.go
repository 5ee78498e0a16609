package frame

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// A Listener accepts connections whose writes can be made not to wait, which a
// [Socket] needs. It serves net/http as any other; with a TLS configuration it
// returns *tls.Conn.
type Listener struct {
	net.Listener
	// TLS is used above each connection, nil for none.
	TLS *tls.Config
}

// Accept waits for the next connection.
func (l Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, err := newConn(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	if l.TLS == nil {
		return conn, nil
	}
	return tls.Server(conn, l.TLS), nil
}

// A conn is a connection that begins as any other. After detach, Write never waits:
// it keeps what the full socket refuses.
type conn struct {
	Outlet
	net.Conn
	raw syscall.RawConn
}

func newConn(c net.Conn) (*conn, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, errors.New("frame: the listener's connections have no descriptor")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	conn := &conn{Conn: c, raw: raw}
	return conn, conn.way.set(c, raw)
}

// Close closes the connection. Nothing is written to its descriptor afterwards, which
// may be another connection's by then.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed, c.direct = true, false
	c.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite ends the sending side. net/http asks for it before it closes on a
// client that still sends.
func (c *conn) CloseWrite() error {
	if under, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return under.CloseWrite()
	}
	return nil
}

// Write writes b, or keeps what the socket refuses if the conn is detached. It is
// what crypto/tls writes to.
func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if !c.detached {
		c.mu.Unlock()
		return c.Conn.Write(b)
	}
	defer c.mu.Unlock()
	return len(b), c.put(b)
}

// flushPiece is how much a flush writes at a time: a slow reader that takes so much
// within the deadline makes progress.
const flushPiece = 4 << 10

// flush waits until what is kept has been written. Each piece has the time that
// patience returns; when that is over, patient says whether to go on. One goroutine
// at a time may flush.
func (c *conn) flush(patience func() time.Time, patient func() bool) error {
	for waited := false; ; waited = true {
		c.mu.Lock()
		piece := c.kept[:min(len(c.kept), flushPiece)]
		c.mu.Unlock()
		if len(piece) == 0 {
			if waited { // or the deadline would stop a try when it has passed
				return c.Conn.SetWriteDeadline(time.Time{})
			}
			return nil
		}
		if err := c.Conn.SetWriteDeadline(patience()); err != nil {
			return err
		}
		n, err := c.Conn.Write(piece) // others only append while something is kept
		c.mu.Lock()
		c.kept = c.kept[n:]
		if len(c.kept) == 0 {
			c.kept = nil
		}
		c.mu.Unlock()
		if err != nil && !(errors.Is(err, os.ErrDeadlineExceeded) && (n > 0 || patient())) {
			return err
		}
	}
}

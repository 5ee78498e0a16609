package forward

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// Join copies both ways between two connections until both directions have ended, and
// closes both. The end of what one side sends ends the sending to the other and no
// more. Where a side is lost or aborted the other is aborted too, so that it doesn't
// take part of a stream for all of it.
//
// It returns how much went from a to b and from b to a, and the first error.
func Join(a, b net.Conn) (ab, ba int64, err error) {
	var back sync.WaitGroup
	var backErr error
	back.Go(func() { ba, backErr = flow(a, b) })
	ab, err = flow(b, a)
	back.Wait()
	a.Close()
	b.Close()
	// The error of the side that failed first made the other fail as closed.
	if err == nil || backErr != nil && errors.Is(err, net.ErrClosed) {
		err = backErr
	}
	return ab, ba, err
}

// flow copies what from sends to to. It ends the sending to to in the way in which
// from has ended.
func flow(to, from net.Conn) (n int64, err error) {
	n, err = io.Copy(to, from)
	if errors.Is(err, io.ErrClosedPipe) {
		err = nil // a connection in memory, of a request that has been answered
	}
	if err != nil {
		abort(to)
		abort(from)
		return n, err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		err = half.CloseWrite()
	} else {
		err = to.Close()
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN) {
		err = nil // it has ended already
	}
	return n, err
}

// abort ends a connection so that the other end knows that it was cut.
func abort(c net.Conn) {
	switch c := c.(type) {
	case interface{ Abort() error }:
		_ = c.Abort()
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0)
	}
	c.Close()
}

//go:build unix

package frame

import (
	"errors"
	"net"
	"syscall"
)

// rawWrite is a write on the descriptor. Its function value is made once, so that a
// write allocates nothing.
type rawWrite struct {
	b   []byte
	n   int
	err error
	do  func(fd uintptr) bool
}

func (w *rawWrite) attempt(fd uintptr) bool {
	for {
		w.n, w.err = syscall.Write(int(fd), w.b)
		if w.err != syscall.EINTR { //nolint:errorlint // a system call's own error
			return true
		}
	}
}

// try writes what the socket takes at once. mu is held.
func (c *conn) try(b []byte) (int, error) {
	w := &c.write
	w.b = b
	err := c.raw.Write(w.do)
	w.b = nil
	if err == nil && w.err != nil && !errors.Is(w.err, syscall.EAGAIN) {
		err = &net.OpError{Op: "write", Net: "tcp", Err: w.err}
	}
	return max(w.n, 0), err
}

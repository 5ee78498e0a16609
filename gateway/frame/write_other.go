//go:build !unix

package frame

import (
	"errors"
	"os"
	"time"
)

// rawWrite has nothing to keep where there is no write that never waits.
type rawWrite struct{ do func(uintptr) bool }

func (w *rawWrite) attempt(uintptr) bool { return true }

// patience is how long a write may wait for a full socket here.
const patience = time.Millisecond

// try writes what the socket takes almost at once. mu is held.
func (c *conn) try(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

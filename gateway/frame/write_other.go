//go:build !unix

package frame

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// A way is where a connection's bytes go. There is no write here that never waits.
type way struct{ under net.Conn }

func (w *way) set(c net.Conn, _ syscall.RawConn) error {
	w.under = c
	return nil
}

// patience is how long a write may wait for a full socket here.
const patience = time.Millisecond

// write writes what is taken almost at once.
func (w *way) write(b []byte) (int, error) {
	if err := w.under.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	n, err := w.under.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

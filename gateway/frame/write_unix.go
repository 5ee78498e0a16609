//go:build unix

package frame

import (
	"net"
	"os"
	"syscall"
)

// A way is where a connection's bytes go: its descriptor, on which writes don't wait.
type way struct{ descriptor int }

func (w *way) set(_ net.Conn, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { w.descriptor = int(fd) })
}

// write writes what is taken at once. The caller sees that the descriptor is open.
func (w *way) write(b []byte) (int, error) {
	for {
		n, err := syscall.Write(w.descriptor, b)
		switch err { //nolint:errorlint // a system call's own error
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", err)}
		}
	}
}

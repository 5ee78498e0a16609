//go:build unix

package frame

import (
	"io"
	"net"
	"os"
	"syscall"
)

// direct says that a socket can wait for bytes without a buffer for them.
const direct = true

// A directly is a read on the descriptor. Its function value is made once, so that a read
// allocates nothing.
type directly struct {
	do  func(fd uintptr) bool
	n   int
	err error
}

// readAll reads what there is, as much as the large buffer holds behind what has not been
// taken, once there is something: nothing is held while it waits. What is little enough
// lies in the small buffer then.
func (s *Socket) readAll() (int, error) {
	d := &s.reading.directly
	if d.do == nil {
		d.do = s.attempt
	}
	if err := s.conn.raw.Read(d.do); err != nil {
		return 0, err
	}
	return d.n, d.err
}

// attempt is false if there is nothing to read yet.
func (s *Socket) attempt(fd uintptr) bool {
	r := &s.reading
	d := &r.directly
	buf, large := r.buffer()
	kept := copy(buf, r.in)
	if large == nil {
		r.in = buf[:kept]
	}
	var err error
	for {
		d.n, err = syscall.Read(int(fd), buf[kept:])
		if err != syscall.EINTR { //nolint:errorlint // a system call's own error
			break
		}
	}
	d.n, d.err = max(d.n, 0), nil
	switch {
	case err == syscall.EAGAIN: //nolint:errorlint // as above
		r.unused(large)
		return false
	case err != nil:
		d.err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
	case d.n == 0:
		d.err = io.EOF
	}
	r.busy = kept+d.n == len(buf)
	if large != nil && kept+d.n <= readBuffer {
		small := r.own()
		r.in, r.busy = small[:copy(small, buf[:kept+d.n])], false
		r.unused(large)
		return true
	}
	r.ahead, r.in = large, buf[:kept+d.n]
	return true
}

// buffer is where to read: the large buffer if there is memory for it.
func (r *reading) buffer() (buf []byte, large *[readAhead]byte) {
	if large = r.large(); large != nil {
		return large[:], large
	}
	return r.own(), nil
}

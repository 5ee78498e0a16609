package frame

import "golang.org/x/sys/unix"

// acked is how many bytes the other end's TCP has acknowledged so far.
func (c *conn) acked() (n uint64, ok bool) {
	err := c.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n, ok = info.Bytes_acked, true
		}
	})
	return n, ok && err == nil
}

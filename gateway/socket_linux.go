package gateway

import (
	"net"

	"golang.org/x/sys/unix"
)

// ackedBytes is how many bytes the other end's TCP has acknowledged so far.
func ackedBytes(c net.Conn) (n uint64, ok bool) {
	tcp := tcpOf(c)
	if tcp == nil {
		return 0, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n, ok = info.Bytes_acked, true
		}
	})
	return n, ok && err == nil
}

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// dial opens a connection, its handshake and its first messages. receive bounds the
// socket's receive buffer, 0 leaves it to the kernel. What came after that is rest.
func dial(address, source string, receive int, o opening) (fd int, rest []byte, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, nil, err
	}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if source != "" {
		from, err := netip.ParseAddr(source)
		if err != nil {
			return 0, nil, err
		}
		// The port is chosen with the destination, at connect.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return 0, nil, err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
			return 0, nil, err
		}
	}
	if receive > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receive); err != nil {
			return 0, nil, err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		return 0, nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return 0, nil, fmt.Errorf("connect: %w", err)
	}
	write := func(b []byte) error {
		return uninterrupted(func() error { _, err := unix.Write(fd, b); return err })
	}
	if err := write(o.handshake()); err != nil {
		return 0, nil, err
	}
	var got []byte
	buf := make([]byte, 4096)
	more := func() error {
		n := 0
		err := uninterrupted(func() (err error) { n, err = unix.Read(fd, buf); return err })
		if err == nil && n == 0 {
			err = unix.ECONNRESET
		}
		if err != nil {
			return fmt.Errorf("handshake: %w after %q", err, got)
		}
		got = append(got, buf[:n]...)
		return nil
	}
	for !bytes.Contains(got, []byte("\r\n\r\n")) {
		if err := more(); err != nil {
			return 0, nil, err
		}
	}
	head, rest, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
		return 0, nil, fmt.Errorf("handshake: %q", got)
	}
	for _, m := range o.messages {
		if err := write(m); err != nil {
			return 0, nil, err
		}
	}
	if o.ready != "" {
		for got = rest; !bytes.Contains(got, []byte(o.ready)); {
			if err := more(); err != nil {
				return 0, nil, err
			}
		}
		// Nothing more comes unasked, so the rest of a message is all that may.
		for rest = got; ; {
			_, _, end := parseFrame(rest)
			if end == 0 {
				break
			}
			rest = rest[end:]
		}
	}
	return fd, bytes.Clone(rest), unix.SetNonblock(fd, true)
}

// uninterrupted calls until no signal of Go's scheduler came between: on a socket with
// a receive timeout the kernel does not go on by itself.
func uninterrupted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

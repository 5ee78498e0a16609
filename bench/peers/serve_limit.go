package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A bare is the limit: one thread that reads what publishers send and writes it as
// ready frames to the sockets of the topic, without waiting. It parses no event and
// decides nothing.
type bare struct {
	epoll   int
	conns   map[int32]*bareConn
	topics  [][]*bareConn
	pending [][]byte // by topic, frames to be written
	touched []int    // topics with pending frames
	waiting int      // frames in pending
	since   time.Time
	// gather is how many frames are joined before they are written, if they come
	// within gatherTime; 1 writes each at once.
	gather int
	buf    []byte
}

const gatherTime = 5 * time.Millisecond

type bareConn struct {
	fd     int // -1 once it is closed
	opened bool
	rest   []byte
}

func serveLimit(gather int) error {
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(listener, 4096); err != nil {
		return err
	}
	address, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	b := &bare{conns: map[int32]*bareConn{}, gather: gather, buf: make([]byte, 1<<20)}
	if b.epoll, err = unix.EpollCreate1(0); err != nil {
		return err
	}
	if err := b.watch(listener); err != nil {
		return err
	}
	announce(fmt.Sprintf("127.0.0.1:%d", address.(*unix.SockaddrInet4).Port))
	events := make([]unix.EpollEvent, 1024)
	for {
		wait := -1
		if b.waiting > 0 {
			wait = 1
		}
		n, err := unix.EpollWait(b.epoll, events, wait)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == listener {
				err = b.accept(listener)
			} else if c := b.conns[e.Fd]; c != nil {
				err = b.read(c)
			}
			if err != nil {
				return err
			}
		}
		if b.waiting >= b.gather || b.waiting > 0 && time.Since(b.since) > gatherTime {
			b.flush()
		}
	}
}

func (b *bare) watch(fd int) error {
	return unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (b *bare) accept(listener int) error {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
		b.conns[int32(fd)] = &bareConn{fd: fd}
		if err := b.watch(fd); err != nil {
			return err
		}
	}
}

func (b *bare) read(c *bareConn) error {
	k := copy(b.buf, c.rest)
	n, err := unix.Read(c.fd, b.buf[k:])
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil || n == 0 {
		b.drop(c)
		return nil
	}
	in := b.buf[:k+n]
	if !c.opened {
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			c.rest = append(c.rest[:0], in...)
			return nil
		}
		if err := b.open(c, string(in)); err != nil {
			return err
		}
		in = in[end+4:]
	}
	for {
		first, begin, end := parseFrame(in)
		if end == 0 {
			break
		}
		if first == frameBinary {
			payload := in[begin:end]
			xor(payload)
			b.publish(int(payload[0])<<8|int(payload[1]), payload[2:])
		}
		in = in[end:]
	}
	c.rest = append(c.rest[:0], in...)
	return nil
}

// open answers the handshake; a path that is a number subscribes.
func (b *bare) open(c *bareConn, request string) error {
	c.opened = true
	path := strings.TrimPrefix(strings.SplitN(request, " ", 3)[1], "/")
	if topic, err := strconv.Atoi(path); err == nil {
		for len(b.topics) <= topic {
			b.topics, b.pending = append(b.topics, nil), append(b.pending, nil)
		}
		b.topics[topic] = append(b.topics[topic], c)
	}
	_, err := unix.Write(c.fd, []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+handshakeAccept+"\r\n\r\n"))
	return err
}

func (b *bare) publish(topic int, event []byte) {
	if b.waiting == 0 {
		b.since = time.Now()
	}
	b.waiting++
	if len(b.pending[topic]) == 0 {
		b.touched = append(b.touched, topic)
	}
	b.pending[topic] = append(appendServerHeader(b.pending[topic], frameText, len(event)), event...)
}

func (b *bare) flush() {
	for _, topic := range b.touched {
		frames := b.pending[topic]
		b.pending[topic] = frames[:0]
		for _, c := range b.topics[topic] {
			if c.fd >= 0 && writeAll(c.fd, frames) != nil {
				b.drop(c)
			}
		}
	}
	b.touched, b.waiting = b.touched[:0], 0
}

func (b *bare) drop(c *bareConn) {
	delete(b.conns, int32(c.fd))
	unix.Close(c.fd)
	c.fd = -1
}

// writeAll writes to a socket that does not wait, waiting where it must.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		// Without telling the Go scheduler: the socket does not wait.
		n, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch err {
		case 0:
			b = b[n:]
		case unix.EAGAIN:
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000); err != nil && err != unix.EINTR {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/centrifugal/centrifuge"
	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// serve runs one of the peers until it is interrupted. Each is set up as its own
// documentation advises for many subscribers on one host; outrelay runs as the real
// binary and is not here.
func serve(peer, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	switch peer {
	case "nats":
		n, err := net.LookupPort("tcp", port)
		if err != nil {
			return err
		}
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
			Websocket: server.WebsocketOpts{Host: host, Port: n, NoTLS: true},
		})
		if err != nil {
			return err
		}
		s.Start()
		<-stop.Done()
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	case "centrifuge":
		return serveCentrifuge(stop, address)
	case "limit":
		return serveLimit(address)
	}
	return fmt.Errorf("no peer %q", peer)
}

// serveCentrifuge is the library's own example of a server: an in-memory broker, all
// channels open to all.
func serveCentrifuge(stop context.Context, address string) error {
	node, err := centrifuge.New(centrifuge.Config{
		ClientQueueMaxSize: 64 << 20, // else a burst of the load closes the subscriber
	})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
		c.OnPublish(func(_ centrifuge.PublishEvent, done centrifuge.PublishCallback) {
			done(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		ReadBufferSize: 1024, UseWriteBufferPool: true,
	}))
	s := &http.Server{Addr: address, Handler: mux}
	go func() { <-stop.Done(); s.Close() }()
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// serveLimit is the bare writer: one thread that reads what publishers send and
// writes it, unmasked, to every subscriber in the same room: nothing is parsed,
// checked or decided. What arrives in one read goes out in one write.
func serveLimit(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	type member struct {
		fd   int
		room string
		rest []byte
	}
	members := make(chan *member, 1024)
	wake, wakeWrite := pipe()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReaderSize(c, 16))
			if err != nil {
				c.Close()
				continue
			}
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			members <- &member{fd: detach(c), room: r.URL.Path}
			unix.Write(wakeWrite, []byte{0})
		}
	}()
	unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	byFD, rooms := map[int]*member{}, map[string][]*member{}
	events, buf := make([]unix.EpollEvent, 512), make([]byte, 256<<10)
	out := map[string][]byte{}
	for {
		n, err := unix.EpollWait(ep, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if fd == wake {
				unix.Read(wake, buf[:512])
				for len(members) > 0 {
					m := <-members
					byFD[m.fd], rooms[m.room] = m, append(rooms[m.room], m)
					unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, m.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(m.fd)})
				}
				continue
			}
			m := byFD[fd]
			k, err := unix.Read(fd, buf)
			if k <= 0 || err != nil {
				if err == unix.EAGAIN {
					continue
				}
				return nil // the load is done
			}
			b := append(m.rest, buf[:k]...)
			for {
				payload, size := clientFrame(b)
				if size == 0 {
					break
				}
				room := m.room
				if len(payload) > 5 && payload[0] == '/' { // a room named in the message
					end := 1
					for payload[end] != ' ' {
						end++
					}
					room, payload = string(payload[:end]), payload[end+1:]
				}
				o := append(out[room], 0x81, 126, 0, 0)
				binary.BigEndian.PutUint16(o[len(o)-2:], uint16(len(payload)))
				out[room] = append(o, payload...)
				b = b[size:]
			}
			m.rest = append(m.rest[:0:0], b...)
		}
		for room, b := range out {
			if len(b) == 0 {
				continue
			}
			for _, m := range rooms[room] {
				for rest := b; len(rest) > 0; {
					k, err := unix.Write(m.fd, rest)
					if err == unix.EAGAIN {
						unix.Poll([]unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLOUT}}, 1000)
						continue
					}
					if err != nil {
						return nil
					}
					rest = rest[k:]
				}
			}
			out[room] = b[:0]
		}
	}
}

func pipe() (r, w int) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
		panic(err)
	}
	return p[0], p[1]
}

// detach takes a connection's descriptor away from Go's poller.
func detach(c net.Conn) int {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		panic(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		panic(err)
	}
	f.Close()
	c.Close()
	unix.SetNonblock(fd, true)
	return fd
}

// clientFrame unmasks the first frame of b in place; size 0: it is not whole.
func clientFrame(b []byte) (payload []byte, size int) {
	if len(b) < 6 {
		return nil, 0
	}
	n, h := int(b[1]&0x7F), 2
	if n == 126 {
		if len(b) < 8 {
			return nil, 0
		}
		n, h = int(binary.BigEndian.Uint16(b[2:])), 4
	}
	if len(b) < h+4+n {
		return nil, 0
	}
	return b[h+4 : h+4+n], h + 4 + n // the load masks with zeros
}

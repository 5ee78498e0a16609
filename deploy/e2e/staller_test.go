package e2e

import (
	"context"
	"net"
	"sync"
	"testing"
)

// A staller passes TCP connections on to a gateway until it is told to stop. Then no
// byte passes any more, in either direction, and nothing is closed: what a network does
// that was cut. What waits passes when it heals.
type staller struct {
	listener net.Listener
	target   string
	ctx      context.Context
	tasks    sync.WaitGroup

	mu    sync.Mutex
	gate  chan struct{} // closed while bytes pass
	conns map[net.Conn]struct{}
}

// newStaller starts one in front of target, a host and port. It ends with the test.
func newStaller(t *testing.T, target string) *staller {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &staller{listener: l, target: target, ctx: ctx, gate: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(s.gate)
	s.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.tasks.Go(func() { s.pass(conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		s.mu.Lock()
		for conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.tasks.Wait()
	})
	return s
}

func (s *staller) address() string { return "http://" + s.listener.Addr().String() }

// stall stops all bytes, heal lets them pass again.
func (s *staller) stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *staller) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
}

// wait returns once bytes pass; false if that is never.
func (s *staller) wait() bool {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// own has a connection closed at the end of the test, and returns what ends that.
func (s *staller) own(conn net.Conn) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = struct{}{}
	if s.ctx.Err() != nil {
		conn.Close()
	}
	return func() {
		conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}
}

// pass owns one connection of a client, and the one to the gateway behind it.
func (s *staller) pass(client net.Conn) {
	defer s.own(client)()
	if !s.wait() {
		return
	}
	gateway, err := net.Dial("tcp", s.target)
	if err != nil {
		reset(client)
		return
	}
	defer s.own(gateway)()
	var up sync.WaitGroup
	defer up.Wait()
	up.Go(func() { s.copy(gateway, client) })
	s.copy(client, gateway)
}

// copy passes bytes one way, and the end of them.
func (s *staller) copy(to, from net.Conn) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if !s.wait() {
			return
		}
		if _, failed := to.Write(b[:n]); failed != nil {
			reset(from)
			return
		}
		if err != nil {
			_ = to.(*net.TCPConn).CloseWrite() // it may be gone already
			return
		}
	}
}

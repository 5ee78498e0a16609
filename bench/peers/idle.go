package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// probes is how many events each idle connection must get in the end.
const probes = 5

// connectsAtOnce is how many TLS handshakes are under way at once.
const connectsAtOnce = 16

// idleConnections opens the spec's subscribers, waits, looks at the server's memory,
// and sees that each connection still works. The publisher comes last.
func idleConnections(s spec) (result, error) {
	r := result{Connects: s.Subscribers}
	before, err := resident(s.PID)
	if err != nil {
		return r, err
	}
	kernel, began := kernelMemory(), time.Now()
	cpu, err := processorTime(s.PID)
	if err != nil {
		return r, err
	}
	publishers := s.Publishers
	s.Publishers = 0 // for now
	plain := s
	if s.Secure {
		plain.Subscribers = 0
	}
	e, err := newEngine(plain)
	if err != nil {
		return r, err
	}
	var secure *secureClients
	if s.Secure {
		secure = &secureClients{spec: s, dialect: e.dialect}
		if err := secure.connect(); err != nil {
			return r, err
		}
		defer secure.close()
	} else if err := e.connect(); err != nil {
		return r, err
	}
	r.ConnectFor = time.Since(began).Seconds()
	e.wait(settle)
	now, err := processorTime(s.PID)
	if err != nil {
		return r, err
	}
	r.ConnectCPU = (now - cpu).Seconds()
	memory := func(kib *float64) error {
		now, err := resident(s.PID)
		*kib = (now - before) / float64(s.Subscribers)
		return err
	}
	if err := memory(&r.AtOnceKiB); err != nil {
		return r, err
	}
	e.wait(s.Measure)
	if err := memory(&r.KiB); err != nil {
		return r, err
	}
	r.KernelKiB = (kernelMemory() - kernel) / float64(s.Subscribers)

	// All of them still work.
	if err := e.addPublishers(publishers); err != nil {
		return r, err
	}
	for range probes {
		e.publish(0, time.Now().UnixNano())
		e.write(e.pubs[0])
		e.wait(50 * time.Millisecond)
	}
	e.drain()
	r.Checked, r.Wrong = e.total, e.wrong
	if secure != nil {
		n, wrong := secure.check(e)
		r.Checked += n
		r.Wrong = append(r.Wrong, wrong...)
	}
	e.close()
	return r, nil
}

// secureClients are idle subscribers over TLS, with a goroutine each.
type secureClients struct {
	spec    spec
	dialect dialect
	mu      sync.Mutex
	conns   []net.Conn
	wrong   []string
	readers sync.WaitGroup
	closing atomic.Bool
	taken   atomic.Int64 // deliveries
}

func (s *secureClients) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) < 5 {
		s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	}
}

// connect opens all; the error is the first.
func (s *secureClients) connect() error {
	numbers := make(chan int)
	failed := make(chan error, connectsAtOnce)
	var dialers sync.WaitGroup
	for range connectsAtOnce {
		dialers.Go(func() {
			for i := range numbers {
				if err := s.dial(i); err != nil {
					failed <- fmt.Errorf("TLS connection %d: %w", i, err)
					return
				}
			}
		})
	}
	var err error
	for i := range s.spec.Subscribers {
		select {
		case numbers <- i:
			continue
		case err = <-failed:
		}
		break
	}
	close(numbers)
	dialers.Wait()
	return err
}

func (s *secureClients) dial(i int) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/5000))}, KeepAlive: -1}
	// The certificate is of this run; whose it is, is not what is measured.
	c, err := tls.DialWithDialer(&d, "tcp", s.spec.TLS, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	if _, err := c.Write(s.dialect.subscribe("live", 0, 0).handshake()); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 1024)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", answer.Status)
	}
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	s.readers.Go(func() { s.read(c, in) })
	return nil
}

// read takes what one connection gets until it ends.
func (s *secureClients) read(c net.Conn, in *bufio.Reader) {
	next := 0
	for {
		head, err := in.Peek(2)
		if err == nil {
			if n := int(head[1]); n == 126 {
				head, err = in.Peek(4)
			}
		}
		if err != nil {
			if !s.closing.Load() {
				s.fault("a TLS connection ended: %v", err)
			}
			return
		}
		size := int(head[1])
		if size == 126 {
			size = int(head[2])<<8 | int(head[3])
		}
		frame := make([]byte, len(head)+size)
		if _, err := io.ReadFull(in, frame); err != nil {
			s.fault("a TLS connection ended: %v", err)
			return
		}
		switch payload := frame[len(head):]; frame[0] {
		case framePing:
			if _, err := c.Write(appendClientFrame(nil, framePong, payload)); err != nil {
				s.fault("answering a ping: %v", err)
			}
		case frameText:
			if len(payload) < leastEvent || digits(payload[numberAt:numberAt+numberDigits]) != next {
				s.fault("a TLS connection got %q, want event %d", payload, next)
			}
			next++
			s.taken.Add(1)
		}
	}
}

// check waits until each connection has got what was published.
func (s *secureClients) check(e *engine) (taken int, wrong []string) {
	want := int64(e.published() * s.spec.Subscribers)
	for end := time.Now().Add(drainTime); s.taken.Load() < want && time.Now().Before(end); {
		e.wait(10 * time.Millisecond)
	}
	if n := s.taken.Load(); n != want {
		s.fault("%d deliveries over TLS, want %d", n, want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.taken.Load()), s.wrong
}

func (s *secureClients) close() {
	s.closing.Store(true)
	for _, c := range s.conns {
		c.Close()
	}
	s.readers.Wait()
}

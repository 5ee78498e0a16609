package forward_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/forward"
)

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (outer, inner *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{out, in} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return out.(*net.TCPConn), in.(*net.TCPConn)
}

// joined is the outer ends of two joined connections; wait waits for Join.
func joined(t *testing.T) (a, b *net.TCPConn, wait func() (int64, int64, error)) {
	a, innerA := pair(t)
	b, innerB := pair(t)
	var joining sync.WaitGroup
	var ab, ba int64
	var err error
	joining.Go(func() { ab, ba, err = forward.Join(innerA, innerB) })
	return a, b, func() (int64, int64, error) {
		joining.Wait()
		return ab, ba, err
	}
}

// Each direction ends by itself, whichever is first.
func TestJoinKeepsHalfClose(t *testing.T) {
	a, b, wait := joined(t)
	io.WriteString(a, "question")
	a.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
		t.Errorf("b read %q, %v", got, err)
	}
	io.WriteString(b, "a longer answer")
	b.Close()
	if got, err := io.ReadAll(a); err != nil || string(got) != "a longer answer" {
		t.Errorf("a read %q, %v", got, err)
	}
	if ab, ba, err := wait(); ab != 8 || ba != 15 || err != nil {
		t.Errorf("Join() = %d, %d, %v; want 8, 15 and no error", ab, ba, err)
	}
}

// A side that is reset resets the other: what it got is not all there was.
func TestJoinPassesResets(t *testing.T) {
	a, b, wait := joined(t)
	io.WriteString(a, "part")
	if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_ = a.SetLinger(0)
	a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("b read %v, want a reset", err)
	}
	if _, _, err := wait(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Join() gave %v, want the reset", err)
	}
}

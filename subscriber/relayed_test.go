package subscriber_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// joined is a pair of a sender's and a listener's connection on a name.
func joined(t *testing.T, w *world) (sender, listener net.Conn) {
	t.Helper()
	l, err := w.client().Listen(t.Context(), "pairs/one")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		c, err := l.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
		}
		accepted <- c
	})
	sender, err = w.client().Dial(t.Context(), "pairs/one/tray/2?copies=3")
	if err != nil {
		t.Fatal(err)
	}
	accepting.Wait()
	listener = <-accepted
	if listener == nil {
		t.FailNow()
	}
	for _, c := range []net.Conn{sender, listener} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return sender, listener
}

// The two directions of a relayed connection end apart.
func TestHalfClose(t *testing.T) {
	sender, listener := joined(t, newWorld(t))
	write(t, sender, "question")
	closeWrite(t, sender)
	if got := readAll(t, listener); got != "question" {
		t.Errorf("the listener read %q, want the question", got)
	}
	write(t, listener, "answer")
	if _, err := sender.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after CloseWrite gave %v, want net.ErrClosed", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, sender); got != "answer" {
		t.Errorf("the sender read %q, want the answer", got)
	}
}

// What was written before Close arrives, though the closer has unread bytes.
func TestCloseLosesNothing(t *testing.T) {
	sender, listener := joined(t, newWorld(t))
	payload := make([]byte, 1<<20)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	var reading sync.WaitGroup
	var got []byte
	reading.Go(func() { got, _ = io.ReadAll(listener) })
	write(t, listener, "never read")
	if _, err := sender.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := sender.Close(); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	if !bytes.Equal(got, payload) {
		t.Errorf("%d bytes arrived, of %d", len(got), len(payload))
	}
	if _, err := sender.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close gave %v, want net.ErrClosed", err)
	}
	if err := sender.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close gave %v, want net.ErrClosed", err)
	}
}

// An end that is no Close is never io.EOF.
func TestAbortIsNoEOF(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(w *world, c net.Conn)
	}{
		{"abort", func(_ *world, c net.Conn) { _ = c.(*subscriber.Conn).Abort() }},
		{"lost", func(w *world, _ net.Conn) { w.proxy.cutAll() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			sender, listener := joined(t, w)
			write(t, sender, "part")
			if _, err := io.ReadFull(listener, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			tt.end(w, sender)
			_, err := listener.Read(make([]byte, 1))
			if aborted := new(subscriber.AbortedError); !errors.As(err, &aborted) {
				t.Errorf("Read gave %v, want an AbortedError", err)
			}
		})
	}
}

// A read that its deadline ends loses nothing, wherever in a frame it is, and Close
// and a deadline wake who reads.
func TestDeadlines(t *testing.T) {
	sender, listener := joined(t, newWorld(t))
	_ = listener.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := listener.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read gave %v, want os.ErrDeadlineExceeded", err)
	}
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	var writing sync.WaitGroup
	sent := sha256.New()
	writing.Go(func() {
		for range 200 {
			b := make([]byte, rand.IntN(3000))
			sent.Write(b)
			if _, err := sender.Write(b); err != nil {
				t.Errorf("Write: %v", err)
			}
			if rand.IntN(4) == 0 {
				time.Sleep(time.Millisecond) // so that deadlines come between frames, too
			}
		}
		closeWrite(t, sender)
	})
	got := sha256.New()
	for err = nil; err != io.EOF; {
		_ = listener.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(300)) * time.Microsecond))
		b := make([]byte, 1+rand.IntN(2000))
		var n int
		n, err = listener.Read(b)
		got.Write(b[:n])
		if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	writing.Wait()
	if !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Error("what was read is not what was written")
	}
	var woken sync.WaitGroup
	_ = sender.SetDeadline(time.Time{})
	woken.Go(func() {
		if _, err := sender.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read gave %v, want net.ErrClosed", err)
		}
	})
	time.Sleep(time.Millisecond) // it may read already or not
	sender.Close()
	woken.Wait()
}

// What a listener knows of a sender, and a sender of a listener.
func TestAddresses(t *testing.T) {
	sender, listener := joined(t, newWorld(t))
	if got := listener.LocalAddr().String(); got != "pairs/one" {
		t.Errorf("the listener's LocalAddr is %q, want the name", got)
	}
	if a, ok := listener.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() || a.Port == 0 {
		t.Errorf("the listener's RemoteAddr is %v, want where the sender is", listener.RemoteAddr())
	}
	if got := sender.RemoteAddr(); got.String() != "pairs/one/tray/2" || got.Network() != "outrelay" {
		t.Errorf("the sender's RemoteAddr is %v, want what it dialed", got)
	}
	c := listener.(*subscriber.Conn)
	if got := c.Target(); got != "/tray/2?copies=3" {
		t.Errorf("the target is %q, want what is behind the name", got)
	}
	if got := c.Header().Get("User-Agent"); got == "" {
		t.Error("the sender's header has no User-Agent")
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

package relay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// joined makes a pair on a name of its own.
func (w *world) joined(t testing.TB) (sender, listener *peer) {
	t.Helper()
	name := fmt.Sprint("pair", w.pairs.Add(1))
	return w.pair(t, w.listen(t, name), name)
}

// bothWays runs a test with each side of a pair first.
func bothWays(t *testing.T, change func(*relay.Config, *access.Config), test func(t *testing.T, a, b *peer)) {
	t.Helper()
	w := start(t, change)
	t.Run("from the sender", func(t *testing.T) {
		sender, listener := w.joined(t)
		test(t, sender, listener)
	})
	t.Run("from the listener", func(t *testing.T) {
		sender, listener := w.joined(t)
		test(t, listener, sender)
	})
}

// A message goes each way with its kind, and a Close frame with its code and reason.
func TestSpliceCarriesMessages(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "echo")
	sender, listener := w.pair(t, control, "echo")
	sender.text("hello")
	listener.expect(0x81, "hello")
	listener.binary("\x00\x01")
	sender.expect(0x82, "\x00\x01")
	sender.text("")
	listener.expect(0x81, "")
	sender.close(4001, "that was all")
	listener.expectClose(4001, "that was all")
	listener.text("still here")
	sender.expect(0x81, "still here")
	listener.close(1000, "bye")
	sender.expectClose(1000, "bye")
	sender.expectEnd()
	listener.expectEnd()
}

// Without a listener a sender gets 404 at once.
func TestNoListenerIs404(t *testing.T) {
	w := start(t, nil)
	handshake(t, w.host+"/$hc/nobody?sb-hc-action=connect").refused(404, "There are no listeners connected for the endpoint")
}

// Message boundaries and kinds stay, empty messages count, and fragments pass with
// control frames between them.
func TestSpliceKeepsMessages(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, a, b *peer) {
		for _, n := range []int{0, 1, 125, 126, 127, 1000, 65535, 65536, 200_000} {
			payload := strings.Repeat("x", n)
			a.binary(payload)
			b.expect(0x82, payload)
		}
		a.send(0x01, "one ")
		a.send(0x00, "")
		a.send(0x89, "ping between")
		a.send(0x00, "two ")
		a.send(0x80, "three")
		b.expect(0x01, "one ")
		b.expect(0x00, "")
		if f, p, err := b.frame(); err != nil || f != 0x89 || string(p) != "ping between" {
			t.Fatalf("got frame %#x %q (%v), want the ping", f, p, err)
		}
		b.send(0x8A, "ping between")
		b.expect(0x00, "two ")
		b.expect(0x80, "three")
		a.expect(0x8A, "ping between")
	})
}

// A fragment or a large message is passed on as its bytes come, not when it is whole.
func TestSpliceStreams(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, a, b *peer) {
		a.send(0x01, "begun")
		b.expect(0x01, "begun")
		frame := clientFrame(0x80, bytes.Repeat([]byte{'y'}, 1<<20))
		a.raw(frame[:100_000])
		b.conn.SetReadDeadline(time.Now().Add(patience))
		got := make([]byte, 10+90_000)
		if _, err := io.ReadFull(b.in, got); err != nil {
			t.Fatalf("the beginning of a large frame: %v", err)
		}
		if got[0] != 0x80 || binary.BigEndian.Uint64(got[2:]) != 1<<20 || strings.Trim(string(got[10:]), "y") != "" {
			t.Fatalf("got %q", got[:20])
		}
		a.raw(frame[100_000:])
		if n, err := io.CopyN(io.Discard, b.in, 1<<20-90_000); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	})
}

// Close frames are passed on and not answered by the relay: the other direction goes on
// until its own Close frame (.NET's Shutdown, azbridge's half-close).
func TestHalfClose(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, a, b *peer) {
		a.close(1000, "")
		b.expectClose(1000, "")
		for n := range 50 {
			text := fmt.Sprint("more ", n)
			b.text(text)
			a.expect(0x81, text)
		}
		b.send(0x89, "even a ping")
		if f, p, err := a.frame(); err != nil || f != 0x89 || string(p) != "even a ping" {
			t.Fatalf("got frame %#x %q (%v), want the ping", f, p, err)
		}
		b.close(1001, "done too")
		a.expectClose(1001, "done too")
		a.expectEnd()
		b.expectEnd()
	})
}

// A Close frame passes with whatever code and reason it has, or none.
func TestCloseCodesPass(t *testing.T) {
	w := start(t, nil)
	for _, payload := range []string{
		"", "\x03\xe8", "\x03\xe9going away", "\x03\xf3fault", "\x0f\xa0own", "\x0b\xb8", "\x03\xf0" + strings.Repeat("x", 123),
	} {
		sender, listener := w.joined(t)
		sender.send(0x88, payload)
		listener.expect(0x88, payload)
		listener.send(0x88, payload)
		sender.expect(0x88, payload)
		sender.expectEnd()
		listener.expectEnd()
	}
}

// After its Close frame a client may say no more; what it says is not passed on.
func TestNothingAfterClose(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, a, b *peer) {
		a.raw(append(clientFrame(0x88, []byte("\x03\xe8")), clientFrame(0x81, []byte("late"))...))
		b.expectClose(1000, "")
		a.text("later")
		b.close(1000, "")
		a.expectClose(1000, "")
		b.expectEnd()
	})
}

// A side that vanishes without a Close frame: the other is told with 1011, or cut in the
// middle of a frame.
func TestPeerVanishes(t *testing.T) {
	for _, how := range []string{"FIN", "RST"} {
		t.Run(how, func(t *testing.T) {
			bothWays(t, nil, func(t *testing.T, a, b *peer) {
				a.text("last words")
				b.expect(0x81, "last words")
				if how == "RST" {
					a.conn.(*net.TCPConn).SetLinger(0)
				}
				a.conn.Close()
				b.expectClose(1011, "peer-lost")
				b.expectEnd()
			})
		})
	}
	t.Run("within a frame", func(t *testing.T) {
		bothWays(t, nil, func(t *testing.T, a, b *peer) {
			a.raw(clientFrame(0x81, make([]byte, 1000))[:500])
			a.conn.Close()
			if f, _, err := b.frame(); err == nil {
				t.Fatalf("got frame %#x, want the end of the connection", f)
			}
		})
	})
}

// A frame that breaks the protocol closes its sender with 1002, and the other side with
// 1011.
func TestSpliceFaults(t *testing.T) {
	for name, b := range map[string][]byte{
		"unmasked":             {0x81, 1, 'x'},
		"reserved bit":         clientFrame(0xA1, nil),
		"unknown opcode":       clientFrame(0x8B, nil),
		"continuation of none": clientFrame(0x00, nil),
		"long close":           clientFrame(0x88, make([]byte, 126)),
		"fragmented ping":      clientFrame(0x09, nil),
		"message in a message": append(clientFrame(0x01, nil), clientFrame(0x81, nil)...),
		"negative length":      {0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, nil)
			sender, listener := w.joined(t)
			sender.text("before")
			sender.raw(b)
			listener.expect(0x81, "before")
			sender.expectClose(1002, "protocol")
			sender.expectEnd()
			if name == "message in a message" {
				listener.expect(0x01, "")
			}
			listener.expectClose(1011, "peer-lost")
			listener.expectEnd()
		})
	}
}

// Who does not read is not read for: the other side's writes come to a halt, and the
// relay keeps next to nothing. Then all arrives.
func TestBackPressure(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, a, b *peer) {
		const size = 20 << 20
		frame := clientFrame(0x82, make([]byte, size))
		wrote := make(chan int, 1)
		a.conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		b.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		a.conn.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.conn.Write(frame)
		if err == nil {
			t.Fatalf("everything was taken from a sender whose peer does not read")
		}
		if n > 18<<20 { // the operating system's buffers
			t.Errorf("%d bytes were taken", n)
		}
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		if memory.HeapInuse > 200<<20 { // with the frame itself, which has grown in steps
			t.Errorf("the process has %d MiB in use", memory.HeapInuse>>20)
		}
		go func() {
			a.conn.SetWriteDeadline(time.Now().Add(patience))
			m, _ := a.conn.Write(frame[n:])
			wrote <- n + m
		}()
		got, err := io.CopyN(io.Discard, b.in, size+10)
		if err != nil {
			t.Errorf("after %d bytes: %v", got, err)
		}
		if total := <-wrote; total != len(frame) {
			t.Errorf("%d of %d bytes were written", total, len(frame))
		}
	})
}

// A pair on which nothing goes either way is closed with 1001 after the idle limit, a
// pair that is too old after its lifetime, however busy.
func TestIdleAndLifetime(t *testing.T) {
	t.Parallel()
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayIdle = 2 * time.Second })
	sender, listener := w.joined(t)
	busy, other := w.joined(t)
	for n := range 8 { // what moves is not idle
		time.Sleep(400 * time.Millisecond)
		busy.text(fmt.Sprint(n))
		other.expect(0x81, fmt.Sprint(n))
	}
	sender.expectClose(1001, "idle")
	listener.expectClose(1001, "idle")

	w = start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayLifetime = time.Second })
	sender, listener = w.joined(t)
	var closed bool
	for deadline := time.Now().Add(patience); !closed && time.Now().Before(deadline); {
		listener.conn.SetWriteDeadline(time.Now().Add(patience))
		listener.conn.Write(clientFrame(0x81, []byte("busy")))
		sender.conn.SetReadDeadline(time.Now().Add(patience))
		f, b, err := sender.frame()
		if err != nil {
			t.Fatalf("the connection ended (%v) without a Close frame", err)
		}
		if closed = f == 0x88; closed && string(b[2:]) != "lifetime" {
			t.Errorf("closed with %q, want lifetime", b)
		}
	}
	if !closed {
		t.Error("the pair outlives its lifetime")
	}
}

// A silent side of a pair is asked whether it lives. Its answer is not passed on, and
// without one the pair ends.
func TestSilentPeers(t *testing.T) {
	t.Parallel()
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayPeerPing = 2 * time.Second })
	sender, listener := w.joined(t)
	quiet := func(p *peer) {
		f, b, err := p.frame()
		if err != nil || f != 0x89 {
			t.Fatalf("got frame %#x %q (%v), want a ping", f, b, err)
		}
		p.raw(clientFrame(0x8A, b))
	}
	for range 2 {
		quiet(sender)
		quiet(listener)
	}
	sender.text("only this comes through")
	f, b, err := listener.frame()
	for err == nil && f == 0x89 {
		f, b, err = listener.frame()
	}
	if err != nil || f != 0x81 || string(b) != "only this comes through" {
		t.Fatalf("got frame %#x %q (%v)", f, b, err)
	}
	// the listener answers no more
	sender.expectClose(1011, "peer-lost")
}

// Many bytes in frames of random sizes and fragments arrive as they were sent, both ways
// at once.
func TestSpliceCarriesAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := start(t, nil)
	sender, listener := w.joined(t)
	var all sync.WaitGroup
	for i, way := range [][2]*peer{{sender, listener}, {listener, sender}} {
		sums := make(chan [32]byte, 1)
		all.Go(func() { // writes
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			sum := sha256.New()
			open := false
			var batch []byte
			for range 3000 {
				payload := make([]byte, randomSize(r))
				for j := range payload {
					payload[j] = byte(r.Uint32())
				}
				first := byte(0x02)
				if open {
					first = 0
				}
				if open = r.IntN(3) == 0; !open {
					first |= 0x80
				}
				sum.Write([]byte{first})
				sum.Write(payload)
				if batch = append(batch, clientFrame(first, payload)...); r.IntN(4) == 0 {
					for len(batch) > 0 { // in pieces that end anywhere
						n := 1 + r.IntN(len(batch))
						way[0].raw(batch[:n])
						batch = batch[n:]
					}
				}
			}
			way[0].raw(append(batch, clientFrame(0x88, nil)...))
			sums <- [32]byte(sum.Sum(nil))
		})
		all.Go(func() { // reads
			sum := sha256.New()
			for {
				f, p, err := way[1].frame()
				if err != nil {
					t.Errorf("direction %d: %v", i, err)
					return
				}
				if f == 0x88 {
					break
				}
				sum.Write([]byte{f})
				sum.Write(p)
			}
			if want := <-sums; !bytes.Equal(sum.Sum(nil), want[:]) {
				t.Errorf("direction %d: other bytes arrived", i)
			}
		})
	}
	all.Wait()
}

func randomSize(r *rand.Rand) int {
	switch r.IntN(10) {
	case 0:
		return 0
	case 1:
		return 120 + r.IntN(12)
	case 2:
		return r.IntN(70_000)
	}
	return r.IntN(300)
}

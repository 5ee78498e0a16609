package main

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"net"
	"testing"
)

// stream runs the listener's check on bytes that come in pieces.
func stream(w *world, b []byte, r *rand.Rand) {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.checks(far, bufio.NewReader(far))
		far.Close()
	}()
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(40_000))
		if _, err := near.Write(b[:n]); err != nil {
			break // it has seen enough
		}
		b = b[n:]
	}
	near.Close()
	<-done
}

// serverFrames are the pattern in frames of a server.
func serverFrames(n int) []byte {
	var b []byte
	for range n {
		b = append(append(b, 0x82, 126, messageBytes>>8, messageBytes&0xff), pattern...)
	}
	return b
}

// A byte that is changed, lost or doubled on the way is found.
func TestDamageIsFound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, damage := range map[string]func([]byte) []byte{
		"none":    func(b []byte) []byte { return b },
		"changed": func(b []byte) []byte { b[3*messageBytes] ^= 1; return b },
		"lost":    func(b []byte) []byte { return append(b[:1000], b[1001:]...) },
		"doubled": func(b []byte) []byte { return append(b[:1000], b[999:]...) },
	} {
		for _, framed := range []bool{false, true} {
			w := &world{framed: framed}
			b := bytes.Repeat(pattern, 10)
			if framed {
				b = serverFrames(10)
			}
			stream(w, damage(b), r)
			if found := w.fault.Load() != nil; found != (name != "none") {
				t.Errorf("%s, framed %v: found is %v", name, framed, found)
			}
			if n := w.arrived.Load(); name == "none" && n != 10*messageBytes {
				t.Errorf("framed %v: %d bytes arrived, want %d", framed, n, 10*messageBytes)
			}
		}
	}
}

// The bare rendezvous passes a client's frames on as a server's.
func TestBareCarriesFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	near, from := net.Pipe()
	to, far := net.Pipe()
	go carry(from, to)
	var sent, want []byte
	for range 300 {
		n := []int{0, 5, 125, 126, 1000, 40_000}[r.IntN(6)]
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		sent = appendFrame(sent, 0x82, payload)
		if n < 126 {
			want = append(want, 0x82, byte(n))
		} else {
			want = append(want, 0x82, 126, byte(n>>8), byte(n))
		}
		want = append(want, payload...)
	}
	go func() {
		for b := sent; len(b) > 0; {
			n := min(len(b), 1+r.IntN(50_000))
			near.Write(b[:n])
			b = b[n:]
		}
		near.Close()
	}()
	var got []byte
	b := make([]byte, 64<<10)
	for {
		n, err := far.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came, want %d; they differ", len(got), len(want))
	}
}

// A result that is too good to be true is an error.
func TestTooGood(t *testing.T) {
	o := outcomes{}
	o.add("stream-4", "outrelay", result{CPU: 0.5, Bytes: 1e9, Seconds: 1})
	o.add("stream-4", "bare", result{CPU: 1, Bytes: 1e9, Seconds: 1})
	if tooGood(o) == nil {
		t.Error("half of the bare rendezvous' processor time is taken for true")
	}
	o.add("stream-4", "outrelay", result{CPU: 1.1, Bytes: 1e9, Seconds: 1})
	o.add("stream-4", "outrelay", result{CPU: 1.2, Bytes: 1e9, Seconds: 1})
	if err := tooGood(o); err != nil {
		t.Error(err)
	}
	if m, least, most := o.median("stream-4", "outrelay", result.perGigabyte); m != 1.1 || least != 0.5 || most != 1.2 {
		t.Errorf("the median is %v of %v to %v", m, least, most)
	}
}

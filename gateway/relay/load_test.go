package relay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// memory is what the process holds after a collection: heap and stacks.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// Idle pairs take little memory, and work after they were idle. 1,000 in the long form.
// The figure has both clients in it, which are in this process.
func TestIdlePairs(t *testing.T) {
	pairs := 100
	if os.Getenv("OUTRELAY_SOAK") != "" {
		pairs = 1000
	}
	w := start(t, nil)
	control := w.listen(t, "idle")
	w.pair(t, control, "idle") // what is made once
	before := memory()
	var senders, listeners []*peer
	for range pairs {
		sender, listener := w.pair(t, control, "idle")
		senders, listeners = append(senders, sender), append(listeners, listener)
	}
	each := (memory() - before) / int64(pairs)
	t.Logf("%d idle pairs take %.1f KiB each, with their clients", pairs, float64(each)/1024)
	if each > 64<<10 {
		t.Errorf("an idle pair takes %d bytes", each)
	}
	// Busy once, they give the large buffers back.
	big := bytes.Repeat([]byte{'x'}, 100<<10)
	for i := range senders {
		senders[i].binary(string(big))
		listeners[i].expect(0x82, string(big))
		senders[i].text("small again")
		listeners[i].expect(0x81, "small again")
	}
	big = nil
	after := (memory() - before) / int64(pairs)
	t.Logf("after each was busy: %.1f KiB", float64(after)/1024)
	if after > 96<<10 {
		t.Errorf("a pair that was busy takes %d bytes", after)
	}
	for i := range senders {
		senders[i].conn.Close()
		listeners[i].expectClose(1011, "peer-lost")
		listeners[i].conn.Close()
	}
}

// write sends random bytes as binary messages of random length and returns their sum.
func (p *peer) write(size int64, seed uint64) (sum [32]byte, err error) {
	r := rand.New(rand.NewPCG(seed, 1))
	h := sha256.New()
	block := make([]byte, 256<<10)
	for size > 0 {
		n := min(size, int64(1+r.IntN(len(block))))
		for i := 0; i < int(n); i += 64 { // enough of it is random
			block[i] = byte(r.Uint32())
		}
		h.Write(block[:n])
		p.conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := p.conn.Write(clientFrame(0x82, block[:n])); err != nil {
			return sum, err
		}
		size -= n
	}
	return [32]byte(h.Sum(nil)), nil
}

// read takes binary messages until the Close frame, whose code it returns with the sum
// of what came.
func (p *peer) read() (sum [32]byte, size int64, code int, err error) {
	h := sha256.New()
	for {
		f, b, err := p.frame()
		switch {
		case err != nil:
			return sum, size, 0, err
		case f == 0x88 && len(b) >= 2:
			return [32]byte(h.Sum(nil)), size, int(b[0])<<8 | int(b[1]), nil
		case f == 0x82:
			h.Write(b)
			size += int64(len(b))
		case f == 0x89:
			p.raw(clientFrame(0x8A, b))
		default:
			return sum, size, 0, errors.New("another frame")
		}
	}
}

// A pair carries much, with equal sums at both ends and bounded memory: 1 GiB in the long
// form, else a tenth of it.
func TestPairCarriesMuch(t *testing.T) {
	size := int64(100 << 20)
	if os.Getenv("OUTRELAY_SOAK") != "" {
		size = 1 << 30
	}
	w := start(t, nil)
	sender, listener := w.joined(t)
	before := memory()
	var most int64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() { // watches the memory until the end
		defer close(watched)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, int64(m.HeapInuse+m.StackInuse))
			}
		}
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var sent [32]byte
	var sendErr error
	var writer sync.WaitGroup
	began := time.Now()
	writer.Go(func() {
		if sent, sendErr = sender.write(size, seed); sendErr == nil {
			sender.close(1000, "")
		}
	})
	got, n, code, err := listener.read()
	writer.Wait()
	close(stop)
	<-watched
	if sendErr != nil || err != nil || code != 1000 || n != size || got != sent {
		t.Fatalf("sent %d bytes (%v), got %d (%v), closed with %d; the sums are %x and %x", size, sendErr, n, err, code, sent, got)
	}
	t.Logf("%d MiB in %v; at most %d KiB more than before, with the clients'", size>>20, time.Since(began).Round(time.Millisecond), (most-before)>>10)
	if most-before > 64<<20 {
		t.Errorf("memory grew by %d MiB", (most-before)>>20)
	}
	listener.close(1000, "")
	sender.expectClose(1000, "")
}

// A transfer that breaks off is an error close, or the end without one, at both ends:
// never a good end.
func TestTransferThatBreaksOff(t *testing.T) {
	for name, cut := range map[string]func(w *world, sender, listener *peer){
		"the gateway stops": func(w *world, _, _ *peer) { w.stop() },
		"the sender dies":   func(_ *world, sender, _ *peer) { sender.conn.(*net.TCPConn).SetLinger(0); sender.conn.Close() },
		"the listener dies": func(_ *world, _, listener *peer) { listener.conn.(*net.TCPConn).SetLinger(0); listener.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, nil)
			sender, listener := w.joined(t)
			var both sync.WaitGroup
			var sendErr, readErr error
			var code int
			begun := make(chan struct{})
			both.Go(func() {
				if _, sendErr = sender.write(1<<20, 1); sendErr == nil {
					close(begun)
					_, sendErr = sender.write(1<<40, 2)
				}
			})
			both.Go(func() { _, _, code, readErr = listener.read() })
			<-begun
			cut(w, sender, listener)
			both.Wait()
			if sendErr == nil {
				t.Error("the sender was not told")
			}
			if readErr == nil && code == 1000 {
				t.Error("the listener was told that it was all")
			}
			if name == "the listener dies" {
				sender.conn.SetReadDeadline(time.Now().Add(patience))
				if b, err := io.ReadAll(sender.in); err == nil && bytes.Contains(b, []byte{0x88, 2, 3, 232}) {
					t.Error("the sender was told that it was all")
				}
			}
		})
	}
}

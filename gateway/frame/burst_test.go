//go:build unix

package frame_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/frame"
)

// What came together is read together, however little a socket has held before: all but
// the last of a burst's messages say that another is ready. Nothing is held meanwhile.
func TestBurstIsReadAtOnce(t *testing.T) {
	const burst = 60
	m := &memory{t: t, most: 1 << 20}
	ready, free := make(chan int, 1), make(chan struct{})
	url, client := serve(t, false, frame.Options{Memory: m}, func(s *frame.Socket) {
		for {
			more := 0
			for range burst {
				if _, whole, err := s.Next(time.Minute); err != nil || !whole {
					return
				}
				if s.Ready() {
					more++
				}
			}
			ready <- more
			<-free
		}
	})
	defer close(free)
	c := handshaken(t, url, client, nil)
	message := clientFrame(rand.New(rand.NewPCG(1, 1)), 0x81, make([]byte, 350))
	end := time.Now().Add(30 * time.Second)
	for { // until one comes in one piece
		if _, err := c.Write(bytes.Repeat(message, burst)); err != nil {
			t.Fatal(err)
		}
		more := <-ready
		if more == burst-1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d messages said that another is ready", more, burst)
		}
		free <- struct{}{}
	}
	free <- struct{}{} // and it waits
	for m.used.Load() != 0 {
		if time.Now().After(end) {
			t.Fatalf("a socket that waits holds %d bytes", m.used.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

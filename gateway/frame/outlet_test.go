package frame_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/gateway/frame"
)

// A client gets no frame that was meant for another, whose descriptor number it may have
// after that one was closed while somebody still writes to it.
func TestOutletWritesToNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		const writers, rounds = 4, 40
		var mu sync.Mutex
		number := byte(0)
		url, client := serve(t, secure, frame.Options{}, func(s *frame.Socket) {
			mu.Lock()
			mark := number
			number++
			mu.Unlock()
			if err := s.WriteText([]byte{'0' + mark%64}); err != nil {
				t.Errorf("WriteText: %v", err)
				return
			}
			var c frame.Chunk
			c.Text(bytes.Repeat([]byte{'0' + mark%64}, 100))
			out := s.Outlet()
			var writing sync.WaitGroup
			for range writers {
				writing.Go(func() {
					for {
						if _, err := out.TryWrite(c.Bytes, c.Ends, 0); err != nil {
							return
						}
					}
				})
			}
			drain(s) //nolint:errcheck // the client left
			s.Close()
			writing.Wait()
			if _, err := out.TryWrite(c.Bytes, c.Ends, 0); !errors.Is(err, frame.ErrClosed) {
				t.Errorf("TryWrite after Close = %v", err)
			}
		})
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for range rounds {
					c, _, err := websocket.Dial(limited(t), url, &websocket.DialOptions{HTTPClient: client})
					if err != nil {
						t.Errorf("Dial: %v", err)
						return
					}
					_, first, err := c.Read(limited(t))
					for range 50 {
						if err != nil {
							break
						}
						var b []byte
						if _, b, err = c.Read(limited(t)); err == nil && len(bytes.Trim(b, string(first))) > 0 {
							t.Errorf("the client of %q got %q", first, b)
						}
					}
					c.CloseNow()
					if err != nil {
						t.Errorf("Read: %v", err)
						return
					}
				}
			})
		}
		clients.Wait()
	})
}

// After a Close frame the outlet writes nothing, as the socket doesn't.
func TestOutletEndsWithTheCloseFrame(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		url, client := serve(t, secure, frame.Options{}, func(s *frame.Socket) {
			if err := s.Goodbye(1001, "going", time.Now().Add(time.Minute)); err != nil {
				t.Errorf("Goodbye: %v", err)
			}
			var c frame.Chunk
			c.Text([]byte("late"))
			if _, err := s.Outlet().TryWrite(c.Bytes, c.Ends, 0); !errors.Is(err, frame.ErrClosed) {
				t.Errorf("TryWrite = %v, want ErrClosed", err)
			}
			drain(s) //nolint:errcheck // the client left
		})
		c := dial(t, url, client)
		if _, b, err := c.Read(limited(t)); websocket.CloseStatus(err) != 1001 {
			t.Errorf("read %q, %v, want the Close frame", b, err)
		}
	})
}

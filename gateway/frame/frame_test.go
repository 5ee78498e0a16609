package frame_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/gateway/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs handle for each WebSocket, plain or over TLS, and returns the address.
func serve(t testing.TB, secure bool, o frame.Options, handle func(*frame.Socket)) (url string, client *http.Client) {
	t.Helper()
	var running sync.WaitGroup
	if o.Interval == 0 {
		o.Interval = 10 * time.Second
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := frame.Accept(w, r, o)
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		running.Go(func() {
			defer s.Release()
			defer s.Close()
			handle(s)
		})
	}))
	client = &http.Client{}
	l := frame.Listener{Listener: server.Listener}
	if secure {
		// httptest makes the certificate; our listener does the TLS.
		server.StartTLS()
		config := server.TLS.Clone()
		client = server.Client()
		server.Close()
		server = &httptest.Server{Config: &http.Server{Handler: server.Config.Handler}}
		under, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		config.NextProtos = []string{"http/1.1"}
		l = frame.Listener{Listener: under, TLS: config}
		server.URL = "https://" + under.Addr().String()
	} else {
		server.URL = "http://" + server.Listener.Addr().String()
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Config.Serve(l) }()
	t.Cleanup(func() {
		server.Config.Close()
		<-done
		running.Wait()
		client.CloseIdleConnections()
	})
	return server.URL, client
}

func dial(t testing.TB, url string, client *http.Client) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 24)
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// drain reads until the socket ends.
func drain(s *frame.Socket) error {
	for {
		_, r, err := s.Read(context.Background())
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
}

func each(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("TLS", func(t *testing.T) { f(t, true) })
}

// Frames of every length reach a client that reads slowly, whole and in order, while
// pings are answered between them.
func TestTryWriteKeepsFramesWhole(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		sizes := []int{0, 1, 125, 126, 127, 1000, 65535, 65536, 200_000, 3, 70_000}
		const rounds = 40
		payload := func(i int) []byte {
			return bytes.Repeat([]byte{byte('a' + i%26)}, sizes[i%len(sizes)])
		}
		url, client := serve(t, secure, frame.Options{}, func(s *frame.Socket) {
			var c frame.Chunk
			for i := range rounds * len(sizes) {
				c.Text(payload(i))
				if i%5 != 4 {
					continue
				}
				for done := 0; done < len(c.Ends); {
					b, base := c.From(done)
					n, err := s.TryWrite(b, c.Ends[done:], base)
					if err != nil {
						t.Errorf("TryWrite: %v", err)
						return
					}
					if done += n; done < len(c.Ends) {
						if err := s.Flush(); err != nil {
							t.Errorf("Flush: %v", err)
							return
						}
					}
				}
				c.Reset()
			}
			s.Flush()
			drain(s)
		})
		conn := dial(t, url, client)
		pinged := make(chan struct{})
		defer func() { <-pinged }()
		ctx, cancel := context.WithCancel(limited(t))
		defer cancel()
		go func() {
			defer close(pinged)
			for ctx.Err() == nil {
				conn.Ping(ctx) // answered or given up; reading goes on either way
			}
		}()
		for i := range rounds * len(sizes) {
			kind, got, err := conn.Read(limited(t))
			if err != nil || kind != websocket.MessageText || !bytes.Equal(got, payload(i)) {
				t.Fatalf("message %d: %v, %d bytes, %v, want %d", i, kind, len(got), err, len(payload(i)))
			}
		}
	})
}

// A socket whose client reads nothing takes only what its buffers hold, without
// waiting, and says so.
func TestTryWriteDoesNotWait(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		full := make(chan int, 1)
		url, client := serve(t, secure, frame.Options{}, func(s *frame.Socket) {
			var c frame.Chunk
			for range 1000 {
				c.Text(make([]byte, 1000))
			}
			taken := 0
			for range 1000 {
				n, err := s.TryWrite(c.Bytes, c.Ends, 0)
				if err != nil {
					t.Errorf("TryWrite: %v", err)
					break
				}
				if taken += n; n < len(c.Ends) {
					if n, err := s.TryWrite(c.Bytes, c.Ends, 0); n != 0 || err != nil {
						t.Errorf("TryWrite on a full socket: %d, %v, want 0", n, err)
					}
					break
				}
			}
			full <- taken
			s.Flush()
			drain(s)
		})
		conn := dial(t, url, client)
		taken := <-full
		if taken == 0 || taken == 1000*1000 {
			t.Fatalf("%d frames taken, want some", taken)
		}
		for range taken {
			if _, _, err := conn.Read(limited(t)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNoDataAfterClose(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		url, client := serve(t, secure, frame.Options{}, func(s *frame.Socket) {
			if err := s.WriteText([]byte("one")); err != nil {
				t.Error(err)
			}
			s.Goodbye(int(websocket.StatusGoingAway), "drain "+strings.Repeat("é", 100), time.Now().Add(5*time.Second))
			if err := s.WriteText([]byte("two")); !errors.Is(err, frame.ErrClosed) {
				t.Errorf("WriteText after the Close frame: %v, want ErrClosed", err)
			}
			drain(s)
		})
		conn := dial(t, url, client)
		if _, got, err := conn.Read(limited(t)); err != nil || string(got) != "one" {
			t.Fatalf("%q, %v", got, err)
		}
		_, _, err := conn.Read(limited(t))
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway || !strings.HasPrefix(closed.Reason, "drain é") {
			t.Errorf("got %v, want 1001 drain", err)
		}
	})
}

// A client that does not read for the time of Stall is given up; one that reads
// slowly is not.
func TestFlushGivesUpOnAStalledClient(t *testing.T) {
	result := make(chan error, 1)
	url, client := serve(t, false, frame.Options{Interval: 100 * time.Millisecond}, func(s *frame.Socket) {
		var c frame.Chunk
		c.Text(make([]byte, 16<<20))
		result <- s.Write(&c)
	})
	dial(t, url, client)
	if err := <-result; err == nil {
		t.Error("writing to a client that reads nothing succeeded")
	}
}

// A socket that was full once takes frames as before, however much later.
func TestTryWriteLongAfterAFlush(t *testing.T) {
	each(t, func(t *testing.T, secure bool) {
		const interval = time.Second
		result := make(chan error, 1)
		url, client := serve(t, secure, frame.Options{Interval: interval}, func(s *frame.Socket) {
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				drain(s)
			}()
			defer func() { <-reading }()
			var c frame.Chunk
			c.Text(make([]byte, 12<<20)) // more than the buffers between hold
			if err := s.Write(&c); err != nil {
				result <- err
				return
			}
			time.Sleep(interval + interval/10) // the time that a flush has
			c.Reset()
			c.Text([]byte("later"))
			_, err := s.TryWrite(c.Bytes, c.Ends, 0)
			result <- err
		})
		conn := dial(t, url, client)
		for range 2 {
			if _, _, err := conn.Read(limited(t)); err != nil {
				t.Errorf("read: %v", err)
				break
			}
		}
		if err := <-result; err != nil {
			t.Errorf("a write later: %v", err)
		}
		conn.CloseNow()
	})
}

// Bytes that arrive in one packet with the handshake are not lost.
func TestEarlyFrames(t *testing.T) {
	got := make(chan string, 1)
	url, _ := serve(t, false, frame.Options{}, func(s *frame.Socket) {
		_, r, err := s.Read(limited(t))
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(r)
		got <- string(b)
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	early := []byte{0x81, 0x85, 0, 0, 0, 0, 'e', 'a', 'r', 'l', 'y'} // masked with zeros
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n%s", early)
	select {
	case s := <-got:
		if s != "early" {
			t.Errorf("got %q", s)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the early frame did not arrive")
	}
}

// A write of the pump allocates nothing.
func TestTryWriteAllocatesNothing(t *testing.T) {
	done := make(chan struct{})
	url, client := serve(t, false, frame.Options{}, func(s *frame.Socket) {
		defer close(done)
		var c frame.Chunk
		payload := make([]byte, 256)
		allocs := testing.AllocsPerRun(100, func() {
			c.Reset()
			for range 4 {
				c.Text(payload)
			}
			if n, err := s.TryWrite(c.Bytes, c.Ends, 0); n != 4 || err != nil {
				t.Errorf("TryWrite: %d, %v", n, err)
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations a write, want 0", allocs)
		}
	})
	conn := dial(t, url, client)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, _, err := conn.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	<-done
	conn.CloseNow()
	<-read
}

package subscriber_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A way is how HTTP reaches a server: a listener for it, and how a client gets there.
type way struct {
	listen func(t *testing.T) net.Listener
	dial   func(ctx context.Context) (net.Conn, error)
}

// ways are a TCP listener, which is what a server is used to, and a hybrid connection.
func ways(t *testing.T) map[string]*way {
	tcp := &way{}
	tcp.listen = func(t *testing.T) net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		tcp.dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
		return l
	}
	w := newWorld(t)
	relayed := &way{}
	relayed.listen = func(t *testing.T) net.Listener {
		l, err := w.client().Listen(context.Background(), "web") // until it is closed
		if err != nil {
			t.Fatal(err)
		}
		sender := w.client()
		relayed.dial = func(ctx context.Context) (net.Conn, error) { return sender.Dial(ctx, "web") }
		return l
	}
	return map[string]*way{"tcp": tcp, "relayed": relayed}
}

// http.Serve on a hybrid connection's listener does what it does on a TCP listener.
func TestServe(t *testing.T) {
	all := ways(t)
	for _, check := range []struct {
		name string
		run  func(t *testing.T, s *server)
	}{
		{"keep-alive", checkKeepAlive},
		{"connection close", checkConnectionClose},
		{"HTTP/1.0", checkOldHTTP},
		{"chunked with trailers", checkChunked},
		{"expect continue", checkContinue},
		{"pipelining", checkPipelining},
		{"hijack", checkHijack},
		{"WebSocket", checkWebSocket},
		{"client gone", checkClientGone},
		{"client gone in the body", checkClientGoneInBody},
		{"handler panics", checkPanic},
		{"large bodies", checkLargeBodies},
		{"both ways at once", checkBothWays},
		{"streamed answer", checkStream},
		{"head and no content", checkBodyless},
		{"bad request", checkBadRequest},
		{"server's read timeout", checkReadTimeout},
		{"server's write timeout", checkWriteTimeout},
		{"server's idle timeout", checkIdleTimeout},
		{"half-closed client", checkHalfClosedClient},
		{"many clients", checkManyClients},
		{"shutdown", checkShutdown},
	} {
		for _, name := range []string{"tcp", "relayed"} {
			t.Run(check.name+"/"+name, func(t *testing.T) { check.run(t, newServer(t, all[name])) })
		}
	}
}

// A server is a net/http server reached by one way.
type server struct {
	*http.Server
	*way
	client *http.Client
	mux    *http.ServeMux
	conns  int // that clients opened
	mu     sync.Mutex
	start  func()
}

// newServer makes one; start serves.
func newServer(t *testing.T, w *way) *server {
	s := &server{way: w, mux: http.NewServeMux()}
	s.Server = &http.Server{Handler: s.mux}
	l := w.listen(t)
	var serving sync.WaitGroup
	s.start = func() {
		serving.Go(func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		return w.dial(ctx)
	}}
	s.client = &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Close()
		l.Close()
		serving.Wait()
	})
	return s
}

func (s *server) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// get is the body of an answer that must be 200.
func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	resp, err := s.client.Get("http://web.test" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, resp.Status, err)
	}
	return string(b)
}

// raw opens a connection on which a test writes HTTP itself.
func (s *server) raw(t *testing.T, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	write(t, c, text)
	return c, bufio.NewReader(c)
}

// read reads an answer and its body.
func read(t *testing.T, in *bufio.Reader) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// ended waits for the end of a connection and fails unless it is as wanted.
func ended(t *testing.T, in io.Reader) {
	t.Helper()
	b, err := io.ReadAll(in)
	if err != nil || len(b) > 0 {
		t.Errorf("the connection ended with %q and %v, want its end", b, err)
	}
}

func checkKeepAlive(t *testing.T, s *server) {
	s.mux.HandleFunc("/n/{n}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.PathValue("n")) })
	s.start()
	for n := range 20 {
		if got := s.get(t, fmt.Sprintf("/n/%d", n)); got != fmt.Sprint(n) {
			t.Errorf("request %d was answered %q", n, got)
		}
	}
	if s.opened() != 1 {
		t.Errorf("20 requests took %d connections, want 1", s.opened())
	}
}

func checkConnectionClose(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "bye")
	})
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	if resp, body := read(t, in); body != "bye" || !resp.Close {
		t.Errorf("got %q, close %v", body, resp.Close)
	}
	ended(t, in)
}

func checkOldHTTP(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
		w.(http.Flusher).Flush()
		io.WriteString(w, ", until the end")
	})
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.0\r\n\r\n")
	if _, body := read(t, in); body != "HTTP/1.0, until the end" {
		t.Errorf("got %q", body)
	}
}

func checkChunked(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%v %s %s", r.TransferEncoding, b, r.Trailer.Get("Name"))
		w.(http.Flusher).Flush()
		io.WriteString(w, "!")
		w.Header().Set("Sum", "17")
	})
	s.start()
	c, in := s.raw(t, "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\nTrailer: Name\r\n\r\n")
	for _, part := range []string{"5\r\nhel", "lo\r\n", "1", "\r\n!\r\n0\r\nName: value\r\n", "\r\n"} {
		write(t, c, part)
	}
	resp, body := read(t, in)
	if body != "[chunked] hello! value!" || resp.Trailer.Get("Sum") != "17" {
		t.Errorf("got %q, trailer %v", body, resp.Trailer)
	}
}

func checkContinue(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	s.start()
	c, in := s.raw(t, "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusContinue {
		t.Fatalf("got %v, %v; want 100", resp, err)
	}
	write(t, c, "hello")
	if _, body := read(t, in); body != "hello" {
		t.Errorf("got %q", body)
	}
	_, in = s.raw(t, "POST /refused HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if resp, _ := read(t, in); resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %s, want 403 without the body", resp.Status)
	}
}

func checkPipelining(t *testing.T, s *server) {
	s.mux.HandleFunc("/n/{n}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s:%s", r.PathValue("n"), b)
	})
	s.start()
	var all strings.Builder
	for n := range 100 {
		fmt.Fprintf(&all, "POST /n/%d HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\n\r\n%04d", n, n)
	}
	_, in := s.raw(t, all.String())
	for n := range 100 {
		if _, body := read(t, in); body != fmt.Sprintf("%d:%04[1]d", n) {
			t.Fatalf("answer %d is %q", n, body)
		}
	}
}

func checkHijack(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, err := rw.ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		io.WriteString(c, line)
		_, _ = io.Copy(c, rw) // until the client has said its last
	})
	s.start()
	c, in := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly\n")
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	write(t, c, "late")
	closeWrite(t, c)
	if b, err := io.ReadAll(in); err != nil || string(b) != "early\nlate" {
		t.Errorf("got %q, %v", b, err)
	}
}

func checkWebSocket(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				if websocket.CloseStatus(err) != 4001 {
					t.Errorf("the server read %v, want the client's close", err)
				}
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				t.Error(err)
			}
		}
	})
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://web.test/", &websocket.DialOptions{HTTPClient: s.client})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	for _, n := range []int{0, 1, 125, 126, 70_000, 500_000} {
		sent := strings.Repeat("x", n)
		if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != sent {
			t.Fatalf("of %d bytes %d came back, %v", n, len(got), err)
		}
	}
	if err := c.Close(4001, "done"); err != nil {
		t.Error(err)
	}
}

func checkClientGone(t *testing.T, s *server) {
	entered, left := make(chan bool, 1), make(chan error, 1)
	s.mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) {
		entered <- true
		select {
		case <-r.Context().Done():
			left <- nil
		case <-time.After(patience):
			left <- errors.New("the request's context has not ended")
		}
	})
	s.start()
	c, _ := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	<-entered
	c.Close()
	if err := <-left; err != nil {
		t.Error(err)
	}
}

func checkClientGoneInBody(t *testing.T, s *server) {
	read := make(chan error, 1)
	s.mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	})
	s.start()
	c, _ := s.raw(t, "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100\r\n\r\npart")
	c.Close()
	if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the body ended with %v, want io.ErrUnexpectedEOF", err)
	}
}

func checkPanic(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "part" {
		t.Errorf("got %q, %v; want the part and an error", b, err)
	}
}

func checkLargeBodies(t *testing.T, s *server) {
	const size = 8 << 20
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil || n != size {
			t.Errorf("the server read %d bytes, %v", n, err)
		}
		w.Header().Set("Sum", fmt.Sprintf("%x", sum.Sum(nil)))
		w.Header().Set("Content-Length", fmt.Sprint(size))
		if _, err := io.Copy(w, io.LimitReader(noise(2), size)); err != nil {
			t.Error(err)
		}
	})
	s.start()
	want, sent, got := sha256.New(), sha256.New(), sha256.New()
	_, _ = io.Copy(want, io.LimitReader(noise(2), size))
	r, err := http.NewRequest(http.MethodPost, "http://web.test/", io.TeeReader(io.LimitReader(noise(1), size), sent))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = size
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(got, resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Sum") != fmt.Sprintf("%x", sent.Sum(nil)) {
		t.Error("the server read other bytes than were sent")
	}
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Error("the client read other bytes than were sent")
	}
}

// noise is bytes without end that no two places have alike.
func noise(seed byte) io.Reader { return &noisy{seed: uint64(seed)} }

type noisy struct{ seed, at uint64 }

func (n *noisy) Read(p []byte) (int, error) {
	for i := range p {
		x := (n.at + n.seed<<56) * 0x9E3779B97F4A7C15
		p[i] = byte(x >> 33)
		n.at++
	}
	return len(p), nil
}

func checkBothWays(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		b := make([]byte, 1)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				_, _ = w.Write(b)
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	})
	s.start()
	c, in := s.raw(t, "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for _, sent := range "abc" {
		if sent != 'a' {
			write(t, c, fmt.Sprintf("1\r\n%c\r\n", sent))
		}
		if _, err := io.ReadFull(resp.Body, b); err != nil || rune(b[0]) != sent {
			t.Fatalf("got %q, %v; want %q before more is sent", b, err, sent)
		}
	}
	write(t, c, "0\r\n\r\n")
	ended(t, resp.Body)
}

func checkStream(t *testing.T, s *server) {
	next := make(chan string)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for line := range next {
			io.WriteString(w, line)
			w.(http.Flusher).Flush()
		}
	})
	s.start()
	resp, err := s.client.Get("http://web.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for n := range 5 {
		want := fmt.Sprintf("data: %d\n", n)
		next <- want
		if got, err := in.ReadString('\n'); err != nil || got != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	close(next)
	ended(t, in)
}

func checkBodyless(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Length", "17")
	})
	s.start()
	resp, err := s.client.Head("http://web.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ContentLength != 17 {
		t.Errorf("HEAD says %d bytes, want 17", resp.ContentLength)
	}
	resp, err = s.client.Get("http://web.test/none")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("got %s, want 204", resp.Status)
	}
}

func checkBadRequest(t *testing.T, s *server) {
	s.start()
	_, in := s.raw(t, "what is this\r\n\r\n")
	if resp, _ := read(t, in); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s, want 400", resp.Status)
	}
}

func checkReadTimeout(t *testing.T, s *server) {
	s.ReadTimeout = 50 * time.Millisecond
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.1\r\nHost: ")
	ended(t, in)
}

func checkWriteTimeout(t *testing.T, s *server) {
	s.WriteTimeout = 200 * time.Millisecond
	wrote := make(chan error, 1)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.Copy(w, io.LimitReader(noise(1), 256<<20))
		wrote <- err
	})
	s.start()
	s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n") // and not a byte is read
	select {
	case err := <-wrote:
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("the handler's write gave %v, want a timeout", err)
		}
	case <-time.After(patience):
		t.Error("the handler's write has no end")
	}
}

func checkIdleTimeout(t *testing.T, s *server) {
	s.IdleTimeout = 50 * time.Millisecond
	s.mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	read(t, in)
	ended(t, in)
}

func checkHalfClosedClient(t *testing.T, s *server) {
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	s.start()
	c, in := s.raw(t, "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\n\r\nlast")
	closeWrite(t, c)
	if _, body := read(t, in); body != "last" {
		t.Errorf("got %q", body)
	}
	ended(t, in)
}

func checkManyClients(t *testing.T, s *server) {
	const clients = 40
	var together sync.WaitGroup
	together.Add(clients)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait() // so that all are there at once
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b)
	})
	s.start()
	var asking sync.WaitGroup
	for n := range clients {
		asking.Go(func() {
			body := strings.Repeat(fmt.Sprint(n), 20_000)
			resp, err := s.client.Post("http://web.test/", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != body {
				t.Errorf("client %d got %d bytes of another, %v", n, len(b), err)
			}
		})
	}
	asking.Wait()
}

func checkShutdown(t *testing.T, s *server) {
	entered, leave := make(chan bool), make(chan bool)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		io.WriteString(w, "finished")
	})
	s.start()
	_, in := s.raw(t, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	<-entered
	var shutting sync.WaitGroup
	shutting.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	for deadline := time.Now().Add(patience); ; { // until nothing new is taken
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		c, err := s.dial(ctx)
		cancel()
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("new connections are taken during the shutdown")
		}
	}
	close(leave)
	if _, body := read(t, in); body != "finished" {
		t.Errorf("got %q", body)
	}
	shutting.Wait()
}

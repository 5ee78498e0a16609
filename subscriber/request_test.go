package subscriber_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/subscriber"
)

// A site is an HTTP server on the hybrid connection "web/site", reached by plain HTTP
// requests to the gateway.
type site struct {
	*http.Server
	listener *subscriber.Listener
	mux      *http.ServeMux
	client   *http.Client
	address  string
}

func newSite(t *testing.T, options subscriber.ListenOptions) *site {
	w := newWorld(t)
	l, err := w.client().ListenWith(context.Background(), "web/site", options)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{listener: l, mux: http.NewServeMux(), address: "http://" + w.proxy.listener.Addr().String() + "/web/site"}
	s.Server = &http.Server{Handler: s.mux}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	s.client = &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Close()
		serving.Wait()
	})
	return s
}

// do makes a request and reads the answer.
func (s *site) do(t *testing.T, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(b)
}

// An HTTP request to the gateway reaches a handler behind the firewall as it was sent,
// and the answer comes back as it was given.
func TestRequestsReachHandler(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	s.mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Seen", fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, r.Header.Get("Custom")))
		w.Header().Add("Set-Cookie", "a=1; Expires=Wed, 09 Jun 2032 10:18:14 GMT")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(b)
	})
	s.mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, host, err, r.Host)
	})
	s.mux.HandleFunc("/none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s.mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })

	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"} {
		body := "the body of " + method
		resp, got := s.do(t, method, "/echo?x=%2f&y=1;2", strings.NewReader(body), "Custom", "value")
		if want := method + " /echo?x=%2f&y=1;2 value"; resp.StatusCode != http.StatusTeapot || resp.Header.Get("Seen") != want || got != body {
			t.Errorf("%s: %s, seen %q, body %q", method, resp.Status, resp.Header.Get("Seen"), got)
		}
		if cookies := resp.Header["Set-Cookie"]; !slices.Equal(cookies, []string{"a=1; Expires=Wed, 09 Jun 2032 10:18:14 GMT", "b=2"}) {
			t.Errorf("%s: the cookies are %q", method, cookies)
		}
	}
	if resp, got := s.do(t, "HEAD", "/echo", nil); resp.StatusCode != http.StatusTeapot || got != "" {
		t.Errorf("HEAD: %s %q", resp.Status, got)
	}
	if _, got := s.do(t, "GET", "/who", nil); !strings.HasPrefix(got, "127.0.0.1 <nil> 127.0.0.1") {
		t.Errorf("the handler saw %q, want the sender's address and the gateway's name", got)
	}
	if resp, got := s.do(t, "GET", "/none", nil); resp.StatusCode != http.StatusNoContent || got != "" {
		t.Errorf("got %s %q, want 204", resp.Status, got)
	}
	if resp, _ := s.do(t, "GET", "/moved", nil); resp.Header.Get("Location") != "/elsewhere" {
		t.Errorf("got %s to %q", resp.Status, resp.Header.Get("Location"))
	}
	s.mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	for _, path := range []string{"?x=/y", "/?x=/y"} {
		if _, got := s.do(t, "GET", path, nil); got != "/?x=/y" {
			t.Errorf("%s reached the handler as %q", path, got)
		}
	}
	if resp, _ := s.do(t, "GET", "/missing", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("got %s, want what the mux says", resp.Status)
	}
}

// With KeepName the path stays as it was sent.
func TestRequestsKeepName(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{KeepName: true})
	s.mux.HandleFunc("/web/site/page", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	if _, got := s.do(t, "GET", "/page", nil); got != "/web/site/page" {
		t.Errorf("got %q", got)
	}
}

// Bodies of every size and kind go both ways, whole.
func TestRequestBodies(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		_, _ = w.Write(b)
	})
	for _, size := range []int{0, 1, 1000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200_000, 5 << 20} {
		body := make([]byte, size)
		_, _ = noise(3).Read(body)
		for _, path := range []string{"/sized", "/chunked"} {
			if resp, got := s.do(t, "POST", path, bytes.NewReader(body)); got != string(body) {
				t.Errorf("%s: of %d bytes came %d back, or others (%s)", path, size, len(got), resp.Status)
			}
			if resp, got := s.do(t, "POST", path, io.MultiReader(bytes.NewReader(body))); got != string(body) {
				t.Errorf("%s: of %d bytes in chunks came %d back, or others (%s)", path, size, len(got), resp.Status)
			}
		}
	}
}

// What a handler flushes is with the sender before the handler goes on, and a body
// that is being sent is with the handler.
func TestRequestsStream(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	next := make(chan string)
	s.mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for line := range next {
			io.WriteString(w, line)
			w.(http.Flusher).Flush()
		}
	})
	lines := make(chan string)
	s.mux.HandleFunc("/upload", func(_ http.ResponseWriter, r *http.Request) {
		defer close(lines)
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			lines <- in.Text()
		}
	})
	resp, err := s.client.Get(s.address + "/events")
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

	body, out := io.Pipe()
	var uploading sync.WaitGroup
	uploading.Go(func() {
		for n := range 5 {
			fmt.Fprintln(out, n)
			if got := <-lines; got != fmt.Sprint(n) {
				t.Errorf("line %d came as %q", n, got)
			}
		}
		out.Close()
		<-lines
	})
	s.do(t, "POST", "/upload", body)
	uploading.Wait()
}

// A handler learns that its sender has gone, wherever the request travels.
func TestRequestCancelled(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	entered, left := make(chan bool), make(chan error)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- true
		select {
		case <-r.Context().Done():
			left <- nil
		case <-time.After(patience):
			left <- errors.New("the request's context has not ended")
		}
	})
	for _, tt := range []struct {
		path string
		size int
	}{{"/none", 0}, {"/inline", 10}, {"/large", 200_000}, {"/begun", 0}} {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "POST", s.address+tt.path, strings.NewReader(strings.Repeat("x", tt.size)))
		if err != nil {
			t.Fatal(err)
		}
		var asking sync.WaitGroup
		asking.Go(func() {
			if resp, err := s.client.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
		<-entered
		cancel()
		if err := <-left; err != nil {
			t.Errorf("%s: %v", tt.path, err)
		}
		asking.Wait()
	}
}

// A handler that gives no answer, or half of one, is no good answer.
func TestRequestsFail(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/nothing" {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond) // so that the head has left already
		}
		panic(http.ErrAbortHandler)
	})
	if resp, _ := s.do(t, "GET", "/nothing", nil); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("got %s, want 502", resp.Status)
	}
	resp, err := s.client.Get(s.address + "/part")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the broken answer %q was taken for whole", b)
	}
}

// Many requests at once get their own answers.
func TestManyRequests(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	s.mux.HandleFunc("/{n}", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s:%s", r.PathValue("n"), b)
	})
	var asking sync.WaitGroup
	for n := range 20 {
		asking.Go(func() {
			for m := range 20 {
				body := strings.Repeat("x", n*m*10)
				path := fmt.Sprintf("/%d-%d", n, m)
				if _, got := s.do(t, "POST", path, strings.NewReader(body)); got != path[1:]+":"+body {
					t.Errorf("%s got %.40q", path, got)
				}
			}
		})
	}
	asking.Wait()
}

// A listener that closes finishes what it has begun, and takes nothing new.
func TestListenerDrains(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{})
	entered, leave := make(chan bool, 10), make(chan bool)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		entered <- true
		<-leave
		io.WriteString(w, "finished")
	})
	var asking sync.WaitGroup
	for n := range 3 {
		asking.Go(func() {
			body := strings.Repeat("x", n*100_000)
			if resp, got := s.do(t, "POST", "/", strings.NewReader(body)); got != "finished" {
				t.Errorf("got %s %q, want that it is finished", resp.Status, got)
			}
		})
		<-entered
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asking.Go(func() {
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	for deadline := time.Now().Add(patience); s.listener.State().Phase != subscriber.Ended; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the listener does not end")
		}
	}
	if resp, _ := s.do(t, "GET", "/", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("after Close: %s, want 404", resp.Status)
	}
	close(leave)
	asking.Wait()
}

// With Upgrades a sender's WebSocket reaches the server's WebSocket endpoint, and a
// refusal of the server the sender; a Dial is a stream of bytes all the same.
func TestUpgrades(t *testing.T) {
	s := newSite(t, subscriber.ListenOptions{Upgrades: true})
	s.mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"second"}, CompressionMode: websocket.CompressionContextTakeover})
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
			if err := c.Write(r.Context(), kind, append(b, r.URL.RawQuery...)); err != nil {
				t.Error(err)
			}
		}
	})
	s.mux.HandleFunc("/closes", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.Close(4002, "no more")
	})
	s.mux.HandleFunc("/forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, address := range []string{s.address, strings.Replace(s.address, "/web", "/$hc/web", 1)} {
		c, _, err := websocket.Dial(ctx, address+"/socket?q=1", &websocket.DialOptions{
			HTTPClient: s.client, Subprotocols: []string{"first", "second"}, CompressionMode: websocket.CompressionContextTakeover,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(1 << 20)
		if c.Subprotocol() != "second" {
			t.Errorf("the subprotocol is %q, want the server's", c.Subprotocol())
		}
		for _, n := range []int{0, 1, 125, 126, 4000, 70_000, 500_000} {
			sent := strings.Repeat("x", n)
			if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
				t.Fatal(err)
			}
			kind, got, err := c.Read(ctx)
			if err != nil || kind != websocket.MessageText || string(got) != sent+"q=1" {
				t.Fatalf("of %d bytes %d came back, %v", n, len(got), err)
			}
		}
		if err := c.Close(4001, "done"); err != nil {
			t.Error(err)
		}
	}
	c, _, err := websocket.Dial(ctx, s.address+"/closes", &websocket.DialOptions{HTTPClient: s.client})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != 4002 {
		t.Errorf("Read gave %v, want the server's close", err)
	}
	if _, resp, err := websocket.Dial(ctx, s.address+"/forbidden", &websocket.DialOptions{HTTPClient: s.client}); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %v, %v; want the server's 403", resp, err)
	}
}

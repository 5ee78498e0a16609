package subscriber_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A pipeListener is a network of its own for one server, without sockets, so that
// a test's clock can stand still.
type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A visit is one connection to a faulty server: what came, and the answer.
type visit struct {
	t    *testing.T
	n    int // from 0
	at   time.Time
	r    *http.Request
	w    http.ResponseWriter
	conn *websocket.Conn
}

// accept takes the WebSocket.
func (v *visit) accept() { v.acceptPings(func() bool { return true }, func() {}) }

// acceptPings takes the WebSocket and is told of each ping, to say whether to
// answer it, and of each pong.
func (v *visit) acceptPings(ping func() bool, pong func()) {
	conn, err := websocket.Accept(v.w, v.r, &websocket.AcceptOptions{
		Subprotocols:   []string{schemas.SubprotocolCloudEvents},
		OnPingReceived: func(context.Context, []byte) bool { return ping() },
		OnPongReceived: func(context.Context, []byte) { pong() },
	})
	if err != nil {
		v.t.Errorf("visit %d: accept: %v", v.n, err)
		return
	}
	v.conn = conn
}

// send writes a message; what can't be sent is the client's choice.
func (v *visit) send(message string) {
	_ = v.conn.Write(context.Background(), websocket.MessageText, []byte(message))
}

// open accepts and says where the stream begins.
func (v *visit) open(sequence uint64) {
	v.accept()
	v.send(notice("open", map[string]any{"cursor": place(sequence)}))
}

// events delivers some, by their places in the log.
func (v *visit) events(sequences ...uint64) {
	for _, n := range sequences {
		v.send(stored(n))
	}
}

// after is the place after which the client wants to go on.
func (v *visit) after() uint64 {
	s := v.r.URL.Query().Get("after")
	if s == "" {
		return 0
	}
	c, err := schemas.ParseCursor(s)
	if err != nil {
		v.t.Errorf("visit %d: after=%q: %v", v.n, s, err)
	}
	return c.Sequence
}

// linger reads until the client leaves, as a gateway does, and returns its close
// code, -1 without a Close frame.
func (v *visit) linger() websocket.StatusCode {
	for {
		if _, _, err := v.conn.Read(context.Background()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// cut ends the connection without a word.
func (v *visit) cut() { _ = v.conn.CloseNow() }

// refuse answers with a problem.
func (v *visit) refuse(p *schemas.Problem) {
	if p.RetryAfter > 0 {
		v.w.Header().Set("Retry-After", fmt.Sprint(int(p.RetryAfter/time.Second)))
	}
	v.w.Header().Set("Content-Type", schemas.MediaTypeProblem)
	v.w.WriteHeader(p.Status())
	_ = json.NewEncoder(v.w).Encode(p)
}

// A faulty is a server that does what a test says instead of what a gateway would.
type faulty struct {
	listener *pipeListener
	server   *http.Server
	served   sync.WaitGroup

	mu     sync.Mutex
	visits int
}

// newFaulty starts a server in the test's bubble; visit is called for each request.
func newFaulty(t *testing.T, each func(*visit)) *faulty {
	f := &faulty{listener: newPipeListener()}
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		n := f.visits
		f.visits++
		f.mu.Unlock()
		v := &visit{t: t, n: n, at: time.Now(), r: r, w: w}
		f.served.Add(1)
		defer f.served.Done()
		each(v)
		if v.conn != nil {
			_ = v.conn.CloseNow()
		}
	})}
	f.served.Go(func() { _ = f.server.Serve(f.listener) })
	return f
}

func (f *faulty) close() {
	_ = f.server.Close()
	f.served.Wait()
}

// config is a client's that reaches the server.
func (f *faulty) config() subscriber.Config {
	return subscriber.Config{
		Gateway:     "http://gateway.test",
		Proxy:       func(*http.Request) (*url.URL, error) { return nil, nil },
		DialContext: f.listener.dial,
	}
}

func (f *faulty) client(t *testing.T, config subscriber.Config) *subscriber.Client {
	t.Helper()
	c, err := subscriber.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func place(sequence uint64) string {
	return schemas.Cursor{Log: 1, Sequence: sequence, Accepted: int64(sequence)}.String()
}

func event(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"t"}`, id)
}

func stored(sequence uint64) string {
	c := schemas.Cursor{Log: 1, Sequence: sequence, Accepted: int64(sequence)}
	return string(schemas.AppendDelivered(nil, []byte(event(fmt.Sprint(sequence))), "a/b", &c))
}

func notice(kind string, data any) string {
	b, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": "n", "source": "/outrelay", "type": "dev.outrelay." + kind, "data": data,
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// take gets the next n events and returns their ids.
func take(t *testing.T, s *subscriber.Stream, n int) []string {
	t.Helper()
	var ids []string
	for range n {
		d, err := s.Next(t.Context())
		if err != nil {
			t.Fatalf("after %d events: Next: %v", len(ids), err)
		}
		ids = append(ids, id(t, d))
	}
	return ids
}

func id(t *testing.T, d subscriber.Delivery) string {
	t.Helper()
	e, err := d.Event()
	if err != nil {
		t.Fatal(err)
	}
	return e.ID()
}

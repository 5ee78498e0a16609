package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A behaviour is what a web service does with a request.
type behaviour func(w http.ResponseWriter, r *http.Request)

// answering answers with a status.
func answering(status int, header ...string) behaviour {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// hanging never answers.
func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// dying cuts the connection in the middle of a good answer.
func dying(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")
	conn.Close()
}

// A call is a request that a web service got.
type call struct {
	id, key      string
	attempt      int
	began, ended time.Time
	status       int // 0: it was no whole answer
}

// A webService takes CloudEvents in binary mode, writes each request down, and fails in
// the ways that a test wants. It can go away and come back on its address.
type webService struct {
	t       *testing.T
	address string

	serving sync.WaitGroup
	server  *http.Server

	mu    sync.Mutex
	does  func(c *call) behaviour
	calls []*call
}

func newWebService(t *testing.T, does func(*call) behaviour) *webService {
	t.Helper()
	s := &webService{t: t, does: does, address: "127.0.0.1:0"}
	s.up()
	t.Cleanup(s.down)
	return s
}

// up begins to listen.
func (s *webService) up() {
	s.t.Helper()
	var l net.Listener
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if l, err = net.Listen("tcp", s.address); err == nil {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
	s.address = l.Addr().String()
	s.server = &http.Server{Handler: http.HandlerFunc(s.serve)}
	server := s.server
	s.serving.Go(func() { _ = server.Serve(l) })
}

// down cuts all connections; those that come are refused.
func (s *webService) down() {
	s.server.Close()
	s.serving.Wait()
}

// will changes what it does with the requests that come from now on.
func (s *webService) will(does func(*call) behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.does = does
}

func always(b behaviour) func(*call) behaviour { return func(*call) behaviour { return b } }

func (s *webService) serve(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	attempt, _ := strconv.Atoi(r.Header.Get("Outrelay-Attempt"))
	c := &call{id: r.Header.Get("Ce-Id"), key: r.Header.Get("Ce-Partitionkey"), attempt: attempt, began: time.Now()}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	b := s.does(c)
	s.mu.Unlock()
	watched := &statusWriter{ResponseWriter: w}
	b(watched, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.status, c.ended = watched.status, time.Now()
}

// seen is what came so far.
func (s *webService) seen() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]call, len(s.calls))
	for i, c := range s.calls {
		all[i] = *c
	}
	return all
}

// A statusWriter knows with which status it was answered, if so.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// until waits for something.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if t.Failed() {
			t.FailNow()
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

func keyed(id, key string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/e2e","type":"t","partitionkey":%q}`, id, key)
}

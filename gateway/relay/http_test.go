package relay_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// A reply is the answer to an HTTP request, or why there is none.
type reply struct {
	*http.Response
	body string
	err  error
}

// asking sends an HTTP request while the test goes on.
func (w *world) asking(t testing.TB, method, path, body string, headers ...string) chan reply {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	q, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.host+path, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Add(name, value)
	}
	return w.doing(q)
}

func (w *world) doing(q *http.Request) chan reply {
	c := make(chan reply, 1)
	go func() {
		answer, err := w.server.Client().Do(q)
		r := reply{Response: answer, err: err}
		if err == nil {
			var b []byte
			b, r.err = io.ReadAll(answer.Body)
			r.body = string(b)
			answer.Body.Close()
		}
		c <- r
	}()
	return c
}

// await takes the answer, which must be whole.
func await(t testing.TB, replies chan reply) reply {
	t.Helper()
	select {
	case r := <-replies:
		if r.err != nil {
			t.Fatalf("the request: %v", r.err)
		}
		return r
	case <-time.After(patience):
		t.Fatal("the request was not answered in time")
		panic("unreachable")
	}
}

// awaitCut waits for an answer that breaks off.
func awaitCut(t testing.TB, replies chan reply) {
	t.Helper()
	select {
	case r := <-replies:
		if r.err == nil {
			t.Fatalf("the request got a whole answer: %s %.100q", r.Status, r.body)
		}
	case <-time.After(patience):
		t.Fatal("the answer was not cut in time")
	}
}

// request reads the next message, which must be about an HTTP request.
func (p *peer) request() *offer {
	p.t.Helper()
	m := p.message()
	if m.Request == nil || m.Accept != nil {
		p.t.Fatalf("got %+v, want a request", m)
	}
	return m.Request
}

// answerText is a response in JSON; more are members behind the id.
func answerText(id, more string) string {
	quoted, err := json.Marshal(id)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"response":{"requestId":%s,%s}}`, quoted, more)
}

// reply answers on the control channel or a rendezvous.
func (p *peer) reply(id, more string, body ...string) {
	p.t.Helper()
	p.text(answerText(id, more))
	for _, b := range body {
		p.binary(b)
	}
}

// whole reads a binary message of any number of frames, whose last one is empty.
func (p *peer) whole() string {
	p.t.Helper()
	var b strings.Builder
	want := byte(2)
	for {
		first, payload := p.next()
		if first&0x0f != want {
			p.t.Fatalf("got frame %#x, want one of a binary message", first)
		}
		b.Write(payload)
		if first&0x80 != 0 {
			if len(payload) > 0 {
				p.t.Errorf("the last frame has %d bytes, want none", len(payload))
			}
			return b.String()
		}
		want = 0
	}
}

// A sender is a raw HTTP/1.1 connection.
type sender struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

// sender opens a connection and sends the beginning of a request.
func (w *world) sender(t testing.TB, text string) *sender {
	t.Helper()
	c, err := net.Dial("tcp", w.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &sender{t, c, bufio.NewReader(c)}
	s.send(text)
	return s
}

func (s *sender) send(text string) {
	s.t.Helper()
	s.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(s.conn, text); err != nil {
		s.t.Fatal(err)
	}
}

// head reads an answer's head; its body is still to be read.
func (s *sender) head(method string) *http.Response {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(patience))
	r, err := http.ReadResponse(s.in, &http.Request{Method: method})
	if err != nil {
		s.t.Fatalf("the answer: %v", err)
	}
	return r
}

// answer reads a whole answer.
func (s *sender) answer(method string) (*http.Response, string) {
	s.t.Helper()
	r := s.head(method)
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatalf("the body after %q: %v", b, err)
	}
	return r, string(b)
}

// http is a request's text for a raw connection. The path may be anything.
func (w *world) http(method, path string, headers ...string) string {
	text := method + " " + path + " HTTP/1.1\r\nHost: " + w.host + "\r\n"
	for _, h := range headers {
		text += h + "\r\n"
	}
	return text + "\r\n"
}

// relayed sends a request without a body and returns what the listener is told.
func (w *world) relayed(t testing.TB, control *peer, method, path string, headers ...string) (*sender, *offer) {
	t.Helper()
	s := w.sender(t, w.http(method, path, headers...))
	return s, control.request()
}

// bound gives a hybrid connection a host name of its own.
func bound(rc *relay.Config, _ *access.Config) {
	rc.Rules["default"] = append([]relay.Rule{{Name: "web/site", Host: "site.example"}}, rc.Rules["default"]...)
}

package relay_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
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
func (c *collector) await(replies chan reply) reply {
	c.t.Helper()
	select {
	case r := <-replies:
		if r.err != nil {
			c.t.Fatalf("the request: %v", r.err)
		}
		return r
	case <-time.After(patience):
		c.t.Fatal("the request was not answered in time")
		panic("unreachable")
	}
}

type collector struct{ t testing.TB }

func await(t testing.TB, replies chan reply) reply {
	t.Helper()
	return (&collector{t}).await(replies)
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

// A GET without a body goes over the control channel, and so does its answer.
func TestRequestWithoutBody(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "site/a")
	replies := w.asking(t, "GET", "/site/a/x%2fy//z?q=1&sb-hc-id=6f9619ff-8b86-d011-b42d-00c04fc964ff&&r", "", "X-One: a", "X-One: b")
	q := control.request()
	if *q.Method != "GET" || *q.RequestTarget != "/site/a/x%2fy//z?q=1&&r" || q.Body == nil || *q.Body || q.ID != "6f9619ff-8b86-d011-b42d-00c04fc964ff" {
		t.Errorf("got %+v", q)
	}
	if q.RequestHeaders["X-One"] != "a, b" || q.RequestHeaders["Host"] != w.host || q.RequestHeaders["Via"] != "1.1 "+w.host {
		t.Errorf("headers %v", q.RequestHeaders)
	}
	control.reply(q.ID, `"statusCode":201,"responseHeaders":{"X-Two":"c","Content-Length":99},"body":true`, "hello")
	r := await(t, replies)
	if r.StatusCode != 201 || r.body != "hello" || r.Header.Get("X-Two") != "c" || r.ContentLength != 5 || r.Header.Get("Via") != "1.1 "+w.host {
		t.Errorf("got %s %q %v", r.Status, r.body, r.Header)
	}
}

// A long body, or one of unknown length, comes over a rendezvous, behind the request.
func TestRequestOnRendezvous(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "site")
	body := strings.Repeat("0123456789abcdef", 10_000)
	replies := w.asking(t, "POST", "/site", body)
	pointer := control.request()
	if pointer.Method != nil || pointer.Body != nil || pointer.ID != "" {
		t.Errorf("the pointer says more than the address: %+v", pointer)
	}
	p := dial(t, pointer.dialed(t))
	q := p.request()
	if q.ID == "" || *q.Method != "POST" || !*q.Body {
		t.Errorf("got %+v", q)
	}
	if got := p.whole(); got != body {
		t.Errorf("got %d bytes, want %d", len(got), len(body))
	}
	p.text(answerText(q.ID, `"statusCode":"200","body":true`))
	p.send(0x02, "one ")
	p.send(0x00, "two ")
	p.send(0x80, "")
	if r := await(t, replies); r.StatusCode != 200 || r.body != "one two " {
		t.Errorf("got %s %q", r.Status, r.body)
	}
	p.expectClose(1000, "")
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

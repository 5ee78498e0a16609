package relay_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Requests over HTTP/2 are relayed as those over HTTP/1.1 are, both bodies streamed;
// there is no reason phrase.
func TestRequestOverHTTP2(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) { w.Serve(rw, q, "default", "") }))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	read, write := io.Pipe()
	q, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/app/x%2fy", read)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan *http.Response, 1)
	go func() {
		r, err := s.Client().Do(q)
		if err != nil {
			t.Error(err)
		}
		answers <- r
	}()
	p := dial(t, control.request().dialed(t))
	told := p.request()
	if *told.RequestTarget != "/app/x%2fy" || told.RequestHeaders["Host"] == "" {
		t.Errorf("got %+v", told)
	}
	io.WriteString(write, "one")
	p.expect(0x02, "one")
	p.text(answerText(told.ID, `"statusCode":299,"statusDescription":"Mine","responseHeaders":{"Connection":"close","X-A":"b"},"body":true`))
	p.send(0x02, "first")
	r := <-answers
	if r == nil {
		return
	}
	defer r.Body.Close()
	buffer := make([]byte, 5)
	if _, err := io.ReadFull(r.Body, buffer); err != nil || string(buffer) != "first" || r.StatusCode != 299 || r.ProtoMajor != 2 || r.Header.Get("X-A") != "b" {
		t.Errorf("got %q (%v), %s %s", buffer, err, r.Proto, r.Status)
	}
	io.WriteString(write, "two")
	p.expect(0x00, "two")
	write.Close()
	p.expect(0x80, "")
	p.send(0x80, "last")
	if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != "last" {
		t.Errorf("got %q (%v)", rest, err)
	}
	p.expectClose(1000, "")
	// A broken answer resets the stream.
	waiting := make(chan error, 1)
	go func() {
		r, err := s.Client().Get(s.URL + "/app")
		if err == nil {
			_, err = io.ReadAll(r.Body)
			r.Body.Close()
		}
		waiting <- err
	}()
	told = control.request()
	p = dial(t, told.dialed(t))
	p.text(answerText(told.ID, `"statusCode":200,"body":true`))
	p.send(0x02, "some")
	p.conn.Close()
	if err := <-waiting; err == nil {
		t.Error("a broken answer looks whole")
	}
}

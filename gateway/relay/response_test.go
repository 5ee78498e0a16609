package relay_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// exchange sends a request and answers it on the control channel.
func (w *world) exchange(t testing.TB, control *peer, method, more string, body ...string) (*http.Response, string) {
	t.Helper()
	s, q := w.relayed(t, control, method, "/app")
	control.reply(q.ID, more, body...)
	return s.answer(method)
}

// A status is a number, or one in a text, from 200 to 999.
func TestResponseStatus(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct {
		status string
		want   int
	}{
		{"200", 200}, {`"200"`, 200}, {"299", 299}, {"304", 304}, {"404", 404}, {`"418"`, 418}, {"500", 500}, {"502", 502}, {"504", 504}, {"599", 599}, {"600", 600}, {"999", 999},
		// What is none is the listener's fault.
		{"99", 502}, {"100", 502}, {"101", 502}, {"199", 502}, {"1000", 502}, {`"ok"`, 502}, {`""`, 502}, {"200.5", 502}, {"null", 502}, {"{}", 502}, {"-200", 502},
	} {
		r, body := w.exchange(t, control, "GET", `"statusCode":`+tt.status+`,"body":false`)
		if r.StatusCode != tt.want {
			t.Errorf("statusCode %s: got %s, want %d", tt.status, r.Status, tt.want)
		}
		if ours := strings.Contains(body, "listener-failed"); ours != (tt.want == 502 && tt.status != "502") {
			t.Errorf("statusCode %s: body %q", tt.status, body)
		}
	}
	if r, _ := w.exchange(t, control, "GET", `"body":false`); r.StatusCode != 502 {
		t.Errorf("without a statusCode: %s, want 502", r.Status)
	}
}

// statusDescription is the reason phrase; absent, null or empty it is the usual one.
func TestResponseReason(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct{ member, want string }{
		{"", "200 OK"}, {`,"statusDescription":null`, "200 OK"}, {`,"statusDescription":""`, "200 OK"}, {`,"statusDescription":"OK"`, "200 OK"},
		{`,"statusDescription":"All is Well"`, "200 All is Well"}, {`,"statusDescription":"a\r\nX-Evil: b"`, "200 a  X-Evil: b"},
	} {
		for _, body := range [][]string{nil, {"hello"}} {
			more := fmt.Sprintf(`"statusCode":200%s,"responseHeaders":{"X-A":"b"},"body":%v`, tt.member, body != nil)
			r, got := w.exchange(t, control, "GET", more, body...)
			if r.Status != tt.want || got != strings.Join(body, "") || r.Header.Get("X-A") != "b" || r.Header.Get("Via") == "" || r.Header.Get("Date") == "" {
				t.Errorf("%s: got %q %q %v, want %q", more, r.Status, got, r.Header, tt.want)
			}
		}
	}
	// A streamed answer has one too, and so has one without a body.
	s, q := w.relayed(t, control, "GET", "/app")
	p := dial(t, q.dialed(t))
	p.text(answerText(q.ID, `"statusCode":200,"statusDescription":"Streaming","body":true`))
	if r := s.head("GET"); r.Status != "200 Streaming" {
		t.Errorf("got %q before the body", r.Status)
	}
	p.send(0x02, "a")
	p.send(0x80, "b")
	if _, body := (&sender{t, s.conn, s.in}).chunked(); body != "ab" {
		t.Errorf("got %q", body)
	}
	if r, _ := w.exchange(t, control, "HEAD", `"statusCode":200,"statusDescription":"Just the Head","body":false`); r.Status != "200 Just the Head" {
		t.Errorf("HEAD: got %q", r.Status)
	}
}

// chunked reads a chunked body whose head has been read.
func (s *sender) chunked() (chunks int, body string) {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			s.t.Fatalf("a chunk's head: %v", err)
		}
		var n int
		if _, err := fmt.Sscanf(line, "%x", &n); err != nil {
			s.t.Fatalf("a chunk's head %q: %v", line, err)
		}
		b := make([]byte, n+2)
		for i := range b {
			if b[i], err = s.in.ReadByte(); err != nil {
				s.t.Fatalf("a chunk: %v", err)
			}
		}
		if n == 0 {
			return chunks, body
		}
		chunks++
		body += string(b[:n])
	}
}

// Headers may be texts, numbers, truth values or arrays; those of the connection are
// dropped, and Via says that a listener has answered.
func TestResponseHeaders(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	r, body := w.exchange(t, control, "GET", `"statusCode":200,"responseHeaders":{
		"x-text":"a, b","X-Number":12.50,"X-Big":12345678901234567890,"X-True":true,"X-Array":["a",1,null,{"b":2}],"X-Null":null,"X-Object":{"a":1},
		"bad name":"x","":"x","X-Evil":"a\r\nSet-Cookie: b=c","Content-Type":"text/x",
		"Connection":"close, X-Mine","X-Mine":"1","Keep-Alive":"x","Proxy-Connection":"x","Transfer-Encoding":"chunked","TE":"x","Trailer":"x","Upgrade":"x","Close":"x","Content-Length":"77",
		"Via":"1.0 inner","ETag":"\"e\"","Date":"Tue, 15 Nov 1994 08:12:31 GMT"},"body":true`, "hello")
	want := http.Header{
		"X-Text": {"a, b"}, "X-Number": {"12.50"}, "X-Big": {"12345678901234567890"}, "X-True": {"true"}, "X-Array": {"a", "1"},
		"X-Evil": {"a  Set-Cookie: b=c"}, "Content-Type": {"text/x"}, "Content-Length": {"5"}, "Via": {"1.0 inner, 1.1 " + w.host},
		"Etag": {`"e"`}, "Date": {"Tue, 15 Nov 1994 08:12:31 GMT"},
	}
	for name, values := range want {
		if !slices.Equal(r.Header[name], values) {
			t.Errorf("%s: got %q, want %q", name, r.Header[name], values)
		}
		delete(r.Header, name)
	}
	if len(r.Header) > 0 || body != "hello" {
		t.Errorf("got also %v; body %q", r.Header, body)
	}
	// Java leaves the member out where there are none; nothing is invented.
	for _, more := range []string{`"statusCode":200,"body":true`, `"statusCode":200,"responseHeaders":null,"body":true`, `"statusCode":200,"responseHeaders":{},"body":true`} {
		r, body := w.exchange(t, control, "GET", more, "<html>")
		if r.Header.Get("Content-Type") != "" || body != "<html>" {
			t.Errorf("%s: got %v %q", more, r.Header, body)
		}
	}
	if r, _ := w.exchange(t, control, "GET", `"statusCode":200,"responseHeaders":[],"body":false`); r.StatusCode != 502 {
		t.Errorf("headers that are no object: %s, want 502", r.Status)
	}
}

// Several cookies reach the sender as several headers, also those that a client
// library has joined.
func TestResponseCookies(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct {
		json string
		want []string
	}{
		{`"a=1"`, []string{"a=1"}},
		{`["a=1","b=2; Path=/"]`, []string{"a=1", "b=2; Path=/"}},
		{`"a=1,b=2"`, []string{"a=1", "b=2"}},
		{`"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; HttpOnly, b=2; Max-Age=5"`, []string{"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; HttpOnly", "b=2; Max-Age=5"}},
		{`"a=1,2,3; Path=/"`, []string{"a=1,2,3; Path=/"}},
		{`"a=x,, b=y"`, []string{"a=x,", "b=y"}},
		{`"a"`, []string{"a"}},
	} {
		r, _ := w.exchange(t, control, "GET", `"statusCode":200,"responseHeaders":{"Set-Cookie":`+tt.json+`},"body":false`)
		if !slices.Equal(r.Header["Set-Cookie"], tt.want) {
			t.Errorf("%s: got %q, want %q", tt.json, r.Header["Set-Cookie"], tt.want)
		}
	}
}

// An empty binary message after body:false, as hyco-https sends it, is ignored.
func TestStrayBodyIsIgnored(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, method := range []string{"HEAD", "GET", "GET"} {
		if r, _ := w.exchange(t, control, method, `"statusCode":204,"body":false`, ""); r.StatusCode != 204 {
			t.Errorf("%s: %s", method, r.Status)
		}
	}
	if r, body := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, "next"); r.StatusCode != 200 || body != "next" {
		t.Errorf("the next answer: %s %q", r.Status, body)
	}
}

// A body where HTTP allows none is read and dropped, on either way, and the sender's
// connection goes on.
func TestBodyWhereNoneMayBe(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct{ method, status string }{{"HEAD", "200"}, {"GET", "204"}, {"GET", "304"}} {
		for _, rendezvous := range []bool{false, true} {
			s, q := w.relayed(t, control, tt.method, "/app")
			p := control
			if rendezvous {
				p = dial(t, q.dialed(t))
			}
			p.reply(q.ID, `"statusCode":`+tt.status+`,"responseHeaders":{"Content-Length":123},"body":true`, strings.Repeat("x", 1000))
			r := s.head(tt.method)
			if r.Status[:3] != tt.status {
				t.Errorf("%s %s: got %s", tt.method, tt.status, r.Status)
			}
			if tt.method == "HEAD" && r.ContentLength != 123 {
				t.Errorf("HEAD: Content-Length %d, want 123: it says how long the body would be", r.ContentLength)
			}
			if rendezvous {
				p.expectClose(1000, "")
			}
			s.send(w.http("GET", "/app"))
			q = control.request()
			control.reply(q.ID, `"statusCode":200,"body":true`, "after")
			if _, body := s.answer("GET"); body != "after" {
				t.Errorf("%s %s: the next answer is %q", tt.method, tt.status, body)
			}
		}
	}
}

// Answers come in any order, and on a connection that stays open for the next request.
func TestAnswersInAnyOrder(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	one, a := w.relayed(t, control, "GET", "/app/1")
	two, b := w.relayed(t, control, "GET", "/app/2")
	control.reply(b.ID, `"statusCode":200,"body":true`, "second")
	if _, body := two.answer("GET"); body != "second" {
		t.Errorf("got %q", body)
	}
	control.reply(a.ID, `"statusCode":200,"body":true`, "first")
	if _, body := one.answer("GET"); body != "first" {
		t.Errorf("got %q", body)
	}
	one.send(w.http("GET", "/app/3"))
	q := control.request()
	control.reply(q.ID, `"statusCode":200,"body":true`, "third")
	if _, body := one.answer("GET"); body != "third" {
		t.Errorf("got %q", body)
	}
}

// An answer to what nobody asked, or nobody waits for any more, is ignored with its body.
func TestUnknownAnswerIsIgnored(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s, q := w.relayed(t, control, "GET", "/app")
	for _, id := range []string{"", "nobody", "6f9619ff-8b86-d011-b42d-00c04fc964ff"} {
		control.reply(id, `"statusCode":200,"body":true`, "wrong")
		control.reply(id, `"statusCode":200,"body":false`)
	}
	control.text(`{"response":{"statusCode":200,"body":false}}`)
	control.text(`{"response":7}`)
	control.reply(q.ID, `"statusCode":200,"body":true`, "right")
	if _, body := s.answer("GET"); body != "right" {
		t.Errorf("got %q", body)
	}
	control.reply(q.ID, `"statusCode":500,"body":true`, "again")
	if r, body := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, "fine"); r.StatusCode != 200 || body != "fine" {
		t.Errorf("the next: %s %q", r.Status, body)
	}
}

// A body on the control channel may come in fragments, and may be much longer than
// the 64 KiB of Azure's clients; a text is as good as a binary message.
func TestBodyOnControlChannel(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	long := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	if r, body := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, long); body != long || r.ContentLength != 1<<20 {
		t.Errorf("got %d bytes of %d", len(body), r.ContentLength)
	}
	s, q := w.relayed(t, control, "GET", "/app")
	control.text(answerText(q.ID, `"statusCode":200,"body":true`))
	control.send(0x02, "one ")
	control.send(0x8A, "") // a pong may come in between
	control.send(0x00, "")
	control.send(0x00, "two ")
	control.send(0x80, "three")
	if _, body := s.answer("GET"); body != "one two three" {
		t.Errorf("got %q", body)
	}
	s, q = w.relayed(t, control, "GET", "/app")
	control.text(answerText(q.ID, `"statusCode":200,"body":true`))
	control.text(`{"response":{}}`)
	if _, body := s.answer("GET"); body != `{"response":{}}` {
		t.Errorf("got %q", body)
	}
	if r, _ := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, ""); r.ContentLength != 0 {
		t.Errorf("an empty body has length %d", r.ContentLength)
	}
}

// Any answer may come at a rendezvous, streamed: the head goes to the sender before
// the body comes, and each piece before the next.
func TestAnswerAtRendezvousIsStreamed(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s, q := w.relayed(t, control, "GET", "/app")
	p := dial(t, q.dialed(t))
	p.text(answerText(q.ID, `"statusCode":200,"responseHeaders":{"Content-Type":"text/event-stream"},"body":true`))
	r := s.head("GET")
	if r.Header.Get("Content-Type") != "text/event-stream" || r.ContentLength != -1 {
		t.Errorf("got %v", r.Header)
	}
	buffer := make([]byte, 100)
	for i, first := range []byte{0x02, 0x00, 0x00} {
		event := fmt.Sprintf("data: %d\n\n", i)
		p.send(first, event)
		n, err := r.Body.Read(buffer)
		if err != nil || string(buffer[:n]) != event {
			t.Fatalf("got %q (%v), want %q", buffer[:n], err, event)
		}
	}
	p.send(0x80, "")
	if n, err := r.Body.Read(buffer); n != 0 || err == nil {
		t.Errorf("got %q after the end", buffer[:n])
	}
	p.expectClose(1000, "")
	p.close(1000, "")
	p.expectEnd()
	// The sender's connection goes on.
	s.send(w.http("GET", "/app"))
	q = control.request()
	control.reply(q.ID, `"statusCode":200,"body":true`, "next")
	if _, body := s.answer("GET"); body != "next" {
		t.Errorf("got %q", body)
	}
}

// A body at a rendezvous ends with its last frame, or with Close 1000 without one, as
// Java's client does it. After any other end the sender's connection is cut.
func TestEndOfBody(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct {
		name  string
		end   func(p *peer)
		whole bool
	}{
		{"last frame, left open as by hyco-https", func(p *peer) { p.send(0x80, "") }, true},
		{"last frame, then Close 1000 as by .NET", func(p *peer) { p.send(0x80, ""); p.close(1000, "") }, true},
		{"Close 1000 without a last frame as by Java", func(p *peer) { p.close(1000, "") }, true},
		{"Close 1001", func(p *peer) { p.close(1001, "") }, false},
		{"Close 1011", func(p *peer) { p.close(1011, "sorry") }, false},
		{"Close without a code", func(p *peer) { p.send(0x88, "") }, false},
		{"no Close", func(p *peer) { p.conn.Close() }, false},
		{"broken frame", func(p *peer) { p.raw([]byte{0xF2, 0x80, 1, 2, 3, 4}) }, false},
		{"a new message in the middle", func(p *peer) { p.text("x") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replies := w.asking(t, "POST", "/app", "") // which net/http does not send again by itself
			q := control.request()
			p := dial(t, q.dialed(t))
			p.t = t
			p.text(answerText(q.ID, `"statusCode":200,"body":true`))
			p.send(0x02, "some")
			tt.end(p)
			if !tt.whole {
				awaitCut(t, replies)
			} else if r := await(t, replies); r.body != "some" {
				t.Errorf("got %q", r.body)
			}
		})
	}
	// Java closes like that also after a body of no bytes.
	replies := w.asking(t, "GET", "/app", "")
	q := control.request()
	p := dial(t, q.dialed(t))
	p.text(answerText(q.ID, `"statusCode":200,"body":true`))
	p.close(1000, "")
	if r := await(t, replies); r.body != "" || r.StatusCode != 200 {
		t.Errorf("got %s %q", r.Status, r.body)
	}
}

// Each request has an address of its own: hyco-https has no ears on a rendezvous that
// it opened for an answer.
func TestRendezvousIsNotReused(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s := w.sender(t, "")
	seen := map[string]bool{}
	for range 3 {
		s.send(w.http("GET", "/app"))
		q := control.request()
		if seen[q.Address] {
			t.Error("an address comes twice")
		}
		seen[q.Address] = true
		p := dial(t, q.dialed(t))
		p.reply(q.ID, `"statusCode":200,"body":true`, "answer")
		if _, body := s.answer("GET"); body != "answer" {
			t.Errorf("got %q", body)
		}
		p.expectClose(1000, "")
		// What was used is used up, politely.
		late := dial(t, q.dialed(t))
		late.expectClose(1001, "sender-gone")
	}
}

package relay_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A request without a body is one message on the control channel with exactly one
// member, which has all of Azure's and no other.
func TestRequestMessage(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "site/a")
	s := w.sender(t, w.http("GET", "/site/a/x?sb-hc-id=6f9619ff-8b86-d011-b42d-00c04fc964ff"))
	first, text := control.next()
	var outer map[string]map[string]json.RawMessage
	if err := json.Unmarshal(text, &outer); err != nil || first != 0x81 || len(outer) != 1 {
		t.Fatalf("got frame %#x %s, want JSON with one member: %v", first, text, err)
	}
	members := slices.Sorted(maps.Keys(outer["request"]))
	if want := []string{"address", "body", "id", "method", "remoteEndpoint", "requestHeaders", "requestTarget"}; !slices.Equal(members, want) {
		t.Errorf("members %v, want %v", members, want)
	}
	m, err := parseMessage(text)
	if err != nil {
		t.Fatal(err)
	}
	q := m.Request
	if *q.Method != "GET" || *q.RequestTarget != "/site/a/x" || *q.Body || q.ID != "6f9619ff-8b86-d011-b42d-00c04fc964ff" {
		t.Errorf("got %s", text)
	}
	address, port := q.RemoteEndpoint.Address, q.RemoteEndpoint.Port
	if local := s.conn.LocalAddr().String(); local != address+":"+strconv.Itoa(port) {
		t.Errorf("remoteEndpoint %s:%d, want %s", address, port, local)
	}
	path, query, _ := strings.Cut(q.dialed(t), "?")
	if path != w.host+"/$hc/site/a/x" || !strings.HasPrefix(query, "sb-hc-action=request&sb-hc-id="+q.ID+"&") || strings.Contains(query, "%") {
		t.Errorf("address %s", q.Address)
	}
	control.reply(q.ID, `"statusCode":200,"body":false`)
	s.answer("GET")
}

// A request without an id gets a GUID, which Java's client needs; with one that is in
// use, one of its own.
func TestRequestIDs(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	_, q := w.relayed(t, control, "GET", "/app")
	if len(q.ID) != 36 || strings.Count(q.ID, "-") != 4 {
		t.Errorf("id %q is no GUID", q.ID)
	}
	const id = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
	one, a := w.relayed(t, control, "GET", "/app/1?sb-hc-id="+id)
	two, b := w.relayed(t, control, "GET", "/app/2?sb-hc-id="+id)
	if a.ID != id || b.ID == id || !strings.HasPrefix(b.ID, id) {
		t.Fatalf("ids %q and %q", a.ID, b.ID)
	}
	control.reply(b.ID, `"statusCode":202,"body":false`)
	control.reply(a.ID, `"statusCode":201,"body":false`)
	if r, _ := one.answer("GET"); r.StatusCode != 201 {
		t.Errorf("the first got %s", r.Status)
	}
	if r, _ := two.answer("GET"); r.StatusCode != 202 {
		t.Errorf("the second got %s", r.Status)
	}
}

// requestTarget is the path as it was received and the query without the relay's
// parameters, byte for byte.
func TestRequestTarget(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app/Deep")
	for _, tt := range []struct{ sent, want string }{
		{"/app/deep", "/app/deep"},
		{"/APP/deep/", "/APP/deep/"},
		{"/app/deep?", "/app/deep"},
		{"/app/deep?a=1", "/app/deep?a=1"},
		{"/app/deep?&&a&", "/app/deep?&&a&"},
		{"/app/deep?sb-hc-id=1", "/app/deep"},
		{"/app/deep?a=1&SB-HC-Action=connect&b=2", "/app/deep?a=1&b=2"},
		{"/app/deep?sb%2dhc-x=1&b=2", "/app/deep?b=2"},
		{"/app/deep?sb-hc-x&b=2", "/app/deep?sb-hc-x&b=2"},
		{"/app/deep?null&sb-hc-=", "/app/deep?null"},
		{"/app/deep?access_token=mine", "/app/deep?access_token=mine"},
		{"/app/deep/a%2Fb%2fc/%7E~/..//./;x=1", "/app/deep/a%2Fb%2fc/%7E~/..//./;x=1"},
		{`/app/deep/"<>|^` + "`{}[]'*", `/app/deep/"<>|^` + "`{}[]'*"},
		{"/app/deep/%C3%BC?q=%FC+%20", "/app/deep/%C3%BC?q=%FC+%20"},
		{"/%61pp/deep/x", "/%61pp/deep/x"},
	} {
		s := w.sender(t, w.http("GET", tt.sent))
		q := control.request()
		if *q.RequestTarget != tt.want {
			t.Errorf("%s: requestTarget %q, want %q", tt.sent, *q.RequestTarget, tt.want)
		}
		control.reply(q.ID, `"statusCode":204,"body":false`)
		s.answer("GET")
	}
	// A proxy's absolute form names the same.
	s := w.sender(t, w.http("GET", "http://"+w.host+"/app/deep/x%2Fy?z"))
	if q := control.request(); *q.RequestTarget != "/app/deep/x%2Fy?z" {
		t.Errorf("absolute form: requestTarget %q", *q.RequestTarget)
	}
	s.conn.Close()
}

// Every method but CONNECT is relayed, made-up ones too.
func TestRequestMethods(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "x"} {
		s, q := w.relayed(t, control, method, "/app")
		if *q.Method != method {
			t.Errorf("method %s came as %s", method, *q.Method)
		}
		control.reply(q.ID, `"statusCode":200,"body":false`)
		if r, _ := s.answer(method); r.StatusCode != 200 {
			t.Errorf("%s: %s", method, r.Status)
		}
	}
	if r, _ := w.sender(t, w.http("CONNECT", "/app")).answer("GET"); r.StatusCode != 405 {
		t.Errorf("CONNECT: %s, want 405", r.Status)
	}
}

// All headers are passed on but those of the connection and the tokens. Host and
// Expect stay, Via is added, repeats are joined.
func TestRequestHeaders(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s, q := w.relayed(t, control, "GET", "/app", "X-One: a", "x-one: b", "Cookie: a=1", "Cookie: b=2", "Accept: text/html", "SOAPAction: \"x\"",
		"X-Umlaut: gr\xfcn", "X-Quote: \"a\\b\"", "Expect: 100-continue", "Origin: https://elsewhere.example",
		"Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: 5", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-T",
		"Upgrade: h2c", "Close: 1", "Content-Length: 0", "Via: 1.0 before", "Authorization: Basic YTpi",
		"Sec-WebSocket-Key: x")
	want := map[string]string{
		"Host": w.host, "X-One": "a, b", "Cookie": "a=1; b=2", "Accept": "text/html", "SOAPAction": `"x"`,
		"X-Umlaut": "grün", "X-Quote": `"a\b"`, "Expect": "100-continue", "Origin": "https://elsewhere.example",
		"Via": "1.0 before, 1.1 " + w.host, "Authorization": "Basic YTpi", "Sec-WebSocket-Key": "x",
	}
	if !maps.Equal(q.RequestHeaders, want) {
		t.Errorf("got  %q\nwant %q", q.RequestHeaders, want)
	}
	control.reply(q.ID, `"statusCode":200,"body":false`)
	s.answer("GET")
}

// A body of up to 64 KiB, whose length is known, follows its message on the control
// channel, with nothing in between.
func TestRequestBodyInline(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, n := range []int{1, 100, 65535, 65536} {
		body := strings.Repeat("x", n)
		replies := w.asking(t, "POST", "/app", body)
		other := w.sender(t, w.http("GET", "/app/other"))
		bodies := 0
		for range 2 {
			q := control.request()
			if *q.Body {
				bodies++
				control.expect(0x82, body)
			}
			control.reply(q.ID, `"statusCode":200,"body":false`)
		}
		if await(t, replies); bodies != 1 {
			t.Errorf("%d messages had a body", bodies)
		}
		other.answer("GET")
	}
	// An empty body is none.
	s, q := w.relayed(t, control, "POST", "/app", "Content-Length: 0")
	if *q.Body {
		t.Error("an empty body is announced")
	}
	control.reply(q.ID, `"statusCode":200,"body":false`)
	s.answer("POST")
}

// A longer body, or one of unknown length, is fetched: the pointer has the address
// alone, the complete request is the first word at the rendezvous, and its body is one
// message in fragments with an empty last one.
func TestRequestOnRendezvous(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	long := strings.Repeat("0123456789abcdef", 20_000)
	for _, tt := range []struct {
		name, body string
		chunked    bool
	}{
		{"one byte too long", strings.Repeat("x", 65537), false}, {"long", long, false},
		{"long and chunked", long, true}, {"short and chunked", "abc", true}, {"empty and chunked", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var reader io.Reader = strings.NewReader(tt.body)
			if tt.chunked {
				reader = io.MultiReader(reader) // net/http can't see its length
			}
			q, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+w.host+"/app/x?y&sb-hc-id=6f9619ff-8b86-d011-b42d-00c04fc964ff", io.NopCloser(reader))
			if err != nil {
				t.Fatal(err)
			}
			if !tt.chunked {
				q.ContentLength = int64(len(tt.body))
			}
			replies := w.doing(q)
			_, text := control.next()
			var pointer map[string]map[string]string
			if err := json.Unmarshal(text, &pointer); err != nil || len(pointer) != 1 || len(pointer["request"]) != 1 {
				t.Fatalf("the pointer is %s (%v), want the address alone", text, err)
			}
			address := (&offer{Address: pointer["request"]["address"]}).dialed(t)
			p := dial(t, address)
			got := p.request()
			if got.ID != "6f9619ff-8b86-d011-b42d-00c04fc964ff" || *got.Method != "PUT" || *got.RequestTarget != "/app/x?y" || got.Body == nil || !*got.Body ||
				got.RemoteEndpoint.Port == 0 || got.RequestHeaders["Content-Length"] != "" || got.RequestHeaders["Transfer-Encoding"] != "" || got.Address == "" {
				t.Errorf("got %+v", got)
			}
			if body := p.whole(); body != tt.body {
				t.Errorf("got %d bytes, want %d", len(body), len(tt.body))
			}
			p.reply(got.ID, `"statusCode":200,"body":true`, "done")
			if r := await(t, replies); r.StatusCode != 200 || r.body != "done" {
				t.Errorf("got %s %q", r.Status, r.body)
			}
			p.expectClose(1000, "")
		})
	}
}

// Expect: 100-continue is answered once there is somebody to take the body.
func TestRequestExpectContinue(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	t.Run("short", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Expect: 100-continue", "Content-Length: 3"))
		if r := s.head("POST"); r.StatusCode != 100 {
			t.Fatalf("got %s, want 100", r.Status)
		}
		s.send("abc")
		q := control.request()
		control.expect(0x82, "abc")
		control.reply(q.ID, `"statusCode":201,"body":false`)
		if r, _ := s.answer("POST"); r.StatusCode != 201 {
			t.Errorf("got %s", r.Status)
		}
	})
	t.Run("long", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Expect: 100-continue", "Transfer-Encoding: chunked"))
		p := dial(t, control.request().dialed(t))
		q := p.request()
		if r := s.head("POST"); r.StatusCode != 100 {
			t.Fatalf("got %s, want 100", r.Status)
		}
		s.send("3\r\nabc\r\n0\r\n\r\n")
		if body := p.whole(); body != "abc" {
			t.Errorf("got %q", body)
		}
		p.reply(q.ID, `"statusCode":201,"body":false`)
		if r, _ := s.answer("POST"); r.StatusCode != 201 {
			t.Errorf("got %s", r.Status)
		}
	})
	t.Run("refused", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Expect: 100-continue", "Transfer-Encoding: chunked"))
		p := dial(t, control.request().dialed(t))
		q := p.request()
		p.reply(q.ID, `"statusCode":413,"body":false`)
		for r := s.head("POST"); r.StatusCode != 413; r = s.head("POST") {
			if r.StatusCode != 100 {
				t.Fatalf("got %s", r.Status)
			}
		}
	})
	t.Run("nobody", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/nobody", "Expect: 100-continue", "Content-Length: 3"))
		if r := s.head("POST"); r.StatusCode != 404 {
			t.Fatalf("got %s, want 404 before the body is sent", r.Status)
		}
	})
}

// A hybrid connection with a host name of its own takes its whole path, so that
// absolute links work; requestTarget still begins with the name.
func TestRequestToBoundHost(t *testing.T) {
	w := start(t, bound)
	control := w.listen(t, "web/site")
	for _, path := range []string{"/", "/style.css?v=1", "/web/site/x", "/topics/a", "/healthz"} {
		s := w.sender(t, "GET "+path+" HTTP/1.1\r\nHost: site.example:8443\r\n\r\n")
		q := control.request()
		if want := "/web/site" + path; *q.RequestTarget != want || q.RequestHeaders["Host"] != "site.example:8443" {
			t.Errorf("%s: requestTarget %q, want %q; Host %q", path, *q.RequestTarget, want, q.RequestHeaders["Host"])
		}
		control.reply(q.ID, `"statusCode":200,"body":false`)
		if r, _ := s.answer("GET"); r.Header.Get("Via") != "1.1 site.example:8443" {
			t.Errorf("Via %q", r.Header.Get("Via"))
		}
	}
}

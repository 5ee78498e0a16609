package gateway_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

const batched = "Content-Type: application/cloudevents-batch+json"

// An answer is that to a publish.
type answer struct {
	Accepted   *int
	Cursor     *string
	Duplicates *[]int
}

func (r reply) answer(t testing.TB) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(r.body), &a); err != nil || a.Accepted == nil {
		t.Fatalf("answer %d %q: %v", r.status, r.body, err)
	}
	return a
}

func TestPublishAnswers(t *testing.T) {
	w := start(t, nil)
	one := w.do(t, "POST", "/topics/orders/eu", event("A-1"), structured)
	if a := one.answer(t); one.status != 200 || *a.Accepted != 1 || a.Cursor == nil || a.Duplicates != nil {
		t.Errorf("one event = %d %s, want 200, 1 accepted, a cursor and no duplicates", one.status, one.body)
	}
	if got := one.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type = %q", got)
	}
	again := w.do(t, "POST", "/topics/orders/eu", event("A-1"), structured)
	if a := again.answer(t); again.status != 200 || *a.Cursor != *one.answer(t).Cursor || a.Duplicates == nil || len(*a.Duplicates) != 1 {
		t.Errorf("the same again = %d %s, want 200 with the cursor of %s and its index", again.status, again.body, one.body)
	}
	batch := w.do(t, "POST", "/topics/orders/eu", "["+event("B-1")+","+event("A-1")+","+event("B-2")+","+event("B-1")+"]", batched)
	if a := batch.answer(t); batch.status != 200 || *a.Accepted != 4 || fmt.Sprint(*a.Duplicates) != "[1 3]" {
		t.Errorf("a batch with two copies = %d %s, want 4 accepted, duplicates 1 and 3", batch.status, batch.body)
	}
	empty := w.do(t, "POST", "/topics/orders/eu", "[]", batched)
	if empty.status != 200 || empty.body != `{"accepted":0}` {
		t.Errorf("an empty batch = %d %s", empty.status, empty.body)
	}
	live := w.do(t, "POST", "/topics/live/a", event("C-1"), structured)
	if live.status != 202 || live.body != `{"accepted":1}` {
		t.Errorf("on a topic that is not stored = %d %s, want 202 and no cursor", live.status, live.body)
	}
	expired := w.do(t, "POST", "/topics/orders/eu",
		`{"specversion":"1.0","id":"D-1","source":"/s","type":"t","expirytime":"2020-01-01T00:00:00Z"}`, structured)
	if expired.status != 202 || expired.body != `{"accepted":1}` {
		t.Errorf("an expired event = %d %s, want 202 and no cursor", expired.status, expired.body)
	}
	bad := w.do(t, "POST", "/topics/orders/eu", "["+event("E-1")+`,{"specversion":"1.0","id":"","source":"/s","type":"t"}]`, batched)
	if p := bad.problem(t); bad.status != 400 || p.Index == nil || *p.Index != 1 || p.Attribute != "id" {
		t.Errorf("a batch with a bad event = %d %s, want 400 that names index 1 and id", bad.status, bad.body)
	}
	var ids []string
	var page []received
	if err := json.Unmarshal([]byte(w.do(t, "GET", "/topics/**", "").body), &page); err != nil {
		t.Fatal(err)
	}
	for _, e := range page {
		ids = append(ids, e.ID)
	}
	if got := fmt.Sprint(ids); got != "[A-1 B-1 B-2]" {
		t.Errorf("stored: %s", got)
	}
}

// TestModesAgree publishes one event in each mode, over HTTP/1.1 and HTTP/2.
func TestModesAgree(t *testing.T) {
	w := start(t, nil)
	const attributes = `"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"é %","time":"2026-01-01T00:00:00.10Z","datacontenttype":"application/json","n":"5"`
	const data = `{"a":1.10,"b":"x"}`
	binary := []string{"ce-specversion: 1.0", "ce-id: 1", "ce-source: /s", "ce-type: t", "ce-subject: %C3%A9%20%25",
		"ce-time: 2026-01-01T00:00:00.10Z", "Content-Type: application/json", "ce-n: 5"}
	for i, post := range []func(topic string) reply{
		func(topic string) reply {
			return w.do(t, "POST", topic, "{"+attributes+`,"data":`+data+"}", structured)
		},
		func(topic string) reply { return w.do(t, "POST", topic, data, binary...) },
		func(topic string) reply {
			return w.do(t, "POST", topic, "[{"+attributes+`,"data":`+data+"}]", batched)
		},
		func(topic string) reply {
			return w.do(t, "POST", w.https+topic, "{"+attributes+`,"data":`+data+"}", "Content-Type: APPLICATION/CloudEvents+JSON; charset=UTF-8")
		},
		func(topic string) reply { return w.do(t, "POST", w.https+topic, data, binary...) },
	} {
		topic := fmt.Sprintf("/topics/mode/%d", i)
		r := post(topic)
		if r.status != 200 {
			t.Fatalf("mode %d: %d %s", i, r.status, r.body)
		}
		if i >= 3 && r.proto != "HTTP/2.0" {
			t.Errorf("over TLS %s was spoken, want HTTP/2.0", r.proto)
		}
		got := w.do(t, "GET", topic, "").body
		want := fmt.Sprintf(`[{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"é %%","time":"2026-01-01T00:00:00.10Z","datacontenttype":"application/json","n":"5","data":%s,"relaytopic":"mode/%d","relaycursor":%q}]`,
			data, i, *r.answer(t).Cursor)
		if got != want {
			t.Errorf("mode %d:\n got %s\nwant %s", i, got, want)
		}
	}
}

func TestBrokersAttributesAreRemoved(t *testing.T) {
	w := start(t, nil)
	w.do(t, "POST", "/topics/a", "x", "ce-specversion: 1.0", "ce-id: 1", "ce-source: /s", "ce-type: t",
		"ce-relaytopic: bank", "ce-relaycursor: x", "ce-relaydeadreason: x")
	got := w.do(t, "GET", "/topics/a", "").body
	if strings.Contains(got, "bank") || strings.Contains(got, "relaydead") || strings.Count(got, "relaycursor") != 1 {
		t.Errorf("delivered: %s", got)
	}
}

func TestLargestEvent(t *testing.T) {
	w := start(t, nil)
	const head = `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"`
	largest := head + strings.Repeat("x", 1<<20-len(head)-2) + `"}`
	for _, url := range []string{w.http, w.https} {
		if r := w.do(t, "POST", url+"/topics/a", strings.Repeat(" ", 1000)+largest, structured); r.status != 200 {
			t.Errorf("an event of exactly 1 MiB with blanks before it = %d %s", r.status, r.body)
		}
	}
	c := w.dial(t, "/topics/a?from=earliest")
	defer c.CloseNow()
	if got := next(t, c); len(got.Data) != 1<<20-len(head) {
		t.Errorf("delivered with %d bytes of data, want %d", len(got.Data), 1<<20-len(head))
	}
}

// TestUnknownLength: a body without Content-Length is measured as it comes.
func TestUnknownLength(t *testing.T) {
	w := start(t, nil)
	post := func(base, body string) int {
		req, err := http.NewRequest("POST", base+"/topics/a", io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/cloudevents+json")
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, base := range []string{w.http, w.https} {
		for size, want := range map[int]int{0: 200, 2<<20 - len(event("1")): 200, 2<<20 + 1 - len(event("1")): 413} {
			if got := post(base, event("1")+strings.Repeat(" ", size)); got != want {
				t.Errorf("an event and %d blanks to %s = %d, want %d", size, base, got, want)
			}
		}
	}
}

func TestTokenInTheAddress(t *testing.T) {
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{Dev: true, Keys: []access.Key{{Name: "Root", Primary: testKey, Rights: []string{"send", "listen"}}}}
	})
	token := url.QueryEscape(signature("http://127.0.0.1/", time.Hour))
	r := w.do(t, "POST", "/topics/a?access_token="+token, event("1"), structured)
	if r.status != 200 || r.header.Get("Cache-Control") != "private" {
		t.Errorf("POST = %d %s, Cache-Control %q, want 200 and private", r.status, r.body, r.header.Get("Cache-Control"))
	}
	w.publish(t, "a", "2", "3")
	r = w.do(t, "GET", "/topics/a?limit=1&access_token="+token, "")
	if r.status != 200 || r.header.Get("Cache-Control") != "private" {
		t.Errorf("GET = %d %s, Cache-Control %q, want 200 and private", r.status, r.body, r.header.Get("Cache-Control"))
	}
	if link := r.header.Get("Link"); link == "" || strings.Contains(link, "access_token") || strings.Contains(link, "SharedAccess") {
		t.Errorf("Link = %q, want one without the token", link)
	}
	if r := w.do(t, "POST", "/topics/a?access_token=wrong", event("4"), structured); r.status != 401 {
		t.Errorf("a bad token where visitors may publish = %d, want 401", r.status)
	}
}

// TestExpectContinue: a body that is refused is never asked for.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	ask := func(path, contentType string, length int) (string, *textproto.Reader, net.Conn) {
		c, err := net.Dial("tcp", w.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, contentType, length)
		r := textproto.NewReader(bufio.NewReader(c))
		line, err := r.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		return line, r, c
	}
	line, r, c := ask("/topics/a", "application/cloudevents+json", len(event("1")))
	defer c.Close()
	if !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("first answer %q, want 100", line)
	}
	r.ReadLine()
	io.WriteString(c, event("1"))
	if line, err := r.ReadLine(); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Errorf("then %q, %v, want 200", line, err)
	}
	for _, tt := range []struct {
		path, contentType string
		length            int
		want              string
	}{
		{"/topics/a", "application/cloudevents+json", 3 << 20, "413"},
		{"/topics/a", "text/plain", 10, "415"},
		{"/topics/*", "application/cloudevents+json", 10, "400"},
		{"/nothing", "application/cloudevents+json", 10, "404"},
	} {
		line, _, c := ask(tt.path, tt.contentType, tt.length)
		defer c.Close()
		if !strings.HasPrefix(line, "HTTP/1.1 "+tt.want) {
			t.Errorf("POST %s of %d bytes %s: %q, want %s at once", tt.path, tt.length, tt.contentType, line, tt.want)
		}
	}
}

// TestRefusedBodies: a client that sends all of a body before it looks for an answer
// reads the refusal.
func TestRefusedBodies(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	blanks := strings.Repeat(" ", 64<<10)
	for _, tt := range []struct {
		path, contentType string
		mebibytes         int
		chunked           bool
		want              string
	}{
		{"/topics/a", "application/cloudevents+json", 12, false, "413"},
		{"/topics/a", "application/cloudevents+json", 12, true, "413"},
		{"/topics/a", "application/cloudevents-batch+json", 20, false, "413"},
		{"/topics/a", "text/plain", 12, false, "415"},
		{"/topics/a?access_token=wrong", "application/cloudevents+json", 12, true, "401"},
		{"/nothing", "application/cloudevents+json", 12, false, "404"},
	} {
		c, err := net.Dial("tcp", w.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		length := fmt.Sprintf("Content-Length: %d", tt.mebibytes<<20)
		if tt.chunked {
			length = "Transfer-Encoding: chunked"
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n%s\r\n\r\n", tt.path, tt.contentType, length)
		for range tt.mebibytes << 20 / len(blanks) {
			if tt.chunked {
				_, err = fmt.Fprintf(c, "%x\r\n%s\r\n", len(blanks), blanks)
			} else {
				_, err = io.WriteString(c, blanks)
			}
			if err != nil {
				break
			}
		}
		if tt.chunked && err == nil {
			_, err = io.WriteString(c, "0\r\n\r\n")
		}
		if err != nil {
			t.Errorf("%+v: its body: %v", tt, err)
			continue
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " "+tt.want+" ") {
			t.Errorf("%+v: %q, %v", tt, line, err)
		}
	}
}

func TestSlowBodies(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.StallTimeout, g.Limits.BodyTimeout, g.Limits.HeaderTimeout = 200*time.Millisecond, time.Second, 300*time.Millisecond
	})
	open := func(secure bool, text string) net.Conn {
		var c net.Conn
		var err error
		if secure {
			c, err = tls.Dial("tcp", w.HTTPSAddr().String(), &tls.Config{InsecureSkipVerify: true})
		} else {
			c, err = net.Dial("tcp", w.HTTPAddr().String())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, text)
		return c
	}
	const head = "POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\nContent-Length: 1000\r\n\r\n{"
	for _, secure := range []bool{false, true} {
		b, err := io.ReadAll(open(secure, head)) // to the end: the connection is closed
		if err != nil || !strings.Contains(string(b), "did not arrive in time") {
			t.Errorf("a body that stalls (TLS %v): %q, %v", secure, b, err)
		}
		if b, err := io.ReadAll(open(secure, "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")); err != nil || !strings.Contains(string(b), " 404 ") {
			t.Errorf("a body that nobody reads and that stalls (TLS %v): %q, %v", secure, b, err)
		}
		if b, err := io.ReadAll(open(secure, "GET / HTTP/1.1\r\nHost: x")); err != nil || strings.Contains(string(b), " 200 ") {
			t.Errorf("a head that stalls (TLS %v): %q, %v", secure, b, err)
		}
	}
	if b, err := io.ReadAll(open(false, "")); err != nil || len(b) > 0 {
		t.Errorf("a connection that says nothing: %q, %v, want it closed", b, err)
	}
	hello, err := net.Dial("tcp", w.HTTPSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer hello.Close()
	hello.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(hello, "\x16\x03")
	if b, err := io.ReadAll(hello); err != nil || len(b) > 0 {
		t.Errorf("half a TLS hello: %q, %v, want it closed", b, err)
	}
	drip := open(false, head)
	for range 100 {
		time.Sleep(50 * time.Millisecond)
		if _, err := io.WriteString(drip, " "); err != nil {
			return
		}
	}
	if b, err := io.ReadAll(drip); err != nil || !strings.Contains(string(b), "did not arrive in time") {
		t.Errorf("a body that drips: %q, %v, want an end after 1 s", b, err)
	}
}

func TestBodiesHaveABudget(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.MaxBodyBytes = 8<<20 + 4<<10 })
	first, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	first.SetDeadline(time.Now().Add(20 * time.Second))
	// More than 4 MiB have been read, so 8 MiB are held, until the rest comes.
	fmt.Fprintf(first, "POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents-batch+json\r\nContent-Length: %d\r\n\r\n", 5<<20+2)
	fmt.Fprintf(first, "[%s", strings.Repeat(" ", 5<<20))
	eventually(t, "another body is refused", func() bool {
		r := w.do(t, "POST", "/topics/a", event("1")+strings.Repeat(" ", 8<<10), structured)
		return r.status == 429 && r.problem(t).Name == "rate" && r.header.Get("Retry-After") != ""
	})
	io.WriteString(first, "]")
	if line, err := bufio.NewReader(first).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("the first body = %q, %v, want 200", line, err)
	}
	if r := w.do(t, "POST", "/topics/a", event("2")+strings.Repeat(" ", 8<<10), structured); r.status != 200 {
		t.Errorf("after it = %d %s, want 200", r.status, r.body)
	}
}

// TestHeaderLimit: at most 32 KiB of a request's head are read.
func TestHeaderLimit(t *testing.T) {
	w := start(t, nil)
	if r := w.do(t, "GET", "/healthz", "", "X-Long: "+strings.Repeat("x", 16<<10)); r.status != 200 {
		t.Errorf("16 KiB of head = %d, want 200", r.status)
	}
	if r := w.do(t, "GET", "/healthz", "", "X-Long: "+strings.Repeat("x", 33<<10)); r.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("33 KiB of head = %d, want 431", r.status)
	}
}

func TestConnectionLimit(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.MaxConnections = 2 })
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", w.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	third, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.SetDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(third); len(b) > 0 {
		t.Errorf("a third connection got %q, %v, want it closed", b, err)
	}
	if metrics := w.do(t, "GET", w.admin+"/metrics", "").body; !strings.Contains(metrics, "outrelay_connections_refused_total 1") {
		t.Error("the metrics do not count it")
	}
	open[0].Close()
	eventually(t, "a place is free again", func() bool {
		_, err := w.try("GET", "/healthz", "")
		return err == nil
	})
}

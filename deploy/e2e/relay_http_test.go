package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// hycoHTTPS runs Microsoft's npm package hyco-https as a listener and waits until it is one.
func hycoHTTPS(t *testing.T, g *gateway, path, who string) *process {
	t.Helper()
	p := script(t, g, "hyco-https.mjs", path, who)
	if line := p.line(t); line != "listening" {
		t.Fatalf("the listener said %q", line)
	}
	return p
}

// script runs a script of the folder npm that is given the gateway and its key.
func script(t *testing.T, g *gateway, name string, args ...string) *process {
	t.Helper()
	return client(t, "env", append([]string{"-C", "npm", "NODE_EXTRA_CA_CERTS=" + g.CA, "node", name, g.HTTPS, g.KeyName, g.KeyFile}, args...)...)
}

// An echo is what hyco-https.mjs tells of a request.
type echo struct {
	Who, Method, URL, SHA256 string
	Headers                  map[string]string
	Length                   int
}

// ask sends a request and returns the answer with its body.
func ask(t *testing.T, c *http.Client, method, address string, body io.Reader, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r, b, err := tryAsk(t, c, method, address, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	return r, b
}

func tryAsk(t *testing.T, c *http.Client, method, address string, body io.Reader, headers ...string) (*http.Response, []byte, error) {
	q, err := http.NewRequestWithContext(t.Context(), method, address, body)
	if err != nil {
		return nil, nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Add(name, value)
	}
	r, err := c.Do(q)
	if err != nil {
		return nil, nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r, b, err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Microsoft's npm package hyco-https, its files as published, serves HTTP requests
// through the relay over TLS.
func TestRelayHycoHTTPS(t *testing.T) {
	g := start(t)
	c := g.tlsClient(t, false)
	hycoHTTPS(t, g, "hyco/https", "only")
	base := g.HTTPS + "/hyco/https"

	t.Run("methods and headers", func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			var body io.Reader
			if method == "POST" || method == "PUT" || method == "PATCH" {
				body = strings.NewReader("a body")
			}
			_, b := ask(t, c, method, base+"/a%2Fb/c?q=1&sb-hc-id=x&r", body, "X-One: a", "X-One: b", "Cookie: c=1", "SOAPAction: urn:x")
			var e echo
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatalf("%s: %s", b, err)
			}
			if e.Method != method || e.URL != "/hyco/https/a%2Fb/c?q=1&r" || body != nil && e.SHA256 != sum([]byte("a body")) {
				t.Errorf("%s came as %+v", method, e)
			}
			for name, want := range map[string]string{"x-one": "a, b", "cookie": "c=1", "soapaction": "urn:x", "host": strings.TrimPrefix(g.HTTPS, "https://")} {
				if e.Headers[name] != want {
					t.Errorf("%s: %s is %q, want %q", method, name, e.Headers[name], want)
				}
			}
		}
		if r, b := ask(t, c, "HEAD", base+"/x", nil); r.StatusCode != 200 || len(b) > 0 || r.Header.Get("Via") == "" {
			t.Errorf("HEAD: %s %q %v", r.Status, b, r.Header)
		}
	})
	t.Run("statuses", func(t *testing.T) {
		for _, tt := range []struct{ query, want string }{
			{"code=200", "200 OK"}, {"code=204", "204 No Content"}, {"code=304", "304 Not Modified"}, {"code=404", "404 Not Found"}, {"code=418&reason=Short%20and%20stout", "418 Short and stout"},
			{"code=502", "502 Bad Gateway"}, {"code=599&reason=x", "599 x"},
		} {
			r, _ := ask(t, c, "GET", base+"/status?"+tt.query, nil)
			if r.Status != tt.want || r.Header.Get("X-Number") != "12" || r.Header.Get("X-Truth") != "true" || !slices.Equal(r.Header["Set-Cookie"], []string{"a=1; Path=/", "b=2"}) {
				t.Errorf("%s: got %q %v", tt.query, r.Status, r.Header)
			}
		}
	})
	t.Run("bodies", func(t *testing.T) {
		for _, n := range []int{0, 1, 65535, 65536, 65537, 5 << 20} {
			body := bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
			for _, chunked := range []bool{false, true} {
				var reader io.Reader = bytes.NewReader(body)
				if chunked {
					reader = io.MultiReader(reader) // net/http can't see its length
				}
				var e echo
				if _, b := ask(t, c, "POST", base, reader); json.Unmarshal(b, &e) != nil || e.Length != n || e.SHA256 != sum(body) {
					t.Errorf("%d bytes, chunked %v: came as %+v", n, chunked, e)
				}
			}
			if n == 0 {
				continue // hyco-https never answers with an empty piece
			}
			if r, b := ask(t, c, "GET", fmt.Sprintf("%s/big?n=%d", base, n), nil); len(b) != n || sum(b) != r.Header.Get("X-SHA256") {
				t.Errorf("asked for %d bytes in one piece, got %d", n, len(b))
			}
			if _, b := ask(t, c, "GET", fmt.Sprintf("%s/pieces?n=%d", base, n), nil); len(b) != n {
				t.Errorf("asked for %d bytes in pieces, got %d", n, len(b))
			}
		}
	})
	t.Run("streamed", func(t *testing.T) {
		// What hyco-https sends is passed on before it ends: 64 KiB is what it keeps.
		q, err := http.NewRequestWithContext(t.Context(), "GET", base+"/hold?id=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if _, err := io.ReadFull(r.Body, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		ask(t, c, "GET", base+"/release?id=1", nil)
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != "the end" {
			t.Errorf("got %q (%v)", rest, err)
		}
	})
	t.Run("senders that go away", func(t *testing.T) {
		// In a long answer, in a long request, and before either: the listener survives.
		for range 10 {
			for _, n := range []string{"1", "100000", "20000000"} {
				q, err := http.NewRequestWithContext(t.Context(), "POST", base+"/big?n="+n, strings.NewReader(strings.Repeat("x", 70_000)))
				if err != nil {
					t.Fatal(err)
				}
				r, err := c.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				r.Body.Close()
			}
			s, err := tls.Dial("tcp", strings.TrimPrefix(g.HTTPS, "https://"), c.Transport.(*http.Transport).TLSClientConfig)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(s, "POST /hyco/https HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", strings.TrimPrefix(g.HTTPS, "https://"))
			s.Close()
		}
		ask(t, c, "GET", base+"/after", nil)
	})
	t.Run("a hundred at once", func(t *testing.T) {
		var tasks sync.WaitGroup
		for i := range 100 {
			tasks.Go(func() {
				body := bytes.Repeat([]byte{byte(i)}, i*1000)
				var e echo
				_, b, err := tryAsk(t, c, "POST", base, bytes.NewReader(body))
				if err != nil || json.Unmarshal(b, &e) != nil || e.SHA256 != sum(body) {
					t.Errorf("request %d: %v %s", i, err, b)
				}
			})
		}
		tasks.Wait()
	})
}

// Two listeners of hyco-https share the requests; one that dies in the middle of some
// costs these 502, and no other; one that comes back serves again.
func TestRelayHycoHTTPSRestarts(t *testing.T) {
	g := start(t)
	c := g.tlsClient(t, false)
	base := g.HTTPS + "/hyco/two"
	one := hycoHTTPS(t, g, "hyco/two", "one")
	two := hycoHTTPS(t, g, "hyco/two", "two")
	counts := map[string]int{}
	count := func() {
		t.Helper()
		_, b := ask(t, c, "GET", base, nil)
		var e echo
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		counts[e.Who]++
	}
	for range 60 {
		count()
	}
	if counts["one"] < 5 || counts["two"] < 5 {
		t.Errorf("60 requests went to %v", counts)
	}

	// Both hold a request; one of them dies.
	held := make(chan int, 1000)
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	holding := map[*process]int{}
	for holding[one] == 0 || holding[two] == 0 {
		asking.Go(func() {
			q, err := http.NewRequestWithContext(ctx, "GET", base+"/never", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if r, err := c.Do(q); err == nil {
				r.Body.Close()
				held <- r.StatusCode
			}
		})
		select {
		case <-one.lines:
			holding[one]++
		case <-two.lines:
			holding[two]++
		case <-time.After(patience):
			t.Fatal("no listener got the request")
		}
	}
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range holding[one] {
		select {
		case status := <-held:
			if status != 502 {
				t.Errorf("a request of the listener that died got %d, want 502", status)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a request of the listener that died hangs")
		}
	}
	t.Logf("502 after %v", time.Since(began).Round(time.Millisecond))
	clear(counts)
	for range 20 {
		count()
	}
	if !maps.Equal(counts, map[string]int{"two": 20}) {
		t.Errorf("20 requests after one died went to %v", counts)
	}
	hycoHTTPS(t, g, "hyco/two", "three")
	for deadline := time.Now().Add(patience); counts["three"] == 0; count() {
		if time.Now().After(deadline) {
			t.Fatal("the new listener gets no request")
		}
	}
	// Nobody is left: 404, at once.
	hycoHTTPS(t, g, "hyco/gone", "four").cmd.Process.Kill()
	for deadline := time.Now().Add(patience); ; {
		r, b := ask(t, c, "GET", g.HTTPS+"/hyco/gone", nil)
		if r.StatusCode == 404 {
			if !strings.Contains(string(b), "EndpointNotFound") {
				t.Errorf("got %s", b)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s", r.Status)
		}
	}
}

// A SOAP service and a SOAP client of the npm package soap, unmodified, meet through
// the relay: what WCF relays were for.
func TestRelaySOAP(t *testing.T) {
	g := start(t)
	if line := script(t, g, "soap-service.mjs", "soap/orders").line(t); line != "listening" {
		t.Fatalf("the service said %q", line)
	}
	node(t, g.CA, "soap-client.mjs", g.HTTPS+"/soap/orders", g.KeyName, g.KeyFile)
}

// Server-sent events of a local service come through the relay as they are written, to
// curl over HTTP/1.1 and HTTP/2; when curl goes away the service hears of it.
func TestRelayServerSentEvents(t *testing.T) {
	g := start(t)
	write := make(chan string)
	gone := make(chan struct{}, 2)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/events" {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		control.Flush()
		for {
			select {
			case line := <-write:
				fmt.Fprintf(w, "data: %s\n\n", line)
				control.Flush()
			case <-q.Context().Done():
				gone <- struct{}{}
				return
			}
		}
	}))
	t.Cleanup(service.Close)
	client(t, outrelay, "listen", "sse", "--to", service.URL, "--gateway", g.HTTP)
	c := httpClient(t)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until it listens
		r, b := ask(t, c, "GET", g.HTTP+"/sse/", nil)
		if r.StatusCode == 404 && !strings.Contains(string(b), "EndpointNotFound") {
			break // the service's own
		}
		if time.Now().After(deadline) {
			t.Fatalf("outrelay listen does not listen: %s %s", r.Status, b)
		}
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		curl := client(t, "curl", "--silent", "--no-buffer", version, "--cacert", g.CA, g.HTTPS+"/sse/events")
		for _, event := range []string{"one", "two", "three"} {
			select {
			case write <- event:
			case <-time.After(patience):
				t.Fatal("the service was not asked")
			}
			if line := curl.line(t); line != "data: "+event {
				t.Errorf("%s: curl printed %q before the next event was written, want %q", version, line, event)
			}
			if line := curl.line(t); line != "" {
				t.Errorf("%s: then %q", version, line)
			}
		}
		if err := curl.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-gone:
		case <-time.After(patience):
			t.Errorf("%s: the service does not hear that curl has gone", version)
		}
	}
}

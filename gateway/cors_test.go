package gateway_test

import (
	"net"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// closed makes a gateway as without --dev, for the host shop.example, open to
// visitors, with one allowed origin.
func closed(g *gateway.Config, a *access.Config, _ *broker.Config) {
	g.Dev = false
	g.Hosts = map[string]string{"shop.example": "default"}
	a.Namespaces = map[string]access.Namespace{"default": {
		Hosts: []string{"shop.example"}, Origins: []string{"https://app.example"},
		Anonymous: access.Anonymous{Publish: []string{"open/**"}, Subscribe: []string{"**"}},
	}}
}

func TestCORS(t *testing.T) {
	w := start(t, closed)
	for _, tt := range []struct {
		origin string
		want   bool
	}{
		{"https://app.example", true},
		{"https://APP.example", true},
		{"http://shop.example", true}, // the gateway's own, on plain HTTP
		{"http://app.example", false},
		{"https://app.example:8443", false},
		{"https://app.example.evil", false},
		{"https://evil-app.example", false},
		{"https://app.example/", false},
		{"http://localhost", false},
		{"null", false},
		{"*", false},
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			r := w.do(t, method, "/topics/open/a", "", "Host: shop.example", "Origin: "+tt.origin, "Access-Control-Request-Method: POST",
				"Access-Control-Request-Headers: authorization, ce-id,content-type")
			got := r.header.Get("Access-Control-Allow-Origin")
			if tt.want && got != tt.origin || !tt.want && got != "" {
				t.Errorf("%s from %s: Access-Control-Allow-Origin = %q", method, tt.origin, got)
			}
			if !strings.Contains(strings.Join(r.header.Values("Vary"), ","), "Origin") {
				t.Errorf("%s: Vary = %q", method, r.header.Values("Vary"))
			}
			if r.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: credentials are allowed", method)
			}
			if method != "OPTIONS" {
				continue
			}
			methods, headers := r.header.Get("Access-Control-Allow-Methods"), r.header.Get("Access-Control-Allow-Headers")
			if tt.want && (methods != "GET, HEAD, OPTIONS, POST" || headers != "authorization, ce-id, content-type" || r.header.Get("Access-Control-Max-Age") != "7200") {
				t.Errorf("preflight from %s: %q, %q, %q", tt.origin, methods, headers, r.header.Get("Access-Control-Max-Age"))
			}
			if !tt.want && methods+headers != "" {
				t.Errorf("preflight from %s: %q, %q, want neither", tt.origin, methods, headers)
			}
			if r.status != 204 {
				t.Errorf("preflight = %d", r.status)
			}
		}
	}
	r := w.do(t, "GET", "/topics/open/a?limit=x", "", "Host: shop.example", "Origin: https://app.example")
	if r.header.Get("Access-Control-Allow-Origin") == "" || !strings.Contains(r.header.Get("Access-Control-Expose-Headers"), "Retry-After") {
		t.Errorf("a page can't read the problem: %v", r.header)
	}
	r = w.do(t, "OPTIONS", "/topics/open/a", "", "Host: shop.example", "Origin: https://app.example", "Access-Control-Request-Method: POST",
		"Access-Control-Request-Headers: a b")
	if got := r.header.Get("Access-Control-Allow-Headers"); got != "" {
		t.Errorf("a header that is none is allowed as %q", got)
	}
	if _, resp, err := w.tryDial("/topics/open/a", "Host: shop.example", "Origin: https://evil.example"); err == nil || resp.StatusCode != 421 && resp.StatusCode != 403 {
		t.Errorf("a WebSocket from a foreign origin: %v", resp)
	}
}

func TestWebhookHandshake(t *testing.T) {
	w := start(t, closed)
	ask := func(path string, headers ...string) reply {
		return w.do(t, "OPTIONS", path, "", append([]string{"Host: shop.example"}, headers...)...)
	}
	r := ask("/topics/open/a", "WebHook-Request-Origin: sender.example", "WebHook-Request-Rate: 120")
	if r.status != 200 || r.header.Get("WebHook-Allowed-Origin") != "sender.example" || r.header.Get("WebHook-Allowed-Rate") != "*" ||
		!strings.Contains(r.header.Get("Allow"), "POST") {
		t.Errorf("handshake = %d %v, want consent", r.status, r.header)
	}

	// A callback address is not fetched.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan bool, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		called <- err == nil
	}()
	r = ask("/topics/open/a", "WebHook-Request-Origin: sender.example", "WebHook-Request-Callback: http://"+l.Addr().String()+"/callback")
	if r.header.Get("WebHook-Allowed-Origin") != "sender.example" {
		t.Errorf("handshake with a callback = %d %v, want consent", r.status, r.header)
	}
	w.stop() // so that whatever it does has been done
	l.Close()
	if <-called {
		t.Error("the callback address was fetched")
	}
}

func TestWebhookHandshakeRefused(t *testing.T) {
	w := start(t, closed)
	for _, tt := range []struct {
		path, origin string
		status       int
	}{
		{"/topics/shut", "sender.example", 401},
		{"/topics/open/*", "sender.example", 400},
		{"/topics/outrelay/a", "sender.example", 403},
		{"/topics/open/a", "not a name", 400},
		{"/topics/open/a", "", 400},
		{"/topics/open/a%2Fb", "sender.example", 400},
	} {
		r := w.do(t, "OPTIONS", tt.path, "", "Host: shop.example", "WebHook-Request-Origin: "+tt.origin)
		if r.status != tt.status || r.header.Get("WebHook-Allowed-Origin")+r.header.Get("WebHook-Allowed-Rate") != "" {
			t.Errorf("handshake of %q on %s = %d %v, want %d and no consent", tt.origin, tt.path, r.status, r.header, tt.status)
		}
		r.problem(t)
	}
}

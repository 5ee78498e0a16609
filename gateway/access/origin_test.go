package access_test

import (
	"crypto/tls"
	"net/http/httptest"
	"strings"
	"testing"
)

// Foreign to a namespace that allows https://app.example and http://localhost:3000.
var foreignOrigins = []string{
	"", "null", "NULL", "*", "undefined", "about:blank", "file://", "file:///app.example", "data:text/html,x", "blob:https://app.example/1",
	"http://app.example", "ws://app.example", "wss://app.example", "ftp://app.example", "chrome-extension://app.example", "app.example", "//app.example", "https:app.example", "https:/app.example", "https:///app.example",
	"https://app.example:80", "https://app.example:8443", "https://app.example:444", "https://app.example:4430", "https://app.example:0443", "https://app.example:", "https://app.example:0", "https://app.example:65979", "https://app.example:+443", "https://app.example:443:443",
	"https://app.example.", "https://.app.example", "https://app..example", "https://app.example.evil.example", "https://evilapp.example", "https://evil-app.example", "https://evil.app.example", "https://app.exampl", "https://app.examplee", "https://app-example", "https://appxexample",
	"https://app.example/", "https://app.example/x", "https://app.example?x", "https://app.example#x", "https://app.example\\@evil.example", "https://user@app.example", "https://app.example@evil.example", "https://app.example:443@evil.example",
	" https://app.example", "https://app.example ", "https://app.example\n", "https://app.example\x00", "https://app.example,https://evil.example", "https://evil.example, https://app.example", "https://app.example https://evil.example",
	"https://аpp.example", "https://app。example", "https://app.exɑmple", "https://xn--pp-7lc.example", "https://app%2eexample", "https://%61pp.example", "https://ａpp.example", "https://[app.example]", "https://App.EXAMPLE.evil.example",
	"http://localhost", "http://localhost:30000", "http://localhost:3001", "https://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000", "http://localhost.evil.example:3000", "http://2130706433:3000",
	"https://shop.example", "https://other.example",
}

func TestForeignOrigins(t *testing.T) {
	p := policy(t, config())
	if len(foreignOrigins) < 60 {
		t.Errorf("%d foreign origins, want at least 60", len(foreignOrigins))
	}
	for _, o := range foreignOrigins {
		if p.OriginAllowed("shop", o) {
			t.Errorf("OriginAllowed(shop, %q) = true, want false", o)
		}
		if o == "https://shop.example" {
			continue // the namespace's own page
		}
		for _, host := range []string{"shop.example", "app.example", "evil.example", "other.example", strings.TrimPrefix(o, "https://")} {
			r := httptest.NewRequest("GET", "https://shop.example/connect", nil)
			r.Host = host
			r.Header["Origin"] = []string{o}
			if p.RequestAllowed("shop", r) {
				t.Errorf("RequestAllowed from %q to host %q = true, want false", o, host)
			}
		}
	}
	for _, namespace := range []string{"shut", "absent"} {
		if p.OriginAllowed(namespace, "https://app.example") {
			t.Errorf("OriginAllowed(%s, https://app.example) = true, want false", namespace)
		}
	}
}

func TestAllowedOrigins(t *testing.T) {
	c := config()
	ns := c.Namespaces["shop"]
	ns.Origins = append(ns.Origins, "null", "HTTPS://Upper.Example:8443", "http://[2001:DB8::1]:80")
	c.Namespaces["shop"] = ns
	p := policy(t, c)
	for _, tt := range []struct {
		namespace, origin string
		want              bool
	}{
		{"shop", "https://app.example", true},
		{"shop", "https://APP.example", true},
		{"shop", "https://app.example:443", true},
		{"shop", "http://localhost:3000", true},
		{"shop", "https://upper.example:8443", true},
		{"shop", "http://[2001:db8::1]", true},
		{"shop", "null", true},
		{"shop", "http://127.0.0.1:8080", false},
		{"open", "http://localhost", true},
		{"open", "https://localhost:8443", true},
		{"open", "http://app.localhost:5173", true},
		{"open", "http://127.8.9.1:1", true},
		{"open", "http://[::1]:5173", true},
		{"open", "null", true},
		{"open", "http://localhost.evil.example", false},
		{"open", "http://127.0.0.1.evil.example", false},
		{"open", "http://evillocalhost", false},
		{"open", "http://10.0.0.1", false},
		{"open", "http://0.0.0.0", false},
		{"open", "https://app.example", false},
	} {
		if got := p.OriginAllowed(tt.namespace, tt.origin); got != tt.want {
			t.Errorf("OriginAllowed(%s, %q) = %v, want %v", tt.namespace, tt.origin, got, tt.want)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	p := policy(t, config())
	for _, tt := range []struct {
		name, namespace, host string
		tls                   bool
		origins               []string
		want                  bool
	}{
		{"no origin", "shop", "shop.example", true, nil, true},
		{"own page", "shop", "shop.example", true, []string{"https://shop.example"}, true},
		{"own page, case of the host", "shop", "SHOP.example", true, []string{"https://shop.example"}, true},
		{"own page, another host of the namespace", "shop", "shop.test", true, []string{"https://shop.test"}, true},
		{"own page, port written out", "shop", "shop.example:443", true, []string{"https://shop.example"}, true},
		{"own page on a port", "shop", "shop.example:8443", true, []string{"https://shop.example:8443"}, true},
		{"page of another port", "shop", "shop.example:8443", true, []string{"https://shop.example"}, false},
		{"page of another of its hosts", "shop", "shop.test", true, []string{"https://shop.example"}, false},
		{"plain page to TLS", "shop", "shop.example", true, []string{"http://shop.example"}, false},
		{"behind a proxy that ends TLS", "shop", "shop.example", false, []string{"https://shop.example"}, true},
		{"plain page to plain", "shop", "shop.example", false, []string{"http://shop.example"}, true},
		{"a name that was rebound to us", "shop", "evil.example", false, []string{"http://evil.example"}, false},
		{"a name that was rebound to us, with Dev", "open", "evil.example:8080", false, []string{"http://evil.example:8080"}, false},
		{"two origins", "shop", "shop.example", true, []string{"https://shop.example", "https://shop.example"}, false},
	} {
		r := httptest.NewRequest("GET", "http://shop.example/connect", nil)
		r.Host = tt.host
		if r.TLS = nil; tt.tls {
			r.TLS = &tls.ConnectionState{}
		}
		r.Header["Origin"] = tt.origins
		if tt.origins == nil {
			delete(r.Header, "Origin")
		}
		if got := p.RequestAllowed(tt.namespace, r); got != tt.want {
			t.Errorf("%s: RequestAllowed = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	for _, o := range foreignOrigins {
		f.Add(o)
	}
	for _, o := range []string{"https://app.example", "https://APP.example:443", "http://localhost:3000"} {
		f.Add(o)
	}
	p := policy(f, config())
	f.Fuzz(func(t *testing.T, origin string) {
		got := p.OriginAllowed("shop", origin)
		switch strings.ToLower(origin) {
		case "https://app.example", "https://app.example:443", "http://localhost:3000":
			if !got {
				t.Errorf("OriginAllowed(%q) = false, want true", origin)
			}
		default:
			if got {
				t.Errorf("OriginAllowed(%q) = true, want false", origin)
			}
		}
		p.OriginAllowed("open", origin)
	})
}

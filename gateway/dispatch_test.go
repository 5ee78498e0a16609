package gateway_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// TestRefusals has every status of protocol sections 1, 2 and 4 that a single
// request can bring about on topics.
func TestRefusals(t *testing.T) {
	w := start(t, nil)
	long := strings.Repeat("a", 65)
	const sse = "Accept: text/event-stream"
	tests := []struct {
		name, method, path string
		headers            []string
		body               string
		status             int
		problem            string
	}{
		{"no such address", "GET", "/nothing/here", nil, "", 404, "not-found"},
		{"the root", "GET", "/", nil, "", 404, "not-found"},
		{"reserved in another case", "GET", "/Topics/a", nil, "", 404, "not-found"},
		{"below healthz", "GET", "/healthz/x", nil, "", 404, "not-found"},
		{"healthz with a slash", "GET", "/healthz/", nil, "", 404, "not-found"},
		{"an empty segment first", "GET", "//topics/a", nil, "", 404, "not-found"},
		{"dots are not cleaned away", "GET", "/x/../topics/a", nil, "", 404, "not-found"},
		{"OPTIONS nowhere", "OPTIONS", "/nothing", nil, "", 404, "not-found"},

		{"PUT on a topic", "PUT", "/topics/a", nil, "", 405, "method"},
		{"DELETE on a topic", "DELETE", "/topics/a", nil, "", 405, "method"},
		{"POST to healthz", "POST", "/healthz", nil, "", 405, "method"},
		{"POST to well-known", "POST", "/.well-known/outrelay", nil, "", 405, "method"},
		{"an unknown method", "BREW", "/topics/a", nil, "", 405, "method"},

		{"no topic", "POST", "/topics", []string{structured}, event("1"), 400, "name"},
		{"an empty topic", "POST", "/topics/", []string{structured}, event("1"), 400, "name"},
		{"an empty segment", "POST", "/topics/a//b", []string{structured}, event("1"), 400, "name"},
		{"a final slash", "POST", "/topics/a/", []string{structured}, event("1"), 400, "name"},
		{"dots", "POST", "/topics/a/../b", []string{structured}, event("1"), 400, "name"},
		{"encoded dots", "POST", "/topics/a/%2e%2e/b", []string{structured}, event("1"), 400, "name"},
		{"an encoded slash", "POST", "/topics/a%2Fb", []string{structured}, event("1"), 400, "name"},
		{"an encoded slash in a filter", "GET", "/topics/a%2fb", nil, "", 400, "name"},
		{"a blank", "POST", "/topics/a%20b", []string{structured}, event("1"), 400, "name"},
		{"a NATS wildcard", "POST", "/topics/a/%3E", []string{structured}, event("1"), 400, "name"},
		{"a wildcard", "POST", "/topics/a/*", []string{structured}, event("1"), 400, "name"},
		{"a rest wildcard", "POST", "/topics/**", []string{structured}, event("1"), 400, "name"},
		{"a dollar", "POST", "/topics/$SYS", []string{structured}, event("1"), 400, "name"},
		{"no UTF-8", "POST", "/topics/%ff", []string{structured}, event("1"), 400, "name"},
		{"a control character", "POST", "/topics/a%00b", []string{structured}, event("1"), 400, "name"},
		{"a long segment", "POST", "/topics/" + long, []string{structured}, event("1"), 400, "name"},
		{"seventeen segments", "POST", "/topics/" + strings.Repeat("a/", 16) + "a", []string{structured}, event("1"), 400, "name"},
		{"257 bytes", "POST", "/topics/" + strings.Repeat(strings.Repeat("a", 64)+"/", 3) + strings.Repeat("a", 62), []string{structured}, event("1"), 400, "name"},
		{"** before the end", "GET", "/topics/**/a", nil, "", 400, "name"},
		{"half a wildcard", "GET", "/topics/a*", nil, "", 400, "name"},

		{"the broker's own topics", "POST", "/topics/outrelay/listeners", []string{structured}, event("1"), 403, "forbidden"},

		{"no event", "POST", "/topics/a", []string{"Content-Type: application/json"}, `{"a":1}`, 415, "media-type"},
		{"nothing at all", "POST", "/topics/a", nil, "", 415, "media-type"},
		{"an unknown event format", "POST", "/topics/a", []string{"Content-Type: application/cloudevents+avro"}, "x", 415, "media-type"},
		{"an unknown batch format", "POST", "/topics/a", []string{"Content-Type: application/cloudevents-batch+xml"}, "x", 415, "media-type"},
		{"compressed", "POST", "/topics/a", []string{structured, "Content-Encoding: gzip"}, event("1"), 415, "media-type"},
		{"no JSON", "POST", "/topics/a", []string{structured}, "{", 400, "event"},
		{"no id", "POST", "/topics/a", []string{structured}, `{"specversion":"1.0","source":"/s","type":"t"}`, 400, "event"},
		{"an empty body", "POST", "/topics/a", []string{structured}, "", 400, "event"},
		{"two content types", "POST", "/topics/a", []string{structured, structured}, event("1"), 415, "media-type"},
		{"two content types of data", "POST", "/topics/a", []string{"Content-Type: text/plain", "Content-Type: text/html", "ce-id: 1", "ce-source: /s", "ce-type: t", "ce-specversion: 1.0"}, "x", 400, "event"},
		{"an attribute twice", "POST", "/topics/a", []string{"ce-id: 1", "ce-id: 2", "ce-source: /s", "ce-type: t", "ce-specversion: 1.0"}, "x", 400, "event"},
		{"too large in JSON form", "POST", "/topics/a", []string{structured},
			`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too-large"},
		{"a body of more than 2 MiB", "POST", "/topics/a", []string{structured}, strings.Repeat(" ", 2<<20+1), 413, "too-large"},
		{"a batch of more than 8 MiB", "POST", "/topics/a", []string{"Content-Type: application/cloudevents-batch+json"},
			"[" + strings.Repeat(" ", 8<<20) + "]", 413, "too-large"},
		{"1,001 events", "POST", "/topics/a", []string{"Content-Type: application/cloudevents-batch+json"},
			"[" + strings.Repeat(event("1")+",", 1000) + event("1") + "]", 413, "too-large"},
		{"9 KiB of attributes", "POST", "/topics/a", []string{structured},
			`{"specversion":"1.0","id":"1","source":"/s","type":"t","x":"` + strings.Repeat("x", 9<<10) + `"}`, 413, "too-large"},
		{"binary data too large as base64", "POST", "/topics/a", []string{"ce-id: 1", "ce-source: /s", "ce-type: t", "ce-specversion: 1.0"},
			strings.Repeat("\xff", 800<<10), 413, "too-large"},

		{"a type that is not offered", "GET", "/topics/a", []string{"Accept: text/html"}, "", 406, "not-acceptable"},
		{"all refused", "GET", "/topics/a", []string{"Accept: */*;q=0"}, "", 406, "not-acceptable"},

		{"from what", "GET", "/topics/a?from=yesterday", []string{sse}, "", 400, "parameter"},
		{"from no time", "GET", "/topics/a?from=2026-02-30T00:00:00Z", []string{sse}, "", 400, "parameter"},
		{"from an unencoded plus", "GET", "/topics/a?from=2026-01-01T00:00:00+02:00", []string{sse}, "", 400, "parameter"},
		{"from twice", "GET", "/topics/a?from=latest&from=earliest", []string{sse}, "", 400, "parameter"},
		{"an empty from", "GET", "/topics/a?from=", []string{sse}, "", 400, "parameter"},
		{"a bad query", "GET", "/topics/a?from=%zz", []string{sse}, "", 400, "parameter"},
		{"positions maybe", "GET", "/topics/a?positions=maybe", []string{sse}, "", 400, "parameter"},
		{"slow how", "GET", "/topics/a?slow=drop", []string{sse}, "", 400, "parameter"},
		{"no limit", "GET", "/topics/a?limit=0", nil, "", 400, "parameter"},
		{"too high a limit", "GET", "/topics/a?limit=1001", nil, "", 400, "parameter"},
		{"a limit that is none", "GET", "/topics/a?limit=+1", nil, "", 400, "parameter"},
		{"history of the future", "GET", "/topics/a?from=latest", nil, "", 400, "parameter"},
		{"history of the last", "GET", "/topics/a?from=last", nil, "", 400, "parameter"},
		{"a stream with a body", "GET", "/topics/a", []string{sse}, "body", 400, "parameter"},
		{"no cursor", "GET", "/topics/a?after=yesterday", []string{sse}, "", 400, "cursor"},
		{"an empty cursor", "GET", "/topics/a?after=", nil, "", 400, "cursor"},
		{"no cursor in Last-Event-ID", "GET", "/topics/a", []string{sse, "Last-Event-ID: 17"}, "", 400, "cursor"},
		{"no filter", "GET", "/topics/a?filter=x", []string{sse}, "", 400, "filter"},
		{"an empty filter", "GET", "/topics/a?filter=", []string{sse}, "", 400, "filter"},
		{"an unknown dialect", "GET", "/topics/a?filter=" + url.QueryEscape(`{"regex":{"type":"."}}`), nil, "", 400, "filter"},
		{"no expression", "GET", "/topics/a?sql=" + url.QueryEscape("type = "), []string{sse}, "", 400, "filter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := w.do(t, tt.method, tt.path, tt.body, tt.headers...)
			if r.status != tt.status {
				t.Fatalf("%s %.80s = %d %.200s, want %d", tt.method, tt.path, r.status, r.body, tt.status)
			}
			if p := r.problem(t); p.Name != tt.problem {
				t.Errorf("problem %q (%s), want %q", p.Name, p.Detail, tt.problem)
			}
			if allow := r.header.Get("Allow"); (tt.status == 405) != (allow != "") {
				t.Errorf("Allow = %q with status %d", allow, tt.status)
			}
		})
	}
	if r := w.do(t, "GET", "/topics/**", ""); r.body != "[]" {
		t.Errorf("after all these refusals something is stored: %s", r.body)
	}
}

func TestAllowNamesTheMethods(t *testing.T) {
	w := start(t, nil)
	for path, want := range map[string]string{
		"/topics/a":             "GET, HEAD, OPTIONS, POST",
		"/healthz":              "GET, HEAD, OPTIONS",
		"/.well-known/outrelay": "GET, HEAD, OPTIONS",
		"/connect":              "GET, HEAD, OPTIONS",
	} {
		if got := w.do(t, "DELETE", path, "").header.Get("Allow"); got != want {
			t.Errorf("DELETE %s: Allow = %q, want %q", path, got, want)
		}
		r := w.do(t, "OPTIONS", path, "")
		if got := r.header.Get("Allow"); r.status != http.StatusNoContent || got != want {
			t.Errorf("OPTIONS %s = %d, Allow %q, want 204, %q", path, r.status, got, want)
		}
	}
}

func TestHeadAsGet(t *testing.T) {
	w := start(t, nil)
	w.publish(t, "a", "1")
	for _, tt := range []struct{ path, accept string }{
		{"/healthz", ""}, {"/.well-known/outrelay", ""}, {"/topics/a", ""}, {"/nothing", ""}, {"/topics/a", "text/html"},
	} {
		headers := []string{}
		if tt.accept != "" {
			headers = append(headers, "Accept: "+tt.accept)
		}
		get, head := w.do(t, "GET", tt.path, "", headers...), w.do(t, "HEAD", tt.path, "", headers...)
		if head.status != get.status || head.body != "" {
			t.Errorf("HEAD %s = %d with %d bytes, want %d and none", tt.path, head.status, len(head.body), get.status)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Outrelay-Cursor", "Vary"} {
			if got, want := head.header.Get(name), get.header.Get(name); got != want {
				t.Errorf("HEAD %s: %s = %q, want %q as for GET", tt.path, name, got, want)
			}
		}
	}
	r := w.do(t, "HEAD", "/topics/a", "", "Accept: text/event-stream")
	if r.status != 200 || r.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD of an event stream = %d, %s", r.status, r.header.Get("Content-Type"))
	}
}

func TestHostsChooseTheNamespace(t *testing.T) {
	w := start(t, func(g *gateway.Config, a *access.Config, b *broker.Config) {
		g.Dev = false
		g.Hosts = map[string]string{"shop.example": "shop", "www.shop.example": "shop", "bank.example": "bank"}
		b.Namespaces = map[string]broker.NamespaceConfig{"shop": {}, "bank": {}}
		open := access.Anonymous{Publish: []string{"**"}, Subscribe: []string{"**"}}
		a.Namespaces = map[string]access.Namespace{
			"shop": {Hosts: []string{"shop.example"}, Anonymous: open},
			"bank": {Hosts: []string{"bank.example"}, Anonymous: open},
		}
	})
	if r := w.do(t, "POST", "/topics/a", event("1"), structured, "Host: shop.example:8443"); r.status != 200 {
		t.Fatalf("POST = %d %s", r.status, r.body)
	}
	for host, want := range map[string]bool{"shop.example": true, "SHOP.example.": true, "www.shop.example:80": true, "bank.example": false} {
		r := w.do(t, "GET", "/topics/**", "", "Host: "+host)
		if got := strings.Contains(r.body, `"id":"1"`); r.status != 200 || got != want {
			t.Errorf("GET as %s = %d %s; sees the shop's event: %v, want %v", host, r.status, r.body, got, want)
		}
	}
	for _, host := range []string{"127.0.0.1", "example", "shop.example.evil", "localhost"} {
		r := w.do(t, "GET", "/topics/**", "", "Host: "+host)
		if p := r.problem(t); p.Name != "misdirected" || r.status != 421 {
			t.Errorf("GET as %s = %d %s, want 421", host, r.status, p.Name)
		}
	}
	if r := w.do(t, "GET", "/healthz", "", "Host: 10.0.0.7"); r.status != 200 {
		t.Errorf("GET /healthz by address = %d, want 200: a load balancer knows no name", r.status)
	}
	if r := w.do(t, "GET", "/.well-known/outrelay", "", "Host: shop.example"); !strings.Contains(r.body, `"hosts":["shop.example","www.shop.example"]`) {
		t.Errorf("well-known of the shop = %s, want its hosts alone", r.body)
	}
}

// A reload moves host names; with a bad one nothing moves.
func TestSetHosts(t *testing.T) {
	w := start(t, func(g *gateway.Config, a *access.Config, b *broker.Config) {
		g.Dev = false
		g.Hosts = map[string]string{"shop.example": "shop"}
		b.Namespaces = map[string]broker.NamespaceConfig{"shop": {}, "bank": {}}
		a.Namespaces = map[string]access.Namespace{"shop": {}, "bank": {Anonymous: access.Anonymous{Subscribe: []string{"**"}}}}
	})
	want := func(when string, shop, bank int) {
		t.Helper()
		for host, status := range map[string]int{"shop.example": shop, "bank.example": bank} {
			if r := w.do(t, "GET", "/topics/a", "", "Host: "+host); r.status != status {
				t.Errorf("%s: GET as %s = %d, want %d", when, host, r.status, status)
			}
		}
	}
	want("at first", 401, 421)
	next := map[string]string{"bank.example": "bank"}
	if err := w.SetHosts(next); err != nil {
		t.Fatal(err)
	}
	next["shop.example"] = "bank" // the map is the caller's again
	want("moved", 421, 200)
	for _, bad := range []map[string]string{{"Shop.example": "shop"}, {"shop.example:443": "shop"}, {"": "shop"}, {"shop.example": "a/b"}} {
		if err := w.SetHosts(bad); err == nil {
			t.Errorf("SetHosts(%v): no error", bad)
		}
	}
	want("after bad ones", 421, 200)
}

// TestRoutesAsk walks the table: what is not open to all asks for a right first.
func TestRoutesAsk(t *testing.T) {
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{}
	})
	open := []string{"/healthz", "/.well-known/outrelay"}
	for _, route := range gateway.Routes() {
		path := strings.NewReplacer("{topic...}", "a", "{filter...}", "a", "{name}", "a").Replace(route.Pattern)
		if strings.Contains(path, "{") {
			t.Fatalf("the test does not know how to fill %s", route.Pattern)
		}
		headers := []string{structured, "WebHook-Request-Origin: sender.example"}
		r := w.do(t, route.Method, path, "", headers...)
		if route.Asks == "" {
			if r.status != 200 || !slices.Contains(open, path) {
				t.Errorf("%s %s = %d without a token; is it open on purpose?", route.Method, path, r.status)
			}
			continue
		}
		if r.status != 401 || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s %s = %d without a token, WWW-Authenticate %q, want 401", route.Method, path, r.status, r.header.Get("WWW-Authenticate"))
		}
	}
	for _, headers := range [][]string{{"Accept: text/event-stream"}, {"Accept: */*"}} {
		if r := w.do(t, "GET", "/topics/a", "", headers...); r.status != 401 {
			t.Errorf("GET with %v = %d, want 401", headers, r.status)
		}
	}
	if _, resp, err := w.tryDial("/topics/a"); err == nil || resp.StatusCode != 401 {
		t.Errorf("a WebSocket without a token = %v, %v, want 401", resp, err)
	}
}

func TestNegotiate(t *testing.T) {
	const batch, sse, plain = "application/cloudevents-batch+json", "text/event-stream", "application/json"
	for _, tt := range []struct{ accept, want string }{
		{"", batch},
		{" , ", batch},
		{"*/*", batch},
		{"application/*", batch},
		{"text/*", sse},
		{sse, sse},
		{"TEXT/Event-Stream; charset=utf-8", sse},
		{plain, plain},
		{batch, batch},
		{batch + ", " + plain, batch},
		{plain + ", " + sse, sse},
		{sse + ", */*", sse},
		{sse + ", */*;q=0.1", sse},
		{sse + ";q=0.1, */*", batch},
		{sse + ";q=0.5, " + batch + ";q=0.6", batch},
		{sse + ";q=0, */*", batch},
		{batch + ";q=0, " + plain + ";q=0, */*", sse},
		{"text/html, application/xhtml+xml, */*;q=0.8", batch},
		{"text/html", ""},
		{"*/*;q=0", ""},
		{"*/*;q=0.000", ""},
		{"*/*;q=2", ""},
		{"*/*;q=x", ""},
		{"text/html;q=x, " + sse, sse},
		{"garbage", ""},
		{"application/json;q=0.001", plain},
	} {
		h := http.Header{}
		if tt.accept != "" {
			h.Set("Accept", tt.accept)
		}
		if got := gateway.Negotiate(h); got != tt.want {
			t.Errorf("Negotiate(%q) = %q, want %q", tt.accept, got, tt.want)
		}
	}
	if got := gateway.Negotiate(http.Header{"Accept": {"text/html", sse}}); got != sse {
		t.Errorf("two Accept headers: %q, want %q", got, sse)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/topics/a", "/topics/a/b%2Fc", "//", "/topics//", "/%74opics/a", "/.well-known/outrelay", "/connect", "/subscriptions", "/subscriptions/a", "/subscriptions/a%2Fb/ack", "/subscriptions//ack", "/healthz", "*", "", "/topics/%zz", "/topics/%"} {
		f.Add("GET", s)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		segments, ok := gateway.SplitPath(path)
		if !ok {
			return
		}
		if path[0] != '/' || len(segments) != strings.Count(path, "/") {
			t.Fatalf("SplitPath(%q) = %q: a slash was lost or found", path, segments)
		}
		for i, raw := range strings.Split(path[1:], "/") {
			if decoded, err := url.PathUnescape(raw); err != nil || decoded != segments[i] {
				t.Fatalf("SplitPath(%q)[%d] = %q, want %q", path, i, segments[i], decoded)
			}
		}
		pattern, allow := gateway.FindRoute(method, segments)
		if pattern != "" && len(allow) == 0 {
			t.Fatalf("FindRoute(%q, %q) = %q, which allows nothing", method, segments, pattern)
		}
		if len(allow) > 0 && !slices.Contains([]string{"topics", "connect", "subscriptions", "healthz", ".well-known"}, segments[0]) {
			t.Fatalf("FindRoute(%q, %q) allows %v", method, segments, allow)
		}
	})
}

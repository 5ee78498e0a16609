package gateway_test

import (
	"net"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/gateway"
)

func TestMetrics(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t, "/topics/m/*")
	s := w.sse(t, "/topics/m/*")
	w.publish(t, "m/a", "1", "2", "1")
	for range 2 {
		next(t, c)
		s.event(t)
	}
	w.do(t, "POST", "/topics/m/a", "x")
	w.do(t, "GET", "/nowhere/secret-name", "")
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`outrelay_events_received_total{namespace="default"} 3`,
		`outrelay_events_duplicate_total{namespace="default"} 1`,
		`outrelay_events_delivered_total{namespace="default"} 4`,
		`outrelay_refusals_total{namespace="default",problem="media-type"} 1`,
		`outrelay_refusals_total{namespace="default",problem="not-found"} 1`,
		`outrelay_streams{kind="sse",namespace="default"} 1`,
		`outrelay_streams{kind="websocket",namespace="default"} 0`,
		`outrelay_stream_closes_total{kind="websocket",namespace="default",reason="done"} 1`,
		`outrelay_publish_seconds_count{namespace="default"} 3`,
		`outrelay_build_info{version="test"} 1`,
		`go_goroutines `,
		`process_open_fds `,
		`outrelay_connections `,
		`outrelay_body_bytes 0`,
	}
	for _, line := range want {
		eventually(t, "the metrics hold "+line, func() bool {
			return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, "\n"+line)
		})
	}
	if strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, "secret-name") {
		t.Error("a path is in the metrics")
	}
}

func TestAdminListener(t *testing.T) {
	w := start(t, nil)
	_, port, err := net.SplitHostPort(w.AdminAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path, host, origin string
		status                     int
	}{
		{"GET", "/metrics", "127.0.0.1:" + port, "", 200},
		{"HEAD", "/metrics", "localhost:" + port, "", 200},
		{"GET", "/metrics", "[::1]:" + port, "", 200},
		{"GET", "/metrics", "localhost", "http://localhost", 200},
		{"GET", "/debug/pprof/", "localhost", "", 200},
		{"GET", "/debug/pprof/goroutine?debug=1", "localhost", "", 200},
		{"GET", "/metrics", "rebound.example:" + port, "", 421},
		{"GET", "/metrics", "localhost.evil.example", "", 421},
		{"GET", "/metrics", "127.0.0.1.evil.example", "", 421},
		{"GET", "/metrics", "10.0.0.1", "", 421},
		{"GET", "/metrics", "localhost", "https://evil.example", 403},
		{"GET", "/metrics", "localhost", "null", 403},
		{"POST", "/metrics", "localhost", "", 405},
		{"GET", "/topics/a", "localhost", "", 404},
	} {
		headers := []string{"Host: " + tt.host}
		if tt.origin != "" {
			headers = append(headers, "Origin: "+tt.origin)
		}
		if r := w.do(t, tt.method, w.admin+tt.path, "", headers...); r.status != tt.status {
			t.Errorf("%s %s as %s from %q = %d, want %d", tt.method, tt.path, tt.host, tt.origin, r.status, tt.status)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		if r := w.do(t, "GET", path, ""); r.status != 404 {
			t.Errorf("GET %s on the public listener = %d, want 404", path, r.status)
		}
	}
}

func TestLoopbackHost(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "a.localhost:80": true, "LOCALHOST.": true, "127.0.0.1:8080": true, "127.255.0.1": true,
		"[::1]:80": true, "::1": true, "[::ffff:127.0.0.1]": true,
		"": false, "localhost.example": false, "xlocalhost": false, "10.0.0.1": false, "0.0.0.0": false, "[::]": false, "127.1": false,
	} {
		if got := gateway.LoopbackHost(gateway.HostName(host)); got != want {
			t.Errorf("LoopbackHost(%q) = %v, want %v", host, got, want)
		}
	}
}

package gateway_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func TestNewNamesAllFaults(t *testing.T) {
	_, err := gateway.New(gateway.Config{
		HTTPS:  "127.0.0.1:0",
		Hosts:  map[string]string{"Shop.example:443": "a/b"},
		Limits: gateway.Limits{PingInterval: -1, HeaderBytes: 100},
	})
	if err == nil {
		t.Fatal("New() took it")
	}
	for _, want := range []string{"broker", "access", "certificates", "Shop.example:443", "namespace", "pinginterval", "headerbytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v, which does not speak of %q", err, want)
		}
	}
}

func TestListenFailsWhole(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	b, err := broker.New(broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := access.New(access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Broker: b, Access: p, HTTP: free.Addr().String(), Admin: taken.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Listen(); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("Listen() = %v, want one that names %s", err, taken.Addr())
	}
	if g.HTTPAddr() != nil {
		t.Errorf("after it HTTPAddr() = %v", g.HTTPAddr())
	}
	l, err := net.Listen("tcp", free.Addr().String())
	if err != nil {
		t.Fatalf("the other address stayed taken: %v", err)
	}
	l.Close()
}

func TestWellKnown(t *testing.T) {
	w := start(t, nil)
	r := w.do(t, "GET", "/.well-known/outrelay", "")
	var d struct {
		Version   string
		Hosts     []string
		Ports     []int
		Protocols []string
		Limits    map[string]float64
		Promise   string
	}
	if err := json.Unmarshal([]byte(r.body), &d); err != nil || r.status != 200 || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s %v", r.status, r.body, err)
	}
	https, http := w.HTTPSAddr().(*net.TCPAddr).Port, w.HTTPAddr().(*net.TCPAddr).Port
	if d.Version != "test" || len(d.Hosts) != 1 || len(d.Ports) != 2 || d.Ports[0] != https || d.Ports[1] != http ||
		d.Promise != w.broker.Promise() || d.Limits["event"] != schemas.MaxEvent || !strings.Contains(strings.Join(d.Protocols, " "), "cloudevents.json") {
		t.Errorf("well-known = %s", r.body)
	}
}

// A failing broker is a real one that goes wrong at certain topics.
type failing struct{ *broker.Broker }

func (f failing) Publish(ctx context.Context, ns string, t schemas.Topic, e []*schemas.Event) (broker.Receipt, error) {
	switch t {
	case "panic":
		panic("with a client's secret: " + e[0].ID())
	case "error":
		return broker.Receipt{}, &net.OpError{Op: "dial", Net: "tcp", Err: net.UnknownNetworkError("secret-detail")}
	case "storage":
		p := schemas.Problemf("storage", "Try again.")
		p.RetryAfter = 1500e6
		return broker.Receipt{}, p
	case "late":
		<-ctx.Done()
		return broker.Receipt{}, ctx.Err()
	}
	return f.Broker.Publish(ctx, ns, t, e)
}

func TestFaultsAreContained(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	g, err := gateway.New(gateway.Config{
		Broker: failing{w.broker}, Access: w.policy, Dev: true, HTTP: "127.0.0.1:0",
		Limits: gateway.Limits{BrokerTimeout: 100e6}, Logger: newLogger(w.log),
	})
	if err != nil {
		t.Fatal(err)
	}
	next := w.run(t, g)
	for _, tt := range []struct {
		topic, problem, retry string
		status                int
	}{
		{"panic", "internal", "", 500},
		{"error", "internal", "", 500},
		{"storage", "storage", "2", 503},
		{"late", "storage", "1", 503},
		{"fine", "", "", 200},
	} {
		r := next.do(t, "POST", "/topics/"+tt.topic, event("canary-id"), structured)
		if r.status != tt.status || r.header.Get("Retry-After") != tt.retry {
			t.Errorf("%s: %d %s, Retry-After %q", tt.topic, r.status, r.body, r.header.Get("Retry-After"))
		}
		if tt.problem != "" && r.problem(t).Name != tt.problem || strings.Contains(r.body, "secret") {
			t.Errorf("%s: %s", tt.topic, r.body)
		}
	}
	c := next.dial(t, "/topics/panic")
	defer c.CloseNow()
	send(t, c, 1, event("canary-id"))
	wantClose(t, c, schemas.CloseFault)
	if log := w.log.String(); strings.Contains(log, "canary-id") || !strings.Contains(log, "msg=panic") {
		t.Errorf("the log has a client's data, or no panic:\n%s", log)
	}
}

// TestNothingOfClientsInTheLog plants a word wherever a client may put one.
func TestNothingOfClientsInTheLog(t *testing.T) {
	w := start(t, nil)
	const canary = "canary-4711"
	for _, path := range []string{"/" + canary, "/topics/" + canary, "/topics/a?x=" + canary, "/topics/a?access_token=" + canary, "/topics/%0a" + canary, "/topics/a?from=" + canary} {
		for _, method := range []string{"GET", "POST", "OPTIONS", canary} {
			w.do(t, method, path, canary, "X-Canary: "+canary, "Content-Type: application/cloudevents+json", "Last-Event-ID: "+canary)
		}
		w.do(t, "GET", path, "", "Authorization: Bearer "+canary)
		if c, _, err := w.tryDial(path, "Authorization: Bearer "+canary); err == nil {
			c.CloseNow()
		}
		if c, _, err := w.tryDial(path, "Sec-WebSocket-Protocol: outrelay.bearer."+canary+", "+canary); err == nil {
			c.CloseNow()
		}
	}
	c := w.dial(t, "/topics/"+canary)
	send(t, c, 1, canary)
	next(t, c)
	send(t, c, 2, canary)
	wantClose(t, c, schemas.CloseFrameKind)
	for _, bad := range []string{canary, "GET / HTTP/9.9\r\n\r\n", "GET /" + canary + " HTTP/1.1\r\nX: " + canary + "\r\n\r\n", "\x16\x03\x01" + canary} {
		for _, address := range []net.Addr{w.HTTPAddr(), w.HTTPSAddr(), w.AdminAddr()} {
			conn, err := net.Dial("tcp", address.String())
			if err != nil {
				t.Fatal(err)
			}
			conn.Write([]byte(bad))
			conn.(*net.TCPConn).CloseWrite()
			http.ReadResponse(newReader(conn), nil)
			conn.Close()
		}
	}
	w.stop()
	if log := w.log.String(); strings.Contains(log, canary) {
		for line := range strings.Lines(log) {
			if strings.Contains(line, canary) {
				t.Errorf("in the log: %s", line)
			}
		}
	}
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{
		"", "from=latest", "from=earliest&limit=10", "from=2026-01-01T00%3A00%3A00Z", "after=AY68HK3Vjz-hAaje2duz5rb1GA",
		"filter=%7B%22exact%22%3A%7B%22type%22%3A%22t%22%7D%7D", "sql=type%20%3D%20%27t%27", "positions=true&slow=close",
		"limit=1000", "limit=0", "from=a&from=b", "%zz", "a;b", "access_token=x&access_token=y",
	} {
		f.Add(s, "")
	}
	f.Add("", "AY68HK3Vjz-hAaje2duz5rb1GA")
	f.Fuzz(func(t *testing.T, query, last string) {
		r := &http.Request{URL: &url.URL{Path: "/topics/a", RawQuery: query}, Header: http.Header{}}
		if last != "" {
			r.Header.Set("Last-Event-ID", last)
		}
		for way := range 3 {
			limit, positions, err := gateway.CheckParams(r, way)
			if err != nil {
				p, ok := err.(*schemas.Problem)
				if !ok || p.Status() != http.StatusBadRequest || p.Detail == "" {
					t.Fatalf("way %d of %q: %v, want a problem with status 400", way, query, err)
				}
				continue
			}
			if limit < 1 || limit > 1000 || way == 1 && !positions {
				t.Fatalf("way %d of %q: limit %d, positions %v", way, query, limit, positions)
			}
		}
	})
}

func FuzzEventID(f *testing.F) {
	for _, s := range []string{`{"id":"a"}`, `{"x":{"id":"b"},"id":"a"}`, `{"id":7}`, `{"id":"a","id":"b"}`, `[`, ``, "{\"id\":\"\xff\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id := gateway.EventID(b)
		if len(id) > 1024 {
			t.Fatalf("an id of %d bytes", len(id))
		}
		if e, err := schemas.ParseEvent(b); err == nil && len(e.ID()) <= 1024 && e.ID() != id {
			t.Fatalf("EventID(%q) = %q, want %q", b, id, e.ID())
		}
	})
}

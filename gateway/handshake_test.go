package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// TestHandshakeRefusals: all that can be wrong is a problem document, not an open
// and a close.
func TestHandshakeRefusals(t *testing.T) {
	w := start(t, nil)
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	good := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	for _, tt := range []struct {
		name, path string
		change     map[string]string
		status     int
		problem    string
	}{
		{"all is well", "/topics/a", nil, 101, ""},
		{"a list of upgrades", "/topics/a", map[string]string{"Upgrade": "h2c, WebSocket", "Connection": "keep-alive, upgrade"}, 101, ""},
		{"no subprotocol", "/topics/a", map[string]string{"Sec-WebSocket-Protocol": ""}, 101, ""},
		{"an unknown subprotocol", "/topics/a", map[string]string{"Sec-WebSocket-Protocol": "mqtt"}, 400, "parameter"},
		{"another format", "/topics/a", map[string]string{"Sec-WebSocket-Protocol": "cloudevents.avro"}, 400, "parameter"},
		{"a session's subprotocol", "/topics/a", map[string]string{"Sec-WebSocket-Protocol": "outrelay.v1.json"}, 400, "parameter"},
		{"no Connection", "/topics/a", map[string]string{"Connection": ""}, 426, "upgrade"},
		{"version 8", "/topics/a", map[string]string{"Sec-WebSocket-Version": "8"}, 426, "upgrade"},
		{"no version", "/topics/a", map[string]string{"Sec-WebSocket-Version": ""}, 426, "upgrade"},
		{"no key", "/topics/a", map[string]string{"Sec-WebSocket-Key": ""}, 400, "parameter"},
		{"a short key", "/topics/a", map[string]string{"Sec-WebSocket-Key": "c2hvcnQ="}, 400, "parameter"},
		{"a foreign origin", "/topics/a", map[string]string{"Origin": "https://evil.example"}, 403, "forbidden"},
		{"a foreign origin and a bad name", "/topics/a", map[string]string{"Origin": "https://evil.example", "Sec-WebSocket-Version": "8"}, 403, "forbidden"},
		{"an origin on loopback", "/topics/a", map[string]string{"Origin": "http://localhost:3000"}, 101, ""},
		{"an origin that looks like loopback", "/topics/a", map[string]string{"Origin": "http://localhost.evil.example"}, 403, "forbidden"},
		{"a file's origin", "/topics/a", map[string]string{"Origin": "null"}, 101, ""},
		{"a rebound name", "/topics/a", map[string]string{"Origin": "http://evil.example", "Host": "evil.example"}, 403, "forbidden"},
		{"a bad filter", "/topics/**/a", nil, 400, "name"},
		{"an encoded slash", "/topics/a%2Fb", nil, 400, "name"},
		{"a bad parameter", "/topics/a?from=x", nil, 400, "parameter"},
		{"a bad cursor", "/topics/a?after=x", nil, 400, "cursor"},
		{"a bad content filter", "/topics/a?filter=x", nil, 400, "filter"},
		{"two tokens", "/topics/a?access_token=x", map[string]string{"Authorization": "Bearer y"}, 400, "parameter"},
		{"a bad token", "/topics/a?access_token=x", nil, 401, "unauthorized"},
		{"a bad token as a subprotocol", "/topics/a", map[string]string{"Sec-WebSocket-Protocol": "cloudevents.json, outrelay.bearer.eA"}, 401, "unauthorized"},
		{"nowhere", "/nothing", nil, 404, "not-found"},
		{"healthz", "/healthz", nil, 200, ""},
		{"another upgrade", "/topics/a", map[string]string{"Upgrade": "h2c"}, 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			headers := map[string]string{"Sec-WebSocket-Protocol": "cloudevents.json", "Host": "127.0.0.1"}
			for _, more := range []map[string]string{good, tt.change} {
				for k, v := range more {
					headers[k] = v
				}
			}
			c, err := net.Dial("tcp", w.HTTPAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\n", tt.path)
			for k, v := range headers {
				if v != "" {
					fmt.Fprintf(c, "%s: %s\r\n", k, v)
				}
			}
			fmt.Fprint(c, "\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, tt.status)
			}
			if tt.status == 101 {
				want := headers["Sec-WebSocket-Protocol"]
				if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != want {
					t.Errorf("subprotocol %q, want %q", got, want)
				}
				if got := resp.Header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
					t.Errorf("Sec-WebSocket-Accept = %q for %s", got, key)
				}
				if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
					t.Errorf("Sec-WebSocket-Extensions = %q, want none", got)
				}
				return
			}
			if tt.problem == "" {
				return
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if p := (reply{resp.StatusCode, resp.Header, string(b), ""}).problem(t); p.Name != tt.problem {
				t.Errorf("problem %s (%s), want %s", p.Name, p.Detail, tt.problem)
			}
			if tt.status == 426 && (resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Version") != "13") {
				t.Errorf("426 with Upgrade %q and version %q", resp.Header.Get("Upgrade"), resp.Header.Get("Sec-WebSocket-Version"))
			}
		})
	}
	if strings.Contains(w.log.String(), "access_token") || strings.Contains(w.log.String(), "bearer") {
		t.Errorf("a query or a token is in the log:\n%s", w.log)
	}
	if got := strings.Count(w.log.String(), `msg="handshake refused"`); got < 15 {
		t.Errorf("%d refused handshakes are in the log:\n%s", got, w.log)
	}
}

func TestBearerSubprotocolIsNotEchoed(t *testing.T) {
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{Hosts: []string{"127.0.0.1"}, Keys: []access.Key{{Name: "Root", Primary: testKey, Rights: []string{"send", "listen"}}}}
	})
	item := "outrelay.bearer." + base64URL(signature("http://127.0.0.1/", time.Hour))
	for _, offered := range []string{"cloudevents.json, " + item, item + ", cloudevents.json"} {
		c := w.dial(t, "/topics/a", "Sec-WebSocket-Protocol: "+offered)
		if got := c.Subprotocol(); got != "cloudevents.json" {
			t.Errorf("subprotocol %q with %q offered", got, offered[:20])
		}
		c.CloseNow()
	}
	c := w.dial(t, "/topics/a", "Sec-WebSocket-Protocol: "+item)
	if got := c.Subprotocol(); got != "" {
		t.Errorf("subprotocol %q where a token alone was offered", got)
	}
	c.CloseNow()
	if _, resp, err := w.tryDial("/topics/a"); err == nil || resp.StatusCode != 401 {
		t.Errorf("without the token: %v %v, want 401", resp, err)
	}
}

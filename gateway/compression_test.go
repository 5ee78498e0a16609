package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A client that offers permessage-deflate gets its events compressed where the
// operator allows it, beside one that does not; both read the same.
func TestCompression(t *testing.T) {
	for _, offered := range []bool{false, true} {
		w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.Compression = offered })
		open := func(mode websocket.CompressionMode) (*websocket.Conn, *http.Response) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			c, r, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(w.http, "http")+"/topics/a", &websocket.DialOptions{
				Subprotocols: []string{schemas.SubprotocolCloudEvents}, CompressionMode: mode,
			})
			if err != nil {
				t.Fatal(err)
			}
			c.SetReadLimit(2 << 20)
			t.Cleanup(func() { c.CloseNow() })
			return c, r
		}
		short, answer := open(websocket.CompressionNoContextTakeover)
		if got := answer.Header.Get("Sec-WebSocket-Extensions") != ""; got != offered {
			t.Errorf("with compression %t the handshake's answer names it: %t", offered, got)
		}
		plain, _ := open(websocket.CompressionDisabled)
		for _, id := range []string{"small", "large"} {
			data := strings.Repeat(id, map[string]int{"small": 1, "large": 20_000}[id])
			if r := w.do(t, "POST", "/topics/a", data, "ce-id: "+id, "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain"); r.status != 200 {
				t.Fatal(r.status, r.body)
			}
			read := func(c *websocket.Conn) string {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				_, b, err := c.Read(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			if a, b := read(short), read(plain); a != b || !strings.Contains(a, data) {
				t.Errorf("compressed %d bytes, plain %d bytes", len(a), len(b))
			}
		}
	}
}

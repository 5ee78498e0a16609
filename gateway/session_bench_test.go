package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// fill stores n events under topic.
func (w *world) fill(b *testing.B, topic string, n int) {
	b.Helper()
	for at := 0; at < n; at += 1000 {
		var batch strings.Builder
		for i := at; i < min(at+1000, n); i++ {
			fmt.Fprintf(&batch, `,{"specversion":"1.0","id":"%d","source":"/bench","type":"t","data":%q}`, i, strings.Repeat("x", 100))
		}
		if r := w.do(b, "POST", "/topics/"+topic, "["+batch.String()[1:]+"]", batched); r.status != http.StatusOK {
			b.Fatal(r.body)
		}
	}
}

// tag finds a delivery's tag in a message without reading its JSON, so that the client
// costs little; "" if it is none.
func tag(message string) string {
	_, rest, ok := strings.Cut(message[:min(len(message), 400)], `"delivery":"`)
	if !ok {
		return ""
	}
	end := strings.IndexByte(rest, '"')
	return rest[:end]
}

// BenchmarkAckedDeliveries is one event handed out in a session and acked, each by a
// message of its own or many by one. The client is part of it.
func BenchmarkAckedDeliveries(b *testing.B) {
	for _, each := range []int{1, 64} {
		b.Run(fmt.Sprintf("by%d", each), func(b *testing.B) {
			w := start(b, func(_ *gateway.Config, _ *access.Config, c *broker.Config) { c.Log.Storage = "memory" })
			w.fill(b, "a", b.N)
			s := w.raw(b, false, "/connect", "")
			s.SetDeadline(time.Time{})
			s.send(b, frame(0x81, `{"op":"subscribe","id":"s","subscription":"work","topic":"a","from":"earliest","credit":1000}`))
			b.ReportAllocs()
			b.ResetTimer()
			var tags []string
			var out bytes.Buffer
			for got, answered := 0, 0; got < b.N || answered < b.N; {
				_, message, err := s.read()
				if err != nil {
					b.Fatal(err)
				}
				if t := tag(message); t != "" {
					got++
					if tags = append(tags, t); len(tags) == each || got == b.N {
						out.WriteString(frame(0x81, `{"op":"ack","id":"s","deliveries":["`+strings.Join(tags, `","`)+`"]}`))
						tags = tags[:0]
					}
				} else if strings.HasPrefix(message, `{"op":"ok"`) {
					answered += min(each, b.N-answered)
				}
				if s.r.Buffered() == 0 && out.Len() > 0 {
					s.send(b, out.String())
					out.Reset()
				}
			}
		})
	}
}

// BenchmarkSessionPublish is an event published in a session, many under way at once,
// to a topic that is not stored.
func BenchmarkSessionPublish(b *testing.B) {
	w := start(b, nil)
	s := w.raw(b, false, "/connect", "")
	s.SetDeadline(time.Time{})
	b.ReportAllocs()
	b.ResetTimer()
	sent := 0
	for answered := -1; answered < b.N; answered++ { // the first is the welcome
		for ; sent < b.N && sent < answered+200; sent++ {
			s.send(b, frame(0x81, fmt.Sprintf(`{"op":"publish","id":"%d","topic":"live/a","event":{"specversion":"1.0","id":"%d","source":"/bench","type":"t","data":"x"}}`, sent, sent)))
		}
		if _, _, err := s.read(); err != nil {
			b.Fatal(err)
		}
	}
}

package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A received is an event as a stream delivered it.
type received struct {
	ID, Type, Source, RelayTopic, RelayCursor string
	Data                                      json.RawMessage
	raw                                       string
}

// dial opens a stream; the test fails if it is refused.
func (w *world) dial(t testing.TB, path string, headers ...string) *websocket.Conn {
	t.Helper()
	c, resp, err := w.tryDial(path, headers...)
	if err != nil {
		body := []byte{}
		if resp != nil {
			body, _ = io.ReadAll(resp.Body)
		}
		t.Fatalf("dial %s: %v, %s", path, err, body)
	}
	return c
}

func (w *world) tryDial(path string, headers ...string) (*websocket.Conn, *http.Response, error) {
	o := &websocket.DialOptions{HTTPClient: w.client, HTTPHeader: http.Header{}, Subprotocols: []string{"cloudevents.json"}}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Sec-WebSocket-Protocol" {
			o.Subprotocols = nil
			if value != "" {
				o.Subprotocols = strings.Split(value, ", ")
			}
			continue
		}
		if name == "Host" {
			o.Host = value
			continue
		}
		o.HTTPHeader.Set(name, value)
	}
	if !strings.Contains(path, "://") {
		path = w.http + path
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, path, o)
	if err == nil {
		c.SetReadLimit(4 << 20)
	}
	return c, resp, err
}

// next reads the next event of a stream.
func next(t testing.TB, c *websocket.Conn) received {
	t.Helper()
	e, err := tryNext(c)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return e
}

func tryNext(c *websocket.Conn) (e received, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	kind, b, err := c.Read(ctx)
	if err != nil {
		return e, err
	}
	if kind != websocket.MessageText {
		return e, fmt.Errorf("message of kind %v, want text", kind)
	}
	e.raw = string(b)
	return e, json.Unmarshal(b, &e)
}

func send(t testing.TB, c *websocket.Conn, kind websocket.MessageType, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := c.Write(ctx, kind, []byte(text)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// wantClose reads until the gateway closes.
func wantClose(t testing.TB, c *websocket.Conn, want schemas.CloseReason) {
	t.Helper()
	for {
		_, err := tryNext(c)
		if err == nil {
			continue
		}
		var closed websocket.CloseError
		if !errors.As(err, &closed) {
			t.Errorf("the stream ended with %v, want close %d %s", err, want.Code, want.Word)
		} else if got := schemas.ParseClose(int(closed.Code), closed.Reason); int(closed.Code) != want.Code || !strings.HasPrefix(closed.Reason, want.Word) {
			t.Errorf("closed with %d %q (%+v), want %d %s", closed.Code, closed.Reason, got, want.Code, want.Word)
		}
		return
	}
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(prefix, i)
	}
	return ids
}

func TestStreamDeliversInOrder(t *testing.T) {
	w := start(t, nil)
	plain, secure := w.dial(t, "/topics/orders/**"), w.dial(t, w.https+"/topics/orders/*")
	want := numbered("A-", 50)
	w.publish(t, "orders/eu", want...)
	for _, c := range []*websocket.Conn{plain, secure} {
		for _, id := range want {
			if got := next(t, c); got.ID != id || got.RelayTopic != "orders/eu" || got.RelayCursor == "" {
				t.Fatalf("got %s, want id %s of orders/eu with a cursor", got.raw, id)
			}
		}
		if err := c.Close(4000, "enough"); err != nil {
			t.Errorf("Close() = %v, want the code answered", err)
		}
	}
}

func TestStreamParameters(t *testing.T) {
	w := start(t, nil)
	w.publish(t, "a", "1")
	time.Sleep(2 * time.Millisecond)
	between := time.Now()
	cursor := w.publish(t, "b", "2")
	w.publish(t, "a", "3")
	w.do(t, "POST", "/topics/a", "x", "ce-id: 4", "ce-source: /s", "ce-type: other", "ce-specversion: 1.0")
	q := url.QueryEscape
	for _, tt := range []struct{ query, want string }{
		{"from=earliest", "1 2 3 4"},
		{"from=last", "2 4"},
		{"from=" + q(between.UTC().Format(time.RFC3339Nano)), "2 3 4"},
		{"from=" + q(between.Format(time.RFC3339Nano)), "2 3 4"},
		{"after=" + cursor, "3 4"},
		{"after=" + cursor + "&from=earliest", "3 4"},
		{"from=earliest&filter=" + q(`{"exact":{"type":"other"}}`), "4"},
		{"from=earliest&filter=" + q(`[{"prefix":{"type":"test"}},{"not":{"exact":{"id":"1"}}}]`), "2 3"},
		{"from=earliest&sql=" + q("type = 'other' OR id = '1'"), "1 4"},
		{"from=earliest&sql=" + q("id = '1' OR id = '3'") + "&filter=" + q(`{"exact":{"id":"3"}}`), "3"},
		{"from=earliest&unknown=1&unknown=2", "1 2 3 4"},
		{"from=latest", ""},
		{"", ""},
	} {
		c := w.dial(t, "/topics/*?"+tt.query)
		// The last word is one that every filter lets through.
		end := "end-" + q(tt.query)
		if r := w.do(t, "POST", "/topics/end", "x", "ce-id: "+q(end), "ce-source: /s", "ce-type: end", "ce-specversion: 1.0"); r.status != 200 {
			t.Fatal(r.body)
		}
		var got []string
		want := strings.Fields(tt.want)
		if strings.Contains(tt.query, "filter") || strings.Contains(tt.query, "sql") {
			for range want {
				got = append(got, next(t, c).ID)
			}
		} else {
			for {
				e := next(t, c)
				if e.ID == end {
					break
				}
				if e.Type != "end" {
					got = append(got, e.ID)
				}
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", tt.query, got, tt.want)
		}
		c.CloseNow()
	}
}

func TestPublishOnStream(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t, "/topics/chat/room")
	ids := numbered("M-", 20)
	for _, id := range ids {
		send(t, c, websocket.MessageText, event(id))
	}
	for _, id := range ids {
		if got := next(t, c); got.ID != id || got.RelayTopic != "chat/room" {
			t.Fatalf("got %s back, want %s", got.raw, id)
		}
	}
	// Whoever closes knows by the answer that all it sent was taken.
	last := w.dial(t, "/topics/chat/room")
	for _, id := range numbered("L-", 20) {
		send(t, last, websocket.MessageText, event(id))
	}
	if err := last.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	if got := strings.Count(w.do(t, "GET", "/topics/chat/room", "").body, `"id":"L-`); got != 20 {
		t.Errorf("%d events are stored when the Close frame is answered, want 20", got)
	}
	c.CloseNow()
}

func TestRejected(t *testing.T) {
	w := start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{Anonymous: access.Anonymous{
			Publish: []string{"may/*"}, Subscribe: []string{"**", "outrelay/**"},
		}}
	})
	for _, tt := range []struct{ name, path, message, problem, id string }{
		{"on a wildcard", "/topics/*", event("R-1"), "name", "R-1"},
		{"without the right", "/topics/other", event("R-2"), "unauthorized", "R-2"},
		{"the broker's own topic", "/topics/outrelay/x", event("R-3"), "forbidden", "R-3"},
		{"no JSON", "/topics/may/1", `{"id":"R-4",`, "event", "R-4"},
		{"no event", "/topics/may/2", `{"id":"R-5"}`, "event", "R-5"},
		{"no object", "/topics/may/3", `[` + event("R-6") + `]`, "event", ""},
		{"an id that is none", "/topics/may/4", `{"specversion":"1.0","id":7,"source":"/s","type":"t"}`, "event", ""},
		{"an empty message", "/topics/may/5", ``, "event", ""},
		{"a large event", "/topics/may/6", `{"specversion":"1.0","id":"R-7","source":"/s","type":"t","data":"` + strings.Repeat("x", 1<<20) + `"}`, "too-large", "R-7"},
		{"2 MiB", "/topics/may/7", `{"id":"R-8","x":"` + strings.Repeat("x", 2<<20-19) + `"}`, "too-large", "R-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := w.dial(t, tt.path)
			defer c.CloseNow()
			if tt.name == "2 MiB" && len(tt.message) != 2<<20 {
				t.Fatalf("the message has %d bytes", len(tt.message))
			}
			send(t, c, websocket.MessageText, tt.message)
			got := next(t, c)
			var p schemas.Problem
			if err := json.Unmarshal(got.Data, &p); err != nil || got.Type != "dev.outrelay.rejected" || got.RelayCursor != "" || got.Source != "/outrelay" {
				t.Fatalf("got %.300s, want a rejected notice", got.raw)
			}
			if p.Name != tt.problem && !(tt.name == "2 MiB" && p.Name == "event") || p.EventID != tt.id {
				t.Errorf("problem %s of event %q, want %s of %q", p.Name, p.EventID, tt.problem, tt.id)
			}
			if _, err := schemas.ParseEvent([]byte(got.raw)); err != nil {
				t.Errorf("the notice is no event: %v", err)
			}
			// The socket stays.
			if strings.HasPrefix(tt.path, "/topics/may/") {
				send(t, c, websocket.MessageText, event(tt.name))
				if e := next(t, c); e.ID != tt.name {
					t.Errorf("after the rejection: %s", e.raw)
				}
			}
		})
	}
}

func TestBadMessagesClose(t *testing.T) {
	w := start(t, nil)
	for _, tt := range []struct {
		name    string
		kind    websocket.MessageType
		message string
		want    schemas.CloseReason
	}{
		{"binary", websocket.MessageBinary, event("1"), schemas.CloseFrameKind},
		{"an empty binary", websocket.MessageBinary, "", schemas.CloseFrameKind},
		{"not UTF-8", websocket.MessageText, "{\"id\":\"\xff\"}", schemas.CloseNotUTF8},
		{"a surrogate", websocket.MessageText, "\xed\xa0\x80", schemas.CloseNotUTF8},
		{"cut in a character", websocket.MessageText, "\xc3", schemas.CloseNotUTF8},
		{"a byte beyond 2 MiB", websocket.MessageText, strings.Repeat("x", 2<<20+1), schemas.CloseTooBig},
		{"far beyond 2 MiB", websocket.MessageText, strings.Repeat("x", 9<<20), schemas.CloseTooBig},
	} {
		for _, base := range []string{w.http, w.https} {
			t.Run(tt.name, func(t *testing.T) {
				c := w.dial(t, base+"/topics/a")
				defer c.CloseNow()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				var sending sync.WaitGroup
				sending.Go(func() { c.Write(ctx, tt.kind, []byte(tt.message)) })
				wantClose(t, c, tt.want)
				sending.Wait()
			})
		}
	}
	if r := w.do(t, "GET", "/topics/**", ""); r.body != "[]" {
		t.Errorf("something is stored: %s", r.body)
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 300 * time.Millisecond
	})
	w.publish(t, "a", "1")
	c := w.dial(t, "/topics/a?positions=true&sql="+url.QueryEscape("id = 'never'"))
	defer c.CloseNow()
	cursor := func(want string) string {
		e := next(t, c)
		var data struct{ Cursor string }
		if err := json.Unmarshal(e.Data, &data); err != nil || e.Type != want || data.Cursor == "" || e.RelayCursor != "" {
			t.Fatalf("got %s, want %s", e.raw, want)
		}
		return data.Cursor
	}
	open := cursor("dev.outrelay.open")
	last := w.publish(t, "a", "2", "3")
	eventually(t, "a position after what the filter held back", func() bool { return cursor("dev.outrelay.position") == last })
	again := w.dial(t, "/topics/a?after="+open)
	defer again.CloseNow()
	for _, want := range []string{"2", "3"} {
		if got := next(t, again); got.ID != want {
			t.Errorf("after the opening cursor came %s, want %s", got.raw, want)
		}
	}
	without := w.dial(t, "/topics/a")
	defer without.CloseNow()
	w.publish(t, "a", "4")
	if got := next(t, without); got.ID != "4" {
		t.Errorf("a stream that did not ask for positions got %s", got.raw)
	}
}

// TestGaps: what a subscriber misses it is told.
func TestGaps(t *testing.T) {
	w := start(t, nil)
	cursor := w.publish(t, "live/a", "1")
	if cursor != "" {
		t.Fatalf("a topic that is not stored gave the cursor %q", cursor)
	}
	cursor = w.publish(t, "a", "2")
	c := w.dial(t, "/topics/**?after="+cursor)
	defer c.CloseNow()
	e := next(t, c)
	if e.Type != "dev.outrelay.gap" || string(e.Data) != `{"reason":"unstored","missed":null}` {
		t.Fatalf("resumed over a topic that is not stored: %s, want a gap", e.raw)
	}
	w.publish(t, "live/a", "3")
	if e := next(t, c); e.ID != "3" || e.RelayCursor != "" {
		t.Errorf("then %s, want 3 without a cursor", e.raw)
	}
	other, err := schemas.ParseCursor(cursor)
	if err != nil {
		t.Fatal(err)
	}
	other.Log++
	c2 := w.dial(t, "/topics/a?after="+other.String())
	defer c2.CloseNow()
	if e := next(t, c2); e.Type != "dev.outrelay.gap" || !strings.Contains(string(e.Data), `"reset"`) {
		t.Fatalf("with a cursor of another log: %s, want a gap", e.raw)
	}
	if e := next(t, c2); e.ID != "2" {
		t.Errorf("then %s, want the oldest event", e.raw)
	}
	page := w.do(t, "GET", "/topics/a?after="+other.String(), "").body
	if !strings.HasPrefix(page, `[{"specversion":"1.0","id":"`) || !strings.Contains(page, `"type":"dev.outrelay.gap"`) || strings.Index(page, "gap") > strings.Index(page, `"id":"2"`) {
		t.Errorf("a page with that cursor: %s, want the gap first", page)
	}
	eventually(t, "the gaps are counted", func() bool {
		metrics := w.do(t, "GET", w.admin+"/metrics", "").body
		return strings.Contains(metrics, `outrelay_gaps_total{namespace="default",reason="reset"} 2`) &&
			strings.Contains(metrics, `outrelay_gaps_total{namespace="default",reason="unstored"} 1`)
	})
}

// TestSlow: a subscriber that does not read while the ring of topics that are not
// stored runs over gets a gap with the number missed, or a close, as it asked.
func TestSlow(t *testing.T) {
	t.Parallel()
	w := start(t, func(_ *gateway.Config, _ *access.Config, b *broker.Config) {
		b.Limits.RingBytes, b.Limits.RingAge = 64<<10, 50*time.Millisecond
	})
	const events, size = 400, 64 << 10 // more than any socket's buffers hold
	gap, closes := w.dial(t, "/topics/live/**?slow=gap"), w.dial(t, "/topics/live/**?slow=close")
	defer gap.CloseNow()
	defer closes.CloseNow()
	data := strings.Repeat("x", size)
	for i := range events {
		r := w.do(t, "POST", "/topics/live/a", data, fmt.Sprint("ce-id: ", i), "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain")
		if r.status != 202 {
			t.Fatal(r.status, r.body)
		}
	}
	seen, missed, last := 0, 0, -1
	for seen+missed < events {
		e := next(t, gap)
		if e.Type == "dev.outrelay.gap" {
			var data struct {
				Reason string
				Missed int
			}
			if err := json.Unmarshal(e.Data, &data); err != nil || data.Reason != "slow" || data.Missed == 0 {
				t.Fatalf("gap %s, %v", e.raw, err)
			}
			missed += data.Missed
			last += data.Missed
			continue
		}
		seen++
		if last++; e.ID != fmt.Sprint(last) {
			t.Fatalf("event %s, want %d", e.ID, last)
		}
	}
	if missed == 0 || seen == 0 {
		t.Errorf("%d events seen, %d missed; want some of each", seen, missed)
	}
	wantClose(t, closes, schemas.CloseSlow)
}

func TestStreamLimit(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.MaxStreams = 2 })
	a, b := w.dial(t, "/topics/a"), w.dial(t, "/topics/b")
	defer b.CloseNow()
	for _, headers := range [][]string{
		{"Accept: text/event-stream"},
		{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		r := w.do(t, "GET", "/topics/c", "", headers...)
		if p := r.problem(t); r.status != 429 || p.Name != "rate" || r.header.Get("Retry-After") == "" {
			t.Errorf("a third stream = %d %s, Retry-After %q", r.status, r.body, r.header.Get("Retry-After"))
		}
	}
	if r := w.do(t, "GET", "/topics/c", ""); r.status != 200 {
		t.Errorf("history = %d, which is no stream", r.status)
	}
	a.CloseNow()
	eventually(t, "a place is free", func() bool {
		c, _, err := w.tryDial("/topics/c")
		if err != nil {
			return false
		}
		c.CloseNow()
		return true
	})
}

// TestStormOfStreams: many at once, each gets all.
func TestStormOfStreams(t *testing.T) {
	w := start(t, nil)
	const streams, events = 100, 20
	var reading sync.WaitGroup
	conns := make([]*websocket.Conn, streams)
	for i := range conns {
		conns[i] = w.dial(t, "/topics/storm/**")
	}
	for _, c := range conns {
		reading.Go(func() {
			defer c.CloseNow()
			for i := range events {
				if e, err := tryNext(c); err != nil || e.ID != fmt.Sprint(i) {
					t.Errorf("event %d: %s %v", i, e.raw, err)
					return
				}
			}
		})
	}
	w.publish(t, "storm/a", numbered("", events)...)
	reading.Wait()
	eventually(t, "no stream is open", func() bool {
		metrics := w.do(t, "GET", w.admin+"/metrics", "").body
		return strings.Contains(metrics, `outrelay_streams{kind="websocket",namespace="default"} 0`)
	})
}

package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
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

// TestDrain: every stream gets the notice and the close, what is under way is
// finished, and /healthz says so for a second.
func TestDrain(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	const streams = 50
	notices := make(chan string, streams)
	var reading sync.WaitGroup
	for i := range streams {
		c := w.dial(t, "/topics/a")
		if i%2 == 0 {
			c.CloseNow()
			c = w.dial(t, w.https+"/topics/a")
		}
		reading.Go(func() {
			defer c.CloseNow()
			var before received
			for {
				e, err := tryNext(c)
				if err == nil {
					before = e
					continue
				}
				var closed websocket.CloseError
				if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway || closed.Reason != "drain" {
					t.Errorf("closed with %v, want 1001 drain", err)
				}
				if before.Type != "dev.outrelay.draining" {
					t.Errorf("before the close came %q, want the notice", before.raw)
				}
				notices <- string(before.Data)
				return
			}
		})
	}
	events := w.sse(t, "/topics/a")
	reading.Go(func() {
		data, err := events.next()
		if err != nil || !strings.Contains(data, "dev.outrelay.draining") {
			t.Errorf("the event stream got %q, %v, want the notice", data, err)
		}
		if n, err := strconv.Atoi(events.retry); err != nil || n < 0 {
			t.Errorf("retry: %q", events.retry)
		}
		if data, err := events.next(); err != io.EOF {
			t.Errorf("then %q, %v, want the end", data, err)
		}
	})

	// A publish whose body is still coming.
	under, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer under.Close()
	under.SetDeadline(time.Now().Add(20 * time.Second))
	body := event("under-way")
	fmt.Fprintf(under, "POST /topics/b HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:10])
	eventually(t, "the gateway reads it", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, "outrelay_body_bytes 4096")
	})

	stopped := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		w.stop()
		stopped <- time.Since(began)
	}()
	eventually(t, "/healthz says 503", func() bool { return w.do(t, "GET", "/healthz", "").status == 503 })
	r := w.do(t, "POST", "/topics/b", event("late"), structured)
	if p := r.problem(t); r.status != 503 || p.Name != "draining" || r.header.Get("Retry-After") == "" {
		t.Errorf("a publish during the drain = %d %s, Retry-After %q", r.status, r.body, r.header.Get("Retry-After"))
	}
	if r := w.do(t, "GET", w.https+"/topics/b", "", "Accept: text/event-stream"); r.status != 503 {
		t.Errorf("an event stream during the drain = %d", r.status)
	}
	// With 503 an EventSource would never come back.
	page := w.do(t, "GET", w.https+"/topics/b", "", "Accept: text/event-stream", "Origin: http://localhost:1")
	if retry, rest, _ := strings.Cut(page.body, "\n"); page.status != 200 || !strings.HasPrefix(retry, "retry: 1") || !strings.Contains(rest, "dev.outrelay.draining") {
		t.Errorf("a page's event stream during the drain = %d %q, want one that says when to come back, and ends", page.status, page.body)
	}
	if _, resp, err := w.tryDial("/topics/b"); err == nil || resp.StatusCode != 503 {
		t.Errorf("a WebSocket during the drain: %v", resp)
	}
	for time.Since(began) < 900*time.Millisecond {
		if r, err := w.try("GET", "/healthz", ""); err != nil || r.status != 503 {
			t.Fatalf("%v after the stop: %d, %v", time.Since(began), r.status, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	io.WriteString(under, body[10:])
	if line, err := bufio.NewReader(under).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("the publish under way = %q, %v, want 200", line, err)
	}
	reading.Wait()
	close(notices)
	for n := range notices {
		var data struct{ ReconnectAfterMS *int }
		if err := json.Unmarshal([]byte(n), &data); err != nil || data.ReconnectAfterMS == nil || *data.ReconnectAfterMS < 0 || *data.ReconnectAfterMS > 5000 {
			t.Errorf("notice with data %s, %v", n, err)
		}
	}
	if took := <-stopped; took < time.Second || took > 10*time.Second {
		t.Errorf("the drain took %v, want at least 1 s and not much more", took)
	}
	if _, err := w.try("GET", "/healthz", ""); err == nil {
		t.Error("it still answers")
	}
}

// TestDrainDeadline: whoever takes nothing does not hold the drain up for longer
// than it may last.
func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.DrainTimeout = 2 * time.Second })
	stalled := w.raw(t, false, "/topics/live/a", "")
	c, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /topics/live/a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	if _, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	data := strings.Repeat("x", 256<<10)
	for i := range 80 {
		w.do(t, "POST", "/topics/live/a", data, fmt.Sprint("ce-id: ", i), "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain")
	}
	half, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	fmt.Fprint(half, "POST /topics/b HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\nContent-Length: 100\r\n\r\n{")
	began := time.Now()
	w.stop()
	if took := time.Since(began); took < 2*time.Second || took > 6*time.Second {
		t.Errorf("the drain took %v, want 2 s", took)
	}
	stalled.Close()
}

// TestRestartMissesNothing: streams that a drain sends away resume on the next
// gateway by their cursor.
func TestRestartMissesNothing(t *testing.T) {
	w := start(t, nil)
	const streams, events = 500, 200
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var mu sync.Mutex
	base := w.http
	address := func() string {
		mu.Lock()
		defer mu.Unlock()
		return base
	}
	var reading sync.WaitGroup
	var opened sync.WaitGroup
	opened.Add(streams)
	for range streams {
		reading.Go(func() {
			cursor, n, first := "", 0, true
			for n < events && ctx.Err() == nil {
				c, _, err := w.tryDial(address() + "/topics/r/**?after=" + cursor)
				if cursor == "" {
					c, _, err = w.tryDial(address() + "/topics/r/**")
				}
				if err != nil {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				if first {
					opened.Done()
					first = false
				}
				for n < events {
					e, err := tryNext(c)
					if err != nil {
						break
					}
					if e.Type == schemas.NoticeGap {
						t.Errorf("a gap: %s", e.raw)
					}
					if e.RelayCursor == "" {
						continue
					}
					if e.ID != fmt.Sprint(n) {
						t.Errorf("got %s, want %d", e.ID, n)
						n = events
						break
					}
					cursor, n = e.RelayCursor, n+1
				}
				c.CloseNow()
			}
			if n < events {
				t.Errorf("only %d events arrived", n)
			}
		})
	}
	opened.Wait()
	w.publish(t, "r/a", numbered("", 100)...)
	next := w.again(t)
	w.stop()
	mu.Lock()
	base = next.http
	mu.Unlock()
	for i := 100; i < events; i++ {
		next.publish(t, "r/a", fmt.Sprint(i))
	}
	reading.Wait()
}

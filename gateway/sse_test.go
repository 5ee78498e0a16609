package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// An eventSource reads an event stream as the HTML Standard, section 9.2.6, says.
type eventSource struct {
	resp   *http.Response
	cancel context.CancelFunc
	r      *bufio.Reader

	id      string // the last one
	retry   string
	comment int
	blocks  int // that had an id and no data
}

func (w *world) sse(t testing.TB, path string, headers ...string) *eventSource {
	t.Helper()
	if !strings.Contains(path, "://") {
		path = w.http + path
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, "GET", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	s := newEventSource(resp, cancel)
	t.Cleanup(s.close)
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/event-stream" {
		t.Fatalf("GET %s = %d, %s", path, resp.StatusCode, got)
	}
	return s
}

func newEventSource(resp *http.Response, cancel context.CancelFunc) *eventSource {
	return &eventSource{resp: resp, cancel: cancel, r: bufio.NewReader(resp.Body)}
}

func (s *eventSource) close() {
	s.cancel()
	s.resp.Body.Close()
}

// next returns the data of the next event.
func (s *eventSource) next() (string, error) {
	for {
		before := s.blocks
		if data, err := s.nextBlock(); err != nil || s.blocks == before {
			return data, err
		}
	}
}

// nextBlock returns at the end of the next event, and of an id that stands alone.
func (s *eventSource) nextBlock() (string, error) {
	var data []string
	id := false
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.Contains(line, "\r") {
			return "", fmt.Errorf("a bare CR in %q", line)
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && len(data) > 0:
			return strings.Join(data, "\n"), nil
		case line == "" && id:
			s.blocks++
			return "", nil
		case line == "":
		case field == "":
			s.comment++
		case field == "id":
			s.id, id = value, true
		case field == "data":
			data = append(data, value)
		case field == "retry":
			s.retry = value
		default:
			return "", fmt.Errorf("field %q", field)
		}
	}
}

func (s *eventSource) event(t testing.TB) (e received) {
	t.Helper()
	data, err := s.next()
	if err != nil {
		t.Fatalf("event stream: %v", err)
	}
	e.raw = data
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("data %q: %v", data, err)
	}
	return e
}

func TestEventStream(t *testing.T) {
	w := start(t, nil)
	for i, base := range []string{w.http, w.https} {
		topic := fmt.Sprintf("sse/%d", i)
		s := w.sse(t, base+"/topics/"+topic)
		if want := []string{"HTTP/1.1", "HTTP/2.0"}[i]; s.resp.Proto != want {
			t.Errorf("%s was spoken, want %s", s.resp.Proto, want)
		}
		want := numbered("S-", 30)
		w.publish(t, topic, want...)
		for n, id := range want {
			e := s.event(t)
			if e.ID != id || e.RelayTopic != topic || e.RelayCursor == "" || s.id != e.RelayCursor {
				t.Fatalf("got %s with id %q, want %s", e.raw, s.id, id)
			}
			if n == 9 {
				s.close() // and again, as an EventSource does: same address, last id
				s = w.sse(t, base+"/topics/"+topic+"?from=earliest", "Last-Event-ID: "+s.id)
			}
		}
		if s.blocks == 0 {
			t.Error("the stream opened without its position")
		}
	}
}

func TestEventStreamResumesBeforeItsFirstEvent(t *testing.T) {
	w := start(t, nil)
	s := w.sse(t, "/topics/a?sql="+url.QueryEscape("id = '2'"))
	line, err := s.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "id: ") {
		t.Fatalf("the stream opens with %q, %v, want its position", line, err)
	}
	cursor := strings.TrimSpace(strings.TrimPrefix(line, "id: "))
	if line, err = s.r.ReadString('\n'); err != nil || line != "\n" {
		t.Fatalf("then %q, %v, want the end of the block", line, err)
	}
	s.close()
	w.publish(t, "a", "1", "2")
	again := w.sse(t, "/topics/a", "Last-Event-ID: "+cursor)
	for _, want := range []string{"1", "2"} {
		if e := again.event(t); e.ID != want {
			t.Errorf("resumed with %s, want %s", e.raw, want)
		}
	}
}

func TestEventStreamLines(t *testing.T) {
	w := start(t, nil)
	s := w.sse(t, "/topics/a")
	data := "{\r\n  \"a\": 1,\r  \"b\":\n2}"
	w.do(t, "POST", "/topics/a", data, "ce-id: 1", "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: application/json")
	e := s.event(t)
	if got := string(e.Data); got != "{\n  \"a\": 1,\n  \"b\":\n2}" {
		t.Errorf("data %q, want its lines joined with LF", got)
	}
	for in, want := range map[string]string{
		"":           "data: \n",
		"a":          "data: a\n",
		"a\n":        "data: a\ndata: \n",
		"a\r\nb":     "data: a\ndata: b\n",
		"\r\r\n\n\r": "data: \ndata: \ndata: \ndata: \ndata: \n",
	} {
		if got := string(gateway.AppendData([]byte(in))); got != want {
			t.Errorf("AppendData(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestIdleEventStreamsAreKeptAlive(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 200 * time.Millisecond
	})
	for i, base := range []string{w.http, w.https} {
		s := w.sse(t, base+"/topics/a?sql="+url.QueryEscape("type = 'end'"))
		last := w.publish(t, "a", fmt.Sprint("x", i), fmt.Sprint("y", i))
		began := time.Now()
		id := ""
		for time.Since(began) < 2500*time.Millisecond {
			line, err := s.r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if after, ok := strings.CutPrefix(line, "id: "); ok {
				id = strings.TrimSpace(after)
			}
			if strings.HasPrefix(line, ":") {
				s.comment++
			}
		}
		if s.comment < 3 {
			t.Errorf("%d comments in 2.5 s with an interval of 500 ms", s.comment)
		}
		if id != last {
			t.Errorf("the position is %q, want that of the event behind the filter, %q", id, last)
		}
		w.do(t, "POST", "/topics/a", "x", "ce-id: end"+s.resp.Proto, "ce-source: /s", "ce-type: end", "ce-specversion: 1.0")
		if e := s.event(t); e.Type != "end" {
			t.Errorf("then %s", e.raw)
		}
	}
}

func TestEventStreamOfUnstoredTopics(t *testing.T) {
	w := start(t, nil)
	s := w.sse(t, "/topics/live/*")
	w.publish(t, "live/a", "1")
	if e := s.event(t); e.ID != "1" || e.RelayCursor != "" {
		t.Errorf("got %s", e.raw)
	}
	s2 := w.sse(t, "/topics/live/*", "Last-Event-ID: "+s.id)
	if e := s2.event(t); e.Type != "dev.outrelay.gap" {
		t.Errorf("resumed with %s, want a gap", e.raw)
	}
}

// TestEventStreamSlots: a client that leaves gives its place back, over HTTP/2 as well.
func TestEventStreamSlots(t *testing.T) {
	w := start(t, nil)
	open := func(n string) bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_streams{kind="sse",namespace="default"} `+n+"\n")
	}
	a, b := w.sse(t, "/topics/a"), w.sse(t, w.https+"/topics/a")
	eventually(t, "two are open", func() bool { return open("2") })
	a.close()
	eventually(t, "one is open", func() bool { return open("1") })
	b.close()
	eventually(t, "none is open", func() bool { return open("0") })
}

// TestStalledEventStreamIsCut: a client that takes nothing for two intervals.
func TestStalledEventStreamIsCut(t *testing.T) {
	t.Parallel()
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 300 * time.Millisecond
	})
	c, err := tls.Dial("tcp", w.HTTPSAddr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /topics/live/a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	if line, err := bufio.NewReaderSize(c, 16).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatal(line, err)
	}
	data := strings.Repeat("x", 256<<10)
	for i := range 100 {
		w.do(t, "POST", "/topics/live/a", data, fmt.Sprint("ce-id: ", i), "ce-source: /s", "ce-type: t", "ce-specversion: 1.0", "Content-Type: text/plain")
	}
	eventually(t, "the stream is gone", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_streams{kind="sse",namespace="default"} 0`)
	})
}

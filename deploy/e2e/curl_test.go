package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// curl publishes over HTTPS with the development authority's certificate, by
// HTTP/2 and by HTTP/1.1.
func TestCurlPublishesOverHTTPS(t *testing.T) {
	g := start(t)
	for version, flag := range map[string]string{"2": "--http2", "1.1": "--http1.1"} {
		got := output(t, ".", "", "curl", "--silent", "--show-error", flag, "--cacert", g.CA,
			"-H", "Content-Type: application/cloudevents+json", "-d", sample("by-http-"+version),
			"-w", " %{http_version} %{http_code}", g.HTTPS+"/topics/tls/one")
		if !strings.HasPrefix(got, `{"accepted":1,`) || !strings.HasSuffix(got, " "+version+" 200") {
			t.Errorf("curl %s printed %s, want an answer to one event, %s and 200", flag, got, version)
		}
	}
}

// curl follows a stream as server-sent events, resumes it with Last-Event-ID, and
// reads the same events as history.
func TestCurlServerSentEvents(t *testing.T) {
	g := start(t)
	for i := range 3 {
		publish(t, g.topics("curl/one"), sample(fmt.Sprint("event-", i)))
	}
	live := client(t, "curl", "--silent", "--show-error", "--no-buffer", "-H", "Accept: text/event-stream", g.topics("curl/**", "from", "earliest"))
	var cursors []string
	for i := range 3 {
		event, cursor := block(t, live)
		if want := fmt.Sprint("event-", i); member(t, event, "id") != want {
			t.Errorf("event %d is %s, want %s", i, event, want)
		}
		if cursor == "" || cursor != member(t, event, "relaycursor") {
			t.Errorf("the id: of the block is %q, want the cursor of %s", cursor, event)
		}
		cursors = append(cursors, cursor)
	}
	publish(t, g.topics("curl/two"), sample("live"))
	if event, _ := block(t, live); member(t, event, "id") != "live" {
		t.Errorf("after the stored events came %s, want the live one", event)
	}

	resumed := client(t, "curl", "--silent", "--show-error", "--no-buffer", "-H", "Accept: text/event-stream",
		"-H", "Last-Event-ID: "+cursors[1], g.topics("curl/**"))
	for _, want := range []string{"event-2", "live"} {
		if event, _ := block(t, resumed); member(t, event, "id") != want {
			t.Errorf("a stream resumed after event-1 brought %s, want %s", event, want)
		}
	}

	var page []json.RawMessage
	history := output(t, ".", "", "curl", "--silent", "--show-error", "--fail", g.topics("curl/**"))
	if err := json.Unmarshal([]byte(history), &page); err != nil {
		t.Fatalf("the history %s: %v", history, err)
	}
	var ids []string
	for _, event := range page {
		ids = append(ids, member(t, string(event), "id"))
	}
	if got := strings.Join(ids, " "); got != "event-0 event-1 event-2 live" {
		t.Errorf("the history has %s, want the four events in order", got)
	}
}

// block reads server-sent events until one with data, and returns that and its id.
func block(t *testing.T, p *process) (data, id string) {
	t.Helper()
	var lines []string
	for {
		line := p.line(t)
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			lines = append(lines, value)
		case "id":
			id = value
		}
		if line == "" && len(lines) > 0 {
			return strings.Join(lines, "\n"), id
		}
	}
}

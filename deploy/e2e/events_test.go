package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// readLines sends the lines of r, without their ends, until r ends.
func readLines(r io.Reader, lines chan<- string) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 4<<20)
	for s.Scan() {
		lines <- s.Text()
	}
}

// tryPost publishes a body and returns the answer, which must have the status.
func tryPost(ctx context.Context, address, contentType, body string, status int) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", contentType)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("POST %s: %s %s, want status %d", address, resp.Status, answer, status)
	}
	return string(answer), err
}

func post(t *testing.T, address, contentType, body string, status int) string {
	t.Helper()
	answer, err := tryPost(t.Context(), address, contentType, body, status)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// publish publishes one structured event.
func publish(t *testing.T, address, event string) {
	t.Helper()
	post(t, address, "application/cloudevents+json", event, http.StatusOK)
}

// sample is a small event.
func sample(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/e2e","type":"sample","data":{"id":%[1]q}}`, id)
}

// A stream is an open WebSocket on which events arrive as their text.
type stream struct{ conn *websocket.Conn }

func dial(t *testing.T, address string) *stream {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{Subprotocols: []string{"cloudevents.json"}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(4 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &stream{conn}
}

func (s *stream) next(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kind, b, err := s.conn.Read(ctx)
	if err != nil || kind != websocket.MessageText {
		t.Fatalf("reading an event: a %v message, %v", kind, err)
	}
	return string(b)
}

// members parses an event's JSON text. The values stay as they were written.
func members(t *testing.T, event string) map[string]json.RawMessage {
	t.Helper()
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(event), &m); err != nil {
		t.Fatalf("the event %s: %v", event, err)
	}
	return m
}

// member is one string member of an event, "" if there is none.
func member(t *testing.T, event, name string) string {
	t.Helper()
	raw, ok := members(t, event)[name]
	if !ok {
		return ""
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("the member %s of %s: %v", name, event, err)
	}
	return s
}

// own is an event without what the broker added, with the members in order, so
// that two deliveries of one event can be compared byte by byte.
func own(t *testing.T, event string) string {
	t.Helper()
	m := members(t, event)
	var names []string
	for name := range m {
		if name != "relaytopic" && name != "relaycursor" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%s\n", name, m[name])
	}
	return b.String()
}

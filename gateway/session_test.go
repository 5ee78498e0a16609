package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A talk is a session as a client has it.
type talk struct {
	*websocket.Conn
	t     testing.TB
	early []said // events that came before an answer
}

// A said is a message of the gateway.
type said struct {
	schemas.SessionMessage
	raw string
}

// session opens a session and reads its welcome.
func (w *world) session(t testing.TB, headers ...string) *talk {
	t.Helper()
	c := w.dial(t, "/connect", append([]string{"Sec-WebSocket-Protocol: outrelay.v1.json"}, headers...)...)
	s := &talk{Conn: c, t: t}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(16 << 20)
	if m := s.next(); m.Op != "welcome" || m.Connection == "" || m.Gateway == "" {
		t.Fatalf("a session began with %s, want a welcome", m.raw)
	}
	return s
}

// say sends a message.
func (s *talk) say(format string, args ...any) {
	s.t.Helper()
	send(s.t, s.Conn, websocket.MessageText, fmt.Sprintf(format, args...))
}

// next reads the next message.
func (s *talk) next() said {
	s.t.Helper()
	if len(s.early) > 0 {
		m := s.early[0]
		s.early = s.early[1:]
		return m
	}
	return s.read()
}

func (s *talk) read() said {
	s.t.Helper()
	var m said
	e, err := tryNext(s.Conn)
	if err != nil {
		s.t.Fatalf("read: %v", err)
	}
	m.raw = e.raw
	if err := json.Unmarshal([]byte(m.raw), &m.SessionMessage); err != nil {
		s.t.Fatalf("%s: %v", m.raw, err)
	}
	return m
}

// want reads the next message, which must have this op and id. What a settlement
// brings about may come before its answer, and is kept for later.
func (s *talk) want(op, id string) said {
	s.t.Helper()
	var m said
	if op == "ok" {
		for m = s.read(); m.Op == "event"; m = s.read() {
			s.early = append(s.early, m)
		}
	} else {
		m = s.next()
	}
	if m.Op != op || m.ID != id {
		s.t.Fatalf("got %s, want %s of id %q", m.raw, op, id)
	}
	return m
}

// wantError reads the next message, which must be an error of this problem.
func (s *talk) wantError(id, problem string) said {
	s.t.Helper()
	m := s.want("error", id)
	if m.Problem == nil || m.Problem.Name != problem || m.Problem.Detail == "" {
		s.t.Fatalf("got %s, want the problem %s", m.raw, problem)
	}
	return m
}

// event is the id of a delivered event.
func (m said) event() string {
	var e received
	_ = json.Unmarshal(m.Event, &e)
	return e.ID
}

func TestSessionWelcomes(t *testing.T) {
	w := start(t, nil)
	for _, protocols := range []string{"outrelay.v1.json", "other, outrelay.v1.json", ""} {
		c := w.dial(t, "/connect", "Sec-WebSocket-Protocol: "+protocols)
		want := "outrelay.v1.json"
		if protocols == "" {
			want = ""
		}
		if got := c.Subprotocol(); got != want {
			t.Errorf("offered %q, the answer names %q, want %q", protocols, got, want)
		}
		m := (&talk{Conn: c, t: t}).want("welcome", "")
		if m.Limits.Message != 9<<20 || m.Limits.Event != 1<<20 || m.Limits.Subscriptions != 1000 || m.Limits.PingSeconds != 25 || !m.TokenExpires.IsZero() {
			t.Errorf("welcome = %s", m.raw)
		}
		c.Close(websocket.StatusNormalClosure, "")
	}
}

func TestSessionHandshakeRefusals(t *testing.T) {
	w := start(t, nil)
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
		problem string
	}{
		{"another subprotocol", []string{"Sec-WebSocket-Protocol: cloudevents.json"}, 400, "parameter"},
		{"a foreign origin", []string{"Sec-WebSocket-Protocol: outrelay.v1.json", "Origin: https://evil.example"}, 403, "forbidden"},
		{"a bad token", []string{"Sec-WebSocket-Protocol: outrelay.v1.json", "Authorization: Bearer x.y.z"}, 401, "unauthorized"},
	} {
		c, resp, err := w.tryDial("/connect", tt.headers...)
		if err == nil {
			c.CloseNow()
			t.Errorf("%s: the handshake was answered", tt.name)
			continue
		}
		if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != schemas.MediaTypeProblem {
			t.Errorf("%s = %d %s, want %d and a problem", tt.name, resp.StatusCode, resp.Header.Get("Content-Type"), tt.status)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		r := w.do(t, method, "/connect", "")
		if r.status != 426 || r.header.Get("Upgrade") != "websocket" {
			t.Errorf("%s /connect without an upgrade = %d, Upgrade %q, want 426", method, r.status, r.header.Get("Upgrade"))
		}
	}
	if r := w.do(t, "GET", w.https+"/connect", ""); r.status != 426 || r.proto != "HTTP/2.0" {
		t.Errorf("GET over %s = %d, want 426", r.proto, r.status)
	}
	if r := w.do(t, "POST", "/connect", "x"); r.status != 405 || r.header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST = %d, Allow %q, want 405", r.status, r.header.Get("Allow"))
	}
}

func TestSessionPublishesAndSubscribes(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.say(`{"op":"ping","id":"1"}`)
	s.want("pong", "1")
	s.say(`{"op":"subscribe","id":"all \"orders\"","topic":"orders/**"}`)
	place := s.want("subscribed", `all "orders"`).Cursor
	if place == "" {
		t.Error("subscribed has no cursor")
	}
	s.say(`{"op":"publish","id":"p","topic":"orders/eu","event":%s}`, event("A-1"))
	s.say(`{"op":"publish","id":"q","topic":"orders/us","events":[%s,%s,%s]}`, event("A-2"), event("A-3"), event("A-2"))
	var events []string
	answers := map[string]said{}
	for len(events) < 3 || len(answers) < 2 {
		switch m := s.next(); m.Op {
		case "event":
			if m.ID != `all "orders"` || m.Delivery != "" || m.Attempt != 0 {
				t.Errorf("event = %s", m.raw)
			}
			events = append(events, m.event())
		case "published":
			answers[m.ID] = m
		default:
			t.Fatalf("got %s", m.raw)
		}
	}
	if want := []string{"A-1", "A-2", "A-3"}; !slices.Equal(events, want) {
		t.Errorf("delivered %v, want %v", events, want)
	}
	if p := answers["p"]; p.Accepted != 1 || p.Cursor == "" || p.Duplicates != nil || strings.Contains(p.raw, "duplicates") {
		t.Errorf("published = %s, want 1 with a cursor and no duplicates", p.raw)
	}
	if q := answers["q"]; q.Accepted != 3 || q.Cursor == "" || !slices.Equal(q.Duplicates, []int{2}) {
		t.Errorf("published = %s, want 3, of which the third is a duplicate", q.raw)
	}
	s.say(`{"op":"unsubscribe","id":"all \"orders\""}`)
	s.want("ok", `all "orders"`)
	s.say(`{"op":"subscribe","id":"all \"orders\"","topic":"orders/*","after":%q}`, place)
	s.want("subscribed", `all "orders"`)
	for _, id := range []string{"A-1", "A-2", "A-3"} {
		if m := s.want("event", `all "orders"`); m.event() != id {
			t.Errorf("after the first place came %s, want %s", m.raw, id)
		}
	}
	s.Close(websocket.StatusNormalClosure, "")
}

func TestSessionUnstoredAndEmptyPublishes(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.say(`{"op":"publish","id":"p","topic":"live/a","event":%s}`, event("1"))
	if m := s.want("published", "p"); m.Accepted != 1 || strings.Contains(m.raw, "cursor") {
		t.Errorf("published = %s, want no cursor on a topic that is not stored", m.raw)
	}
	s.say(`{"op":"publish","id":"p","topic":"a","events":[]}`)
	if m := s.want("published", "p"); m.raw != `{"op":"published","id":"p","accepted":0}` {
		t.Errorf("published = %s", m.raw)
	}
}

// TestSessionErrorsStay: whatever a client sends as JSON, and whatever is none, is
// answered, and the socket stays.
func TestSessionErrorsStay(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.say(`{"op":"subscribe","id":"taken","topic":"x"}`)
	s.want("subscribed", "taken")
	long := strings.Repeat("i", 257)
	for _, tt := range []struct{ message, id, problem string }{
		{`garbage`, "", "parameter"},
		{``, "", "parameter"},
		{`[]`, "", "parameter"},
		{`"ping"`, "", "parameter"},
		{`{"op":"ping","id":"1"`, "1", "parameter"},
		{`{"op":"ping","id":"1"} {}`, "1", "parameter"},
		{`{"op":"ping","id":"1","id":"2"}`, "1", "parameter"},
		{`{"op":"ping"}`, "", "parameter"},
		{`{"op":"ping","id":""}`, "", "parameter"},
		{`{"op":"ping","id":7}`, "", "parameter"},
		{`{"op":"ping","id":null}`, "", "parameter"},
		{`{"op":"ping","id":"` + long + `"}`, "", "parameter"},
		{`{"op":"ping","id":"taken"}`, "taken", "parameter"},
		{`{"op":"subscribe","id":"taken","topic":"x"}`, "taken", "parameter"},
		{`{"op":"publish","id":"taken","topic":"x","event":{}}`, "taken", "parameter"},
		{`{"op":"token","id":"taken","token":"x"}`, "taken", "parameter"},
		{`{"id":"1"}`, "1", "parameter"},
		{`{"op":"dance","id":"1"}`, "1", "parameter"},
		{`{"op":"dance","id":"taken"}`, "taken", "parameter"},
		{`{"op":"welcome","id":"1"}`, "1", "parameter"},
		{`{"op":3,"id":"1"}`, "1", "parameter"},
		{`{"op":"PING","id":"1"}`, "1", "parameter"},

		{`{"op":"subscribe","id":"1"}`, "1", "name"},
		{`{"op":"subscribe","id":"1","topic":""}`, "1", "name"},
		{`{"op":"subscribe","id":"1","topic":"a/**/b"}`, "1", "name"},
		{`{"op":"subscribe","id":"1","topic":7}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","topic":"a","from":"yesterday"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","topic":"a","from":""}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","topic":"a","after":"yesterday"}`, "1", "cursor"},
		{`{"op":"subscribe","id":"1","topic":"a","slow":"drop"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","topic":"a","filter":{"regex":{"type":"."}}}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","filter":"x"}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","filter":""}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","filter":7}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","sql":"type = "}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","sql":""}`, "1", "filter"},
		{`{"op":"subscribe","id":"1","topic":"a","credit":5}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"a/b","topic":"a"}`, "1", "name"},
		{`{"op":"subscribe","id":"1","subscription":"","topic":"a"}`, "1", "name"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","credit":0}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","credit":"5"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","credit":1.5}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","credit":10001}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","ackwait":30}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","ackwait":"1ms"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","ackwait":"-1s"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","maxdeliver":0}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","deadletter":"a//b"}`, "1", "name"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","exclusive":"yes"}`, "1", "parameter"},
		{`{"op":"subscribe","id":"1","subscription":"s","topic":"a","expires":"0s"}`, "1", "parameter"},

		{`{"op":"unsubscribe","id":"1"}`, "1", "not-found"},
		{`{"op":"ack","id":"1","deliveries":[]}`, "1", "not-found"},
		{`{"op":"ack","id":"taken","deliveries":["x"]}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken"}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken","deliveries":"x"}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken","deliveries":[1]}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken","deliveries":["` + long + `"]}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken","deliveries":["x"],"upto":"y"}`, "taken", "parameter"},
		{`{"op":"ack","id":"taken","upto":""}`, "taken", "parameter"},
		{`{"op":"release","id":"taken","upto":"x"}`, "taken", "parameter"},
		{`{"op":"release","id":"taken","deliveries":["x"],"delay":"16m"}`, "taken", "parameter"},
		{`{"op":"release","id":"taken","deliveries":["x"],"delay":5}`, "taken", "parameter"},
		{`{"op":"reject","id":"taken","deliveries":["x"],"reason":5}`, "taken", "parameter"},
		{`{"op":"extend","id":"taken","deliveries":null}`, "taken", "parameter"},

		{`{"op":"publish","id":"1"}`, "1", "name"},
		{`{"op":"publish","id":"1","topic":"a/*","event":{}}`, "1", "name"},
		{`{"op":"publish","id":"1","topic":"a"}`, "1", "parameter"},
		{`{"op":"publish","id":"1","topic":"a","event":{},"events":[]}`, "1", "parameter"},
		{`{"op":"publish","id":"1","topic":"a","event":{}}`, "1", "event"},
		{`{"op":"publish","id":"1","topic":"a","event":"x"}`, "1", "event"},
		{`{"op":"publish","id":"1","topic":"a","event":{"specversion":"1.0","id":"1","id":"1","source":"/s","type":"t"}}`, "1", "event"},
		{`{"op":"publish","id":"1","topic":"a","events":{}}`, "1", "event"},
		{`{"op":"publish","id":"1","topic":"outrelay/x","event":{}}`, "1", "forbidden"},
		{`{"op":"token","id":"1"}`, "1", "parameter"},
		{`{"op":"token","id":"1","token":"x.y.z"}`, "1", "unauthorized"},
	} {
		s.say("%s", tt.message)
		if m := s.wantError(tt.id, tt.problem); m.Reason != "" {
			t.Errorf("%s: %s has a reason, which is for what ends", tt.message, m.raw)
		}
	}
	// Two events, the second at fault: the answer says which.
	s.say(`{"op":"publish","id":"1","topic":"a","events":[%s,{}]}`, event("1"))
	if m := s.wantError("1", "event"); m.Problem.Index == nil || *m.Problem.Index != 1 {
		t.Errorf("%s names no index 1", m.raw)
	}
	// What is unknown, or null, counts as not there.
	s.say(`{"x":{"op":1},"op":"subscribe","id":"2","topic":"a","from":null,"credit":null,"ackwait":null,"y":[[]],"filter":null}`)
	s.want("subscribed", "2")
	if r := w.do(t, "GET", "/topics/**", ""); r.body != "[]" {
		t.Errorf("after all these refusals something is stored: %s", r.body)
	}
}

// TestSessionCloses: what breaks the socket's own rules closes it.
func TestSessionCloses(t *testing.T) {
	w := start(t, nil)
	for _, tt := range []struct {
		name  string
		frame string
		code  int
		word  string
	}{
		{"binary", frame(0x82, `{"op":"ping","id":"1"}`), 1003, "frame-kind"},
		{"no UTF-8", frame(0x81, `{"op":"ping","id":"`+"\xff"+`"}`), 1007, "not-utf8"},
		{"over 9 MiB", frame(0x81, strings.Repeat(" ", 9<<20+1)), 1009, "too-big"},
		{"no mask", "\x81\x01x", 1002, "protocol"},
		{"a goodbye", frame(0x88, "\x03\xe8"), 1000, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := w.raw(t, false, "/connect", "")
			s.send(t, tt.frame)
			s.wantRawClose(t, tt.code, tt.word)
		})
	}
	s := w.session(t)
	s.say(`{"op":"ping","id":"1"%s}`, strings.Repeat(" ", 9<<20-40))
	s.want("pong", "1")
}

// TestSessionPublishesKeepOrder: many publishes are under way at once, and stored in
// the order in which they were sent.
func TestSessionPublishesKeepOrder(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	const n = 2000
	go func() {
		for i := range n {
			if s.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"op":"publish","id":"p%d","topic":"a/%d","event":%s}`, i, i%7, event(fmt.Sprint(i)))) != nil {
				return
			}
		}
	}()
	for i := range n {
		s.want("published", fmt.Sprint("p", i))
	}
	c := w.session(t)
	c.say(`{"op":"subscribe","id":"s","topic":"**","from":"earliest"}`)
	c.want("subscribed", "s")
	for i := range n {
		if m := c.want("event", "s"); m.event() != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, m.raw)
		}
	}
}

// TestSessionCloseAnswersFirst: what was sent before the Close frame is done, and
// answered.
func TestSessionCloseAnswersFirst(t *testing.T) {
	w := start(t, nil)
	s := w.raw(t, false, "/connect", "")
	s.send(t, frame(0x81, `{"op":"publish","id":"p","topic":"a","event":`+event("1")+`}`)+frame(0x88, "\x03\xe8"))
	answered := false
	for {
		first, payload, err := s.read()
		if err != nil {
			t.Fatal(err)
		}
		if first == 0x88 {
			break
		}
		answered = answered || strings.Contains(payload, `"op":"published"`)
	}
	if !answered {
		t.Error("the publish before the Close frame was not answered")
	}
	if r := w.do(t, "GET", "/topics/a", ""); !strings.Contains(r.body, `"id":"1"`) {
		t.Errorf("it was not stored: %s", r.body)
	}
}

func TestSessionPositions(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 200 * time.Millisecond
	})
	s := w.session(t)
	s.say(`{"op":"subscribe","id":"s","topic":"a"}`)
	first := s.want("subscribed", "s").Cursor
	w.publish(t, "b", "not-for-s")
	var last string
	eventually(t, "a position past the event of another topic", func() bool {
		last = s.want("position", "s").Cursor
		return last != first
	})
	w.publish(t, "a", "1")
	for m := s.next(); m.Op != "event"; m = s.next() {
		if m.Op != "position" {
			t.Fatalf("got %s", m.raw)
		}
	}
	s.say(`{"op":"subscribe","id":"again","topic":"**","after":%q}`, last)
	for m := s.next(); m.ID != "again" || m.Op != "event"; m = s.next() {
	}
}

func TestSessionDrains(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.say(`{"op":"subscribe","id":"s","topic":"a"}`)
	s.want("subscribed", "s")
	stopped := make(chan struct{})
	go func() {
		w.stop()
		close(stopped)
	}()
	if m := s.want("draining", ""); m.ReconnectAfterMS < 0 || !strings.Contains(m.raw, "reconnectafterms") {
		t.Errorf("draining = %s", m.raw)
	}
	wantClose(t, s.Conn, schemas.CloseDrain)
	<-stopped
}

func TestSessionLimits(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.SessionSubscriptions, g.Limits.MaxStreams = 2, 4
	})
	s := w.session(t)
	for _, id := range []string{"1", "2"} {
		s.say(`{"op":"subscribe","id":%q,"topic":"a"}`, id)
		s.want("subscribed", id)
	}
	s.say(`{"op":"subscribe","id":"3","topic":"a"}`)
	s.wantError("3", "rate")
	s.say(`{"op":"unsubscribe","id":"1"}`)
	s.want("ok", "1")
	s.say(`{"op":"subscribe","id":"3","topic":"a"}`)
	s.want("subscribed", "3")
	other := w.session(t) // the fourth place in the namespace
	other.say(`{"op":"subscribe","id":"1","topic":"a"}`)
	other.wantError("1", "rate")
	if _, resp, err := w.tryDial("/connect", "Sec-WebSocket-Protocol: outrelay.v1.json"); err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a fifth place: %v, %v, want 429", resp, err)
	}
	s.Close(websocket.StatusNormalClosure, "")
	eventually(t, "the places are free again", func() bool {
		c, _, err := w.tryDial("/connect", "Sec-WebSocket-Protocol: outrelay.v1.json")
		if err == nil {
			c.Close(websocket.StatusNormalClosure, "")
		}
		return err == nil
	})
}

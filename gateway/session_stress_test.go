package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// large is an event of about n KiB.
func large(id string, n int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"large","data":%q}`, id, strings.Repeat("x", n<<10))
}

// TestTooManyRequestsWait: a client that asks faster than it is answered waits; it
// gets every answer, in order.
func TestTooManyRequestsWait(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) { g.Limits.SessionRequests = 4 })
	s := w.session(t)
	const n = 300
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range n {
			if s.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"op":"publish","id":"p%d","topic":"a","event":%s}`, i, event(fmt.Sprint(i)))) != nil {
				return
			}
		}
	})
	for i := range n {
		s.want("published", fmt.Sprint("p", i))
	}
	writing.Wait()
	if text := w.do(t, "GET", w.admin+"/metrics", "").body; !strings.Contains(text, "outrelay_session_waits_total{") {
		t.Error("nobody counted that the session waited")
	}
}

// TestUnreadAnswersAreBounded: a client that asks and never reads is not served for
// ever, holds up no other, and is cut.
func TestUnreadAnswersAreBounded(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 500 * time.Millisecond
	})
	s := w.raw(t, false, "/connect", "")
	garbage := frame(0x81, `{"op":"ack","id":"`+strings.Repeat("x", 200)+`","deliveries":[]}`)
	garbage = strings.Repeat(garbage, 100)
	sent := 0
	for {
		s.SetWriteDeadline(time.Now().Add(20 * time.Second))
		n, err := io.WriteString(s, garbage)
		sent += n
		if err != nil {
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Fatalf("neither cut nor read from after %d bytes", sent)
			}
			break
		}
		if sent > 256<<20 {
			t.Fatalf("%d bytes of requests were read without one answer being taken", sent)
		}
	}
	other := w.session(t)
	other.say(`{"op":"ping","id":"1"}`)
	other.want("pong", "1")
}

// TestStuckSocketHoldsUpNobody: a session whose client takes nothing is cut, and what
// it had goes to another, while a neighbour's deliveries go on.
func TestStuckSocketHoldsUpNobody(t *testing.T) {
	w := start(t, func(g *gateway.Config, _ *access.Config, _ *broker.Config) {
		g.Limits.PingInterval = 2 * time.Second
	})
	stuck := w.raw(t, false, "/connect", "")
	stuck.send(t, frame(0x81, `{"op":"subscribe","id":"s","subscription":"work","topic":"a","credit":100}`))
	eventually(t, "the subscription is open", func() bool {
		r := w.do(t, "GET", "/subscriptions/work", "")
		return strings.Contains(r.body, `"subscribers":1`)
	})
	const n = 12
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint(i))
		if r := w.do(t, "POST", "/topics/a", large(ids[i], 1000), structured); r.status != 200 {
			t.Fatal(r.body)
		}
	}
	live := w.session(t)
	defer func() {
		if t.Failed() {
			t.Log(grep(w.do(t, "GET", w.admin+"/metrics", "").body, "closes"))
		}
	}()
	live.say(`{"op":"subscribe","id":"s","subscription":"work"}`)
	got := map[string]int{}
	for len(got) < n {
		m := live.next()
		switch m.Op {
		case "subscribed":
		case "event":
			got[m.event()] = m.Attempt
			live.say(`{"op":"ack","id":"s","deliveries":[%q]}`, m.Delivery)
		case "ok":
		default:
			t.Fatalf("got %.200s", m.raw)
		}
	}
	for _, id := range ids {
		if got[id] == 0 {
			t.Errorf("event %s did not come", id)
		}
	}
}

// TestNeighboursOnASocket: on one socket, live streams flow while durable ones have
// no credit, one is behind in the log, and publishes and acks go on.
func TestNeighboursOnASocket(t *testing.T) {
	w := start(t, func(_ *gateway.Config, _ *access.Config, b *broker.Config) { b.Limits.RingBytes = 256 << 10 })
	for i := range 60 { // far behind the ring
		w.do(t, "POST", "/topics/old", large(fmt.Sprint("old", i), 32), structured)
	}
	s := w.session(t)
	durable := 0
	s.open("nocredit", "nocredit", `"topic":"**","from":"earliest","credit":1`)
	s.say(`{"op":"subscribe","id":"live","topic":"live/now"}`)
	for m := s.next(); m.ID != "live"; m = s.next() {
		if m.ID != "nocredit" || m.event() != "old0" {
			t.Fatalf("got %.200s", m.raw)
		}
		durable++
	}
	s.say(`{"op":"subscribe","id":"behind","topic":"old","from":"earliest"}`)
	const n = 200
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range n {
			if s.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"op":"publish","id":"p%d","topic":"live/now","event":%s}`, i, event(fmt.Sprint(i)))) != nil {
				return
			}
		}
	})
	var live, old []string
	published := 0
	for len(live) < n || len(old) < 60 || published < n || durable < 1 {
		m := s.next()
		switch {
		case m.Op == "subscribed":
		case m.Op == "published":
			published++
		case m.Op == "event" && m.ID == "live":
			live = append(live, m.event())
		case m.Op == "event" && m.ID == "behind":
			old = append(old, m.event())
		case m.Op == "event" && m.ID == "nocredit":
			durable++
		default:
			t.Fatalf("got %.200s", m.raw)
		}
	}
	writing.Wait()
	if durable != 1 || !slices.Equal(old, numbered("old", 60)) {
		t.Errorf("%d deliveries with a credit of 1; old events %v", durable, old)
	}
}

// TestAbandonedAnswerGoesBack: deliveries that a client of plain HTTP did not take come
// again at once, not after their ack wait.
func TestAbandonedAnswerGoesBack(t *testing.T) {
	w := start(t, func(_ *gateway.Config, _ *access.Config, b *broker.Config) { b.Limits.SubscriberBytes = 64 << 20 })
	w.put(t, "work", `{"topic":"a","ackwait":"1h"}`)
	const n = 14
	for i := range n {
		w.do(t, "POST", "/topics/a", large(fmt.Sprint(i), 1000), structured)
	}
	c, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "POST /subscriptions/work/receive?max=100 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	var events []string
	for len(events) < n {
		more, _ := w.receive(t, "work", "?max=100&wait=10s")
		if len(more) == 0 {
			t.Fatalf("only %v came again", events)
		}
		events = append(events, more...)
	}
	for _, e := range events {
		if !strings.HasSuffix(e, "/2") {
			t.Errorf("%s: want the second attempt", e)
		}
	}
}

// seeds are messages for fuzzing: one of each kind, and borders.
var seeds = []string{
	`{"op":"ping","id":"1"}`, `{"op":"subscribe","id":"1","topic":"a/**"}`, `{"op":"unsubscribe","id":"open"}`, `{"op":"token","id":"1","token":"x"}`,
	`{"op":"subscribe","id":"1","topic":"a","from":"last","filter":[{"exact":{"id":"x"}}],"sql":"TRUE","slow":"close"}`,
	`{"op":"subscribe","id":"1","topic":"a","after":"x","from":"2026-01-31T12:00:00Z"}`,
	`{"op":"subscribe","id":"1","subscription":"s","topic":"a","credit":1,"ackwait":"30s","maxdeliver":10,"deadletter":"d","exclusive":true,"expires":"720h"}`,
	`{"op":"ack","id":"open","deliveries":["x","y"]}`, `{"op":"ack","id":"open","upto":"x"}`, `{"op":"release","id":"open","deliveries":["x"],"delay":"15m"}`,
	`{"op":"reject","id":"open","deliveries":["\u0078"],"reason":"\ud83d\ude00"}`, `{"op":"extend","id":"open","deliveries":[]}`,
	`{"op":"publish","id":"1","topic":"a","event":{"specversion":"1.0","id":"1","source":"/s","type":"t"}}`, `{"op":"publish","id":"1","topic":"a","events":[]}`,
	`{}`, `[]`, `null`, ``, `{"op":"ping","id":"\ud800"}`, `{"op":"ping","\u0069d":"1"}`, `{"op":"ping","id":"1","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	`{"op":"ping","id":"1"`, `{"id":"open","op":"ack","deliveries":["` + "\u2028" + `"]}`, ` { "id" : "1" , "op" : "ping" } `,
}

// FuzzSessionParse: whatever a message is, it is taken for what it says or refused.
func FuzzSessionParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	ops := []string{"subscribe", "unsubscribe", "ack", "release", "reject", "extend", "publish", "token", "ping"}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, op, quoted, err := gateway.ParseSession(b)
		var loose map[string]any
		valid := json.Unmarshal(b, &loose) == nil && loose != nil
		if err == nil && (!valid || !slices.Contains(ops, op) || loose["op"] != op || loose["id"] != id || id == "") {
			t.Fatalf("%q was taken for %s of %q", b, op, id)
		}
		if len(id) > 256 {
			t.Fatalf("an id of %d bytes", len(id))
		}
		var back string
		if json.Unmarshal(quoted, &back) != nil || back != id {
			t.Fatalf("id %q is quoted as %s", id, quoted)
		}
	})
}

// FuzzSession: whatever a message is, it is answered once, and the session goes on.
func FuzzSession(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	w := start(f, nil)
	s := w.session(f)
	s.open("open", "open", `"topic":"never"`)
	n := 0
	f.Fuzz(func(t *testing.T, message string) {
		if len(message) > 1<<20 || strings.ToValidUTF8(message, "") != message {
			return // the socket's business
		}
		s.t = t
		n++
		ping := fmt.Sprint("ping ", n)
		s.say("%s", message)
		s.say(`{"op":"ping","id":%q}`, ping)
		for answers, pong := 0, false; answers < 1 || !pong; {
			switch m := s.next(); {
			case m.Op == "event" || m.Op == "gap" || m.Op == "position" || m.Op == "error" && m.Reason != "":
			case m.Op == "pong" && m.ID == ping:
				pong = true
			case m.Op == "welcome" || m.Op == "draining":
				t.Fatalf("%q got %s", message, m.raw)
			case answers == 1:
				t.Fatalf("%q got a second answer %s", message, m.raw)
			default:
				answers++
				if m.Op == "subscribed" { // or it would be in the way
					s.say(`{"op":"unsubscribe","id":%s}`, mustJSON(t, m.ID))
					for m := s.next(); m.Op != "ok"; m = s.next() {
						pong = pong || m.Op == "pong" && m.ID == ping
					}
				}
				if m.Op == "ok" && m.ID == "open" && !strings.Contains(m.raw, "unknown") { // unsubscribed
					s.say(`{"op":"subscribe","id":"open","subscription":"open","topic":"never"}`)
					for m := s.next(); m.Op != "subscribed"; m = s.next() {
						pong = pong || m.Op == "pong" && m.ID == ping
					}
				}
			}
		}
	})
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

package relay_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// refused checks that an answer is the relay's own: its status, Azure's code and
// reason phrase, and the problem.
func refused(t testing.TB, r *http.Response, body string, status int, name, code, phrase string) {
	t.Helper()
	var p struct {
		Type   string
		Status int
		Detail string
		Error  struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%s: body %q: %v", r.Status, body, err)
	}
	if r.StatusCode != status || p.Status != status || !strings.HasSuffix(p.Type, "/"+name) || p.Error.Code != code || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s %s, want %d %s %s", r.Status, body, status, name, code)
	}
	for _, text := range []string{r.Status, p.Detail, p.Error.Message} {
		if !strings.Contains(text, phrase) || !strings.Contains(text, "TrackingId:"+r.Header.Get("TrackingId")) || !strings.Contains(text, "SystemTracker:sb://") {
			t.Errorf("got %q, want %q in it", text, phrase)
		}
	}
}

// Without a listener a request gets 404 at once.
func TestRequestWithoutListener(t *testing.T) {
	w := start(t, nil)
	for _, body := range []string{"", "abc", strings.Repeat("x", 70_000)} {
		r := await(t, w.asking(t, "POST", "/app/x", body))
		refused(t, r.Response, r.body, 404, "no-listener", "EndpointNotFound", "There are no listeners connected for the endpoint")
	}
	w = start(t, func(rc *relay.Config, _ *access.Config) { rc.Rules["default"] = []relay.Rule{{Name: "app"}} })
	r := await(t, w.asking(t, "GET", "/app", ""))
	refused(t, r.Response, r.body, 404, "no-listener", "EndpointNotFound", "There are no listeners connected for the endpoint")
	r = await(t, w.asking(t, "GET", "/other", ""))
	refused(t, r.Response, r.body, 404, "not-found", "EndpointNotFound", "Endpoint does not exist")
	r = await(t, w.asking(t, "HEAD", "/app", ""))
	if r.StatusCode != 404 || r.body != "" {
		t.Errorf("HEAD: %s %q", r.Status, r.body)
	}
}

// A listener that is lost once it has a request costs 502 soon, not the whole deadline.
func TestListenerLostAfterDelivery(t *testing.T) {
	w := start(t, nil)
	for _, body := range []string{"", strings.Repeat("x", 70_000)} {
		control := w.listen(t, "app")
		replies := w.asking(t, "POST", "/app", body)
		control.request()
		control.conn.Close()
		r := await(t, replies)
		refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "The listener's connection was lost")
	}
	// At the rendezvous too.
	control := w.listen(t, "app")
	for _, end := range []func(*peer){func(p *peer) { p.conn.Close() }, func(p *peer) { p.close(1000, "") }, func(p *peer) { p.close(1011, "") }} {
		s, q := w.relayed(t, control, "POST", "/app", "Content-Length: 0")
		p := dial(t, q.dialed(t))
		end(p)
		r, text := s.answer("POST")
		refused(t, r, text, 502, "listener-failed", "BadGateway", "The listener")
	}
}

// deadline makes the listener's time short.
func deadline(d time.Duration) func(*relay.Config, *access.Config) {
	return func(rc *relay.Config, _ *access.Config) { rc.Rules["default"][0].Deadline = d }
}

// A listener that does not answer in the rule's time costs 504; its answer comes too
// late, and the address with it.
func TestListenerDeadline(t *testing.T) {
	w := start(t, deadline(200*time.Millisecond))
	control := w.listen(t, "app")
	const phrase = "The request was routed to the listener but the listener did not respond in the required time"
	for _, body := range []string{"", strings.Repeat("x", 70_000)} {
		replies := w.asking(t, "POST", "/app", body)
		q := control.request()
		r := await(t, replies)
		refused(t, r.Response, r.body, 504, "listener-timeout", "GatewayTimeout", phrase)
		control.reply(q.ID, `"statusCode":200,"body":true`, "late")
		dial(t, q.dialed(t)).expectClose(1001, "sender-gone")
	}
	// It comes to the meeting, and says nothing.
	replies := w.asking(t, "POST", "/app", strings.Repeat("x", 70_000))
	p := dial(t, control.request().dialed(t))
	r := await(t, replies)
	refused(t, r.Response, r.body, 504, "listener-timeout", "GatewayTimeout", phrase)
	p.request()
	p.whole()
	p.expectClose(1001, "")
}

// idle makes the time between pieces of a body short.
func idle(d time.Duration) func(*relay.Config, *access.Config) {
	return func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayBodyIdle = d }
}

// A body that stops coming ends the exchange: the answer is cut, the request gets 408.
func TestBodyStalls(t *testing.T) {
	w := start(t, idle(300*time.Millisecond))
	control := w.listen(t, "app")
	t.Run("answer", func(t *testing.T) {
		replies := w.asking(t, "POST", "/app", "")
		q := control.request()
		p := dial(t, q.dialed(t))
		p.text(answerText(q.ID, `"statusCode":200,"body":true`))
		p.send(0x02, "some")
		awaitCut(t, replies)
		p.expectClose(1011, "bad-answer")
	})
	t.Run("request", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Transfer-Encoding: chunked")+"3\r\nabc\r\n")
		p := dial(t, control.request().dialed(t))
		p.request()
		p.expect(0x02, "abc")
		if r := s.head("POST"); r.StatusCode != 408 {
			t.Errorf("got %s, want 408", r.Status)
		}
		p.expectClose(1001, "sender-gone")
	})
	t.Run("inline request", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Content-Length: 5")+"abc")
		if r := s.head("POST"); r.StatusCode != 408 {
			t.Errorf("got %s, want 408", r.Status)
		}
	})
}

// What a listener says wrong costs the request that it is about 502, and no other.
func TestListenerMisbehaves(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	for _, tt := range []struct{ name, text string }{
		{"no JSON", `{"response":`}, {"no response", `{"renewToken":{}}`}, {"an array", `[]`}, {"no object", `{"response":7}`}, {"null", `{"response":null}`},
		{"no status", `{"response":{"requestId":"ID","body":false}}`}, {"bad status", `{"response":{"requestId":"ID","statusCode":"fine","body":false}}`},
		{"bad body", `{"response":{"requestId":"ID","statusCode":200,"body":"yes"}}`}, {"bad headers", `{"response":{"requestId":"ID","statusCode":200,"responseHeaders":"x","body":false}}`},
		{"too long", `{"response":{"requestId":"ID","statusCode":200,"responseHeaders":{"x":"` + strings.Repeat("x", 200_000) + `"},"body":false}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replies := w.asking(t, "POST", "/app", "")
			q := control.request()
			p := dial(t, q.dialed(t))
			p.text(strings.ReplaceAll(tt.text, "ID", q.ID))
			r := await(t, replies)
			refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "The listener answered with what can't be passed on")
			p.expectClose(1011, "bad-answer")
			if strings.Contains(tt.text, "ID") && len(tt.text) < 1000 {
				replies := w.asking(t, "POST", "/app", "")
				q := control.request()
				control.text(strings.ReplaceAll(tt.text, "ID", q.ID))
				r := await(t, replies)
				refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "The listener answered with what can't be passed on")
			}
		})
	}
	if r, body := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, "fine"); body != "fine" {
		t.Errorf("the next: %s %q", r.Status, body)
	}
}

// Bodies beyond the limits are refused, or cut once they have begun.
func TestBodyLimits(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Limits.RelayBodyBytes, rc.Limits.RelayInlineBytes = 200_000, 100_000
	})
	control := w.listen(t, "app")
	long := strings.Repeat("x", 200_001)
	t.Run("request", func(t *testing.T) {
		r := await(t, w.asking(t, "POST", "/app", long))
		refused(t, r.Response, r.body, 413, "too-large", "RequestEntityTooLarge", "200000 bytes")
	})
	t.Run("chunked request", func(t *testing.T) {
		q, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.host+"/app", io.MultiReader(strings.NewReader(long)))
		if err != nil {
			t.Fatal(err)
		}
		replies := w.doing(q)
		p := dial(t, control.request().dialed(t))
		r := await(t, replies)
		refused(t, r.Response, r.body, 413, "too-large", "RequestEntityTooLarge", "200000 bytes")
		for {
			if first, _ := p.next(); first == 0x88 {
				break
			}
		}
	})
	t.Run("answer on the control channel", func(t *testing.T) {
		for _, fragments := range []bool{false, true} {
			s, q := w.relayed(t, control, "GET", "/app")
			control.text(answerText(q.ID, `"statusCode":200,"body":true`))
			if fragments {
				control.send(0x02, long[:60_000])
				control.send(0x80, long[:60_000])
			} else {
				control.binary(long[:100_001])
			}
			r, body := s.answer("GET")
			refused(t, r, body, 502, "listener-failed", "BadGateway", "longer than the limit")
		}
		if _, body := w.exchange(t, control, "GET", `"statusCode":200,"body":true`, long[:100_000]); len(body) != 100_000 {
			t.Errorf("got %d bytes", len(body))
		}
	})
	t.Run("answer at a rendezvous", func(t *testing.T) {
		replies := w.asking(t, "POST", "/app", "")
		q := control.request()
		dial(t, q.dialed(t)).reply(q.ID, `"statusCode":200,"body":true`, long)
		select {
		case r := <-replies:
			if r.err == nil && r.StatusCode != 502 {
				t.Errorf("got %s", r.Status)
			}
		case <-time.After(patience):
			t.Error("no answer")
		}
	})
}

// The memory for bodies on control channels is bounded, and so is the number of
// requests under way.
func TestRequestLimits(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Limits.RelayHeldBytes, rc.Limits.RelayRequests = 1<<20, 20
	})
	control := w.listen(t, "app")
	body := strings.Repeat("x", 65536)
	var waiting []chan reply
	var ids []string
	for range 16 {
		waiting = append(waiting, w.asking(t, "POST", "/app", body))
		ids = append(ids, control.request().ID)
		control.expect(0x82, body)
	}
	r := await(t, w.asking(t, "POST", "/app", "one too many"))
	refused(t, r.Response, r.body, 429, "rate", "TooManyRequests", "bodies of requests")
	for range 4 {
		waiting = append(waiting, w.asking(t, "GET", "/app", ""))
		ids = append(ids, control.request().ID)
	}
	r = await(t, w.asking(t, "GET", "/app", ""))
	refused(t, r.Response, r.body, 429, "rate", "TooManyRequests", "requests that are under way")
	for _, id := range ids {
		control.reply(id, `"statusCode":204,"body":false`)
	}
	for _, c := range waiting {
		if r := await(t, c); r.StatusCode != 204 {
			t.Errorf("got %s", r.Status)
		}
	}
	// All of it was given back.
	for range 20 {
		replies := w.asking(t, "POST", "/app", body)
		q := control.request()
		control.expect(0x82, body)
		control.reply(q.ID, `"statusCode":200,"body":true`, body)
		if r := await(t, replies); r.body != body {
			t.Fatalf("got %s", r.Status)
		}
	}
}

// A request's address and headers that would make a message longer than .NET's client
// reads are refused.
func TestRequestHeadLimit(t *testing.T) {
	w := start(t, nil)
	w.listen(t, "app")
	r, _ := w.sender(t, w.http("GET", "/app/"+strings.Repeat("a", 15_000), "X-A: "+strings.Repeat("b", 40_000))).answer("GET")
	if r.StatusCode != 431 {
		t.Errorf("got %s, want 431", r.Status)
	}
}

// A rule may switch HTTP requests off, so that a listener that knows none of them
// never gets one.
func TestWebSocketOnlyRefusesRequests(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Rules["default"][0].NoHTTP = true })
	w.listen(t, "app")
	r := await(t, w.asking(t, "GET", "/app", ""))
	refused(t, r.Response, r.body, 400, "parameter", "BadRequest", "WebSockets only")
}

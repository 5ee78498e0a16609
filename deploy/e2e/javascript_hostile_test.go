package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
)

// A strangeCase is what something that is no good gateway does to a client that subscribes.
type strangeCase struct {
	name string
	// On the first connection, once the client has subscribed: a text message, in which ID is
	// the id of the subscribe, then bytes, and then a Close frame, if there is a code.
	says   string
	binary bool
	bytes  string
	code   int
	reason string
	// Every handshake is answered with this, if it is no 0, and a body of a problem or not.
	status int
	plain  bool
	// The second handshake is answered with this, by a proxy, if it is no 0.
	then int
	// In the place of subscribed. ID as above.
	instead string
	token   string // of the client

	// What becomes of the client. It gets the event "good", on the first connection or a
	// further one; or it ends, with an error that has these.
	onFirst  bool
	ends     bool
	stuck    bool   // it gets nowhere, and says this
	wantText string // of the error
	gap      string // the reason of a gap that it tells of
}

var strangeCases = []strangeCase{
	{name: "half an object", says: `{"op":`},
	{name: "nothing", says: ``},
	{name: "null", says: `null`},
	{name: "an array", says: `[]`},
	{name: "a number", says: `7`},
	{name: "no op", says: `{}`},
	{name: "an op that is no text", says: `{"op":{"op":"event"},"id":"ID"}`},
	{name: "no event", says: `{"op":"event","id":"ID"}`},
	{name: "an event that is null", says: `{"op":"event","id":"ID","event":null}`},
	{name: "an event that is a text", says: `{"op":"event","id":"ID","event":"x"}`},
	{name: "an event without id", says: `{"op":"event","id":"ID","event":{}}`},
	{name: "an end without a problem", says: `{"op":"error","id":"ID","reason":"fault"}`},
	{name: "an answer to nothing", says: `{"op":"ok","id":"ID","unknown":7}`},
	{name: "a binary message", says: `{"op":"pong","id":"x"}`, binary: true},
	{name: "bytes that are no frame", bytes: "HTTP/1.1 200 OK\r\n\r\n"},
	{name: "a frame with a reserved bit", bytes: "\xc1\x02{}"},
	{name: "a frame with a mask", bytes: "\x81\x82\x00\x00\x00\x00{}"},
	{name: "a frame without end", bytes: "\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"},
	{name: "an end in a frame", bytes: "\x81\x7d{"},

	{name: "an op that is not known", says: `{"op":"news","id":"ID","event":{"id":"x"}}`, onFirst: true},
	{name: "an op of the language", says: `{"op":"__proto__","id":"constructor"}`, onFirst: true},
	{name: "another's event", says: `{"op":"event","id":"__proto__","event":{"id":"x"}}`, onFirst: true},
	{name: "an error of nobody", says: `{"op":"error","problem":null}`, onFirst: true},
	{name: "a gap of a reason that is not known", says: `{"op":"gap","id":"ID","reason":"aliens","missed":null,"more":1}`, onFirst: true, gap: "aliens"},
	{name: "a drain with no number", says: `{"op":"draining","reconnectafterms":"soon"}`, onFirst: false},
	{name: "a drain that is far", says: `{"op":"draining","reconnectafterms":1e308}`, onFirst: true},
	{name: "a drain that is past", says: `{"op":"draining","reconnectafterms":-1e308}`},

	{name: "done", code: 1000, reason: "done", ends: true, wantText: "1000 done"},
	{name: "done, not said so", code: 1000},
	{name: "drained", code: 1001, reason: "drain"},
	{name: "a token that has expired, with a fixed one", code: 1008, reason: "token-expired", token: "'eyJ'", ends: true, wantText: "1008 token-expired"},
	{name: "a lost right, without a token", code: 1008, reason: "right-lost: the rules have changed", ends: true, wantText: "right-lost: the rules"},
	{name: "a fault", code: 1011, reason: "fault"},
	{name: "a quota", code: 1013, reason: "quota"},
	{name: "a code that is not known", code: 4400, reason: "__proto__ \u2028"},

	{name: "400", status: 400, ends: true, wantText: "the reason for 400"},
	{name: "401", status: 401, ends: true, wantText: "the reason for 401"},
	{name: "403", status: 403, ends: true, wantText: "the reason for 403"},
	{name: "404", status: 404, ends: true, wantText: "the reason for 404"},
	{name: "404 of a proxy", status: 404, plain: true, ends: true, wantText: "HTTP 404"},
	{name: "403 of a proxy", status: 403, plain: true, ends: true, wantText: "HTTP 403"},
	{name: "404 of a proxy while the gateway starts again", code: 1011, reason: "fault", then: 404},
	{name: "503, once", status: -503},
	{name: "502 of a proxy, once", status: -502, plain: true},
	{name: "429, once", status: -429},
	{name: "401, once, with a source of tokens", status: -401, token: "(refused) => refused ? 'b' : 'a'"},

	{name: "a proxy that takes no WebSockets", stuck: true, wantText: "HTTP passes, WebSockets do not"},

	{name: "a refusal", instead: problemMessage(403, ""), ends: true, wantText: "the reason for 403"},
	{name: "a refusal of the name", instead: problemMessage(400, ""), ends: true, wantText: "the reason for 400"},
	{name: "a refusal that passes", instead: problemMessage(429, ""), onFirst: true},
	{name: "a fault of the subscription", says: problemMessage(500, "fault"), onFirst: true},
	{name: "a subscription that was deleted", says: problemMessage(404, "deleted"), ends: true, wantText: "the reason for 404"},
}

func problemText(status int) string {
	return fmt.Sprintf(`{"type":"https://outrelay.dev/problems/x","title":"x","status":%d,"detail":"the reason for %[1]d"}`, status)
}

func problemMessage(status int, reason string) string {
	return fmt.Sprintf(`{"op":"error","id":"ID","reason":%q,"problem":%s}`, reason, problemText(status))
}

// serve is the stranger. Its connections are counted.
func (c *strangeCase) serve(w http.ResponseWriter, r *http.Request, count *atomic.Int32) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Allow-Headers", "Authorization")
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	asked := r.Header.Get("Upgrade") == ""
	if r.Method == http.MethodOptions {
		return
	}
	if c.stuck && !asked {
		count.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if c.then != 0 && count.Load() == 1 && !asked || c.then != 0 && count.Load() == 2 && asked {
		count.Store(2)
		w.WriteHeader(c.then)
		return
	}
	status := c.status
	if !asked {
		count.Add(1)
	} else if status < 0 {
		status = -status // the second time all is well
	}
	if status < 0 && count.Load() == 1 {
		status = -status
	}
	if asked && status == 0 {
		status = http.StatusUpgradeRequired
	}
	if status > 0 {
		if !c.plain {
			w.Header().Set("Content-Type", "application/problem+json")
			if status == 429 || status == 503 {
				w.Header().Set("Retry-After", "1")
			}
		}
		w.WriteHeader(status)
		fmt.Fprint(w, problemText(status))
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"outrelay.v1.json"}, InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	say := func(kind websocket.MessageType, text string) { _ = conn.Write(ctx, kind, []byte(text)) }
	say(websocket.MessageText, `{"op":"welcome","connection":"x","gateway":"y","limits":{}}`)
	first := count.Load() == 1
	for n := 0; ; n++ {
		var request struct{ Op, ID string }
		_, b, err := conn.Read(ctx)
		if err != nil || json.Unmarshal(b, &request) != nil {
			return
		}
		if request.Op != "subscribe" {
			continue
		}
		with := func(text string) string { return strings.ReplaceAll(text, "ID", request.ID) }
		if n == 0 && first && c.instead != "" {
			say(websocket.MessageText, with(c.instead))
			continue
		}
		say(websocket.MessageText, with(`{"op":"subscribed","id":"ID","cursor":"c"}`))
		if n == 0 && first {
			if c.says != "" || c.name == "nothing" {
				kind := websocket.MessageText
				if c.binary {
					kind = websocket.MessageBinary
				}
				say(kind, with(c.says))
				if !c.onFirst || c.ends || strings.Contains(c.says, `"reason":"fault"`) {
					continue
				}
			}
			if c.code != 0 {
				_ = conn.Close(websocket.StatusCode(c.code), c.reason)
				return
			}
		}
		say(websocket.MessageText, with(`{"op":"event","id":"ID","event":{"specversion":"1.0","id":"good","source":"/s","type":"t","__proto__":{"polluted":1},"relaytopic":"a"}}`))
	}
}

// serveBytes is the same with bytes of its own, for the first connection.
func (c *strangeCase) serveBytes(w http.ResponseWriter, r *http.Request, count *atomic.Int32) {
	if r.Header.Get("Upgrade") == "" || count.Load() > 0 {
		c.serve(w, r, count)
		return
	}
	count.Add(1)
	key := r.Header.Get("Sec-WebSocket-Key")
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	const welcome = `{"op":"welcome","connection":"x","gateway":"y","limits":{}}`
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"+
		"Sec-WebSocket-Protocol: outrelay.v1.json\r\n\r\n\x81%c%s%s", acceptOf(key), len(welcome), welcome, c.bytes)
	_ = buffered.Flush()
	if !strings.HasPrefix(c.bytes, "\x81\x7d") {
		_, _ = buffered.ReadByte() // until the client has had enough
		for err == nil {
			_, err = buffered.ReadByte()
		}
	}
}

// The client does what the contract says with whatever comes, and no page or program falls
// with it: it connects again, or leaves what it does not know, or ends for good.
func TestJavaScriptMeetsStrangers(t *testing.T) {
	t.Parallel()
	inHosts(t, func(t *testing.T, h jsHost) {
		counts := make([]atomic.Int32, len(strangeCases))
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			segments := strings.Split(r.URL.Path, "/")
			n, err := strconv.Atoi(segments[1])
			if err != nil || n >= len(strangeCases) {
				http.NotFound(w, r)
				return
			}
			if c := &strangeCases[n]; c.bytes != "" {
				c.serveBytes(w, r, &counts[n])
			} else {
				c.serve(w, r, &counts[n])
			}
		}))
		t.Cleanup(s.Close)
		js[any](t, h, "(() => { globalThis.strange = []; })()")
		for n, c := range strangeCases {
			token := "undefined"
			if c.token != "" {
				token = c.token
			}
			js[any](t, h, `(() => {
				const it = strange[%d] = { events: [], gaps: [], state: null };
				it.stream = outrelay.subscribe(%q, { ...given, token: %s, onEvent: (e) => it.events.push(e.id), onGap: (g) => it.gaps.push(g.reason),
					onState: (s) => { it.state = s.phase; it.why = String(s.why); } });
			})()`, n, fmt.Sprintf("%s/%d/topics/a", s.URL, n), token)
		}
		for n, c := range strangeCases {
			it := fmt.Sprintf("strange[%d]", n)
			want := it + ".events.length > 0"
			if c.ends {
				want = it + ".state === 'ended'"
			}
			if c.stuck {
				jsWait(t, h, fmt.Sprintf("%s.why.includes(%q)", it, c.wantText), it)
				continue
			}
			jsWait(t, h, want, it)
			got := js[struct {
				Events, Gaps []string
				State, Why   string
			}](t, h, it)
			switch {
			case c.ends && !strings.Contains(got.Why, c.wantText):
				t.Errorf("%s: it ended with %q, want %q in it", c.name, got.Why, c.wantText)
			case !c.ends && (len(got.Events) != 1 || got.Events[0] != "good" || got.State != "connected"):
				t.Errorf("%s: it has %+v, want the one good event", c.name, got)
			case c.ends && len(got.Events) > 0:
				t.Errorf("%s: it got %q and ended", c.name, got.Events)
			}
			if c.gap != "" && (len(got.Gaps) != 1 || got.Gaps[0] != c.gap) {
				t.Errorf("%s: it told of gaps %q, want %q", c.name, got.Gaps, c.gap)
			}
			switch made := counts[n].Load(); {
			case (c.onFirst || c.ends) && made != 1:
				t.Errorf("%s: there were %d handshakes, want 1", c.name, made)
			case !c.onFirst && !c.ends && made < 2:
				t.Errorf("%s: there were %d handshakes, want another", c.name, made)
			}
		}
		js[any](t, h, "(strange.forEach((it) => it.stream.close()), null)")
		if js[bool](t, h, "'polluted' in {}") {
			t.Error("an event has changed every object")
		}
	})
}

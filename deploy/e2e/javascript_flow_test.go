package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Ten thousand events leave nothing behind in the heap, on a stream and on a durable
// subscription, whether they are iterated or handled. What is kept on purpose shows.
func TestJavaScriptHeap(t *testing.T) {
	t.Parallel()
	const most = 256 << 10  // bytes: 26 an event of 10,000
	events := some(100_000) // or ten times as many
	program := bare(t)
	inHosts(t, func(t *testing.T, h jsHost) {
		g := launch(t, &gateway{bare: program})
		js[any](t, h, `(() => {
			globalThis.seen = [0, 0, 0]; globalThis.kept = []; globalThis.keep = false;
			const s = outrelay.session(%q, given);
			s.subscribe('heap/*', { from: 'earliest', onEvent: (e) => { seen[0]++; if (keep) kept.push(e); } });
			s.subscribe('heap/*', { subscription: 'heap', from: 'earliest', onEvent: (d) => { seen[1]++; d.ack(); } });
			(async () => { for await (const e of s.subscribe('heap/*', { from: 'earliest' })) seen[2]++; })();
			globalThis.s = s;
		})()`, g.HTTP)
		n := 0
		grow := func(events int) (by int) {
			before := h.heap(t)
			for end := n + events; n < end; {
				next := min(n+10_000, end)
				publishIDs(t, g.topics("heap/one"), n, next)
				n = next
				jsWait(t, h, fmt.Sprintf("seen.every((x) => x >= %d)", n), "seen")
			}
			return h.heap(t) - before
		}
		publishIDs(t, g.topics("heap/one"), 0, 2000) // what is compiled and cached stays
		n = 2000
		jsWait(t, h, "seen.every((x) => x >= 2000)", "seen")
		if by := grow(events); by > most {
			t.Errorf("%d events left %d bytes in the heap, want at most %d", events, by, most)
		} else {
			t.Logf("%d events left %d bytes in the heap", events, by)
		}
		js[any](t, h, "(keep = true, null)")
		if by := grow(events / 2); by < most+most/2 {
			t.Errorf("%d events that are kept take %d bytes; this test would not see a leak", events/2, by)
		}
		js[any](t, h, "(s.close(), null)")
	}, "node", "chromium")
}

// A consumer that is slower than the stream gets all of it, in order, with few events
// waiting at a time; of a topic that is not stored it is told what is missing.
func TestJavaScriptSlowConsumer(t *testing.T) {
	t.Parallel()
	page := clientPage(t)
	g := startConfig(t, "tls: off\nhttps: \"\"\nhosts: [127.0.0.1]\ntopics: [{filter: live/**, stored: false}]\n"+
		"anonymous: {publish: ['**'], subscribe: ['**']}\norigins: ['"+page+"']\n")
	inHostsAt(t, page, func(t *testing.T, h jsHost) {
		const events = 500
		publishIDs(t, g.topics("slow/"+hostTopic(t)), 0, events)
		got := js[[]string](t, h, `(async () => {
			const ids = [];
			for await (const e of outrelay.subscribe(%q, { ...given, queue: 8 })) {
				if (e.id %% 50 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
				if (ids.push(e.id) === %d) return ids;
			}
		})()`, g.topics("slow/"+hostTopic(t), "from", "earliest"), events)
		if !slices.Equal(got, idsUpTo(events)) {
			t.Errorf("it got %d events, not each once and in order: %q", len(got), got)
		}

		// Without a log what did not fit is a gap.
		topic := "live/" + hostTopic(t)
		js[any](t, h, `(() => {
			globalThis.ids = []; globalThis.gaps = [];
			globalThis.go = new Promise((resolve) => { globalThis.release = resolve; });
			globalThis.stream = outrelay.subscribe(%q, { ...given, queue: 8, onGap: (g) => gaps.push(g), onEvent: (e) => { ids.push(e.id); return go; } });
		})()`, g.topics(topic))
		jsWait(t, h, "stream.state.phase === 'connected'", "stream.state")
		for n := range 100 {
			post(t, g.topics(topic), "application/cloudevents+json", sample(fmt.Sprint(n)), http.StatusAccepted)
		}
		jsWait(t, h, "ids.length === 1", "ids")
		js[any](t, h, "new Promise((resolve) => setTimeout(resolve, 300))")
		js[any](t, h, "(release(), null)")
		jsWait(t, h, "gaps.length === 1", "({ ids, gaps })")
		if n, reason := js[int](t, h, "ids.length"), js[string](t, h, "gaps[0].reason"); n > 10 || reason != "unstored" {
			t.Errorf("it got %d events and a gap for %q; at most 10 fit, and the rest is a gap unstored", n, reason)
		}
		post(t, g.topics(topic), "application/cloudevents+json", sample("after"), http.StatusAccepted)
		jsWait(t, h, "ids.at(-1) === 'after'", "ids")
		js[any](t, h, "(stream.close(), null)")
	}, "node", "chromium")
}

// hostTopic is the last part of a test's name as a segment.
func hostTopic(t *testing.T) string {
	b := []byte(t.Name())
	for i, c := range b {
		if c < 'a' || c > 'z' {
			b[i] = '-'
		}
	}
	return string(b[max(0, len(b)-30):])
}

// A gateway that falls silent is left. A page whose network came back, or that is looked at
// again, asks at once whether its gateway is there, and does not wait out the time until its next
// attempt.
func TestJavaScriptWakes(t *testing.T) {
	t.Parallel()
	g := start(t)
	c := newCutter(t, hostport(t, g.HTTP))
	inHosts(t, func(t *testing.T, h jsHost) {
		js[any](t, h, `(() => {
			globalThis.chance = Math.random;
			globalThis.stream = outrelay.subscribe(%q, { ...given, onState: (s) => { globalThis.phase = s.phase; if (s.wait !== undefined) globalThis.wait = s.wait; } });
		})()`, c.address()+"/topics/wake/*")
		for _, event := range []string{"window.dispatchEvent(new Event('online'))", "document.dispatchEvent(new Event('visibilitychange'))"} {
			jsWait(t, h, "phase === 'connected'", "phase")
			js[any](t, h, "(Math.random = () => 3600, null)") // an hour until the next attempt
			c.cutAll()
			jsWait(t, h, "phase === 'reconnecting'", "phase")
			if wait := js[float64](t, h, "wait"); wait < 60_000 {
				t.Fatalf("the next attempt is in %v ms; this test shows nothing", wait)
			}
			js[any](t, h, "(Math.random = chance, "+event+", null)")
		}
		jsWait(t, h, "phase === 'connected'", "phase")
		js[any](t, h, "(stream.close(), null)")
	}, "chromium")

	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		h := openPage(t, clientPage(t))
		var mu sync.Mutex
		opened := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"outrelay.v1.json"}, InsecureSkipVerify: true})
			if err != nil {
				return
			}
			defer conn.CloseNow()
			mu.Lock()
			opened++
			mu.Unlock()
			_ = conn.Write(r.Context(), websocket.MessageText, []byte(`{"op":"welcome","connection":"x","gateway":"y","limits":{}}`))
			for {
				if _, _, err := conn.Read(r.Context()); err != nil { // and never an answer
					return
				}
			}
		}))
		t.Cleanup(s.Close)
		js[any](t, h, `(() => { globalThis.s = outrelay.session(%q, { onState: (s) => { globalThis.phase = s.phase; globalThis.why = String(s.why); } }); })()`, s.URL)
		jsWait(t, h, "phase === 'connected'", "phase")
		began := time.Now()
		js[any](t, h, "(window.dispatchEvent(new Event('offline')), null)")
		jsWait(t, h, "phase === 'reconnecting'", "phase")
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %v to leave a gateway that does not answer", took)
		}
		jsWait(t, h, "phase === 'connected'", "phase")
		js[any](t, h, "(s.close(), null)")
		mu.Lock()
		defer mu.Unlock()
		if opened < 2 {
			t.Errorf("there were %d sessions, want another", opened)
		}
	})
}

// A handler that throws is the page's own fault, said on its console, and the next event comes.
func TestJavaScriptHandlerThrows(t *testing.T) {
	t.Parallel()
	g := start(t)
	p := openPage(t, clientPage(t))
	js[any](t, p, `(() => {
		globalThis.ids = [];
		globalThis.stream = outrelay.subscribe(%q, { from: 'earliest', onState() { throw new Error('state'); },
			onEvent(e) { ids.push(e.id); throw new Error('event ' + e.id); } });
	})()`, g.topics("throws"))
	publishIDs(t, g.topics("throws"), 0, 3)
	jsWait(t, p, "ids.length === 3", "ids")
	for _, want := range []string{"Error: state", "Error: event 0", "Error: event 2"} {
		for deadline := time.Now().Add(patience); !strings.Contains(strings.Join(p.said(), "\n"), want); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the console has no %q: %q", want, p.said())
			}
		}
	}
	js[any](t, p, "(stream.close(), null)")
}

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A durable subscription over a gateway that is stopped and one that is killed: each event
// is acked in the end, what is released comes again, what is rejected is a dead letter, and an
// ack that was given without a connection counts.
func TestJavaScriptDurable(t *testing.T) {
	t.Parallel()
	inHosts(t, func(t *testing.T, h jsHost) {
		g := start(t)
		js[any](t, h, `(() => {
			globalThis.acked = []; globalThis.held = []; globalThis.unknown = 0; globalThis.released = new Set(); globalThis.rejected = [];
			globalThis.work = outrelay.subscribe(%q, { ...given, subscription: 'work', from: 'earliest', credit: 4, ackwait: '3s', deadletter: 'dead/work',
				onState: (s) => { globalThis.phase = s.phase; },
				onEvent(d) {
					const n = Number(d.event.id);
					if (n %% 10 === 9) return d.reject('nine').then(() => rejected.push(n));
					if (n %% 10 === 3 && !released.has(n)) { released.add(n); return d.release('1ms'); }
					if ((n === 14 || n === 34) && d.attempt === 1) { held.push(d); return; }
					d.ack().then((known) => { acked.push(n); unknown += !known; });
				} });
		})()`, g.topics("durable/*"))
		publishIDs(t, g.topics("durable/one"), 0, 20)
		jsWait(t, h, "acked.length >= 17 && rejected.length === 2 && held.length === 1", "({ acked, rejected, held, phase })")
		g.stop(t)
		jsWait(t, h, "phase === 'reconnecting'", "phase")
		js[any](t, h, "(() => { held[0].ack().then((known) => { acked.push(14); globalThis.late = known; }); })()")
		g.run(t)
		publishIDs(t, g.topics("durable/one"), 20, 40)
		jsWait(t, h, "acked.length >= 34 && rejected.length === 4 && held.length === 2", "({ acked, rejected, held, phase, unknown })")
		// An ack that was sent and not answered is sent again.
		if err := syscall.Kill(g.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		js[any](t, h, "(() => { held[1].ack().then((known) => { acked.push(34); globalThis.unanswered = known; }); })()")
		g.kill(t)
		jsWait(t, h, "phase === 'reconnecting'", "phase")
		g.run(t)
		publishIDs(t, g.topics("durable/one"), 40, 60)
		jsWait(t, h, "new Set(acked).size === 54 && new Set(rejected).size === 6 && globalThis.late !== undefined && globalThis.unanswered !== undefined", "({ acked, rejected, phase, unknown })")
		if got := js[[]int](t, h, "[...new Set(rejected)].sort((a, b) => a - b)"); !slices.Equal(got, []int{9, 19, 29, 39, 49, 59}) {
			t.Errorf("it rejected %v", got)
		}
		if got := g.stored(t, "dead/work"); !slices.Equal(got, strings.Fields("9 19 29 39 49 59")) {
			t.Errorf("the dead letters are %q", got)
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			var state struct{ Pending, Unsettled, Delayed int }
			text := output(t, "", "", "curl", "-sS", "--fail-with-body", g.HTTP+"/subscriptions/work")
			if err := json.Unmarshal([]byte(text), &state); err != nil {
				t.Fatal(err)
			}
			if state == (struct{ Pending, Unsettled, Delayed int }{}) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("in the end the subscription is %s", text)
			}
		}
		js[any](t, h, "(work.close(), null)")
	}, "node", "chromium")
}

// What waits in the client when its connection is lost is dropped, for it comes again; who
// works on a delivery then is not disturbed, and its ack counts.
func TestJavaScriptDropsWhatComesAgain(t *testing.T) {
	t.Parallel()
	g := start(t)
	c := newCutter(t, hostport(t, g.HTTP))
	h := startNode(t, nil)
	publishIDs(t, g.topics("again"), 0, 3)
	js[any](t, h, `(() => {
		globalThis.got = []; globalThis.settled = [];
		const held = new Promise((resolve) => { globalThis.release = resolve; });
		globalThis.work = outrelay.subscribe(%q, { subscription: 'again', from: 'earliest', onState: (s) => { globalThis.phase = s.phase; },
			async onEvent(d) { got.push(d.event.id + ' ' + d.attempt); await held; settled.push(await d.ack()); } });
	})()`, c.address()+"/topics/again")
	jsWait(t, h, "got.length === 1", "got")
	for n := range 2 {
		js[any](t, h, "(globalThis.phase = '', null)")
		c.cutAll()
		jsWait(t, h, "phase === 'connected'", "phase")
		// By now the gateway has handed them out again.
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			text := output(t, "", "", "curl", "-sS", "--fail-with-body", g.HTTP+"/subscriptions/again")
			var state struct{ Unsettled, Redelivered int }
			if err := json.Unmarshal([]byte(text), &state); err != nil {
				t.Fatal(err)
			}
			if state.Unsettled == 3 && state.Redelivered == 3 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("after cut %d the subscription is %s", n+1, text)
			}
		}
	}
	js[any](t, h, "(release(), null)")
	jsWait(t, h, "settled.length >= 4", "({ got, settled })")
	got := js[[]string](t, h, "got")
	if slices.Sort(got); !slices.Equal(got, []string{"0 1", "0 3", "1 3", "2 3"}) {
		t.Errorf("it was handed %q, want the one that it worked on, and then what was there last", got)
	}
	js[any](t, h, "(work.close(), null)")
}

// A mint hands out tokens to pages, or the last one again.
type mint struct {
	*httptest.Server

	mu    sync.Mutex
	life  time.Duration
	fresh bool
	last  string
	asked int
}

func newMint(t *testing.T, token func(key string, expires time.Time) string, life time.Duration) *mint {
	m := &mint{life: life, fresh: true}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked++
		if m.fresh || m.last == "" {
			m.last = token("one", time.Now().Add(m.life))
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprint(w, m.last)
	}))
	t.Cleanup(m.Close)
	return m
}

// set says whether tokens are made from now on, and how long they last. It returns how
// often it was asked so far.
func (m *mint) set(fresh bool, life time.Duration) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh, m.life = fresh, life
	return m.asked
}

// Tokens of three seconds carry a session over many times that, on one connection. Where no
// new one is to be had the gateway ends it; then the client asks for another and does not come
// back with the old, and goes on when there is one.
func TestJavaScriptTokens(t *testing.T) {
	t.Parallel()
	page := clientPage(t)
	g, token := guarded(t, "origins: ['"+page+"']\n")
	inHostsAt(t, page, func(t *testing.T, h jsHost) {
		c := newCutter(t, hostport(t, g.HTTP))
		m := newMint(t, token, 3*time.Second)
		topic := "tokens/" + hostTopic(t)
		js[any](t, h, `(() => {
			globalThis.ids = []; globalThis.states = []; globalThis.asked = [];
			const token = async (refused) => { asked.push(refused); return (await fetch(%q)).text(); };
			globalThis.s = outrelay.session(%q, { ...given, token, onState: (state) => states.push(state) });
			globalThis.stream = s.subscribe(%q, { onEvent: (e) => ids.push(e.id) });
			globalThis.say = async (id) => { const receipt = await s.publish(%[3]q, { id, source: '/s', type: 't' }); return receipt.accepted; };
		})()`, m.URL, c.address(), topic)
		jsWait(t, h, "stream.state.phase === 'connected'", "states")
		until := time.Now().Add(10 * time.Second)
		n := 0
		for ; time.Now().Before(until); n++ {
			js[int](t, h, "say('%d')", n)
			js[any](t, h, "new Promise((resolve) => setTimeout(resolve, 200))")
		}
		jsWait(t, h, fmt.Sprintf("ids.length === %d", n), "ids")
		if phases := js[[]string](t, h, "states.map((s) => s.phase)"); !slices.Equal(phases, []string{"connecting", "connected"}) {
			t.Errorf("while tokens were renewed its states were %q", phases)
		}
		if made := c.mark(); made != 1 {
			t.Errorf("there were %d connections, want 1", made)
		}

		m.set(false, 0)
		jsWait(t, h, "s.state.phase === 'reconnecting'", "states")
		if why := js[string](t, h, "String(states.find((s) => s.phase === 'reconnecting').why)"); !strings.Contains(why, "token-expired") {
			t.Errorf("it ended for %q, want token-expired", why)
		}
		jsWait(t, h, "asked.filter((x) => x).length >= 3", "asked")
		// It was refused when the session ended, and is not tried again.
		if made := c.mark(); made != 1 {
			t.Errorf("with the expired token there were %d connections, want none but the first", made)
		}
		before := m.set(true, time.Hour)
		js[any](t, h, "(say('after').catch(() => {}), null)")
		jsWait(t, h, "ids.at(-1) === 'after' && stream.state.phase === 'connected'", "({ ids, states })")
		if made := c.mark(); made != 2 {
			t.Errorf("there were %d connections in the end, want 2", made)
		}
		t.Logf("%d events, the mint was asked %d times before it made tokens again", n, before)
		js[any](t, h, "(s.close(), null)")
	})
}

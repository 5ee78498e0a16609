package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// The rules that the crash test goes by catch a gateway that loses one event in 10,000,
// that answers before it has stored, or that turns neighbours round: each time, and as
// what they are. The bugs are planted in what stands between the real gateway and the
// same publishers and subscribers as in the crash test.
func TestPlantedBugsAreCaught(t *testing.T) {
	runs, events := 2, 500
	if soak() {
		runs, events = 10, 10_000
	}
	g := start(t)
	for _, tt := range []struct {
		bug, rule string
	}{
		{"none", ""},
		{"drop", ruleLost},
		{"reorder", ruleOrder},
		{"early", ruleLost},
	} {
		t.Run(tt.bug, func(t *testing.T) {
			n := runs
			if tt.bug == "none" {
				n = 1
			}
			for run := range n {
				s := newStormOn(t, g, fmt.Sprintf("planted/%s/%d", tt.bug, run), fmt.Sprintf("%s-%d", tt.bug, run))
				f := newForger(t, s.random, g.HTTP, tt.bug, events)
				s.address = f.server.URL
				s.steady(3)
				s.publishers()
				s.until("enough events", func() bool { return s.published.Load() >= int64(events) && f.planted() })
				if tt.bug == "early" {
					s.kill()
				}
				s.settle()
				rules := map[string]int{}
				for _, fault := range s.ledger.faults() {
					rules[fault.rule]++
					if fault.rule != tt.rule {
						t.Errorf("run %d: %v", run, fault)
					}
				}
				if tt.rule != "" && rules[tt.rule] == 0 {
					t.Errorf("run %d: the bug was not caught: %d events, planted %d times", run, s.published.Load(), f.count)
				}
				t.Logf("run %d: %d events, planted %d times, caught as %v", run, s.published.Load(), f.count, rules)
			}
		})
	}
}

// steady starts subscribers that ack everything and never leave.
func (s *storm) steady(n int) {
	for i := range n {
		w := &worker{Name: fmt.Sprint("steady", i), Address: s.address, Topic: s.topic, Subscription: s.name, Credit: 50,
			AckWait: stormAckWait, Silence: 10 * time.Second, Seed: s.random.Uint64(), record: s.ledger.record}
		s.receiving.Go(func() {
			if err := w.run(s.ctx); err != nil {
				s.fail(err)
			}
		})
	}
}

// A forger passes HTTP and sessions on to a gateway and has a bug: "drop" keeps one of so
// many deliveries to itself and has it acked with the next, "reorder" lets one delivery of
// so many pass only after the next one, "early" answers publishes before it sends them on,
// and forgets those that are refused.
type forger struct {
	server *httptest.Server
	target *url.URL
	bug    string
	one    int // in so many
	ctx    context.Context
	tasks  sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
	next   int // events until the bug strikes
	left   int // of the present round of so many
	count  int // how often it has
	first  time.Time
}

func newForger(t *testing.T, random *rand.Rand, target, bug string, one int) *forger {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &forger{target: u, bug: bug, one: one, ctx: ctx, random: rand.New(rand.NewPCG(random.Uint64(), 2))}
	proxy := httputil.NewSingleHostReverseProxy(u)
	transport := &http.Transport{}
	proxy.Transport = transport
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusServiceUnavailable) }
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/connect":
			f.session(w, r)
		case bug == "early" && r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/topics/"):
			f.answer(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		cancel()
		f.tasks.Wait()
		f.server.CloseClientConnections()
		f.server.Close()
		transport.CloseIdleConnections()
	})
	return f
}

// strikes says whether the bug does this time: once in so many, at a random place.
func (f *forger) strikes(bug string) bool {
	if f.bug != bug {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		f.left, f.next = f.one, f.random.IntN(f.one)
	}
	f.left--
	f.next--
	return f.next == -1
}

func (f *forger) struck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count++; f.count == 1 {
		f.first = time.Now()
	}
}

// planted says whether the bug has struck, so long ago that the end of the subscribers
// can't be taken for its reason.
func (f *forger) planted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bug == "none" || f.count > 0 && time.Since(f.first) > stormTransit+time.Second
}

// answer answers a publish before it is sent on, some moments later.
func (f *forger) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	n := max(1, strings.Count(string(body), `"specversion"`))
	f.struck()
	address, contentType := f.target.String()+r.URL.Path, r.Header.Get("Content-Type")
	f.tasks.Go(func() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-f.ctx.Done():
			return
		}
		resp, err := http.Post(address, contentType, bytes.NewReader(body)) //nolint:noctx // the gateway answers or dies
		if err == nil {
			resp.Body.Close()
		}
	})
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"accepted":%d,"cursor":"early"}`, n)
}

// session passes messages both ways.
func (f *forger) session(w http.ResponseWriter, r *http.Request) {
	const protocol = "outrelay.v1.json"
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	up, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(f.target.String(), "http")+"/connect", &websocket.DialOptions{Subprotocols: []string{protocol}})
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer up.CloseNow()
	down, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
	if err != nil {
		return
	}
	defer down.CloseNow()
	up.SetReadLimit(16 << 20)
	down.SetReadLimit(16 << 20)
	p := &forged{forger: f}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer down.CloseNow()
	defer up.CloseNow()
	asking.Go(func() {
		defer up.CloseNow()
		forward(ctx, up, down, p.fromClient)
	})
	forward(ctx, down, up, p.fromGateway)
}

func forward(ctx context.Context, to, from *websocket.Conn, change func([]byte) [][]byte) {
	for {
		_, b, err := from.Read(ctx)
		if err != nil {
			return
		}
		for _, b := range change(b) {
			if to.Write(ctx, websocket.MessageText, b) != nil {
				return
			}
		}
	}
}

// forged is one session through the forger.
type forged struct {
	*forger
	held  []byte    // a delivery that passes after the next
	stale time.Time // from when on the held one may come late for a reason of its own

	mu   sync.Mutex
	tags []string // to be acked with the next ack
}

func (p *forged) fromGateway(b []byte) [][]byte {
	var m message
	if !bytes.Contains(b, []byte(`"delivery"`)) || json.Unmarshal(b, &m) != nil || m.Op != "event" {
		return [][]byte{b}
	}
	switch held := p.held; {
	case held != nil:
		p.held = nil
		if time.Now().After(p.stale) {
			return [][]byte{held, b}
		}
		p.struck()
		return [][]byte{b, held}
	case p.strikes("drop"):
		p.struck()
		p.mu.Lock()
		p.tags = append(p.tags, m.Delivery)
		p.mu.Unlock()
		return nil
	case m.Attempt == 1 && p.strikes("reorder"):
		c, err := schemas.ParseCursor(m.Event.RelayCursor)
		if err != nil {
			return [][]byte{b}
		}
		p.held, p.stale = b, time.Unix(0, c.Accepted).Add(stormAckWait/2)
		return nil
	}
	return [][]byte{b}
}

func (p *forged) fromClient(b []byte) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	var request struct {
		Op         string   `json:"op"`
		ID         string   `json:"id"`
		Deliveries []string `json:"deliveries"`
	}
	if len(p.tags) == 0 || json.Unmarshal(b, &request) != nil || request.Op != "ack" || len(request.Deliveries) == 0 {
		return [][]byte{b}
	}
	request.Deliveries = append(request.Deliveries, p.tags...)
	p.tags = nil
	changed, err := json.Marshal(request)
	if err != nil {
		return [][]byte{b}
	}
	return [][]byte{changed}
}

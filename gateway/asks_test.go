package gateway_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// asking runs a gateway that takes tokens of the secret, and gives nothing without.
func asking(t *testing.T) *world {
	return start(t, func(_ *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: asksSecret}}}
	})
}

const asksSecret = "a secret of the tests of what is asked"

func bearerOf(rights string) string {
	return "Authorization: Bearer " + jwt(asksSecret, "me", time.Hour, rights)
}

// Each route is refused to who has every right but the one that it asks for, and not
// to who has that one alone.
func TestRoutesAskForTheirRight(t *testing.T) {
	w := asking(t)
	// By what the table of routes says: rights without the one, and the one alone.
	rights := map[string][2]string{
		"publish":   {`{"publish":["b","a/*"],"subscribe":["**"],"subscriptions":["*"],"listen":["**"],"send":["**"],"manage":true}`, `{"publish":["a"]}`},
		"subscribe": {`{"publish":["**"],"subscribe":["b","a/*"],"subscriptions":["*"],"listen":["**"],"send":["**"],"manage":true}`, `{"subscribe":["a"]}`},
		"the name":  {`{"publish":["**"],"subscribe":["**"],"subscriptions":["b"],"listen":["**"],"send":["**"],"manage":true}`, `{"subscriptions":["a"],"subscribe":["a"]}`},
		"any right": {`{}`, `{"listen":["nothing/of/events"]}`},
	}
	bodies := map[string]string{
		"PUT /subscriptions/{name}":           `{"topic":"a"}`,
		"POST /subscriptions/{name}/replay":   `{"from":"earliest"}`,
		"POST /subscriptions/{name}/requeue":  `{"cursors":"all"}`,
		"POST /subscriptions/{name}/receive":  "",
		"POST /topics/{topic...}":             event("1"),
		"POST /subscriptions/{name}/{settle}": `{"deliveries":["none"]}`,
	}
	used := map[string]bool{}
	for _, route := range gateway.Routes() {
		if route.Asks == "" {
			continue // TestRoutesAsk knows which may be
		}
		used[route.Asks] = true
		tokens, ok := rights[route.Asks]
		if !ok {
			t.Fatalf("%s %s asks for %q, which the test does not know", route.Method, route.Pattern, route.Asks)
		}
		path := strings.NewReplacer("{topic...}", "a", "{filter...}", "a", "{name}", "a").Replace(route.Pattern)
		body, ok := bodies[route.Method+" "+route.Pattern]
		if !ok && route.Method == "POST" {
			body = bodies["POST /subscriptions/{name}/{settle}"]
		}
		for i, want := range []func(status int) bool{
			func(status int) bool { return status == 403 },
			func(status int) bool { return status != 401 && status != 403 && status < 500 },
		} {
			r := w.do(t, route.Method, path, body, structured, "WebHook-Request-Origin: sender.example", bearerOf(tokens[i]))
			if !want(r.status) {
				t.Errorf("%s %s with the rights %s = %d %s", route.Method, route.Pattern, tokens[i], r.status, r.body)
			}
		}
	}
	for asks := range rights {
		if !used[asks] {
			t.Errorf("no route asks for %q", asks)
		}
	}
	// The ways of GET that the table does not tell apart.
	for _, headers := range [][]string{{"Accept: text/event-stream"}, {"Accept: */*"}} {
		if r := w.do(t, "GET", "/topics/a", "", append(headers, bearerOf(rights["subscribe"][0]))...); r.status != 403 {
			t.Errorf("GET with %v = %d, want 403", headers, r.status)
		}
	}
	if _, resp, err := w.tryDial("/topics/a", bearerOf(rights["subscribe"][0])); err == nil || resp.StatusCode != 403 {
		t.Errorf("a WebSocket without the right = %v, %v, want 403", resp, err)
	}
	if _, resp, err := w.tryDial("/connect", "Sec-WebSocket-Protocol: outrelay.v1.json", bearerOf(`{}`)); err == nil || resp.StatusCode != 403 {
		t.Errorf("a session without any right = %v, %v, want 403", resp, err)
	}
}

// An event on a stream asks for the right to publish, whatever opened the stream.
func TestStreamsAskToPublish(t *testing.T) {
	w := asking(t)
	c := w.dial(t, "/topics/a", bearerOf(`{"subscribe":["**"],"publish":["b"]}`))
	defer c.CloseNow()
	send(t, c, 1, event("1"))
	if got := next(t, c); got.Type != "dev.outrelay.rejected" || !strings.Contains(string(got.Data), "forbidden") {
		t.Errorf("an event without the right = %s, want it rejected", got.raw)
	}
}

// sessionOps reads the ops that a session takes from the code that takes them.
func sessionOps(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "session_read.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ops []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv == nil || f.Name.Name != "read" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Op") {
				ops = append(ops, s.Sel.Name)
			}
			return true
		})
	}
	if len(ops) < 9 {
		t.Fatalf("found the ops %v; the test looks in the wrong place", ops)
	}
	slices.Sort(ops)
	return slices.Compact(ops)
}

// Every op of a session asks: those that touch events or names for a right of their
// own, settlements for that of the subscription which is open on their id, and a token
// for itself. An op that is not in the table fails the test.
func TestSessionOpsAsk(t *testing.T) {
	const (
		nothing = `{"publish":["b"],"subscribe":["b"],"subscriptions":["b"],"listen":["**"],"send":["**"],"manage":true}`
		enough  = `{"publish":["a"],"subscribe":["a"],"subscriptions":["a"]}`
	)
	// settled opens a durable subscription, takes its right away, and settles.
	settled := func(op string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			// Nothing is open: there is nothing that it could be allowed to do.
			s := w.session(t, bearerOf(nothing))
			s.say(`{"op":%q,"id":"x","deliveries":["none"]}`, op)
			s.wantError("x", "not-found")

			s = w.session(t, bearerOf(enough))
			s.open("x", "a", `"topic":"a"`)
			w.do(t, "POST", "/topics/a", event(op), structured, bearerOf(enough))
			_, tags := s.delivered("x", 1)
			s.say(`{"op":"token","id":"t","token":%q}`, strings.TrimPrefix(bearerOf(nothing), "Authorization: Bearer "))
			for seen := 0; seen < 2; seen++ { // the answer, and the end of the subscription
				if m := s.next(); m.Op != "ok" && (m.ID != "x" || m.Reason != schemas.CloseRightLost.Word) {
					t.Fatalf("a narrower token is answered with %s", m.raw)
				}
			}
			s.say(`{"op":%q,"id":"x","deliveries":[%q]}`, op, tags[0])
			s.wantError("x", "not-found")
			// It went back, unsettled, to who may have it.
			other := w.session(t, bearerOf(enough))
			other.open("y", "a", `"topic":"a"`)
			if events, _ := other.delivered("y", 1); events[0] != op+"/2" {
				t.Errorf("after %s without a right the event is %q, want it again", op, events)
			}
			if r := w.do(t, "DELETE", "/subscriptions/a", "", bearerOf(enough)); r.status != http.StatusNoContent {
				t.Errorf("DELETE = %d", r.status)
			}
		}
	}
	refused := func(message string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			s := w.session(t, bearerOf(nothing))
			s.say("%s", message)
			s.wantError("x", "forbidden")
		}
	}
	answered := func(message, op string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			s := w.session(t, bearerOf(nothing))
			s.say("%s", message)
			if m := s.next(); m.Op != op || m.ID != "x" {
				t.Errorf("%s is answered with %s, want %s", message, m.raw, op)
			}
		}
	}
	table := map[string][]func(*testing.T, *world){
		"OpSubscribe": {
			refused(`{"op":"subscribe","id":"x","topic":"a"}`),
			refused(`{"op":"subscribe","id":"x","topic":"*"}`),
			refused(`{"op":"subscribe","id":"x","subscription":"a"}`),
			refused(`{"op":"subscribe","id":"x","subscription":"a","topic":"b"}`),
			refused(`{"op":"subscribe","id":"x","subscription":"b","topic":"a"}`),
			refused(`{"op":"subscribe","id":"x","subscription":"b","topic":"b","deadletter":"a"}`),
		},
		"OpPublish": {
			refused(`{"op":"publish","id":"x","topic":"a","event":` + event("1") + `}`),
			refused(`{"op":"publish","id":"x","topic":"a","events":[` + event("1") + `]}`),
			refused(`{"op":"publish","id":"x","topic":"outrelay/a","event":` + event("1") + `}`),
		},
		"OpAck":     {settled("ack")},
		"OpRelease": {settled("release")},
		"OpReject":  {settled("reject")},
		"OpExtend":  {settled("extend")},
		"OpToken": {
			refused(fmt.Sprintf(`{"op":"token","id":"x","token":%q}`, jwt(asksSecret, "another", time.Hour, enough))),
			func(t *testing.T, w *world) {
				s := w.session(t, bearerOf(nothing))
				s.say(`{"op":"token","id":"x","token":%q}`, jwt("another secret of the same length.....", "me", time.Hour, enough))
				s.wantError("x", "unauthorized")
			},
		},
		// These touch nothing but the session itself.
		"OpUnsubscribe": {answered(`{"op":"unsubscribe","id":"x"}`, "error")},
		"OpPing":        {answered(`{"op":"ping","id":"x"}`, "pong")},
	}
	if got, want := slices.Sorted(maps.Keys(table)), sessionOps(t); !slices.Equal(got, want) {
		t.Errorf("the test knows the ops %v, and a session takes %v: say what each asks for", got, want)
	}
	w := asking(t)
	for _, op := range slices.Sorted(maps.Keys(table)) {
		for i, check := range table[op] {
			t.Run(fmt.Sprint(op, i), func(t *testing.T) { check(t, w) })
		}
	}
}

// A namespace that uses up its bounds takes nothing from another.
func TestBoundsAreANamespacesOwn(t *testing.T) {
	w := start(t, func(g *gateway.Config, a *access.Config, b *broker.Config) {
		g.Dev, g.Hosts = false, map[string]string{"crimson.example": "crimson", "viridian.example": "viridian"}
		g.Limits.MaxStreams = 3
		b.Limits.MaxSubscriptions = 2
		b.Namespaces, a.Namespaces = map[string]broker.NamespaceConfig{}, map[string]access.Namespace{}
		for _, c := range []string{"crimson", "viridian"} {
			b.Namespaces[c] = broker.NamespaceConfig{}
			a.Namespaces[c] = access.Namespace{
				Hosts: []string{c + ".example"}, JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: access.Secret(asksSecret)}},
			}
		}
	})
	all := bearerOf(`{"publish":["**"],"subscribe":["**"],"subscriptions":["*"]}`)
	fill := func(host string) {
		t.Helper()
		for n := range 3 {
			w.dialOpen(t, fmt.Sprintf("/topics/a%d", n), "Host: "+host, all)
		}
		if _, resp, err := w.tryDial("/topics/a", "Host: "+host, all); err == nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("a fourth stream in %s = %v, want 429", host, resp)
		}
		for n, want := range []int{201, 201, 413} {
			if r := w.do(t, "PUT", fmt.Sprintf("/subscriptions/s%d", n), `{"topic":"a"}`, "Host: "+host, all); r.status != want {
				t.Errorf("subscription %d in %s = %d %s, want %d", n, host, r.status, r.body, want)
			}
		}
	}
	fill("crimson.example")
	fill("viridian.example")
}

// dialOpen opens a stream that stays until the test is over.
func (w *world) dialOpen(t *testing.T, path string, headers ...string) {
	t.Helper()
	c := w.dial(t, path, headers...)
	t.Cleanup(func() { c.CloseNow() })
}

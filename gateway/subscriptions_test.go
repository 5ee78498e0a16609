package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// put creates a durable subscription.
func (w *world) put(t testing.TB, name, body string) schemas.Subscription {
	t.Helper()
	r := w.do(t, "PUT", "/subscriptions/"+name, body)
	if r.status != http.StatusCreated || r.header.Get("Location") != "/subscriptions/"+name {
		t.Fatalf("PUT %s = %d %s, Location %q, want 201", name, r.status, r.body, r.header.Get("Location"))
	}
	return r.subscription(t)
}

func (r reply) subscription(t testing.TB) (s schemas.Subscription) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.header.Get("Content-Type") != "application/json" || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s: %v", r.status, r.header, r.body, err)
	}
	return s
}

// receive takes deliveries over HTTP: event ids with their attempts, and tags.
func (w *world) receive(t testing.TB, name, query string) (events, tags []string) {
	t.Helper()
	r := w.do(t, "POST", "/subscriptions/"+name+"/receive"+query, "")
	var answer struct{ Deliveries []schemas.Delivery }
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || r.status != 200 || answer.Deliveries == nil {
		t.Fatalf("receive from %s = %d %s", name, r.status, r.body)
	}
	for _, d := range answer.Deliveries {
		e, err := schemas.ParseEvent(d.Event)
		if err != nil {
			t.Fatalf("%s: %v", d.Event, err)
		}
		events, tags = append(events, fmt.Sprintf("%s/%d", e.ID(), d.Attempt)), append(tags, d.Delivery)
	}
	return events, tags
}

// settle settles over HTTP; more is further fields.
func (w *world) settle(t testing.TB, name, verb, more string, tags ...string) schemas.Settled {
	t.Helper()
	if more != "" {
		more = "," + more
	}
	list, _ := json.Marshal(tags)
	r := w.do(t, "POST", "/subscriptions/"+name+"/"+verb, fmt.Sprintf(`{"deliveries":%s%s}`, list, more))
	var s schemas.Settled
	if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.status != 200 || s.Accepted == nil || s.Unknown == nil {
		t.Fatalf("%s = %d %s", verb, r.status, r.body)
	}
	return s
}

func TestSubscriptionLife(t *testing.T) {
	w := start(t, nil)
	if r := w.do(t, "GET", "/subscriptions", ""); r.status != 200 || r.body != `{"subscriptions":[]}` {
		t.Errorf("GET /subscriptions = %d %s, want none", r.status, r.body)
	}
	made := w.put(t, "billing", `{"topic":"orders/**"}`)
	want := schemas.Subscription{Name: "billing", Topic: "orders/**", AckWait: "30s", MaxDeliver: 10, Expires: "720h"}
	if fmt.Sprint(made) != fmt.Sprint(want) {
		t.Errorf("PUT answers %+v, want the defaults %+v", made, want)
	}
	full := `{"topic":"a/*","filter":{"prefix":{"id":"x"}},"sql":"source = '/test'","ackwait":"45s","maxdeliver":3,"deadletter":"dead","exclusive":true,"expires":"1h","from":"earliest","unknown":[1]}`
	w.put(t, "all", full)
	if s := w.state(t, "all"); s.Topic != "a/*" || string(s.Filter) != `{"prefix":{"id":"x"}}` || s.SQL != "source = '/test'" || s.AckWait != "45s" || s.MaxDeliver != 3 ||
		s.DeadLetter != "dead" || !s.Exclusive || s.Expires != "1h" {
		t.Errorf("GET = %+v", s)
	}
	again := w.do(t, "PUT", "/subscriptions/all", full)
	if s := again.subscription(t); again.status != 200 || s.MaxDeliver != 3 || again.header.Get("Location") != "" {
		t.Errorf("the same PUT again = %d %+v, want 200", again.status, s)
	}
	changed := w.do(t, "PUT", "/subscriptions/all", `{"ackwait":"1m","maxdeliver":4,"deadletter":"other","expires":"30m"}`)
	if s := changed.subscription(t); changed.status != 200 || s.AckWait != "1m" || s.MaxDeliver != 4 || s.DeadLetter != "other" || s.Expires != "30m" || s.Topic != "a/*" {
		t.Errorf("PUT of what may change = %d %+v", changed.status, s)
	}
	for _, body := range []string{`{"topic":"a/b"}`, `{"filter":{"exact":{"id":"x"}}}`, `{"sql":"TRUE"}`, `{"exclusive":false}`} {
		if r := w.do(t, "PUT", "/subscriptions/all", body); r.problem(t).Name != "conflict" || r.status != 409 {
			t.Errorf("PUT %s = %d, want 409", body, r.status)
		}
	}
	var list struct{ Subscriptions []schemas.Subscription }
	if err := json.Unmarshal([]byte(w.do(t, "GET", "/subscriptions", "").body), &list); err != nil || len(list.Subscriptions) != 2 || list.Subscriptions[0].Name != "all" || list.Subscriptions[1].Name != "billing" {
		t.Errorf("GET /subscriptions = %+v, %v", list, err)
	}
	if r := w.do(t, "DELETE", "/subscriptions/all", ""); r.status != 204 || r.body != "" {
		t.Errorf("DELETE = %d %s", r.status, r.body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if r := w.do(t, method, "/subscriptions/all", ""); r.problem(t).Name != "not-found" {
			t.Errorf("%s after DELETE = %d", method, r.status)
		}
	}
	if r := w.do(t, "HEAD", "/subscriptions/billing", ""); r.status != 200 || r.body != "" || r.header.Get("Content-Length") == "0" {
		t.Errorf("HEAD = %d %v", r.status, r.header)
	}
}

func TestReceiveAndSettle(t *testing.T) {
	w := start(t, nil)
	w.put(t, "work", `{"topic":"jobs/*","deadletter":"dead"}`)
	if events, _ := w.receive(t, "work", ""); len(events) != 0 {
		t.Errorf("received %v, want nothing", events)
	}
	w.publish(t, "jobs/a", numbered("", 15)...)
	events, tags := w.receive(t, "work", "")
	if len(events) != 10 || events[0] != "0/1" || events[9] != "9/1" {
		t.Errorf("received %v, want the first 10", events)
	}
	rest, _ := w.receive(t, "work", "?max=100&wait=60s")
	if len(rest) != 5 || rest[0] != "10/1" {
		t.Errorf("received %v, want the other 5 at once", rest)
	}
	if s := w.settle(t, "work", "ack", "", tags[0], "nonsense", tags[1]); !slices.Equal(s.Accepted, []string{tags[0], tags[1]}) || !slices.Equal(s.Unknown, []string{"nonsense"}) {
		t.Errorf("ack = %+v", s)
	}
	if s := w.settle(t, "work", "ack", "", tags[0]); len(s.Accepted) != 0 || len(s.Unknown) != 1 {
		t.Errorf("a second ack = %+v, want unknown", s)
	}
	if s := w.settle(t, "work", "extend", "", tags[2]); len(s.Accepted) != 1 {
		t.Errorf("extend = %+v", s)
	}
	if s := w.settle(t, "work", "reject", `"reason":"no good"`, tags[2]); len(s.Accepted) != 1 {
		t.Errorf("reject = %+v", s)
	}
	if s := w.settle(t, "work", "release", `"delay":"10m"`, tags[3]); len(s.Accepted) != 1 {
		t.Errorf("release = %+v", s)
	}
	w.settle(t, "work", "release", "", tags[4])
	if events, _ := w.receive(t, "work", "?wait=10s"); !slices.Equal(events, []string{"4/2"}) {
		t.Errorf("after a release came %v", events)
	}
	s := w.state(t, "work")
	if s.Pending != 0 || s.Unsettled != 11 || s.Delayed != 1 || s.Redelivered != 1 || s.OldestUnsettled == nil || time.Since(*s.OldestUnsettled) > time.Minute || s.Subscribers != 0 {
		t.Errorf("state = %+v", s)
	}
	other := w.again(t)
	if s := other.settle(t, "work", "ack", "", tags[5]); len(s.Accepted) != 1 {
		t.Errorf("ack on another gateway = %+v", s)
	}
	w.put(t, "neighbour", `{"topic":"jobs/*"}`)
	if s := w.settle(t, "neighbour", "ack", "", tags[6]); len(s.Unknown) != 1 {
		t.Errorf("ack of another subscription's tag = %+v, want unknown", s)
	}
}

func TestReceiveWaits(t *testing.T) {
	w := start(t, nil)
	w.put(t, "work", `{"topic":"a"}`)
	began := time.Now()
	if events, _ := w.receive(t, "work", "?wait=300ms"); len(events) != 0 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("received %v after %v, want nothing after 300 ms", events, time.Since(began))
	}
	got := make(chan []string, 1)
	go func() {
		events, _ := w.receive(t, "work", "?wait=60s")
		got <- events
	}()
	eventually(t, "the receiver counts", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_polls{namespace="default"} 1`)
	})
	w.publish(t, "a", "1")
	if events := <-got; !slices.Equal(events, []string{"1/1"}) {
		t.Errorf("received %v", events)
	}
}

// TestReceiverThatLeaves: what it would have got goes to another soon.
func TestReceiverThatLeaves(t *testing.T) {
	w := start(t, nil)
	w.put(t, "work", `{"topic":"a"}`)
	c, err := net.Dial("tcp", w.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /subscriptions/work/receive?wait=60s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	polls := func(n int) func() bool {
		return func() bool {
			return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, fmt.Sprintf(`outrelay_polls{namespace="default"} %d`, n))
		}
	}
	eventually(t, "the receiver waits", polls(1))
	c.Close()
	eventually(t, "the receiver is gone", polls(0))
	w.publish(t, "a", "1")
	if events, _ := w.receive(t, "work", "?wait=10s"); !slices.Equal(events, []string{"1/1"}) {
		t.Errorf("received %v", events)
	}
}

func TestReceiveEndsWithDrain(t *testing.T) {
	w := start(t, nil)
	w.put(t, "work", `{"topic":"a"}`)
	got := make(chan reply, 1)
	go func() {
		r, err := w.try("POST", "/subscriptions/work/receive?wait=60s", "")
		if err != nil {
			r.body = err.Error()
		}
		got <- r
	}()
	eventually(t, "the receiver waits", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_polls{namespace="default"} 1`)
	})
	w.stop()
	if r := <-got; r.status != 200 || r.body != `{"deliveries":[]}` {
		t.Errorf("a receive during a drain = %d %s, want an empty answer", r.status, r.body)
	}
}

func TestReplayAndRequeue(t *testing.T) {
	w := start(t, nil)
	place := w.publish(t, "a", "0")
	w.put(t, "work", `{"topic":"a","deadletter":"dead","from":"earliest"}`)
	w.publish(t, "a", "1", "2")
	events, tags := w.receive(t, "work", "")
	if !slices.Equal(events, []string{"0/1", "1/1", "2/1"}) {
		t.Fatalf("received %v", events)
	}
	w.settle(t, "work", "ack", "", tags...)
	if r := w.do(t, "POST", "/subscriptions/work/replay", fmt.Sprintf(`{"after":%q}`, place)); r.status != 204 || r.body != "" {
		t.Errorf("replay = %d %s", r.status, r.body)
	}
	events, tags = w.receive(t, "work", "?wait=10s")
	if !slices.Equal(events, []string{"1/1", "2/1"}) {
		t.Fatalf("after a replay received %v", events)
	}
	w.settle(t, "work", "reject", `"reason":"bad"`, tags[0])
	w.settle(t, "work", "ack", "", tags[1])
	dead := w.do(t, "GET", "/topics/dead", "").body
	var letters []received
	if err := json.Unmarshal([]byte(dead), &letters); err != nil || len(letters) != 1 || letters[0].ID != "1" {
		t.Fatalf("dead letters %s: %v", dead, err)
	}
	cursor := letters[0].RelayCursor
	for _, body := range []string{fmt.Sprintf(`{"cursors":[%q]}`, place), fmt.Sprintf(`{"cursors":[%q,%q]}`, cursor, place)} {
		if r := w.do(t, "POST", "/subscriptions/work/requeue", body); r.status != 400 || r.problem(t).Name != "cursor" {
			t.Errorf("requeue of what is no dead letter = %d %s", r.status, r.body)
		}
	}
	if r := w.do(t, "POST", "/subscriptions/work/requeue", fmt.Sprintf(`{"cursors":[%q]}`, cursor)); r.status != 204 {
		t.Errorf("requeue = %d %s", r.status, r.body)
	}
	events, tags = w.receive(t, "work", "?wait=10s")
	if !slices.Equal(events, []string{"1/1"}) {
		t.Fatalf("after a requeue received %v", events)
	}
	w.settle(t, "work", "reject", "", tags...)
	if r := w.do(t, "POST", "/subscriptions/work/requeue", `{"cursors":"all"}`); r.status != 204 {
		t.Errorf("requeue of all = %d %s", r.status, r.body)
	}
	if events, _ = w.receive(t, "work", "?wait=10s"); !slices.Equal(events, []string{"1/1"}) {
		t.Fatalf("after a requeue of all received %v", events)
	}
}

func TestSubscriptionRefusals(t *testing.T) {
	w := start(t, nil)
	w.put(t, "s", `{"topic":"a"}`)
	long := strings.Repeat("t", 257)
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		problem                  string
	}{
		{"no name", "GET", "/subscriptions/", "", 400, "name"},
		{"two segments", "GET", "/subscriptions/a/b", "", 404, "not-found"},
		{"a slash at the end", "POST", "/subscriptions/s/receive/", "", 404, "not-found"},
		{"an encoded slash", "GET", "/subscriptions/a%2Fb", "", 400, "name"},
		{"a blank", "GET", "/subscriptions/a%20b", "", 400, "name"},
		{"a wildcard", "PUT", "/subscriptions/*", `{"topic":"a"}`, 400, "name"},
		{"dots", "PUT", "/subscriptions/..", `{"topic":"a"}`, 400, "name"},
		{"a dollar", "PUT", "/subscriptions/$JS", `{"topic":"a"}`, 400, "name"},
		{"too long", "PUT", "/subscriptions/" + strings.Repeat("a", 65), `{"topic":"a"}`, 400, "name"},
		{"POST to the list", "POST", "/subscriptions", "{}", 405, "method"},
		{"PATCH", "PATCH", "/subscriptions/s", "{}", 405, "method"},
		{"GET of a verb", "GET", "/subscriptions/s/receive", "", 405, "method"},
		{"HEAD of a verb", "HEAD", "/subscriptions/s/ack", "", 405, ""},
		{"an unknown verb", "POST", "/subscriptions/s/nack", "{}", 404, "not-found"},

		{"no body", "PUT", "/subscriptions/n", "", 400, "parameter"},
		{"no JSON", "PUT", "/subscriptions/n", "{", 400, "parameter"},
		{"no object", "PUT", "/subscriptions/n", "[]", 400, "parameter"},
		{"two objects", "PUT", "/subscriptions/n", `{"topic":"a"}{}`, 400, "parameter"},
		{"no UTF-8", "PUT", "/subscriptions/n", "{\"topic\":\"a\xff\"}", 400, "parameter"},
		{"a field twice", "PUT", "/subscriptions/n", `{"topic":"a","topic":"b"}`, 400, "parameter"},
		{"no topic", "PUT", "/subscriptions/n", `{}`, 400, "parameter"},
		{"a bad topic", "PUT", "/subscriptions/n", `{"topic":"a/**/b"}`, 400, "name"},
		{"a topic of another type", "PUT", "/subscriptions/n", `{"topic":["a"]}`, 400, "parameter"},
		{"a bad filter", "PUT", "/subscriptions/n", `{"topic":"a","filter":{"near":{}}}`, 400, "filter"},
		{"bad sql", "PUT", "/subscriptions/n", `{"topic":"a","sql":"="}`, 400, "filter"},
		{"a number as ackwait", "PUT", "/subscriptions/n", `{"topic":"a","ackwait":30}`, 400, "parameter"},
		{"too short an ackwait", "PUT", "/subscriptions/n", `{"topic":"a","ackwait":"99ms"}`, 400, "parameter"},
		{"too long an ackwait", "PUT", "/subscriptions/n", `{"topic":"a","ackwait":"25h"}`, 400, "parameter"},
		{"days", "PUT", "/subscriptions/n", `{"topic":"a","expires":"30d"}`, 400, "parameter"},
		{"no attempt", "PUT", "/subscriptions/n", `{"topic":"a","maxdeliver":0}`, 400, "parameter"},
		{"a text as maxdeliver", "PUT", "/subscriptions/n", `{"topic":"a","maxdeliver":"3"}`, 400, "parameter"},
		{"an exponent", "PUT", "/subscriptions/n", `{"topic":"a","maxdeliver":1e1}`, 400, "parameter"},
		{"dead letters that come round", "PUT", "/subscriptions/n", `{"topic":"a/**","deadletter":"a/b"}`, 400, "parameter"},
		{"dead letters unstored", "PUT", "/subscriptions/n", `{"topic":"a","deadletter":"live/x"}`, 400, "parameter"},
		{"dead letters to the broker", "PUT", "/subscriptions/n", `{"topic":"a","deadletter":"outrelay/x"}`, 400, "parameter"},
		{"dead letters to a filter", "PUT", "/subscriptions/n", `{"topic":"a","deadletter":"x/*"}`, 400, "name"},
		{"from when", "PUT", "/subscriptions/n", `{"topic":"a","from":"yesterday"}`, 400, "parameter"},
		{"after what", "PUT", "/subscriptions/n", `{"topic":"a","after":"x"}`, 400, "cursor"},
		{"after another log's event", "PUT", "/subscriptions/n", `{"topic":"a","after":"` + schemas.Cursor{Log: 1, Sequence: 5, Accepted: 7}.String() + `"}`, 400, "cursor"},
		{"too large", "PUT", "/subscriptions/n", `{"topic":"a"` + strings.Repeat(" ", 2<<20) + `}`, 413, "too-large"},

		{"receive none", "POST", "/subscriptions/s/receive?max=0", "", 400, "parameter"},
		{"receive too many", "POST", "/subscriptions/s/receive?max=101", "", 400, "parameter"},
		{"receive twice", "POST", "/subscriptions/s/receive?max=1&max=2", "", 400, "parameter"},
		{"receive what", "POST", "/subscriptions/s/receive?max=", "", 400, "parameter"},
		{"wait without a unit", "POST", "/subscriptions/s/receive?wait=5", "", 400, "parameter"},
		{"wait too long", "POST", "/subscriptions/s/receive?wait=61s", "", 400, "parameter"},
		{"wait backwards", "POST", "/subscriptions/s/receive?wait=-1s", "", 400, "parameter"},
		{"a bad query", "POST", "/subscriptions/s/receive?wait=%zz", "", 400, "parameter"},
		{"receive from nothing", "POST", "/subscriptions/n/receive", "", 404, "not-found"},

		{"ack nothing", "POST", "/subscriptions/s/ack", `{}`, 400, "parameter"},
		{"ack without a body", "POST", "/subscriptions/s/ack", "", 400, "parameter"},
		{"ack a text", "POST", "/subscriptions/s/ack", `{"deliveries":"x"}`, 400, "parameter"},
		{"ack numbers", "POST", "/subscriptions/s/ack", `{"deliveries":[1]}`, 400, "parameter"},
		{"ack up to", "POST", "/subscriptions/s/ack", `{"upto":"x"}`, 400, "parameter"},
		{"ack what is too long", "POST", "/subscriptions/s/ack", `{"deliveries":["` + long + `"]}`, 400, "parameter"},
		{"ack too many", "POST", "/subscriptions/s/ack", `{"deliveries":[` + strings.Repeat(`"x",`, 10_000) + `"x"]}`, 400, "parameter"},
		{"release too late", "POST", "/subscriptions/s/release", `{"deliveries":["x"],"delay":"15m1s"}`, 400, "parameter"},
		{"ack of nothing", "POST", "/subscriptions/n/ack", `{"deliveries":["x"]}`, 404, "not-found"},

		{"replay from nowhere", "POST", "/subscriptions/s/replay", `{}`, 400, "parameter"},
		{"replay after what", "POST", "/subscriptions/s/replay", `{"after":"x"}`, 400, "cursor"},
		{"replay of nothing", "POST", "/subscriptions/n/replay", `{"from":"earliest"}`, 404, "not-found"},
		{"requeue nothing", "POST", "/subscriptions/s/requeue", `{}`, 400, "parameter"},
		{"requeue some", "POST", "/subscriptions/s/requeue", `{"cursors":"some"}`, 400, "parameter"},
		{"requeue numbers", "POST", "/subscriptions/s/requeue", `{"cursors":[1]}`, 400, "parameter"},
		{"requeue no cursor", "POST", "/subscriptions/s/requeue", `{"cursors":["x"]}`, 400, "cursor"},
		{"requeue of nothing", "POST", "/subscriptions/n/requeue", `{"cursors":"all"}`, 404, "not-found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := w.do(t, tt.method, tt.path, tt.body)
			if r.status != tt.status {
				t.Fatalf("%s %.80s = %d %.200s, want %d", tt.method, tt.path, r.status, r.body, tt.status)
			}
			if tt.problem != "" {
				if p := r.problem(t); p.Name != tt.problem {
					t.Errorf("problem %q (%s), want %q", p.Name, p.Detail, tt.problem)
				}
			}
			if allow := r.header.Get("Allow"); (tt.status == 405) != (allow != "") {
				t.Errorf("Allow = %q with status %d", allow, tt.status)
			}
		})
	}
	if r := w.do(t, "GET", "/subscriptions/n", ""); r.status != 404 {
		t.Errorf("after all these refusals there is a subscription: %s", r.body)
	}
}

// TestSubscriptionRights: the name and its topics are both needed, for every use; a
// name that is forbidden and one that is not there look alike.
func TestSubscriptionRights(t *testing.T) {
	secret := strings.Repeat("s", 32)
	w := start(t, func(g *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: access.Secret(secret)}}}
	})
	bearer := func(rights string) string { return "Authorization: Bearer " + jwt(secret, "svc", time.Hour, rights) }
	boss := bearer(`{"publish":["**"],"subscribe":["**"],"subscriptions":["*"]}`)
	clerk := bearer(`{"publish":["a/*"],"subscribe":["a/**"],"subscriptions":["mine","theirs","none"]}`)
	for name, topic := range map[string]string{"mine": "a/*", "theirs": "b/secret", "hidden": "a/*"} {
		if r := w.do(t, "PUT", "/subscriptions/"+name, fmt.Sprintf(`{"topic":%q}`, topic), boss); r.status != 201 {
			t.Fatal(r.body)
		}
	}
	type use struct{ method, path, body string }
	uses := func(name string) []use {
		path := "/subscriptions/" + name
		return []use{
			{"GET", path, ""}, {"PUT", path, `{"ackwait":"1m"}`}, {"POST", path + "/receive", ""},
			{"POST", path + "/ack", `{"deliveries":[]}`}, {"POST", path + "/release", `{"deliveries":[]}`},
			{"POST", path + "/reject", `{"deliveries":[]}`}, {"POST", path + "/extend", `{"deliveries":[]}`},
			{"POST", path + "/replay", `{"from":"latest"}`}, {"POST", path + "/requeue", `{"cursors":"all"}`}, {"DELETE", path, ""},
		}
	}
	for i, u := range uses("hidden") {
		absent := uses("absent")[i]
		a, b := w.do(t, u.method, u.path, u.body, clerk), w.do(t, absent.method, absent.path, absent.body, clerk)
		if a.status != 403 || a.status != b.status || strings.ReplaceAll(a.body, "hidden", "absent") != b.body {
			t.Errorf("%s %s: %d %s and %d %s, want 403 and no difference", u.method, u.path, a.status, a.body, b.status, b.body)
		}
	}
	for _, u := range uses("theirs") {
		if r := w.do(t, u.method, u.path, u.body, clerk); r.status != 403 || strings.Contains(r.body, "secret") {
			t.Errorf("%s %s = %d %s, want 403 and nothing of its topics", u.method, u.path, r.status, r.body)
		}
	}
	for _, u := range uses("mine") {
		if r := w.do(t, u.method, u.path, u.body, clerk); r.status >= 300 {
			t.Errorf("%s %s = %d %s", u.method, u.path, r.status, r.body)
		}
	}
	for body, status := range map[string]int{
		`{"topic":"b/c"}`:                      403,
		`{"topic":"a/*","deadletter":"dead"}`:  403,
		`{"topic":"a/*","deadletter":"a/d/x"}`: 403,
	} {
		if r := w.do(t, "PUT", "/subscriptions/none", body, clerk); r.status != status {
			t.Errorf("PUT %s = %d %s, want %d", body, r.status, r.body, status)
		}
	}
	list := w.do(t, "GET", "/subscriptions", "", clerk)
	if strings.Contains(list.body, "hidden") || strings.Contains(list.body, "theirs") {
		t.Errorf("the list %s shows what may not be used", list.body)
	}
	if r := w.do(t, "GET", "/subscriptions", ""); r.status != 401 {
		t.Errorf("the list without a token = %d, want 401", r.status)
	}
	if r := w.do(t, "GET", "/subscriptions/hidden?access_token="+url.QueryEscape(strings.TrimPrefix(boss, "Authorization: Bearer ")), ""); r.status != 200 || r.header.Get("Cache-Control") != "private" {
		t.Errorf("with the token in the address = %d, Cache-Control %q", r.status, r.header.Get("Cache-Control"))
	}
}

// TestReceiveLosesItsRight: a wait does not outlive the right to what it waits for.
func TestReceiveLosesItsRight(t *testing.T) {
	secret := strings.Repeat("s", 32)
	open := access.Namespace{JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: access.Secret(secret)}}}
	w := start(t, func(g *gateway.Config, a *access.Config, _ *broker.Config) { a.Namespaces["default"] = open })
	all := `{"publish":["**"],"subscribe":["**"],"subscriptions":["*"]}`
	token := "Authorization: Bearer " + jwt(secret, "svc", time.Hour, all)
	short := "Authorization: Bearer " + jwt(secret, "svc", 2*time.Second, all)
	if r := w.do(t, "PUT", "/subscriptions/s", `{"topic":"a"}`, token); r.status != 201 {
		t.Fatal(r.body)
	}
	began := time.Now()
	if r := w.do(t, "POST", "/subscriptions/s/receive?wait=60s", "", short); r.status != 200 || time.Since(began) > 10*time.Second {
		t.Errorf("a receive with a token that expires = %d %s after %v", r.status, r.body, time.Since(began))
	}
	got := make(chan reply, 1)
	go func() {
		r, _ := w.try("POST", "/subscriptions/s/receive?wait=60s", "", token)
		got <- r
	}()
	eventually(t, "the receiver waits", func() bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, `outrelay_polls{namespace="default"} 1`)
	})
	if err := w.policy.Reload(access.Config{Namespaces: map[string]access.Namespace{"default": {}}}); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.status != 401 {
		t.Errorf("a receive whose right was taken back = %d %s, want 401", r.status, r.body)
	}
}

func TestSubscriptionsCORS(t *testing.T) {
	w := start(t, nil)
	r := w.do(t, "OPTIONS", "/subscriptions/s/receive", "", "Origin: http://localhost:3000", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type")
	if r.status != 204 || r.header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" || r.header.Get("Access-Control-Allow-Methods") != "OPTIONS, POST" ||
		r.header.Get("Access-Control-Allow-Headers") != "authorization, content-type" {
		t.Errorf("preflight = %d %v", r.status, r.header)
	}
	if got := w.do(t, "OPTIONS", "/subscriptions/s", "").header.Get("Allow"); got != "DELETE, GET, HEAD, OPTIONS, PUT" {
		t.Errorf("Allow = %q", got)
	}
}

// TestSubscriptionMetrics: what becomes of deliveries is counted, by namespace and
// words of the contract.
func TestSubscriptionMetrics(t *testing.T) {
	w := start(t, nil)
	w.put(t, "s", `{"topic":"a","deadletter":"dead"}`)
	w.publish(t, "a", "1", "2", "3")
	_, tags := w.receive(t, "s", "")
	w.settle(t, "s", "ack", "", tags[0])
	w.settle(t, "s", "release", "", tags[1])
	w.settle(t, "s", "reject", "", tags[2])
	w.receive(t, "s", "?wait=10s")
	s := w.session(t)
	s.open("x", "s", "")
	text := w.do(t, "GET", w.admin+"/metrics", "").body
	for _, want := range []string{
		`outrelay_subscription_deliveries_total{namespace="default"} 4`,
		`outrelay_subscription_redeliveries_total{namespace="default"} 1`,
		`outrelay_subscription_settled_total{how="ack",namespace="default"} 1`,
		`outrelay_subscription_settled_total{how="release",namespace="default"} 1`,
		`outrelay_subscription_settled_total{how="reject",namespace="default"} 1`,
		`outrelay_subscription_dead_letters_total{namespace="default"} 1`,
		`outrelay_session_subscriptions{kind="durable",namespace="default"} 1`,
		`outrelay_streams{kind="session",namespace="default"} 1`,
		`outrelay_session_requests_total{namespace="default",op="subscribe"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s:\n%s", want, grep(text, "subscription"))
		}
	}
	if strings.Contains(text, tags[0]) {
		t.Error("a tag is in the metrics")
	}
	if strings.Contains(w.log.String(), tags[0]) {
		t.Error("a tag is in the log")
	}
}

// TestReceiveOverHTTP2: an abandoned request of a connection that goes on gives its
// place back, too.
func TestReceiveOverHTTP2(t *testing.T) {
	w := start(t, nil)
	w.put(t, "s", `{"topic":"a"}`)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", w.https+"/subscriptions/s/receive?wait=60s", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		resp, err := w.client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		ended <- err
	}()
	polls := func(n int) bool {
		return strings.Contains(w.do(t, "GET", w.admin+"/metrics", "").body, fmt.Sprintf(`outrelay_polls{namespace="default"} %d`, n))
	}
	eventually(t, "the receiver waits", func() bool { return polls(1) })
	cancel()
	if err := <-ended; err == nil {
		t.Error("the abandoned request was answered")
	}
	eventually(t, "the receiver is gone", func() bool { return polls(0) })
}

package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
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

// open opens a durable subscription; more is further fields.
func (s *talk) open(id, name, more string) {
	s.t.Helper()
	if more != "" {
		more = "," + more
	}
	s.say(`{"op":"subscribe","id":%q,"subscription":%q%s}`, id, name, more)
	if m := s.want("subscribed", id); m.Cursor == "" {
		s.t.Errorf("%s has no cursor", m.raw)
	}
}

// delivered reads n deliveries on an id: event ids with their attempts, and tags.
func (s *talk) delivered(id string, n int) (events, tags []string) {
	s.t.Helper()
	for range n {
		m := s.want("event", id)
		if m.Delivery == "" || m.Attempt < 1 {
			s.t.Fatalf("%s is no delivery of a durable subscription", m.raw)
		}
		events, tags = append(events, fmt.Sprintf("%s/%d", m.event(), m.Attempt)), append(tags, m.Delivery)
	}
	return events, tags
}

func (s *talk) wantDelivered(id string, want ...string) (tags []string) {
	s.t.Helper()
	events, tags := s.delivered(id, len(want))
	if !slices.Equal(events, want) {
		s.t.Fatalf("delivered %v, want %v", events, want)
	}
	return tags
}

// settle settles deliveries; all must be known.
func (s *talk) settle(op, id, more string, tags ...string) {
	s.t.Helper()
	if more != "" {
		more = "," + more
	}
	list, _ := json.Marshal(tags)
	s.say(`{"op":%q,"id":%q,"deliveries":%s%s}`, op, id, list, more)
	if m := s.want("ok", id); m.raw != fmt.Sprintf(`{"op":"ok","id":%q,"unknown":[]}`, id) {
		s.t.Errorf("%s of %v = %s", op, tags, m.raw)
	}
}

// quiet checks that nothing comes before the answer to a ping, some time later.
func (s *talk) quiet(d time.Duration) {
	s.t.Helper()
	time.Sleep(d) // what should not come has its chance
	s.say(`{"op":"ping","id":"quiet"}`)
	s.want("pong", "quiet")
}

func (w *world) state(t testing.TB, name string) schemas.Subscription {
	t.Helper()
	r := w.do(t, "GET", "/subscriptions/"+name, "")
	var s schemas.Subscription
	if err := json.Unmarshal([]byte(r.body), &s); err != nil || r.status != 200 {
		t.Fatalf("GET /subscriptions/%s = %d %s", name, r.status, r.body)
	}
	return s
}

// TestCreditInSession: exactly so many deliveries as there is credit, the next after a
// settlement, and a stuck subscription does not hold up its neighbour.
func TestCreditInSession(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("stuck", "one", `"topic":"a","credit":10`)
	s.open("free", "two", `"topic":"a","credit":100`)
	w.publish(t, "a", numbered("", 50)...)
	var stuck []string
	var free int
	for len(stuck) < 10 || free < 50 {
		m := s.next()
		switch m.ID {
		case "stuck":
			stuck = append(stuck, m.Delivery)
			if want := fmt.Sprint(len(stuck) - 1); m.event() != want {
				t.Errorf("stuck got %s, want %s", m.event(), want)
			}
		case "free":
			if want := fmt.Sprint(free); m.event() != want {
				t.Errorf("free got %s, want %s", m.event(), want)
			}
			free++
		}
	}
	s.quiet(200 * time.Millisecond)
	s.settle("ack", "stuck", "", stuck[3])
	s.wantDelivered("stuck", "10/1")
	s.quiet(100 * time.Millisecond)
	s.say(`{"op":"ack","id":"stuck","upto":%q}`, stuck[9])
	if m := s.want("ok", "stuck"); len(m.Unknown) > 0 {
		t.Errorf("ack up to the tenth = %s", m.raw)
	}
	s.wantDelivered("stuck", "11/1", "12/1", "13/1", "14/1", "15/1", "16/1", "17/1", "18/1", "19/1")
	s.quiet(100 * time.Millisecond)
	if state := w.state(t, "one"); state.Unsettled != 10 || state.Pending != 30 || state.Subscribers != 1 {
		t.Errorf("state = %+v, want 10 unsettled and 30 pending", state)
	}
}

// TestEverySettlementMakesRoom: whatever settles a delivery lets exactly one more come.
func TestEverySettlementMakesRoom(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("s", "one", `"topic":"a","credit":3,"deadletter":"dead"`)
	w.publish(t, "a", numbered("", 8)...)
	tags := s.wantDelivered("s", "0/1", "1/1", "2/1")
	s.quiet(100 * time.Millisecond)
	s.settle("extend", "s", "", tags...) // settles nothing
	s.quiet(100 * time.Millisecond)
	for i, settlement := range []struct{ op, more string }{{"reject", `"reason":"no"`}, {"release", `"delay":"10m"`}, {"ack", ""}} {
		s.settle(settlement.op, "s", settlement.more, tags[i])
		tags = append(tags, s.wantDelivered("s", fmt.Sprintf("%d/1", 3+i))...)
		s.quiet(100 * time.Millisecond)
	}
	// Another id on the socket has a credit of its own.
	s.open("t", "one", `"credit":2`)
	s.wantDelivered("t", "6/1", "7/1")
	// What leaves unsettled goes to who has credit, one attempt later.
	s.say(`{"op":"unsubscribe","id":"t"}`)
	s.want("ok", "t")
	s.quiet(100 * time.Millisecond)
	s.settle("ack", "s", "", tags[3])
	s.wantDelivered("s", "6/2")
	s.quiet(100 * time.Millisecond)
}

// TestStuckNeighbourCostsNoTime: a session whose other subscription takes nothing is as
// fast as one without it.
func TestStuckNeighbourCostsNoTime(t *testing.T) {
	w := start(t, nil)
	const n = 1500
	plain, burdened := w.session(t), w.session(t)
	plain.open("free", "plain", `"topic":"a","credit":100`)
	burdened.open("stuck", "stuck", `"topic":"a","credit":1,"ackwait":"10m"`)
	burdened.open("free", "burdened", `"topic":"a","credit":100`)
	for at := 0; at < n; at += 500 {
		w.publish(t, "a", numbered(fmt.Sprintf("%d-", at), 500)...)
	}
	drain := func(s *talk) time.Duration {
		t.Helper()
		began := time.Now()
		for free := 0; free < n; {
			m := s.next()
			if m.Op != "event" || m.ID != "free" {
				continue // answers, and the one that is stuck
			}
			free++
			s.say(`{"op":"ack","id":"free","deliveries":[%q]}`, m.Delivery)
		}
		return time.Since(began)
	}
	with := drain(burdened)
	without := drain(plain)
	t.Logf("%d deliveries, each acked: %v beside a subscription that is stuck, %v without it", n, with, without)
	if with > 3*without+time.Second {
		t.Errorf("beside a stuck subscription %d deliveries take %v, without it %v", n, with, without)
	}
	if state := w.state(t, "stuck"); state.Unsettled != 1 || state.Pending != n-1 {
		t.Errorf("the stuck one = %+v, want 1 unsettled and %d pending", state, n-1)
	}
}

func TestSettlementsInSession(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("s", "work", `"topic":"jobs/*","deadletter":"dead","maxdeliver":5`)
	w.publish(t, "jobs/a", "1", "2", "3", "4")
	tags := s.wantDelivered("s", "1/1", "2/1", "3/1", "4/1")
	s.settle("release", "s", "", tags[0])
	again := s.wantDelivered("s", "1/2")
	began := time.Now()
	s.settle("release", "s", `"delay":"300ms"`, again[0])
	again = s.wantDelivered("s", "1/3")
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("released with 300 ms of delay it came after %v", took)
	}
	s.settle("extend", "s", "", tags[1])
	s.settle("reject", "s", `"reason":"no good"`, tags[1])
	s.settle("ack", "s", "", again[0], tags[2])

	// What was settled, and what never was a tag, is unknown, in the order given.
	s.say(`{"op":"ack","id":"s","deliveries":["nonsense",%q,%q,"more \"nonsense\""]}`, tags[3], tags[2])
	if m := s.want("ok", "s"); !slices.Equal(m.Unknown, []string{"nonsense", tags[2], `more "nonsense"`}) {
		t.Errorf("ack of two and nonsense = %s", m.raw)
	}
	for _, op := range []string{"release", "reject", "extend"} {
		s.say(`{"op":%q,"id":"s","deliveries":[%q]}`, op, tags[3])
		if m := s.want("ok", "s"); !slices.Equal(m.Unknown, tags[3:]) {
			t.Errorf("late %s = %s, want the tag unknown", op, m.raw)
		}
	}
	s.say(`{"op":"ack","id":"s","upto":"nonsense"}`)
	if m := s.want("ok", "s"); !slices.Equal(m.Unknown, []string{"nonsense"}) {
		t.Errorf("ack up to nonsense = %s", m.raw)
	}
	s.say(`{"op":"ack","id":"s","deliveries":[]}`)
	s.want("ok", "s")

	dead := w.do(t, "GET", "/topics/dead", "").body
	for _, part := range []string{`"id":"2"`, `"relaydeadreason":"no good"`, `"relaydeadtopic":"jobs/a"`, `"relaydeadsubscription":"work"`} {
		if !strings.Contains(dead, part) {
			t.Errorf("the dead letters %s lack %s", dead, part)
		}
	}
	state := w.state(t, "work")
	if state.Unsettled+state.Delayed+int(state.Pending) != 0 || state.OldestUnsettled != nil {
		t.Errorf("state = %+v, want all settled", state)
	}
}

// TestAcksInARow: acks that are sent without waiting are answered one by one, each
// with what it named.
func TestAcksInARow(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("s", "work", `"topic":"a","credit":1000`)
	const n = 500
	w.publish(t, "a", numbered("", n)...)
	_, tags := s.delivered("s", n)
	go func() {
		for i, tag := range tags {
			message := fmt.Sprintf(`{"op":"ack","id":"s","deliveries":[%q]}`, tag)
			if i%100 == 50 {
				message = fmt.Sprintf(`{"op":"ack","id":"s","deliveries":[%q,"bad%d"]}`, tag, i)
			}
			if i%100 == 70 {
				message = `{"op":"ack","id":"s"}`
			}
			if s.Write(t.Context(), websocket.MessageText, []byte(message)) != nil {
				return
			}
		}
	}()
	for i := range n {
		switch m := s.next(); {
		case i%100 == 70:
			if m.Op != "error" || m.ID != "s" {
				t.Fatalf("answer %d = %s, want an error", i, m.raw)
			}
		case i%100 == 50:
			if !slices.Equal(m.Unknown, []string{fmt.Sprint("bad", i)}) {
				t.Fatalf("answer %d = %s, want one unknown", i, m.raw)
			}
		default:
			if m.Op != "ok" || len(m.Unknown) > 0 {
				t.Fatalf("answer %d = %s", i, m.raw)
			}
		}
	}
	if state := w.state(t, "work"); state.Unsettled != n/100 {
		t.Errorf("state = %+v, want %d unsettled", state, n/100)
	}
}

// TestLeavingGivesBack: a subscriber that leaves, in whatever way, gives back what it
// has not settled, and has used an attempt.
func TestLeavingGivesBack(t *testing.T) {
	w := start(t, nil)
	first := w.session(t)
	first.open("s", "work", `"topic":"a"`)
	w.publish(t, "a", "1")
	tag := first.wantDelivered("s", "1/1")[0]
	first.say(`{"op":"unsubscribe","id":"s"}`)
	first.want("ok", "s")
	first.say(`{"op":"ack","id":"s","deliveries":[%q]}`, tag)
	first.wantError("s", "not-found")

	second := w.session(t)
	second.open("s", "work", "")
	second.wantDelivered("s", "1/2")
	second.Close(websocket.StatusNormalClosure, "")

	third := w.session(t)
	third.open("s", "work", "")
	third.wantDelivered("s", "1/3")
	third.CloseNow()

	other := w.again(t) // on another gateway
	fourth := other.session(t)
	fourth.open("x", "work", "")
	fourth.settle("ack", "x", "", fourth.wantDelivered("x", "1/4")[0])
}

// TestDurableOptionsInSession: what a subscribe says is what is created, and must be
// what is there.
func TestDurableOptionsInSession(t *testing.T) {
	w := start(t, nil)
	w.publish(t, "a/b", "old")
	s := w.session(t)
	s.say(`{"op":"subscribe","id":"x","subscription":"none"}`)
	s.wantError("x", "not-found")
	s.open("s", "work", `"topic":"a/*","from":"earliest","filter":{"exact":{"type":"test.event"}},"sql":"id <> 'skip'","ackwait":"1m30s","maxdeliver":7,"deadletter":"dead/x","exclusive":true,"expires":"48h","credit":3`)
	s.settle("ack", "s", "", s.wantDelivered("s", "old/1")...)
	w.publish(t, "a/b", "skip", "new")
	s.settle("ack", "s", "", s.wantDelivered("s", "new/1")...)
	state := w.state(t, "work")
	if state.Name != "work" || state.Topic != "a/*" || string(state.Filter) != `{"exact":{"type":"test.event"}}` || state.SQL != "id <> 'skip'" ||
		state.AckWait != "1m30s" || state.MaxDeliver != 7 || state.DeadLetter != "dead/x" || !state.Exclusive || state.Expires != "48h" {
		t.Errorf("state = %+v", state)
	}
	for _, more := range []string{`"topic":"a/b"`, `"topic":"a/*","maxdeliver":8`, `"ackwait":"1m"`, `"exclusive":false`, `"deadletter":""`} {
		s.say(`{"op":"subscribe","id":"x","subscription":"work",%s}`, more)
		s.wantError("x", "conflict")
	}
	for _, topic := range []string{"a/dead", "live/a", "outrelay/a"} {
		s.say(`{"op":"subscribe","id":"x","subscription":"other","topic":"a/**","deadletter":%q}`, topic)
		s.wantError("x", "parameter")
	}
	s.open("again", "work", `"topic":"a/*","credit":1`) // stands by: it is exclusive
	w.publish(t, "a/b", "more")
	s.wantDelivered("s", "more/1")
	s.say(`{"op":"unsubscribe","id":"s"}`)
	s.want("ok", "s")
	s.wantDelivered("again", "more/2")
}

func TestDeletedUnderASession(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("s", "work", `"topic":"a"`)
	if r := w.do(t, "DELETE", "/subscriptions/work", ""); r.status != 204 || r.body != "" {
		t.Errorf("DELETE = %d %s", r.status, r.body)
	}
	if m := s.wantError("s", "not-found"); m.Reason != "done" {
		t.Errorf("%s, want the reason done", m.raw)
	}
	s.open("s", "work", `"topic":"b"`) // the id and the name are free again
}

// TestManyInASession: a stuck subscription among many does not slow the others.
func TestManyInASession(t *testing.T) {
	w := start(t, nil)
	s := w.session(t)
	s.open("stuck", "stuck", `"topic":"**","credit":1`)
	const n = 100
	for i := range n {
		s.say(`{"op":"subscribe","id":"live%d","topic":"t/%d"}`, i, i)
		s.want("subscribed", fmt.Sprint("live", i))
	}
	for i := range n {
		w.publish(t, fmt.Sprint("t/", i), fmt.Sprint("e", i))
	}
	left := map[string]bool{}
	for i := range n {
		left[fmt.Sprint("live", i)] = true
	}
	for len(left) > 0 {
		m := s.next()
		if m.ID == "stuck" {
			continue
		}
		if m.event() != strings.Replace(m.ID, "live", "e", 1) || !left[m.ID] {
			t.Fatalf("got %s", m.raw)
		}
		delete(left, m.ID)
	}
}

// TestRightsInSession: every op needs its right, a name that is forbidden and one that
// is not there look alike, and a new token closes what it no longer covers.
func TestRightsInSession(t *testing.T) {
	secret := strings.Repeat("s", 32)
	w := start(t, func(g *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: access.Secret(secret)}}}
	})
	wide := jwt(secret, "svc", time.Hour, `{"publish":["**"],"subscribe":["**"],"subscriptions":["*"]}`)
	some := jwt(secret, "svc", time.Hour, `{"publish":["a/*"],"subscribe":["a/**"],"subscriptions":["mine","theirs"]}`)
	less := jwt(secret, "svc", time.Hour, `{"subscribe":["a/b"]}`)
	other := jwt(secret, "other", time.Hour, `{"publish":["**"],"subscribe":["**"],"subscriptions":["*"]}`)
	boss := w.session(t, "Authorization: Bearer "+wide)
	boss.open("1", "theirs", `"topic":"b/**"`)
	boss.open("2", "secret", `"topic":"a/x"`)

	s := w.session(t, "Authorization: Bearer "+some)
	for _, tt := range []struct{ message, problem string }{
		{`{"op":"subscribe","id":"x","topic":"**"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"secret"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"nothing"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"theirs"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"theirs","topic":"b/**"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"mine","topic":"b/**"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"mine","topic":"a/**","deadletter":"b"}`, "forbidden"},
		{`{"op":"subscribe","id":"x","subscription":"mine"}`, "not-found"},
		{`{"op":"publish","id":"x","topic":"b/c","event":` + event("1") + `}`, "forbidden"},
		{`{"op":"token","id":"x","token":"` + other + `"}`, "forbidden"},
		{`{"op":"token","id":"x","token":"` + jwt(secret, "svc", -time.Hour, `{}`) + `"}`, "unauthorized"},
	} {
		s.say("%s", tt.message)
		if m := s.wantError("x", tt.problem); strings.Contains(m.Problem.Detail, "b/**") && !strings.Contains(tt.message, "b/**") {
			t.Errorf("%s tells what it should not", m.raw)
		}
	}
	s.open("mine", "mine", `"topic":"a/*"`)
	s.say(`{"op":"subscribe","id":"all","topic":"a/**"}`)
	s.want("subscribed", "all")
	s.say(`{"op":"subscribe","id":"b","topic":"a/b"}`)
	s.want("subscribed", "b")
	s.say(`{"op":"publish","id":"p","topic":"a/c","event":%s}`, event("1"))
	for seen := 0; seen < 3; seen++ { // published, and both subscriptions
		s.next()
	}
	s.say(`{"op":"token","id":"t","token":%q}`, less)
	lost := map[string]bool{}
	for answered := false; len(lost) < 2 || !answered; {
		switch m := s.next(); {
		case m.Op == "error" && m.Reason == "right-lost":
			lost[m.ID] = true
		case m.Op == "ok" && m.ID == "t":
			answered = true
		default:
			t.Fatalf("got %s", m.raw)
		}
	}
	if !lost["mine"] || !lost["all"] {
		t.Errorf("closed %v, want mine and all", lost)
	}
	boss.say(`{"op":"publish","id":"p","topic":"a/b","event":%s}`, event("2"))
	if m := s.want("event", "b"); m.event() != "2" {
		t.Errorf("got %s", m.raw)
	}
	if strings.Contains(w.log.String(), some[:20]) || strings.Contains(w.log.String(), less) {
		t.Error("a token is in the log")
	}
}

// TestTokenInSession: a session ends with its token, unless there is a new one.
func TestTokenInSession(t *testing.T) {
	secret := strings.Repeat("s", 32)
	w := start(t, func(g *gateway.Config, a *access.Config, _ *broker.Config) {
		a.Namespaces["default"] = access.Namespace{JWT: []access.Issuer{{Issuer: "issuer", Audience: "outrelay", Secret: access.Secret(secret)}}}
	})
	const all = `{"subscribe":["**"]}`
	short := jwt(secret, "svc", 2*time.Second, all)
	c := w.dial(t, "/connect", "Sec-WebSocket-Protocol: outrelay.v1.json, outrelay.bearer."+base64URL(short))
	left := &talk{Conn: c, t: t}
	if m := left.want("welcome", ""); m.TokenExpires.IsZero() || time.Until(m.TokenExpires) > 2*time.Second {
		t.Errorf("welcome = %s, want when the token expires", m.raw)
	}
	renewed := w.session(t, "Authorization: Bearer "+short)
	renewed.say(`{"op":"token","id":"t","token":%q}`, jwt(secret, "svc", time.Hour, all))
	if m := renewed.want("ok", "t"); m.raw != `{"op":"ok","id":"t"}` {
		t.Errorf("token = %s", m.raw)
	}
	wantClose(t, left.Conn, schemas.CloseTokenExpired)
	renewed.say(`{"op":"subscribe","id":"s","topic":"a"}`)
	renewed.want("subscribed", "s")

	// Taken-back rights end what they opened.
	if err := w.policy.Reload(access.Config{Namespaces: map[string]access.Namespace{"default": {}}}); err != nil {
		t.Fatal(err)
	}
	wantClose(t, renewed.Conn, schemas.CloseRightLost)
}

// jwt is a token of the secret's.
func jwt(secret, subject string, life time.Duration, rights string) string {
	claims := fmt.Sprintf(`{"iss":"issuer","aud":"outrelay","sub":%q,"exp":%d,"outrelay":%s}`, subject, time.Now().Add(life).Unix(), rights)
	text := base64URL(`{"alg":"HS256","typ":"JWT"}`) + "." + base64URL(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64URL(string(mac.Sum(nil)))
}

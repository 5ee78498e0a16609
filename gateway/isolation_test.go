package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// The namespaces, whose names stand in no text of the gateway: where one shows up in
// an answer of another, something has leaked.
var colours = []string{"crimson", "viridian", "cerulean"}

// Rights of visitors without a token.
var visitors = map[string]bearer{
	"crimson":  {publish: []string{"open/*"}, subscribe: []string{"open/**"}},
	"viridian": {},
	"cerulean": {subscribe: []string{"**"}},
}

const sharedSecret = "a secret that all three namespaces have"

func colourKey(namespace, name string) string {
	return "the key " + name + " of namespace " + namespace
}

// A bearer is somebody with a token, and what the model says that it allows.
type bearer struct {
	name               string
	home               string // the namespace where the token is good; "" for nowhere
	token              string // "" for a visitor
	publish, subscribe []string
	names              []string // of subscriptions
}

// A stored event is one of a namespace's log, as the model has it.
type storedEvent struct{ topic, id, cursor string }

// A queue is a durable subscription, as the model has it.
type queue struct {
	filter  string
	pending []storedEvent
}

// A colour is a namespace of the model.
type colour struct {
	events   []storedEvent
	known    map[[2]string]string // cursors by topic and id
	queues   map[string]*queue
	received int
}

// An isolation is the gateway under test with its model: what each namespace holds,
// kept apart by construction.
type isolation struct {
	*world
	*rand.Rand
	t        *testing.T
	bearers  []bearer
	colours  map[string]*colour
	topics   []string          // all short ones
	refusals map[string]string // what a refusal of something said, by all but whether it is there
	next     int
	done     map[string]int // operations by name
}

// TestIsolation does random operations as random principals in three namespaces,
// which have the same topics, names, keys' names and issuer, and compares every
// answer with the model.
func TestIsolation(t *testing.T) {
	operations := 1_000
	if os.Getenv("OUTRELAY_SOAK") != "" {
		operations = 100_000
	}
	seed := uint64(time.Now().UnixNano())
	m := newIsolation(t, seed)
	// Rare ones, as a deletion by somebody who may, may need more than that.
	for n := 0; n < operations || m.missing() != "" && n < 20*operations; n++ {
		m.operation()
		if t.Failed() {
			t.Fatalf("operation %d, seed %d", n, seed)
		}
	}
	m.drain()
	m.checkMetrics()
	if name := m.missing(); name != "" {
		t.Errorf("of %s %d were done and %d refused; the test does not say much", name, m.done[name], m.done[name+" refused"])
	}
}

// missing is an operation that was not done yet, or not refused; "" for none.
func (m *isolation) missing() string {
	for _, name := range []string{"publish", "history", "stream", "session", "put", "get", "list", "receive", "settle", "delete", "well-known", "elsewhere"} {
		if m.done[name] == 0 || m.done[name+" refused"] == 0 && name != "well-known" && name != "elsewhere" {
			return name
		}
	}
	return ""
}

func newIsolation(t *testing.T, seed uint64) *isolation {
	m := &isolation{
		Rand: rand.New(rand.NewPCG(seed, 1)), t: t,
		colours: map[string]*colour{}, refusals: map[string]string{}, done: map[string]int{},
	}
	m.world = start(t, func(g *gateway.Config, a *access.Config, b *broker.Config) {
		g.Dev, g.Hosts = false, map[string]string{}
		b.Log.Storage, b.Namespaces = "memory", map[string]broker.NamespaceConfig{}
		for _, c := range colours {
			g.Hosts[c+".example"] = c
			b.Namespaces[c] = broker.NamespaceConfig{Retention: broker.Retention{MaxBytes: 512 << 20, Dedup: 24 * time.Hour}}
			n := access.Namespace{
				Hosts:     []string{c + ".example"},
				JWT:       []access.Issuer{{Issuer: "issuer", Secret: sharedSecret, Audience: c}},
				Anonymous: access.Anonymous{Publish: visitors[c].publish, Subscribe: visitors[c].subscribe},
			}
			for name, rights := range map[string][]string{"all": {"send", "listen", "manage"}, "sender": {"send"}, "reader": {"listen"}} {
				n.Keys = append(n.Keys, access.Key{Name: name, Primary: access.Secret(colourKey(c, name)), Rights: rights})
			}
			n.Keys = append(n.Keys, access.Key{Name: "narrow", Primary: access.Secret(colourKey(c, "narrow")), Rights: []string{"send", "listen"}, Path: "topics/a"})
			a.Namespaces[c] = n
		}
		delete(a.Namespaces, "default")
	})
	for _, a := range []string{"a", "b", "open"} {
		m.topics = append(m.topics, a)
		for _, b := range []string{"a", "b", "open", "other"} {
			m.topics = append(m.topics, a+"/"+b, a+"/"+b+"/a", a+"/"+b+"/b", a+"/"+b+"/other", a+"/"+b+"/a/b", a+"/"+b+"/other/b")
		}
	}
	m.topics = append(m.topics, "other", "other/a", "other/b", "other/a/b")
	m.bearers = []bearer{{name: "visitor"}}
	for _, c := range colours {
		m.colours[c] = &colour{known: map[[2]string]string{}, queues: map[string]*queue{}}
		m.addBearers(c)
	}
	return m
}

// addBearers makes those whose tokens are of a namespace.
func (m *isolation) addBearers(c string) {
	all, below := []string{"**"}, []string{"a", "a/**"}
	sas := func(name, path string) string {
		return schemas.SignSAS("https://"+c+".example/"+path, name, colourKey(c, name), time.Now().Add(time.Hour))
	}
	web := func(audience, rights string, life time.Duration) string {
		return signedJWT(sharedSecret, fmt.Sprintf(`{"iss":"issuer","aud":%q,"sub":"me","exp":%d,"outrelay":%s}`, audience, time.Now().Add(life).Unix(), rights))
	}
	other := colours[(slices.Index(colours, c)+1)%len(colours)]
	m.bearers = append(m.bearers,
		bearer{"all", c, sas("all", ""), all, all, []string{"*"}},
		bearer{"all for a part", c, sas("all", "topics/a"), below, below, nil},
		bearer{"sender", c, sas("sender", ""), all, nil, nil},
		bearer{"reader", c, sas("reader", "topics"), nil, all, nil},
		bearer{"reader of all", c, sas("reader", ""), nil, all, []string{"*"}},
		bearer{"narrow", c, sas("narrow", ""), below, below, nil},
		bearer{"none of them", c, web(c, `{}`, time.Hour), nil, nil, nil},
		bearer{"another's key", "", schemas.SignSAS("https://"+c+".example/", "all", colourKey(other, "all"), time.Now().Add(time.Hour)), nil, nil, nil},
		bearer{"expired", "", web(c, `{"publish":["**"]}`, -time.Hour), nil, nil, nil},
		bearer{"damaged", "", sas("all", "") + "0", nil, nil, nil},
	)
	filters := []string{"a", "b", "a/*", "a/**", "*", "**", "*/a", "open/*", "b/a"}
	some := func(from []string) (list []string) {
		for range m.IntN(4) {
			list = append(list, from[m.IntN(len(from))])
		}
		return list
	}
	for n := range 5 {
		b := bearer{name: fmt.Sprint("web ", n), home: c, publish: some(filters), subscribe: some(filters), names: some([]string{"alpha", "beta", "gamma", "*"})}
		rights, err := json.Marshal(access.Rights{Publish: b.publish, Subscribe: b.subscribe, Subscriptions: b.names})
		if err != nil {
			m.t.Fatal(err)
		}
		b.token = web(c, string(rights), time.Hour)
		m.bearers = append(m.bearers, b)
	}
}

// matches says whether a topic is one of a filter's. It is written from the protocol's
// words alone.
func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if last := len(f) - 1; f[last] == "**" {
		if len(t) <= last {
			return false
		}
		f, t = f[:last], t[:last]
	}
	if len(f) != len(t) {
		return false
	}
	for i := range f {
		if f[i] != "*" && f[i] != t[i] {
			return false
		}
	}
	return true
}

// covered says whether one of the rights is to every topic of the filter.
func (m *isolation) covered(rights []string, filter string) bool {
	return slices.ContainsFunc(rights, func(right string) bool {
		return !slices.ContainsFunc(m.topics, func(t string) bool { return matches(filter, t) && !matches(right, t) })
	})
}

// An actor is a bearer in a namespace.
type actor struct {
	bearer
	m         *isolation
	namespace string
}

// in is who b is to a namespace.
func (m *isolation) in(b bearer, namespace string) actor {
	if b.token == "" {
		b.publish, b.subscribe = visitors[namespace].publish, visitors[namespace].subscribe
	}
	return actor{b, m, namespace}
}

// refusal is the status of what the actor may not do; 0 if allowed is true.
func (a actor) refusal(allowed bool) int {
	switch {
	case a.token != "" && a.home != a.namespace:
		return 401
	case allowed:
		return 0
	case a.token == "":
		return 401
	}
	return 403
}

func (a actor) publishes(topic string) int   { return a.refusal(a.m.covered(a.publish, topic)) }
func (a actor) subscribes(filter string) int { return a.refusal(a.m.covered(a.subscribe, filter)) }
func (a actor) anything() int                { return a.refusal(len(a.publish)+len(a.subscribe)+len(a.names) > 0) }
func (a actor) may(name string) (refused int) {
	return a.refusal(slices.Contains(a.names, name) || slices.Contains(a.names, "*"))
}

// credentials puts the token into one of the places for it.
func (a actor) credentials(path string, socket bool) (address string, headers []string) {
	m := a.m
	headers = []string{"Host: " + a.namespace + ".example"}
	query := "?"
	if strings.Contains(path, "?") {
		query = "&"
	}
	if a.token == "" {
		return path, headers
	}
	place := m.IntN(4)
	if socket {
		place = m.IntN(5)
	}
	switch {
	case place == 0:
		return path + query + "access_token=" + url.QueryEscape(a.token), headers
	case place == 1:
		return path + query + "sb-hc-token=" + url.QueryEscape(a.token), headers
	case place == 2:
		return path, append(headers, "ServiceBusAuthorization: "+a.token)
	case place == 4:
		return path, append(headers, "Sec-WebSocket-Protocol: outrelay.bearer."+base64URL(a.token))
	case strings.HasPrefix(a.token, "Shared"):
		return path, append(headers, "Authorization: "+a.token)
	}
	return path, append(headers, "Authorization: Bearer "+a.token)
}

// do sends a request and looks for leaks in the answer.
func (a actor) do(method, path, body string, headers ...string) reply {
	address, more := a.credentials(path, false)
	r := a.m.world.do(a.m.t, method, address, body, append(headers, more...)...)
	a.clean(method+" "+path, fmt.Sprint(r.header, r.body))
	return r
}

// clean fails if a text of the actor's namespace speaks of another one.
func (a actor) clean(what, text string) {
	a.m.t.Helper()
	for _, c := range colours {
		if c != a.namespace && strings.Contains(text, c) {
			a.m.t.Errorf("%s in %s by %s of %q tells of %s: %s", what, a.namespace, a.name, a.home, c, text)
		}
	}
}

// wantRefusal says whether the model refuses, and checks that the gateway does.
// thing is the name that was asked for: a refusal says the same of any other.
func (a actor) wantRefusal(what, thing string, r reply, refused int) bool {
	a.m.t.Helper()
	if refused == 0 {
		return false
	}
	a.m.done[strings.Fields(what)[0]+" refused"]++
	if r.status != refused {
		a.m.t.Errorf("%s %s in %s by %s of %q = %d %s, want %d", what, thing, a.namespace, a.name, a.home, r.status, r.body, refused)
		return true
	}
	if !slices.Contains([]string{"alpha", "beta", "gamma"}, thing) || strings.Contains(what, "topics") {
		return true
	}
	// Whether the name is there makes no difference.
	text := strings.ReplaceAll(r.body, thing, "THING")
	key := fmt.Sprint(what, a.token, a.namespace)
	if before, ok := a.m.refusals[key]; ok && before != text {
		a.m.t.Errorf("%s %s in %s by %s of %q is refused with %s, and another with %s", what, thing, a.namespace, a.name, a.home, text, before)
	}
	a.m.refusals[key] = text
	return true
}

func (a actor) want(what string, r reply, status int) bool {
	a.m.t.Helper()
	a.m.done[what]++
	if r.status != status {
		a.m.t.Errorf("%s in %s by %s of %q = %d %s, want %d", what, a.namespace, a.name, a.home, r.status, r.body, status)
	}
	return r.status == status
}

func (m *isolation) pick(list ...string) string { return list[m.IntN(len(list))] }

func (m *isolation) topic() string {
	return m.pick("a", "b", "a/a", "a/b", "b/a", "open/a", "open/b", "a/b/a", "open")
}

func (m *isolation) filter() string {
	return m.pick("a", "b", "a/*", "a/**", "**", "*", "open/*", "open/**", "*/a", "b/**", "open/a")
}

// operation does one thing.
func (m *isolation) operation() {
	namespace := m.pick(colours...)
	// Half of the time somebody who is at home here.
	b := m.bearers[m.IntN(len(m.bearers))]
	for m.IntN(2) == 0 && b.home != namespace {
		b = m.bearers[m.IntN(len(m.bearers))]
	}
	a := m.in(b, namespace)
	switch n := m.IntN(100); {
	case n < 26:
		a.doPublish(m.topic())
	case n < 46:
		a.doHistory(m.filter())
	case n < 52:
		a.doStream(m.filter())
	case n < 60:
		a.doSession(m.filter(), m.topic())
	case n < 70:
		a.doPut(m.pick("alpha", "beta", "gamma"), m.filter())
	case n < 77:
		a.doGet(m.pick("alpha", "beta", "gamma"))
	case n < 81:
		a.doList()
	case n < 89:
		a.doReceive(m.pick("alpha", "beta", "gamma"))
	case n < 92:
		a.doSettle(m.pick("alpha", "beta", "gamma"))
	case n < 96:
		a.doDelete(m.pick("alpha", "beta", "gamma"))
	case n < 98:
		a.doWellKnown()
	default:
		r := m.world.do(m.t, "GET", "/topics/a", "", "Host: "+m.pick("127.0.0.1", "example", namespace, "x."+namespace+".example"))
		if m.done["elsewhere"]++; r.status != 421 || strings.Contains(r.body, "example") {
			m.t.Errorf("a host of nobody's = %d %s", r.status, r.body)
		}
	}
}

// event is one that tells its namespace.
func (a actor) event(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/isolation","type":"t","data":%q}`, id, a.namespace)
}

// id is new, or that of an event which some namespace has.
func (m *isolation) id() string {
	if m.IntN(5) == 0 {
		c := m.colours[m.pick(colours...)]
		if len(c.events) > 0 {
			return c.events[m.IntN(len(c.events))].id
		}
	}
	m.next++
	return strconv.Itoa(m.next)
}

// published brings the model up to date with an answer.
func (a actor) published(topic, id, cursor string) {
	c := a.m.colours[a.namespace]
	c.received++
	if first, ok := c.known[[2]string{topic, id}]; ok {
		if first != cursor {
			a.m.t.Errorf("a known event of %s has the cursor %s, and had %s", a.namespace, cursor, first)
		}
		return
	}
	e := storedEvent{topic, id, cursor}
	c.known[[2]string{topic, id}] = cursor
	c.events = append(c.events, e)
	for _, q := range c.queues {
		if matches(q.filter, topic) {
			q.pending = append(q.pending, e)
		}
	}
}

func (a actor) doPublish(topic string) {
	id := a.m.id()
	r := a.do("POST", "/topics/"+topic, a.event(id), structured)
	if a.wantRefusal("publish", topic, r, a.publishes(topic)) || !a.want("publish", r, 200) {
		return
	}
	answer := r.answer(a.m.t)
	_, known := a.m.colours[a.namespace].known[[2]string{topic, id}]
	if got := answer.Duplicates != nil; got != known {
		a.m.t.Errorf("publish %s of %s to %s: a duplicate: %v, want %v", id, topic, a.namespace, got, known)
	}
	a.published(topic, id, *answer.Cursor)
}

// since is the model's events after place i that match.
func (a actor) since(i int, filter string) (list []storedEvent) {
	for _, e := range a.m.colours[a.namespace].events[i:] {
		if matches(filter, e.topic) {
			list = append(list, e)
		}
	}
	return list
}

// recent chooses one of the newest events; place is the one after it.
func (a actor) recent() (place int, after string) {
	events := a.m.colours[a.namespace].events
	if len(events) == 0 {
		return 0, ""
	}
	place = len(events) - a.m.IntN(min(len(events), 20))
	return place, events[place-1].cursor
}

// wantEvent checks a delivered event.
func (a actor) wantEvent(what string, raw []byte, want storedEvent) {
	a.m.t.Helper()
	a.clean(what, string(raw))
	var e struct{ ID, RelayTopic, RelayCursor, Data string }
	if err := json.Unmarshal(raw, &e); err != nil || e.ID != want.id || e.RelayTopic != want.topic || e.RelayCursor != want.cursor || e.Data != a.namespace {
		a.m.t.Errorf("%s in %s got %s (%v), want %+v", what, a.namespace, raw, err, want)
	}
}

func (a actor) doHistory(filter string) {
	place, after := a.recent()
	query := "?limit=1000&after=" + after
	first := ""
	switch a.m.IntN(4) {
	case 0: // a cursor of another namespace is a place in another log
		foreign := a.m.in(bearer{}, a.m.pick(colours...))
		if _, cursor := foreign.recent(); foreign.namespace != a.namespace && cursor != "" {
			place, query, first = 0, "?limit=3&after="+cursor, "dev.outrelay.gap"
		}
	case 1:
		place, query = 0, "?limit=3&from=earliest"
	}
	if query == "?limit=1000&after=" {
		query = "?limit=1000"
	}
	r := a.do("GET", "/topics/"+filter+query, "")
	if a.wantRefusal("history", filter, r, a.subscribes(filter)) || !a.want("history", r, 200) {
		return
	}
	var got []json.RawMessage
	if err := json.Unmarshal([]byte(r.body), &got); err != nil {
		a.m.t.Fatalf("history = %s: %v", r.body, err)
	}
	if first != "" {
		if len(got) == 0 || !strings.Contains(string(got[0]), first) || !strings.Contains(string(got[0]), `"reset"`) {
			a.m.t.Errorf("history in %s after a cursor of another begins with %s, want a gap", a.namespace, r.body)
			return
		}
		got = got[1:]
	}
	want := a.since(place, filter)
	if r.header.Get("Link") == "" && first == "" && len(got) != len(want) || len(got) > len(want) {
		a.m.t.Errorf("history of %s in %s%s has %d events, want %d", filter, a.namespace, query, len(got), len(want))
		return
	}
	for i := range got {
		a.wantEvent("history", got[i], want[i])
	}
}

// everywhere publishes the same event in all namespaces.
func (m *isolation) everywhere(topic string) {
	m.next++
	id := strconv.Itoa(m.next)
	for _, i := range m.Perm(len(colours)) {
		for _, b := range m.bearers {
			if b.name != "all" || b.home != colours[i] {
				continue
			}
			a := m.in(b, colours[i])
			r := a.do("POST", "/topics/"+topic, a.event(id), structured)
			if a.want("publish", r, 200) {
				a.published(topic, id, *r.answer(m.t).Cursor)
			}
		}
	}
}

// one is a topic of the filter.
func (m *isolation) one(filter string) string {
	for {
		if t := m.topics[m.IntN(len(m.topics))]; matches(filter, t) {
			return t
		}
	}
}

func (a actor) dial(what, path string, headers ...string) (*websocket.Conn, reply) {
	address, more := a.credentials(path, true)
	protocols := strings.TrimPrefix(headers[0], "Sec-WebSocket-Protocol: ")
	headers = headers[1:]
	for _, h := range more {
		if bearer, ok := strings.CutPrefix(h, "Sec-WebSocket-Protocol: "); ok {
			protocols += ", " + bearer
		} else {
			headers = append(headers, h)
		}
	}
	c, resp, err := a.m.tryDial(address, append(headers, "Sec-WebSocket-Protocol: "+protocols)...)
	if err == nil {
		return c, reply{status: 101}
	}
	if resp == nil {
		a.m.t.Fatalf("%s: %v", what, err)
	}
	body := readAll(a.m.t, resp.Body)
	a.clean(what, fmt.Sprint(resp.Header, body))
	return nil, reply{resp.StatusCode, resp.Header, body, resp.Proto}
}

func (a actor) doStream(filter string) {
	place, after := a.recent()
	path := "/topics/" + filter
	if after != "" {
		path += "?after=" + after
	}
	c, r := a.dial("stream", path, "Sec-WebSocket-Protocol: cloudevents.json")
	if a.wantRefusal("stream", filter, r, a.subscribes(filter)) || !a.want("stream", r, 101) {
		return
	}
	defer c.CloseNow()
	a.m.everywhere(a.m.one(filter))
	for _, want := range a.since(place, filter) {
		a.wantEvent("stream", []byte(next(a.m.t, c).raw), want)
	}
}

func (a actor) doSession(filter, topic string) {
	c, r := a.dial("session", "/connect", "Sec-WebSocket-Protocol: outrelay.v1.json")
	if a.wantRefusal("session", "/connect", r, a.anything()) || !a.want("session", r, 101) {
		return
	}
	defer c.CloseNow()
	s := &talk{Conn: c, t: a.m.t}
	s.want("welcome", "")
	problem := func(refused int) string { return map[int]string{401: "unauthorized", 403: "forbidden"}[refused] }

	id := a.m.id()
	s.say(`{"op":"publish","id":"p","topic":%q,"event":%s}`, topic, a.event(id))
	if refused := a.publishes(topic); refused != 0 {
		a.clean("session", s.wantError("p", problem(refused)).raw)
	} else {
		a.published(topic, id, s.want("published", "p").Cursor)
	}
	place, after := a.recent()
	if after != "" {
		after = `,"after":"` + after + `"`
	}
	s.say(`{"op":"subscribe","id":"s","topic":%q%s}`, filter, after)
	if refused := a.subscribes(filter); refused != 0 {
		a.clean("session", s.wantError("s", problem(refused)).raw)
		return
	}
	s.want("subscribed", "s")
	a.m.everywhere(a.m.one(filter))
	for _, want := range a.since(place, filter) {
		a.wantEvent("session", s.want("event", "s").Event, want)
	}
}

// use refuses the actor that may not use the queue; ok means that it is there.
func (a actor) use(what, name string, r reply) (q *queue, ok bool) {
	if a.wantRefusal(what, name, r, a.may(name)) {
		return nil, false
	}
	q = a.m.colours[a.namespace].queues[name]
	if q == nil {
		a.want(what, r, 404)
		return nil, false
	}
	return q, !a.wantRefusal(what+" its topics", name, r, a.subscribes(q.filter))
}

func (a actor) doPut(name, filter string) {
	r := a.do("PUT", "/subscriptions/"+name, fmt.Sprintf(`{"topic":%q}`, filter))
	if a.wantRefusal("put", name, r, a.may(name)) || a.wantRefusal("put on topics "+filter, name, r, a.subscribes(filter)) {
		return
	}
	q := a.m.colours[a.namespace].queues[name]
	switch {
	case q == nil:
		a.want("put", r, 201)
		a.m.colours[a.namespace].queues[name] = &queue{filter: filter}
	case a.wantRefusal("put its topics", name, r, a.subscribes(q.filter)):
	case q.filter == filter:
		a.want("put", r, 200)
	default:
		a.want("put", r, 409)
	}
}

func (a actor) doGet(name string) {
	r := a.do("GET", "/subscriptions/"+name, "")
	q, ok := a.use("get", name, r)
	if !ok || !a.want("get", r, 200) {
		return
	}
	if s := describedBy(a.m.t, r.body); s.Name != name || string(s.Topic) != q.filter {
		a.m.t.Errorf("%s of %s is %s, want one of %s", name, a.namespace, r.body, q.filter)
	}
	eventually(a.m.t, fmt.Sprintf("%s of %s has %d pending", name, a.namespace, len(q.pending)), func() bool { // the log counts behind its answers
		s := describedBy(a.m.t, a.do("GET", "/subscriptions/"+name, "").body)
		return int(s.Pending) == len(q.pending) && s.Unsettled == 0
	})
}

// signedJWT is a token with these claims.
func signedJWT(secret, claims string) string {
	text := base64URL(`{"alg":"HS256","typ":"JWT"}`) + "." + base64URL(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64URL(string(mac.Sum(nil)))
}

func readAll(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func describedBy(t *testing.T, body string) (s schemas.Subscription) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return s
}

func (a actor) doList() {
	r := a.do("GET", "/subscriptions", "")
	if a.wantRefusal("list", "/subscriptions", r, a.anything()) || !a.want("list", r, 200) {
		return
	}
	var list struct{ Subscriptions []schemas.Subscription }
	if err := json.Unmarshal([]byte(r.body), &list); err != nil {
		a.m.t.Fatalf("%s: %v", r.body, err)
	}
	var got, want []string
	for _, s := range list.Subscriptions {
		got = append(got, s.Name+" "+string(s.Topic))
	}
	for name, q := range a.m.colours[a.namespace].queues {
		if a.may(name) == 0 && a.subscribes(q.filter) == 0 {
			want = append(want, name+" "+q.filter)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		a.m.t.Errorf("the list in %s for %s is %q, want %q", a.namespace, a.name, got, want)
	}
}

// receive takes deliveries, which must be the next ones of the queue.
func (a actor) receive(name string, q *queue, r reply) (tags []string) {
	var answer struct{ Deliveries []schemas.Delivery }
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
		a.m.t.Fatalf("%s: %v", r.body, err)
	}
	if len(answer.Deliveries) > len(q.pending) {
		a.m.t.Fatalf("%s of %s has %d pending and delivered %s", name, a.namespace, len(q.pending), r.body)
	}
	for i, d := range answer.Deliveries {
		a.wantEvent("receive", d.Event, q.pending[i])
		tags = append(tags, d.Delivery)
	}
	return tags
}

// ack settles tags and says how many were accepted.
func (a actor) ack(name string, tags []string) (accepted int, status int) {
	list, _ := json.Marshal(tags)
	r := a.do("POST", "/subscriptions/"+name+"/ack", fmt.Sprintf(`{"deliveries":%s}`, list))
	var s schemas.Settled
	if r.status == 200 {
		if err := json.Unmarshal([]byte(r.body), &s); err != nil || len(s.Accepted)+len(s.Unknown) != len(tags) {
			a.m.t.Errorf("ack of %d = %s (%v)", len(tags), r.body, err)
		}
	}
	return len(s.Accepted), r.status
}

func (a actor) doReceive(name string) {
	r := a.do("POST", "/subscriptions/"+name+"/receive?max=20", "")
	q, ok := a.use("receive", name, r)
	if !ok || !a.want("receive", r, 200) {
		return
	}
	tags := a.receive(name, q, r)
	if len(tags) == 0 {
		return
	}
	// The tags are worth nothing under the same name elsewhere.
	for _, b := range a.m.bearers {
		if b.name == "all" && b.home != a.namespace {
			if accepted, status := a.m.in(b, b.home).ack(name, tags); accepted != 0 || status != 200 && status != 404 {
				a.m.t.Errorf("%s takes %d of the tags of %s (%d)", b.home, accepted, a.namespace, status)
			}
		}
	}
	if accepted, status := a.ack(name, tags); accepted != len(tags) {
		a.m.t.Errorf("ack of %d = %d with %d accepted", len(tags), status, accepted)
	}
	q.pending = q.pending[len(tags):]
}

func (a actor) doSettle(name string) {
	verb := a.m.pick("ack", "release", "reject", "extend")
	r := a.do("POST", "/subscriptions/"+name+"/"+verb, `{"deliveries":["none"]}`)
	if _, ok := a.use("settle", name, r); ok && a.want("settle", r, 200) && !strings.Contains(r.body, `"unknown":["none"]`) {
		a.m.t.Errorf("%s of no tag = %s", verb, r.body)
	}
}

func (a actor) doDelete(name string) {
	r := a.do("DELETE", "/subscriptions/"+name, "")
	if _, ok := a.use("delete", name, r); ok && a.want("delete", r, 204) {
		delete(a.m.colours[a.namespace].queues, name)
	}
}

func (a actor) doWellKnown() {
	r := a.do("GET", "/.well-known/outrelay", "")
	if a.want("well-known", r, 200) && !strings.Contains(r.body, fmt.Sprintf(`"hosts":["%s.example"]`, a.namespace)) {
		a.m.t.Errorf("well-known of %s = %s", a.namespace, r.body)
	}
}

// drain receives what is left in every queue: all of it and nothing else.
func (m *isolation) drain() {
	for _, b := range m.bearers {
		if b.name != "all" || b.home == "" {
			continue
		}
		a := m.in(b, b.home)
		for name, q := range m.colours[b.home].queues {
			for deadline := time.Now().Add(30 * time.Second); len(q.pending) > 0; {
				tags := a.receive(name, q, a.do("POST", "/subscriptions/"+name+"/receive?max=100&wait=1s", ""))
				if accepted, _ := a.ack(name, tags); accepted != len(tags) || time.Now().After(deadline) {
					m.t.Fatalf("%s of %s still has %d pending", name, b.home, len(q.pending))
				}
				q.pending = q.pending[len(tags):]
			}
		}
	}
}

var label = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// checkMetrics compares the counts of each namespace, and looks for words of clients
// among the labels.
func (m *isolation) checkMetrics() {
	text := m.world.do(m.t, "GET", m.admin+"/metrics", "").body
	for _, c := range colours {
		want := fmt.Sprintf("outrelay_events_received_total{namespace=%q} %d\n", c, m.colours[c].received)
		if !strings.Contains(text, want) {
			m.t.Errorf("the metrics do not say %s", want)
		}
	}
	spaces := map[string]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "#") || !strings.HasPrefix(line, "outrelay_") {
			continue
		}
		for _, l := range label.FindAllStringSubmatch(line, -1) {
			if l[1] == "namespace" {
				spaces[l[2]] = true
			} else if slices.Contains(m.topics, l[2]) || slices.Contains([]string{"alpha", "beta", "gamma", "me", "issuer"}, l[2]) {
				m.t.Errorf("a client's word is a label: %s", line)
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(spaces)), append([]string{""}, slices.Sorted(slices.Values(colours))...); !slices.Equal(got, want) {
		m.t.Errorf("the metrics are of the namespaces %q, want %q", got, want)
	}
}

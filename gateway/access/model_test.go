package access_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// operations is how many the model is asked: 100,000 with OUTRELAY_SOAK, else a tenth.
func operations() int {
	if os.Getenv("OUTRELAY_SOAK") != "" {
		return 100_000
	}
	return 10_000
}

// The model knows no filters and no scopes: a right is the list of topics, out of
// all short ones over a small alphabet, that it is for. "zz" is in no filter, so
// that a wildcard differs from the list of all segments.
var segments = []string{"a", "b", "A", "ab", schemas.NoticeSegment, "zz"}

func universe() []string {
	all := slices.Clone(segments)
	for begin, depth := 0, 1; depth < 4; depth++ {
		end := len(all)
		for _, t := range all[begin:end] {
			for _, s := range segments {
				all = append(all, t+"/"+s)
			}
		}
		begin = end
	}
	return all
}

type model struct {
	*rand.Rand
	topics  []string
	matches map[string][]bool // by filter
}

func (m *model) match(filter string) []bool {
	if m.matches[filter] == nil {
		set := make([]bool, len(m.topics))
		for i, t := range m.topics {
			set[i] = schemas.TopicFilter(filter).Match(schemas.Topic(t))
		}
		m.matches[filter] = set
	}
	return m.matches[filter]
}

// below is the set of a path and all under it, of all topics but notices for "".
func (m *model) below(path string) []bool {
	set := make([]bool, len(m.topics))
	for i, t := range m.topics {
		set[i] = t == path || strings.HasPrefix(t, path+"/") || path == "" && !notice(t)
	}
	return set
}

func notice(topic string) bool {
	return strings.HasPrefix(topic, schemas.NoticeSegment+"/")
}

func subset(a, b []bool) bool {
	for i := range a {
		if a[i] && !b[i] {
			return false
		}
	}
	return true
}

func (m *model) pick(list ...string) string { return list[m.IntN(len(list))] }

func (m *model) topic() string {
	path := m.pick(segments[:5]...)
	for m.IntN(2) == 0 && strings.Count(path, "/") < 2 {
		path += "/" + m.pick(segments[:5]...)
	}
	return path
}

func (m *model) filter() string {
	parts := strings.Split(m.topic(), "/")
	for i := range parts {
		if m.IntN(4) == 0 {
			parts[i] = "*"
		}
	}
	if m.IntN(4) == 0 {
		parts[len(parts)-1] = "**"
	}
	return strings.Join(parts, "/")
}

// A principal is a token and what the model says it may do.
type principal struct {
	what      string
	near      string // a topic or name that the token has to do with
	namespace string // "" if the token is good nowhere
	token     string
	covers    func(a access.Ask) bool
}

func contains(sets [][]bool, asked []bool) bool {
	return slices.ContainsFunc(sets, func(set []bool) bool { return subset(asked, set) })
}

// ask answers one question from sets of topics and of names.
func (m *model) ask(a access.Ask, publish, subscribe, listen, send [][]bool, subscriptions []string, manage bool) bool {
	name := strings.ToLower(a.Name)
	switch a.Action {
	case access.Publish:
		asked := m.match(string(a.Topics))
		for i, t := range m.topics {
			if asked[i] && notice(t) {
				return false
			}
		}
		return contains(publish, asked)
	case access.Subscribe:
		return contains(subscribe, m.match(string(a.Topics)))
	case access.Subscription:
		return slices.Contains(subscriptions, a.Name) || slices.Contains(subscriptions, "*")
	case access.Listen, access.Send:
		sets := listen
		if a.Action == access.Send {
			sets = send
		}
		i := slices.Index(m.topics, name)
		return slices.ContainsFunc(sets, func(set []bool) bool { return set[i] })
	}
	return manage
}

// names is the set of names that a pattern is for. Unlike for topics, a wildcard
// is for a first segment "outrelay" too.
func (m *model) names(pattern string) []bool {
	set := make([]bool, len(m.topics))
	for i, t := range m.topics {
		set[i] = schemas.TopicFilter("x/" + strings.ToLower(pattern)).Match(schemas.Topic("x/" + t))
	}
	return set
}

var modelKeys = map[string][]access.Key{}

func init() {
	rights := [][]string{{"send"}, {"listen"}, {"send", "listen"}, {"send", "listen", "manage"}}
	for i, namespace := range []string{"red", "green", "blue"} {
		for j, r := range rights {
			modelKeys[namespace] = append(modelKeys[namespace], access.Key{Name: fmt.Sprint("key", j), Primary: access.Secret(fmt.Sprintf("the key number %d of namespace %d", j, i)), Rights: r})
		}
		for j, path := range []string{"topics/a", "topics/a/b", "ab", "A/b", "topics"} {
			modelKeys[namespace] = append(modelKeys[namespace], access.Key{
				Name: fmt.Sprint("narrow", j), Primary: access.Secret(fmt.Sprintf("the narrow key %d of namespace %d", j, i)), Path: path, Rights: []string{"send", "listen"},
			})
		}
	}
}

func modelConfig() access.Config {
	c := access.Config{Namespaces: map[string]access.Namespace{}}
	for name, keys := range modelKeys {
		c.Namespaces[name] = access.Namespace{
			Hosts: []string{name + ".example"}, Keys: keys,
			JWT: []access.Issuer{{Issuer: "issuer", Secret: access.Secret(name + " " + hsSecret), Audience: name}},
		}
	}
	return c
}

func (m *model) visitor() principal {
	return principal{"visitor", "a", "", "", func(access.Ask) bool { return false }}
}

// signer is the holder of a shared key who makes a token for some place.
func (m *model) signer() principal {
	namespace := m.pick("red", "green", "blue")
	key := modelKeys[namespace][m.IntN(len(modelKeys[namespace]))]
	place := m.pick("", "topics", "topics/"+m.topic(), "topics/"+m.topic(), m.topic(), m.topic())
	p := principal{
		near: strings.TrimPrefix(m.pick(place, key.Path), "topics/"),
		what: fmt.Sprintf("%s of %s for %q", key.Name, namespace, place), namespace: namespace,
		token: schemas.SignSAS("http://"+namespace+".example/"+place, key.Name, string(key.Primary), time.Now().Add(time.Hour)),
	}
	// Which topics and names are in the place, and in the key's.
	topics, names, all := m.place(place)
	keyTopics, keyNames, keyAll := m.place(key.Path)
	for i := range topics {
		// A key for all topics gives a token for notices if that names them.
		topics[i] = topics[i] && (keyTopics[i] || (keyAll || key.Path == "topics") && notice(m.topics[i]))
		names[i] = names[i] && keyNames[i]
	}
	send, listen := slices.Contains(key.Rights, "send"), slices.Contains(key.Rights, "listen")
	manage := slices.Contains(key.Rights, "manage")
	if all && !keyAll { // the narrower of the two places, notices and all
		topics, names, _ = m.place(key.Path)
	}
	none := [][]bool{}
	sets := func(ok bool, set []bool) [][]bool {
		if ok {
			return [][]bool{set}
		}
		return none
	}
	p.covers = func(a access.Ask) bool {
		var subscriptions []string
		if all && keyAll && listen {
			subscriptions = []string{"*"}
		}
		return m.ask(a, sets(send, topics), sets(listen, topics), sets(listen, names), sets(send, names), subscriptions, manage && all && keyAll)
	}
	return p
}

// place returns what lies in it, and whether it is the whole namespace.
func (m *model) place(path string) (topics, names []bool, all bool) {
	topics, names = make([]bool, len(m.topics)), make([]bool, len(m.topics))
	switch {
	case path == "":
		for i := range names {
			names[i] = true
		}
		return m.below(""), names, true
	case path == "topics":
		return m.below(""), names, false
	case strings.HasPrefix(path, "topics/"):
		return m.below(path[7:]), names, false
	}
	return topics, m.below(strings.ToLower(path)), false
}

// bearer holds a token of its namespace's issuer.
func (m *model) bearer() principal {
	namespace := m.pick("red", "green", "blue")
	list := func(f func() string) (l []string) {
		for range m.IntN(3) {
			l = append(l, f())
		}
		return l
	}
	r := access.Rights{
		Publish: list(m.filter), Subscribe: list(m.filter), Listen: list(m.filter), Send: list(m.filter),
		Subscriptions: list(func() string { return m.pick("one", "two", "*") }), Manage: m.IntN(4) == 0,
	}
	token := compact(`{"alg":"HS256"}`, claims("issuer", map[string]any{"aud": namespace, "outrelay": r}), func(text string) []byte {
		return hs256([]byte(namespace+" "+hsSecret), text)
	})
	all := func(filters []string, set func(string) []bool) (sets [][]bool) {
		for _, f := range filters {
			sets = append(sets, set(f))
		}
		return sets
	}
	near := slices.Concat(r.Publish, r.Subscribe, r.Listen, r.Send, []string{"a"})
	return principal{fmt.Sprintf("bearer in %s of %+v", namespace, r), m.pick(near...), namespace, token, func(a access.Ask) bool {
		return m.ask(a, all(r.Publish, m.match), all(r.Subscribe, m.match), all(r.Listen, m.names), all(r.Send, m.names), r.Subscriptions, r.Manage)
	}}
}

// anyAsk asks for something, half of the time close to the place near.
func (m *model) anyAsk(near string) access.Ask {
	topic, filter := m.topic(), m.filter()
	if near = strings.Trim(near, "*/"); m.IntN(2) == 0 && near != "" && near != "topics" && !strings.Contains(near, "*") {
		close := m.pick(near, near+"/a", near+"/zz", near+"b", strings.ToLower(near))
		if slices.Contains(m.topics, strings.ToLower(close)) && slices.Contains(m.topics, close) {
			topic = close
		}
		close = m.pick(topic, near+"/*", near+"/**", "*"+strings.TrimLeft(near, "aAb"))
		if slices.Contains(m.match(close), true) { // the model sees short topics only
			filter = close
		}
	}
	switch action := access.Action(m.IntN(6)); action {
	case access.Publish:
		return publish(topic)
	case access.Subscribe:
		return subscribe(filter)
	case access.Subscription:
		return named(action, m.pick("one", "two", "three"))
	case access.Manage:
		return manage
	default:
		return named(action, topic)
	}
}

// Random operations by random principals in three namespaces: what is allowed is
// what the model says.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &model{rand.New(rand.NewPCG(seed, 0)), universe(), map[string][]bool{}}
	p := policy(t, modelConfig())
	var allowed, refused int
	for range operations() / 10 {
		who := []func() principal{m.visitor, m.signer, m.signer, m.bearer, m.bearer}[m.IntN(5)]()
		for range 10 {
			where := m.pick("red", "green", "blue", who.namespace, who.namespace)
			if where == "" {
				where = "red"
			}
			asks := []access.Ask{m.anyAsk(who.near), m.anyAsk(who.near)}[:1+m.IntN(2)]
			want := "forbidden"
			switch {
			case who.namespace != where:
				want = "unauthorized"
			case !slices.ContainsFunc(asks, func(a access.Ask) bool { return !who.covers(a) }):
				want = ""
			}
			if want == "" {
				allowed++
			} else {
				refused++
			}
			_, err := p.Authorize(where, request(who.token), asks...)
			check(t, fmt.Sprintf("seed %d: %s asks %s for %+v", seed, who.what, where, asks), err, want)
		}
		if t.Failed() {
			return
		}
	}
	if allowed < operations()/20 || refused < operations()/20 {
		t.Errorf("%d operations allowed and %d refused: too few of a kind to tell anything", allowed, refused)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	mine := mine()
	keys := newKeyServer(b, mine)
	p := policy(b, jwtConfig(keys, keys, keys))
	start(b, p)
	token := func(alg, iss string) string {
		return compact(header(alg), claims(iss, nil), func(text string) []byte { return mine.sign(alg, alg, text) })
	}
	for name, token := range map[string]string{
		"signature": sas("http://shop.example/", "Root", rootKey), "HS256": token("HS256", issuerSecret), "RS256": token("RS256", issuerKeys),
		"ES256": token("ES256", issuerKeys), "EdDSA": token("EdDSA", issuerKeys),
	} {
		r := request(token)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Authorize("shop", r, publish("orders/eu")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("visitor", func(b *testing.B) {
		r := request("")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Authorize("shop", r, publish("public/a")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

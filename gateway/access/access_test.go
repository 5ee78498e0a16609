package access_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rootKey   = "cm9vdC1rZXktb2YtdGhlLXNob3AtMDAwMQ=="
	secondKey = "c2Vjb25kYXJ5LWtleS1vZi10aGUtc2hvcA=="
	sendKey   = "c2VuZC1rZXktb2YtdGhlLXNob3AtMDAwMDE="
	hc1Key    = "aGMxLWtleS1vZi10aGUtc2hvcC0wMDAwMDE="
	otherKey  = "cm9vdC1rZXktb2YtdGhlLW90aGVyLTAwMDE="
)

func shop() access.Namespace {
	return access.Namespace{
		Hosts: []string{"shop.example", "Shop.Test"},
		Keys: []access.Key{
			{Name: "Root", Primary: rootKey, Secondary: secondKey, Rights: []string{"send", "listen", "manage"}},
			{Name: "sender", Primary: sendKey, Rights: []string{"send"}},
			{Name: "hc1", Primary: hc1Key, Rights: []string{"listen", "send"}, Path: "hc1"},
		},
		Anonymous: access.Anonymous{Publish: []string{"public/*"}, Subscribe: []string{"public/**"}, Send: []string{"Door"}},
		Origins:   []string{"https://app.example", "http://localhost:3000"},
	}
}

func config() access.Config {
	return access.Config{Namespaces: map[string]access.Namespace{
		"shop": shop(),
		"other": {
			Hosts: []string{"other.example"},
			Keys:  []access.Key{{Name: "Root", Primary: otherKey, Rights: []string{"send", "listen", "manage"}}},
		},
		"open": {Dev: true, Keys: []access.Key{{Name: "Root", Primary: rootKey, Rights: []string{"send", "listen", "manage"}}}},
		"shut": {},
	}}
}

func policy(t testing.TB, c access.Config) *access.Policy {
	t.Helper()
	p, err := access.New(c)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return p
}

// request is a GET with a token in the Authorization header, as a client would send it.
func request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://shop.example/topics/a", nil)
	switch {
	case token == "":
	case strings.HasPrefix(token, "SharedAccessSignature "):
		r.Header.Set("Authorization", token)
	default:
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func sas(resource, name, key string) string {
	return schemas.SignSAS(resource, name, key, time.Now().Add(time.Hour))
}

func publish(topic string) access.Ask {
	return access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(topic)}
}

func subscribe(filter string) access.Ask {
	return access.Ask{Action: access.Subscribe, Topics: schemas.TopicFilter(filter)}
}

func named(action access.Action, name string) access.Ask {
	return access.Ask{Action: action, Name: name}
}

var manage = access.Ask{Action: access.Manage}

// check fails unless err is the problem of that name; "" is none.
func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	got := ""
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		got = p.Name
	} else if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%s: problem %q (%v), want %q", what, got, err, want)
	}
}

func TestAnonymous(t *testing.T) {
	p := policy(t, config())
	tests := []struct {
		namespace string
		ask       access.Ask
		want      string
	}{
		{"shop", publish("public/a"), ""},
		{"shop", publish("public/a/b"), "unauthorized"},
		{"shop", subscribe("public/**"), ""},
		{"shop", subscribe("public/a/*"), ""},
		{"shop", subscribe("**"), "unauthorized"},
		{"shop", named(access.Send, "DOOR"), ""},
		{"shop", named(access.Send, "door/a"), "unauthorized"},
		{"shop", named(access.Listen, "door"), "unauthorized"},
		{"shop", named(access.Subscription, "billing"), "unauthorized"},
		{"shut", publish("a"), "unauthorized"},
		{"absent", publish("a"), "unauthorized"},
		{"open", publish("a"), ""},
		{"open", publish("outrelay/listeners"), "unauthorized"},
		{"open", publish("outrelay"), ""}, // no notice: those lie below it
		{"open", publish(""), "unauthorized"},
		{"open", publish("a//b"), "unauthorized"},
		{"open", subscribe("**"), ""},
		{"open", subscribe("outrelay/**"), ""},
		{"open", named(access.Subscription, "billing"), ""},
		{"open", named(access.Subscription, "a/b"), "unauthorized"},
		{"open", named(access.Listen, "a/b"), ""},
		{"open", named(access.Send, "outrelay/x"), ""}, // reserved among topics only
		{"open", named(access.Send, "*"), "unauthorized"},
		{"open", manage, "unauthorized"},
		{"open", access.Ask{Action: 99, Topics: "a", Name: "a"}, "unauthorized"},
	}
	for _, tt := range tests {
		_, err := p.Authorize(tt.namespace, request(""), tt.ask)
		check(t, fmt.Sprintf("%s: %+v", tt.namespace, tt.ask), err, tt.want)
	}
}

// A request that asks for nothing in particular, such as the start of a session,
// needs credentials that allow something.
func TestAuthorizeWithoutAsks(t *testing.T) {
	p := policy(t, config())
	for namespace, want := range map[string]string{"shop": "", "open": "", "shut": "unauthorized"} {
		_, err := p.Authorize(namespace, request(""))
		check(t, namespace, err, want)
	}
	_, err := p.Authorize("shop", request(sas("http://shop.example/hc2", "hc1", hc1Key)))
	check(t, "a token for a place where its key has no say", err, "forbidden")
}

func TestSignatureScopes(t *testing.T) {
	p := policy(t, config())
	tests := []struct {
		resource, key, secret string
		ask                   access.Ask
		want                  string
	}{
		{"http://shop.example/", "Root", rootKey, publish("a/b"), ""},
		{"http://shop.example/", "Root", secondKey, publish("a/b"), ""},
		{"http://shop.example/", "rOOT", rootKey, subscribe("**"), ""},
		{"http://shop.example/", "Root", rootKey, subscribe("outrelay/**"), "forbidden"},
		{"http://shop.example/topics/outrelay", "Root", rootKey, subscribe("outrelay/**"), ""},
		{"http://shop.example/topics/outrelay", "Root", rootKey, publish("outrelay/a"), "forbidden"},
		{"http://shop.example/", "Root", rootKey, named(access.Subscription, "billing"), ""},
		{"http://shop.example/", "Root", rootKey, named(access.Listen, "HC1/a"), ""},
		{"http://shop.example/", "Root", rootKey, manage, ""},
		{"sb://shop.example", "Root", rootKey, named(access.Send, "hc1"), ""},
		{"http://SHOP.test:443/hc1", "Root", rootKey, named(access.Send, "hc1"), ""},
		{"http://shop.example/HC1//", "Root", rootKey, named(access.Listen, "hc1/x"), ""},
		{"http://shop.example/hc1", "Root", rootKey, named(access.Send, "hc10"), "forbidden"},
		{"http://shop.example/hc1", "Root", rootKey, named(access.Send, "hc"), "forbidden"},
		{"http://shop.example/hc1", "Root", rootKey, publish("hc1"), "forbidden"},
		{"http://shop.example/hc1", "Root", rootKey, manage, "forbidden"},
		{"http://shop.example/topics", "Root", rootKey, subscribe("**"), ""},
		{"http://shop.example/topics/", "Root", rootKey, publish("a"), ""},
		{"http://shop.example/topics/", "Root", rootKey, named(access.Subscription, "billing"), "forbidden"},
		{"http://shop.example/topics/", "Root", rootKey, named(access.Send, "hc1"), "forbidden"},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("a"), ""},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("a/**"), ""},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("ab"), "forbidden"},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("A"), "forbidden"},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("*"), "forbidden"},
		{"http://shop.example/topics/a", "Root", rootKey, subscribe("**"), "forbidden"},
		{"http://shop.example/topics/a", "Root", rootKey, publish("a/b/c"), ""},
		{"http://shop.example/", "sender", sendKey, publish("a"), ""},
		{"http://shop.example/", "sender", sendKey, subscribe("a"), "forbidden"},
		{"http://shop.example/", "sender", sendKey, named(access.Listen, "hc1"), "forbidden"},
		{"http://shop.example/", "sender", sendKey, named(access.Subscription, "billing"), "forbidden"},
		{"http://shop.example/", "hc1", hc1Key, named(access.Send, "hc1/a"), ""},
		{"http://shop.example/hc1/a", "hc1", hc1Key, named(access.Send, "hc1/a"), ""},
		{"http://shop.example/hc1/a", "hc1", hc1Key, named(access.Send, "hc1"), "forbidden"},
		{"http://shop.example/", "hc1", hc1Key, publish("a"), "forbidden"},
		{"http://shop.example/", "hc1", hc1Key, named(access.Send, "hc10"), "forbidden"},
		{"http://shop.example/hc10", "hc1", hc1Key, named(access.Send, "hc10"), "forbidden"},
		{"http://shop.example/hc", "hc1", hc1Key, named(access.Send, "hc"), "forbidden"},
		{"http://shop.example/hc", "hc1", hc1Key, named(access.Send, "hc1"), "forbidden"},
		{"http://shop.example/topics", "hc1", hc1Key, publish("hc1"), "forbidden"},
		{"http://shop.example/topics/hc1", "hc1", hc1Key, publish("hc1"), "forbidden"},
		// A token stands for itself, also where a visitor without one may do more.
		{"http://shop.example/topics/a", "Root", rootKey, publish("public/a"), "forbidden"},
		{"http://shop.example/", "Root", otherKey, publish("public/a"), "unauthorized"},
		{"http://other.example/", "Root", rootKey, publish("a"), "unauthorized"},
	}
	for _, tt := range tests {
		_, err := p.Authorize("shop", request(sas(tt.resource, tt.key, tt.secret)), tt.ask)
		check(t, fmt.Sprintf("%s by %s: %+v", tt.resource, tt.key, tt.ask), err, tt.want)
	}
	_, err := p.Authorize("open", request(sas("http://127.0.0.1:8443/hc1", "Root", rootKey)), named(access.Send, "hc1"))
	check(t, "any host with Dev", err, "")
	_, err = p.Authorize("open", request(sas("http://127.0.0.1:8443/hc1", "Root", otherKey)), named(access.Send, "hc1"))
	check(t, "a bad token with Dev", err, "unauthorized")
}

func TestGrantOfSignature(t *testing.T) {
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	token := schemas.SignSAS("http://shop.example/", "root", rootKey, expires)
	g, err := policy(t, config()).Authorize("shop", request(token))
	if err != nil {
		t.Fatal(err)
	}
	if g.Subject != "key Root" || !g.Expires.Equal(expires) || g.Source != access.Authorization || g.Namespace() != "shop" {
		t.Errorf("grant is %q until %v from %v in %q, want key Root until %v from %v in shop",
			g.Subject, g.Expires, g.Source, g.Namespace(), expires, access.Authorization)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, g); got != "key Root" {
			t.Errorf("grant prints with %s as %q, want its subject alone", verb, got)
		}
	}
}

func TestCredentialPlaces(t *testing.T) {
	p := policy(t, config())
	good := sas("http://shop.example/", "Root", rootKey)
	other := sas("http://shop.example/", "sender", sendKey)
	protocol := func(token string) string {
		return "cloudevents.json, outrelay.bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
	}
	tests := []struct {
		name, query string
		header      http.Header
		source      access.Source
		want        string
	}{
		{"header", "", http.Header{"Authorization": {good}}, access.Authorization, ""},
		{"scheme without case", "", http.Header{"Authorization": {"sharedaccesssignature" + good[21:]}}, access.Authorization, ""},
		{"service bus header", "", http.Header{"Servicebusauthorization": {good}}, access.ServiceBusHeader, ""},
		{"access_token", "access_token=" + url.QueryEscape(good), nil, access.AccessToken, ""},
		{"sb-hc-token", "a=b&SB-HC-Token=" + url.QueryEscape(good), nil, access.ServiceBusQuery, ""},
		{"after a part that can't be decoded", "%zz&a;b&access%5Ftoken=" + url.QueryEscape(good), nil, access.AccessToken, ""},
		{"subprotocol", "", http.Header{"Sec-Websocket-Protocol": {protocol(good)}}, access.Subprotocol, ""},
		{"same in two places", "access_token=" + url.QueryEscape(good), http.Header{"Authorization": {good}}, access.Authorization, ""},
		{"two in two places", "access_token=" + url.QueryEscape(other), http.Header{"Authorization": {good}}, 0, "parameter"},
		{"two headers", "", http.Header{"Authorization": {good, other}}, 0, "parameter"},
		{"two subprotocols", "", http.Header{"Sec-Websocket-Protocol": {protocol(good), protocol(other)}}, 0, "parameter"},
		{"two in the query", "access_token=" + url.QueryEscape(good) + "&sb-hc-token=x", nil, 0, "parameter"},
		{"one of two can't be read", "access_token=%zz", http.Header{"Authorization": {good}}, 0, "parameter"},
		{"basic", "", http.Header{"Authorization": {"Basic YTpi"}}, 0, "unauthorized"},
		{"empty header", "", http.Header{"Authorization": {""}}, 0, "unauthorized"},
		{"empty bearer", "", http.Header{"Authorization": {"Bearer "}}, 0, "unauthorized"},
		{"empty in the query", "access_token=", nil, 0, "unauthorized"},
		{"bad escape", "access_token=%zz", nil, 0, "unauthorized"},
		{"padded subprotocol", "", http.Header{"Sec-Websocket-Protocol": {"outrelay.bearer.YQ=="}}, 0, "unauthorized"},
		{"empty subprotocol", "", http.Header{"Sec-Websocket-Protocol": {"outrelay.bearer."}}, 0, "unauthorized"},
		{"bearer with a signature's scheme left out", "", http.Header{"Authorization": {"Bearer " + good[22:]}}, 0, "unauthorized"},
		{"too long", "", http.Header{"Authorization": {good + "&" + strings.Repeat("x", access.MaxToken)}}, 0, "unauthorized"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "https://shop.example/topics/public/a", nil)
			r.URL.RawQuery = tt.query
			if tt.header != nil {
				r.Header = tt.header
			}
			// Visitors may do this: a bad token is refused all the same.
			g, err := p.Authorize("shop", r, publish("public/a"))
			check(t, "Authorize", err, tt.want)
			if err == nil && g.Source != tt.source {
				t.Errorf("Source = %v, want %v", g.Source, tt.source)
			}
		})
	}
}

func TestConfigFaults(t *testing.T) {
	_, err := access.New(access.Config{Namespaces: map[string]access.Namespace{
		"a b": {},
		"x": {
			Hosts: []string{"https://x.example", "a..b"},
			Keys: []access.Key{
				{Primary: "short", Rights: []string{"Send"}},
				{Name: "a", Primary: rootKey + "\n", Path: "a b", Rights: []string{"send"}},
				{Name: "A", Primary: rootKey, Secondary: "short", Rights: nil},
				{Name: "m", Primary: rootKey, Rights: []string{"manage"}, Path: "topics/a"},
				{Name: "M", Primary: rootKey, Rights: []string{"send"}, Path: "topics/a"},
			},
			Anonymous: access.Anonymous{Publish: []string{"ok", "a//b"}, Subscribe: []string{"**/a"}, Listen: []string{""}, Send: []string{"a b"}},
			Origins:   []string{"*", "https://x.example/"},
		},
	}})
	var paths []string
	for _, line := range strings.Split(err.Error(), "\n") {
		path, text, _ := strings.Cut(line, ": ")
		paths = append(paths, path)
		if text == "" {
			t.Errorf("fault %q has no text", line)
		}
		if strings.Contains(line, "short") || strings.Contains(line, rootKey) {
			t.Errorf("fault %q shows a key", line)
		}
	}
	want := []string{
		"namespaces.a b",
		"namespaces.x.hosts[0]", "namespaces.x.hosts[1]",
		"namespaces.x.keys[0].name", "namespaces.x.keys[0].primaryfile", "namespaces.x.keys[0].rights[0]",
		"namespaces.x.keys[1].primaryfile", "namespaces.x.keys[1].path",
		"namespaces.x.keys[2].secondaryfile", "namespaces.x.keys[2].rights",
		"namespaces.x.keys[3].rights",
		"namespaces.x.keys[4].name",
		"namespaces.x.anonymous.publish[1]", "namespaces.x.anonymous.subscribe[0]", "namespaces.x.anonymous.listen[0]", "namespaces.x.anonymous.send[0]",
		"namespaces.x.origins[0]", "namespaces.x.origins[1]",
	}
	if got := strings.Join(paths, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("faults at\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	var fault *access.Fault
	if !errors.As(err, &fault) || fault.Path != "namespaces.a b" {
		t.Errorf("errors.As found %v, want the first fault", fault)
	}
}

package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func authorize(t *testing.T, p *access.Policy, token string, asks ...access.Ask) *access.Grant {
	t.Helper()
	g, err := p.Authorize("shop", request(token), asks...)
	if err != nil {
		t.Fatalf("Authorize: %v", err)
	}
	return g
}

// change reloads the test's config with its namespace shop changed.
func change(t *testing.T, p *access.Policy, f func(*access.Namespace)) {
	t.Helper()
	c := config()
	ns := c.Namespaces["shop"]
	f(&ns)
	c.Namespaces["shop"] = ns
	if err := p.Reload(c); err != nil {
		t.Fatalf("Reload: %v", err)
	}
}

func TestReloadKeepsTheOldOnError(t *testing.T) {
	p := policy(t, config())
	changed := p.Changed()
	bad := config()
	bad.Namespaces["shop"] = access.Namespace{Origins: []string{"*"}}
	if err := p.Reload(bad); err == nil {
		t.Fatal("Reload of a bad config = nil, want its faults")
	}
	if isClosed(changed) {
		t.Error("a config that was refused counts as a change")
	}
	authorize(t, p, sas("http://shop.example/", "Root", rootKey), publish("a"))
}

func TestRecheckAfterReload(t *testing.T) {
	ask := publish("orders/eu")
	root := sas("http://shop.example/", "Root", rootKey)
	for _, tt := range []struct {
		name, token string
		change      func(*access.Namespace)
		want        string
	}{
		{"nothing", root, func(*access.Namespace) {}, ""},
		{"key removed", root, func(n *access.Namespace) { n.Keys = n.Keys[1:] }, "unauthorized"},
		{"key replaced, the old one now secondary", root, func(n *access.Namespace) { n.Keys[0].Primary, n.Keys[0].Secondary = secondKey, rootKey }, ""},
		{"key replaced", root, func(n *access.Namespace) { n.Keys[0].Primary, n.Keys[0].Secondary = otherKey, secondKey }, "unauthorized"},
		{"right to send removed", root, func(n *access.Namespace) { n.Keys[0].Rights = []string{"listen"} }, "forbidden"},
		{"path added", root, func(n *access.Namespace) { n.Keys[0].Rights = []string{"send"}; n.Keys[0].Path = "topics/orders" }, "unauthorized"},
		{"host removed", root, func(n *access.Namespace) { n.Hosts = []string{"shop.test"} }, "unauthorized"},
		{"anonymous right", "", func(n *access.Namespace) { n.Anonymous.Publish = []string{"orders/**"} }, ""},
		{"anonymous right removed", "", func(n *access.Namespace) { n.Anonymous = access.Anonymous{} }, "unauthorized"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := policy(t, config())
			if tt.token == "" { // a visitor needs the right to begin with
				change(t, p, func(n *access.Namespace) { n.Anonymous.Publish = []string{"orders/*"} })
			}
			g := authorize(t, p, tt.token, ask)
			changed := p.Changed()
			if isClosed(changed) {
				t.Fatal("Changed is closed before anything changed")
			}
			change(t, p, tt.change)
			if !isClosed(changed) {
				t.Error("Changed is open after a reload")
			}
			check(t, "Recheck", p.Recheck(g, ask), tt.want)
			check(t, "the grant itself, which is immutable", g.Allows(ask), "")
			now, err := p.Refresh(g)
			if err == nil {
				check(t, "the refreshed grant", now.Allows(ask), tt.want)
				if now.Subject != g.Subject || now.Source != g.Source || !now.Expires.Equal(g.Expires) {
					t.Errorf("Refresh made %v of %v, want the same principal", now, g)
				}
			}
		})
	}
	t.Run("namespace removed", func(t *testing.T) {
		p := policy(t, config())
		g := authorize(t, p, root, ask)
		if err := p.Reload(access.Config{}); err != nil {
			t.Fatal(err)
		}
		check(t, "Recheck", p.Recheck(g, ask), "unauthorized")
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t, config())
		token := schemas.SignSAS("http://shop.example/", "Root", rootKey, time.Now().Add(time.Minute))
		g := authorize(t, p, token, publish("a"))
		time.Sleep(time.Minute - time.Millisecond)
		check(t, "just before", g.Allows(publish("a")), "")
		check(t, "Recheck just before", p.Recheck(g, publish("a")), "")
		time.Sleep(time.Millisecond)
		check(t, "at the end", g.Allows(publish("a")), "unauthorized")
		check(t, "Recheck at the end", p.Recheck(g), "unauthorized")
		_, err := p.Authorize("shop", request(token), publish("a"))
		check(t, "Authorize at the end", err, "unauthorized")
		_, err = p.Renew("shop", g, sas("http://shop.example/", "Root", rootKey))
		check(t, "Renew at the end", err, "unauthorized")
	})
}

func TestRenew(t *testing.T) {
	hs := func(change map[string]any) string {
		return compact(header("HS256"), claims(issuerSecret, change), func(text string) []byte { return hs256([]byte(hsSecret), text) })
	}
	c := config()
	ns := c.Namespaces["shop"]
	ns.JWT = []access.Issuer{
		{Issuer: issuerSecret, Secret: hsSecret, Audience: "the-shop"},
		{Issuer: "another", Secret: hsSecret, Audience: "the-shop"},
	}
	c.Namespaces["shop"] = ns
	p := policy(t, c)
	root := sas("http://shop.example/", "Root", rootKey)
	later := schemas.SignSAS("http://shop.example/topics/a", "root", secondKey, time.Now().Add(2*time.Hour))
	for _, tt := range []struct {
		name, old, token, namespace, want string
	}{
		{"same key", root, root, "shop", ""},
		{"same key, secondary and narrower", root, later, "shop", ""},
		{"another key", root, sas("http://shop.example/", "sender", sendKey), "shop", "forbidden"},
		{"bad signature", root, sas("http://shop.example/", "Root", otherKey), "shop", "unauthorized"},
		{"a JWT after a signature", root, hs(nil), "shop", "forbidden"},
		{"a signature after a JWT", hs(nil), root, "shop", "forbidden"},
		{"same subject", hs(nil), hs(map[string]any{"exp": time.Now().Unix() + 7200, "outrelay": raw(`{"publish":["a"]}`)}), "shop", ""},
		{"another subject", hs(nil), hs(map[string]any{"sub": "bob"}), "shop", "forbidden"},
		{"no subject", hs(nil), hs(map[string]any{"sub": nil}), "shop", "forbidden"},
		{"same subject of another issuer", hs(nil), hs(map[string]any{"iss": "another"}), "shop", "forbidden"},
		{"expired", hs(nil), hs(map[string]any{"exp": time.Now().Unix() - 1}), "shop", "unauthorized"},
		{"empty", hs(nil), "", "shop", "unauthorized"},
		{"nonsense", hs(nil), "abc", "shop", "unauthorized"},
		{"too long", hs(nil), strings.Repeat("x", access.MaxToken+1), "shop", "unauthorized"},
		{"of another namespace", root, sas("http://other.example/", "Root", otherKey), "other", "forbidden"},
		{"of a visitor", "", root, "shop", "forbidden"},
	} {
		old := authorize(t, p, tt.old)
		g, err := p.Renew(tt.namespace, old, tt.token)
		check(t, tt.name, err, tt.want)
		if err == nil && g.Expires.Before(old.Expires) {
			t.Errorf("%s: the new grant ends %v, want not before %v", tt.name, g.Expires, old.Expires)
		}
	}
	g, err := p.Renew("shop", authorize(t, p, root), later)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "what the new token covers", g.Allows(publish("a/b")), "")
	check(t, "what it no longer covers", g.Allows(publish("b")), "forbidden")
	// A key may be replaced under a connection, which then renews with the new one.
	old := authorize(t, p, root)
	if err := p.Reload(config()); err != nil {
		t.Fatal(err)
	}
	change(t, p, func(n *access.Namespace) { n.Keys[0].Primary = otherKey })
	_, err = p.Renew("shop", old, sas("http://shop.example/", "Root", otherKey))
	check(t, "the new key of the same name", err, "")
}

func TestCheckAndInspect(t *testing.T) {
	c := config()
	ns := c.Namespaces["shop"]
	ns.JWT = []access.Issuer{{Issuer: issuerSecret, Secret: hsSecret, Audience: "the-shop"}}
	c.Namespaces["shop"] = ns
	p := policy(t, c)
	token := compact(header("HS256"), claims(issuerSecret, nil), func(text string) []byte { return hs256([]byte(hsSecret), text) })
	g, err := p.Check(context.Background(), "shop", token)
	if err != nil {
		t.Fatal(err)
	}
	want := "{[orders/**] [orders/**] [billing] [printer] [printer/*] true}"
	if got := fmt.Sprint(g.Rights()); got != want {
		t.Errorf("Rights() = %s, want %s", got, want)
	}
	i, err := access.Inspect(token + "\n")
	if err != nil || i.Kind != "jwt" || i.Algorithm != "HS256" || i.KeyID != "HS256" || i.Issuer != issuerSecret || i.Subject != "alice" || !i.Expires.Equal(g.Expires) || !i.Rights.Manage {
		t.Errorf("Inspect(JWT) = %+v, %v", i, err)
	}
	i, err = access.Inspect(sas("https://shop.example/topics/a", "Root", "another key"))
	if err != nil || i.Kind != "sas" || i.Key != "Root" || i.Resource != "https://shop.example/topics/a" {
		t.Errorf("Inspect(signature) = %+v, %v", i, err)
	}
	for _, bad := range []string{"", "x", "a.b.c", "SharedAccessSignature sr=x", strings.Repeat("x", access.MaxToken+1)} {
		_, err := access.Inspect(bad)
		check(t, "Inspect", err, "unauthorized")
	}
}

func TestIssuerFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		issuer access.Issuer
		want   string // path of the one fault; "" is none
	}{
		{"secret", access.Issuer{Issuer: "a", Secret: hsSecret, Audience: "x"}, ""},
		{"keys", access.Issuer{Issuer: "a", JWKS: "https://id.example/keys?x=1", Audience: "x", Algorithms: []string{"RS256", "EdDSA"}}, ""},
		{"keys on loopback", access.Issuer{Issuer: "a", JWKS: "http://127.0.0.1:1/keys", Audience: "x"}, ""},
		{"OpenID Connect", access.Issuer{Issuer: "https://id.example/realm", Audience: "x"}, ""},
		{"no issuer", access.Issuer{JWKS: "https://id.example/keys", Audience: "x"}, "issuer"},
		{"no audience", access.Issuer{Issuer: "a", Secret: hsSecret}, "audience"},
		{"short secret", access.Issuer{Issuer: "a", Secret: "thirty-one-bytes-are-not-enough", Audience: "x"}, "secretfile"},
		{"secret with a line end", access.Issuer{Issuer: "a", Secret: hsSecret + "\n", Audience: "x"}, "secretfile"},
		{"secret and keys", access.Issuer{Issuer: "a", Secret: hsSecret, JWKS: "https://id.example/keys", Audience: "x"}, "secretfile"},
		{"neither, and no address", access.Issuer{Issuer: "a", Audience: "x"}, "issuer"},
		{"plain issuer", access.Issuer{Issuer: "http://id.example", Audience: "x"}, "issuer"},
		{"plain keys", access.Issuer{Issuer: "a", JWKS: "http://id.example/keys", Audience: "x"}, "jwks"},
		{"plain keys, almost on loopback", access.Issuer{Issuer: "a", JWKS: "http://localhost.example/keys", Audience: "x"}, "jwks"},
		{"keys in a file", access.Issuer{Issuer: "a", JWKS: "file:///keys", Audience: "x"}, "jwks"},
		{"keys with a user", access.Issuer{Issuer: "a", JWKS: "https://user:pass@id.example/keys", Audience: "x"}, "jwks"},
		{"algorithm none", access.Issuer{Issuer: "a", JWKS: "https://id.example/keys", Audience: "x", Algorithms: []string{"none"}}, "algorithms[0]"},
		{"HS256 with keys", access.Issuer{Issuer: "a", JWKS: "https://id.example/keys", Audience: "x", Algorithms: []string{"ES256", "HS256"}}, "algorithms[1]"},
		{"RS256 with a secret", access.Issuer{Issuer: "a", Secret: hsSecret, Audience: "x", Algorithms: []string{"RS256"}}, "algorithms[0]"},
	} {
		_, err := access.New(access.Config{Namespaces: map[string]access.Namespace{"n": {JWT: []access.Issuer{tt.issuer}}}})
		var fault *access.Fault
		errors.As(err, &fault)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && fault == nil:
			t.Errorf("%s: New = %v, want a fault at %q", tt.name, err, tt.want)
		case tt.want != "" && (fault.Path != "namespaces.n.jwt[0]."+tt.want || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: New = %v, want one fault at jwt[0].%s", tt.name, err, tt.want)
		}
	}
	twice := []access.Issuer{{Issuer: "a", Secret: hsSecret, Audience: "x"}, {Issuer: "a", Secret: hsSecret, Audience: "y"}}
	if _, err := access.New(access.Config{Namespaces: map[string]access.Namespace{"n": {JWT: twice}}}); err == nil {
		t.Error("New with one issuer twice = nil, want a fault")
	}
}

// A secret that slips into a log line or an error of somebody else's stays unread.
func TestSecretsDoNotPrint(t *testing.T) {
	c := config()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(verb, c); strings.Contains(got, rootKey) || strings.Contains(got, fmt.Sprintf("%x", rootKey)) {
			t.Errorf("the config prints with %s as %s, want no key in it", verb, got)
		}
	}
}

// Authorize, Recheck and Reload meet from many goroutines; the race detector looks on.
func TestConcurrentUse(t *testing.T) {
	p := policy(t, config())
	start(t, p)
	token := sas("http://shop.example/", "Root", rootKey)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				g, err := p.Authorize("shop", request(token), publish("a"))
				check(t, "Authorize", err, "")
				check(t, "Recheck", p.Recheck(g, publish("a")), "")
				p.OriginAllowed("shop", "https://app.example")
			}
		})
	}
	for range 50 {
		if err := p.Reload(config()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func FuzzSignature(f *testing.F) {
	for _, r := range recorded {
		f.Add(r.token)
	}
	for _, token := range badSignatures() {
		f.Add(token)
	}
	p := policy(f, config())
	f.Fuzz(func(t *testing.T, token string) { oneAnswer(t, p, token) })
}

func FuzzWebToken(f *testing.F) {
	out := map[string]string{}
	forger := &webTokenForger{alg: "HS256", iss: issuerSecret, canary: "https://canary.example", out: out}
	forger.headers()
	forger.claimsOf()
	forger.signatures()
	for _, token := range out {
		f.Add(token)
	}
	p := secretPolicy(f)
	f.Fuzz(func(t *testing.T, token string) { oneAnswer(t, p, token) })
}

// FuzzSignedWebToken signs whatever it is given: the header and claims are not in
// the hands of strangers then, but of an issuer that errs.
func FuzzSignedWebToken(f *testing.F) {
	now := time.Now().Unix()
	good := claims(issuerSecret, map[string]any{"exp": 4095487740})
	for _, h := range []string{header("HS256"), `{"alg":"HS256","crit":[]}`, `{"alg":"none"}`, "", "[]"} {
		f.Add(h, good)
	}
	for _, c := range []string{
		claims(issuerSecret, map[string]any{"exp": now - 1}), claims(issuerSecret, map[string]any{"exp": raw("1e300")}), claims(issuerSecret, map[string]any{"nbf": now + 60}),
		claims(issuerSecret, map[string]any{"aud": []any{"the-shop", 1}}), claims("x", nil), strings.Replace(good, "{", `{"exp":1,`, 1), "{}", "",
	} {
		f.Add(header("HS256"), c)
	}
	p := secretPolicy(f)
	f.Fuzz(func(t *testing.T, header, claims string) {
		g := oneAnswer(t, p, compact(header, claims, func(text string) []byte { return hs256([]byte(hsSecret), text) }))
		if g == nil {
			return
		}
		// Another reader has to find the same good claims.
		var h, c map[string]any
		if err := errors.Join(json.Unmarshal([]byte(header), &h), json.Unmarshal([]byte(claims), &c)); err != nil {
			t.Fatalf("taken, though encoding/json says %v: %q %q", err, header, claims)
		}
		audience, ok := c["aud"].([]any)
		if !ok {
			audience = []any{c["aud"]}
		}
		now := float64(time.Now().Unix())
		exp, _ := c["exp"].(float64)
		nbf, _ := c["nbf"].(float64)
		if h["alg"] != "HS256" || c["iss"] != issuerSecret || !slices.Contains(audience, any("the-shop")) || exp < now || nbf > now+6 {
			t.Errorf("taken: %q %q", header, claims)
		}
	})
}

func secretPolicy(f *testing.F) *access.Policy {
	return policy(f, access.Config{Namespaces: map[string]access.Namespace{
		"shop": {JWT: []access.Issuer{{Issuer: issuerSecret, Secret: hsSecret, Audience: "the-shop"}}},
	}})
}

// oneAnswer checks a token, fails unless the answer is a problem or a grant that
// agrees with [access.Inspect], and returns the grant.
func oneAnswer(t *testing.T, p *access.Policy, token string) *access.Grant {
	g, err := p.Check(context.Background(), "shop", token)
	if err != nil {
		if _, ok := err.(*schemas.Problem); !ok {
			t.Errorf("Check(%q) = %v, want a problem", token, err)
		}
		return nil
	}
	if strings.ContainsFunc(g.Subject, func(r rune) bool { return r < ' ' || '~' < r }) || len(g.Subject) > 400 {
		t.Errorf("Check(%q): subject %q, want at most 400 printable characters", token, g.Subject)
	}
	i, err := access.Inspect(token)
	if err != nil || !i.Expires.Equal(g.Expires) {
		t.Errorf("Inspect(%q) = %+v, %v of a token that is taken until %v", token, i, err, g.Expires)
	}
	return g
}

package access_test

import (
	"context"
	"fmt"
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
	p, err := access.New(config())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		g, err := p.Check(context.Background(), "shop", token)
		if err != nil {
			if _, ok := err.(*schemas.Problem); !ok {
				t.Errorf("Check(%q) = %v, want a problem", token, err)
			}
			return
		}
		i, err := access.Inspect(token)
		if err != nil || i.Kind != "sas" || !i.Expires.Equal(g.Expires) {
			t.Errorf("Inspect(%q) = %+v, %v of a token that is taken", token, i, err)
		}
	})
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
	f.Add(compact(header("HS256"), claims(issuerSecret, map[string]any{"exp": 4095487740}), func(text string) []byte { return hs256([]byte(hsSecret), text) }))
	p, err := access.New(access.Config{Namespaces: map[string]access.Namespace{
		"shop": {JWT: []access.Issuer{{Issuer: issuerSecret, Secret: hsSecret, Audience: "the-shop"}}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		g, err := p.Check(context.Background(), "shop", token)
		if err != nil {
			if _, ok := err.(*schemas.Problem); !ok {
				t.Errorf("Check(%q) = %v, want a problem", token, err)
			}
			return
		}
		i, err := access.Inspect(token)
		if err != nil || i.Kind != "jwt" || i.Issuer != issuerSecret || !i.Expires.Equal(g.Expires) {
			t.Errorf("Inspect(%q) = %+v, %v of a token that is taken", token, i, err)
		}
	})
}

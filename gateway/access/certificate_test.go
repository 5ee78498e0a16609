package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
)

// An authority makes certificates for clients.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	return makeCertificate(t, nil, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

func makeCertificate(t *testing.T, by *authority, c *x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{parsed, key}
}

// issue makes a client's certificate with these URIs.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate), uris ...string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, parsed)
	}
	if change != nil {
		change(c)
	}
	return makeCertificate(t, a, c).certificate
}

func shown(certificates ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://shop.example/topics/orders", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certificates}
	return r
}

func TestClientCertificates(t *testing.T) {
	ours, strangers := newAuthority(t), newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ours.certificate)
	config := func(pool *x509.CertPool) access.Config {
		return access.Config{Namespaces: map[string]access.Namespace{
			"shop": {ClientCertificates: access.ClientCertificates{Authorities: pool, Rights: []access.CertificateRights{
				{URI: "spiffe://example/shop", Rights: access.Rights{Publish: []string{"orders"}}},
				{URI: "spiffe://example/till", Rights: access.Rights{Subscribe: []string{"orders"}, Listen: []string{"till"}}},
			}}},
			"other": {Anonymous: access.Anonymous{Publish: []string{"orders"}}},
		}}
	}
	p := policy(t, config(pool))
	orders := access.Ask{Action: access.Publish, Topics: "orders"}
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	}
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	good := ours.issue(t, nil, "https://elsewhere/", "spiffe://example/shop")
	for _, tt := range []struct {
		name      string
		namespace string
		request   *http.Request
		want      string
	}{
		{"good", "shop", shown(good), ""},
		{"again", "shop", shown(good), ""},
		{"another's rights", "shop", shown(ours.issue(t, nil, "spiffe://example/till")), "forbidden"},
		{"no URI", "shop", shown(ours.issue(t, nil)), "unauthorized"},
		{"unknown URI", "shop", shown(ours.issue(t, nil, "spiffe://example/shop/")), "unauthorized"},
		{"URI in another case", "shop", shown(ours.issue(t, nil, "spiffe://example/Shop")), "unauthorized"},
		{"of a stranger", "shop", shown(strangers.issue(t, nil, "spiffe://example/shop")), "unauthorized"},
		{"of a stranger, who shows our authority too", "shop", shown(strangers.issue(t, nil, "spiffe://example/shop"), ours.certificate), "unauthorized"},
		{"expired", "shop", shown(ours.issue(t, past, "spiffe://example/shop")), "unauthorized"},
		{"of a server", "shop", shown(ours.issue(t, server, "spiffe://example/shop")), "unauthorized"},
		{"none", "shop", shown(), "unauthorized"},
		{"where none is taken, as if there were none", "other", shown(good), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := p.Authorize(tt.namespace, tt.request, orders)
			check(t, "Authorize", err, tt.want)
			_, err = p.AuthorizeRelayed(tt.namespace, tt.request, orders)
			check(t, "AuthorizeRelayed", err, tt.want)
		})
	}

	t.Run("a token stands for itself", func(t *testing.T) {
		r := shown(good)
		r.Header.Set("Authorization", "Bearer nothing")
		_, err := p.Authorize("shop", r, orders)
		check(t, "Authorize", err, "unauthorized")
	})
	t.Run("a grant ends with its authority", func(t *testing.T) {
		g, err := p.Authorize("shop", shown(good), orders)
		check(t, "Authorize", err, "")
		if !g.Expires.Equal(good.NotAfter) || g.Source != access.Certificate {
			t.Errorf("the grant ends at %v, from %v; want %v", g.Expires, g.Source, good.NotAfter)
		}
		check(t, "Recheck", p.Recheck(g, orders), "")
		if err := p.Reload(config(x509.NewCertPool())); err != nil {
			t.Fatal(err)
		}
		check(t, "Recheck without the authority", p.Recheck(g, orders), "unauthorized")
	})
}

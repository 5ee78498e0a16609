package check_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// patience is how long a test waits for what should come at once.
const patience = 60 * time.Second

const (
	allKey    = "the key of everything"
	ordersKey = "the key of the orders"
	secret    = "the secret of the issuer, which is long enough"
)

// A world is a real gateway with TLS, and names that lead to it.
type world struct {
	t        *testing.T
	ours     *authority // signs the gateway's certificate
	theirs   *authority // signs for whom nobody trusts
	gateway  *gateway.Gateway
	resolver *net.Resolver
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ours: newAuthority(t, "The Gateway's Authority"), theirs: newAuthority(t, "Corporate Inspection CA")}
	w.resolver = newResolver(t)
	policy, err := access.New(access.Config{Namespaces: map[string]access.Namespace{"default": {
		Hosts: []string{"relay.example.com"},
		Keys: []access.Key{
			{Name: "all", Primary: allKey, Rights: []string{"send", "listen"}},
			{Name: "orders", Primary: ordersKey, Rights: []string{"send"}, Path: "topics/orders"},
		},
		JWT: []access.Issuer{{Issuer: "https://issuer.example", Secret: secret, Audience: "relay"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.New(broker.Config{Dir: t.TempDir(), Log: broker.LogConfig{Flush: "1m"}, Namespaces: map[string]broker.NamespaceConfig{"default": {}}})
	if err != nil {
		t.Fatal(err)
	}
	joins, err := relay.New(relay.Config{Broker: b, Access: policy, Rules: map[string][]relay.Rule{"default": {{Name: "printer"}}}})
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]string{}
	for _, name := range []string{"relay", "expired", "early", "unknown", "other", "public"} {
		hosts[name+".example.com"] = "default"
	}
	good := w.ours.issue("*.example.com", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	certificates := map[string]*tls.Certificate{
		"expired.example.com": w.ours.issue("expired.example.com", time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)),
		"early.example.com":   w.ours.issue("early.example.com", time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)),
		"public.example.com":  w.theirs.issue("public.example.com", time.Now().Add(-90*24*time.Hour), time.Now().Add(24*time.Hour), logged),
		"unknown.example.com": w.theirs.issue("unknown.example.com", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
		"other.example.com":   w.ours.issue("another.example.com", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
	}
	w.gateway, err = gateway.New(gateway.Config{
		Broker: b, Access: policy, Relay: joins, Hosts: hosts, HTTPS: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		TLS: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := certificates[hello.ServerName]; c != nil {
				return c, nil
			}
			return good, nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	brokerCtx, stopBroker := context.WithCancel(context.Background())
	gatewayCtx, stopGateway := context.WithCancel(context.Background())
	var broken, ended sync.WaitGroup
	broken.Go(func() {
		if err := b.Run(brokerCtx); err != nil {
			t.Errorf("broker.Run() = %v", err)
		}
	})
	select {
	case <-b.Ready():
	case <-time.After(patience):
		t.Fatal("the broker is not ready")
	}
	if err := w.gateway.Listen(); err != nil {
		t.Fatal(err)
	}
	ended.Go(func() {
		if err := w.gateway.Run(gatewayCtx); err != nil {
			t.Errorf("gateway.Run() = %v", err)
		}
	})
	t.Cleanup(func() {
		stopGateway()
		ended.Wait()
		stopBroker()
		broken.Wait()
	})
	return w
}

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-100 * time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// logged is the extension of a certificate that is in public logs (RFC 6962 section 3.3).
var logged = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: []byte{4, 0}}

func (a *authority) issue(host string, from, until time.Time, more ...pkix.Extension) *tls.Certificate {
	key := newKey(a.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: from, NotAfter: until, ExtraExtensions: more}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pool(authorities ...*authority) *x509.CertPool {
	p := x509.NewCertPool()
	for _, a := range authorities {
		p.AddCert(a.cert)
	}
	return p
}

// newResolver asks a DNS server on loopback, for which every name is 127.0.0.1 but
// missing.example.com, which is none.
func newResolver(t *testing.T) *net.Resolver {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			if n > 16 {
				_, _ = server.WriteTo(resolved(b[:n]), from)
			}
		}
	})
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// resolved answers a DNS query (RFC 1035 section 4).
func resolved(query []byte) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // the root, type and class
	b := append([]byte(nil), query[:min(end, len(query))]...)
	b[2], b[3] = 0x81, 0x80 // an answer, with recursion
	for i := 6; i < 12; i++ {
		b[i] = 0
	}
	switch {
	case strings.Contains(string(b[12:]), "missing"):
		b[3] |= 3 // there is no such name
	case binary.BigEndian.Uint16(b[len(b)-4:]) == 1: // A
		b[7] = 1
		b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
	}
	return b
}

// dial is how programs connect that use the resolver.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Resolver: w.resolver}).DialContext(ctx, network, address)
}

// middlebox serves HTTPS with a certificate, and returns its port.
func (w *world) middlebox(certificate *tls.Certificate, h http.Handler) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*certificate}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.serve(l, h)
}

func (w *world) serve(l net.Listener, h http.Handler) string {
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	w.t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return port(l.Addr())
}

func port(a net.Addr) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

// good is a certificate of the gateway's authority for a name of example.com.
func (w *world) good() *tls.Certificate {
	return w.ours.issue("relay.example.com", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
}

// reverse passes requests on to the gateway; change, if not nil, changes the request,
// and answer the answer.
func (w *world) reverse(change func(*http.Request), answer func(*http.Response) error) http.Handler {
	target := &url.URL{Scheme: "http", Host: w.gateway.HTTPAddr().String()}
	transport := &http.Transport{}
	w.t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: answer, Transport: transport,
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if change != nil {
			change(r)
		}
		proxy.ServeHTTP(rw, r)
	})
}

// connectProxy is a company's proxy, which opens connections by CONNECT for who knows
// the password, if there is one, and if allow says so. Others it answers with the schemes.
// It returns its port.
func (w *world) connectProxy(password string, allow func(host string) int, schemes ...string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var passing sync.WaitGroup
	w.t.Cleanup(passing.Wait)
	return w.serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, given, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		if given != password {
			rw.Header()["Proxy-Authenticate"] = schemes
			rw.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if status := allow(r.Host); status != http.StatusOK {
			rw.WriteHeader(status)
			return
		}
		far, err := w.dial(r.Context(), "tcp", r.Host)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, in, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			w.t.Error(err)
			return
		}
		defer near.Close()
		passing.Add(1)
		defer passing.Done()
		_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
		var up sync.WaitGroup
		up.Go(func() {
			defer far.Close()
			_, _ = io.Copy(far, in.Reader)
		})
		_, _ = io.Copy(near, far)
		near.Close()
		up.Wait()
	}))
}

// each serves TCP connections by f, and returns the port.
func (w *world) each(f func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				f(conn)
			})
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return port(l.Addr())
}

package subscriber_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// A middleman is an HTTP proxy that wants a password. It opens connections by CONNECT
// and refuses everything else, as the strictest do.
type middleman struct {
	*httptest.Server
	opened atomic.Int32
}

func newMiddleman(t *testing.T, secure bool) *middleman {
	m := &middleman{}
	var passing sync.WaitGroup
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		switch {
		case user != "ann" || password != "s3:cret":
			w.Header().Set("Proxy-Authenticate", `Basic realm="company"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		case r.Method != http.MethodConnect && r.Header.Get("Upgrade") != "":
			w.WriteHeader(http.StatusForbidden)
			return
		case r.Method != http.MethodConnect: // a plain request, which the proxy makes itself
			r.RequestURI = ""
			r.Header.Del("Proxy-Authorization")
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
			return
		}
		server, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer server.Close()
		m.opened.Add(1)
		client, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		passing.Add(1)
		defer passing.Done()
		var up sync.WaitGroup
		up.Go(func() {
			defer server.Close()
			_, _ = io.Copy(server, rw.Reader)
		})
		_, _ = io.Copy(client, server)
		client.Close()
		up.Wait()
	}))
	if secure {
		m.StartTLS()
	} else {
		m.Start()
	}
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
		passing.Wait()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return m
}

// address is the proxy's with a user's name and password.
func (m *middleman) address(t *testing.T, user *url.Userinfo) *url.URL {
	u, err := url.Parse(m.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = user
	return u
}

// secured passes TLS connections on to a gateway that has none, and returns its
// address and who to trust.
func secured(t *testing.T, gateway string) (string, *x509.CertPool) {
	own := httptest.NewUnstartedServer(nil) // for its certificate alone
	own.StartTLS()
	own.Close()
	pool := x509.NewCertPool()
	pool.AddCert(own.Certificate())
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: own.TLS.Certificates, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", gateway)
				if err != nil {
					return
				}
				defer server.Close()
				var up sync.WaitGroup
				up.Go(func() {
					defer server.Close()
					_, _ = io.Copy(server, client)
				})
				_, _ = io.Copy(client, server)
				client.Close()
				up.Wait()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		tasks.Wait()
	})
	return "https://" + l.Addr().String(), pool
}

// Everything of a client goes through a proxy that wants a password, whether the
// gateway or the proxy or both are reached over TLS.
func TestProxy(t *testing.T) {
	for _, secureGateway := range []bool{false, true} {
		for _, secureProxy := range []bool{false, true} {
			t.Run(fmt.Sprintf("gateway TLS %v, proxy TLS %v", secureGateway, secureProxy), func(t *testing.T) {
				w := newWorld(t)
				m := newMiddleman(t, secureProxy)
				pool := x509.NewCertPool()
				gateway := "http://" + w.proxy.listener.Addr().String()
				if secureGateway {
					gateway, pool = secured(t, w.proxy.listener.Addr().String())
				}
				if secureProxy {
					pool.AddCert(m.Certificate())
				}
				client := func(user *url.Userinfo) *subscriber.Client {
					c, err := subscriber.New(subscriber.Config{
						Gateway: gateway, TLS: &tls.Config{RootCAs: pool},
						Proxy: http.ProxyURL(m.address(t, user)), PublishRetry: -1,
					})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					return c
				}
				viaProxy(t, client(url.UserPassword("ann", "s3:cret")))
				if m.opened.Load() < 3 {
					t.Errorf("the proxy opened %d connections, want one for each WebSocket", m.opened.Load())
				}
				for name, user := range map[string]*url.Userinfo{"none": nil, "wrong": url.UserPassword("ann", "guess")} {
					c := client(user)
					_, published := c.PublishJSON(t.Context(), "a/b", numbered(1, 1)...)
					_, listened := c.ListenWith(t.Context(), "n", subscriber.ListenOptions{FailFast: true})
					_, subscribed := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{FailFast: true})
					for what, err := range map[string]error{"publish": published, "listen": listened, "subscribe": subscribed} {
						var status *subscriber.StatusError
						if !errors.As(err, &status) || status.Status != http.StatusProxyAuthRequired {
							t.Errorf("%s with password %s gave %v, want the proxy's 407", what, name, err)
						}
					}
				}
			})
		}
	}
}

func viaProxy(t *testing.T, c *subscriber.Client) {
	t.Helper()
	s, err := c.Subscribe(t.Context(), "a/b", subscriber.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := c.PublishJSON(t.Context(), "a/b", numbered(1, 1)...); err != nil {
		t.Fatal(err)
	}
	if got := take(t, s, 1); got[0] != "1" {
		t.Errorf("got event %q", got[0])
	}
	l, err := c.Listen(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var echoing sync.WaitGroup
	echoing.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	})
	defer echoing.Wait()
	conn, err := c.Dial(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	write(t, conn, "hello\n")
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != "hello\n" {
		t.Errorf("got %q, %v", got, err)
	}
	closeWrite(t, conn)
}

// Connect takes the way of a WebSocket: through the proxy, or directly, and no longer than
// its context.
func TestConnect(t *testing.T) {
	w := newWorld(t)
	gateway := w.proxy.listener.Addr().String()
	for _, secure := range []bool{false, true} {
		m := newMiddleman(t, secure)
		pool := x509.NewCertPool()
		if secure {
			pool.AddCert(m.Certificate())
		}
		config := subscriber.Config{Gateway: "http://" + gateway, TLS: &tls.Config{RootCAs: pool}}
		config.Proxy = http.ProxyURL(m.address(t, url.UserPassword("ann", "s3:cret")))
		if proxy, err := config.ProxyFor(gateway); err != nil || proxy.Host != m.Listener.Addr().String() {
			t.Errorf("ProxyFor() = %v, %v; want the proxy", proxy, err)
		}
		healthy(t, config, gateway)
		if m.opened.Load() != 1 {
			t.Errorf("the proxy opened %d connections, want 1", m.opened.Load())
		}
		config.Proxy = http.ProxyURL(m.address(t, nil))
		var status *subscriber.StatusError
		if _, err := config.Connect(t.Context(), gateway); !errors.As(err, &status) || status.Status != http.StatusProxyAuthRequired {
			t.Errorf("Connect() without a password = %v, want the proxy's 407", err)
		}
	}
	config := subscriber.Config{Gateway: "http://" + gateway, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	healthy(t, config, gateway)

	// A proxy that takes connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	config.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: silent.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := config.Connect(ctx, gateway); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect() by a silent proxy = %v, want the deadline", err)
	}
	config.Proxy = http.ProxyURL(&url.URL{Scheme: "socks5", Host: silent.Addr().String()})
	if _, err := config.Connect(t.Context(), gateway); err == nil || !strings.Contains(err.Error(), `"socks5"`) {
		t.Errorf("Connect() by a SOCKS proxy = %v, want a refusal", err)
	}
}

// healthy asks a gateway over a connection of Connect whether it serves.
func healthy(t *testing.T, config subscriber.Config, address string) {
	t.Helper()
	conn, err := config.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	write(t, conn, "GET /healthz HTTP/1.0\r\n\r\n")
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(got, " 200 ") {
		t.Errorf("got %q, %v", got, err)
	}
}

package subscriber

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// throughProxies makes a transport's WebSockets pass proxies by CONNECT also where the
// gateway is not reached over TLS: net/http would ask the proxy to make the request
// itself, and most drop an upgrade then (RFC 6455 section 4.1 wants CONNECT).
func (c Config) throughProxies(t *http.Transport) {
	t.OnProxyConnectResponse = refusedByProxy
	if u, err := url.Parse(c.Gateway); err != nil || u.Scheme != "http" {
		return
	}
	dial := t.DialContext
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		proxy, err := c.ProxyFor(address)
		if err != nil {
			return nil, err
		}
		if proxy == nil || proxy.Scheme != "http" && proxy.Scheme != "https" {
			return dial(ctx, network, address)
		}
		return c.connectThrough(ctx, dial, proxy, address)
	}
}

// ProxyFor is the proxy through which a WebSocket goes to an address of the gateway's,
// "host:port"; nil for none.
func (c Config) ProxyFor(address string) (*url.URL, error) {
	c = c.withDefaults()
	scheme := "https"
	if u, err := url.Parse(c.Gateway); err == nil && u.Scheme == "http" {
		scheme = "http"
	}
	return c.Proxy(&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: scheme, Host: address}, Host: address, Header: http.Header{}})
}

// Connect opens a TCP connection to an address, "host:port", in the way that a WebSocket
// to the gateway takes: through the proxy of [Config.ProxyFor] by CONNECT, or directly.
// It is for programs that want to look at that way; the caller closes the connection.
// ctx is for the opening alone.
//
// Errors: a [StatusError] of what the proxy answered that opens no connection; ctx's
// error; whatever the network said.
func (c Config) Connect(ctx context.Context, address string) (net.Conn, error) {
	c = c.withDefaults()
	proxy, err := c.ProxyFor(address)
	switch {
	case err != nil:
		return nil, err
	case proxy == nil:
		return c.DialContext(ctx, "tcp", address)
	case proxy.Scheme != "http" && proxy.Scheme != "https":
		return nil, fmt.Errorf("proxy: the scheme %q has no CONNECT; give an address with http or https", proxy.Scheme)
	}
	return c.connectThrough(ctx, c.DialContext, proxy, address)
}

// connectThrough opens a connection through a proxy.
func (c Config) connectThrough(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), proxy *url.URL, address string) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	opened, err := c.ask(ctx, conn, proxy, address)
	if !stop() { // which has closed it, whatever that made of the rest
		err = fmt.Errorf("proxy: %w", ctx.Err())
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return opened, nil
}

// ask asks a proxy for a connection.
func (c Config) ask(ctx context.Context, conn net.Conn, proxy *url.URL, address string) (net.Conn, error) {
	if proxy.Scheme == "https" {
		secure := c.tls()
		secure.NextProtos = nil
		if secure.ServerName == "" {
			secure.ServerName = proxy.Hostname()
		}
		over := tls.Client(conn, secure)
		if err := over.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		conn = over
	}
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	r.Header.Set("User-Agent", userAgent)
	if err := r.Write(conn); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	// One byte at a time: what is behind the answer's head is the gateway's.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), r)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", unexpected(err))
	}
	if err := refusedByProxy(ctx, proxy, r, resp); err != nil {
		return nil, err
	}
	return conn, nil
}

// A oneByte reads no more than a byte at a time.
type oneByte struct{ io.Reader }

func (r oneByte) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(1, len(b))]) }

// refusedByProxy is what a proxy says that opens no connection.
func refusedByProxy(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusProxyAuthRequired:
		why := "wants a user name and password; put them into its address in HTTPS_PROXY, as http://NAME:PASSWORD@" + proxy.Host
		if proxy.User != nil {
			why = "does not take the user name and password in its address"
		}
		if others := otherSchemes(resp.Header); others != "" {
			why = "wants to know who asks by " + others + ", and this client knows Basic authentication alone"
		}
		return &StatusError{Status: resp.StatusCode, Text: "the proxy " + proxy.Host + " " + why}
	}
	return &StatusError{Status: resp.StatusCode, Text: "the proxy " + proxy.Host + " opens no connection to the gateway"}
}

// otherSchemes are those by which a proxy wants to be convinced, unless Basic is one
// (RFC 9110 section 11.7.1).
func otherSchemes(h http.Header) string {
	var names []string
	for _, value := range h.Values("Proxy-Authenticate") {
		for challenge := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
			switch {
			case strings.EqualFold(name, "Basic"):
				return ""
			case token(name) && len(name) < 40 && !slices.Contains(names, name): // else a parameter
				names = append(names, name)
			}
		}
	}
	return strings.Join(names[:min(len(names), 4)], ", ")
}

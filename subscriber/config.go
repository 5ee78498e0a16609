package subscriber

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultPublishRetry is [Config.PublishRetry] where it is zero. It lies well
// within the 2 minutes for which a gateway knows an event again.
const DefaultPublishRetry = time.Minute

// Config says where the gateway is and how to reach it. Only Gateway is needed.
type Config struct {
	// Gateway is the gateway's address, such as "https://events.example.com". A
	// path, if it has one, comes before those of the protocol.
	Gateway string
	// TLS is used for https; nil trusts what the system trusts. It is cloned.
	TLS *tls.Config
	// Token returns the token of the next request or connection: a JWT, or a
	// whole shared access signature ("SharedAccessSignature sr=..."). It is called
	// for each, from any goroutine, so what is slow it should keep; an error counts
	// as a failed attempt. Nil sends none.
	Token func(context.Context) (string, error)
	// Proxy names the proxy of a request; nil takes HTTPS_PROXY, HTTP_PROXY and
	// NO_PROXY of the environment. [http.ProxyURL] makes one of an address. The user
	// name and password in a proxy's address are sent to it as Basic authentication.
	// A proxy that is reached over TLS itself is trusted as the gateway is, by TLS.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext opens the connections beneath TLS, to the gateway or its proxy.
	// Nil takes a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// PublishRetry is how long a publish is tried again after a refusal that may
	// pass (429, 503) or a lost connection: 0 is [DefaultPublishRetry], negative
	// never. On a stored topic a second try can't double an event, because the
	// gateway knows it again by source and id for at least 2 minutes, unless its
	// configuration says less. On a topic that is not stored, a connection lost
	// after the gateway took the event delivers it twice: there, choose negative
	// for at most once.
	PublishRetry time.Duration
	// Logger gets reconnects and faults, never a token or an event. Nil is silent.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Proxy == nil {
		c.Proxy = http.ProxyFromEnvironment
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	if c.PublishRetry == 0 {
		c.PublishRetry = DefaultPublishRetry
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// base checks the address and returns it without a slash at its end.
func (c Config) base() (string, error) {
	if c.Gateway == "" {
		return "", errors.New("subscriber: Config.Gateway is empty; give the gateway's address, such as https://events.example.com")
	}
	u, err := url.Parse(c.Gateway)
	switch {
	case err != nil:
		return "", errors.New("subscriber: Config.Gateway is no address; give one such as https://events.example.com")
	case u.User != nil: // and not one word more: it may be a password
		return "", errors.New("subscriber: Config.Gateway holds a user name; use Config.Token")
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("subscriber: Config.Gateway has the scheme %q; use https (or http)", u.Scheme)
	case u.Host == "":
		return "", errors.New("subscriber: Config.Gateway has no host name")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("subscriber: Config.Gateway has a query or a fragment; give the address alone")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// publishTransport is for requests: connections are kept and shared, HTTP/2 where
// the gateway has it.
func (c Config) publishTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  c.Proxy,
		DialContext:            c.DialContext,
		TLSClientConfig:        c.tls(),
		ForceAttemptHTTP2:      true,
		OnProxyConnectResponse: refusedByProxy,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  answerTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingEvery, PingTimeout: handshakeTimeout},
	}
}

// pollTransport is for requests that may wait up to a minute for their answer.
func (c Config) pollTransport() *http.Transport {
	t := c.publishTransport()
	t.ResponseHeaderTimeout += longestPoll
	return t
}

// longestPoll is how long a receive may wait (protocol section 6).
const longestPoll = time.Minute

// socketTransport is for WebSockets, which want HTTP/1.1 and a connection each.
func (c Config) socketTransport() *http.Transport {
	dial, secure := c.DialContext, c.tls()
	secure.NextProtos = []string{"http/1.1"}
	t := &http.Transport{
		Proxy: c.Proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &heardConn{Conn: conn}, nil
		},
		TLSClientConfig:       secure,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: answerTimeout,
		DisableKeepAlives:     true,
	}
	c.throughProxies(t)
	return t
}

// linkTransport is for the WebSockets of the relay, whose deadlines are their user's,
// and whose handshake waits for the other side.
func (c Config) linkTransport() *http.Transport {
	t := c.socketTransport()
	t.DialContext, t.ResponseHeaderTimeout = c.DialContext, relayTimeout
	c.throughProxies(t)
	return t
}

func (c Config) tls() *tls.Config {
	if c.TLS == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return c.TLS.Clone()
}

package subscriber

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// ErrClosed is the error of a stream or client that its program closed.
var ErrClosed = errors.New("subscriber: closed")

// A Client is made by [New]. It may be used from any goroutine.
type Client struct {
	// Fixed by New.
	config  Config
	base    string // the gateway's address without a slash at its end
	backoff backoff
	publish *http.Client
	polls   *http.Client // requests whose answer may wait for an event
	sockets *http.Client
	links   *http.Client // of the relay

	spent spentToken

	tasks sync.WaitGroup // the goroutine of every stream and socket

	mu     sync.Mutex
	closed bool
	ends   map[int]context.CancelFunc // of what is open
	next   int
}

// New checks the configuration and makes a client. It opens no connection.
func New(config Config) (*Client, error) {
	base, err := config.base()
	if err != nil {
		return nil, err
	}
	config = config.withDefaults()
	// A redirect could carry a token to somebody else, and the gateway sends none.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		config:  config,
		base:    base,
		backoff: backoff{base: backoffBase, cap: backoffCap},
		publish: &http.Client{Transport: config.publishTransport(), CheckRedirect: stay},
		polls:   &http.Client{Transport: config.pollTransport(), CheckRedirect: stay},
		sockets: &http.Client{Transport: &refusals{config.socketTransport()}, CheckRedirect: stay},
		links:   &http.Client{Transport: &refusals{config.linkTransport()}, CheckRedirect: stay},
		ends:    map[int]context.CancelFunc{},
	}, nil
}

// Dial makes a client and asks whether anybody is there, so that a wrong address, a
// certificate that is not trusted and a network that is down are known at once.
// Whatever is answered will do: what the client may do it learns when it does it.
func Dial(ctx context.Context, config Config) (*Client, error) {
	c, err := New(config)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/healthz", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", userAgent)
	resp, err := c.publish.Do(r)
	if err != nil {
		c.publish.CloseIdleConnections()
		return nil, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem)) // so that the connection stays
	resp.Body.Close()
	return c, nil
}

// Close ends every stream and socket of the client and waits for them. A publish
// that is under way is not cut; its context ends it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, end := range c.ends {
		end()
	}
	c.mu.Unlock()
	c.tasks.Wait()
	c.publish.CloseIdleConnections()
	c.polls.CloseIdleConnections()
	c.sockets.CloseIdleConnections()
	c.links.CloseIdleConnections()
	return nil
}

// open registers something with a goroutine of its own. The context ends with
// parent, with the client, and with done, which must be called once.
func (c *Client) open(parent context.Context) (ctx context.Context, done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(parent)
	c.next++
	n := c.next
	c.ends[n] = cancel
	c.tasks.Add(1)
	return ctx, func() {
		cancel()
		c.mu.Lock()
		delete(c.ends, n)
		c.mu.Unlock()
		c.tasks.Done()
	}, nil
}

// authorize puts a token into the header, if there is one to be had.
func (c *Client) authorize(ctx context.Context, h http.Header) error {
	token, err := c.token(ctx)
	if err == nil {
		bear(h, token)
	}
	return err
}

// bear puts a token into the header, unless it is empty.
func bear(h http.Header, token string) {
	if token == "" {
		return
	}
	if !strings.HasPrefix(token, "SharedAccessSignature ") {
		token = "Bearer " + token
	}
	h.Set("Authorization", token)
}

// token asks the program for a token; empty if there is none to be had.
func (c *Client) token(ctx context.Context) (string, error) {
	if c.config.Token == nil {
		return "", nil
	}
	token, err := c.config.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("get a token: %w", err)
	}
	return token, nil
}

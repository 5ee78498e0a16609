package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// A Config says what to look at. Only Client.Gateway is needed.
type Config struct {
	// Client is what the commands would use: the gateway, whom to trust, the proxy and
	// the token.
	Client subscriber.Config
	// CA are the authorities that the operator named, without those of the system; nil
	// for none. Client.TLS has them, too.
	CA *x509.CertPool
	// ProxySource is where the proxy came from, such as "HTTPS_PROXY", and NoProxy says
	// why there is none.
	ProxySource, NoProxy string
	// Timeout is for each step that waits for somebody: 5 s.
	Timeout time.Duration
	// Measure is how long throughput is measured: 1 s.
	Measure time.Duration
	// Asks are rights that the token must give. Nil asks about what the token seems to be
	// for. Sending to a hybrid connection and managing can't be asked about: the question
	// would reach a listener, or do something.
	Asks []Right
	// Now is this machine's clock; nil is [time.Now].
	Now func() time.Time
	// Resolver is for the step "name"; nil is [net.DefaultResolver].
	Resolver *net.Resolver
}

// A run is one check under way. It belongs to one goroutine.
type run struct {
	Config
	ctx    context.Context
	report func(Result)
	first  *Result // that failed

	base   string // the gateway's address, without a slash at its end
	secure bool
	host   string
	port   int

	// What was found so far.
	proxy  *url.URL     // nil for none
	client *http.Client // goes through the proxy; nil until TLS is known to be good
	ports  []int        // that the gateway names, without port
	skew   time.Duration
	failed map[string]string // steps that failed, and those skipped for one: by which
}

// Run does all steps, and gives each result to report as soon as it is there. It returns
// the first that failed, or nil. The end of ctx ends it early.
//
// The error is ctx's, or that the configuration is wrong; then nothing was done.
func Run(ctx context.Context, config Config, report func(Result)) (*Result, error) {
	r, err := newRun(ctx, config, report)
	if err != nil {
		return nil, err
	}
	defer r.close()
	for _, step := range []func(){
		r.checkName, r.checkReach, r.checkTLS, r.checkGateway, r.checkPorts, r.checkWebSocket, r.checkRights,
	} {
		if ctx.Err() != nil {
			break // what the next one needs may not be there
		}
		step()
	}
	return r.first, ctx.Err()
}

func newRun(ctx context.Context, config Config, report func(Result)) (*run, error) {
	if _, err := subscriber.New(config.Client); err != nil { // which opens nothing
		return nil, err
	}
	u, err := url.Parse(config.Client.Gateway)
	if err != nil {
		return nil, err
	}
	config.Timeout = cmp.Or(config.Timeout, 5*time.Second)
	config.Measure = cmp.Or(config.Measure, time.Second)
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Resolver == nil {
		config.Resolver = net.DefaultResolver
	}
	r := &run{
		Config: config, ctx: ctx, report: report, failed: map[string]string{},
		base: trimSlash(u.String()), secure: u.Scheme == "https", host: u.Hostname(), port: 80,
	}
	if r.secure {
		r.port = 443
	}
	if p := u.Port(); p != "" {
		if r.port, err = strconv.Atoi(p); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *run) close() {
	if r.client != nil {
		r.client.CloseIdleConnections()
	}
}

// say reports a step's result.
func (r *run) say(result Result) {
	if r.ctx.Err() != nil {
		return // it says nothing about the way
	}
	result.Detail, result.Tell = clip(result.Detail), clip(result.Tell)
	if result.Status == Failed {
		r.failed[result.Step] = result.Step
		if r.first == nil {
			r.first = &result
		}
	}
	r.report(result)
}

// skip reports a step as skipped if one that it needs failed or was skipped itself.
func (r *run) skip(step string, needs ...string) bool {
	for _, n := range needs {
		if why := r.failed[n]; why != "" {
			r.failed[step] = why // so that what needs this one is skipped, too
			r.report(Result{Step: step, Status: Skipped, Detail: "not done, because the step " + why + " failed"})
			return true
		}
	}
	return false
}

// limited is a context for one step.
func (r *run) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, r.Timeout)
}

// address is the gateway's host name and a port.
func (r *run) address(port int) string { return net.JoinHostPort(r.host, strconv.Itoa(port)) }

// tls is what the gateway's certificate is checked with.
func (r *run) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.Client.TLS != nil {
		c = r.Client.TLS.Clone()
	}
	c.Time = r.Now
	c.NextProtos = []string{"http/1.1"}
	c.ServerName = cmp.Or(c.ServerName, r.host)
	return c
}

// transport goes the way of the client's WebSockets. Plain requests go through CONNECT,
// too: what a proxy makes of a request that it reads says nothing about a WebSocket.
func (r *run) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return r.Client.Connect(ctx, address)
		},
		TLSClientConfig:       r.tls(),
		TLSHandshakeTimeout:   r.Timeout,
		ResponseHeaderTimeout: r.Timeout,
	}
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

package check_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/check"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/token"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

var update = flag.Bool("update", false, "write testdata/causes.golden anew")

// A situation is a way to a gateway with something in it.
type situation struct {
	name   string
	change func(*check.Config)
	// fails is the first step that fails, "" for none, and cause where that lies.
	fails string
	cause check.Cause
}

// Whatever stands in the way, the check names it, at the step where it stands, and says
// of the rest what it can. testdata/causes.golden is what people see.
func TestCauses(t *testing.T) {
	w := newWorld(t)
	secure := port(w.gateway.HTTPSAddr())
	address := func(host, port string) func(*check.Config) {
		return func(c *check.Config) { c.Client.Gateway = "https://" + host + ".example.com:" + port }
	}
	also := func(changes ...func(*check.Config)) func(*check.Config) {
		return func(c *check.Config) {
			for _, change := range changes {
				change(c)
			}
		}
	}
	bearing := func(token string) func(*check.Config) {
		return func(c *check.Config) {
			c.Client.Token = func(context.Context) (string, error) { return token, nil }
		}
	}
	through := func(user *url.Userinfo, port string) func(*check.Config) {
		return func(c *check.Config) {
			c.Client.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + port, User: user})
			c.ProxySource = "HTTPS_PROXY"
		}
	}
	asking := func(asks ...string) func(*check.Config) {
		return func(c *check.Config) {
			for _, ask := range asks {
				action, object, _ := strings.Cut(ask, " ")
				c.Asks = append(c.Asks, check.Right{Action: action, Object: object})
			}
		}
	}
	clock := func(off time.Duration) func(*check.Config) {
		return func(c *check.Config) { c.Now = func() time.Time { return time.Now().Add(off) } }
	}
	trusting := func(c *check.Config) { c.Client.TLS = &tls.Config{RootCAs: pool(w.ours, w.theirs)} }
	impatient := func(c *check.Config) { c.Timeout = 2 * time.Second }
	open := func(string) int { return http.StatusOK }
	answers := func(status int) func(string) int { return func(string) int { return status } }
	strips := func(r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
	}
	const nobody = "1" // a port that no machine has in use
	reverse := w.middlebox(w.good(), w.reverse(strips, nil))
	late := w.middlebox(w.good(), w.reverse(nil, func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
		return nil
	}))
	inspecting := w.middlebox(w.theirs.issue("relay.example.com", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)), w.reverse(nil, nil))
	portal := w.middlebox(w.good(), http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(rw, "<h1>Please accept our terms</h1>")
	}))
	waiting := w.middlebox(w.good(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	forbids := w.middlebox(w.good(), refuseUpgrades(w.reverse(nil, nil)))
	holding := w.middlebox(w.good(), holdFrames(t, w.reverse(nil, nil)))
	cutting := w.each(func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	silent := w.each(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })

	situations := []situation{
		{"a good gateway", also(), "", 0},
		{"a good gateway, and no token", bearing(""), "", 0},
		{"a name that is none", address("missing", secure), check.StepName, check.Network},
		{"a name that the gateway does not serve", address("stranger", secure), check.StepGateway, check.Network},
		{"a closed port", address("relay", nobody), check.StepTCP, check.Network},
		{"a port that speaks no TLS", address("relay", port(w.gateway.HTTPAddr())), check.StepTLS, check.Network},
		{"a firewall that cuts TLS", address("relay", cutting), check.StepTLS, check.Network},
		{"a firewall that holds TLS back", also(address("relay", silent), impatient), check.StepTLS, check.Network},
		{"an expired certificate", address("expired", secure), check.StepTLS, check.Network},
		{"an authority that nobody knows", address("unknown", secure), check.StepTLS, check.Network},
		{"an authority that nobody knows, and none of ours", also(address("unknown", secure), func(c *check.Config) { c.CA = nil }), check.StepTLS, check.Network},
		{"a certificate that does not hold yet", address("early", secure), check.StepTLS, check.Network},
		{"a public authority, and a certificate that is about to expire", also(address("public", secure), trusting, bearing("")), "", 0},
		{"a public authority, and no --ca", also(address("public", secure), trusting, func(c *check.Config) { c.CA = nil }, bearing("")), "", 0},
		{"a certificate for another name", address("other", secure), check.StepTLS, check.Network},
		{"a middlebox whose authority this machine trusts", also(address("relay", inspecting), trusting), "", 0},
		{"a middlebox that holds requests back", also(address("relay", waiting), impatient), check.StepGateway, check.Network},
		{"a portal that answers for everybody", address("relay", portal), check.StepGateway, check.Network},
		{"a proxy that strips Upgrade", address("relay", reverse), check.StepWebSocket, check.Network},
		{"a proxy that strips Upgrade, and no token", also(address("relay", reverse), bearing("")), check.StepWebSocket, check.Network},
		{"a proxy that refuses WebSockets", address("relay", forbids), check.StepWebSocket, check.Network},
		{"a proxy that holds back what a WebSocket carries", also(address("relay", holding), impatient), check.StepWebSocket, check.Network},
		{"a proxy that is used", through(nil, w.connectProxy("", open)), "", 0},
		{"a proxy with a password that is known", through(url.UserPassword("ann", "s3cret"), w.connectProxy("s3cret", open)), "", 0},
		{"a proxy that knows a name that we don't", also(address("missing", secure), through(nil, w.connectProxy("", answers(http.StatusBadGateway)))), check.StepTCP, check.Network},
		{"a proxy that wants a password", through(nil, w.connectProxy("s3cret", open)), check.StepProxy, check.Access},
		{"a proxy that wants NTLM", through(nil, w.connectProxy("s3cret", open, `Negotiate`, `NTLM realm="a, b", Digest nonce="x"`)), check.StepProxy, check.Access},
		{"a proxy that wants NTLM or a password", through(nil, w.connectProxy("s3cret", open, `NTLM`, `basic realm="company"`)), check.StepProxy, check.Access},
		{"a proxy that wants another password", through(url.UserPassword("ann", "guess"), w.connectProxy("s3cret", open)), check.StepProxy, check.Access},
		{"a proxy that forbids the gateway", through(nil, w.connectProxy("", answers(http.StatusForbidden))), check.StepProxy, check.Network},
		{"a proxy that is not there", through(nil, nobody), check.StepProxy, check.Network},
		{"a proxy that does not answer", also(through(nil, silent), impatient), check.StepProxy, check.Network},
		{"a proxy that is none", through(nil, cutting), check.StepProxy, check.Network},
		{"a clock 10 minutes ahead", clock(10 * time.Minute), check.StepClock, check.Access},
		{"a clock 10 minutes behind", clock(-10 * time.Minute), check.StepClock, check.Access},
		{"a gateway whose clock is 10 minutes behind", address("relay", late), check.StepClock, check.Access},
		{"a clock 10 s ahead", clock(10 * time.Second), "", 0},
		{"a clock so late that the certificate has expired", clock(200 * time.Hour), check.StepTLS, check.Access},
		{"a token that is no token", bearing("eyJ"), check.StepRights, check.Access},
		{"a token that has expired", bearing(schemas.SignSAS("https://relay.example.com/", "all", allKey, time.Now().Add(-time.Hour))), check.StepRights, check.Access},
		{"a token for another host", bearing(schemas.SignSAS("https://elsewhere.example.com/", "all", allKey, time.Now().Add(time.Hour))), check.StepRights, check.Access},
		{"a token without rights", bearing(webToken(t, access.Rights{})), check.StepRights, check.Access},
		{"a token without rights, and a proxy that strips Upgrade", also(address("relay", reverse), bearing(webToken(t, access.Rights{}))), check.StepWebSocket, check.Network},
		{"a token with some rights", bearing(webToken(t, access.Rights{Publish: []string{"orders/**"}, Listen: []string{"printer"}})), "", 0},
		{"a token that gives what is asked for", also(bearing(webToken(t, access.Rights{Publish: []string{"orders/**"}, Subscribe: []string{"a/*"}, Subscriptions: []string{"billing"}, Listen: []string{"printer"}})), asking(
			"publish orders/eu", "subscribe a/*", "subscription billing", "listen printer")), "", 0},
		{"a token that gives less than is asked for", also(bearing(webToken(t, access.Rights{Publish: []string{"orders/**"}})), asking(
			"publish invoices", "subscribe orders/**", "subscription billing", "listen printer")), check.StepRights, check.Access},
		{"a token for a hybrid connection", bearing(schemas.SignSAS("https://relay.example.com/printer", "all", allKey, time.Now().Add(time.Hour))), "", 0},
		{"a token of a key with some rights", bearing(schemas.SignSAS("https://relay.example.com/topics/orders", "orders", ordersKey, time.Now().Add(time.Hour))), "", 0},
	}
	lines := make([]string, len(situations))
	t.Run("each", func(t *testing.T) {
		for i, s := range situations {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				lines[i] = w.judge(t, s)
			})
		}
	})
	got := strings.Join(lines, "\n")
	const golden = "testdata/causes.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; see the difference after: go test ./cmd/outrelay/internal/check -update\ngot:\n%s", golden, got)
	}
}

// judge runs a check, and returns its lines without what differs from run to run.
func (w *world) judge(t *testing.T, s situation) string {
	config := w.config()
	s.change(&config)
	var results []check.Result
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first, err := check.Run(ctx, config, func(r check.Result) { results = append(results, r) })
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case first == nil && s.fails != "":
		t.Errorf("nothing failed, want the step %s to", s.fails)
	case first != nil && (first.Step != s.fails || first.Cause != s.cause):
		t.Errorf("the step %s failed by cause %d, want %q by %d: %s", first.Step, first.Cause, s.fails, s.cause, first.Detail)
	}
	b := new(strings.Builder)
	fmt.Fprintf(b, "== %s\n", s.name)
	for _, r := range results {
		if r.Status == check.Failed && r.Tell == "" {
			t.Errorf("the step %s failed, and nobody is told what to do", r.Step)
		}
		line := r.String()
		for _, v := range varying {
			line = v.what.ReplaceAllString(line, v.by)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// config is for a good gateway and a good token.
func (w *world) config() check.Config {
	return check.Config{
		Client: subscriber.Config{
			Gateway: "https://relay.example.com:" + port(w.gateway.HTTPSAddr()),
			TLS:     &tls.Config{RootCAs: pool(w.ours)},
			Proxy:   func(*http.Request) (*url.URL, error) { return nil, nil },
			Token: func(context.Context) (string, error) {
				return schemas.SignSAS("https://relay.example.com/", "all", allKey, time.Now().Add(time.Hour)), nil
			},
			DialContext: w.dial,
		},
		CA: pool(w.ours), NoProxy: "no proxy is used", Resolver: w.resolver,
		Timeout: patience / 2, Measure: 50 * time.Millisecond,
	}
}

// The end of its context ends a check at any step, and nothing is blamed for it.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	steps := []string{
		check.StepName, check.StepProxy, check.StepTCP, check.StepTLS, check.StepGateway, check.StepClock,
		check.StepWebSocket, check.StepPing, check.StepThroughput, check.StepRights,
	}
	for i, last := range steps {
		t.Run(last, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			config := w.config()
			var seen []string
			first, err := check.Run(ctx, config, func(r check.Result) {
				if !slices.Contains(seen, r.Step) {
					seen = append(seen, r.Step)
				}
				if r.Step == last {
					cancel()
				}
			})
			if first != nil || !errors.Is(err, context.Canceled) || !slices.Equal(seen, steps[:i+1]) {
				t.Errorf("Run() = %+v, %v, after the steps %q", first, err, seen)
			}
		})
	}
}

// varying is what differs from run to run.
var varying = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`(127\.0\.0\.1|example\.com):[0-9]{4,5}\b`), "$1:PORT"},
	{regexp.MustCompile(`\b([pP]ort|ports) [0-9]{4,5}\b`), "$1 PORT"},
	{regexp.MustCompile(`takes [0-9.]+(µs|ms|s)`), "takes TIME"},
	{regexp.MustCompile(`[0-9.]+ (MB|kB|bytes) a second`), "SIZE a second"},
	{regexp.MustCompile(`[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} [0-9:]{8} UTC`), "DATE"},
	{regexp.MustCompile(`\d{4}-\d{2}-\d{2}( \d{2}:\d{2} UTC)?`), "DATE"},
	{regexp.MustCompile(`\b(9m5\ds|10m\ds)\b`), "10m0s"}, // Date has whole seconds, and a busy machine takes some
	{regexp.MustCompile(`\b([789]|1[0-3])s ahead`), "10s ahead"},
	{regexp.MustCompile(`\b(199h59m5\ds|200h0m\ds)\b`), "200h0m0s"},
}

func webToken(t *testing.T, rights access.Rights) string {
	t.Helper()
	key, err := token.ParseKey([]byte(secret), "")
	if err != nil {
		t.Fatal(err)
	}
	made, err := key.Sign(token.Claims{
		Issuer: "https://issuer.example", Audience: "relay", Subject: "ann", Expires: time.Now().Add(time.Hour), Rights: rights,
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// refuseUpgrades answers handshakes as a strict proxy does.
func refuseUpgrades(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(rw, "WebSockets are not allowed", http.StatusForbidden)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// holdFrames answers handshakes, and passes nothing of what follows.
func holdFrames(t *testing.T, next http.Handler) http.Handler {
	var held sync.WaitGroup
	t.Cleanup(held.Wait)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			next.ServeHTTP(rw, r)
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		conn, in, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		held.Add(1)
		defer held.Done()
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
			base64.StdEncoding.EncodeToString(sum[:]), schemas.SubprotocolSession)
		_, _ = bufio.NewReader(in).WriteTo(io.Discard)
	})
}

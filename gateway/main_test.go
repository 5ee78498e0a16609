package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ gateway.Broker = (*broker.Broker)(nil)

// A world is a gateway on a broker, both real, and a client.
type world struct {
	*gateway.Gateway
	broker *broker.Broker
	policy *access.Policy
	client *http.Client
	http   string // the base address
	https  string
	admin  string
	log    *logBuffer
	stop   func() // ends the gateway, once, and waits for it
}

// start runs a gateway that is open to all, as with --dev, on a namespace in which
// the topics under live/ are not stored. change, if not nil, alters the rest.
func start(t testing.TB, change func(*gateway.Config, *access.Config, *broker.Config)) *world {
	t.Helper()
	log := &logBuffer{}
	logger := newLogger(log)
	bc := broker.Config{
		Dir: t.TempDir(),
		Log: broker.LogConfig{Flush: "1m"},
		Namespaces: map[string]broker.NamespaceConfig{
			"default": {Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}}},
		},
	}
	ac := access.Config{Namespaces: map[string]access.Namespace{"default": {Dev: true}}}
	gc := gateway.Config{
		Dev: true, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", Admin: "127.0.0.1:0", Version: "test",
		TLS: certificate(t), Logger: logger,
	}
	if change != nil {
		change(&gc, &ac, &bc)
	}
	w := &world{log: log}
	var err error
	if w.broker, err = broker.New(bc); err != nil {
		t.Fatalf("broker.New() = %v", err)
	}
	if w.policy, err = access.New(ac); err != nil {
		t.Fatalf("access.New() = %v", err)
	}
	gc.Broker, gc.Access = w.broker, w.policy
	if w.Gateway, err = gateway.New(gc); err != nil {
		t.Fatalf("gateway.New() = %v", err)
	}
	if !strings.HasPrefix(t.Name(), "TestDrain") {
		w.HurryDrain()
	}
	brokerCtx, stopBroker := context.WithCancel(context.Background())
	gatewayCtx, stopGateway := context.WithCancel(context.Background())
	var brokerDone, gatewayDone sync.WaitGroup
	brokerDone.Go(func() {
		if err := w.broker.Run(brokerCtx); err != nil {
			t.Errorf("broker.Run() = %v", err)
		}
	})
	select {
	case <-w.broker.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the broker was not ready within 20 s")
	}
	if err := w.Listen(); err != nil {
		t.Fatalf("Listen() = %v", err)
	}
	gatewayDone.Go(func() {
		if err := w.Run(gatewayCtx); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	w.http, w.admin = "http://"+w.HTTPAddr().String(), "http://"+w.AdminAddr().String()
	w.https = "https://" + w.HTTPSAddr().String()
	pool := x509.NewCertPool()
	pool.AddCert(gc.TLS.Certificates[0].Leaf)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, ExpectContinueTimeout: 10 * time.Second,
	}
	w.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	w.stop = sync.OnceFunc(func() {
		stopGateway()
		gatewayDone.Wait()
	})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		w.stop()
		stopBroker()
		brokerDone.Wait()
		if t.Failed() && testing.Verbose() {
			t.Logf("the gateway's log:\n%s", log)
		}
	})
	return w
}

// certificate is one for 127.0.0.1 and localhost, signed by itself.
func certificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}}
}

// A logBuffer gathers log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLogger(l *logBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// A reply is an answer that has been read.
type reply struct {
	status int
	header http.Header
	body   string
	proto  string
}

// problem reads the reply's problem document; a reply that is none fails the test.
func (r reply) problem(t testing.TB) schemas.Problem {
	t.Helper()
	var p schemas.Problem
	if got := r.header.Get("Content-Type"); got != schemas.MediaTypeProblem {
		t.Fatalf("Content-Type = %q, want a problem; status %d, body %.200q", got, r.status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("problem %q: %v", r.body, err)
	}
	if p.Status() != r.status {
		t.Errorf("problem %s came with status %d, want %d", p.Name, r.status, p.Status())
	}
	if p.Detail == "" {
		t.Errorf("problem %s says nothing of what to do", p.Name)
	}
	return p
}

// do sends a request; headers are "Name: value".
func (w *world) do(t testing.TB, method, url, body string, headers ...string) reply {
	t.Helper()
	r, err := w.try(method, url, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return r
}

func (w *world) try(method, url, body string, headers ...string) (reply, error) {
	if !strings.Contains(url, "://") {
		url = w.http + url
	}
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return reply{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), resp.Proto}, err
}

const structured = "Content-Type: application/cloudevents+json"

// event is one in the JSON format.
func event(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"test.event","data":{"n":%q}}`, id, id)
}

// publish publishes events one by one, structured.
func (w *world) publish(t testing.TB, topic string, ids ...string) (cursor string) {
	t.Helper()
	for _, id := range ids {
		r := w.do(t, "POST", "/topics/"+topic, event(id), structured)
		if r.status != http.StatusOK && r.status != http.StatusAccepted {
			t.Fatalf("POST /topics/%s = %d %s", topic, r.status, r.body)
		}
		var answer struct{ Cursor string }
		if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
			t.Fatal(err)
		}
		cursor = answer.Cursor
	}
	return cursor
}

// eventually waits until check says true.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// again runs a second gateway on the same broker.
func (w *world) again(t testing.TB) *world {
	t.Helper()
	g, err := gateway.New(gateway.Config{Broker: w.broker, Access: w.policy, Dev: true, HTTP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return w.run(t, g)
}

// run serves a gateway on w's broker and policy.
func (w *world) run(t testing.TB, g *gateway.Gateway) *world {
	t.Helper()
	g.HurryDrain()
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
	next := &world{Gateway: g, broker: w.broker, policy: w.policy, client: w.client, http: "http://" + g.HTTPAddr().String()}
	next.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(next.stop)
	return next
}

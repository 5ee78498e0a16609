package demo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
)

// serve is a real gateway on a real broker, open to all on loopback.
func serve(ctx context.Context, data string, ready func(Gateway)) (err error) {
	certificate, ca, err := selfSigned(data)
	if err != nil {
		return err
	}
	b, err := broker.New(broker.Config{Dir: filepath.Join(data, "broker"), Log: broker.LogConfig{Flush: "1m"}})
	if err != nil {
		return err
	}
	policy, err := access.New(access.Config{Namespaces: map[string]access.Namespace{broker.DefaultNamespace: {Dev: true}}})
	if err != nil {
		return err
	}
	g, err := gateway.New(gateway.Config{
		Broker: b, Access: policy, Dev: true, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0", TLS: certificate,
	})
	if err != nil {
		return err
	}
	own, stop := context.WithCancel(context.WithoutCancel(ctx)) // the broker outlives the gateway
	ended := make(chan error, 1)
	go func() { ended <- b.Run(own) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	select {
	case <-b.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := g.Listen(); err != nil {
		return err
	}
	ready(Gateway{HTTP: "http://" + g.HTTPAddr().String(), HTTPS: "https://" + g.HTTPSAddr().String(), CA: ca})
	return g.Run(ctx)
}

func selfSigned(folder string) (config *tls.Config, ca string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, "", err
	}
	ca = filepath.Join(folder, "ca.pem")
	err = os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, ca, err
}

// lines is an output that a test reads as it grows.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

const summaryLine = `{"published":1707,"subscribers":{"quakes/**":1707,"quakes/ak":297,"explosions":15},"lost":0,"outoforder":0}`

// Every event of the week reaches each subscriber that asked for it, once and in
// order, through a real gateway; and the demo leaves nothing behind.
func TestOnce(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out, errs lines
	cmd := NewCommand(serve)
	cmd.SetArgs([]string{"--once"})
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("demo --once: %v", err)
	}
	if got := out.all(); len(got) != 1 || got[0] != summaryLine {
		t.Errorf("demo --once prints\n%s\nwant\n%s", strings.Join(got, "\n"), summaryLine)
	}
	if got := errs.all(); len(got) != 1 || got[0] != "" {
		t.Errorf("demo --once says %q on standard error, which is no terminal", got)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("demo --once leaves %v in the temporary folder (%v)", left, err)
	}
}

// Without --once the page is up from the beginning, and the demo goes on after the
// summary until it is stopped.
func TestStaysUntilStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out lines
	cmd := NewCommand(serve)
	cmd.SetArgs([]string{"--speed", "1000000"}) // the week in less than a second
	cmd.SetOut(&out)
	cmd.SetErr(new(lines))
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	for deadline := time.Now().Add(time.Minute); len(out.all()) < 2; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("the demo ended with %v after printing %q", err, out.all())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute the demo has printed %q", out.all())
		}
	}
	got := out.all()
	var where struct{ Page, HTTP, HTTPS, CA string }
	if err := json.Unmarshal([]byte(got[0]), &where); err != nil {
		t.Fatalf("the first line is %s: %v", got[0], err)
	}
	if got[1] != summaryLine {
		t.Errorf("the second line is\n%s\nwant\n%s", got[1], summaryLine)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, address := range []string{where.Page, where.HTTP + "/healthz"} {
		answer, err := client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("after the summary %s is answered %s", address, answer.Status)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the demo, stopped after the week, ends with %v", err)
	}
}

// A demo that is stopped before its gateway serves is none that failed.
func TestStoppedAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := run(ctx, func(ctx context.Context, _ string, _ func(Gateway)) error {
		cancel()
		<-ctx.Done()
		return nil
	}, options{speed: 1, out: new(lines), errs: new(lines)})
	if err != nil {
		t.Errorf("a demo that was stopped before its gateway served ends with %v", err)
	}
}

// A demo that is stopped early is none that failed; one that was to compare is.
func TestStoppedEarly(t *testing.T) {
	for _, once := range []bool{false, true} {
		t.Run(fmt.Sprint("once=", once), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var out lines
			o := options{once: once, speed: 1, out: &out, errs: new(lines)} // it takes a week: any moment is early
			err := run(ctx, func(ctx context.Context, data string, ready func(Gateway)) error {
				return serve(ctx, data, func(g Gateway) {
					ready(g)
					time.AfterFunc(100*time.Millisecond, cancel)
				})
			}, o)
			if failed := err != nil; failed != once {
				t.Errorf("a demo that was stopped early ends with %v", err)
			}
			if strings.Contains(strings.Join(out.all(), "\n"), "published") {
				t.Errorf("a demo that was stopped early prints a summary: %q", out.all())
			}
		})
	}
}

// What goes wrong with the gateway is what the demo says.
func TestGatewayFails(t *testing.T) {
	fault := errors.New("no such port")
	o := options{once: true, out: new(lines), errs: new(lines)}
	err := run(t.Context(), func(context.Context, string, func(Gateway)) error { return fault }, o)
	if !errors.Is(err, fault) {
		t.Errorf("with a gateway that can't start the demo ends with %v", err)
	}
	o.speed = 1
	err = run(t.Context(), func(ctx context.Context, data string, ready func(Gateway)) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return errors.Join(serve(ctx, data, func(g Gateway) { ready(g); time.AfterFunc(100*time.Millisecond, cancel) }), fault)
	}, o)
	if !errors.Is(err, fault) {
		t.Errorf("with a gateway that ends in the middle the demo ends with %v", err)
	}
}

func TestSpeedIsChecked(t *testing.T) {
	for _, speed := range []string{"0", "-1", "NaN", "inf", "fast", ""} {
		cmd := NewCommand(nil)
		cmd.SetArgs([]string{"--speed=" + speed})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "above 0") {
			t.Errorf("--speed=%s: %v, want an error that says what to give", speed, err)
		}
	}
}

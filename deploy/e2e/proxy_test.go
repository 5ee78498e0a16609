package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// selfSigned makes a certificate for a host name or an IP address, and its key, in PEM.
func selfSigned(t *testing.T, host string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// freePort is a port of loopback that nobody has just now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// background runs a server until the test is over, and waits until its port takes
// connections.
func background(t *testing.T, port, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	errs := new(buffer)
	cmd.Stdout, cmd.Stderr = errs, errs
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", name, err, errs)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not take connections:\n%s", name, errs)
		}
	}
}

// Behind the shipped configuration of nginx and of haproxy everything goes on as it
// comes: publishes of any size, streams, server-sent events, escaped names.
func TestBehindProxies(t *testing.T) {
	t.Run("nginx", func(t *testing.T) {
		dir, port := etc(t), freePort(t)
		g := startConfig(t, shipped(t, "config/behind-proxy.yaml", "/etc/outrelay", dir))
		config := file(t, dir, "nginx.conf", shipped(t, "proxy/nginx.conf", "/etc/outrelay", dir,
			"listen 443", "listen 127.0.0.1:"+port, "127.0.0.1:8080", hostport(t, g.HTTP)))
		output(t, ".", "", "nginx", "-q", "-t", "-e", "stderr", "-c", config)
		background(t, port, "nginx", "-e", "stderr", "-c", config, "-g", "daemon off; pid "+dir+"/nginx.pid;")
		behindProxy(t, dir, port)
	})
	t.Run("haproxy", func(t *testing.T) {
		dir, port := etc(t), freePort(t)
		g := startConfig(t, shipped(t, "config/behind-proxy.yaml", "/etc/outrelay", dir))
		config := file(t, dir, "haproxy.cfg", shipped(t, "proxy/haproxy.cfg", "/etc/outrelay", dir,
			"bind :443", "bind 127.0.0.1:"+port, "127.0.0.1:8080", hostport(t, g.HTTP)))
		output(t, ".", "", "haproxy", "-c", "-q", "-f", config)
		background(t, port, "haproxy", "-db", "-f", config)
		behindProxy(t, dir, port)
	})
}

func behindProxy(t *testing.T, dir, port string) {
	const host = "https://relay.example.com"
	token := strings.TrimSpace(output(t, ".", "", outrelay, "token", "create", "--out", "-",
		"--key-name", "root", "--key-file", filepath.Join(dir, "root.key"), "--resource", host+"/"))
	pool := x509.NewCertPool()
	if b, err := os.ReadFile(filepath.Join(dir, "tls.crt")); err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatalf("the certificate: %v", err)
	}
	client := func(http2 bool) *http.Client {
		transport := &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: pool},
			ForceAttemptHTTP2: http2,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := func(client *http.Client, method, path, accept string, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, host+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		if body != "" {
			req.Header.Set("Content-Type", "application/cloudevents-batch+json")
		}
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	one, two := client(false), client(true)

	header := http.Header{"Authorization": {token}}
	stream, _, err := websocket.Dial(ctx, "wss://relay.example.com/topics/p/**", &websocket.DialOptions{HTTPClient: one, HTTPHeader: header, Subprotocols: []string{"cloudevents.json"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.CloseNow() //nolint:errcheck // the test is over
	stream.SetReadLimit(-1)
	events := ask(two, http.MethodGet, "/topics/p/**", "text/event-stream", "")
	if events.ProtoMajor != 2 || events.StatusCode != http.StatusOK {
		t.Fatalf("server-sent events: %s %s, want HTTP/2 and 200", events.Proto, events.Status)
	}

	// one small event, which must not wait for more to come
	event := func(id string, size int) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/s","type":"t","data":%q}`, id, strings.Repeat("x", size))
	}
	if resp := ask(one, http.MethodPost, "/topics/p/a", "", "["+event("small", 1)+"]"); resp.StatusCode != http.StatusOK {
		t.Fatalf("a small publish got %s", resp.Status)
	}
	if _, got, err := stream.Read(ctx); err != nil || !bytes.Contains(got, []byte(`"id":"small"`)) {
		t.Errorf("the stream brought %s (%v), want the small event", got, err)
	}
	seen := make([]byte, 0, 1<<10)
	for !bytes.Contains(seen, []byte(`"id":"small"`)) {
		n, err := events.Body.Read(seen[len(seen):cap(seen)])
		if seen = seen[:len(seen)+n]; err != nil {
			t.Fatalf("the server-sent events ended with %v after %s", err, seen)
		}
	}

	// a batch near the limit of 8 MiB
	batch := make([]string, 7)
	for i := range batch {
		batch[i] = event(fmt.Sprint("large-", i), 1<<20-200)
	}
	if resp := ask(two, http.MethodPost, "/topics/p/large", "", "["+strings.Join(batch, ",")+"]"); resp.StatusCode != http.StatusOK {
		t.Errorf("a batch of 7 MiB got %s", resp.Status)
	}

	// the gateway's own answers, with names as the client wrote them
	resp := ask(one, http.MethodGet, "/topics/a%2Fb", "", "")
	problem, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadRequest || !bytes.Contains(problem, []byte("/problems/name")) {
		t.Errorf("an escaped slash got %s %s (%v), want the gateway's 400", resp.Status, problem, err)
	}
	if resp := ask(one, http.MethodGet, "/healthz", "", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("/healthz got %s", resp.Status)
	}
}

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A gateway gets its certificate from a real authority (Pebble, by the makers of Let's
// Encrypt) over nothing but its own port, keeps it over a restart, and serves with it.
func TestACME(t *testing.T) {
	dir := t.TempDir()
	for _, tool := range []string{"pebble", "pebble-challtestsrv"} {
		output(t, ".", "", "go", "build", "-o", filepath.Join(dir, tool), "github.com/letsencrypt/pebble/v2/cmd/"+tool)
	}
	const host = "relay.example.com"
	caCertificate, caKey := selfSigned(t, "localhost")
	roots := file(t, dir, "ca.pem", caCertificate)
	directory, management, names, public := freePort(t), freePort(t), freePort(t), freePort(t)
	config := map[string]any{"pebble": map[string]any{
		"listenAddress": "127.0.0.1:" + directory, "managementListenAddress": "127.0.0.1:" + management,
		"certificate": roots, "privateKey": file(t, dir, "ca.key", caKey),
		"httpPort": 1, "tlsPort": json.Number(public), "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "for a test", "validityPeriod": 7776000}},
	}}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	control := freePort(t)
	background(t, control, filepath.Join(dir, "pebble-challtestsrv"), "-management", "127.0.0.1:"+control, "-dnsserver", "127.0.0.1:"+names,
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
	background(t, directory, filepath.Join(dir, "pebble"), "-config", file(t, dir, "pebble.json", string(text)), "-dnsserver", "127.0.0.1:"+names)

	outrelayConfig := file(t, dir, "outrelay.yaml", fmt.Sprintf(
		"tls: {acme: {hosts: [%s], email: me@example.com, ca: \"https://localhost:%s/dir\", roots: %s}}\nhosts: [%s]\n", host, directory, roots, host))
	g := &gateway{config: outrelayConfig, data: t.TempDir(), HTTP: "http://127.0.0.1:0", HTTPS: "https://127.0.0.1:" + public, Admin: "http://127.0.0.1:0"}
	g.run(t)
	t.Cleanup(func() {
		if g.cmd != nil {
			g.stop(t)
		}
	})

	issued := x509.NewCertPool()
	issued.AppendCertsFromPEM(fetch(t, roots, "https://localhost:"+management+"/roots/0"))
	served := func() (serial string, err error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{ServerName: host, RootCAs: issued}}
		conn, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:"+public)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	var first string
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if first, err = served(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no certificate: %v\n%s", err, g.output)
		}
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: issued}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+public)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + host + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Fatalf("GET /healthz = %v, %v; want 200 over HTTP/2", resp, err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()

	g.stop(t)
	g.run(t)
	again, err := served()
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		again, err = served() // it is read from its file a moment after the start
	}
	if err != nil || again != first {
		t.Errorf("after a restart the certificate is %s (%v), want %s, which was kept", again, err, first)
	}
	err = filepath.WalkDir(filepath.Join(g.data, "acme"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".key") {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("the key %s has the mode %v, want it for its owner alone", filepath.Base(path), info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// fetch reads an address whose certificate a file has.
func fetch(t *testing.T, roots, address string) []byte {
	t.Helper()
	pem, err := os.ReadFile(roots)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %s (%v)", address, resp.Status, b, err)
	}
	return b
}

package main

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
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/schemas"
)

// A process is a running "outrelay serve".
type process struct {
	ready
	cmd   *exec.Cmd
	errs  *buffer
	ended chan error // what Wait said, once
}

// buffer collects output while a test may read it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs "outrelay serve" with more flags and waits until it serves. It is
// killed, if it still runs, when the test is over.
func start(t *testing.T, flags ...string) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ready")
	p := &process{errs: new(buffer), ended: make(chan error, 1)}
	p.cmd = exec.Command("outrelay", append([]string{"serve", "--admin", "127.0.0.1:0", "--ready-file", file}, flags...)...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stderr = p.errs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { // ends with the process
		defer close(waited)
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may be gone
		<-waited
	})
	eventually(t, "the ready file", func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			select {
			case err := <-p.ended:
				t.Fatalf("serve ended (%v):\n%s", err, p.errs)
			default:
			}
			return false
		}
		if err := json.Unmarshal(b, &p.ready); err != nil {
			t.Fatalf("the ready file %s: %v", b, err)
		}
		return true
	})
	return p
}

// signal sends one to the process.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what should come at once.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come within %v", what, patience)
		}
	}
}

// put writes a file in one step, as those who change a config do.
func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// post sends an event with a token, "" for none, and returns the status.
func post(t *testing.T, client *http.Client, base, token string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/topics/a", strings.NewReader(`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", schemas.MediaTypeEvent)
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// newClient is an HTTP client of its own, closed with the test.
func newClient(t *testing.T, secure *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: secure}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func sas(keyName, key string) string {
	return schemas.SignSAS("http://127.0.0.1/", keyName, key, time.Now().Add(time.Hour))
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	p := start(t, "--dev", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	p.signal(t, syscall.SIGTERM)
	eventually(t, "the word that it drains", func() bool { return strings.Contains(p.errs.String(), "draining") })
	p.signal(t, syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err == nil || strings.Contains(p.errs.String(), "drained") {
			t.Errorf("it ended with %v, want an end by the signal before it has drained:\n%s", err, p.errs)
		}
	case <-time.After(patience):
		t.Fatalf("it still runs:\n%s", p.errs)
	}
}

// Without keys in the config a root key is made, and nobody gets in without it.
func TestRootKeyOpensWhatIsClosed(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "--config", put(t, dir, "c.yaml", "tls: off\nhttp: 127.0.0.1:0\ndata: data\n"))
	if p.HTTPS != "" || p.CA != "" || p.KeyName != rootKey || filepath.Dir(p.KeyFile) != filepath.Join(dir, "data") {
		t.Errorf("ready = %+v", p.ready)
	}
	key, err := os.ReadFile(p.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, nil)
	for token, want := range map[string]int{
		"":                         http.StatusUnauthorized,
		sas(rootKey, string(key)):  http.StatusOK,
		sas(rootKey, "some other"): http.StatusUnauthorized,
	} {
		if got := post(t, client, p.HTTP, token); got != want {
			t.Errorf("publish with %.40q... = %d, want %d", token, got, want)
		}
	}
}

func TestReloadTakesOverKeysAndRefusesABadConfig(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.key", "the-first-key-of-these-tests")
	put(t, dir, "b.key", "the-second-key-of-these-tests")
	const top = "tls: off\nhttp: 127.0.0.1:0\nhosts: [127.0.0.1]\ndata: data\n"
	file := put(t, dir, "c.yaml", top+"keys: [{name: a, primaryfile: a.key, rights: [send]}]\n")
	p := start(t, "--config", file)
	if p.KeyName != "a" || p.KeyFile != filepath.Join(dir, "a.key") {
		t.Errorf("ready names the key %s in %s, want that of the config", p.KeyName, p.KeyFile)
	}
	client := newClient(t, nil)
	a, b := sas("a", "the-first-key-of-these-tests"), sas("b", "the-second-key-of-these-tests")
	want := func(when string, statusA, statusB int) {
		t.Helper()
		if gotA, gotB := post(t, client, p.HTTP, a), post(t, client, p.HTTP, b); gotA != statusA || gotB != statusB {
			t.Errorf("%s: publish with a, b = %d, %d, want %d, %d", when, gotA, gotB, statusA, statusB)
		}
	}
	want("at first", 200, 401)

	put(t, dir, "c.yaml", top+"keys: [{name: b, primaryfile: b.key, rights: [send]}]\nlimits: {maxstreams: 3}\n")
	p.signal(t, syscall.SIGHUP)
	eventually(t, "the reload", func() bool { return strings.Contains(p.errs.String(), "config reloaded") })
	want("reloaded", 401, 200)
	if !strings.Contains(p.errs.String(), "restart=limits") {
		t.Errorf("it does not say that limits take a restart:\n%s", p.errs)
	}

	put(t, dir, "c.yaml", top+"keys: [{name: a, primaryfile: a.key, rights: [send]}]\norgins: []\n")
	p.signal(t, syscall.SIGHUP)
	eventually(t, "the refusal", func() bool { return strings.Contains(p.errs.String(), "not reloaded") })
	if !strings.Contains(p.errs.String(), "c.yaml:6: orgins") {
		t.Errorf("it does not say what is wrong where:\n%s", p.errs)
	}
	want("refused", 401, 200)
	if strings.Contains(p.errs.String(), "of-these-tests") {
		t.Error("a key is in the log")
	}
}

// Topics, retention and hosts follow a reload; a log or a namespace takes a restart,
// and is named at every reload until then.
func TestReloadTakesOverTopicsAndHosts(t *testing.T) {
	dir := t.TempDir()
	const top = "tls: off\nhttp: 127.0.0.1:0\ndata: data\nanonymous: {publish: [\"**\"]}\n"
	p := start(t, "--config", put(t, dir, "c.yaml", top+"hosts: [127.0.0.1, old.example]\n"))
	client := newClient(t, nil)
	status := func(host string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.HTTP+"/topics/a", strings.NewReader(`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("Content-Type", schemas.MediaTypeEvent)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	want := func(when string, statuses map[string]int) {
		t.Helper()
		for host, status1 := range statuses {
			if got := status(host); got != status1 {
				t.Errorf("%s: publish as %s = %d, want %d", when, host, got, status1)
			}
		}
	}
	want("at first", map[string]int{"127.0.0.1": 200, "old.example": 200, "new.example": 421, "shop.example": 421})

	reloads := 0
	reload := func(config, says string) {
		t.Helper()
		put(t, dir, "c.yaml", config)
		p.signal(t, syscall.SIGHUP)
		reloads++
		eventually(t, "the reload", func() bool { return strings.Count(p.errs.String(), "reloaded") == reloads })
		lines := strings.Split(strings.TrimSpace(p.errs.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, says) {
			t.Errorf("reload %d says %s, want %s", reloads, last, says)
		}
	}
	next := top + "hosts: [127.0.0.1, new.example]\ntopics: [{filter: a, stored: false}]\nretention: {maxage: 2h, maxbytes: 1GiB, dedup: 1m}\n"
	reload(next, "level=INFO")
	want("reloaded", map[string]int{"127.0.0.1": 202, "old.example": 421, "new.example": 202})

	late := next + "log: {flush: 1m}\nnamespaces: {shop: {hosts: [shop.example], anonymous: {publish: [\"**\"]}}}\n"
	for range 2 {
		reload(late, `restart="log namespaces.shop"`)
	}
	want("with more than it can take over", map[string]int{"127.0.0.1": 202, "new.example": 202, "shop.example": 421})

	reload(next+"topics: []\n", "level=ERROR")
	want("refused", map[string]int{"127.0.0.1": 202, "new.example": 202, "old.example": 421})
}

// makePair writes a certificate for 127.0.0.1 and its key, and returns its serial number.
func makePair(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"relay.example"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	put(t, dir, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
}

// A renewed certificate is shown to new connections; those that are open stay.
func TestReloadTakesOverTheCertificate(t *testing.T) {
	dir := t.TempDir()
	makePair(t, dir, 1)
	file := put(t, dir, "c.yaml", "https: 127.0.0.1:0\ntls: {cert: tls.crt, key: tls.key}\ndata: data\nanonymous: {publish: [\"**\"]}\n")
	p := start(t, "--config", file)
	if p.HTTP != "" || p.CA != "" {
		t.Errorf("ready = %+v, want https alone, and no authority of ours", p.ready)
	}
	// shown dials anew and returns the certificate's number.
	shown := func() int64 {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // the test looks at it itself
		conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(p.HTTPS, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := shown(); got != 1 {
		t.Fatalf("the certificate has the number %d, want 1", got)
	}
	roots := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	old := newClient(t, &tls.Config{RootCAs: roots}) // does not know the new certificate
	if got := post(t, old, p.HTTPS, ""); got != 200 {
		t.Fatalf("publish = %d", got)
	}

	makePair(t, dir, 2)
	p.signal(t, syscall.SIGHUP)
	eventually(t, "the new certificate", func() bool { return shown() == 2 })
	if got := post(t, old, p.HTTPS, ""); got != 200 {
		t.Errorf("publish on the connection from before = %d", got)
	}

	put(t, dir, "tls.key", "damaged")
	p.signal(t, syscall.SIGHUP)
	eventually(t, "the refusal", func() bool { return strings.Contains(p.errs.String(), "not reloaded") })
	if got := shown(); got != 2 {
		t.Errorf("after a bad reload the certificate has the number %d, want 2", got)
	}
}

// Where no hosts are written, those of the certificate and of loopback are served,
// and no others.
func TestOwnHostsAreServed(t *testing.T) {
	dir := t.TempDir()
	makePair(t, dir, 1)
	p := start(t, "--config", put(t, dir, "c.yaml", "https: 127.0.0.1:0\nhttp: 127.0.0.1:0\ntls: {cert: tls.crt, key: tls.key}\ndata: data\n"))
	client := newClient(t, nil)
	for host, want := range map[string]int{"relay.example": 401, "127.0.0.1": 401, "localhost:80": 401, "evil.example": 421} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.HTTP+"/topics/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("host %s is answered %d, want %d", host, resp.StatusCode, want)
		}
	}
	if !strings.Contains(p.errs.String(), "hosts: none are written, so namespace default is localhost") {
		t.Errorf("it does not say so:\n%s", p.errs)
	}
}

// What a person on a terminal is told to paste works as it stands, in a folder
// whose name a shell would take apart.
func TestPastedCommandsWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a folder")
	p := start(t, "--dev", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--data", dir)
	var text strings.Builder
	printReady(&text, p.ready, &config.Config{Dev: true, Data: dir}, "The promise.")
	for _, want := range []string{p.HTTPS, p.HTTP, p.Admin, p.CA, rootKey, "The promise.", "new WebSocket('ws://127.0.0.1:", "curl --cacert '"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	// command is the line after a title.
	command := func(title string) string {
		_, rest, _ := strings.Cut(text.String(), title+":\n  ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	for _, tt := range []struct{ command, want string }{
		{command("Publish"), `"accepted":1`},
		{command("Subscribe") + " --from earliest -n 1", `"data":"hello"`},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, "sh", "-c", tt.command).Output()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s\nprints %s (%v), want %s", tt.command, out, err, tt.want)
		}
	}

	// Without --dev the key goes with them, by the name of its file alone, to the
	// host that the certificate is for.
	text.Reset()
	c := &config.Config{Namespace: config.Namespace{Hosts: []string{"localhost", "relay.example"}}}
	printReady(&text, ready{HTTPS: "https://localhost:443", KeyName: rootKey, KeyFile: "/k"}, c, "")
	if want := "--gateway https://relay.example --key-name RootManageSharedAccessKey --key-file /k"; !strings.Contains(text.String(), want) || strings.Contains(text.String(), "curl") {
		t.Errorf("no %q, or commands that nobody may run, in:\n%s", want, text.String())
	}
	text.Reset()
	printReady(&text, ready{HTTPS: "https://[::1]:8443", KeyName: rootKey, KeyFile: "/k"}, c, "")
	if want := "--gateway https://relay.example:8443 "; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in:\n%s", want, text.String())
	}
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "plain-1.2/x", "a b", "it's", "$HOME", "`x`", "a\nb", "*", "é"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("quote(%q) = %s, which a shell reads as %q (%v)", s, quote(s), out, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1:1": "https://127.0.0.1:1", "[::]:443": "https://localhost:443", "0.0.0.0:8443": "https://localhost:8443", "[::1]:2": "https://[::1]:2"} {
		a, err := net.ResolveTCPAddr("tcp", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := address("https", a); got != want {
			t.Errorf("address(%s) = %s, want %s", in, got, want)
		}
	}
	if got := address("http", nil); got != "" {
		t.Errorf("address(nil) = %s, want none", got)
	}
}

// The errors of listeners name the flag to change, each on a line.
func TestListenErrors(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	at := held.Addr().String()
	out, err := exec.Command("outrelay", "serve", "--dev", "--https", at, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", t.TempDir()).CombinedOutput()
	want := fmt.Sprintf("outrelay: address in use: another process holds %s; stop it, or choose another one with --https\n", at)
	if string(out) != want || err == nil || err.Error() != "exit status 4" {
		t.Errorf("it says %s(%v), want %s(exit status 4)", out, err, want)
	}
}

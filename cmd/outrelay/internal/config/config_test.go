package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write puts a file into dir.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// folder is a folder with the files that the configs of these tests name.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "good.key", "hT3qv0mY0mE1J8o9pRkq8bXK1mF4gq0m2o5y0f2vQkE=\n")
	write(t, dir, "other.key", "another-key-that-is-long-enough-for-all")
	write(t, dir, "short.key", "tooshort\n")
	write(t, dir, "empty.key", "\n")
	pair(t, dir, "tls", time.Hour)
	pair(t, dir, "next", time.Hour)
	pair(t, dir, "old", -time.Hour)
	return dir
}

// pair writes NAME.crt and NAME.pem, a certificate for relay.example and its key.
func pair(t *testing.T, dir, name string, life time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(life),
		DNSNames: []string{"Relay.example", "*.relay.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// load loads a config that must be good.
func load(t *testing.T, o config.Options) *config.Config {
	t.Helper()
	c, err := config.Load(o)
	if err != nil {
		t.Fatalf("Load(%+v) error = %v", o, err)
	}
	return c
}

// faults loads a config that must be bad.
func faults(t *testing.T, o config.Options) config.Faults {
	t.Helper()
	_, err := config.Load(o)
	var f config.Faults
	if !errors.As(err, &f) || len(f) == 0 {
		t.Fatalf("Load(%+v) error = %v, want faults", o, err)
	}
	return f
}

// whole has every key of the config.
const whole = `
https: 127.0.0.1:0
http: ""
admin: localhost:0
data: here
tls: {cert: tls.crt, key: tls.pem}
log: {storage: file, flush: 2m, replicas: 3}
nats: {url: "nats://one:4222,nats://two:4222", credentials: good.key}
limits: {maxstreams: 7, ringbytes: 1MiB, pinginterval: 20s}
hosts: [relay.example, "[::1]"]
keys:
  - {name: send, primaryfile: good.key, secondaryfile: other.key, rights: [send], path: topics/orders}
jwt:
  - {issuer: "https://id.example/", audience: relay}
  - {issuer: ours, secretfile: good.key, algorithms: [HS256], audience: relay}
anonymous: {publish: [a/*], subscribe: ["**"], listen: [printer], send: [printer]}
origins: [https://app.example, "null"]
topics:
  - {filter: metrics/**, stored: false}
  - {filter: orders/*/paid, maxage: 720h}
retention: {maxage: 48h, maxbytes: 20GiB, dedup: 5m}
relay: [{name: printer, anonymoussenders: true, listeners: 3, sticky: true, deadline: 30s, kinds: [http], host: printer.example}]
namespaces:
  shop:
    hosts: [shop.example]
    topics: [{filter: "**", stored: false}]
`

func TestLoadFillsInEveryDefault(t *testing.T) {
	dir := folder(t)
	c := load(t, config.Options{File: write(t, dir, "c.yaml", "tls: {cert: tls.crt, key: tls.pem}")})
	if c.HTTPS != ":443" || c.HTTP != "" || c.Admin != "127.0.0.1:8081" {
		t.Errorf("addresses = %q %q %q", c.HTTPS, c.HTTP, c.Admin)
	}
	if want, _ := filepath.Abs("outrelay-data"); c.Data != want {
		t.Errorf("data = %q, want %q: beside the working folder, where nobody wrote it", c.Data, want)
	}
	b := c.Broker()
	if b.Log.Storage != "file" || b.Log.Flush != "always" || b.Log.Replicas != 1 || b.Limits.LogReaders != 16 {
		t.Errorf("broker = %+v", b)
	}
	if r := b.Namespaces["default"].Retention; r.MaxAge != 168*time.Hour || r.MaxBytes != 10<<30 || r.Dedup != 2*time.Minute {
		t.Errorf("retention = %+v", r)
	}
	want := []string{"localhost", "127.0.0.1", "[::1]", "relay.example", "192.0.2.1", "[2001:db8::1]"}
	if !slices.Equal(c.Hosts, want) {
		t.Errorf("hosts = %q, want %q: those of loopback and the certificate", c.Hosts, want)
	}
	if c.HostNames()["2001:db8::1"] != "default" {
		t.Errorf("host names = %v", c.HostNames())
	}
	if a := c.Access(); len(a.Namespaces) != 1 || a.Namespaces["default"].Dev || c.WidestKey() != nil {
		t.Errorf("access = %+v", a)
	}
	if len(c.Notices) != 1 || !strings.Contains(c.Notices[0], "relay.example") {
		t.Errorf("notices = %q, want that the hosts were guessed", c.Notices)
	}
}

func TestLoadReadsEveryKey(t *testing.T) {
	dir := folder(t)
	c := load(t, config.Options{File: write(t, dir, "c.yaml", whole)})
	if c.Data != filepath.Join(dir, "here") || c.TLS.Cert != filepath.Join(dir, "tls.crt") || c.NATS.Credentials != filepath.Join(dir, "good.key") {
		t.Errorf("data, cert, credentials = %q %q %q, want them beside the config", c.Data, c.TLS.Cert, c.NATS.Credentials)
	}
	b := c.Broker()
	if b.Log.Flush != "2m" || b.Log.Replicas != 3 || b.NATS.URL != "nats://one:4222,nats://two:4222" || b.Limits.RingBytes != 1<<20 {
		t.Errorf("broker = %+v", b)
	}
	d := b.Namespaces["default"]
	if len(d.Topics) != 2 || !d.Topics[0].Unstored || d.Topics[1].Unstored || d.Topics[1].MaxAge != 720*time.Hour || d.Retention.MaxBytes != 20<<30 {
		t.Errorf("default = %+v", d)
	}
	if !b.Namespaces["shop"].Topics[0].Unstored || b.Namespaces["shop"].Retention.MaxAge != 168*time.Hour {
		t.Errorf("shop = %+v, want the defaults of retention", b.Namespaces["shop"])
	}
	if c.Limits.Gateway.MaxStreams != 7 || c.Limits.Gateway.PingInterval != 20*time.Second {
		t.Errorf("limits = %+v", c.Limits.Gateway)
	}
	a := c.Access().Namespaces["default"]
	if string(a.Keys[0].Primary) != "hT3qv0mY0mE1J8o9pRkq8bXK1mF4gq0m2o5y0f2vQkE=" || string(a.Keys[0].Secondary) != "another-key-that-is-long-enough-for-all" ||
		len(a.JWT) != 2 || a.JWT[1].Secret == "" || a.Anonymous.Subscribe[0] != "**" || a.Origins[1] != "null" {
		t.Errorf("access = %+v", a)
	}
	if c.Relay[0].Listeners != 3 || !c.Relay[0].Sticky || c.Relay[0].Host != "printer.example" {
		t.Errorf("relay = %+v", c.Relay)
	}
	names := c.HostNames()
	if names["relay.example"] != "default" || names["::1"] != "default" || names["shop.example"] != "shop" {
		t.Errorf("host names = %v", names)
	}
}

// What stands under namespaces.default is what stands at the top.
func TestDefaultNamespaceByName(t *testing.T) {
	c := load(t, config.Options{File: write(t, t.TempDir(), "c.yaml", "tls: off\nhttp: :0\nnamespaces: {default: {hosts: [a.example]}, b: {}}")})
	if c.HostNames()["a.example"] != "default" || len(c.Broker().Namespaces) != 2 {
		t.Errorf("host names = %v, namespaces = %v", c.HostNames(), c.Broker().Namespaces)
	}
}

func TestFlagsWinOverTheFileAndItOverDev(t *testing.T) {
	dir := folder(t)
	file := write(t, dir, "c.yaml", "http: 127.0.0.1:1234\nadmin: 127.0.0.1:1235\ndata: d")
	flag := func(s string) *string { return &s }
	c := load(t, config.Options{File: file, Dev: true, Admin: flag("127.0.0.1:0")})
	if c.HTTPS != "127.0.0.1:8443" || c.HTTP != "127.0.0.1:1234" || c.Admin != "127.0.0.1:0" || c.Data != filepath.Join(dir, "d") {
		t.Errorf("https, http, admin, data = %q %q %q %q", c.HTTPS, c.HTTP, c.Admin, c.Data)
	}
	c = load(t, config.Options{File: file, Dev: true, HTTP: flag(""), Data: flag("e")})
	if want, _ := filepath.Abs("e"); c.HTTP != "" || c.Data != want {
		t.Errorf("http, data = %q %q, want none and %q", c.HTTP, c.Data, want)
	}
	if a := c.Access().Namespaces["default"]; !a.Dev {
		t.Errorf("access = %+v, want Dev", a)
	}

	f := faults(t, config.Options{Dev: true, HTTPS: flag("0.0.0.0:8443")})
	if len(f) != 1 || !f.Flags() || f[0].Path != "--https" || !strings.Contains(f[0].Text, "127.0.0.1:8443") {
		t.Errorf("faults = %q, want the flag and what to write", f)
	}
	f = faults(t, config.Options{File: write(t, dir, "d.yaml", "https: :8443\nhttp: 10.0.0.1:1"), Dev: true, Admin: flag("[::]:0")})
	if len(f) != 3 || f.Flags() {
		t.Errorf("faults = %q, want one for each address", f)
	}
}

func TestWithoutTLSOnlyWhenSaid(t *testing.T) {
	dir := t.TempDir()
	if f := faults(t, config.Options{}); f.Flags() || !strings.Contains(f.Error(), "--dev") || !strings.Contains(f.Error(), "tls: off") {
		t.Errorf("faults = %q, want the three ways out", f)
	}
	c := load(t, config.Options{File: write(t, dir, "c.yaml", "tls: off\nhttps: 127.0.0.1:0\nhttp: 127.0.0.1:0\nhosts: [a.example]")})
	if c.HTTPS != "" || len(c.Notices) != 1 {
		t.Errorf("https = %q, notices = %q, want none, and that said", c.HTTPS, c.Notices)
	}
}

func TestExpiredCertificateIsANotice(t *testing.T) {
	c := load(t, config.Options{File: write(t, folder(t), "c.yaml", "tls: {cert: old.crt, key: old.pem}\nhosts: [a.example]")})
	if len(c.Notices) != 1 || !strings.Contains(c.Notices[0], "expired") {
		t.Errorf("notices = %q", c.Notices)
	}
}

// What is printed reads as the same config, holds no secret, and says everything.
func TestPrintReadsBack(t *testing.T) {
	dir := folder(t)
	for name, text := range map[string]string{"whole": whole, "least": "tls: off\nhttp: :0"} {
		t.Run(name, func(t *testing.T) {
			var first, second strings.Builder
			if err := load(t, config.Options{File: write(t, dir, "c.yaml", text)}).Print(&first); err != nil {
				t.Fatal(err)
			}
			again := load(t, config.Options{File: write(t, t.TempDir(), "d.yaml", first.String())})
			if err := again.Print(&second); err != nil {
				t.Fatal(err)
			}
			if first.String() != second.String() {
				t.Errorf("printed:\n%s\nand what that means:\n%s", first.String(), second.String())
			}
			for _, secret := range []string{"hT3qv0mY0m", "another-key"} {
				if strings.Contains(first.String(), secret) {
					t.Errorf("the secret %s is printed", secret)
				}
			}
			for _, key := range []string{"maxage: ", "dedup: ", "replicas: ", "maxstreams: ", "ringbytes: ", "admin: "} {
				if !strings.Contains(first.String(), key) {
					t.Errorf("no %q in:\n%s", key, first.String())
				}
			}
		})
	}
}

func TestRestartNamesWhatCanNotBeReloaded(t *testing.T) {
	dir := folder(t)
	change := func(old, new string) string { return strings.Replace(whole, old, new, 1) }
	for name, tt := range map[string]struct {
		next string
		want []string
	}{
		"nothing":        {whole, nil},
		"keys":           {change("rights: [send]", "rights: [listen]"), nil},
		"issuers":        {change("audience: relay", "audience: other"), nil},
		"anonymous":      {change("listen: [printer]", "listen: []"), nil},
		"origins":        {change("https://app.example", "https://b.example"), nil},
		"certificate":    {change("{cert: tls.crt, key: tls.pem}", "{cert: next.crt, key: next.pem}"), nil},
		"addresses":      {change("http: \"\"", "http: :0"), []string{"http"}},
		"TLS off":        {change("{cert: tls.crt, key: tls.pem}", "off\nhttp: :0") + "#", []string{"https", "http", "tls"}},
		"limits":         {change("maxstreams: 7", "maxstreams: 8"), []string{"limits"}},
		"topics":         {change("metrics/**", "metric/**"), nil},
		"another's":      {change(`filter: "**"`, "filter: a"), nil},
		"the log":        {change("flush: 2m", "flush: 3m"), []string{"log"}},
		"namespace gone": {change("  shop:", "  shops:"), []string{"namespaces.shop", "namespaces.shops"}},
	} {
		next := tt.next
		if name == "TLS off" {
			next = strings.Replace(next, "http: \"\"\n", "", 1)
		}
		a := load(t, config.Options{File: write(t, dir, "a.yaml", whole)})
		b := load(t, config.Options{File: write(t, dir, "b.yaml", next)})
		if got := a.Restart(b); !slices.Equal(got, tt.want) {
			t.Errorf("%s: Restart = %q, want %q", name, got, tt.want)
		}
	}
}

func TestWidestKey(t *testing.T) {
	dir := folder(t)
	key := func(name, rest string) string {
		return "  - {name: " + name + ", primaryfile: good.key, " + rest + "}\n"
	}
	for want, keys := range map[string]string{
		"first":  key("first", "rights: [send]") + key("second", "rights: [listen]"),
		"most":   key("first", "rights: [send]") + key("most", "rights: [send, listen]"),
		"whole":  key("narrow", "rights: [send, listen], path: a") + key("whole", "rights: [send]"),
		"narrow": key("narrow", "rights: [send], path: a"),
	} {
		c := load(t, config.Options{File: write(t, dir, "c.yaml", base+"keys:\n"+keys)})
		if got := c.WidestKey(); got == nil || got.Name != want {
			t.Errorf("WidestKey = %+v of\n%swant %s", got, keys, want)
		}
	}
}

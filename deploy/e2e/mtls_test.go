package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// curl gets in with a client certificate of a configured authority, over HTTP/1.1 and
// HTTP/2, to what its URI stands for and nothing else; a stranger's gets 401.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) { t.Helper(); output(t, dir, "", "openssl", args...) }
	for _, ca := range []string{"ours", "strangers"} {
		run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN="+ca, "-keyout", ca+".key", "-out", ca+".pem")
		run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=shop", "-keyout", ca+"-shop.key", "-out", ca+".csr")
		file(t, dir, "ext", "subjectAltName=URI:spiffe://example.com/shop\nextendedKeyUsage=clientAuth\n")
		run("x509", "-req", "-in", ca+".csr", "-CA", ca+".pem", "-CAkey", ca+".key", "-CAcreateserial", "-days", "1", "-extfile", "ext", "-out", ca+"-shop.pem")
	}
	certificate, key := selfSigned(t, "localhost")
	roots := file(t, dir, "tls.crt", certificate)
	file(t, dir, "tls.key", key)
	g := startConfig(t, fmt.Sprintf(`tls: {cert: %[1]s/tls.crt, key: %[1]s/tls.key}
hosts: [localhost]
clientcertificates:
  ca: %[1]s/ours.pem
  rights:
    - uri: spiffe://example.com/shop
      publish: [orders]
`, dir))
	_, port, _ := strings.Cut(hostport(t, g.HTTPS), ":")
	for _, tt := range []struct{ who, version, topic, want string }{
		{"ours", "--http1.1", "orders", "200"},
		{"ours", "--http2", "orders", "200"},
		{"ours", "--http2", "other", "403"},
		{"strangers", "--http2", "orders", "401"},
		{"", "--http2", "orders", "401"},
	} {
		args := []string{"--silent", "--show-error", tt.version, "--cacert", roots, "-o", filepath.Join(dir, "answer"), "-w", "%{http_code}",
			"-H", "Content-Type: application/cloudevents+json", "-d", sample("by-" + tt.who + tt.version), "https://localhost:" + port + "/topics/" + tt.topic}
		if tt.who != "" {
			args = append(args, "--cert", filepath.Join(dir, tt.who+"-shop.pem"), "--key", filepath.Join(dir, tt.who+"-shop.key"))
		}
		if got := output(t, ".", "", "curl", args...); got != tt.want {
			t.Errorf("curl %s as %q to %s got %s, want %s", tt.version, tt.who, tt.topic, got, tt.want)
		}
	}
}

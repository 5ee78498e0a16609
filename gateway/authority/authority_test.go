package authority_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/gateway/authority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *authority.Authority {
	t.Helper()
	a, err := authority.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// leaf is the certificate that a server shows now.
func leaf(t *testing.T, a *authority.Authority) *x509.Certificate {
	t.Helper()
	c, err := a.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// roots trusts the file that is given to clients, and nothing else.
func roots(t *testing.T, a *authority.Authority) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(read(t, a.File())) {
		t.Fatalf("%s holds no certificate", a.File())
	}
	return pool
}

func TestCertificateIsForLoopback(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "new", "folder"))
	c := leaf(t, a)
	for _, name := range []string{"localhost", "shop.localhost", "127.0.0.1", "::1"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots(t, a), DNSName: name}); err != nil {
			t.Errorf("Verify(%q) error = %v", name, err)
		}
	}
	for _, name := range []string{"example.com", "a.b.localhost", "127.0.0.2"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots(t, a), DNSName: name}); err == nil {
			t.Errorf("Verify(%q) = nil, want an error", name)
		}
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("the key is %T, want ECDSA on P-256", c.PublicKey)
	}
}

func TestKeysAreTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		info, err := e.Info()
		if err != nil {
			return err
		}
		if bytes.Contains(read(t, path), []byte("PRIVATE KEY")) && info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds a key and has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || files != 3 {
		t.Errorf("%d files (%v), want those of the authority, its certificate and the one for localhost", files, err)
	}
}

func TestReopenedTheSame(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	ca, c := read(t, first.File()), leaf(t, first)
	second := open(t, dir)
	if !bytes.Equal(read(t, second.File()), ca) || !leaf(t, second).Equal(c) {
		t.Error("a second Open made new certificates")
	}

	// The public copy and the certificate for localhost can be had again.
	for _, file := range []string{first.File(), filepath.Join(dir, "localhost.pem")} {
		if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	third := open(t, dir)
	if !bytes.Equal(read(t, third.File()), ca) {
		t.Error("Open did not write the authority's certificate again")
	}
	if _, err := leaf(t, third).Verify(x509.VerifyOptions{Roots: roots(t, third), DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
}

// Clients may trust it, so a damaged authority is for a person to remove.
func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	file := filepath.Join(dir, "authority.pem")
	good := read(t, file)
	other := t.TempDir()
	open(t, other)
	cert, _, _ := bytes.Cut(good, []byte("-----BEGIN PRIVATE"))
	_, key, _ := bytes.Cut(read(t, filepath.Join(other, "authority.pem")), []byte("-----BEGIN PRIVATE"))
	for name, bad := range map[string][]byte{
		"cut":         good[:len(good)/3],
		"without key": cert,
		"other key":   slices.Concat(cert, []byte("-----BEGIN PRIVATE"), key),
		"empty":       {},
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := authority.Open(dir); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: Open error = %v, want the file and what to do", name, err)
		}
		if !bytes.Equal(read(t, file), bad) {
			t.Errorf("%s: Open replaced the authority", name)
		}
	}
}

func TestRenewedWhileItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := open(t, dir)
		first := leaf(t, a)
		time.Sleep(59 * 24 * time.Hour)
		if !leaf(t, a).Equal(first) {
			t.Error("a new certificate although a month of the old one is left")
		}
		time.Sleep(2 * 24 * time.Hour)
		second := leaf(t, a)
		if second.Equal(first) {
			t.Error("no new certificate although less than a month of the old one is left")
		}
		if _, err := second.Verify(x509.VerifyOptions{Roots: roots(t, a), DNSName: "localhost", CurrentTime: time.Now()}); err != nil {
			t.Error(err)
		}
		if !leaf(t, open(t, dir)).Equal(second) {
			t.Error("the renewed certificate was not kept")
		}

		time.Sleep(10 * 365 * 24 * time.Hour) // the authority itself ends
		old := read(t, a.File())
		b := open(t, dir)
		if bytes.Equal(read(t, b.File()), old) {
			t.Error("the same authority after its end")
		}
		if _, err := leaf(t, b).Verify(x509.VerifyOptions{Roots: roots(t, b), DNSName: "localhost", CurrentTime: time.Now()}); err != nil {
			t.Error(err)
		}
	})
}

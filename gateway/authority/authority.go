// Package authority is the local certificate authority of outrelay serve --dev: it
// makes and keeps a certificate for localhost that a client can verify once it is
// told of the authority (curl --cacert, outrelay --ca).
//
// The authority's certificate holds for the names of loopback and no others, so
// that who trusts it trusts it with nothing else.
//
// # Concurrency
//
// All methods may be called from any goroutine, but only one process at a time may
// have a folder open.
package authority

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// authorityLife is how long an authority lasts. A new one has to be trusted
	// anew by every client.
	authorityLife = 10 * 365 * 24 * time.Hour
	// leafLife is how long a certificate lasts, and leafSpare what is left of it
	// when it is renewed.
	leafLife  = 90 * 24 * time.Hour
	leafSpare = 30 * 24 * time.Hour
)

// names and addresses are what a certificate is for.
var (
	names     = []string{"localhost", "*.localhost"}
	addresses = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
)

// An Authority issues certificates for localhost. Make one with [Open].
type Authority struct {
	dir string
	own *pair

	mu   sync.Mutex
	leaf *pair // guarded by mu
}

// Open reads the authority of a folder, and makes the folder, the authority and a
// certificate where they are missing or near their end. Keys are in files of mode
// 0600.
//
// An authority that is there and can't be read is an error, never replaced: clients
// may trust it.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a := &Authority{dir: dir}
	file := filepath.Join(dir, "authority.pem")
	var err error
	a.own, err = readPair(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %s: %w; remove it to have a new one made, which clients must then trust", file, err)
	}
	if a.own == nil || left(a.own) < leafLife {
		if a.own, err = newAuthority(time.Now()); err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		if err := writeFile(file, a.own.encode(), 0o600); err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
	}
	if err := writeFile(a.File(), encodeCertificate(a.own.cert), 0o644); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if a.leaf, err = readPair(a.leafFile()); err != nil || !a.good(a.leaf) {
		if err := a.renew(); err != nil {
			return nil, fmt.Errorf("certificate for localhost: %w", err)
		}
	}
	return a, nil
}

// File is the path of the authority's certificate in PEM, for clients to trust.
func (a *Authority) File() string { return filepath.Join(a.dir, "ca.pem") }

func (a *Authority) leafFile() string { return filepath.Join(a.dir, "localhost.pem") }

// GetCertificate is for [tls.Config]: the certificate for localhost, renewed in
// time.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left(a.leaf) < leafSpare {
		// With a full disk it is renewed in memory and again at the next start.
		if err := a.renew(); err != nil && left(a.leaf) <= 0 {
			return nil, fmt.Errorf("certificate for localhost: %w", err)
		}
	}
	return &tls.Certificate{Certificate: [][]byte{a.leaf.cert.Raw}, PrivateKey: a.leaf.key, Leaf: a.leaf.cert}, nil
}

// renew makes a certificate and keeps it. Hold mu, or be Open.
func (a *Authority) renew() error {
	leaf, err := a.own.issue(time.Now())
	if err != nil {
		return err
	}
	a.leaf = leaf
	return writeFile(a.leafFile(), leaf.encode(), 0o600)
}

// good says whether a certificate is of this authority, for all names, and not
// near its end.
func (a *Authority) good(p *pair) bool {
	if p == nil || left(p) < leafSpare {
		return false
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.own.cert)
	for _, name := range []string{"localhost", "any.localhost", "127.0.0.1", "::1"} {
		if _, err := p.cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			return false
		}
	}
	return true
}

func left(p *pair) time.Duration { return time.Until(p.cert.NotAfter) }

// writeFile puts a file in its place in one step.
func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	if _, err = f.Write(b); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

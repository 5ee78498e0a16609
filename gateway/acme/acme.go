// Package acme gets the gateway's certificates from a certificate authority and renews
// them (RFC 8555). The authority's proof that the host names are ours comes over the
// port that serves them, by TLS-ALPN-01 (RFC 8737): nothing else need be open.
//
// Certificates, their keys and the account's key are files in one folder, readable by
// their owner alone.
//
// # Concurrency
//
// All methods may be called from any goroutine. No goroutine starts before
// [Manager.Run] is called or outlives it.
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// protocol is the name that an authority's connection asks for (RFC 8737 section 6.2).
const protocol = "acme-tls/1"

// Config says what certificates are for and who makes them.
type Config struct {
	// Hosts are the names to get certificates for, at least one.
	Hosts []string
	// Email is whom the authority writes to; "" for nobody.
	Email string
	// CA is the address of the authority's directory; "" is Let's Encrypt's.
	CA string
	// Roots are those that the authority's own certificate is checked against; nil are
	// the system's.
	Roots *x509.CertPool
	// Folder is where everything is kept.
	Folder string
	// Address and Port are where the gateway listens.
	Address string
	Port    int
	// Logger is told of each certificate; nil discards it.
	Logger *slog.Logger
}

// A Manager is made by [New] and works while [Manager.Run] runs.
type Manager struct {
	config Config
	magic  atomic.Pointer[certmagic.Config] // while Run runs
}

// New makes a manager. It starts nothing.
func New(c Config) (*Manager, error) {
	switch {
	case len(c.Hosts) == 0:
		return nil, errors.New("acme: no host to get a certificate for")
	case c.Folder == "":
		return nil, errors.New("acme: no folder to keep certificates in")
	}
	c.CA = cmp.Or(c.CA, certmagic.LetsEncryptProductionCA)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return &Manager{config: c}, nil
}

// TLS is what to serve with: the certificates as they are at each handshake, and the
// answers to the authority.
func (m *Manager) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: m.certificate, NextProtos: []string{protocol}}
}

func (m *Manager) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	magic := m.magic.Load()
	if magic == nil {
		return nil, errors.New("certificates are not looked after")
	}
	return magic.GetCertificate(hello)
}

// Run gets what is missing and renews what gets old until ctx ends. The gateway must
// listen by then. An attempt that fails is logged, and made again with growing waits.
func (m *Manager) Run(ctx context.Context) error {
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           zap.NewNop(), // OnEvent has what an operator should know
	})
	defer cache.Stop()
	magic = certmagic.New(cache, certmagic.Config{
		Storage: newFolder(m.config.Folder),
		Logger:  zap.NewNop(),
		OnEvent: m.tell,
	})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: m.config.CA, Email: m.config.Email, Agreed: true, TrustedRoots: m.config.Roots,
		DisableHTTPChallenge: true, ListenHost: m.config.Address, AltTLSALPNPort: m.config.Port,
		HTTPProxy: http.ProxyFromEnvironment, Logger: zap.NewNop(),
	})}
	m.magic.Store(magic)
	defer m.magic.Store(nil)
	if err := magic.ManageAsync(ctx, m.config.Hosts); err != nil {
		return fmt.Errorf("acme: %w", err)
	}
	<-ctx.Done()
	return nil
}

// tell puts what happens to a certificate into the log.
func (m *Manager) tell(_ context.Context, event string, data map[string]any) error {
	host := slog.Any("host", data["identifier"])
	switch event {
	case "cert_obtaining":
		m.config.Logger.Info("asking for a certificate", host, "authority", m.config.CA)
	case "cert_obtained":
		m.config.Logger.Info("got a certificate", host)
	case "cert_failed":
		m.config.Logger.Error("no certificate; trying again. The authority must reach port 443 of this host name", host, "authority", m.config.CA, "error", data["error"])
	}
	return nil
}

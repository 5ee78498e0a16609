package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/datafolder"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/acme"
	"github.com/outrelay/outrelay/gateway/authority"
	"github.com/outrelay/outrelay/gateway/relay"
)

// rootKey is the name of the key that is made when the config has none.
const rootKey = "RootManageSharedAccessKey"

// An instance is a gateway with its broker and what both stand on.
type instance struct {
	logger *slog.Logger
	folder *datafolder.Folder
	broker *broker.Broker
	policy *access.Policy
	relay  *relay.Relay
	edge   *gateway.Gateway

	started     *config.Config // the one that it was started with
	certificate atomic.Pointer[tls.Certificate]
	acme        *acme.Manager // nil where certificates come from elsewhere
	ready       ready
}

// A ready says where a gateway serves and how to get in. It is the content of the
// ready file; "" is what there is none of.
type ready struct {
	HTTP    string `json:"http"`
	HTTPS   string `json:"https"`
	Admin   string `json:"admin"`
	CA      string `json:"ca"`
	KeyName string `json:"keyname"`
	KeyFile string `json:"keyfile"`
	PID     int    `json:"pid"`
}

// newInstance takes the data folder, wires the parts and opens the listeners.
// Nothing runs yet. Close it after use.
func newInstance(c *config.Config, logger *slog.Logger) (*instance, error) {
	folder, err := datafolder.Open(c.Data)
	if errors.Is(err, datafolder.ErrInUse) {
		return nil, fmt.Errorf("%w: stop that one, or choose another folder with --data", err)
	} else if err != nil {
		return nil, err
	}
	i := &instance{logger: logger, started: c, folder: folder}
	if err := i.build(c); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// build makes the parts, each with those that it needs.
func (i *instance) build(c *config.Config) error {
	who, err := i.access(c)
	if err != nil {
		return err
	}
	if i.policy, err = access.New(who); err != nil {
		return err
	}
	secure, err := i.tls(c)
	if err != nil {
		return err
	}
	if secure != nil && c.TakesCertificates() {
		secure.ClientAuth = tls.RequestClientCert // each namespace checks them by its own authorities
	}
	registry := prometheus.NewRegistry()
	observer, err := gateway.ObserveLog(registry)
	if err != nil {
		return err
	}
	events := c.Broker()
	events.Logger, events.Observer = i.logger, observer
	if i.broker, err = broker.New(events); err != nil {
		return err
	}
	i.relay, err = relay.New(relay.Config{
		Broker: i.broker, Access: i.policy, Rules: c.RelayRules(), Limits: c.Limits.Relay, Logger: i.logger, Metrics: registry,
	})
	if err != nil {
		return err
	}
	i.edge, err = gateway.New(gateway.Config{
		Broker: i.broker, Access: i.policy, Relay: i.relay, Hosts: c.HostNames(), Dev: c.Dev,
		HTTPS: c.HTTPS, HTTP: c.HTTP, Admin: c.Admin, TLS: secure,
		Version: version(), Limits: c.Limits.Gateway, Metrics: registry, Logger: i.logger,
	})
	if err != nil {
		return err
	}
	if err := i.edge.Listen(); err != nil {
		return listenError(c, err)
	}
	i.ready.HTTPS = address("https", i.edge.HTTPSAddr())
	i.ready.HTTP = address("http", i.edge.HTTPAddr())
	i.ready.Admin = address("http", i.edge.AdminAddr())
	i.ready.PID = os.Getpid()
	return nil
}

// Close gives the data folder back.
func (i *instance) Close() error { return i.folder.Close() }

// access is the config's part of that name, with a root key where it has no keys.
// It notes which key the ready file names.
func (i *instance) access(c *config.Config) (access.Config, error) {
	who := c.Access()
	who.Log = i.logger
	if key := c.WidestKey(); key != nil {
		i.ready.KeyName, i.ready.KeyFile = key.Name, key.PrimaryFile
		return who, nil
	}
	file, err := i.folder.RootKey()
	if err != nil {
		return who, err
	}
	secret, err := config.ReadSecret(file)
	if err != nil {
		return who, fmt.Errorf("root key: %w", err)
	}
	withRootKey(&who, secret)
	i.ready.KeyName, i.ready.KeyFile = rootKey, file
	return who, nil
}

// withRootKey adds the root key to namespace default.
func withRootKey(who *access.Config, secret access.Secret) {
	ns := who.Namespaces[broker.DefaultNamespace]
	ns.Keys = []access.Key{{Name: rootKey, Primary: secret, Rights: []string{"send", "listen", "manage"}}}
	who.Namespaces[broker.DefaultNamespace] = ns
}

// tls is where the certificates of HTTPS come from; nil without HTTPS.
func (i *instance) tls(c *config.Config) (*tls.Config, error) {
	switch {
	case c.HTTPS == "":
		return nil, nil
	case c.TLS.ACME != nil:
		return i.managed(c)
	case c.Certificate == nil:
		local, err := authority.Open(filepath.Join(c.Data, "authority"))
		if err != nil {
			return nil, err
		}
		i.ready.CA = local.File()
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: local.GetCertificate}, nil
	}
	i.certificate.Store(c.Certificate)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate.Load(), nil },
	}, nil
}

// managed gets certificates from an authority.
func (i *instance) managed(c *config.Config) (*tls.Config, error) {
	host, port, err := net.SplitHostPort(c.HTTPS)
	if err != nil {
		return nil, err
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return nil, err
	}
	a := c.TLS.ACME
	i.acme, err = acme.New(acme.Config{
		Hosts: a.Hosts, Email: a.Email, CA: a.CA, Roots: a.Pool(), Folder: filepath.Join(c.Data, "acme"),
		Address: host, Port: number, Logger: i.logger,
	})
	if err != nil {
		return nil, err
	}
	return i.acme.TLS(), nil
}

// hooks are what a caller of run is told and tells. Only serving is needed.
type hooks struct {
	serving  func(ready) error     // it serves; an error stops all
	stopping func()                // it is about to drain
	reload   <-chan *config.Config // configs to take over
}

// run serves until ctx ends, then drains.
func (i *instance) run(ctx context.Context, h hooks) error {
	members := []member{
		{"broker", i.broker.Run, i.broker.Ready()},
		{"access", i.policy.Run, nil},
		{"gateway", i.edge.Run, nil},
	}
	if i.acme != nil {
		members = append(members, member{"certificates", i.acme.Run, nil})
	}
	return runMembers(ctx, append(members,
		member{"serve", func(ctx context.Context) error {
			if err := h.serving(i.ready); err != nil {
				return err
			}
			for {
				select {
				case <-ctx.Done():
					if h.stopping != nil {
						h.stopping()
					}
					return nil
				case c := <-h.reload:
					i.reload(ctx, c)
				}
			}
		}, nil},
	)...)
}

// reloadTimeout is how long the logs may take to follow a reload.
const reloadTimeout = 30 * time.Second

// reload takes over what it can of a config and says what it can't: all that it can
// or, if there is an error, nothing.
func (i *instance) reload(ctx context.Context, c *config.Config) {
	if err := i.take(ctx, c); err != nil {
		i.logger.Error("config not reloaded; the old one stays", "error", err)
		return
	}
	if rest := i.started.Restart(c); len(rest) > 0 {
		i.logger.Warn("config reloaded, but for what takes a restart", "restart", strings.Join(rest, " "))
		return
	}
	i.logger.Info("config reloaded")
}

// take is the part of reload that may fail. What can be checked is checked before
// anything is changed, and what can fail all the same comes first.
func (i *instance) take(ctx context.Context, c *config.Config) error {
	who, err := i.access(c)
	if err != nil {
		return err
	}
	if _, err := access.New(who); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	if err := i.broker.Reload(ctx, c.Broker().Namespaces); err != nil {
		return err
	}
	if err := i.relay.Reload(c.RelayRules()); err != nil {
		return err
	}
	if err := i.policy.Reload(who); err != nil {
		return err
	}
	if err := i.edge.SetHosts(i.hosts(c)); err != nil {
		return err
	}
	if c.Certificate != nil {
		i.certificate.Store(c.Certificate)
	}
	return nil
}

// hosts are those of a config that lead to a namespace which is there: a new one
// takes a restart.
func (i *instance) hosts(c *config.Config) map[string]string {
	hosts := c.HostNames()
	maps.DeleteFunc(hosts, func(_, namespace string) bool {
		return namespace != broker.DefaultNamespace && i.started.Namespaces[namespace] == nil
	})
	return hosts
}

// address is the URL of a listener, "" without one. A listener on all addresses is
// named by a name that this machine has for itself.
func address(scheme string, a net.Addr) string {
	if a == nil {
		return ""
	}
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// listenError says why an address can't be had and what to do, a line for each.
func listenError(c *config.Config, err error) error {
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	var lines []error
	for _, err := range errs {
		var op *net.OpError
		if !errors.As(err, &op) || op.Addr == nil {
			lines = append(lines, err)
			continue
		}
		at := op.Addr.String()
		flag := "another address"
		for _, l := range []struct{ flag, address string }{{"--https", c.HTTPS}, {"--http", c.HTTP}, {"--admin", c.Admin}} {
			if a, err := net.ResolveTCPAddr("tcp", l.address); err == nil && l.address != "" && a.String() == at {
				flag = "another one with " + l.flag
			}
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			err = fmt.Errorf("address in use: another process holds %s; stop it, or choose %s", at, flag)
		case errors.Is(err, os.ErrPermission):
			err = fmt.Errorf("no right to listen on %s, because ports below 1024 are protected: choose %s, or give the program the right: "+
				"sudo setcap cap_net_bind_service=+ep %s", at, flag, program())
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			err = fmt.Errorf("%s is no address of this machine; choose %s", at, flag)
		}
		lines = append(lines, err)
	}
	return exitError{exitNetwork, errors.Join(lines...)}
}

// program is the path of this binary, as for a shell.
func program() string {
	path, err := os.Executable()
	if err != nil {
		return "outrelay"
	}
	return quote(path)
}

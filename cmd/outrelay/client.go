package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

const (
	defaultGateway = "http://127.0.0.1:8080"
	// tokenLife is how long a token that is made from a key holds.
	tokenLife = 10 * time.Minute
)

// clientFlags are the flags of every command that talks to a gateway.
type clientFlags struct {
	gateway, ca, tokenFile, keyName, keyFile, proxy string
	json, quiet                                     bool
}

// addClientFlags gives a command the flags.
func addClientFlags(cmd *cobra.Command) *clientFlags {
	f := &clientFlags{}
	flags := cmd.Flags()
	flags.StringVar(&f.gateway, "gateway", "", "the gateway's `URL` (else OUTRELAY_GATEWAY, else "+defaultGateway+")")
	flags.StringVar(&f.ca, "ca", "", "trust the certificates in `FILE` (PEM) too")
	flags.StringVar(&f.tokenFile, "token-file", "", "read the token from `FILE`, again for each connection (else OUTRELAY_TOKEN)")
	flags.StringVar(&f.keyName, "key-name", "", "make short-lived tokens from the shared key of this `NAME`")
	flags.StringVar(&f.keyFile, "key-file", "", "the `FILE` that holds that key alone")
	flags.StringVar(&f.proxy, "proxy", "", "the proxy's `URL` (else HTTPS_PROXY, HTTP_PROXY and NO_PROXY)")
	flags.BoolVar(&f.json, "json", false, "print JSON, also on a terminal")
	flags.BoolVar(&f.quiet, "quiet", false, "say nothing but errors on standard error")
	return f
}

// client makes a client for a command; what is wrong with the flags is a usage error.
// Close it after use.
func (f *clientFlags) client(cmd *cobra.Command) (*subscriber.Client, error) {
	config, err := f.config()
	if err != nil {
		return nil, usageError{cmd.CommandPath(), err}
	}
	c, err := subscriber.New(config)
	if err != nil {
		return nil, usageError{cmd.CommandPath(), err}
	}
	return c, nil
}

// config makes a client's configuration of the flags and the environment.
func (f *clientFlags) config() (subscriber.Config, error) {
	c := subscriber.Config{Gateway: cmp.Or(f.gateway, os.Getenv("OUTRELAY_GATEWAY"), defaultGateway)}
	var err error
	if f.ca != "" {
		if c.TLS, err = trust("--ca", f.ca); err != nil {
			return c, err
		}
	}
	if f.proxy != "" {
		if c.Proxy, err = proxy(f.proxy); err != nil {
			return c, err
		}
	}
	if c.Token, err = f.token(c.Gateway); err != nil {
		return c, err
	}
	if _, err := subscriber.New(c); err != nil { // which opens nothing
		return c, errors.New(strings.Replace(err.Error(), "subscriber: Config.Gateway", "the gateway's address", 1))
	}
	return c, nil
}

// trust adds the certificates in the file that a flag names to those of the system.
func trust(flag, file string) (*tls.Config, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if err := trustFile(pool, flag, file); err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// trustFile adds the certificates in a file to a pool.
func trustFile(pool *x509.CertPool, flag, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: %s holds no certificate in PEM form", flag, file)
	}
	return nil
}

// proxy is one for all requests. Its password, if it has one, belongs into the
// environment, because arguments are open to everybody on the machine.
func proxy(address string) (func(*http.Request) (*url.URL, error), error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("--proxy is no address such as http://proxy.example.com:3128")
	}
	if _, secret := u.User.Password(); secret {
		return nil, errors.New("--proxy holds a password, which everybody on this machine could read; put the address into HTTPS_PROXY instead")
	}
	return http.ProxyURL(u), nil
}

// token is where tokens come from; nil without any.
func (f *clientFlags) token(gateway string) (func(context.Context) (string, error), error) {
	given := os.Getenv("OUTRELAY_TOKEN")
	switch {
	case (f.keyName == "") != (f.keyFile == ""):
		return nil, errors.New("--key-name and --key-file go together")
	case f.keyName != "" && f.tokenFile != "":
		return nil, errors.New("--token-file and --key-file are two ways to one thing; give one")
	case f.keyName != "":
		key, err := secret("--key-file", f.keyFile)
		if err != nil {
			return nil, err
		}
		u, err := url.Parse(gateway)
		if err != nil {
			return nil, nil // the client says so, and better
		}
		root := u.Scheme + "://" + u.Host + "/"
		return func(context.Context) (string, error) {
			return schemas.SignSAS(root, f.keyName, key, time.Now().Add(tokenLife)), nil
		}, nil
	case f.tokenFile != "":
		if _, err := secret("--token-file", f.tokenFile); err != nil {
			return nil, err
		}
		return func(context.Context) (string, error) { return secret("--token-file", f.tokenFile) }, nil
	case given != "":
		return func(context.Context) (string, error) { return given, nil }, nil
	}
	return nil, nil
}

// secret reads what a file holds alone.
func secret(flag, file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return oneLine(flag, file, b)
}

// oneLine is the one line of text that a file must hold.
func oneLine(flag, file string, content []byte) (string, error) {
	s := strings.TrimSpace(string(content))
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", fmt.Errorf("%s: %s must hold one line", flag, file)
	}
	return s, nil
}

// misused makes a usage error of what a gateway refused of a command's arguments.
func misused(cmd *cobra.Command, err error) error {
	for _, p := range []*schemas.Problem{schemas.ErrName, schemas.ErrFilter, schemas.ErrParameter, schemas.ErrCursor} {
		if errors.Is(err, p) {
			return usageError{cmd.CommandPath(), err}
		}
	}
	return err
}

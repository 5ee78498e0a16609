package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// A Gateway says where a running gateway is.
type Gateway struct {
	HTTP  string // its address for plain HTTP, such as "http://127.0.0.1:8080"
	HTTPS string // its address for HTTPS
	CA    string // the file with the authority of its certificate, in PEM
}

// A Serve runs a gateway for development, as "outrelay serve --dev" does, with its
// data in a folder, on free ports of loopback. It calls ready once it serves, and
// returns when ctx has ended and the gateway has drained.
type Serve func(ctx context.Context, data string, ready func(Gateway)) error

// serving is a gateway that runs.
type serving struct {
	Gateway
	cancel context.CancelFunc
	ended  chan struct{} // closed when serve has returned
	err    error         // its error, set before ended is closed
}

// start runs a gateway and waits until it serves. The caller must call stop.
func start(ctx context.Context, serve Serve, data string) (*serving, error) {
	// The gateway outlives ctx, so that its subscribers can leave before it goes.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &serving{cancel: cancel, ended: make(chan struct{})}
	ready := make(chan Gateway, 1)
	go func() { // the gateway's; ends with own or by a fault
		defer close(s.ended)
		s.err = serve(own, data, func(g Gateway) { ready <- g })
	}()
	select {
	case s.Gateway = <-ready:
		return s, nil
	case <-s.ended:
		cancel()
		return nil, fmt.Errorf("start the gateway: %w", s.err)
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), s.stop())
	}
}

// stop ends the gateway and waits for it.
func (s *serving) stop() error {
	s.cancel()
	<-s.ended
	return s.err
}

// watch returns a context that ends with ctx, or when the gateway does.
func (s *serving) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() { // ends with the gateway or with the context
		defer close(done)
		select {
		case <-s.ended:
			cancel(errors.Join(errors.New("the gateway has ended"), s.err))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled); <-done }
}

// trust is a TLS configuration that trusts the gateway's authority and no other.
func (g Gateway) trust() (*tls.Config, error) {
	pem, err := os.ReadFile(g.CA)
	if err != nil {
		return nil, fmt.Errorf("the gateway's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the gateway's authority: %s holds no certificate", g.CA)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

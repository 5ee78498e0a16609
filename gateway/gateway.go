// Package gateway is the public edge: HTTP and WebSocket in, calls of the broker
// out. One file a way in: publish, stream, sse, history. What they share is in
// dispatch (which handler), call (one request and its answer), params and flow
// (what a stream sends, and when).
//
// # Promises
//
//   - Whatever is refused is refused with a problem (protocol section 4) that tells
//     what to do, before a socket is upgraded, and changes nothing.
//   - A stream stands when its handshake is answered: what is published from then on
//     is delivered on it or announced as a gap.
//   - No client blocks the gateway: every read and write has a deadline, and all
//     that a client can make grow has a bound.
//
// # Concurrency
//
// All methods may be called from any goroutine. No goroutine of the gateway starts
// before [Gateway.Run] is called or outlives it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/gateway/frame"
)

// A Gateway is made by [New]. Call [Gateway.Listen] once, then [Gateway.Run] once.
type Gateway struct {
	config  Config
	hosts   atomic.Pointer[map[string]string] // see [Gateway.SetHosts]
	metrics *metrics
	bodies  budget

	// Fixed by Listen.
	https, http, admin        net.Listener // nil where there is none
	httpsPort, httpPort       int
	public, plain, management *http.Server

	// ctx is for what outlives the request that began it; abandon ends it when a
	// drain is over.
	ctx     context.Context
	abandon context.CancelFunc
	tasks   sync.WaitGroup // goroutines that no http.Server waits for

	pumps []*pump // fixed by Run

	draining   atomic.Bool
	drainLeast time.Duration // [drainLeast], but for tests

	mu      sync.Mutex
	open    map[occupant]struct{} // guarded by mu
	streams map[string]int        // guarded by mu: open or being opened, by namespace
	emptied chan struct{}         // closed once a drain has nothing open left
}

// New checks the configuration and makes a gateway. It starts nothing. The error
// names all faults at once.
func New(c Config) (*Gateway, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	g := &Gateway{
		config:     c,
		bodies:     budget{most: c.Limits.MaxBodyBytes},
		open:       map[occupant]struct{}{},
		streams:    map[string]int{},
		emptied:    make(chan struct{}),
		drainLeast: drainLeast,
	}
	if err := g.SetHosts(c.Hosts); err != nil {
		return nil, err
	}
	g.ctx, g.abandon = context.WithCancel(context.Background())
	var err error
	if g.metrics, err = newMetrics(c.Metrics, g); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

// Listen opens the listeners, so that their addresses are known. Connections wait
// until Run serves them. If it fails, nothing stays open.
func (g *Gateway) Listen() error {
	connections := &connectionLimit{most: int64(g.config.Limits.MaxConnections)}
	g.metrics.connections = connections
	var opened []net.Listener
	open := func(address string, limit *connectionLimit) (net.Listener, error) {
		if address == "" {
			return nil, nil
		}
		// TCP's own probes are off: whoever stays connected is asked for a sign of life on
		// a level above, and setting them costs a connection four system calls.
		l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
		if err != nil {
			return nil, err
		}
		opened = append(opened, l)
		return frame.Listener{Listener: &listener{Listener: l, limit: limit}}, nil
	}
	var errs [3]error
	g.https, errs[0] = open(g.config.HTTPS, connections)
	g.http, errs[1] = open(g.config.HTTP, connections)
	g.admin, errs[2] = open(g.config.Admin, &connectionLimit{most: maxAdminConnections})
	if err := errors.Join(errs[:]...); err != nil {
		for _, l := range opened {
			l.Close()
		}
		g.https, g.http, g.admin = nil, nil, nil
		return err
	}
	if g.https != nil {
		g.httpsPort = g.https.Addr().(*net.TCPAddr).Port
	}
	if g.http != nil {
		g.httpPort = g.http.Addr().(*net.TCPAddr).Port
	}
	g.public, g.plain, g.management = g.newServer(true), g.newServer(false), g.newAdminServer()
	return nil
}

// HTTPSAddr is the address of the TLS listener, nil if there is none. It and its
// siblings hold from Listen on.
func (g *Gateway) HTTPSAddr() net.Addr { return address(g.https) }

// HTTPAddr is the address of the plain listener, nil if there is none.
func (g *Gateway) HTTPAddr() net.Addr { return address(g.http) }

// AdminAddr is the address of the admin listener, nil if there is none.
func (g *Gateway) AdminAddr() net.Addr { return address(g.admin) }

func address(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// newServer makes a server of the public endpoints.
func (g *Gateway) newServer(secure bool) *http.Server {
	l := g.config.Limits
	s := &http.Server{
		Handler:           http.HandlerFunc(g.serve),
		ReadHeaderTimeout: l.HeaderTimeout,
		IdleTimeout:       l.IdleTimeout,
		// net/http reads 4 KiB more than it is told, and may hold 4 KiB already.
		MaxHeaderBytes:               l.HeaderBytes - 8<<10,
		DisableGeneralOptionsHandler: true,
		// It speaks of connections that failed, at length and by strangers' will.
		ErrorLog:  slog.NewLogLogger(g.config.Logger.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			SendPingTimeout:      l.PingInterval,
			PingTimeout:          l.PingInterval,
			WriteByteTimeout:     2 * l.PingInterval,
		},
	}
	s.Protocols.SetHTTP1(true)
	if secure {
		s.Protocols.SetHTTP2(true)
		if g.config.TLS != nil {
			s.TLSConfig = g.config.TLS.Clone()
		}
	}
	return s
}

// Run serves until ctx ends, then drains and returns nil. The error is that of a
// listener, or of the relay, that failed. All goroutines of the gateway have ended when it returns.
func (g *Gateway) Run(ctx context.Context) error {
	var serving sync.WaitGroup
	failed := make(chan error, 4) // of three listeners and the relay
	serve := func(s *http.Server, l net.Listener, secure bool) {
		if l == nil {
			return
		}
		serving.Go(func() {
			err := error(nil)
			if secure {
				err = s.ServeTLS(l, "", "")
			} else {
				err = s.Serve(l)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		})
	}
	g.startPumps()
	serve(g.public, g.https, true)
	serve(g.plain, g.http, false)
	serve(g.management, g.admin, false)
	g.tasks.Go(g.watchRights)
	if g.config.Relay != nil {
		g.tasks.Go(func() {
			if err := g.config.Relay.Run(g.ctx); err != nil {
				failed <- fmt.Errorf("relay: %w", err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		g.config.Logger.Error("gateway failed", "error", err)
	}
	g.drain()
	serving.Wait()
	return err
}

// Package gateway is the public edge: HTTP and WebSocket in, calls of the broker
// out. One file a way in: publish, stream, sse, history; what all share is in
// dispatch (which handler), call (one request and its answer), params, notice and
// reasons.
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
	"net"
)

// A Gateway is made by [New]. Call [Gateway.Listen] once, then [Gateway.Run] once.
type Gateway struct {
	config Config
}

// New checks the configuration and makes a gateway. It starts nothing. The error
// names all faults at once.
func New(c Config) (*Gateway, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Gateway{config: c}, nil
}

// Listen opens the listeners, so that their addresses are known. Connections wait
// until Run serves them. If it fails, nothing stays open.
func (g *Gateway) Listen() error { panic("to come") }

// HTTPSAddr is the address of the TLS listener, nil if there is none. It and its
// siblings hold from Listen on.
func (g *Gateway) HTTPSAddr() net.Addr { panic("to come") }

// HTTPAddr is the address of the plain listener, nil if there is none.
func (g *Gateway) HTTPAddr() net.Addr { panic("to come") }

// AdminAddr is the address of the admin listener, nil if there is none.
func (g *Gateway) AdminAddr() net.Addr { panic("to come") }

// Run serves until ctx ends, then drains and returns nil. The error is a listener's
// that failed. All goroutines of the gateway have ended when it returns.
func (g *Gateway) Run(ctx context.Context) error { panic("to come") }

package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/schemas"
)

// A Broker is what the gateway needs of package broker; [broker.Broker] fits it.
// All methods may be called concurrently. An error that is a [schemas.Problem]
// reaches the client as it is; any other is logged, and the client gets a problem
// that hides it.
type Broker interface {
	// Publish stores events, all or none. Begin is its first half: see there.
	Publish(ctx context.Context, namespace string, topic schemas.Topic, events []*schemas.Event) (broker.Receipt, error)
	Begin(ctx context.Context, namespace string, topic schemas.Topic, events []*schemas.Event) (*broker.Publishing, error)
	// Stored says whether a topic is kept in the log.
	Stored(namespace string, topic schemas.Topic) bool
	// Subscribe opens a stream, which stands once it returns.
	Subscribe(ctx context.Context, namespace string, o broker.StreamOptions) (*broker.Stream, error)
	// History reads a page of stored events.
	History(ctx context.Context, namespace string, o broker.HistoryOptions) (broker.HistoryPage, error)
	// What follows is about durable subscriptions; package broker says what it does.
	PutSubscription(ctx context.Context, namespace, name string, o broker.SubscriptionOptions, start broker.Start) (created bool, err error)
	SubscriptionOptions(ctx context.Context, namespace, name string) (broker.SubscriptionOptions, error)
	Subscription(ctx context.Context, namespace, name string) (broker.Subscription, error)
	Subscriptions(ctx context.Context, namespace string) ([]broker.Subscription, error)
	DeleteSubscription(ctx context.Context, namespace, name string) error
	ReplaySubscription(ctx context.Context, namespace, name string, start broker.Start) error
	Requeue(ctx context.Context, namespace, name string, cursors []schemas.Cursor) error
	RequeueAll(ctx context.Context, namespace, name string) (int, error)
	OpenSubscription(ctx context.Context, namespace, name string, o broker.SubscriberOptions) (*broker.Subscriber, error)
	Receive(ctx context.Context, namespace, name string, o broker.ReceiveOptions) ([]broker.SubscriptionDelivery, error)
	Settle(ctx context.Context, namespace, name string, settlement broker.Settlement) (broker.Settled, error)
	SubscriptionCounts(namespace string) broker.SubscriptionCounts
	// Promise says in words what an answered publish survives.
	Promise() string
}

// Config says what a gateway serves, to whom and where.
type Config struct {
	// Broker must serve before [Gateway.Run] is called and until it has returned.
	Broker Broker
	// Access decides who may do what, and from which browser origins.
	Access *access.Policy

	// Relay joins the senders and listeners of hybrid connections; nil for none. Run
	// runs it.
	Relay *relay.Relay

	// Hosts maps host names, in lower case and without port, to namespaces. A
	// request to any other host gets 421.
	Hosts map[string]string
	// Dev makes an unknown host the namespace "default". The caller sees to it that
	// only loopback is listened on.
	Dev bool

	// HTTPS, HTTP and Admin are the addresses to listen on, host:port. Port 0 takes
	// a free one, an empty address leaves that listener out. At least one of HTTPS
	// and HTTP is needed.
	HTTPS, HTTP, Admin string
	// TLS holds the certificates for HTTPS. The gateway sets the protocols (ALPN).
	TLS *tls.Config

	// Version is shown in /.well-known/outrelay and the metrics; "" is "dev".
	Version string
	Limits  Limits
	// Metrics takes the gateway's metrics and is served on the admin listener;
	// nil makes one of its own.
	Metrics *prometheus.Registry
	// Logger takes what an operator should know; nil discards it. No token, query
	// or name that a client chose is ever in it.
	Logger *slog.Logger
}

// Limits are the gateway's bounds. Zero is the default, which [DefaultLimits] shows.
type Limits struct {
	// MaxConnections is how many TCP connections are open at once over both public
	// listeners; one more is closed at once.
	MaxConnections int
	// MaxStreams is how many streams, sessions, subscriptions of sessions and long polls
	// are open at once in a namespace; one more gets 429.
	MaxStreams int
	// MaxBodyBytes is how much memory the bodies of all requests and the messages of
	// all WebSockets take at once; one more gets 429, or a close with 1013.
	MaxBodyBytes int64
	// SessionSubscriptions is how many subscriptions a session has open at once.
	SessionSubscriptions int
	// SessionRequests is how many requests of a session wait for their answer; while
	// there are as many no more is read from it.
	SessionRequests int
	// HeaderBytes is the longest request head that is read.
	HeaderBytes int
	// HeaderTimeout is for the TLS handshake, and for a request's head.
	HeaderTimeout time.Duration
	// BodyTimeout is for a request's body, or one WebSocket message, to arrive in all.
	BodyTimeout time.Duration
	// StallTimeout is for the next piece of a body to arrive.
	StallTimeout time.Duration
	// IdleTimeout closes a connection that waits for its next request.
	IdleTimeout time.Duration
	// WriteTimeout is for a client to take the next piece of an answer, and for
	// the last step of closing a WebSocket.
	WriteTimeout time.Duration
	// BrokerTimeout is how long the broker may take for a publish, a history page or
	// opening a stream.
	BrokerTimeout time.Duration
	// Compression offers permessage-deflate to WebSocket clients (RFC 7692), without
	// context takeover.
	Compression bool
	// PingInterval is the longest that an idle stream is silent (protocol section
	// 4); the pings come up to a tenth earlier, so that they spread. Two intervals
	// with no frame received and no progress in writing close a connection.
	PingInterval time.Duration
	// DrainTimeout is how long a drain may take in all.
	DrainTimeout time.Duration
	// PreflightAge is how long a browser may keep the answer to a CORS preflight.
	PreflightAge time.Duration
}

// DefaultLimits are the limits where the configuration names none.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.MaxConnections = cmp.Or(l.MaxConnections, 50_000)
	l.MaxStreams = cmp.Or(l.MaxStreams, 50_000)
	l.MaxBodyBytes = cmp.Or(l.MaxBodyBytes, 256<<20)
	l.SessionSubscriptions = cmp.Or(l.SessionSubscriptions, 1000)
	l.SessionRequests = cmp.Or(l.SessionRequests, 256)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, 32<<10)
	l.HeaderTimeout = cmp.Or(l.HeaderTimeout, 10*time.Second)
	l.BodyTimeout = cmp.Or(l.BodyTimeout, 2*time.Minute)
	l.StallTimeout = cmp.Or(l.StallTimeout, 10*time.Second)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, 2*time.Minute)
	l.WriteTimeout = cmp.Or(l.WriteTimeout, 30*time.Second)
	l.BrokerTimeout = cmp.Or(l.BrokerTimeout, 30*time.Second)
	l.PingInterval = cmp.Or(l.PingInterval, 25*time.Second)
	l.DrainTimeout = cmp.Or(l.DrainTimeout, 25*time.Second)
	l.PreflightAge = cmp.Or(l.PreflightAge, 2*time.Hour)
	return l
}

func (c Config) withDefaults() Config {
	c.Version = cmp.Or(c.Version, "dev")
	c.Limits = c.Limits.withDefaults()
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Broker == nil {
		fault("gateway: no broker")
	}
	if c.Access == nil {
		fault("gateway: no access policy")
	}
	if c.HTTPS == "" && c.HTTP == "" {
		fault("gateway: neither an https nor an http address")
	}
	if c.HTTPS != "" && c.TLS == nil {
		fault("gateway: https on %s needs certificates", c.HTTPS)
	}
	faults = append(faults, checkHosts(c.Hosts)...)
	l := c.Limits
	for _, n := range []struct {
		name  string
		value int64
		least int64
	}{
		{"maxconnections", int64(l.MaxConnections), 1},
		{"maxstreams", int64(l.MaxStreams), 1},
		{"maxbodybytes", l.MaxBodyBytes, schemas.MaxBatch + 1},
		{"sessionsubscriptions", int64(l.SessionSubscriptions), 1},
		{"sessionrequests", int64(l.SessionRequests), 1},
		{"headerbytes", int64(l.HeaderBytes), 16 << 10},
		{"headertimeout", int64(l.HeaderTimeout), 1},
		{"bodytimeout", int64(l.BodyTimeout), 1},
		{"stalltimeout", int64(l.StallTimeout), 1},
		{"idletimeout", int64(l.IdleTimeout), 1},
		{"writetimeout", int64(l.WriteTimeout), 1},
		{"brokertimeout", int64(l.BrokerTimeout), 1},
		{"pinginterval", int64(l.PingInterval), 1},
		{"draintimeout", int64(l.DrainTimeout), 1},
		{"preflightage", int64(l.PreflightAge), 1},
	} {
		if n.value < n.least {
			fault("limits: %s is %d; at least %d is needed", n.name, n.value, n.least)
		}
	}
	return errors.Join(faults...)
}

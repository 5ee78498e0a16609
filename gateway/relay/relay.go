package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// Config says what a relay serves, and to whom.
type Config struct {
	// Broker is where listeners and senders of all gateways find each other.
	Broker *broker.Broker
	// Access decides who may listen and send, and from which browser origins.
	Access *access.Policy
	// Rules are those of each namespace's hybrid connections.
	Rules  map[string][]Rule
	Limits Limits
	// Logger takes what an operator should know; nil discards it. No token, query or
	// name that a client chose is ever in it.
	Logger *slog.Logger
	// Metrics takes the relay's metrics; nil for none.
	Metrics *prometheus.Registry
}

// Limits are the relay's bounds. Zero is the default, which [DefaultLimits] shows.
type Limits struct {
	// RelayListeners is how many control channels are open at once on this gateway;
	// one more is refused with 429.
	RelayListeners int
	// RelayConnections is how many joined pairs are open at once; one more sender
	// is refused with 429.
	RelayConnections int
	// RelayWaiting is how many senders wait for a listener at once; one more is refused with 429.
	RelayWaiting int
	// RelayAccept is how long a listener has to accept a WebSocket, and how long its
	// address is good.
	RelayAccept time.Duration
	// RelayPing is how often a control channel is pinged. One that shows no sign of
	// life for two and a half times as long is cut.
	RelayPing time.Duration
	// RelayPeerPing is the silence after which a side of a joined pair is pinged; two
	// without a sign of life cut it.
	RelayPeerPing time.Duration
	// RelayIdle ends a joined pair on which nothing went either way.
	RelayIdle time.Duration
	// RelayLifetime ends a joined pair, however busy.
	RelayLifetime time.Duration
	// RelayRequests is how many HTTP requests are under way at once; one more gets 429.
	RelayRequests int
	// RelayBodyBytes is the longest body of an HTTP request or its answer. A longer one of
	// a request gets 413, one of an answer 502 or, once it has begun, breaks it off.
	RelayBodyBytes int64
	// RelayInlineBytes is the longest body of an answer on a control channel.
	RelayInlineBytes int
	// RelayHeldBytes is how much memory the bodies of all requests and answers take that
	// travel on control channels; one more gets 429.
	RelayHeldBytes int64
	// RelayBodyIdle is for the next piece of a body to come, or to be taken.
	RelayBodyIdle time.Duration
}

// DefaultLimits are the limits where the configuration names none.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.RelayListeners = cmp.Or(l.RelayListeners, 10_000)
	l.RelayConnections = cmp.Or(l.RelayConnections, 20_000)
	l.RelayWaiting = cmp.Or(l.RelayWaiting, 10_000)
	l.RelayAccept = cmp.Or(l.RelayAccept, 30*time.Second)
	l.RelayPing = cmp.Or(l.RelayPing, 10*time.Second)
	l.RelayPeerPing = cmp.Or(l.RelayPeerPing, 25*time.Second)
	l.RelayIdle = cmp.Or(l.RelayIdle, 24*time.Hour)
	l.RelayLifetime = cmp.Or(l.RelayLifetime, 30*24*time.Hour)
	l.RelayRequests = cmp.Or(l.RelayRequests, 10_000)
	l.RelayBodyBytes = cmp.Or(l.RelayBodyBytes, 64<<30)
	l.RelayInlineBytes = cmp.Or(l.RelayInlineBytes, 1<<20)
	l.RelayHeldBytes = cmp.Or(l.RelayHeldBytes, 64<<20)
	l.RelayBodyIdle = cmp.Or(l.RelayBodyIdle, time.Minute)
	return l
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Broker == nil {
		fault("relay: no broker")
	}
	if c.Access == nil {
		fault("relay: no access policy")
	}
	l := c.Limits
	for _, n := range []struct {
		name         string
		value, least int64
	}{
		{"relaylisteners", int64(l.RelayListeners), 1},
		{"relayconnections", int64(l.RelayConnections), 1},
		{"relaywaiting", int64(l.RelayWaiting), 1},
		{"relayaccept", int64(l.RelayAccept), 1},
		{"relayping", int64(l.RelayPing), 1},
		{"relaypeerping", int64(l.RelayPeerPing), 1},
		{"relayidle", int64(l.RelayIdle), 1},
		{"relaylifetime", int64(l.RelayLifetime), 1},
		{"relayrequests", int64(l.RelayRequests), 1},
		{"relaybodybytes", l.RelayBodyBytes, 1},
		{"relayinlinebytes", int64(l.RelayInlineBytes), inlineRequest},
		{"relayheldbytes", l.RelayHeldBytes, 1 << 20},
		{"relaybodyidle", int64(l.RelayBodyIdle), 1},
	} {
		if n.value < n.least {
			fault("limits: %s is %d; at least %d is needed", n.name, n.value, n.least)
		}
	}
	return errors.Join(faults...)
}

// A Relay is made by [New] and works while [Relay.Run] runs.
type Relay struct {
	broker     *broker.Broker
	rendezvous *broker.Rendezvous
	metrics    *metrics
	access     *access.Policy
	limits     Limits
	logger     *slog.Logger
	rules      atomic.Pointer[ruleBook]
	meetings   meetings
	throttle   throttle
	sticky     sticky
	bodies     budget

	made  time.Time
	clock atomic.Int64 // Unix seconds, to compare times without asking for them

	halted   chan struct{} // closed when the relay drains or stops
	halt     func()
	starting sync.Mutex
	stopped  bool           // guarded by starting
	tasks    sync.WaitGroup // every goroutine of the relay but Run's own

	mu        sync.Mutex
	listeners map[*listener]struct{} // guarded by mu
	numbers   map[uint64]*listener   // guarded by mu: the same by number
	counts    map[entity]int         // listeners here, guarded by mu
	splices   map[*splice]struct{}   // guarded by mu
	exchanges map[*exchange]struct{} // guarded by mu
	tunnels   map[uint64]*tunnel     // guarded by mu, by number
	joining   int                    // splices that are about to run, guarded by mu
	draining  bool                   // guarded by mu
}

// New checks the configuration and makes a relay. It starts nothing. The error names
// all faults at once.
func New(c Config) (*Relay, error) {
	c.Limits = c.Limits.withDefaults()
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	book, err := newRuleBook(c.Rules)
	if err := errors.Join(c.validate(), err); err != nil {
		return nil, err
	}
	r := &Relay{
		made: time.Now(), broker: c.Broker, access: c.Access, limits: c.Limits, logger: c.Logger,
		listeners: map[*listener]struct{}{}, numbers: map[uint64]*listener{}, counts: map[entity]int{}, splices: map[*splice]struct{}{},
		exchanges: map[*exchange]struct{}{}, tunnels: map[uint64]*tunnel{}, bodies: budget{most: c.Limits.RelayHeldBytes},
	}
	if r.metrics, err = newMetrics(c.Metrics, r); err != nil {
		return nil, err
	}
	r.rules.Store(book)
	r.rendezvous = broker.NewRendezvous(c.Broker, r.hear)
	r.meetings.init(r.rendezvous.Gateway(), c.Limits.RelayWaiting)
	r.throttle.init()
	r.sticky.init()
	r.halted = make(chan struct{})
	r.halt = sync.OnceFunc(func() { close(r.halted) })
	r.clock.Store(time.Now().Unix())
	return r, nil
}

// Run works until ctx ends; then it cuts all that is still open and waits for the
// last goroutine. It may be called once, and must return before the broker's Run does.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := r.rendezvous.Run(ctx); err != nil {
			failed <- err
		}
	})
	tasks.Go(func() { r.watchRights(ctx) })
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var err error
	for working := true; working; {
		select {
		case <-ctx.Done():
			working = false
		case err = <-failed:
			working = false
		case now := <-ticker.C:
			r.sweep(now)
		}
	}
	r.stop()
	cancel()
	tasks.Wait()
	return err
}

// start runs f in a goroutine that Run waits for. Once the relay has stopped f is not
// run, and start reports false.
func (r *Relay) start(f func()) bool {
	r.starting.Lock()
	defer r.starting.Unlock()
	if r.stopped {
		return false
	}
	r.tasks.Go(f)
	return true
}

// stop cuts all that is open and waits.
func (r *Relay) stop() {
	r.starting.Lock()
	r.halt()
	r.stopped = true
	r.starting.Unlock()
	r.mu.Lock()
	r.draining = true
	for l := range r.listeners {
		l.cut()
	}
	for s := range r.splices {
		s.cut()
	}
	for x := range r.exchanges {
		x.cancel(errDraining())
	}
	for _, t := range r.tunnels {
		t.end()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// sweep looks after what is open, every second.
func (r *Relay) sweep(now time.Time) {
	tick := now.Unix()
	r.clock.Store(tick)
	r.throttle.sweep(now)
	r.sticky.sweep(now)
	r.sweepTunnels(now)
	_, splices := r.open()
	for _, s := range splices {
		s.sweep(tick)
		r.metrics.moved(s)
	}
}

// Serve answers a request for an address of the relay: one below /$hc, or any other
// whose first segment is not reserved. host is the hybrid connection that the
// request's host name is bound to, "" for none.
func (r *Relay) Serve(w http.ResponseWriter, q *http.Request, namespace, host string) {
	v := r.visit(w, q, namespace, host)
	switch err := v.serve(); {
	case err == nil:
	case errors.Is(err, errCut):
		panic(http.ErrAbortHandler)
	default:
		v.refuse(err)
	}
}

// serve answers the request, or returns why not.
func (v *visit) serve() error {
	if err := v.read(); err != nil {
		return err
	}
	switch v.action {
	case actionAccept, actionRequest:
		return v.accept()
	case actionListen:
		return v.listen()
	}
	switch {
	case v.asksInformation():
		return v.information()
	case !v.upgrade:
		return v.request()
	}
	return v.connect()
}

func errDraining() *schemas.Problem {
	p := schemas.Problemf("draining", "This gateway is about to stop; connect to another, or again in a moment.")
	p.RetryAfter = time.Second
	return p
}

func errFull(what string) *schemas.Problem {
	p := schemas.Problemf("rate", "The gateway has its hands full with %s; try again.", what)
	p.RetryAfter = time.Second
	return p
}

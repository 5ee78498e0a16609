// Package broker takes events in and hands them out: live to any number of
// subscribers, and at least once to the subscriptions that outlive a connection.
//
// It stands on NATS, embedded or a cluster elsewhere, and is the only package
// that knows so. It knows nothing of HTTP: package gateway turns requests into calls.
//
// # Promises
//
//   - An event is kept as the log's [Promise] says once [Broker.Publish] returns nil, and not before.
//   - Events of a namespace's stored topics reach every stream in the order in which they were stored.
//   - A stream that misses events is told so ([Gap]); it never misses them in silence.
//
// # Concurrency
//
// All methods may be called from any goroutine. No goroutine of the broker starts
// before [Broker.Run] is called or outlives it.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/broker/vet"
	"github.com/outrelay/outrelay/schemas"
)

// DefaultNamespace is the tenant where the configuration names none.
const DefaultNamespace = "default"

// A Broker is made by [New] and serves while [Broker.Run] runs.
type Broker struct {
	config Config
	logger *slog.Logger

	ready chan struct{}   // closed once the fields below are set
	ctx   context.Context // Run's; ends all tasks

	reloading sync.Mutex // held by one Reload at a time

	starting sync.Mutex
	closing  bool           // guarded by starting
	tasks    sync.WaitGroup // every goroutine of the broker but Run's own

	disk    *disk
	notes   *notes
	conn    *nats.Conn // publishes and requests
	feeding *nats.Conn // what feeds read, so that a full one never holds up a publish
	js      jetstream.JetStream

	cut        cuts                  // of either connection
	namespaces map[string]*namespace // fixed by Run
	readers    chan struct{}         // a slot for each reader of the log

	gateway     uint64  // names this run of the broker to others
	lines       []*line // what subscriptions are delivered on
	peers       *peers
	seals       *seals
	claims      claims
	lapses      *lapses
	subscribers atomic.Uint64 // numbers them
}

// A namespace is a tenant's log, its way in and its way out.
type namespace struct {
	name   string
	rules  *rulebook
	log    *eventLog
	writer *writer

	answered *vet.Answered // nil where there are no notes; fixed by Run
	noted    vet.Note      // as last written; owned by notes
	notedAt  time.Time     // when the log was last asked for it; owned by notes

	subscriptions *subscriptions

	mu   sync.Mutex
	feed *feed // nil while nobody subscribes
}

// New checks the configuration and makes a broker. It starts nothing. The error
// names all faults at once.
func New(c Config) (*Broker, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		config:     c,
		logger:     c.Logger,
		ready:      make(chan struct{}),
		namespaces: map[string]*namespace{},
		readers:    make(chan struct{}, c.Limits.LogReaders),
		gateway:    newGateway(),
	}
	b.disk = newDisk(b)
	b.notes = &notes{broker: b}
	b.peers = newPeers(b)
	b.seals = &seals{broker: b}
	b.claims = claims{b}
	b.lapses = newLapses(b)
	return b, nil
}

// Ready is closed once the broker serves.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Run starts the broker and blocks until ctx ends and all it started has ended.
// It may be called once.
func (b *Broker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.ctx = ctx
	if b.config.NATS.URL == "" {
		if err := b.notes.look(); err != nil {
			return err
		}
		if err := b.disk.start(); err != nil {
			return err
		}
		defer func() {
			b.disk.stop()
			b.notes.close(!b.disk.failed.Load())
		}()
	}
	var err error
	if b.conn, err = b.connect(ctx, "outrelay publish", b.cut.tell); err != nil {
		return err
	}
	defer closeConn(b.conn)
	if b.feeding, err = b.connect(ctx, "outrelay feed", b.cut.tell); err != nil {
		return err
	}
	defer closeConn(b.feeding)
	for range lines {
		l, err := newLine(ctx, b)
		if err != nil {
			return err
		}
		defer closeConn(l.conn)
		b.lines = append(b.lines, l)
	}
	if b.js, err = jetstream.New(b.conn, jetstream.WithDefaultTimeout(changeTimeout)); err != nil {
		return err
	}
	if size := b.conn.MaxPayload(); size < schemas.MaxEvent+headerRoom {
		b.logger.Warn("NATS takes smaller messages than the largest event; raise its max_payload", "max_payload", size, "wanted", schemas.MaxEvent+headerRoom)
	}
	// In reverse order: what uses the connections ends before they close.
	defer b.tasks.Wait()
	defer func() {
		cancel()
		b.starting.Lock()
		b.closing = true
		b.starting.Unlock()
	}()
	for _, name := range b.config.namespaces() {
		ns := &namespace{name: name, rules: newRulebook(newRules(b.config.Namespaces[name]))}
		ns.log = newEventLog(b, name, ns.rules)
		if err := ns.log.open(ctx); err != nil {
			return fmt.Errorf("log of namespace %s: %w", name, err)
		}
		ns.writer = newWriter(b, ns)
		b.namespaces[name] = ns
		if err := b.notes.settle(ctx, ns); err != nil {
			return fmt.Errorf("log of namespace %s: %w", name, err)
		}
		end, err := ns.log.place(ctx)
		if err != nil {
			return fmt.Errorf("log of namespace %s: %w", name, err)
		}
		ns.writer.end.Store(&position{end.last, end.accepted})
		if end.first > 1 { // events are gone, and nobody here saw why
			ns.log.fullAt.Store(time.Now().UnixNano())
		}
		b.start(ns.writer.run)
		ns.subscriptions = newSubscriptions(b, ns)
		b.start(ns.subscriptions.undertaker.run)
	}
	if err := b.peers.listen(); err != nil {
		return err
	}
	for _, l := range b.lines {
		b.start(l.run)
	}
	b.start(b.notes.run)
	b.start(b.disk.run)
	b.start(b.lapses.run)
	b.start(b.claims.run)
	close(b.ready)
	<-ctx.Done()
	return nil
}

// start runs f in a goroutine that Run waits for. Once Run is about to return its
// context has ended, and f is called here to do no more than notice that.
func (b *Broker) start(f func(context.Context)) {
	b.starting.Lock()
	if b.closing {
		b.starting.Unlock()
		f(b.ctx)
		return
	}
	b.tasks.Go(func() { f(b.ctx) })
	b.starting.Unlock()
}

// namespace finds a tenant by name, once the broker is ready.
func (b *Broker) namespace(name string) (*namespace, error) {
	select {
	case <-b.ready:
	default:
		return nil, errDraining()
	}
	if b.ctx.Err() != nil {
		return nil, errDraining()
	}
	ns, ok := b.namespaces[name]
	if !ok {
		return nil, schemas.Problemf("not-found", "There is no such namespace.")
	}
	return ns, nil
}

// Publish stores events under topic, all or none, and returns the place of the last.
// On a topic that is not stored it hands them to those who listen now.
//
// It blocks until the events are kept as the log promises, or ctx ends. When ctx
// ends first they may be stored all the same: publish them again, and within the
// dedup window the copies are answered with the first ones' cursor. The events are
// not kept after the return.
//
// Errors are of type [schemas.Problem]: ErrStorage, the log can't take it now;
// ErrDraining, try another gateway; ErrForbidden for the broker's own topics;
// ErrTooLarge for a batch past the limits. Protocol: section 3.
func (b *Broker) Publish(ctx context.Context, namespace string, topic schemas.Topic, events []*schemas.Event) (Receipt, error) {
	p, err := b.Begin(ctx, namespace, topic, events)
	if err != nil {
		return Receipt{}, err
	}
	return p.Wait(ctx)
}

// Begin is the first half of [Broker.Publish], for who wants the events of several
// publishes in order without waiting for each: those of a namespace that were begun
// one after the other are stored in that order, as far as they are stored. It blocks
// while the log has too many waiting. An error is final; else the caller should wait.
func (b *Broker) Begin(ctx context.Context, namespace string, topic schemas.Topic, events []*schemas.Event) (*Publishing, error) {
	ns, err := b.namespace(namespace)
	if err != nil {
		return nil, err
	}
	if topic.Notices() {
		return nil, schemas.Problemf("forbidden", "Topics under %s/ are the broker's own; publish to another.", schemas.NoticeSegment)
	}
	if len(events) > schemas.MaxBatchEvents {
		return nil, schemas.Problemf("too-large", "The batch has %d events; at most %d are allowed. Send several.", len(events), schemas.MaxBatchEvents)
	}
	if room := b.conn.MaxPayload() - headerRoom; room < schemas.MaxEvent {
		for i, e := range events { // an existing cluster with a smaller max_payload
			if int64(e.Size()) > room {
				return nil, schemas.Problemf("too-large", "The event has %d bytes; the broker's NATS is set to take %d. Its operator may raise max_payload.", e.Size(), room).At(i)
			}
		}
	}
	if ns.rules.find(topic).Unstored {
		receipt, err := b.publishLive(ns, topic, events)
		return &Publishing{receipt: receipt}, err
	}
	return ns.writer.begin(ctx, topic, events)
}

// Announce publishes an event on one of the broker's own topics, where nobody else may
// publish: whoever subscribes to it now, by name, gets it. It is not stored.
func (b *Broker) Announce(namespace string, topic schemas.Topic, e *schemas.Event) error {
	ns, err := b.namespace(namespace)
	if err != nil {
		return err
	}
	if !topic.Notices() {
		return fmt.Errorf("broker: %s is no topic of the broker's own", topic)
	}
	_, err = b.publishLive(ns, topic, []*schemas.Event{e})
	return err
}

// Stored says whether topic is kept in the log.
func (b *Broker) Stored(namespace string, topic schemas.Topic) bool {
	ns, err := b.namespace(namespace)
	return err == nil && !topic.Notices() && !ns.rules.find(topic).Unstored
}

func errDraining() *schemas.Problem {
	p := schemas.Problemf("draining", "The gateway is starting or stopping; try again, or another gateway.")
	p.RetryAfter = retryAfter
	return p
}

// errStorage hides the cause, which is logged, from strangers.
func (b *Broker) errStorage(doing string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if b.ctx.Err() != nil {
			return errDraining()
		}
		return err
	}
	if p := (*schemas.Problem)(nil); errors.As(err, &p) {
		return p
	}
	b.logger.Warn("log unavailable", "doing", doing, "error", err)
	p := schemas.Problemf("storage", "The log could not be used; try again.")
	p.RetryAfter = retryAfter
	return p
}

// namespaces lists the tenants in a fixed order.
func (c Config) namespaces() []string {
	names := make([]string, 0, len(c.Namespaces))
	for name := range c.Namespaces {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

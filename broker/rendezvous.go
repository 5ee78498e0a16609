package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// Subjects of the relay. Whoever listens on a hybrid connection subscribes to its
// subject in one queue group with all others, so that NATS chooses among them, or
// says that there is nobody; and to one that names this listener.
const (
	relayPrefix  = "relay."
	relayToOne   = "relayto."
	relayGateway = "relaygw."
	relayQueue   = "listeners"
)

const (
	// offerTries is how many listeners are asked that turn out to be gone or busy.
	offerTries = 5
	// offerTimeout is for a gateway to take an offer for one of its listeners.
	offerTimeout = 5 * time.Second
	// rendezvousWait is between tries to connect.
	rendezvousWait = 200 * time.Millisecond
	// rendezvousQueue is how many offers, and how many messages of other gateways,
	// wait here to be looked at.
	rendezvousQueue = 8192
)

// A Rendezvous brings the senders of hybrid connections together with their
// listeners, on whichever gateways of this broker they are. It knows names and
// bytes; what is said is the relay's.
//
// Make one with [NewRendezvous]. All methods may be called from any goroutine; those
// that talk to NATS wait until [Rendezvous.Run] has connected.
type Rendezvous struct {
	broker  *Broker
	gateway string
	hear    func([]byte)

	ready chan struct{} // closed once conn is set
	conn  *nats.Conn
	asked chan *nats.Msg // offers to listeners of this gateway
	told  chan *nats.Msg // what other gateways say

	mu        sync.Mutex
	listeners map[*nats.Subscription]*Listening // two for each
	names     map[string][]*Listening           // listeners here, by subject, of which each has two
}

// A Listening is a listener's place among those of its hybrid connection.
type Listening struct {
	rendezvous *Rendezvous
	subjects   [2]string
	offer      func([]byte) []byte
	subs       [2]*nats.Subscription
	once       sync.Once
}

// NewRendezvous makes a rendezvous on b. hear is told what gateways say with
// [Rendezvous.Tell], by several goroutines; it must not block or keep the bytes.
func NewRendezvous(b *Broker, hear func([]byte)) *Rendezvous {
	return &Rendezvous{
		broker: b, gateway: fmt.Sprintf("%016x", newGateway()), hear: hear,
		ready: make(chan struct{}),
		asked: make(chan *nats.Msg, rendezvousQueue), told: make(chan *nats.Msg, rendezvousQueue),
		listeners: map[*nats.Subscription]*Listening{}, names: map[string][]*Listening{},
	}
}

// Gateway names this gateway to the others: 16 hexadecimal digits.
func (r *Rendezvous) Gateway() string { return r.gateway }

// Run connects, once the broker serves, and blocks until ctx ends. It tries until it is
// connected. It must have returned before the broker's own Run does. It may be called
// once.
func (r *Rendezvous) Run(ctx context.Context) error {
	select {
	case <-r.broker.ready:
	case <-ctx.Done():
		return nil
	}
	conn := r.connect(ctx)
	if conn == nil {
		return nil
	}
	defer closeConn(conn)
	if _, err := conn.ChanSubscribe(relayGateway+r.gateway, r.told); err != nil {
		return err
	}
	r.conn = conn
	close(r.ready)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { // owns told: what is said must not wait for offers, nor these for it
		for {
			select {
			case m := <-r.told:
				if m.Reply != "" {
					m.Respond(nil) //nolint:errcheck // it was asked whether it is there
					continue
				}
				r.hear(m.Data)
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		select {
		case m := <-r.asked:
			r.ask(m)
		case <-ctx.Done():
			return nil
		}
	}
}

// connect connects, or returns nil when ctx ends first. The broker was connected already,
// so that what is in the way now passes: NATS is started anew, or slow to answer. Who
// gave up here would leave a gateway without a relay for the rest of its days.
func (r *Rendezvous) connect(ctx context.Context) *nats.Conn {
	for {
		conn, err := r.broker.connect(ctx, "outrelay relay", r.broker.cut.tell)
		if err == nil {
			return conn
		}
		if ctx.Err() != nil {
			return nil
		}
		r.broker.logger.Warn("the relay waits for NATS", "error", err)
		if waitFor(ctx, r.broker.ctx, rendezvousWait) != nil {
			return nil
		}
	}
}

// ask hands an offer to the listener that NATS chose. An empty one only asks whether
// there is anybody.
func (r *Rendezvous) ask(m *nats.Msg) {
	r.mu.Lock()
	l := r.listeners[m.Sub]
	r.mu.Unlock()
	var answer []byte
	if l != nil && len(m.Data) > 0 {
		answer = l.offer(m.Data)
	}
	m.Respond(answer) //nolint:errcheck // who asked asks another one
}

// connected waits for the connection.
func (r *Rendezvous) connected(ctx context.Context, namespace string) error {
	if _, err := r.broker.namespace(namespace); err != nil {
		return err
	}
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Listen adds a listener to those of a hybrid connection, whose name is folded. The
// id is what senders may ask for it by: one segment, which several may share. Senders
// find it once Listen has returned.
//
// offer is called with what a sender offers, by several goroutines. It must not block
// or keep the bytes; what it returns is the answer, nil if the sender
// should ask another listener.
func (r *Rendezvous) Listen(ctx context.Context, namespace, name, id string, offer func([]byte) []byte) (*Listening, error) {
	if err := r.connected(ctx, namespace); err != nil {
		return nil, err
	}
	l := &Listening{rendezvous: r, subjects: [2]string{relaySubject(namespace, name), relaySubjectOfOne(namespace, name, id)}, offer: offer}
	r.mu.Lock()
	var err error
	for i, subject := range l.subjects {
		// Locked, so that no offer is looked at before the listener is known.
		if l.subs[i], err = r.conn.ChanQueueSubscribe(subject, relayQueue, r.asked); err != nil {
			break
		}
		r.listeners[l.subs[i]] = l
		r.names[subject] = append(r.names[subject], l)
	}
	r.mu.Unlock()
	if err == nil {
		err = r.flush(ctx)
	}
	if err != nil {
		l.Leave()
		return nil, r.broker.errStorage("listen on a hybrid connection", err)
	}
	return l, nil
}

// flush waits until NATS knows what was said to it.
func (r *Rendezvous) flush(ctx context.Context) error {
	timed, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	watched, stop := r.broker.cut.watch(timed)
	defer stop()
	return cutError(ctx, r.conn.FlushWithContext(watched))
}

// Leave takes the listener away. An offer that is under way may still reach it.
func (l *Listening) Leave() {
	l.once.Do(func() {
		r := l.rendezvous
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, sub := range l.subs {
			if sub == nil {
				continue
			}
			delete(r.listeners, sub)
			sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
			subject := l.subjects[i]
			r.names[subject] = slices.DeleteFunc(r.names[subject], func(o *Listening) bool { return o == l })
			if len(r.names[subject]) == 0 {
				delete(r.names, subject)
			}
		}
	})
}

// Here is how many listeners the hybrid connection has on this gateway.
func (r *Rendezvous) Here(namespace, name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.names[relaySubject(namespace, name)])
}

// Listened says whether the hybrid connection has a listener, on any gateway.
func (r *Rendezvous) Listened(ctx context.Context, namespace, name string) (bool, error) {
	if r.Here(namespace, name) > 0 {
		return true, nil
	}
	if r.broker.peers.alone() {
		return false, nil
	}
	if err := r.connected(ctx, namespace); err != nil {
		return false, err
	}
	_, err := r.request(ctx, relaySubject(namespace, name), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return false, nil
	}
	return err == nil, err
}

// Offer hands data to one of the listeners of a hybrid connection, each as likely as
// the next, or to one with the id if that is not "", and returns its answer. It is
// the problem "no-listener", at once, if there is none.
func (r *Rendezvous) Offer(ctx context.Context, namespace, name, id string, data []byte) ([]byte, error) {
	if err := r.connected(ctx, namespace); err != nil {
		return nil, err
	}
	subject := relaySubject(namespace, name)
	if id != "" {
		subject = relaySubjectOfOne(namespace, name, id)
	}
	for range offerTries {
		// On a gateway that is alone NATS would choose among the same.
		if l := r.choose(subject); l != nil && r.broker.peers.alone() {
			if answer := l.offer(data); len(answer) > 0 {
				return answer, nil
			}
			continue
		}
		answer, err := r.request(ctx, subject, data)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, errNoListener()
		case err != nil:
			return nil, r.broker.errStorage("offer a connection to a listener", err)
		case len(answer) > 0:
			return answer, nil
		}
	}
	return nil, schemas.Problemf("rate", "The listeners have their hands full; try again.")
}

// choose picks a listener of this gateway, each as likely as the next; nil if there is
// none.
func (r *Rendezvous) choose(subject string) *Listening {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.names[subject]
	if len(all) == 0 {
		return nil
	}
	return all[rand.IntN(len(all))]
}

func errNoListener() *schemas.Problem {
	return schemas.Problemf("no-listener", "There are no listeners connected for the endpoint.")
}

// request asks a question of whoever NATS finds.
func (r *Rendezvous) request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	timed, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	watched, stop := r.broker.cut.watch(timed)
	defer stop()
	m, err := r.conn.RequestMsgWithContext(watched, &nats.Msg{Subject: subject, Data: data})
	if err != nil {
		return nil, cutError(ctx, err)
	}
	return m.Data, nil
}

// Tell says something to another gateway, or this one. That it returns nil does not
// mean that it was heard.
func (r *Rendezvous) Tell(gateway string, data []byte) error {
	if gateway == r.gateway {
		r.hear(data)
		return nil
	}
	if !gatewayName(gateway) {
		return errors.New("broker: no name of a gateway")
	}
	select {
	case <-r.ready:
		return r.conn.Publish(relayGateway+gateway, data)
	default:
		return errDraining()
	}
}

// There says whether another gateway of this broker has this name.
func (r *Rendezvous) There(ctx context.Context, gateway string) bool {
	if r.broker.peers.alone() || !gatewayName(gateway) {
		return false
	}
	select {
	case <-r.ready:
		_, err := r.request(ctx, relayGateway+gateway, nil)
		return err == nil
	default:
		return false
	}
}

// Alone says that there can be no other gateway: nobody else reaches an embedded NATS.
func (r *Rendezvous) Alone() bool { return r.broker.peers.alone() }

// gatewayName says whether s can be one.
func gatewayName(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}

func relaySubject(namespace, name string) string {
	return topicSubject(relayPrefix, namespace, schemas.Topic(name))
}

func relaySubjectOfOne(namespace, name, id string) string {
	return topicSubject(relayToOne, namespace, schemas.Topic(id+"/"+name))
}

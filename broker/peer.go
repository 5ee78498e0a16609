package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/schemas"
)

// Gateways of one broker talk to each other where JetStream can't tell: who handed a
// delivery out settles it. What they say is not kept. A gateway that is gone is known
// at once, for nobody answers.
const (
	peerPrefix = "peer."
	peerAll    = peerPrefix + "all"
)

// What gateways say to each other.
const (
	peerSettle  = "settle"  // to one: settle deliveries that you handed out
	peerThere   = "there"   // to one: are you there?
	peerHolds   = "holds"   // to one: do you have the exclusive subscription?
	peerDone    = "done"    // to all: these were settled late
	peerChanged = "changed" // to all: the subscription was changed, moved or deleted
	peerFree    = "free"    // to all: an exclusive subscription has no active subscriber
	peerState   = "state"   // to all: who has which subscription open?
)

type peerNote struct {
	Op         string      `json:"op"`
	From       uint64      `json:"from,string"`
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name,omitempty"` // of the subscription; "" with state: all
	Life       uint64      `json:"life,string,omitempty"`
	Sequences  []uint64    `json:"sequences,omitempty"`
	Settlement *Settlement `json:"settlement,omitempty"`
}

type peerAnswer struct {
	Accepted []bool             `json:"accepted,omitempty"`
	Holds    bool               `json:"holds,omitempty"`
	States   map[string]peerUse `json:"states,omitempty"`
	Problem  *schemas.Problem   `json:"problem,omitempty"`
}

// A peerUse is what one gateway knows of the use of a subscription.
type peerUse struct {
	Subscribers int `json:"subscribers,omitempty"`
	Delayed     int `json:"delayed,omitempty"`
}

const (
	// peerSlots bounds the requests of other gateways that are dealt with at once.
	peerSlots = 64
	// peerTags bounds the deliveries of one request.
	peerTags = 1000
	// peerTimeout is how long another gateway may take to answer.
	peerTimeout = 5 * time.Second
	// peerPatience is when one that doesn't answer is asked whether it is there.
	peerPatience = 200 * time.Millisecond
	// peerStateTimeout is how long the states of all gateways are gathered, whose
	// number nobody knows.
	peerStateTimeout = 200 * time.Millisecond
)

// peers are the other gateways of this broker.
type peers struct {
	broker *Broker
	slots  chan struct{}
}

func newPeers(b *Broker) *peers {
	return &peers{broker: b, slots: make(chan struct{}, peerSlots)}
}

// newGateway names this run of a gateway.
func newGateway() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:]) | 1 // never 0
}

func peerSubject(gateway uint64) string { return fmt.Sprintf("%s%016x", peerPrefix, gateway) }

// listen hears the others until the connection closes.
func (p *peers) listen() error {
	for _, subject := range []string{peerAll, peerSubject(p.broker.gateway)} {
		if _, err := p.broker.conn.Subscribe(subject, p.hear); err != nil {
			return err
		}
	}
	return p.broker.conn.FlushTimeout(requestTimeout)
}

// alone says that there can't be other gateways: nobody else reaches an embedded NATS.
func (p *peers) alone() bool { return p.broker.disk.embedded() }

func (p *peers) hear(m *nats.Msg) {
	var n peerNote
	if json.Unmarshal(m.Data, &n) != nil || n.From == p.broker.gateway {
		return
	}
	if n.Op == peerThere {
		p.answer(m, peerAnswer{})
		return
	}
	ns, err := p.broker.namespace(n.Namespace)
	if err != nil {
		if n.Op == peerSettle || n.Op == peerHolds { // it stops, or has other namespaces
			p.answer(m, peerAnswer{Problem: errDraining()})
		}
		return
	}
	d := ns.subscriptions.known(n.Name)
	switch n.Op {
	case peerState:
		p.answer(m, peerAnswer{States: ns.subscriptions.uses(n.Name)})
	case peerHolds:
		p.answer(m, peerAnswer{Holds: d != nil && d.life == n.Life && d.holdsClaim()})
	case peerSettle:
		if n.Settlement == nil {
			return
		}
		select {
		case p.slots <- struct{}{}:
			p.broker.start(func(ctx context.Context) {
				defer func() { <-p.slots }()
				p.answer(m, p.settleHere(ctx, ns, n))
			})
		default:
			p.answer(m, peerAnswer{Problem: errBusy()})
		}
	}
	if d == nil {
		return
	}
	switch n.Op {
	case peerDone:
		d.settledElsewhere(n.Life, n.Sequences)
	case peerFree:
		d.signalAll()
	case peerChanged:
		p.broker.start(func(ctx context.Context) {
			if _, err := d.ask(ctx); err != nil && !errors.Is(err, schemas.ErrNotFound) && ctx.Err() == nil {
				p.broker.logger.Info("subscription can't be asked for", "subscription", d.name, "error", err)
			}
		})
	}
}

func errBusy() *schemas.Problem {
	p := schemas.Problemf("storage", "The gateway that handed the deliveries out is busy; try again.")
	p.RetryAfter = retryAfter
	return p
}

func (p *peers) answer(m *nats.Msg, a peerAnswer) {
	if data, err := json.Marshal(a); err == nil && m.Reply != "" {
		m.Respond(data) //nolint:errcheck // the other one asks again
	}
}

// tell tells all others.
func (p *peers) tell(n peerNote) {
	if p.alone() {
		return
	}
	n.From = p.broker.gateway
	if data, err := json.Marshal(n); err == nil {
		p.broker.conn.Publish(peerAll, data) //nolint:errcheck // they find out by themselves, later
	}
}

// ask asks one of them; [nats.ErrNoResponders] if it is no more. One that was asked
// while it died doesn't answer, so another question shows whether it is there at all.
func (p *peers) ask(ctx context.Context, gateway uint64, n peerNote) (a peerAnswer, err error) {
	n.From = p.broker.gateway
	data, err := json.Marshal(n)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	conn := p.broker.conn
	inbox, answers := conn.NewInbox(), make(chan *nats.Msg, 1)
	sub, err := conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return a, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	if err := conn.PublishRequest(peerSubject(gateway), inbox, data); err != nil {
		return a, err
	}
	for {
		select {
		case m := <-answers:
			if m.Header.Get("Status") == "503" {
				return a, nats.ErrNoResponders
			}
			if err := json.Unmarshal(m.Data, &a); err != nil {
				return a, err
			}
			if a.Problem != nil {
				return a, a.Problem
			}
			return a, nil
		case <-time.After(peerPatience):
			if err := p.there(ctx, gateway); errors.Is(err, nats.ErrNoResponders) {
				return a, err
			}
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

// there asks whether a gateway is there; [nats.ErrNoResponders] if it is no more.
func (p *peers) there(ctx context.Context, gateway uint64) error {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	data, err := json.Marshal(peerNote{Op: peerThere, From: p.broker.gateway})
	if err != nil {
		return err
	}
	_, err = p.broker.request(ctx, &nats.Msg{Subject: peerSubject(gateway), Data: data})
	return err
}

// settle has another gateway settle what it handed out.
func (p *peers) settle(ctx context.Context, gateway uint64, namespace, name string, s Settlement) ([]bool, error) {
	if p.alone() {
		return nil, nats.ErrNoResponders
	}
	accepted := make([]bool, 0, len(s.Tags))
	for tags := range slices.Chunk(s.Tags, peerTags) {
		s.Tags = tags
		a, err := p.ask(ctx, gateway, peerNote{Op: peerSettle, Namespace: namespace, Name: name, Settlement: &s})
		if err == nil && len(a.Accepted) != len(tags) {
			err = errors.New("another gateway settled another number of deliveries")
		}
		if err != nil {
			return nil, err
		}
		accepted = append(accepted, a.Accepted...)
	}
	return accepted, nil
}

func (p *peers) settleHere(ctx context.Context, ns *namespace, n peerNote) peerAnswer {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	d, err := ns.subscriptions.find(ctx, n.Name)
	var accepted []bool
	if err == nil {
		tags, open := d.openTags(n.Settlement.Tags)
		for i := range tags {
			if !open[i] {
				tags[i] = tag{epoch: ^uint64(0)} // unknown
			}
		}
		accepted, err = d.settleHere(ctx, *n.Settlement, tags)
	}
	if err != nil {
		var problem *schemas.Problem
		if !errors.As(p.broker.errStorage("settle deliveries", err), &problem) {
			problem = errBusy()
		}
		return peerAnswer{Problem: problem}
	}
	return peerAnswer{Accepted: accepted}
}

// uses gathers from all gateways how the subscriptions of a namespace are used, or
// one of them.
func (p *peers) uses(ctx context.Context, ns *namespace, name string) (map[string]peerUse, error) {
	all := ns.subscriptions.uses(name)
	if p.alone() {
		return all, nil
	}
	data, err := json.Marshal(peerNote{Op: peerState, From: p.broker.gateway, Namespace: ns.name, Name: name})
	if err != nil {
		return nil, err
	}
	inbox := p.broker.conn.NewInbox()
	answers := make(chan *nats.Msg, 64)
	sub, err := p.broker.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	if err := p.broker.conn.PublishRequest(peerAll, inbox, data); err != nil {
		return nil, err
	}
	timer := time.NewTimer(peerStateTimeout)
	defer timer.Stop()
	for {
		select {
		case m := <-answers:
			var a peerAnswer
			if json.Unmarshal(m.Data, &a) != nil {
				continue
			}
			for name, use := range a.States {
				sum := all[name]
				sum.Subscribers += use.Subscribers
				sum.Delayed += use.Delayed
				all[name] = sum
			}
		case <-timer.C:
			return all, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// uses says how subscriptions are used on this gateway.
func (s *subscriptions) uses(name string) map[string]peerUse {
	uses := map[string]peerUse{}
	now := time.Now()
	for _, d := range s.all() {
		if name != "" && name != d.name {
			continue
		}
		use := peerUse{Subscribers: d.open()}
		d.mu.Lock()
		for sequence, until := range d.delayed {
			if until.After(now) {
				use.Delayed++
			} else {
				delete(d.delayed, sequence)
			}
		}
		d.mu.Unlock()
		if use != (peerUse{}) {
			uses[d.name] = use
		}
	}
	return uses
}

// settledElsewhere ends deliveries that another gateway took a late ack for.
func (d *durable) settledElsewhere(life uint64, sequences []uint64) {
	d.mu.Lock()
	defer d.unlock()
	if life != d.life {
		return
	}
	for _, sequence := range sequences {
		d.finish(sequence)
	}
}

func (d *durable) signalAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.subscribers {
		s.signal()
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/schemas"
)

// An exclusive subscription has one active subscriber. Which gateway has it says a
// claim in a bucket that all share; which of that gateway's subscribers it is, the
// order in which they came. A claim ends when its gateway gives it back, is found
// gone by another, or has not renewed it for a while.
type claim struct {
	held     bool
	checked  bool // since the connection was cut last
	revision uint64
}

const (
	claimBucket = "outrelay_active"
	// claimLife is how long a claim stands that is not renewed: its gateway hangs.
	claimLife    = 15 * time.Second
	claimRenewal = 4 * time.Second
	// claimRetry is how often those who stand by look whether they may be active.
	claimRetry = time.Second
)

// mayPull says whether s may be given something. The lock is held.
func (d *durable) mayPull(s *Subscriber) bool {
	return !d.def.Exclusive || d.active == s && d.claim.held && d.claim.checked
}

// holdsClaim says whether this gateway has the exclusive subscription's active
// subscriber.
func (d *durable) holdsClaim() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claim.held && !d.gone
}

// activate makes s the active subscriber of an exclusive subscription, if there is
// none. A wait says that it stands by, and when to call again at the latest.
func (d *durable) activate(ctx context.Context, s *Subscriber) (wait time.Duration, err error) {
	d.mu.Lock()
	exclusive, mine := d.def.Exclusive, d.mayPull(s)
	if exclusive && d.active == nil && len(d.subscribers) > 0 && d.subscribers[0] == s {
		d.active = s
	}
	first := d.active == s
	d.mu.Unlock()
	if !exclusive || mine {
		return 0, nil
	}
	if !first {
		return claimRetry, nil
	}
	held, err := d.broker.claims.take(ctx, d)
	if err != nil || !held {
		return claimRetry, err
	}
	return 0, nil
}

// claims are the exclusive subscriptions that this gateway has.
type claims struct{ broker *Broker }

func (c claims) key(d *durable) string { return fmt.Sprintf("%016x", d.life) }

func (c claims) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	return c.broker.bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      claimBucket,
		Description: "which of outrelay's gateways has the active subscriber of an exclusive subscription",
		Storage:     jetstream.MemoryStorage,
		Replicas:    c.broker.config.Log.Replicas,
		TTL:         claimLife,
	})
}

// take claims an exclusive subscription for this gateway, or makes sure that it has it.
func (c claims) take(ctx context.Context, d *durable) (held bool, err error) {
	d.claiming.Lock()
	defer d.claiming.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("claim of subscription %s: %w", d.name, err)
		}
	}()
	bucket, err := c.bucket(ctx)
	if err != nil {
		return false, err
	}
	own := []byte(strconv.FormatUint(c.broker.gateway, 10))
	entry, err := bucket.Get(ctx, c.key(d))
	var revision uint64
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = bucket.Create(ctx, c.key(d), own)
	case err != nil:
		return false, err
	default:
		if string(entry.Value()) != string(own) && c.alive(ctx, d, string(entry.Value())) {
			return false, nil
		}
		revision, err = bucket.Update(ctx, c.key(d), own, entry.Revision())
	}
	if errors.Is(err, jetstream.ErrKeyExists) || isCode(err, jetstream.JSErrCodeStreamWrongLastSequence) || isCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return false, nil // another gateway was first
	}
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claim = claim{held: true, checked: true, revision: revision}
	return true, nil
}

// alive asks the gateway that has a claim whether that is so. One that can't be asked
// is alive until its claim is too old.
func (c claims) alive(ctx context.Context, d *durable, holder string) bool {
	gateway, err := strconv.ParseUint(holder, 10, 64)
	if err != nil || c.broker.peers.alone() {
		return false
	}
	a, err := c.broker.peers.ask(ctx, gateway, peerNote{Op: peerHolds, Namespace: d.namespace.name, Name: d.name, Life: d.life})
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, schemas.ErrDraining) {
		return false
	}
	return err != nil || a.Holds
}

// run renews the claims until ctx ends, and gives back those that nobody needs.
func (c claims) run(ctx context.Context) {
	tick := time.NewTicker(claimRenewal)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, ns := range c.broker.namespaces {
			for _, d := range ns.subscriptions.all() {
				if d.holdsClaim() {
					c.renew(ctx, d)
				}
			}
		}
	}
}

// renew keeps a claim, or notices that it is lost: then nobody here is active.
func (c claims) renew(ctx context.Context, d *durable) {
	d.mu.Lock()
	needed := len(d.subscribers) > 0
	d.mu.Unlock()
	if !needed {
		c.release(ctx, d)
		return
	}
	held, err := c.take(ctx, d)
	if err != nil || held {
		return // or it can't be known, and nobody can be given anything either
	}
	d.mu.Lock()
	defer d.unlock()
	d.claim = claim{}
	for _, s := range d.subscribers {
		if s != d.active {
			continue
		}
		s.fail("another gateway has the subscription")
		for len(s.buffer) > 0 {
			d.giveBack(s.buffer[0])
		}
	}
	d.active = nil
}

// release gives a claim back.
func (c claims) release(ctx context.Context, d *durable) {
	d.claiming.Lock()
	defer d.claiming.Unlock()
	d.mu.Lock()
	held, revision := d.claim.held, d.claim.revision
	if held && len(d.subscribers) > 0 { // somebody came meanwhile
		held = false
	}
	if held {
		d.claim = claim{}
	}
	d.mu.Unlock()
	if !held {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if bucket, err := c.bucket(ctx); err == nil {
		bucket.Delete(ctx, c.key(d), jetstream.LastRevision(revision)) //nolint:errcheck // those who wait ask this gateway, which says no
	}
	c.broker.peers.tell(peerNote{Op: peerFree, Namespace: d.namespace.name, Name: d.name})
}

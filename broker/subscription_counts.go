package broker

import "sync/atomic"

// SubscriptionCounts count what became of the deliveries of a namespace on this
// gateway since it started.
type SubscriptionCounts struct {
	Delivered   uint64 // attempts handed out
	Redelivered uint64 // those of them that were no first attempts
	Acked       uint64
	Released    uint64
	Rejected    uint64
	Extended    uint64
	Lapsed      uint64 // not settled within AckWait
	Abandoned   uint64 // unsettled when their subscriber left
	Skipped     uint64 // events that the filter did not let through, or that had expired
	DeadLetters uint64 // events stored as dead letters
	Dropped     uint64 // events dropped for want of a dead-letter topic
	Requeued    uint64
	Subscribers int // open now
}

type subscriptionCounts struct {
	delivered, redelivered, acked, released, rejected, extended atomic.Uint64
	lapsed, abandoned, skipped, deadLetters, dropped, requeued  atomic.Uint64
}

// SubscriptionCounts returns the counts of a namespace, zero if there is none.
func (b *Broker) SubscriptionCounts(namespace string) SubscriptionCounts {
	ns, err := b.namespace(namespace)
	if err != nil {
		return SubscriptionCounts{}
	}
	c := &ns.subscriptions.counts
	counts := SubscriptionCounts{
		Delivered: c.delivered.Load(), Redelivered: c.redelivered.Load(), Acked: c.acked.Load(),
		Released: c.released.Load(), Rejected: c.rejected.Load(), Extended: c.extended.Load(),
		Lapsed: c.lapsed.Load(), Abandoned: c.abandoned.Load(), Skipped: c.skipped.Load(),
		DeadLetters: c.deadLetters.Load(), Dropped: c.dropped.Load(), Requeued: c.requeued.Load(),
	}
	for _, d := range ns.subscriptions.all() {
		counts.Subscribers += d.open()
	}
	return counts
}

// open counts the sessions that have the subscription open on this gateway.
func (d *durable) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, s := range d.subscribers {
		if !s.receiving && !s.closed {
			n++
		}
	}
	return n
}

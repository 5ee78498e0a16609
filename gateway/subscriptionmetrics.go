package gateway

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
)

// subscriptionMetrics shows what the broker counts of durable subscriptions, whatever
// way they are used. Labels are bounded: the namespaces of the config, and verbs.
type subscriptionMetrics struct {
	gateway *Gateway

	deliveries, redeliveries, settled, skipped *prometheus.Desc
	deadLetters, dropped, requeued             *prometheus.Desc
	subscribers                                *prometheus.Desc
}

func newSubscriptionMetrics(g *Gateway) *subscriptionMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("outrelay_subscription_"+name, help, append([]string{"namespace"}, labels...), nil)
	}
	return &subscriptionMetrics{
		gateway:      g,
		deliveries:   desc("deliveries_total", "Attempts that durable subscriptions handed out."),
		redeliveries: desc("redeliveries_total", "Those of them that were no first attempts."),
		settled:      desc("settled_total", "What became of them: a verb, lapsed (not settled in time) or abandoned (the subscriber left).", "how"),
		skipped:      desc("skipped_total", "Events that a subscription's filter did not let through, or that had expired."),
		deadLetters:  desc("dead_letters_total", "Events stored as dead letters."),
		dropped:      desc("dropped_total", "Events dropped at their last attempt or on reject, for want of a dead-letter topic."),
		requeued:     desc("requeued_total", "Dead letters handed back to their subscriptions."),
		subscribers:  desc("subscribers", "Sessions that have a durable subscription open on this gateway."),
	}
}

// namespaces lists those that are served.
func (g *Gateway) namespaces() []string {
	list := slices.Collect(maps.Values(*g.hosts.Load()))
	if g.config.Dev {
		list = append(list, broker.DefaultNamespace)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (m *subscriptionMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.deliveries, m.redeliveries, m.settled, m.skipped, m.deadLetters, m.dropped, m.requeued, m.subscribers} {
		to <- d
	}
}

func (m *subscriptionMetrics) Collect(to chan<- prometheus.Metric) {
	for _, namespace := range m.gateway.namespaces() {
		c := m.gateway.config.Broker.SubscriptionCounts(namespace)
		count := func(d *prometheus.Desc, n uint64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{namespace}, labels...)...)
		}
		count(m.deliveries, c.Delivered)
		count(m.redeliveries, c.Redelivered)
		count(m.settled, c.Acked, "ack")
		count(m.settled, c.Released, "release")
		count(m.settled, c.Rejected, "reject")
		count(m.settled, c.Extended, "extend")
		count(m.settled, c.Lapsed, "lapsed")
		count(m.settled, c.Abandoned, "abandoned")
		count(m.skipped, c.Skipped)
		count(m.deadLetters, c.DeadLetters)
		count(m.dropped, c.Dropped)
		count(m.requeued, c.Requeued)
		to <- prometheus.MustNewConstMetric(m.subscribers, prometheus.GaugeValue, float64(c.Subscribers), namespace)
	}
}

package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/outrelay/outrelay/schemas"
)

// metrics are the gateway's. Labels are bounded: the namespaces of the config, and
// words of the contract.
type metrics struct {
	connections *connectionLimit // set by Listen

	receivedEvents, receivedBytes, duplicates *prometheus.CounterVec // namespace
	deliveredEvents, deliveredBytes           *prometheus.CounterVec // namespace
	publishSeconds                            *prometheus.HistogramVec
	refusals                                  *prometheus.CounterVec // namespace, problem
	gaps                                      *prometheus.CounterVec // namespace, reason
	closes                                    *prometheus.CounterVec // namespace, kind, reason
	streams                                   *prometheus.GaugeVec   // namespace, kind
	polls                                     *prometheus.GaugeVec   // namespace
	session                                   *sessionMetrics
}

// newMetrics registers the metrics. Those of the process are added where the
// registry has none yet.
func newMetrics(registry *prometheus.Registry, g *Gateway) (*metrics, error) {
	var err error
	register := func(c prometheus.Collector) {
		if e := registry.Register(c); e != nil && err == nil {
			err = e
		}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "outrelay", Name: name, Help: help}, labels)
		register(v)
		return v
	}
	gauge := func(name, help string, value func() float64) {
		register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "outrelay", Name: name, Help: help}, value))
	}
	m := &metrics{
		connections:     &connectionLimit{},
		receivedEvents:  counter("events_received_total", "Events that publishers sent and that were valid.", "namespace"),
		receivedBytes:   counter("events_received_bytes_total", "Their bytes, in the JSON form.", "namespace"),
		duplicates:      counter("events_duplicate_total", "Published events that were known already.", "namespace"),
		deliveredEvents: counter("events_delivered_total", "Events sent to subscribers.", "namespace"),
		deliveredBytes:  counter("events_delivered_bytes_total", "Their bytes, in the JSON form.", "namespace"),
		refusals:        counter("refusals_total", "Requests and messages that were refused, by the name of the problem.", "namespace", "problem"),
		gaps:            counter("gaps_total", "Gaps announced to subscribers, by reason.", "namespace", "reason"),
		closes:          counter("stream_closes_total", "Streams that ended, by the word of the close reason.", "namespace", "kind", "reason"),
		publishSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "outrelay", Name: "publish_seconds",
			Help:    "Time from a valid publish to the log's answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14), // 0.1 ms to 15 s
		}, []string{"namespace"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "outrelay", Name: "streams", Help: "Open streams.",
		}, []string{"namespace", "kind"}),
	}
	register(m.publishSeconds)
	register(m.streams)
	m.polls = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "outrelay", Name: "polls", Help: "Requests that wait for deliveries of a durable subscription.",
	}, []string{"namespace"})
	register(m.polls)
	register(newSubscriptionMetrics(g))
	var sessionErr error
	if m.session, sessionErr = newSessionMetrics(registry, m); err == nil {
		err = sessionErr
	}
	gauge("connections", "Open TCP connections to the public listeners.", func() float64 { return float64(m.connections.open.Load()) })
	gauge("body_bytes", "Memory that bodies and messages of clients take now.", func() float64 { return float64(g.bodies.used.Load()) })
	register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "outrelay", Name: "connections_refused_total", Help: "TCP connections closed at once because of the limit.",
	}, func() float64 { return float64(m.connections.refused.Load()) }))
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "outrelay", Name: "build_info", Help: "1, with the version.", ConstLabels: prometheus.Labels{"version": g.config.Version},
	}, func() float64 { return 1 }))
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		_ = registry.Register(c) // the owner of the registry may have done so
	}
	return m, err
}

func (m *metrics) received(namespace string, events []*schemas.Event) {
	size := 0
	for _, e := range events {
		size += e.Size()
	}
	m.receivedEvents.WithLabelValues(namespace).Add(float64(len(events)))
	m.receivedBytes.WithLabelValues(namespace).Add(float64(size))
}

func (m *metrics) published(namespace string, took time.Duration, duplicates int) {
	m.publishSeconds.WithLabelValues(namespace).Observe(took.Seconds())
	m.duplicates.WithLabelValues(namespace).Add(float64(duplicates))
}

func (m *metrics) delivered(namespace string, events, size int) {
	if events > 0 {
		m.deliveredEvents.WithLabelValues(namespace).Add(float64(events))
		m.deliveredBytes.WithLabelValues(namespace).Add(float64(size))
	}
}

// refused counts a problem; namespace is "" where the host led to none.
func (m *metrics) refused(namespace string, p *schemas.Problem) {
	m.refusals.WithLabelValues(namespace, p.Name).Inc()
}

func (m *metrics) gap(namespace, reason string) { m.gaps.WithLabelValues(namespace, reason).Inc() }

func (m *metrics) opened(f *flow) { m.streams.WithLabelValues(f.namespace, f.kind).Inc() }
func (m *metrics) closed(f *flow) { m.streams.WithLabelValues(f.namespace, f.kind).Dec() }

func (m *metrics) ended(f *flow, r schemas.CloseReason) {
	m.closes.WithLabelValues(f.namespace, f.kind, r.Word).Inc()
}

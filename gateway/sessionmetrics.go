package gateway

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/schemas"
)

// sessionMetrics are those of sessions. Labels are bounded: the namespaces of the
// config, and words of the contract. Open sessions are among the streams.
type sessionMetrics struct {
	metrics       *metrics
	subscriptions *prometheus.GaugeVec   // namespace, kind: live or durable
	closes        *prometheus.CounterVec // namespace, reason
	requests      *prometheus.CounterVec // namespace, op
	waits, full   *prometheus.CounterVec // namespace
}

func newSessionMetrics(registry *prometheus.Registry, m *metrics) (*sessionMetrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "outrelay", Name: name, Help: help}, labels)
	}
	s := &sessionMetrics{
		metrics: m,
		subscriptions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "outrelay", Name: "session_subscriptions", Help: "Subscriptions open in sessions, live or durable.",
		}, []string{"namespace", "kind"}),
		closes:   counter("session_subscription_closes_total", "Subscriptions of sessions that the gateway closed, by the word of the reason.", "namespace", "reason"),
		requests: counter("session_requests_total", "Requests in sessions, by op; refused are those that could not be read.", "namespace", "op"),
		waits:    counter("session_waits_total", "Times that a session was not read from because too many of its requests had no answer yet.", "namespace"),
		full:     counter("session_full_total", "Subscribes refused because the session had its limit of subscriptions open.", "namespace"),
	}
	return s, errors.Join(registry.Register(s.subscriptions), registry.Register(s.closes),
		registry.Register(s.requests), registry.Register(s.waits), registry.Register(s.full))
}

const kindSession = "session"

func (m *sessionMetrics) opened(s *session) {
	m.metrics.streams.WithLabelValues(s.namespace, kindSession).Inc()
}

func (m *sessionMetrics) closed(s *session, r schemas.CloseReason) {
	m.metrics.streams.WithLabelValues(s.namespace, kindSession).Dec()
	m.metrics.closes.WithLabelValues(s.namespace, kindSession, r.Word).Inc()
}

// requested counts requests; op is one of the contract's, or "" if it was refused.
func (m *sessionMetrics) requested(namespace, op string, n int) {
	if op == "" {
		op = "refused"
	}
	m.requests.WithLabelValues(namespace, op).Add(float64(n))
}

// subscribed counts open subscriptions up and down.
func (m *sessionMetrics) subscribed(u *source, by float64) {
	kind := "live"
	if u.subscriber != nil {
		kind = "durable"
	}
	m.subscriptions.WithLabelValues(u.session.namespace, kind).Add(by)
}

// ended counts a subscription that the gateway closed.
func (m *sessionMetrics) ended(u *source, r schemas.CloseReason) {
	m.subscribed(u, -1)
	m.closes.WithLabelValues(u.session.namespace, r.Word).Inc()
}

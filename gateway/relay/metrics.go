package relay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/schemas"
)

// metrics are the relay's. Labels are bounded: the namespaces of the config, and words
// of the contract.
type metrics struct {
	listeners, connections *prometheus.GaugeVec   // namespace
	joined, throttled      *prometheus.CounterVec // namespace
	listenerCloses, closes *prometheus.CounterVec // namespace, reason
	bytes                  *prometheus.CounterVec // namespace, direction
	refusals               *prometheus.CounterVec // namespace, action, reason
	answers                *prometheus.CounterVec // namespace, way
	cut                    *prometheus.CounterVec // namespace
	bodies                 *prometheus.CounterVec // namespace, direction
}

// The labels of the ways by which answers to HTTP requests come.
const (
	wayControl    = "control"
	wayRendezvous = "rendezvous"
)

// directions are the labels of the bytes that come from a splice's sides.
var directions = [2]string{"to_listener", "to_sender"}

// newMetrics registers the metrics; nil is no registry.
func newMetrics(registry *prometheus.Registry, r *Relay) (*metrics, error) {
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	var faults []error
	register := func(c prometheus.Collector) { faults = append(faults, registry.Register(c)) }
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "outrelay", Subsystem: "relay", Name: name, Help: help}, labels)
		register(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "outrelay", Subsystem: "relay", Name: name, Help: help}, labels)
		register(v)
		return v
	}
	m := &metrics{
		listeners:      gauge("listeners", "Listeners of hybrid connections that are connected to this gateway.", "namespace"),
		connections:    gauge("connections", "Joined pairs of a sender's and a listener's WebSocket.", "namespace"),
		joined:         counter("joined_total", "Pairs that were joined.", "namespace"),
		bytes:          counter("bytes_total", "Bytes of frames that went through joined pairs.", "namespace", "direction"),
		closes:         counter("connection_closes_total", "Joined pairs that ended, by the word of the close reason.", "namespace", "reason"),
		listenerCloses: counter("listener_closes_total", "Control channels that ended, by the word of the close reason.", "namespace", "reason"),
		refusals:       counter("refusals_total", "Requests that were refused, by what they asked for and the name of the problem; rejected is a listener's own refusal.", "namespace", "action", "reason"),
		throttled:      counter("throttled_total", "Failed handshakes of listeners whose answer was held back.", "namespace"),
	}
	m.answers = counter("answers_total", "Answers to HTTP requests that were passed on, by the way they came: on the control channel, or at a rendezvous.", "namespace", "way")
	m.cut = counter("answers_cut_total", "Answers that broke off after they had begun.", "namespace")
	m.bodies = counter("body_bytes_total", "Bytes of bodies of HTTP requests and answers.", "namespace", "direction")
	for name, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"requests":   {"HTTP requests that are under way.", func() float64 { return float64(r.requests()) }},
		"held_bytes": {"Memory of the bodies that travel over control channels.", func() float64 { return float64(r.bodies.held.Load()) }},
		"tunnels":    {"Rendezvous that are carried from one gateway to another.", func() float64 { return float64(r.tunnelled()) }},
	} {
		register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "outrelay", Subsystem: "relay", Name: name, Help: g.help}, g.value))
	}
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "outrelay", Subsystem: "relay", Name: "waiting", Help: "Senders that wait for a listener.",
	}, func() float64 { return float64(r.meetings.count()) }))
	return m, errors.Join(faults...)
}

// refused counts a refusal. What a client has made up as an action is "other".
func (m *metrics) refused(v *visit, reason string) {
	action := v.action
	switch {
	case action == actionConnect && !v.upgrade:
		action = "http"
	case action == actionListen, action == actionConnect, action == actionAccept, action == actionRequest:
	default:
		action = "other"
	}
	m.refusals.WithLabelValues(v.namespace, action, reason).Inc()
}

func (m *metrics) listening(l *listener) { m.listeners.WithLabelValues(l.entity.namespace).Inc() }

func (m *metrics) listened(l *listener, reason schemas.CloseReason) {
	m.listeners.WithLabelValues(l.entity.namespace).Dec()
	m.listenerCloses.WithLabelValues(l.entity.namespace, reason.Word).Inc()
}

func (m *metrics) opened(s *splice) {
	m.connections.WithLabelValues(s.namespace).Inc()
	m.joined.WithLabelValues(s.namespace).Inc()
}

func (m *metrics) closed(s *splice) {
	m.moved(s)
	m.connections.WithLabelValues(s.namespace).Dec()
	m.closes.WithLabelValues(s.namespace, s.reason().Word).Inc()
}

// moved counts what went through since it was last called. Calls for one splice do not
// overlap.
func (m *metrics) moved(s *splice) {
	for i := range s.sides {
		if n := s.bytes[i].Swap(0); n > 0 {
			m.bytes.WithLabelValues(s.namespace, directions[i]).Add(float64(n))
		}
	}
}

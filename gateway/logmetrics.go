package gateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/broker"
)

// ObserveLog makes the metrics of the log in registry and returns what feeds them,
// for [broker.Config.Observer].
func ObserveLog(registry *prometheus.Registry) (broker.Observer, error) {
	o := logMetrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "outrelay", Name: "log_commit_seconds",
			Help:    "Time the log took to keep a batch, its flush included where the promise has one.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14), // 0.1 ms to 15 s
		}, []string{"namespace"}),
		events: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "outrelay", Name: "log_commit_events",
			Help:    "Events that shared one commit of the log, and so its flush.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11), // 1 to 1,024
		}, []string{"namespace"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "outrelay", Name: "log_commit_failures_total", Help: "Batches that the log did not keep.",
		}, []string{"namespace"}),
		behind: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "outrelay", Name: "log_behind_events_total",
			Help: "Events read from the log for subscribers that are behind the gateway's memory.",
		}, []string{"namespace"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "outrelay", Name: "log_lost_events_total",
			Help: "Events that this start found missing in the log's files: they were cut short, spoilt or removed.",
		}, []string{"namespace"}),
	}
	return o, errors.Join(registry.Register(o.seconds), registry.Register(o.events),
		registry.Register(o.failures), registry.Register(o.behind), registry.Register(o.lost))
}

type logMetrics struct {
	seconds, events  *prometheus.HistogramVec
	failures, behind *prometheus.CounterVec
	lost             *prometheus.CounterVec
}

func (m logMetrics) Stored(namespace string, _, events int, took time.Duration, err error) {
	if err != nil {
		m.failures.WithLabelValues(namespace).Inc()
		return
	}
	m.seconds.WithLabelValues(namespace).Observe(took.Seconds())
	m.events.WithLabelValues(namespace).Observe(float64(events))
}

func (m logMetrics) Behind(namespace string, events int) {
	m.behind.WithLabelValues(namespace).Add(float64(events))
}

func (m logMetrics) Lost(namespace string, events uint64) {
	m.lost.WithLabelValues(namespace).Add(float64(events))
}

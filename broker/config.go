package broker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// Config says what the broker stands on. The zero value is an embedded server with
// a file log in the current folder's outrelay-data, flushed before each answer.
type Config struct {
	// Dir is the data folder of the embedded server, made if it is not there.
	Dir string
	Log LogConfig
	// NATS is an existing cluster to use instead of the embedded server.
	NATS NATSConfig
	// Namespaces are the tenants by name. A name that is not here does not exist.
	// Nil: one namespace "default" with the defaults.
	Namespaces map[string]NamespaceConfig
	Limits     Limits
	// Observer is told what becomes of publishes and streams; nil for nobody.
	Observer Observer
	// Logger takes what an operator should know; nil discards it.
	Logger *slog.Logger
}

// An Observer is told what the broker does, for metrics. Its methods are called from
// several goroutines and must not block.
type Observer interface {
	// Stored tells of one batch that was settled: how many publishes and events shared
	// it, and how long the log took, flush included. err is nil if they are kept.
	Stored(namespace string, publishes, events int, took time.Duration, err error)
	// Behind tells of a read of the log for a subscriber that the ring no longer holds.
	Behind(namespace string, events int)
	// Lost tells of events that were found at start to be missing in the log's files.
	Lost(namespace string, events uint64)
}

type noObserver struct{}

func (noObserver) Stored(string, int, int, time.Duration, error) {}
func (noObserver) Behind(string, int)                            {}
func (noObserver) Lost(string, uint64)                           {}

// LogConfig is the promise of every log (design: one for the whole broker).
type LogConfig struct {
	// Storage is "file" (default) or "memory".
	Storage string
	// Flush is "always" (default: before each answer), or a duration such as "2m"
	// between flushes. With an external cluster it states that cluster's setting,
	// and "" says that it is unknown.
	Flush string
	// Replicas of each log: 1 (default), 3 or 5.
	Replicas int
}

// NATSConfig is the address of an existing cluster; an empty URL means the
// embedded server.
type NATSConfig struct {
	URL         string // one or more, separated by commas
	Credentials string // a NATS credentials file, or ""
}

// NamespaceConfig holds a tenant's rules for its events.
type NamespaceConfig struct {
	// Topics are rules, the first match wins; a topic that matches none is stored
	// for Retention.MaxAge.
	Topics    []TopicRule
	Retention Retention
}

// A TopicRule says how the topics of a filter are kept.
type TopicRule struct {
	Filter schemas.TopicFilter
	// Unstored topics are live only, with nothing to resume from.
	Unstored bool
	// MaxAge of their events; 0 is the namespace's.
	MaxAge time.Duration
}

// Retention bounds a namespace's log; the oldest go first.
type Retention struct {
	MaxAge   time.Duration // default 7 days
	MaxBytes int64         // default 10 GiB
	Dedup    time.Duration // default 2 minutes
}

// Limits are the broker's bounds; 0 is the default.
type Limits struct {
	// RingBytes bounds the events of one namespace kept in memory; default 32 MiB.
	RingBytes int
	// RingAge bounds how long they are kept there; default 1 minute.
	RingAge time.Duration
	// FeedLinger is how long a feed outlives its last subscriber; default 30 s.
	FeedLinger time.Duration
	// LogReaders is how many subscribers behind the ring read the log at once; default 16.
	LogReaders int
	// PublishQueue is how many events may wait for the log per namespace; default 10,000.
	PublishQueue int
	// MaxSubscriptions bounds durable subscriptions of a namespace; default 10,000.
	MaxSubscriptions int
	// SubscriberBytes bounds the events that wait in memory for one subscriber of a
	// durable subscription, half as many again at most; default 2 MiB, at least that.
	SubscriberBytes int
	// DiskReserve is how many bytes of the embedded log's disk stay free, a twentieth of
	// it at most: publishes that would take them are refused. Default 64 MiB.
	DiskReserve int
}

func (c Config) withDefaults() Config {
	if c.Dir == "" {
		c.Dir = "outrelay-data"
	}
	if c.Log.Storage == "" {
		c.Log.Storage = "file"
	}
	if c.Log.Flush == "" && c.NATS.URL == "" {
		c.Log.Flush = FlushAlways
	}
	if c.Log.Replicas == 0 {
		c.Log.Replicas = 1
	}
	if c.Namespaces == nil {
		c.Namespaces = map[string]NamespaceConfig{DefaultNamespace: {}}
	}
	namespaces := make(map[string]NamespaceConfig, len(c.Namespaces))
	for name, ns := range c.Namespaces {
		ns.Retention = ns.Retention.withDefaults()
		namespaces[name] = ns
	}
	c.Namespaces = namespaces
	c.Limits = c.Limits.withDefaults()
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (r Retention) withDefaults() Retention {
	r.MaxAge = cmp.Or(r.MaxAge, 7*24*time.Hour)
	r.MaxBytes = cmp.Or(r.MaxBytes, 10<<30)
	r.Dedup = cmp.Or(r.Dedup, 2*time.Minute)
	return r
}

// minSubscriberBytes is the least that takes an event of any size.
const minSubscriberBytes = 2 << 20

// DefaultLimits are the limits where the configuration names none.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.RingBytes = cmp.Or(l.RingBytes, 32<<20)
	l.RingAge = cmp.Or(l.RingAge, time.Minute)
	l.FeedLinger = cmp.Or(l.FeedLinger, 30*time.Second)
	l.LogReaders = cmp.Or(l.LogReaders, 16)
	l.PublishQueue = cmp.Or(l.PublishQueue, 10_000)
	l.MaxSubscriptions = cmp.Or(l.MaxSubscriptions, 10_000)
	l.DiskReserve = cmp.Or(l.DiskReserve, 64<<20)
	l.SubscriberBytes = cmp.Or(l.SubscriberBytes, minSubscriberBytes)
	return l
}

// FlushAlways is the flush setting that answers only what is on the device.
const FlushAlways = "always"

// flush reads Flush for the embedded server.
func (l LogConfig) flush() (always bool, interval time.Duration) {
	if l.Flush == FlushAlways {
		return true, 0
	}
	interval, _ = time.ParseDuration(l.Flush) // validated
	return false, interval
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Log.Storage != "file" && c.Log.Storage != "memory" {
		fault("log storage %q: write file or memory", c.Log.Storage)
	}
	if c.Log.Flush != "" && c.Log.Flush != FlushAlways {
		if d, err := time.ParseDuration(c.Log.Flush); err != nil || d <= 0 {
			fault("log flush %q: write always, or a duration such as 2m", c.Log.Flush)
		}
	}
	if r := c.Log.Replicas; r < 1 || r > 5 || r%2 == 0 {
		fault("log replicas %d: write 1, 3 or 5", r)
	}
	if c.Log.Replicas > 1 && c.NATS.URL == "" {
		fault("log replicas %d: the embedded server keeps 1; give nats.url for more", c.Log.Replicas)
	}
	if c.Limits.MaxSubscriptions > maxConsumers/2 {
		fault("limit of subscriptions %d: at most %d", c.Limits.MaxSubscriptions, maxConsumers/2)
	}
	if c.Limits.DiskReserve < 0 {
		fault("limit of the disk's reserve %d: it can't be less than nothing", c.Limits.DiskReserve)
	}
	if c.Limits.SubscriberBytes < minSubscriberBytes {
		fault("limit of a subscriber's bytes %d: at least %d", c.Limits.SubscriberBytes, minSubscriberBytes)
	}
	for name, ns := range c.Namespaces {
		if _, err := schemas.ParseSegment("namespace", name); err != nil {
			faults = append(faults, err)
		}
		for _, rule := range ns.Topics {
			if _, err := schemas.ParseTopicFilter(string(rule.Filter)); err != nil {
				fault("topics of namespace %s: %w", name, err)
			}
			if rule.MaxAge < 0 || rule.MaxAge != 0 && rule.MaxAge < time.Second {
				fault("topics of namespace %s: maxage %s of %s: write at least 1s", name, rule.MaxAge, rule.Filter)
			}
		}
		if ns.Retention.MaxAge < time.Second || ns.Retention.MaxBytes < schemas.MaxBatch || ns.Retention.Dedup < time.Second {
			fault("retention of namespace %s: maxage and dedup are at least 1s, maxbytes at least 8MiB", name)
		}
	}
	return errors.Join(faults...)
}

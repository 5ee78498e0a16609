package broker

import (
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
	// Logger takes what an operator should know; nil discards it.
	Logger *slog.Logger
}

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
}

// New checks the configuration and makes a broker. It starts nothing.
func New(c Config) (*Broker, error) { panic("to come") }

// Package broker takes events in and hands them out: live to any number of
// subscribers, and at least once to the subscriptions that outlive a connection.
//
// It stands on NATS, embedded or a cluster elsewhere, and is the only package
// that knows so. It knows nothing of HTTP: package gateway turns requests into calls.
//
// # Promises
//
//   - An event is kept as the log's [Promise] says once [Broker.Publish] returns nil, and not before.
//   - Events of a namespace's stored topics reach every stream in the order in which they were stored.
//   - A stream that misses events is told so ([Gap]); it never misses them in silence.
//
// # Concurrency
//
// All methods may be called from any goroutine. No goroutine of the broker starts
// before [Broker.Run] is called or outlives it.
package broker

import (
	"context"
	"time"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A Receipt says what became of a publish.
type Receipt struct {
	// Accepted counts the events taken, duplicates and expired ones included.
	Accepted int
	// Stored says that Cursor holds: false on a topic that is not stored, and
	// where every event had expired.
	Stored bool
	// Cursor is the place of the last event, or of its first copy.
	Cursor schemas.Cursor
	// Duplicates are the indexes of the events that were known already, rising.
	Duplicates []int
}

// From is where a stream begins when no cursor says so.
type From uint8

// The values of the parameter "from" (protocol section 2).
const (
	FromLatest   From = iota // what is published after the call returns
	FromEarliest             // the oldest event kept
	FromLast                 // the last stored event of each matching topic, then live
	FromTime                 // what was accepted at Start.Time or later
)

// Start is where a stream or a history page begins. After wins over From.
type Start struct {
	From  From
	Time  time.Time       // for FromTime
	After *schemas.Cursor // nil: From decides
}

// StreamOptions say what a stream delivers.
type StreamOptions struct {
	Topics schemas.TopicFilter
	// Filter lets an event through by its attributes; nil lets all through.
	Filter *filter.Filter
	Start  Start
}

// The reasons of a gap (protocol section 3).
const (
	GapSlow     = "slow"
	GapExpired  = "expired"
	GapReset    = "reset"
	GapUnstored = "unstored"
)

// A Gap says that a subscriber will not get some events, and why.
type Gap struct {
	Reason string
	// Missed counts them, after the filter; nil where it can't be known.
	Missed *uint64
}

// A Delivery is an event, or the notice of a gap at its place.
type Delivery struct {
	// Event is the event in its JSON form with the broker's attributes added. It is
	// shared: nobody may change it. Nil when Gap is set.
	Event []byte
	// Stored says that Cursor holds.
	Stored bool
	Cursor schemas.Cursor
	Gap    *Gap
}

// HistoryOptions choose a page of stored events.
type HistoryOptions struct {
	Topics schemas.TopicFilter
	Filter *filter.Filter
	Start  Start // From must not be FromLatest or FromLast
	Limit  int   // 1-1,000
}

// A HistoryPage is some stored events, in order.
type HistoryPage struct {
	// Gap, if not nil, comes before the events.
	Gap    *Gap
	Events [][]byte
	// Next is where to go on; More says that there may be more now.
	Next schemas.Cursor
	More bool
}

// Publish stores events under topic, all or none, and returns the place of the last.
// On a topic that is not stored it hands them to those who listen now.
//
// It blocks until the events are kept as the log promises, or ctx ends. When ctx
// ends first they may be stored all the same: publish them again, and within the
// dedup window the copies are answered with the first ones' cursor. The events are
// not kept after the return.
//
// Errors are of type [schemas.Problem]: ErrStorage, the log can't take it now;
// ErrDraining, try another gateway; ErrForbidden for the broker's own topics.
func (b *Broker) Publish(ctx context.Context, namespace string, topic schemas.Topic, events []*schemas.Event) (Receipt, error) {
	panic("to come")
}

// Subscribe opens a stream. It stands when Subscribe returns: what is published
// afterwards is delivered, or announced as a gap. Close it after use.
func (b *Broker) Subscribe(ctx context.Context, namespace string, o StreamOptions) (*Stream, error) {
	panic("to come")
}

// History reads a page of stored events. It may be short or empty and still have
// more: it looks at a bounded number of events.
func (b *Broker) History(ctx context.Context, namespace string, o HistoryOptions) (HistoryPage, error) {
	panic("to come")
}

// Promise is what an answered publish survives, in words, as this broker's log is set up.
func (b *Broker) Promise() string { panic("to come") }

// Run starts the broker and blocks until ctx ends and all it started has ended.
func (b *Broker) Run(ctx context.Context) error { panic("to come") }

// Ready is closed once the broker serves.
func (b *Broker) Ready() <-chan struct{} { panic("to come") }

// Broker is made by [New].
type Broker struct{}

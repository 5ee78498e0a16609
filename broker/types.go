package broker

import (
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

	mark  Mark // where a group stands after it
	entry *entry
}

// Once returns what make makes of the event, which is made once for all who ask and
// kept as long as the event is: its compressed form, say. It must not be changed.
// Two goroutines that ask at the same time may both make it. It holds for a delivery
// of a [Group].
func (d *Delivery) Once(make func(event []byte) []byte) []byte {
	if made := d.entry.made.Load(); made != nil {
		return *made
	}
	made := make(d.Event)
	d.entry.made.Store(&made)
	return made
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

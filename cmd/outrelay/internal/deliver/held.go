package deliver

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A state is what is being done about an event that is held.
type state uint8

const (
	waiting  state = iota
	busy           // it is with the target
	settling       // the gateway is told
	away           // given back for now, see settleIn: it will come again
)

// An entry is an event that was handed out to the agent and is not known to be settled.
type entry struct {
	event    Event
	place    string // in the log: the cursor
	log, seq uint64 // the same, to be compared
	key      string // its partition; "" is none
	delivery subscriber.SubscriptionDelivery

	state     state
	attempt   int       // the number of the next or current one
	notBefore time.Time // the next one
	session   uint64    // the newest on which it was known to be ours; 0 is none
	extendAt  time.Time
	extending bool
	lost      bool // the delivery is not ours any more; it may come again
}

// extends says whether its ack wait is to be begun anew again and again.
func (e *entry) extends() bool {
	return !e.extending && !e.lost && (e.state == waiting || e.state == busy)
}

// held is all that the agent holds, in the order of the log.
type held struct {
	ordered bool
	entries []*entry
	places  map[string]*entry
	logs    map[uint64]uint64 // the logs' order of appearance
	taken   map[string]bool   // scratch of ready
}

func (h *held) add(e *entry) {
	if c, err := schemas.ParseCursor(e.place); err == nil {
		if h.logs[c.Log] == 0 {
			if h.logs == nil {
				h.logs = map[uint64]uint64{}
			}
			h.logs[c.Log] = uint64(len(h.logs) + 1)
		}
		e.log, e.seq = h.logs[c.Log], c.Sequence
	}
	i := len(h.entries)
	for i > 0 && compare(h.entries[i-1], e) > 0 { // it is one of the newest, nearly always
		i--
	}
	h.entries = slices.Insert(h.entries, i, e)
	h.places[e.place] = e
}

func compare(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.log, b.log), cmp.Compare(a.seq, b.seq))
}

func (h *held) remove(e *entry) {
	if h.places[e.place] == e {
		delete(h.places, e.place)
	}
	if i := slices.Index(h.entries, e); i >= 0 {
		h.entries = slices.Delete(h.entries, i, i+1)
	}
}

// all is a copy of the entries, for who removes some of them.
func (h *held) all() []*entry { return slices.Clone(h.entries) }

// ready ranges over what may be handed to the target: of each partition, if they are
// ordered, the first alone, and that only while nothing is done about it.
func (h *held) ready() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		clear(h.taken)
		for _, e := range h.entries {
			if h.ordered && e.key != "" {
				if h.taken[e.key] {
					continue
				}
				if h.taken == nil {
					h.taken = map[string]bool{}
				}
				h.taken[e.key] = true
			}
			if e.state == waiting && !e.lost && !yield(e) {
				return
			}
		}
	}
}

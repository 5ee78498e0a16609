package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// An act is a kind of entry in a ledger.
type act string

// What publishers, subscribers and the test itself write down.
const (
	answered  act = "answered"  // an event's publish was answered 200; Began is when it was first sent
	ended     act = "ended"     // a connection, Who
	delivered act = "delivered" // an event came to Who
	asked     act = "asked"     // its ack was sent
	acked     act = "acked"     // its ack was answered, and it was known
	denied    act = "denied"    // its ack was answered, and it was unknown
	released  act = "released"  // its release was sent
	killed    act = "killed"    // the gateway, with SIGKILL
	stalled   act = "stalled"   // the network passes nothing any more
	healed    act = "healed"    // the network passes again
)

// An entry is one thing that somebody saw, by the clock that all of them share.
type entry struct {
	Act      act
	At       time.Time
	Who      string    `json:",omitempty"` // a connection of a subscriber
	ID       string    `json:",omitempty"` // of the event
	Attempt  int       `json:",omitempty"`
	Sequence uint64    `json:",omitempty"` // the event's place in the log
	Began    time.Time `json:",omitzero"`
}

// A ledger is the recorded history of one durable subscription. What is wrong with it
// can be said of it alone.
type ledger struct {
	ackWait time.Duration
	// transit is how long a message or an answer may be on its way, or wait on a busy
	// machine until it is written down, where the network is not stalled.
	transit time.Duration

	mu      sync.Mutex
	entries []entry
	acks    map[string]bool
}

func newLedger(ackWait, transit time.Duration) *ledger {
	return &ledger{ackWait: ackWait, transit: transit, acks: map[string]bool{}}
}

// record takes an entry. It may be called from any goroutine.
func (l *ledger) record(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
	if e.Act == asked {
		l.acks[e.ID] = true
	}
}

// settled is how many events somebody tried to ack.
func (l *ledger) settled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// A fault is a rule that was broken, and by what.
type fault struct{ rule, what string }

func (f fault) String() string { return f.rule + ": " + f.what }

// The rules.
const (
	// an event whose publish was answered was never acked; an ack whose answer nobody
	// saw, as its connection ended, may have been taken
	ruleLost      = "lost"
	ruleAgain     = "again"     // an event came again after its ack was answered
	ruleUnmarked  = "unmarked"  // an event came again and its attempt doesn't say so
	ruleOrder     = "order"     // first attempts did not come in the log's order
	ruleDoubled   = "doubled"   // an event is in the log twice
	ruleCauseless = "causeless" // an event came again while its subscriber had time and was there
)

// killWindow is how much a broker that is killed may forget (protocol section 5).
const killWindow = time.Second

// A dossier is what a ledger says of one event.
type dossier struct {
	id                         string
	published                  *entry
	delivered, acked, released []entry
	unanswered                 int // acks
}

// A reading is a ledger sorted for the rules.
type reading struct {
	*ledger
	files  map[string]*dossier
	ids    []string // in the order in which they were first seen
	kills  []time.Time
	stalls [][2]time.Time
	ends   map[string]time.Time // by connection
	sorted []entry
}

// faults says what is wrong, at most a few of each rule.
func (l *ledger) faults() []fault {
	l.mu.Lock()
	r := l.read()
	l.mu.Unlock()
	var faults []fault
	count := map[string]int{}
	report := func(rule, format string, args ...any) {
		if count[rule]++; count[rule] <= 5 {
			faults = append(faults, fault{rule, fmt.Sprintf(format, args...)})
		}
	}
	for _, id := range r.ids {
		before := len(faults)
		r.judge(r.files[id], report)
		for i := range faults[before:] {
			faults[before+i].what += "; all of it: " + r.story(id)
		}
	}
	r.order(report)
	for rule, n := range count {
		if n > 5 {
			faults = append(faults, fault{rule, fmt.Sprintf("%d in all", n)})
		}
	}
	return faults
}

func (l *ledger) read() *reading {
	r := &reading{ledger: l, files: map[string]*dossier{}, ends: map[string]time.Time{}}
	entries := slices.Clone(l.entries)
	slices.SortStableFunc(entries, func(a, b entry) int { return a.At.Compare(b.At) })
	r.sorted = entries
	for i, e := range entries {
		var f *dossier
		if e.ID != "" {
			if f = r.files[e.ID]; f == nil {
				f = &dossier{id: e.ID}
				r.files[e.ID] = f
				r.ids = append(r.ids, e.ID)
			}
		}
		switch e.Act {
		case answered:
			f.published = &entries[i]
		case delivered:
			f.delivered = append(f.delivered, e)
		case asked:
			f.unanswered++
		case acked:
			f.unanswered--
			f.acked = append(f.acked, e)
		case denied:
			f.unanswered--
		case released:
			f.released = append(f.released, e)
		case ended:
			if _, ok := r.ends[e.Who]; !ok {
				r.ends[e.Who] = e.At
			}
		case killed:
			r.kills = append(r.kills, e.At)
		case stalled:
			r.stalls = append(r.stalls, [2]time.Time{e.At, e.At.Add(time.Hour)})
		case healed:
			r.stalls[len(r.stalls)-1][1] = e.At
		}
	}
	return r
}

// sent is the earliest time at which something can have been sent that was written
// down at t.
func (r *reading) sent(t time.Time) time.Time {
	earliest := t.Add(-r.transit)
	for _, s := range slices.Backward(r.stalls) { // one stall may follow closely on another
		if !earliest.After(s[1]) && earliest.After(s[0]) {
			earliest = s[0].Add(-r.transit)
		}
	}
	return earliest
}

// killedBetween says whether the gateway was killed in between, and remembered
// nothing that happened at after.
func (r *reading) killedBetween(after, before time.Time) bool {
	return slices.ContainsFunc(r.kills, func(k time.Time) bool { return !k.Before(after) && k.Before(before) })
}

// forgotten says whether a kill before the time given may have made the broker forget
// what was seen at t.
func (r *reading) forgotten(t, before time.Time) bool {
	return slices.ContainsFunc(r.kills, func(k time.Time) bool {
		return t.After(k.Add(-killWindow)) && !r.sent(t).After(k) && k.Before(before)
	})
}

// judge applies the rules that are about one event.
func (r *reading) judge(f *dossier, report func(rule, format string, args ...any)) {
	if f.published != nil && len(f.acked) == 0 && f.unanswered <= 0 {
		report(ruleLost, "event %s was answered and never acked; it came %d times", f.id, len(f.delivered))
	}
	for i, d := range f.delivered {
		if d.Sequence != f.delivered[0].Sequence {
			report(ruleDoubled, "event %s is in the log at %d and at %d", f.id, f.delivered[0].Sequence, d.Sequence)
		}
		for _, earlier := range f.delivered[:i] {
			if d.Attempt == earlier.Attempt && !r.forgotten(earlier.At, d.At) ||
				// Two connections may be seen in another order than they were served in.
				d.Attempt < earlier.Attempt && !r.forgotten(earlier.At, d.At) && r.sent(d.At).After(earlier.At) {
				report(ruleUnmarked, "event %s came to %s as attempt %d %v after it had come to %s as attempt %d",
					f.id, d.Who, d.Attempt, d.At.Sub(earlier.At), earlier.Who, earlier.Attempt)
			}
		}
		for _, a := range f.acked {
			if d.At.After(a.At) && !r.forgotten(a.At, d.At) && (r.inTime(f, a) || r.sent(d.At).After(a.At)) {
				report(ruleAgain, "event %s came to %s as attempt %d %v after the ack of attempt %d was answered",
					f.id, d.Who, d.Attempt, d.At.Sub(a.At), a.Attempt)
			}
		}
		if d.Attempt > 1 && !r.caused(f, d) {
			report(ruleCauseless, "event %s came to %s as attempt %d when nothing had ended attempt %d", f.id, d.Who, d.Attempt, d.Attempt-1)
		}
	}
}

// story is all that the ledger says of one event, in the order of time.
func (r *reading) story(id string) string {
	var b strings.Builder
	var first time.Time
	for _, e := range r.sorted {
		if first.IsZero() {
			first = e.At
		}
		if e.ID == id {
			fmt.Fprintf(&b, " %.3f %s", e.At.Sub(first).Seconds(), e.Act)
			if e.Who != "" {
				fmt.Fprintf(&b, " by %s, attempt %d", e.Who, e.Attempt)
			}
			b.WriteByte(';')
		}
	}
	return b.String()
}

// inTime says whether an ack was answered when its attempt can't have been over.
func (r *reading) inTime(f *dossier, a entry) bool {
	for _, d := range f.delivered {
		if d.Attempt == a.Attempt && d.Who == a.Who {
			return a.At.Before(r.sent(d.At).Add(r.ackWait))
		}
	}
	return false
}

// caused says whether a redelivery has a reason. Where nobody saw the attempt before
// it, that one was on its way to somebody who left.
func (r *reading) caused(f *dossier, d entry) bool {
	seen := false
	for _, last := range f.delivered {
		if last.Attempt != d.Attempt-1 || last.At.After(d.At) {
			continue
		}
		seen = true
		end, left := r.ends[last.Who]
		switch {
		case left && !r.sent(end).After(d.At):
			return true
		case !d.At.Before(r.sent(last.At).Add(r.ackWait)): // it may have lapsed
			return true
		case r.killedBetween(r.sent(last.At), d.At):
			return true
		case slices.ContainsFunc(f.released, func(e entry) bool {
			return e.Attempt == last.Attempt && !r.sent(e.At).After(d.At)
		}):
			return true
		}
	}
	return !seen
}

// order wants first attempts on each connection in the order of the log. An event may
// come late if somebody had it in hand who then left, and it had not come to them.
func (r *reading) order(report func(rule, format string, args ...any)) {
	newest := map[string]entry{}
	var all []entry
	for _, id := range r.ids {
		for _, d := range r.files[id].delivered {
			if d.Attempt == 1 {
				all = append(all, d)
			}
		}
	}
	// What one connection brought was written down by one goroutine.
	slices.SortStableFunc(all, func(a, b entry) int { return a.At.Compare(b.At) })
	for _, d := range all {
		if before := newest[d.Who]; before.Sequence > d.Sequence && !r.inHand(d) {
			report(ruleOrder, "event %s, in the log at %d, came to %s after event %s, in the log at %d",
				d.ID, d.Sequence, d.Who, before.ID, before.Sequence)
		}
		if newest[d.Who].Sequence < d.Sequence {
			newest[d.Who] = d
		}
	}
}

// inHand says whether somebody else may have left with the event before it came.
func (r *reading) inHand(d entry) bool {
	began := time.Time{}
	if p := r.files[d.ID].published; p != nil {
		began = p.Began
	}
	for who, end := range r.ends {
		if who != d.Who && end.After(began) && !r.sent(end).After(d.At) {
			return true
		}
	}
	return r.killedBetween(began, d.At) || cmp.Or(d.At.Sub(began), 0) > r.ackWait
}

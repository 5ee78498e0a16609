package relay

import (
	"slices"
	"sync"
	"time"
)

// Bounds of the throttle. Some clients connect again without any delay after every
// failure, for ever. hyco-ws even does so twice for each failure, so that what it has
// under way doubles with every answer. The remedy is to answer seldom: the answers to
// the failed handshakes of one address and name are rationed, and a handshake that
// waits for its answer costs a timer. Every handshake is looked at when it comes, so
// that a listener that is well again gets in at once, whoever shares its address.
const (
	// throttleFree is how many failures in a row are answered at once.
	throttleFree = 1
	// throttleHold is how long the others wait for their answer at least.
	throttleHold = time.Second
	// throttlePace lies between two answers as long as fewer than throttleFew wait,
	// else throttleHold. A listener that could connect again tries at least that often.
	throttlePace = throttleHold / 4
	throttleFew  = 16
	// throttleFull lies between two answers to a listener that is one too many: there
	// are others, so that no sender is waiting for it.
	throttleFull = 10 * time.Second
	// throttleRelease is how many of those that wait are answered at once when one of
	// the same address and name succeeds: what ailed them may be over.
	throttleRelease = 8
	// throttleWaiting is how many of one address and name wait at once, and
	// throttleAll how many in all; more are answered at once.
	throttleWaiting = 1024
	throttleAll     = 4096
	// throttleForget is when failures are forgotten.
	throttleForget = 10 * time.Second
	// throttleMost is how many addresses and names are remembered.
	throttleMost = 20_000
)

// A throttle remembers whose handshakes fail.
type throttle struct {
	mu      sync.Mutex
	known   map[throttleKey]*failures
	waiting int
}

type throttleKey struct {
	address string
	entity  entity
}

// failures are those of one address and name.
type failures struct {
	count   int
	last    time.Time
	next    time.Time // before which there is no further answer
	waiting []*waiter // in the order of their answers
}

// A waiter is a failed handshake whose answer is held back.
type waiter struct {
	hold    time.Duration
	release chan struct{} // closed to answer it sooner
}

func (t *throttle) init() { t.known = map[throttleKey]*failures{} }

// failed notes a failure. If its answer is to wait, it returns for how long, and done
// must be called after that; nil is at once. full says that there are other listeners
// of the name.
func (t *throttle) failed(k throttleKey, now time.Time, full bool) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.known[k]
	if f == nil {
		if len(t.known) >= throttleMost {
			return nil
		}
		f = &failures{}
		t.known[k] = f
	}
	if len(f.waiting) == 0 && now.Sub(f.last) >= throttleForget {
		f.count = 0
	}
	f.last = now
	if f.count++; f.count <= throttleFree || len(f.waiting) >= throttleWaiting || t.waiting >= throttleAll {
		return nil
	}
	at := now.Add(throttleHold)
	if f.next.After(at) {
		at = f.next
	}
	pace := throttlePace
	switch {
	case full:
		pace = throttleFull
	case len(f.waiting) >= throttleFew:
		pace = throttleHold
	}
	f.next = at.Add(pace)
	w := &waiter{at.Sub(now), make(chan struct{})}
	f.waiting = append(f.waiting, w)
	t.waiting++
	return w
}

// done says that a waiter is about to be answered.
func (t *throttle) done(k throttleKey, w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.known[k]
	if f == nil {
		return
	}
	if i := slices.Index(f.waiting, w); i >= 0 {
		f.waiting = slices.Delete(f.waiting, i, i+1)
		t.waiting--
	}
	if len(f.waiting) == 0 {
		f.next = time.Time{}
	}
}

// succeeded lets some go that wait, and forgets the failures if none does.
func (t *throttle) succeeded(k throttleKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.known[k]
	if f == nil {
		return
	}
	n := min(len(f.waiting), throttleRelease)
	for _, w := range f.waiting[:n] {
		close(w.release)
	}
	f.waiting = slices.Delete(f.waiting, 0, n)
	t.waiting -= n
	if len(f.waiting) == 0 {
		delete(t.known, k)
	}
}

// sweep forgets what is long ago.
func (t *throttle) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, f := range t.known {
		if len(f.waiting) == 0 && now.Sub(f.last) >= throttleForget {
			delete(t.known, k)
		}
	}
}

package relay

import (
	"sync"
	"time"
)

// Bounds of the throttle. Some clients connect again without any delay after every
// failure, for ever, so that the answer to a failed handshake of a listener is held
// back for a while: it costs a timer. Every handshake is looked at, so that a listener
// that is well again gets in at once, whoever shares its address.
const (
	// throttleFree is how many failures in a row are answered at once.
	throttleFree = 3
	// throttleHold is how long the others wait for their answer. A listener that
	// could connect again tries at least that often.
	throttleHold = time.Second
	// throttleWaiting is how many of one address and name wait at once, and
	// throttleAll how many in all; more are answered at once.
	throttleWaiting = 64
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

type failures struct {
	count   int
	waiting int
	last    time.Time
}

func (t *throttle) init() { t.known = map[throttleKey]*failures{} }

// failed notes a failure and returns how long its answer is to wait. Call waited
// after that, if it is not zero.
func (t *throttle) failed(k throttleKey, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.known[k]
	if f == nil {
		if len(t.known) >= throttleMost {
			return 0
		}
		f = &failures{}
		t.known[k] = f
	}
	if now.Sub(f.last) >= throttleForget {
		f.count = 0
	}
	f.last = now
	if f.count++; f.count <= throttleFree || f.waiting >= throttleWaiting || t.waiting >= throttleAll {
		return 0
	}
	f.waiting++
	t.waiting++
	return throttleHold
}

func (t *throttle) waited(k throttleKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.known[k]; f != nil {
		f.waiting--
		t.waiting--
	}
}

// succeeded forgets the failures.
func (t *throttle) succeeded(k throttleKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.known[k]; f != nil && f.waiting == 0 {
		delete(t.known, k)
	}
}

// sweep forgets what is long ago.
func (t *throttle) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, f := range t.known {
		if f.waiting == 0 && now.Sub(f.last) >= throttleForget {
			delete(t.known, k)
		}
	}
}

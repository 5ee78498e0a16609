package subscriber

import (
	"math/rand/v2"
	"time"
)

// The waits between attempts, where nobody says otherwise.
const (
	backoffBase = time.Second
	backoffCap  = 30 * time.Second
	// backoffFlat is how many of the first tries wait no longer than the first. While a
	// gateway starts again the attempts of all its clients come at one rate so; waits
	// that grow from the first try on put most of them into the first moments.
	backoffFlat = 10
)

// A backoff is full jitter: the wait before try n, from 0, lies anywhere between
// nothing and a limit, so that clients cut off together come back apart. The limit is
// base for the first tries, and then grows by half with each, up to cap.
type backoff struct {
	base, cap time.Duration
	random    func(n int64) int64 // of 0..n-1; nil takes package rand
}

// delay is the wait before try n.
func (b backoff) delay(n int) time.Duration {
	return b.spread(b.limit(n))
}

// limit is the longest wait before try n.
func (b backoff) limit(n int) time.Duration {
	d := b.base
	for range n - backoffFlat + 1 {
		if d >= b.cap {
			break
		}
		d += d / 2
	}
	return min(d, b.cap)
}

// after is the wait before try n where the gateway named a time: never shorter
// than that, and spread as any other.
func (b backoff) after(told time.Duration, n int) time.Duration {
	return max(told, 0) + b.delay(n)
}

// drained is the wait where a gateway that is about to stop told all its clients
// the same time: that one, and up to as much again.
func (b backoff) drained(told time.Duration) time.Duration {
	return told + b.spread(told)
}

// spread is a time of 0..d, both ends included.
func (b backoff) spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	if b.random != nil {
		return time.Duration(b.random(int64(d) + 1))
	}
	return time.Duration(rand.Int64N(int64(d) + 1))
}

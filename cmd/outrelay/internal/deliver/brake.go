package deliver

import (
	"math/rand/v2"
	"time"
)

const (
	// minPause and maxPause bound the time between two tries at a service that is down,
	// where it names none itself.
	minPause = time.Second
	maxPause = 30 * time.Second
	// maxRow is how many failures in a row say that it is not the events' fault.
	maxRow = 3
)

// A brake slows the whole agent down while the service is down: it lets one request at a
// time through, at growing intervals, until one succeeds. It has no clock of its own.
type brake struct {
	on      bool
	since   time.Time // when it was put on
	until   time.Time // nothing is begun before
	told    time.Time // the same, in the service's own words: even where a request succeeds
	probing bool      // one is under way
	tries   int       // that failed since it was put on

	row     int       // failures since the last success
	success time.Time // when the last success came
}

// mayBegin says whether a request may begin now; if not, wait is how long it is until
// it may be asked again, 0 where that depends on the request under way. A request that
// begins is told to began.
func (b *brake) mayBegin(now time.Time) (ok bool, wait time.Duration) {
	switch {
	case now.Before(b.told):
		return false, b.told.Sub(now)
	case !b.on:
		return true, 0
	case b.probing:
		return false, 0
	case now.Before(b.until):
		return false, b.until.Sub(now)
	}
	return true, 0
}

// began notes that a request begins; it says whether that one is a probe.
func (b *brake) began() (probe bool) {
	b.probing = b.on
	return b.on
}

// ended notes how a request that began at a time ended, and says whether the brake
// changed.
func (b *brake) ended(now, began time.Time, probe bool, a Answer) (changed bool) {
	if probe {
		b.probing = false
	}
	if a.RetryAfter > 0 && now.Add(a.RetryAfter).After(b.told) {
		b.told = now.Add(a.RetryAfter)
	}
	if a.health == unknown {
		return false
	}
	if a.health == working {
		b.row, b.success = 0, now
		changed, b.on, b.tries = b.on, false, 0
		return changed
	}
	b.row++
	bad := probe || a.health == down || a.health == stalled && b.success.Before(began) || b.row >= maxRow
	if !bad || b.on && !probe {
		return false
	}
	if !b.on {
		b.on, b.since, changed = true, now, true
	}
	pause := min(minPause<<min(b.tries, 10), maxPause)
	b.until = now.Add(pause/2 + rand.N(pause/2+1))
	b.tries++
	return changed
}

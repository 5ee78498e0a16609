package gateway

import (
	"context"
	"sync"
	"time"
)

// A deadline is a context that ends some time after its parent was asked for it, like
// that of [context.WithTimeout], whose timer is made only once somebody waits: most
// publishes of what is not stored never do. It may be used from any goroutine.
type deadline struct {
	context.Context // the parent
	at              time.Time

	mu       sync.Mutex
	timed    context.Context
	stop     context.CancelFunc
	canceled bool
}

func newDeadline(parent context.Context, d time.Duration) *deadline {
	return &deadline{Context: parent, at: time.Now().Add(d)}
}

func (d *deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

func (d *deadline) Done() <-chan struct{} { return d.made().Done() }
func (d *deadline) Err() error            { return d.made().Err() }

// made makes the timer if there is none.
func (d *deadline) made() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil {
		d.timed, d.stop = context.WithDeadline(d.Context, d.at)
		if d.canceled {
			d.stop()
		}
	}
	return d.timed
}

// cancel ends the context and frees its timer.
func (d *deadline) cancel() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canceled = true
	if d.stop != nil {
		d.stop()
	}
}

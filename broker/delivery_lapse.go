package broker

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// lapses watches over the deadlines of all that was handed out on this gateway, with
// one goroutine and one timer: each subscription has a place in a heap, by when its
// oldest delivery is due.
type lapses struct {
	broker *Broker
	wake   chan struct{}

	mu    sync.Mutex
	heap  lapseHeap
	known map[*durable]*lapse
}

type lapse struct {
	durable *durable
	due     time.Time
	index   int
}

func newLapses(b *Broker) *lapses {
	return &lapses{broker: b, wake: make(chan struct{}, 1), known: map[*durable]*lapse{}}
}

// schedule has d looked at when due, or before.
func (l *lapses) schedule(d *durable, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.known[d]
	switch {
	case e == nil:
		e = &lapse{durable: d, due: due}
		l.known[d] = e
		heap.Push(&l.heap, e)
	case due.Before(e.due):
		e.due = due
		heap.Fix(&l.heap, e.index)
	default:
		return
	}
	if e.index == 0 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// tidyInterval is how often a gateway forgets the subscriptions that nobody uses on it.
const tidyInterval = 10 * time.Second

// run owns the watching until ctx ends. Then all subscribers leave.
func (l *lapses) run(ctx context.Context) {
	tidy := time.NewTicker(tidyInterval)
	defer tidy.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(l.look(time.Now()))
		select {
		case <-timer.C:
		case <-l.wake:
		case now := <-tidy.C:
			for _, ns := range l.broker.namespaces {
				ns.subscriptions.tidy(now)
			}
		case <-ctx.Done():
			l.broker.abandonAll()
			return
		}
	}
}

// look deals with all that is due and returns when to look again.
func (l *lapses) look(now time.Time) time.Duration {
	for {
		l.mu.Lock()
		if len(l.heap) == 0 {
			l.mu.Unlock()
			return time.Hour
		}
		e := l.heap[0]
		if wait := e.due.Sub(now); wait > 0 {
			l.mu.Unlock()
			return wait
		}
		heap.Pop(&l.heap)
		delete(l.known, e.durable)
		l.mu.Unlock()
		if next := e.durable.lapse(now); !next.IsZero() {
			l.schedule(e.durable, next)
		}
	}
}

// abandonTimeout bounds how long that may take in all.
const abandonTimeout = 5 * time.Second

// abandonAll has all subscribers leave, so that what they hold is handed out
// elsewhere at once.
func (b *Broker) abandonAll() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	var tasks sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, ns := range b.namespaces {
		for _, d := range ns.subscriptions.all() {
			d.mu.Lock()
			subscribers := slices.Clone(d.subscribers)
			d.mu.Unlock()
			for _, s := range subscribers {
				if in, open := s.shut(); open {
					slots <- struct{}{}
					tasks.Go(func() {
						s.goBack(ctx, in)
						<-slots
					})
				}
			}
		}
	}
	tasks.Wait()
	for _, line := range b.lines {
		if !line.conn.IsReconnecting() {
			line.conn.FlushTimeout(time.Second) //nolint:errcheck // what is not told comes back by itself
		}
	}
}

type lapseHeap []*lapse

func (h lapseHeap) Len() int           { return len(h) }
func (h lapseHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h lapseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *lapseHeap) Push(x any) {
	e := x.(*lapse)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *lapseHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

package gateway

import (
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// together is how many events that came together are published together.
const together = 128

var arenas = sync.Pool{New: func() any { return new(schemas.Arena) }}

// A gathering is events of one topic that wait to be published together. It belongs to
// the reader of a socket. The zero value is empty.
type gathering struct {
	events []*schemas.Event
	arena  *schemas.Arena // holds them; nil if there are none
}

// add reads an event.
func (w *gathering) add(text []byte) error { return w.keep(w.memory().ParseEvent(text)) }

// addWithin reads the event within a message; false if there is none, or anything is
// wrong with it.
func (w *gathering) addWithin(o *schemas.Object) bool {
	e, ok, err := w.memory().ParseWithin(o)
	return ok && w.keep(e, err) == nil
}

func (w *gathering) memory() *schemas.Arena {
	if w.arena == nil {
		w.arena = arenas.Get().(*schemas.Arena)
	}
	return w.arena
}

func (w *gathering) keep(e *schemas.Event, err error) error {
	if err == nil {
		w.events = append(w.events, e)
	}
	return err
}

// publish publishes the events. They are there until clear.
func (w *gathering) publish(g *Gateway, namespace string, topic schemas.Topic) (broker.Receipt, error) {
	g.metrics.received(namespace, w.events)
	ctx := newDeadline(g.ctx, g.config.Limits.BrokerTimeout)
	defer ctx.cancel()
	began := time.Now()
	receipt, err := g.config.Broker.Publish(ctx, namespace, topic, w.events)
	if err == nil {
		g.metrics.published(namespace, time.Since(began), len(receipt.Duplicates))
	}
	if err != nil || receipt.Stored {
		w.arena = nil // the broker may be at work on them yet
	}
	return receipt, err
}

// clear empties the gathering.
func (w *gathering) clear() {
	clear(w.events)
	w.events = w.events[:0]
	if w.arena != nil {
		w.arena.Reset()
		arenas.Put(w.arena)
		w.arena = nil
	}
}

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/outrelay/outrelay/subscriber"
)

// marker is the id of an event that the demo publishes behind the week where it
// has to know that nothing more can come, such as an event delivered twice. Its
// topic and type belong to every share, and it is not one of those counted.
const (
	marker      = "end-of-the-week"
	markerTopic = "quakes/ak"
	markerJSON  = `{"specversion":"1.0","id":"` + marker + `","source":"` + markerSource + `","type":"gov.usgs.explosion"}`
	// markerSource keeps the marker apart from what the networks report.
	markerSource = "/outrelay/demo"
)

// A collector is one of the demo's subscribers: it keeps the ids of what its
// stream brings. Its methods may be called from any goroutine.
type collector struct {
	want int // events of its share

	mu      sync.Mutex
	ids     []string
	changed chan struct{} // closed and made anew with each change
	ended   error         // why the stream ended, or the marker came; nil before
}

func newCollector(want int) *collector {
	return &collector{want: want, changed: make(chan struct{})}
}

// errMarker ends a collector well.
var errMarker = errors.New("the marker has come")

// run takes what the stream brings until the marker comes, the stream ends or ctx does.
func (c *collector) run(ctx context.Context, stream *subscriber.Stream) {
	for {
		d, err := stream.Next(ctx)
		if err != nil { // a gap, too: the demo's log keeps everything, so there must be none
			c.end(err)
			return
		}
		var event struct {
			ID     string `json:"id"`
			Source string `json:"source"`
		}
		if err := json.Unmarshal(d.Raw, &event); err != nil {
			c.end(fmt.Errorf("read an event: %w", err))
			return
		}
		if event.ID == marker && event.Source == markerSource {
			c.end(errMarker)
			return
		}
		c.add(event.ID)
	}
}

func (c *collector) add(id string) {
	c.mu.Lock()
	c.ids = append(c.ids, id)
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

func (c *collector) end(err error) {
	c.mu.Lock()
	c.ended = err
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

// got is what has come so far, and how many. The slice must not be changed.
func (c *collector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[:len(c.ids):len(c.ids)]
}

// wait returns when the collector has ended, or, unless toMarker, has as many
// events as its share; at the latest when ctx ends. The error says what went
// wrong, if it is anything else than the marker or ctx.
func (c *collector) wait(ctx context.Context, toMarker bool) error {
	for {
		c.mu.Lock()
		ended, enough, changed := c.ended, len(c.ids) >= c.want, c.changed
		c.mu.Unlock()
		switch {
		case errors.Is(ended, errMarker):
			return nil
		case ended != nil:
			return ended
		case enough && !toMarker:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

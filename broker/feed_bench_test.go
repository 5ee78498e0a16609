package broker_test

import (
	"fmt"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// BenchmarkFilters is one event on its way to all that subscribe to its topic with so
// many distinct filters, each with so many subscribers, and passes all: what it costs
// until each filter's group has taken it. It grows with the filters, not with the
// subscribers; what a socket's write costs is not part of it.
func BenchmarkFilters(b *testing.B) {
	for _, filters := range []int{1, 500} {
		for _, each := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("filters=%d/subscribers=%d", filters, each), func(b *testing.B) {
				benchFilters(b, filters, each)
			})
		}
	}
}

func benchFilters(b *testing.B, filters, each int) {
	br, _ := start(b, broker.Config{
		Log:        broker.LogConfig{Storage: "memory"},
		Namespaces: map[string]broker.NamespaceConfig{ns: {Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}}}},
	})
	groups := map[*broker.Group]bool{}
	var told []*broker.Group
	notify := func(g *broker.Group) { told = append(told, g) }
	for i := range filters {
		f, err := filter.Parse(fmt.Sprintf(`{"not":{"exact":{"type":"nothing%d"}}}`, i), "")
		if err != nil {
			b.Fatal(err)
		}
		for range each {
			s, err := br.Subscribe(b.Context(), ns, broker.StreamOptions{Topics: "live/a", Filter: f})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			g, _, ok := s.Join(b, s, notify)
			if !ok {
				b.Fatal("a stream without anything of its own did not join")
			}
			groups[g] = true
		}
	}
	if len(groups) != filters {
		b.Fatalf("%d groups, want %d", len(groups), filters)
	}
	var deliveries []broker.Delivery
	take := func() (n int) {
		for _, g := range told {
			t := g.Take(deliveries[:0], 100)
			n += len(t.Deliveries)
		}
		told = told[:0]
		return n
	}
	deliveries = make([]broker.Delivery, 0, 100)
	take()
	events := []*schemas.Event{event(b, "1")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Publish(b.Context(), ns, "live/a", events); err != nil {
			b.Fatal(err)
		}
		if n := take(); n != filters {
			b.Fatalf("%d filters' groups got the event, want %d", n, filters)
		}
	}
}

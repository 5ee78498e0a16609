package broker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A served is a stream that a pump serves while it is level, and that goes on by
// itself while its socket is full.
type served struct {
	stream *broker.Stream
	group  *broker.Group
	member broker.Member
	got    []string
}

// Streams join and leave a group at random places, some with cursors, some late, and
// each gets every event once and in order.
func TestGroupMembersMissAndDoubleNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b, _ := start(t, broker.Config{Limits: broker.Limits{RingBytes: 30_000}, Namespaces: map[string]broker.NamespaceConfig{ns: {
		Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}},
	}}})
	odd, err := filter.Parse("", "LENGTH(id) % 2 = 1")
	if err != nil {
		t.Fatal(err)
	}
	var all []*served
	open := func(from broker.Start) {
		o := broker.StreamOptions{Topics: "**", Start: from}
		if random.IntN(3) == 0 {
			o.Filter = odd
		}
		all = append(all, &served{stream: subscribe(t, b, o)})
	}
	for range 20 {
		open(broker.Start{})
	}
	owner := new(int)
	ready := map[*broker.Group]bool{}
	notify := func(g *broker.Group) { ready[g] = true }
	var want []string
	var buf []broker.Delivery
	take := func(s *served, d *broker.Delivery) {
		if g := d.Gap; g != nil {
			t.Errorf("gap %+v", g)
			return
		}
		s.got = append(s.got, name(t, *d))
	}
	// pump serves the groups once; a member may turn out full at any delivery.
	pump := func() {
		for g := range ready {
			delete(ready, g)
			taken := g.Take(buf[:0], 1+random.IntN(20))
			buf = taken.Deliveries
			before, more, lost := taken.From, taken.More, taken.Lost
			for _, s := range all {
				if s.group != g {
					continue
				}
				full := lost || random.IntN(10) == 0
				stop := random.IntN(len(buf) + 1)
				mark := before
				for i := range buf {
					if lost || full && i == stop {
						break
					}
					if !s.member.Skips(&buf[i]) {
						take(s, &buf[i])
					}
					mark = buf[i].Mark()
				}
				if full {
					s.stream.Leave(g, s.member, mark)
					s.group = nil
				}
			}
			if more {
				ready[g] = true
			}
		}
	}
	alone := func(s *served) {
		for range 3 {
			if g, m, ok := s.stream.Join(owner, s, notify); ok {
				s.group, s.member = g, m
				return
			}
			deliveries, err := s.stream.Next(limited(t), 1+random.IntN(30))
			if err != nil {
				t.Fatal(err)
			}
			for i := range deliveries {
				take(s, &deliveries[i])
			}
		}
	}
	watch := subscribe(t, b, broker.StreamOptions{Topics: "**"})
	published := 0
	for range 300 {
		topic := schemas.Topic([]string{"log/a", "log/b"}[random.IntN(2)])
		for range random.IntN(5) {
			published++
			id := fmt.Sprintf("e%d", published)
			publish(t, b, topic, id)
			want = append(want, id)
			take(&served{}, &nextOf(t, watch)[0])
		}
		pump()
		for _, s := range all {
			if s.group == nil && random.IntN(2) == 0 && len(want) > 0 {
				if pending(s, want) {
					alone(s)
				} else if g, m, ok := s.stream.Join(owner, s, notify); ok {
					s.group, s.member = g, m
				}
			}
		}
	}
	publish(t, b, "log/a", "end")
	want = append(want, "end")
	take(&served{}, &nextOf(t, watch)[0])
	await(t, "end of every stream", func() bool {
		pump()
		for _, s := range all {
			if s.group == nil && pending(s, want) {
				alone(s)
			}
		}
		return !slices.ContainsFunc(all, func(s *served) bool { return pending(s, want) })
	})
	for i, s := range all {
		expected := want
		if len(s.got) > 0 && len(s.got) < len(want) { // the filtered ones
			expected = slices.DeleteFunc(slices.Clone(want), func(id string) bool { return len(id)%2 == 0 })
		}
		if !slices.Equal(s.got, expected) {
			t.Errorf("stream %d: %s", i, firstDifference(s.got, expected))
		}
	}
}

// pending says whether the last event that the stream should get has not come.
func pending(s *served, want []string) bool {
	return len(s.got) == 0 || s.got[len(s.got)-1] != want[len(want)-1]
}

func nextOf(t testing.TB, s *broker.Stream) []broker.Delivery {
	t.Helper()
	d, err := s.Next(limited(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

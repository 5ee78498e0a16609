package filter_test

import (
	"strings"
	"testing"
)

// The shapes that subscriptions have in practice.
var shapes = []struct {
	name, dialects, sql string
	// allocations that one Match may make.
	allocations float64
}{
	{"exact", `{"exact":{"type":"com.example.order.paid"}}`, "", 0},
	{"nested", `[{"prefix":{"type":"com.example."}},{"any":[{"exact":{"amount":"1"}},{"suffix":{"subject":"ße"}}]},{"not":{"exact":{"id":"x"}}}]`, "", 0},
	{"sql", "", "type = 'com.example.order.paid' AND subject LIKE 'Z%ße' AND amount > 1000", 4},
	{"both", `{"prefix":{"type":"com.example."}}`, "paid AND id IN ('A-15', 'A-16', 'A-17')", 2},
}

func TestMatchAllocations(t *testing.T) {
	e := event(t, paid)
	for _, s := range shapes {
		f := parse(t, s.dialects, s.sql)
		if !f.Match(e) {
			t.Errorf("%s: Match = false, want true", s.name)
		}
		if got := testing.AllocsPerRun(100, func() { f.Match(e) }); got > s.allocations {
			t.Errorf("%s: Match makes %v allocations, want at most %v", s.name, got, s.allocations)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	e := event(b, paid)
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			f := parse(b, s.dialects, s.sql)
			b.ReportAllocs()
			for b.Loop() {
				f.Match(e)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parse(b, s.dialects, s.sql)
			}
		})
	}
	b.Run("longest", func(b *testing.B) {
		sql := strings.Repeat("a = 'x' OR ", 370) + "a = 'y'"
		b.ReportAllocs()
		for b.Loop() {
			parse(b, "", sql)
		}
	})
}

package demo

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
)

// Every fault that a broker could have is seen, at the beginning, in the middle
// and at the end.
func TestCompareSeesPlantedFaults(t *testing.T) {
	want := shares[0].expect(week(t))
	tests := []struct {
		name             string
		plant            func(ids []string, at int) []string
		lost, outOfOrder int
	}{
		{"none", func(ids []string, _ int) []string { return ids }, 0, 0},
		{"dropped", func(ids []string, at int) []string { return slices.Delete(ids, at, at+1) }, 1, 0},
		{"doubled at once", func(ids []string, at int) []string { return slices.Insert(ids, at, ids[at]) }, 0, 1},
		{"doubled at the end", func(ids []string, at int) []string { return append(ids, ids[at]) }, 0, 1},
		{"swapped with the next", func(ids []string, at int) []string {
			ids[at], ids[at+1] = ids[at+1], ids[at]
			return ids
		}, 0, 1},
		{"of another share", func(ids []string, at int) []string { return slices.Insert(ids, at, "foreign") }, 0, 1},
		{"replaced by its neighbour", func(ids []string, at int) []string {
			ids[at] = ids[at+1]
			return ids
		}, 1, 1},
		{"all from there on", func(ids []string, at int) []string { return ids[:at] }, -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, at := range []int{0, 800, len(want) - 2} {
				lost := tt.lost
				if lost < 0 {
					lost = len(want) - at
				}
				gotLost, gotOutOfOrder := compare(want, tt.plant(slices.Clone(want), at))
				if gotLost != lost || gotOutOfOrder != tt.outOfOrder {
					t.Errorf("at %d: compare = %d lost, %d out of order; want %d and %d", at, gotLost, gotOutOfOrder, lost, tt.outOfOrder)
				}
			}
		})
	}
}

// The shares of the file, as subscribers of a perfect broker would get them.
func perfect(week []Quake) [][]string {
	var got [][]string
	for _, s := range shares {
		got = append(got, s.expect(week))
	}
	return got
}

func TestSummaryIsThatOfTheContract(t *testing.T) {
	w := week(t)
	s := summarize(w, len(w), perfect(w))
	line, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"published":1707,"subscribers":{"quakes/**":1707,"quakes/ak":297,"explosions":15},"lost":0,"outoforder":0}`
	if string(line) != want {
		t.Errorf("the summary is\n%s, want\n%s", line, want)
	}
	if err := s.err(w); err != nil {
		t.Errorf("a perfect replay ends with: %v", err)
	}
}

// A fault of any one subscriber, or of the publisher, fails the demo.
func TestSummaryFails(t *testing.T) {
	w := week(t)
	for i, share := range shares {
		for name, plant := range map[string]func([]string) []string{
			"lost":    func(ids []string) []string { return slices.Delete(ids, 3, 4) },
			"doubled": func(ids []string) []string { return slices.Insert(ids, 3, ids[3]) },
			"swapped": func(ids []string) []string { ids[3], ids[4] = ids[4], ids[3]; return ids },
		} {
			got := perfect(w)
			got[i] = plant(got[i])
			if err := summarize(w, len(w), got).err(w); !errors.Is(err, errImperfect) {
				t.Errorf("an event %s for %s: the demo ends with %v", name, share.name, err)
			}
		}
	}
	if err := summarize(w, len(w)-1, perfect(w)).err(w); !errors.Is(err, errImperfect) {
		t.Errorf("an event not accepted: the demo ends with %v", err)
	}
}

package broker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

func TestStreamStandsWhenSubscribeReturns(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "a", "before")
	s := subscribe(t, b, broker.StreamOptions{Topics: "**"})
	publish(t, b, "a", "after")
	if got := take(t, s, 1); got[0] != "after" {
		t.Errorf("got %v, want the event published after Subscribe", got)
	}
}

func TestStarts(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "a/x", "1")
	publish(t, b, "a/y", "2")
	publish(t, b, "a/x", "3")
	third := publish(t, b, "b", "4")
	middle := time.Now()
	publish(t, b, "a/y", "5")
	publish(t, b, "a/z/z", "6")
	tests := []struct {
		name   string
		topics schemas.TopicFilter
		start  broker.Start
		want   []string
	}{
		{"earliest", "**", broker.Start{From: broker.FromEarliest}, []string{"1", "2", "3", "4", "5", "6"}},
		{"earliest of a filter", "a/*", broker.Start{From: broker.FromEarliest}, []string{"1", "2", "3", "5"}},
		{"last", "**", broker.Start{From: broker.FromLast}, []string{"3", "4", "5", "6"}},
		{"last of a filter", "a/*", broker.Start{From: broker.FromLast}, []string{"3", "5"}},
		{"time", "**", broker.Start{From: broker.FromTime, Time: middle}, []string{"5", "6"}},
		{"time before all", "a/**", broker.Start{From: broker.FromTime, Time: middle.Add(-time.Hour)}, []string{"1", "2", "3", "5", "6"}},
		{"after", "**", broker.Start{After: &third.Cursor}, []string{"5", "6"}},
		{"latest", "**", broker.Start{}, nil},
	}
	streams := make([]*broker.Stream, len(tests))
	for i, tt := range tests {
		streams[i] = subscribe(t, b, broker.StreamOptions{Topics: tt.topics, Start: tt.start})
	}
	publish(t, b, "a/x", "live")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := take(t, streams[i], len(tt.want)+1), append(tt.want, "live"); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestDuplicatesAreAnsweredWithTheFirstCursor(t *testing.T) {
	dir := t.TempDir()
	b, stop := start(t, broker.Config{Dir: dir})
	first := publish(t, b, "a", "1")
	second := publish(t, b, "a", "2", "3", "1", "2")
	if !slices.Equal(second.Duplicates, []int{2, 3}) || second.Accepted != 4 || second.Cursor.Sequence != 2 {
		t.Errorf("a batch with copies got %+v", second)
	}
	if again := publish(t, b, "b", "1"); again.Duplicates != nil {
		t.Errorf("the same id on another topic is a duplicate: %+v", again)
	}
	stop()
	// A gateway that starts has no memory of it; the log has.
	b, _ = start(t, broker.Config{Dir: dir})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: broker.Start{From: broker.FromEarliest}})
	if again := publish(t, b, "a", "1"); again.Cursor != first.Cursor || !slices.Equal(again.Duplicates, []int{0}) {
		t.Errorf("after a restart a copy got %+v, want the cursor %v", again, first.Cursor)
	}
	batch := publish(t, b, "a", "n1", "3", "n2", "2", "n3", "n3")
	if !slices.Equal(batch.Duplicates, []int{1, 3, 5}) || batch.Accepted != 6 {
		t.Errorf("after a restart a batch with copies got %+v", batch)
	}
	if got, want := take(t, s, 6), []string{"1", "2", "3", "n1", "n2", "n3"}; !slices.Equal(got, want) {
		t.Errorf("delivered %v, want %v", got, want)
	}
	none(t, b, s, "a")
}

// Batches with copies at random places, of which the gateway has no memory: every
// event is stored once, and each answer names its copies.
func TestCopiesAtRandomPlaces(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	var want []string
	for round := range 4 {
		b, stop := start(t, broker.Config{Dir: dir})
		for range 10 {
			var batch []string
			var copies []int
			for n := range 1 + random.IntN(60) {
				if known := len(want); known > 0 && random.IntN(3) == 0 {
					if id := want[random.IntN(known)]; !slices.Contains(batch, id) {
						batch, copies = append(batch, id), append(copies, len(batch))
						continue
					}
				}
				batch = append(batch, fmt.Sprintf("r%d-%d-%d", round, len(want), n))
			}
			r := publish(t, b, "a", batch...)
			if !slices.Equal(r.Duplicates, copies) || r.Accepted != len(batch) || !r.Stored || r.Cursor.Sequence == 0 {
				t.Fatalf("a batch with copies at %v got %+v", copies, r)
			}
			for i, id := range batch {
				if !slices.Contains(copies, i) {
					want = append(want, id)
				}
			}
		}
		stop()
	}
	b, _ := start(t, broker.Config{Dir: dir})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: broker.Start{From: broker.FromEarliest}})
	if got := take(t, s, len(want)); !slices.Equal(got, want) {
		t.Error(firstDifference(got, want))
	}
	none(t, b, s, "a")
}

func TestUnstoredTopics(t *testing.T) {
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: {
		Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}},
	}}})
	if r := publish(t, b, "live/x", "early"); r.Stored || r.Accepted != 1 {
		t.Errorf("Publish on an unstored topic: %+v", r)
	}
	s := subscribe(t, b, broker.StreamOptions{Topics: "**", Start: broker.Start{From: broker.FromEarliest}})
	publish(t, b, "live/x", "l1")
	r := publish(t, b, "log", "s1")
	got := take(t, s, 2)
	slices.Sort(got)
	if !slices.Equal(got, []string{"l1", "s1"}) {
		t.Errorf("got %v, want l1 and s1", got)
	}
	again := subscribe(t, b, broker.StreamOptions{Topics: "**", Start: broker.Start{After: &r.Cursor}})
	publish(t, b, "live/x", "l2")
	if got := take(t, again, 2); !slices.Equal(got, []string{"gap unstored", "l2"}) {
		t.Errorf("resumed over an unstored topic: got %v", got)
	}
	stored := subscribe(t, b, broker.StreamOptions{Topics: "log", Start: broker.Start{After: &r.Cursor}})
	publish(t, b, "log", "s2")
	if got := take(t, stored, 1); got[0] != "s2" {
		t.Errorf("resumed on a stored topic: got %v, want no gap", got)
	}
}

// A subscriber that falls behind the ring reads the log and rejoins without a seam;
// of what is not stored it is told how much it missed.
func TestSlowStream(t *testing.T) {
	b, _ := start(t, broker.Config{
		Limits: broker.Limits{RingBytes: 10_000},
		Namespaces: map[string]broker.NamespaceConfig{ns: {
			Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}},
		}},
	})
	stored := subscribe(t, b, broker.StreamOptions{Topics: "log/**"})
	live := subscribe(t, b, broker.StreamOptions{Topics: "live/**"})
	watch := subscribe(t, b, broker.StreamOptions{Topics: "**"})
	want := ids("e", 1, 300)
	for _, id := range want {
		publish(t, b, "log/x", id)
		publish(t, b, "live/x", "l-"+id)
		publish(t, b, "other", "o-"+id)
		take(t, watch, 3)
	}
	if got := take(t, stored, 300); !slices.Equal(got, want) {
		t.Errorf("a stream behind the ring got %v", got)
	}
	publish(t, b, "log/x", "on")
	if got := take(t, stored, 1); got[0] != "on" {
		t.Errorf("a stream that caught up got %v, want the next event", got)
	}
	first := take(t, live, 1)[0]
	rest := take(t, live, 1)
	var missed int
	if _, err := sscan(first, &missed); err != nil || missed < 200 || missed >= 300 {
		t.Fatalf("a stream behind the ring on an unstored topic got %q, want a gap", first)
	}
	if want := ids("l-e", missed+1, missed+1); rest[0] != want[0] {
		t.Errorf("after %q the stream goes on with %v, want %v", first, rest, want)
	}
}

func TestResumeAfterAnotherLog(t *testing.T) {
	dir := t.TempDir()
	b, stop := start(t, broker.Config{Dir: dir})
	r := publish(t, b, "a", ids("old", 1, 10)...)
	stop()
	b, _ = start(t, broker.Config{})
	publish(t, b, "a", "new1")
	s := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: broker.Start{After: &r.Cursor}})
	if got := take(t, s, 2); !slices.Equal(got, []string{"gap reset", "new1"}) {
		t.Errorf("a cursor of another log got %v", got)
	}
}

package broker_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

func after(c schemas.Cursor) broker.Start { return broker.Start{After: &c} }

// A client that was cut before its first event resumes at the cursor with which the
// stream opened.
func TestCursorBeforeTheFirstEvent(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "a", "old")
	for _, s := range []broker.Start{{}, {From: broker.FromEarliest}, {From: broker.FromLast}, {From: broker.FromTime, Time: time.Now().Add(-time.Hour)}} {
		opened := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: s})
		cursor := opened.Cursor()
		opened.Close()
		id := "new" + string(rune('0'+s.From))
		publish(t, b, "a", id)
		again := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(cursor)})
		got := take(t, again, 1)
		if s.From == broker.FromLatest && got[0] != id || s.From != broker.FromLatest && strings.HasPrefix(got[0], "gap") {
			t.Errorf("from %d: resumed with %v", s.From, got)
		}
		for got[0] != id {
			got = take(t, again, 1)
		}
	}
	empty, _ := start(t, broker.Config{})
	cursor := subscribe(t, empty, broker.StreamOptions{Topics: "a"}).Cursor()
	publish(t, empty, "a", "1")
	if got := take(t, subscribe(t, empty, broker.StreamOptions{Topics: "a", Start: after(cursor)}), 1); got[0] != "1" {
		t.Errorf("a cursor of an empty log resumed with %v", got)
	}
}

// Behind a filter that lets nothing through the cursor moves on all the same.
func TestCursorBehindAFilter(t *testing.T) {
	b, _ := start(t, broker.Config{})
	none, err := filter.Parse(`{"exact":{"type":"never"}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	s := subscribe(t, b, broker.StreamOptions{Topics: "**", Filter: none})
	r := publish(t, b, "a", ids("e", 1, 50)...)
	await(t, "cursor at the log's end", func() bool { return s.Cursor() == r.Cursor })
	cursor := s.Cursor()
	s.Close()
	publish(t, b, "a", "next")
	again := subscribe(t, b, broker.StreamOptions{Topics: "**", Start: after(cursor)})
	if got := take(t, again, 1); got[0] != "next" {
		t.Errorf("resumed with %v", got)
	}
}

// An older copy of the data folder is put back: cursors from after the copy no
// longer hold, also where the log has grown past them again.
func TestCursorFromBeforeARestore(t *testing.T) {
	dir, saved := t.TempDir(), t.TempDir()
	b, stop := start(t, broker.Config{Dir: dir})
	kept := publish(t, b, "a", ids("kept", 1, 5)...)
	stop()
	if err := os.CopyFS(filepath.Join(saved, "copy"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b, stop = start(t, broker.Config{Dir: dir})
	lost := publish(t, b, "a", ids("lost", 1, 5)...)
	stop()

	b, _ = start(t, broker.Config{Dir: filepath.Join(saved, "copy")})
	beyond := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(lost.Cursor)})
	if got, want := take(t, beyond, 6), append([]string{"gap reset"}, ids("kept", 1, 5)...); !slices.Equal(got, want) {
		t.Errorf("a cursor past the restored log's end got %v, want %v", got, want)
	}
	publish(t, b, "a", ids("new", 1, 9)...)
	within := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(lost.Cursor)})
	if got := take(t, within, 1); got[0] != "gap reset" {
		t.Errorf("a cursor that the restored log has grown past got %v", got)
	}
	good := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(kept.Cursor)})
	if got, want := take(t, good, 9), ids("new", 1, 9); !slices.Equal(got, want) {
		t.Errorf("a cursor from before the copy got %v, want %v", got, want)
	}
	page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "a", Start: after(lost.Cursor), Limit: 100})
	if err != nil || page.Gap == nil || page.Gap.Reason != broker.GapReset || len(page.Events) != 14 {
		t.Errorf("History: %+v, %v, want a reset and 14 events", page.Gap, err)
	}
}

// Cursors that the retention by bytes has left behind get a notice and the oldest
// event kept.
func TestCursorOlderThanTheRetention(t *testing.T) {
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: {
		Retention: broker.Retention{MaxBytes: schemas.MaxBatch},
	}}})
	first := publish(t, b, "a", "e0")
	slow := subscribe(t, b, broker.StreamOptions{Topics: "a"})
	padding := `"data":"` + strings.Repeat("x", 500_000) + `"`
	var last broker.Receipt
	for _, id := range ids("e", 1, 40) {
		r, err := b.Publish(limited(t), ns, "a", []*schemas.Event{event(t, id, padding)})
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}
	s := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(first.Cursor)})
	got := take(t, s, 2)
	if got[0] != "gap expired" || got[1] == "e1" {
		t.Errorf("a cursor older than the log got %v", got)
	}
	if got := take(t, subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(last.Cursor)}), 0); len(got) != 0 {
		t.Errorf("a cursor at the end got %v", got)
	}
	take(t, slow, 40) // it was held by the ring, so it misses nothing
}

// A topic that is kept for a shorter time than the log says so, too.
func TestCursorOlderThanATopicsRetention(t *testing.T) {
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: {
		Topics: []broker.TopicRule{{Filter: "short/**", MaxAge: time.Second}},
	}}})
	first := publish(t, b, "short/a", "s1")
	publish(t, b, "short/a", "s2")
	publish(t, b, "long", "l1")
	await(t, "expiry of the short topic", func() bool {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "short/**", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
		return err == nil && len(page.Events) == 0
	})
	if got := take(t, subscribe(t, b, broker.StreamOptions{Topics: "short/**", Start: after(first.Cursor)}), 1); got[0] != "gap expired" {
		t.Errorf("got %v, want the notice that the cursor is older than the topic's retention", got)
	}
	if got := take(t, subscribe(t, b, broker.StreamOptions{Topics: "long", Start: after(first.Cursor)}), 1); got[0] != "l1" {
		t.Errorf("a topic that is kept got %v", got)
	}
}

// A log that was full for a moment, and emptied by age again, tells a cursor whose
// events went for its size, also after a restart.
func TestCursorBehindALogThatWasFull(t *testing.T) {
	c := broker.Config{Dir: t.TempDir(), Log: broker.LogConfig{Flush: "1m"}, Namespaces: map[string]broker.NamespaceConfig{ns: {
		Topics:    []broker.TopicRule{{Filter: "short/**", MaxAge: 3 * time.Second}}, // enough to fill the log before its first goes
		Retention: broker.Retention{MaxBytes: schemas.MaxBatch},
	}}}
	b, stop := start(t, c)
	first := publish(t, b, "long/one", "l-1")
	publish(t, b, "long/one", "l-2")
	padding := `"data":"` + strings.Repeat("x", 500_000) + `"`
	var filling []*schemas.Event
	for _, id := range ids("s", 1, 40) {
		filling = append(filling, event(t, id, padding))
	}
	for batch := range slices.Chunk(filling, 10) {
		if _, err := b.Publish(limited(t), ns, "short/one", batch); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() bool {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "**", Start: broker.Start{From: broker.FromEarliest}, Limit: 1})
		return err == nil && len(page.Events) == 0
	}
	await(t, "end of the short topic", gone)
	for _, when := range []string{"at once", "after a restart"} {
		if got := take(t, subscribe(t, b, broker.StreamOptions{Topics: "long/*", Start: after(first.Cursor)}), 1); got[0] != "gap expired" {
			t.Errorf("%s: got %v, want the notice that l-2 is gone", when, got)
		}
		stop()
		b, stop = start(t, c)
	}
}

func TestExpiredEventsAreAcceptedAndNotDelivered(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a"})
	past := event(t, "past", `"expirytime":"2020-01-01T00:00:00Z"`)
	r, err := b.Publish(limited(t), ns, "a", []*schemas.Event{past})
	if err != nil || r.Stored || r.Accepted != 1 {
		t.Errorf("an expired event: %+v, %v, want it accepted without a cursor", r, err)
	}
	soon := event(t, "soon", `"expirytime":"`+time.Now().Add(300*time.Millisecond).UTC().Format(time.RFC3339Nano)+`"`)
	r, err = b.Publish(limited(t), ns, "a", []*schemas.Event{past, soon, event(t, "on")})
	if err != nil || !r.Stored || r.Accepted != 3 {
		t.Errorf("a batch with an expired event: %+v, %v", r, err)
	}
	if got := take(t, s, 2); !slices.Equal(got, []string{"soon", "on"}) {
		t.Errorf("delivered %v", got)
	}
	await(t, "expiry", func() bool {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "a", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
		return err == nil && len(page.Events) == 1
	})
	late := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: broker.Start{From: broker.FromEarliest}})
	if got := take(t, late, 1); got[0] != "on" {
		t.Errorf("after the expiry: %v", got)
	}
}

func TestHistoryPages(t *testing.T) {
	b, _ := start(t, broker.Config{})
	publish(t, b, "a", ids("a", 1, 25)...)
	publish(t, b, "b", ids("b", 1, 25)...)
	publish(t, b, "a", ids("c", 1, 5)...)
	var got []string
	begin := broker.Start{From: broker.FromEarliest}
	for {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "a", Start: begin, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			got = append(got, name(t, broker.Delivery{Event: e, Stored: true, Cursor: cursorOf(t, e)}))
		}
		begin = after(page.Next)
		if !page.More {
			break
		}
	}
	if want := append(ids("a", 1, 25), ids("c", 1, 5)...); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The last page's cursor is the log's end, from which a stream goes on.
	s := subscribe(t, b, broker.StreamOptions{Topics: "**", Start: begin})
	publish(t, b, "b", "next")
	if got := take(t, s, 1); got[0] != "next" {
		t.Errorf("after the history the stream got %v", got)
	}
}

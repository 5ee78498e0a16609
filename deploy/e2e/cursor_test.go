package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// configured runs a gateway with a config.
func configured(t *testing.T, config string) *gateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outrelay.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// A shell adds the flag, and becomes the command.
	return start(t, "sh", "-c", `exec "$0" "$@" --config '`+file+`'`)
}

// publishAll publishes events with the ids as one batch and returns the last one's cursor.
func (g *gateway) publishAll(t *testing.T, topic string, ids ...string) string {
	t.Helper()
	var events []string
	for _, id := range ids {
		events = append(events, sample(id))
	}
	return cursorOf(t, post(t, g.topics(topic), batched, "["+strings.Join(events, ",")+"]", http.StatusOK))
}

func cursorOf(t *testing.T, answer string) string {
	t.Helper()
	var taken struct{ Cursor string }
	if err := json.Unmarshal([]byte(answer), &taken); err != nil || taken.Cursor == "" {
		t.Fatalf("a publish was answered %s (%v), want a cursor", answer, err)
	}
	return taken.Cursor
}

// ids are prefix-1 to prefix-n.
func ids(prefix string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%s-%d", prefix, i+1))
	}
	return list
}

// sentinel begins the ids of events that only end what a stream is to bring.
const sentinel = "sentinel-"

// The ways to get events, for resumed.
var waysOut = []string{"WebSocket", "server-sent events", "history"}

// resumed is what comes after a cursor by one of the ways, as ids and "gap REASON":
// on a stream up to an event that is published on topic once the stream stands, in
// the history up to its end.
func (g *gateway) resumed(t *testing.T, way, filter, topic, cursor string) []string {
	t.Helper()
	if way == "history" {
		return slices.DeleteFunc(g.stored(t, filter, "after", cursor, "limit", "7"), isSentinel)
	}
	s := g.opened(t, way, filter, cursor)
	defer s.close()
	if first := s.next(t); first.cursor == "" || first.ID != "" && !first.notice() {
		t.Fatalf("the stream opened with %+v, want its place", first)
	}
	end := sentinel + s.name
	publish(t, g.topics(topic), sample(end))
	var got []string
	for {
		a := s.next(t)
		switch {
		case a.Type == "dev.outrelay.gap":
			got = append(got, "gap "+a.Data.Reason)
		case a.ID == end:
			return got
		case !a.notice() && !a.empty && !isSentinel(a.ID):
			got = append(got, a.ID)
		}
	}
}

func isSentinel(id string) bool { return strings.HasPrefix(id, sentinel) }

// An opened is a stream that a test reads itself.
type opened struct {
	connection
	name string // its own
}

var openedStreams atomic.Int64

// opened opens a stream after a cursor, or with the events that come if that is "".
func (g *gateway) opened(t *testing.T, way, filter, cursor string, query ...string) *opened {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	e := endpoint{address: g.topics(filter, append(query, "positions", "true")...), sse: way == "server-sent events", client: httpClient(t)}
	c, err := e.open(ctx, cursor)
	if err != nil {
		t.Fatalf("%s on %s: %v", way, e.address, err)
	}
	return &opened{c, fmt.Sprint(openedStreams.Add(1))}
}

func (o *opened) next(t *testing.T) arrival {
	t.Helper()
	a, err := o.connection.next()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantResumed checks what comes after a cursor, by every way.
func (g *gateway) wantResumed(t *testing.T, filter, topic, cursor string, want ...string) {
	t.Helper()
	for _, way := range waysOut {
		if d := difference(g.resumed(t, way, filter, topic, cursor), want); d != "" {
			t.Errorf("%s after the cursor: %s", way, d)
		}
	}
}

// A client that is cut before its first event resumes where it was, in an empty log
// as in one that is not.
func TestCursorBeforeTheFirstEvent(t *testing.T) {
	g := start(t)
	c := newCutter(t, strings.TrimPrefix(g.HTTP, "http://"))
	through := &gateway{HTTP: c.address()}
	var missed []string
	for round := range 2 {
		var cursors []string
		for _, way := range waysOut {
			if way == "history" {
				cursors = append(cursors, g.emptyPage(t, "cut/none"))
				continue
			}
			s := through.opened(t, way, "cut/*", "")
			cursors = append(cursors, s.next(t).cursor)
			c.cutAll()
			if a, err := s.connection.next(); err == nil {
				t.Errorf("%s brings %+v after the connection was reset", way, a)
			}
			s.close()
		}
		missed = ids(fmt.Sprint("missed-", round), 3)
		g.publishAll(t, "cut/one", missed...)
		for _, cursor := range cursors {
			g.wantResumed(t, "cut/*", "cut/one", cursor, missed...)
		}
	}
}

// emptyPage is the cursor of a page of history that has nothing.
func (g *gateway) emptyPage(t *testing.T, filter string) string {
	t.Helper()
	resp, err := httpClient(t).Get(g.topics(filter))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(b) != "[]" {
		t.Fatalf("the history of %s is %s %s (%v), want an empty page", filter, resp.Status, b, err)
	}
	return resp.Header.Get("Outrelay-Cursor")
}

// Behind a filter that lets nothing through the place moves on, and the stream says so.
func TestCursorBehindAFilter(t *testing.T) {
	g := configured(t, "limits: {pinginterval: 1s}")
	for _, nothing := range [][]string{
		{"filter", `{"exact":{"type":"never"}}`},
		{"sql", "type = 'never'"},
	} {
		for _, way := range waysOut[:2] {
			name := nothing[0] + " by " + way
			s := g.opened(t, way, "sieve/*", "", nothing...)
			opened := s.next(t).cursor
			prefix := strings.ReplaceAll(name, " ", "-")
			g.publishAll(t, "sieve/one", ids(prefix, 50)...)
			// A place may be told that was one before the events, or amidst them.
			var cursor string
			deadline := time.Now().Add(patience)
			for left := []string{"all"}; len(left) > 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %v after the events the stream still tells a place with %d of them to come", name, patience, len(left))
				}
				a := s.next(t)
				if a.cursor == "" || !a.empty && a.Type != "dev.outrelay.position" {
					t.Fatalf("%s: the stream brings %+v, want its place alone", name, a)
				}
				cursor = a.cursor
				left = g.resumed(t, "history", "sieve/*", "", cursor)
			}
			s.close()
			more := ids(prefix+"-more", 3)
			g.publishAll(t, "sieve/one", more...)
			g.wantResumed(t, "sieve/*", "sieve/one", cursor, more...)
			g.wantResumed(t, "sieve/*", "sieve/one", opened, append(ids(prefix, 50), more...)...)
		}
	}
}

// An older copy of the data folder is put back. Cursors from after the copy are from
// another life of the log, also where the log has grown past them again, and those
// from before it still hold.
func TestCursorFromBeforeARestore(t *testing.T) {
	g := start(t)
	restart := func(change func()) {
		t.Helper()
		g.stop(t)
		change()
		g.run(t)
	}
	kept := ids("kept", 5)
	atCopy := g.publishAll(t, "restore/one", kept...)
	copied := t.TempDir()
	restart(func() { copyFolder(t, copied, g.data) })
	lost := g.publishAll(t, "restore/one", ids("lost", 5)...)
	quiet := g.emptyPage(t, "restore/none") // of one that had read up to there and got nothing
	restart(func() {
		if err := os.RemoveAll(g.data); err != nil {
			t.Fatal(err)
		}
		copyFolder(t, g.data, copied)
	})
	reset := append([]string{"gap reset"}, kept...)
	// Before anything is stored: the resumed streams themselves store.
	if d := difference(g.resumed(t, "history", "restore/*", "", lost), reset); d != "" {
		t.Errorf("history after a cursor past the log's end: %s", d)
	}
	for _, cursor := range []string{lost, quiet} {
		g.wantResumed(t, "restore/*", "restore/one", cursor, reset...)
	}
	g.wantResumed(t, "restore/*", "restore/one", atCopy)
	grown := ids("grown", 9)
	g.publishAll(t, "restore/one", grown...)
	for _, cursor := range []string{lost, quiet} {
		g.wantResumed(t, "restore/*", "restore/one", cursor, append(reset, grown...)...)
	}
	g.wantResumed(t, "restore/*", "restore/one", atCopy, grown...)

	// And a log made anew, in which no cursor holds.
	restart(func() {
		if err := os.RemoveAll(g.data); err != nil {
			t.Fatal(err)
		}
	})
	for _, cursor := range []string{atCopy, lost, quiet} {
		g.wantResumed(t, "restore/*", "restore/one", cursor, "gap reset")
	}
}

func copyFolder(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// A cursor that the retention has left behind, by bytes or by age, gets the notice,
// and then the oldest event that is kept; one that it has not resumes exactly.
func TestCursorOlderThanTheRetention(t *testing.T) {
	g := configured(t, `
topics: [{filter: short/**, maxage: 3s}]
retention: {maxbytes: 8MiB}
`)
	short := g.publishAll(t, "short/one", "s-1")
	g.publishAll(t, "short/one", "s-2")
	first := g.publishAll(t, "long/one", "l-1")

	// By age. What comes between is of a topic that is kept for longer.
	g.wantResumed(t, "long/*", "long/one", short, "l-1")
	deadline := time.Now().Add(patience)
	for len(g.stored(t, "short/**")) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the events are not gone after %v", patience)
		}
		if err := pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	g.wantResumed(t, "short/*", "short/one", short, "gap expired")
	g.wantResumed(t, "long/*", "long/one", short, "l-1")
	g.wantResumed(t, "long/*", "long/one", first)

	// By bytes: most of them another topic's.
	var cursors []string
	padding := strings.Repeat("x", 500_000)
	all := ids("l", 40)
	for n, id := range all {
		post(t, g.topics("bulk/one"), structured,
			fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/e2e","type":"sample","data":%q}`, n, padding), http.StatusOK)
		if n > 0 { // the first was published above
			cursors = append(cursors, g.publishAll(t, "long/one", id))
		}
	}
	cursors = append([]string{first}, cursors...)
	left := slices.DeleteFunc(g.stored(t, "long/*"), isSentinel)
	if n := len(left); n < 10 || n > 17 || difference(left, all[40-n:]) != "" {
		t.Fatalf("of 20 MB in a log of 8 MiB there is left %q, want the newest", left)
	}
	oldest := 40 - len(left)
	expired := append([]string{"gap expired"}, left...)
	g.wantResumed(t, "long/*", "long/one", first, expired...)
	g.wantResumed(t, "long/*", "long/one", cursors[oldest-2], expired...)
	g.wantResumed(t, "long/*", "long/one", cursors[oldest], left[1:]...)
	g.wantResumed(t, "long/*", "long/one", cursors[39])

	// The gateway that comes next says the same.
	g.stop(t)
	g.run(t)
	g.wantResumed(t, "long/*", "long/one", first, expired...)
	g.wantResumed(t, "long/*", "long/one", cursors[oldest], left[1:]...)
}

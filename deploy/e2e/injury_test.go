package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A log whose file was cut short or has a bit turned is opened, and after a kill it is
// said where the log's end is missing. What it serves are the events as they were published, in their order, and
// nothing else; and it takes new ones.
func TestInjuredLog(t *testing.T) {
	injuries := 6
	if soak() {
		injuries = 50
	}
	random := chance(t)
	g := startOn(t, "", filepath.Join(t.TempDir(), "data"))
	client := httpClient(t)
	want := map[string]string{}
	var order []string
	for n := range 40 {
		var batch []string
		for i := range 10 {
			id := fmt.Sprintf("%d-%d", n, i)
			data := strings.Repeat(string(rune('a'+random.IntN(26))), 100+random.IntN(2000))
			want[id], order = data, append(order, id)
			batch = append(batch, fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/e2e","type":"sample","data":%q}`, id, data))
		}
		if err := untilTaken(t.Context(), client, g.topics("injury/one"), batched, "["+strings.Join(batch, ",")+"]", len(batch)); err != nil {
			t.Fatal(err)
		}
	}
	whole := filepath.Join(t.TempDir(), "whole")
	killed := filepath.Join(t.TempDir(), "killed")
	time.Sleep(time.Second) // longer than the note of the log's end takes
	g.kill(t)
	system(t, "cp", "-a", g.data, killed)
	g.run(t)
	g.stop(t)
	system(t, "cp", "-a", g.data, whole)
	for n := range injuries {
		from, how := whole, "after a stop"
		if n%2 == 1 {
			from, how = killed, "after a kill"
		}
		g.data = filepath.Join(t.TempDir(), "injured")
		system(t, "cp", "-a", from, g.data)
		injury := injure(t, random, g.data)
		g.run(t)
		var served []string
		for id, data := range g.bodies(t, "injury/one") {
			if want[id] != data {
				t.Errorf("%s, %s: event %s is served with other data than it was published with", how, injury, id)
			}
			served = append(served, id)
		}
		lost := len(order) - len(served)
		at := 0
		for _, id := range served { // a part of the order
			for at < len(order) && order[at] != id {
				at++
			}
			if at == len(order) {
				t.Errorf("%s, %s: event %s is out of order, or twice", how, injury, id)
				break
			}
			at++
		}
		said := strings.Contains(g.output.String(), "events are lost")
		t.Logf("%s, %s: %d of %d events lost, said: %t", how, injury, lost, len(order), said)
		// After a stop NATS knows by itself where the log ended, and what is missing counts
		// as deleted; a bit turned takes its own event, or all behind it after a kill.
		if lost > 1 && from == killed && !said {
			t.Errorf("%s, %s: %d events are lost, and serve doesn't say so:\n%s", how, injury, lost, g.output)
		}
		if err := untilTaken(t.Context(), client, g.topics("injury/two"), structured, sample("after"), 1); err != nil {
			t.Errorf("%s, %s: no publish after it: %v", how, injury, err)
		}
		g.kill(t)
	}
}

// injure cuts a file of the log short, or turns a bit of it.
func injure(t *testing.T, random *rand.Rand, data string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "jetstream", "*", "streams", "LOG_default", "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the data folder has no file of the log (%v)", err)
	}
	file := files[random.IntN(len(files))]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := random.IntN(len(b))
	what := fmt.Sprintf("%s of %d bytes cut at %d", filepath.Base(file), len(b), at)
	if random.IntN(2) == 0 {
		bit := random.IntN(8)
		b[at] ^= 1 << bit
		what = fmt.Sprintf("%s of %d bytes with bit %d of byte %d turned", filepath.Base(file), len(b), bit, at)
	} else {
		b = b[:at]
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return what
}

// bodies reads all of a topic: the data of each event by its id, in order.
func (g *gateway) bodies(t *testing.T, topic string) func(yield func(id, data string) bool) {
	t.Helper()
	client := httpClient(t)
	return func(yield func(id, data string) bool) {
		cursor := ""
		for {
			query := []string{"limit", "1000"}
			if cursor != "" {
				query = append(query, "after", cursor)
			}
			resp, err := client.Get(g.topics(topic, query...))
			if err != nil {
				t.Fatal(err)
			}
			var page []struct{ ID, Source, Data string }
			err = json.NewDecoder(resp.Body).Decode(&page)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("history: %s (%v)", resp.Status, err)
			}
			for _, e := range page {
				if e.Source != "/outrelay" && !yield(e.ID, e.Data) {
					return
				}
			}
			if resp.Header.Get("Link") == "" {
				return
			}
			cursor = resp.Header.Get("Outrelay-Cursor")
		}
	}
}

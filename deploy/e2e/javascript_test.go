package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The module is what its source makes, and small enough for any page.
func TestJavaScriptModule(t *testing.T) {
	const most = 5 << 10
	shipped := filepath.Join(javascriptClient, "outrelay.js")
	if size := len(output(t, "", "", "gzip", "-9", "-n", "-c", shipped)); size >= most {
		t.Errorf("outrelay.js has %d bytes after gzip -9, want less than %d", size, most)
	} else {
		t.Logf("outrelay.js: %d bytes after gzip -9", size)
	}
	made := filepath.Join(t.TempDir(), "outrelay.js")
	output(t, javascriptClient, "", "node", "build.mjs", made)
	got, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("outrelay.js is not what src/outrelay.js makes; run npm run build in subscriber/js")
	}
}

// publishIDs publishes events with the ids from-to, to excluded, in batches.
func publishIDs(t *testing.T, address string, from, to int) {
	t.Helper()
	for ; from < to; from += 1000 {
		var events []string
		for n := from; n < min(from+1000, to); n++ {
			events = append(events, sample(fmt.Sprint(n)))
		}
		post(t, address, "application/cloudevents-batch+json", "["+strings.Join(events, ",")+"]", http.StatusOK)
	}
}

// idsUpTo are the ids 0 to n, excluded.
func idsUpTo(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

// A stream outlives a gateway that is stopped, and one that is killed: each event once, in
// order, and its states are the truth.
func TestJavaScriptResume(t *testing.T) {
	t.Parallel()
	inHosts(t, func(t *testing.T, h jsHost) {
		g := start(t)
		js[any](t, h, `(() => {
			globalThis.ids = []; globalThis.phases = []; globalThis.gaps = [];
			globalThis.stream = outrelay.subscribe(%q, { ...given, from: 'earliest', onEvent: (e) => ids.push(e.id), onGap: (g) => gaps.push(g),
				onState: (s) => s.phase === phases.at(-1) || phases.push(s.phase) });
		})()`, g.topics("resume/**"))
		for n, end := range []func(*gateway, *testing.T){nil, (*gateway).stop, (*gateway).kill} {
			if end != nil {
				end(g, t)
				jsWait(t, h, "phases.at(-1) === 'reconnecting'", "phases")
				g.run(t)
			}
			publishIDs(t, g.topics("resume/one"), 5*n, 5*n+5)
			jsWait(t, h, fmt.Sprintf("ids.length >= %d && phases.at(-1) === 'connected'", 5*n+5), "({ ids, phases, stream })")
		}
		js[any](t, h, "(stream.close(), null)")
		if got := js[[]string](t, h, "ids"); !slices.Equal(got, idsUpTo(15)) {
			t.Errorf("the stream brought %q, want each once and in order", got)
		}
		want := strings.Fields("connecting connected reconnecting connected reconnecting connected ended")
		if got := js[[]string](t, h, "phases"); !slices.Equal(got, want) {
			t.Errorf("its states were %q, want %q", got, want)
		}
		if got := js[[]any](t, h, "gaps"); len(got) > 0 {
			t.Errorf("it has gaps: %v", got)
		}
	})
}

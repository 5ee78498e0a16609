package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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

// typeCheck runs the compiler of TypeScript, strictly, on a file of npm/types, in a folder where
// the client is installed. It emits JavaScript there, and returns what it found.
func typeCheck(t *testing.T, name string) (dir, found string) {
	t.Helper()
	dir = t.TempDir()
	source, err := os.ReadFile(filepath.Join("npm/types", name))
	if err != nil {
		t.Fatal(err)
	}
	file(t, dir, name, string(source))
	file(t, dir, "node.d.ts", "declare module 'node:process' { export const argv: string[]; }")
	client, err := filepath.Abs(javascriptClient)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "node_modules"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(client, filepath.Join(dir, "node_modules/outrelay")); err != nil {
		t.Fatal(err)
	}
	compiler, err := filepath.Abs("npm/node_modules/.bin/tsc")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), compiler, "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--module", "nodenext",
		"--lib", "es2022,dom", "--pretty", "false", name, "node.d.ts")
	cmd.Dir = dir
	cmd.WaitDelay = patience
	out, err := cmd.Output() // it fails where it finds something
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return dir, string(out)
}

// The types allow what the client does, which is then done, and find the mistakes that they
// are to find.
func TestJavaScriptTypes(t *testing.T) {
	t.Parallel()
	g := start(t)
	dir, found := typeCheck(t, "uses.mts")
	if found != "" {
		t.Errorf("the compiler complains of correct TypeScript:\n%s", found)
	}
	uses := filepath.Join(dir, "uses.mjs")
	got := strings.TrimSpace(output(t, dir, "", "node", uses, g.HTTP))
	const want = `{"n":3,"stored":true,"total":14,"place":true,"phase":"ended",` +
		`"settled":[true,true,true,true,true,true,true,true,true,true],"problem":400,"known":400,"like":"function","states":["connecting","connected","ended"]}`
	if got != want {
		t.Errorf("it printed %s\nwant %s", got, want)
	}
	compiled, err := os.ReadFile(uses)
	if err != nil {
		t.Fatal(err)
	}
	names := output(t, dir, "", "node", "--input-type=module", "-e", "import * as o from 'outrelay'; console.log(Object.keys(o).join(' '))")
	for _, name := range strings.Fields(names) {
		if strings.Count(string(compiled), name) < 2 {
			t.Errorf("%s is exported, but not used here", name)
		}
	}

	_, found = typeCheck(t, "wrong.mts")
	source, err := os.ReadFile("npm/types/wrong.mts")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(source)) {
		n++
		wrong := strings.HasSuffix(line, "// wrong\n")
		if told := strings.Contains(found, fmt.Sprintf("wrong.mts(%d,", n)); told != wrong {
			t.Errorf("line %d, told wrong: %v, want %v: %s", n, told, wrong, line)
		}
	}
	t.Logf("found in the file of mistakes:\n%s", found)
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

// The page of the client's README shows what is published, and its programs run as they stand
// there.
func TestJavaScriptReadme(t *testing.T) {
	t.Parallel()
	g := start(t)
	here := strings.NewReplacer("http://127.0.0.1:8080", g.HTTP, "https://relay.example", g.HTTP)
	blocks := blocksOf(t, "subscriber/js/README.md")
	if len(blocks["html"]) != 1 || len(blocks["js"]) < 4 {
		t.Fatalf("the README has %d html and %d js blocks; this test reads it wrongly", len(blocks["html"]), len(blocks["js"]))
	}
	dir := t.TempDir()
	installed, err := filepath.Abs(javascriptClient)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "node_modules"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(installed, filepath.Join(dir, "node_modules/outrelay")); err != nil {
		t.Fatal(err)
	}
	program := func(begins string) string {
		for n, body := range blocks["js"] {
			if strings.HasPrefix(body, begins) {
				return file(t, dir, fmt.Sprint(n, ".mjs"), here.Replace(body))
			}
		}
		t.Fatalf("no program begins with %q", begins)
		return ""
	}
	publishes := output(t, dir, "", "node", program("import { publish, session }"))
	t.Logf("publishing printed %q", publishes)
	if got, want := g.stored(t, "orders/eu"), 2; len(got) != want {
		t.Errorf("the program published %q, want %d events", got, want)
	}
	if line := client(t, "node", program("import { subscribe } from 'outrelay';\n\nfor await")).line(t); !strings.Contains(line, "1250") {
		t.Errorf("the subscriber printed %q", line)
	}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/outrelay.js" {
			http.ServeFile(w, r, filepath.Join(javascriptClient, "outrelay.js"))
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, here.Replace(blocks["html"][0]))
	}))
	t.Cleanup(s.Close)
	b := openBrowser(t)
	b.visit(t, s.URL)
	b.wait(t, "document.querySelectorAll('#orders li').length >= 1 && document.querySelector('#state').textContent === 'connected'")
	if item := eval[string](t, b, "document.querySelector('#orders li').textContent"); item != "orders/eu: order.paid 1250" {
		t.Errorf("the page lists %q", item)
	}
}

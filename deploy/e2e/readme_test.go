package e2e

import (
	"encoding/json"
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

// The addresses and the command as the README writes them.
const (
	readmeGateway = "127.0.0.1:8080"
	readmeCommand = "go run ./cmd/outrelay"
)

// What the README tells a reader to type does what it says, word for word but for
// the port and a command that is built already.
func TestReadme(t *testing.T) {
	g := start(t)
	port := strings.TrimPrefix(g.HTTP, "http://")
	local := freePort(t) // of the web server that is relayed to
	blocks := blocksOf(t, "README.md")
	for language, bodies := range blocks {
		for i, body := range bodies {
			body = strings.ReplaceAll(body, "3000", local)
			bodies[i] = strings.ReplaceAll(strings.ReplaceAll(body, readmeGateway, port), readmeCommand, outrelay)
		}
		blocks[language] = bodies
	}
	if len(blocks["html"]) != 1 || len(blocks["go"]) != 1 || len(blocks["js"]) != 1 || len(blocks["sh"]) < 7 {
		t.Fatalf("the README has %d html, %d go, %d js and %d sh blocks; this test reads it wrongly",
			len(blocks["html"]), len(blocks["go"]), len(blocks["js"]), len(blocks["sh"]))
	}

	// the shell, in the order of the page
	var printed []string
	for _, script := range blocks["sh"] {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "OUTRELAY_GATEWAY="+g.HTTP)
		cmd.WaitDelay = patience
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s\n%v: %s", script, err, out)
		}
		printed = append(printed, string(out))
	}
	published := 0
	for _, answer := range printed[:4] { // curl in three modes, then the command
		var a struct{ Accepted int }
		if err := json.Unmarshal([]byte(answer), &a); err != nil {
			t.Errorf("a publish printed %q: %v", answer, err)
		}
		published += a.Accepted
	}
	if published != 5 {
		t.Errorf("%d events were accepted in all, want 5: %q", published, printed[:4])
	}
	want := []string{"1", "2", "3", "4", "5"}
	var ids []string
	for line := range strings.Lines(printed[4]) {
		ids = append(ids, member(t, line, "id"))
	}
	if !slices.Equal(ids, want) {
		t.Errorf("subscribe printed the events %q, want %q", ids, want)
	}
	if n := strings.Count(printed[5], "\ndata:") + strings.Count(printed[5], "}]"); n < 5 {
		t.Errorf("curl printed %d events as server-sent events, want at least 5:\n%s", n, printed[5])
	}
	if page := printed[5][strings.LastIndex(printed[5], "[{"):]; strings.Count(page, `"specversion"`) != 2 {
		t.Errorf("the history page with limit=2 is %s", page)
	}

	if n := strings.Count(printed[6], `"attempt":1,`); n != 3 || !strings.Contains(printed[6], `"pending":2,"unsettled":0,`) {
		t.Errorf("the durable subscription printed %d deliveries, want 3, with 2 pending and none unsettled: %s", n, printed[6])
	}

	if !strings.Contains(printed[7], "module github.com/outrelay/outrelay") {
		t.Errorf("the relayed file is %q", printed[7])
	}

	t.Run("browser", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, blocks["html"][0])
		}))
		t.Cleanup(s.Close)
		b := openBrowser(t)
		b.visit(t, s.URL)
		b.wait(t, "document.querySelectorAll('#orders li').length >= 5")
		items := eval[[]string](t, b, "[...document.querySelectorAll('#orders li')].map((li) => li.textContent)")
		if len(items) != 5 || items[0] != "orders/eu: order.paid 1250" {
			t.Errorf("the page lists %q", items)
		}
	})

	t.Run("Go", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(blocks["go"][0]), 0o600); err != nil {
			t.Fatal(err)
		}
		program := filepath.Join(t.TempDir(), "program")
		output(t, root, "", "go", "build", "-o", program, file)
		p := client(t, program)
		for i := range 5 {
			if line := p.line(t); !strings.Contains(line, "orders/") {
				t.Errorf("line %d is %q, want one that names the topic", i, line)
			}
		}
	})

	t.Run("JavaScript", func(t *testing.T) {
		module, err := os.ReadFile(javascriptClient + "/outrelay.js")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		file(t, dir, "outrelay.js", string(module))
		file(t, dir, "package.json", `{"type":"module"}`)
		p := client(t, "node", file(t, dir, "main.js", blocks["js"][0]))
		for i := range 5 {
			if line := p.line(t); !strings.Contains(line, "orders/") {
				t.Errorf("line %d is %q, want one that names the topic", i, line)
			}
		}
	})
}

// blocksOf are the fenced blocks of a page of the project by their language.
func blocksOf(t *testing.T, page string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	var language, body string
	for line := range strings.Lines(string(b)) {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && language == "":
			language, body = fence, ""
		case isFence:
			blocks[language] = append(blocks[language], body)
			language = ""
		case language != "":
			body += line
		}
	}
	return blocks
}

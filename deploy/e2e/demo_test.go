package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/outrelay/outrelay/cmd/outrelay/demo"
)

// counts are the numbers on the demo's page, by the ids of their elements.
type counts struct{ all, alaska, explosions int }

// add counts the quakes as the file has them.
func (c counts) add(week []demo.Quake) counts {
	for _, q := range week {
		c.all++
		if q.Network == "ak" {
			c.alaska++
		}
		if q.Type == "gov.usgs.explosion" {
			c.explosions++
		}
	}
	return c
}

// The demo's page draws the week in a real browser: its counts are the file's, it
// complains of nothing, and it heals by itself when the gateway is stopped or
// killed and comes back, without counting anything twice.
func TestDemoPage(t *testing.T) {
	week, err := demo.Week()
	if err != nil {
		t.Fatal(err)
	}
	g := start(t)
	handler, err := demo.Page(g.HTTP, week)
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewServer(handler)
	t.Cleanup(page.Close)
	replay := func(part []demo.Quake) {
		t.Helper()
		_, err := demo.Replay(t.Context(), func(_ context.Context, topic string, events ...[]byte) (int, error) {
			texts := make([]string, len(events))
			for i, e := range events {
				texts[i] = string(e)
			}
			post(t, g.topics(topic), "application/cloudevents-batch+json", "["+strings.Join(texts, ",")+"]", http.StatusOK)
			return len(events), nil
		}, part, 0, func(int, demo.Quake) {})
		if err != nil {
			t.Fatal(err)
		}
	}

	b := openBrowser(t)
	b.visit(t, page.URL)
	third := len(week) / 3
	replay(week[:third])
	b.counts(t, counts{}.add(week[:third]))
	if said := b.said(); len(said) > 0 {
		t.Errorf("the page complains in the console: %q", said)
	}

	g.stop(t)
	g.run(t)
	replay(week[third-50 : 2*third]) // what is sent again is no new event
	b.counts(t, counts{}.add(week[:2*third]))

	g.kill(t)
	g.run(t)
	replay(week[2*third:])
	b.counts(t, counts{}.add(week))

	// one more, after which nothing can come that was sent before it
	last := demo.Quake{ID: "last", Type: "gov.usgs.explosion", Network: "ak"}
	publish(t, g.topics(last.Topic()), strings.NewReplacer(week[0].ID, last.ID, week[0].Type, last.Type).Replace(string(week[0].JSON)))
	b.counts(t, counts{}.add(week).add([]demo.Quake{last}))

	shot, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(os.TempDir(), "outrelay-demo-page.png")
	if err := os.WriteFile(file, shot, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("a screenshot of the page: %s", file)

	// while the gateway was away Chromium itself reported the failed connections;
	// the page has nothing else to complain of
	for _, said := range b.said() {
		if !strings.Contains(said, "WebSocket connection to") && !strings.Contains(said, "Failed to load resource") {
			t.Errorf("the page complains in the console: %q", said)
		}
	}
}

// The command "outrelay demo" as it is started by a stranger: the page it names
// shows the whole week, its summary has the file's numbers, and Ctrl-C ends it well.
func TestDemoCommand(t *testing.T) {
	week, err := demo.Week()
	if err != nil {
		t.Fatal(err)
	}
	command := client(t, outrelay, "demo", "--speed", "100000000")
	var where struct{ Page string }
	if err := json.Unmarshal([]byte(command.line(t)), &where); err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t)
	b.visit(t, where.Page)
	want := counts{}.add(week)
	b.counts(t, want)
	if said := b.said(); len(said) > 0 {
		t.Errorf("the page complains in the console: %q", said)
	}
	summary := fmt.Sprintf(`{"published":%d,"subscribers":{"quakes/**":%d,"quakes/ak":%d,"explosions":%d},"lost":0,"outoforder":0}`,
		len(week), want.all, want.alaska, want.explosions)
	if got := command.line(t); got != summary {
		t.Errorf("the demo prints %s\nwant %s", got, summary)
	}
	if err := command.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := command.wait(t); status != 0 {
		t.Errorf("the demo ended with status %d after an interrupt, want 0:\n%s", status, command.errs)
	}
}

// counts waits until the page shows the numbers, and no others after them.
func (b *browser) counts(t *testing.T, want counts) {
	t.Helper()
	number := func(id string) string {
		return fmt.Sprintf(`Number(document.querySelector(%q).textContent.replace(/\D/g, ''))`, id)
	}
	b.wait(t, number("#count-all")+" >= "+strconv.Itoa(want.all)+
		" && "+number("#count-ak")+" >= "+strconv.Itoa(want.alaska)+
		" && "+number("#count-explosions")+" >= "+strconv.Itoa(want.explosions))
	got := counts{
		eval[int](t, b, number("#count-all")),
		eval[int](t, b, number("#count-ak")),
		eval[int](t, b, number("#count-explosions")),
	}
	if got != want {
		t.Errorf("the page counts %+v, want, by the file, %+v", got, want)
	}
}

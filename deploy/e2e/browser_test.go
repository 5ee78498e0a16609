package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A browser is a headless Chromium with one page.
type browser struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string // errors of the console and uncaught exceptions
}

// openBrowser starts a Chromium with a profile of its own. It ends with the test.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1280, 900),
		chromedp.NoSandbox, // Chromium's own does not work for root
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(patience),
	)...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("closing the browser: %v", err)
		}
		cancel()
		cancelAllocator()
	})
	b := &browser{ctx: ctx}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	return b
}

// listen keeps what the console and the browser's log complain of.
func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, describe(e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			var words []string
			for _, a := range e.Args {
				words = append(words, string(a.Value)+a.Description)
			}
			b.complaints = append(b.complaints, strings.Join(words, " "))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.complaints = append(b.complaints, fmt.Sprintf("%s (%s)", e.Entry.Text, e.Entry.URL))
		}
	}
}

func describe(e *runtime.ExceptionDetails) string {
	if e.Exception != nil {
		return e.Text + " " + e.Exception.Description
	}
	return e.Text
}

// visit opens an address in the page.
func (b *browser) visit(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
		t.Fatalf("the browser at %s: %v", address, err)
	}
}

// eval evaluates JavaScript in the page, awaits it if it is a promise, and
// returns its value.
func eval[T any](t *testing.T, b *browser, script string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("in the browser: %v\nthe console: %q\nthe script: %s", err, b.said(), script)
	}
	return value
}

// wait polls until a JavaScript condition holds.
func (b *browser) wait(t *testing.T, condition string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !eval[bool](t, b, "!!("+condition+")"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it does not hold in the page that %s\nthe page: %s\nthe console: %q",
				patience, condition, eval[string](t, b, "document.body.innerText"), b.said())
		}
	}
}

// said is what the console complained of so far.
func (b *browser) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.complaints)
}

// emptyPage serves a page with nothing in it from a loopback origin of its own,
// as any web application's would be.
func emptyPage(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><title>empty</title>`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// filePage is the same as a file on this machine, whose origin is null.
func filePage(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, []byte("<!doctype html><title>file</title>"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file://" + file
}

// A page of another origin subscribes with "new WebSocket", sends on the same
// socket, and publishes with fetch.
func TestBrowserWebSocket(t *testing.T) {
	g, b := start(t), openBrowser(t)
	for _, page := range []struct{ name, address string }{
		{"loopback origin", emptyPage(t)},
		{"file", filePage(t)},
	} {
		t.Run(page.name, func(t *testing.T) {
			topic := "browser/" + strings.ReplaceAll(page.name, " ", "-")
			b.visit(t, page.address)
			got := eval[[]string](t, b, fmt.Sprintf(`(async () => {
				const got = [];
				const socket = new WebSocket(%q, 'cloudevents.json');
				const three = new Promise((resolve, reject) => {
					socket.onmessage = (m) => { if (got.push(JSON.parse(m.data).id) === 3) resolve(); };
					socket.onclose = (e) => reject(new Error('closed with ' + e.code));
				});
				await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = () => reject(new Error('refused')); });
				const event = (id) => ({specversion: '1.0', id, source: '/page', type: 'sample', data: id});
				socket.send(JSON.stringify(event('by-socket')));
				const post = (type, headers, body) => fetch(%q, {method: 'POST', headers: {'Content-Type': type, ...headers}, body});
				await post('application/cloudevents+json', {}, JSON.stringify(event('structured')));
				const answer = await post('text/plain', {'ce-specversion': '1.0', 'ce-id': 'binary', 'ce-source': '/page', 'ce-type': 'sample'}, 'hello');
				await three;
				const closed = new Promise((resolve) => { socket.onclose = (e) => resolve(String(e.code)); });
				socket.close(1000);
				return got.sort().concat(String((await answer.json()).accepted), await closed);
			})()`, g.ws(topic), g.topics(topic)))
			if want := []string{"binary", "by-socket", "structured", "1", "1000"}; !slices.Equal(got, want) {
				t.Errorf("the page has %q, want the three ids, one accepted, and a clean close: %q", got, want)
			}
		})
	}
	if said := b.said(); len(said) > 0 {
		t.Errorf("the console complains: %q", said)
	}
}

// EventSource gets events as they come, and resumes by itself where it was when
// the gateway restarts: each event once, in order.
func TestBrowserEventSource(t *testing.T) {
	g, b := start(t), openBrowser(t)
	b.visit(t, emptyPage(t))
	eval[bool](t, b, fmt.Sprintf(`new Promise((resolve) => {
		window.got = []; window.cursors = new Set(); window.opened = 0;
		window.source = new EventSource(%q);
		source.onopen = () => { window.opened++; resolve(true); };
		source.onmessage = (m) => { got.push(JSON.parse(m.data)); cursors.add(m.lastEventId); };
	})`, g.topics("sse/**")))
	// what is cut off in the middle of the flow and what comes while the gateway is
	// away must both be made up for
	for i := range 5 {
		publish(t, g.topics("sse/before"), sample(fmt.Sprint("before-", i)))
	}
	b.wait(t, "got.length >= 2")
	g.stop(t)
	g.run(t)
	for i := range 5 {
		publish(t, g.topics("sse/after"), sample(fmt.Sprint("after-", i)))
	}
	const events = "got.filter((e) => e.source !== '/outrelay').map((e) => e.id)"
	b.wait(t, events+".length >= 10 && opened >= 2")
	ids := eval[[]string](t, b, events)
	want := strings.Fields("before-0 before-1 before-2 before-3 before-4 after-0 after-1 after-2 after-3 after-4")
	if !slices.Equal(ids, want) {
		t.Errorf("EventSource got %q, want %q", ids, want)
	}
	for _, notice := range eval[[]string](t, b, "got.filter((e) => e.source === '/outrelay').map((e) => e.type)") {
		if notice != "dev.outrelay.draining" {
			t.Errorf("EventSource got the notice %s over a clean restart", notice)
		}
	}
	eval[bool](t, b, "(source.close(), true)")
}

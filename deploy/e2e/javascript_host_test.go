package e2e

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// javascriptClient is the folder of the JavaScript client.
const javascriptClient = root + "/subscriber/js"

// A jsHost runs JavaScript with the client in the global outrelay, and options for its
// sockets in given.
type jsHost interface {
	// run evaluates a script, awaits its value if it is a promise, and returns it as JSON.
	run(t *testing.T, script string) []byte
	// heap is how many bytes the host's heap has in use after a collection.
	heap(t *testing.T) int
}

// jsHosts are the places where the client is tried: Node with the socket that the client
// brings, with Node's own, which later versions have without asking, with the sockets of
// the npm package ws, and a page of Chromium.
var jsHosts = map[string]func(t *testing.T, page string) jsHost{
	"node":              func(t *testing.T, _ string) jsHost { return startNode(t, nil) },
	"node's own socket": func(t *testing.T, _ string) jsHost { return startNode(t, []string{"--experimental-websocket"}) },
	"npm's ws":          func(t *testing.T, _ string) jsHost { return startNode(t, nil, "ws") },
	"chromium":          func(t *testing.T, page string) jsHost { return openPage(t, page) },
}

// inHosts runs a test in each host, or in those named.
func inHosts(t *testing.T, test func(*testing.T, jsHost), only ...string) {
	t.Helper()
	inHostsAt(t, clientPage(t), test, only...)
}

// inHostsAt is the same with the address of the page, whose origin the gateway may have to
// know.
func inHostsAt(t *testing.T, page string, test func(*testing.T, jsHost), only ...string) {
	t.Helper()
	for name, open := range jsHosts {
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, page))
		})
	}
}

// js evaluates a script and returns its value.
func js[T any](t *testing.T, h jsHost, script string, args ...any) (value T) {
	t.Helper()
	if len(args) > 0 {
		script = fmt.Sprintf(script, args...)
	}
	b := h.run(t, script)
	if err := json.Unmarshal(b, &value); err != nil {
		t.Fatalf("the script's value %s: %v\n%s", b, err, script)
	}
	return value
}

// jsWait polls until a condition of JavaScript holds. What is shown if it never does
// is an expression too.
func jsWait(t *testing.T, h jsHost, condition, shown string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !js[bool](t, h, "!!("+condition+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it does not hold that %s; %s is %s", patience, condition, shown, h.run(t, shown))
		}
	}
}

// A nodeHost is a process of Node.
type nodeHost struct{ *process }

func startNode(t *testing.T, flags []string, args ...string) nodeHost {
	t.Helper()
	return startNodeWith(t, nil, "", flags, args...)
}

// startNodeWith runs Node under another program, if one is given, with an authority to trust.
func startNodeWith(t *testing.T, under []string, ca string, flags []string, args ...string) nodeHost {
	t.Helper()
	all := append(slices.Clone(under), "env", "NODE_EXTRA_CA_CERTS="+ca, "NODE_NO_WARNINGS=1", "node", "--expose-gc")
	all = append(append(append(all, flags...), "npm/host.mjs"), args...)
	return nodeHost{client(t, all[0], all[1:]...)}
}

func (n nodeHost) run(t *testing.T, script string) []byte {
	t.Helper()
	line, err := json.Marshal(script)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("node takes no script: %v\n%s", err, n.errs)
	}
	var answer struct {
		Value json.RawMessage
		Error string
	}
	if err := json.Unmarshal([]byte(n.line(t)), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Error != "" {
		t.Fatalf("in node: %s\nthe script: %s", answer.Error, script)
	}
	if answer.Value == nil {
		return []byte("null")
	}
	return answer.Value
}

func (n nodeHost) heap(t *testing.T) int {
	t.Helper()
	return js[int](t, n, "(gc(), gc(), process.memoryUsage().heapUsed)")
}

// A pageHost is a page of Chromium.
type pageHost struct{ *browser }

func openPage(t *testing.T, address string) pageHost {
	t.Helper()
	p := pageHost{openBrowser(t)}
	p.visit(t, address)
	p.wait(t, "window.outrelay")
	return p
}

// clientPage serves an empty page that has loaded the client.
func clientPage(t *testing.T) string {
	mux := http.NewServeMux()
	mux.Handle("GET /js/", http.StripPrefix("/js", http.FileServer(http.Dir(javascriptClient))))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><title>client</title>
			<script type="module">import * as outrelay from './js/outrelay.js'; Object.assign(window, { outrelay, given: {} });</script>`)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func (p pageHost) run(t *testing.T, script string) []byte {
	t.Helper()
	text := eval[string](t, p.browser, "(async () => JSON.stringify(await ("+script+")) ?? 'null')()")
	return []byte(text)
}

func (p pageHost) heap(t *testing.T) (used int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for range 2 {
		if _, err := chromedp.Call(ctx, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	usage, err := chromedp.Call(ctx, runtime.GetHeapUsage, cdp.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	return int(usage.UsedSize)
}

// acceptOf is the answer to a handshake's key (RFC 6455 section 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

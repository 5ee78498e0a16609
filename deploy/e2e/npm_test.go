package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// node runs a script of the folder npm to its end. It trusts the authority of ca.
func node(t *testing.T, ca, script string, args ...string) {
	t.Helper()
	if out := output(t, "npm", "", "env", append([]string{"NODE_EXTRA_CA_CERTS=" + ca, "node", script}, args...)...); out != "" {
		t.Log(out)
	}
}

// The official JavaScript SDK publishes in its three modes, and parses what a
// stream and a history page deliver; the three come out the same.
func TestJavaScriptSDK(t *testing.T) {
	g := start(t)
	for _, kind := range []string{"json", "geojson", "text", "binary"} {
		t.Run(kind, func(t *testing.T) {
			node(t, g.CA, "cloudevents.mjs", g.HTTPS, "jssdk/"+kind, kind)
		})
	}
}

// The npm package ws publishes and subscribes on one socket, in plain and over TLS.
func TestNodeWebSocket(t *testing.T) {
	g := start(t)
	node(t, g.CA, "ws.mjs", g.HTTP, "ws/plain")
	node(t, g.CA, "ws.mjs", g.HTTPS, "ws/tls")
}

// The npm program wscat subscribes, and publishes what is typed into another one.
func TestWscat(t *testing.T) {
	g := start(t)
	const wscat = "npm/node_modules/.bin/wscat"
	// wscat says nothing before the first event: from=earliest needs no moment
	subscriber := client(t, wscat, "-c", g.ws("wscat/**", "from", "earliest"), "-s", "cloudevents.json")
	publisher := client(t, wscat, "-c", g.ws("wscat/one"), "-s", "cloudevents.json", "-x", sample("by-wscat"), "-w", "-1")
	if id := member(t, publisher.line(t), "id"); id != "by-wscat" {
		t.Errorf("the publisher's own stream brought %q, want what it published", id)
	}
	if id := member(t, subscriber.line(t), "id"); id != "by-wscat" {
		t.Errorf("the subscriber got %q, want what the other wscat published", id)
	}
	publish(t, g.topics("wscat/two"), sample("by-http"))
	if id := member(t, subscriber.line(t), "id"); id != "by-http" {
		t.Errorf("the subscriber got %q, want what was published over HTTP", id)
	}
	// typed into the first one, on a wildcard: refused, and said so
	if _, err := fmt.Fprintln(subscriber.stdin, sample("on-a-wildcard")); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimPrefix(subscriber.line(t), "> ") // its prompt
	if kind := member(t, line, "type"); kind != "dev.outrelay.rejected" {
		t.Errorf("an event sent on a stream with wildcards was answered %q, want dev.outrelay.rejected", kind)
	}
}

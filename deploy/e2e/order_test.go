package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// With eight publishers on one topic, by every way in, all subscribers see the same
// order by every way out, which is that of the log. A batch with one bad event leaves
// nothing behind.
func TestOrder(t *testing.T) {
	each, limit := 60, 3*patience
	if soak() {
		each, limit = 1000, 15*patience
	}
	g := start(t)
	plain, tls1, tls2 := httpClient(t), g.tlsClient(t, false), g.tlsClient(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := &crowd{t: t, ctx: ctx, cancel: cancel}
	defer c.following.Wait()
	defer c.publishing.Wait()
	defer cancel() // before the two are waited for

	// There from the beginning.
	for _, e := range []endpoint{
		{name: "a WebSocket", address: g.topics("order/eu", "positions", "true"), client: plain},
		{name: "a WebSocket on *", address: g.topics("order/*", "positions", "true"), client: plain},
		{name: "a WebSocket on **", address: g.topics("**", "positions", "true"), client: plain},
		{name: "a WebSocket over TLS", address: g.secure("order/**", "positions", "true"), client: tls1},
		{name: "server-sent events", address: g.topics("order/eu"), sse: true, client: plain},
		{name: "server-sent events on *", address: g.topics("order/*"), sse: true, client: plain},
		{name: "server-sent events over HTTP/2", address: g.secure("order/eu"), sse: true, http2: true, client: tls2},
		{name: "server-sent events over HTTP/2 on **", address: g.secure("**"), sse: true, http2: true, client: tls2},
	} {
		c.follow(&follower{endpoint: e})
	}
	// These leave now and then, and resume.
	for _, e := range []endpoint{
		{name: "a WebSocket, resumed", address: g.topics("order/*", "positions", "true"), client: plain},
		{name: "server-sent events, resumed", address: g.topics("order/eu"), sse: true, client: plain},
		{name: "server-sent events over HTTP/2, resumed", address: g.secure("order/*"), sse: true, http2: true, client: tls2},
	} {
		f := &follower{endpoint: e}
		f.each = func(a arrival) (bool, error) { return a.notice() || a.empty || len(f.ids)%37 > 0, nil }
		c.follow(f)
	}
	// This one tells when some events have come.
	some := make(chan struct{})
	f := &follower{endpoint: endpoint{name: "a WebSocket that counts", address: g.topics("order/**", "positions", "true"), client: plain}}
	f.each = func(a arrival) (bool, error) {
		if a.RelayCursor != "" && len(f.ids) == 8*each/3 {
			close(some)
		}
		return true, nil
	}
	c.follow(f)
	c.opening.Wait()

	in := g.topics("order/eu")
	var begin []func()
	for p := range 3 {
		begin = append(begin, c.publisherOnSocket(p, each, endpoint{name: fmt.Sprintf("publisher %d's own WebSocket", p), address: in, client: plain}))
	}
	for _, begin := range begin {
		c.publishing.Go(begin)
	}
	c.publishSingly(3, each, plain, in)
	c.publishSingly(4, each, plain, in)
	c.publishSingly(5, each, tls2, g.secure("order/eu"))
	c.publishInBatches(6, each, plain, in)
	c.publishInBatches(7, each, tls2, g.secure("order/eu"))

	// Come in the middle, for all that there was.
	select {
	case <-some:
	case <-ctx.Done():
		t.FailNow()
	}
	for _, e := range []endpoint{
		{name: "a WebSocket from the earliest", address: g.topics("order/*", "positions", "true", "from", "earliest"), client: plain},
		{name: "server-sent events from the earliest", address: g.topics("**", "from", "earliest"), sse: true, client: plain},
	} {
		c.follow(&follower{endpoint: e})
	}
	c.publishing.Wait()
	publish(t, in, sample("last"))
	// And when all is over.
	c.follow(&follower{endpoint: endpoint{name: "a WebSocket afterwards", address: g.topics("order/eu", "from", "earliest"), client: plain}})
	c.following.Wait()
	if t.Failed() {
		return
	}

	log := g.stored(t, "order/eu", "limit", "1000")
	for _, f := range c.followers {
		if d := difference(f.ids, log); d != "" {
			t.Errorf("%s and the log differ: %s", f.name, d)
		}
	}
	for filter, limit := range map[string]string{"order/*": "37", "**": "100"} {
		if d := difference(g.stored(t, filter, "limit", limit), log); d != "" {
			t.Errorf("the history of %s in pages of %s differs: %s", filter, limit, d)
		}
	}
	of := map[string][]string{}
	for _, id := range log {
		publisher, _, _ := strings.Cut(id, "-")
		of[publisher] = append(of[publisher], id)
	}
	for p := range 8 {
		var want []string
		for n := range each {
			want = append(want, numbered(p, n))
		}
		if d := difference(of[fmt.Sprint(p)], want); d != "" {
			t.Errorf("of publisher %d the log has %s", p, d)
		}
	}
	if len(of) != 9 || !slices.Equal(of["last"], []string{"last"}) {
		t.Errorf("the log has events that were refused, or not the last: %q", of["refused"])
	}
}

// numbered is the id of a publisher's event.
func numbered(publisher, n int) string { return fmt.Sprintf("%d-%d", publisher, n) }

// A crowd publishes and subscribes at the same time. The first failure ends it.
type crowd struct {
	t                              *testing.T
	ctx                            context.Context
	cancel                         context.CancelFunc
	followers                      []*follower
	opening, publishing, following sync.WaitGroup
}

// fail is for the crowd's goroutines; the first failure is what counts.
func (c *crowd) fail(err error) {
	if c.ctx.Err() != context.Canceled {
		c.t.Error(err)
	}
	c.cancel()
}

// follow starts a follower up to the event "last". What opens it counts as opening
// until it has brought something, which it does at once if it tells its place.
func (c *crowd) follow(f *follower) {
	c.followers = append(c.followers, f)
	c.opening.Add(1)
	opened, each := sync.OnceFunc(c.opening.Done), f.each
	f.each = func(a arrival) (bool, error) {
		opened()
		if each == nil {
			return true, nil
		}
		return each(a)
	}
	c.following.Go(func() {
		defer opened()
		if err := f.follow(c.ctx, "last"); err != nil {
			c.fail(err)
		}
	})
}

// publisherOnSocket opens a stream and follows it. What it returns sends events on it,
// without waiting for one before the next, until they have all come back.
func (c *crowd) publisherOnSocket(p, each int, e endpoint) func() {
	c.t.Helper()
	conn, _, err := websocket.Dial(c.ctx, e.address, &websocket.DialOptions{HTTPClient: e.client, Subprotocols: []string{"cloudevents.json"}})
	if err != nil {
		c.t.Fatal(err)
	}
	conn.SetReadLimit(4 << 20)
	taken := make(chan struct{})
	f := &follower{endpoint: e, opened: 1}
	f.each = func(a arrival) (bool, error) {
		if a.Type == "dev.outrelay.rejected" {
			return false, fmt.Errorf("an event was rejected")
		}
		if a.ID == numbered(p, each-1) {
			close(taken)
		}
		return true, nil
	}
	c.followers = append(c.followers, f)
	c.following.Go(func() {
		defer conn.CloseNow()
		if err := f.take(&socket{c.ctx, conn}, "last"); err != nil {
			c.fail(f.fault(err))
		}
	})
	return func() {
		for n := range each {
			if err := conn.Write(c.ctx, websocket.MessageText, []byte(sample(numbered(p, n)))); err != nil {
				c.fail(fmt.Errorf("%s: %w", e.name, err))
				return
			}
		}
		select {
		case <-taken:
		case <-c.ctx.Done():
		}
	}
}

// publishSingly posts events, each once the last was taken.
func (c *crowd) publishSingly(p, each int, client *http.Client, address string) {
	c.publishing.Go(func() {
		for n := range each {
			if err := untilTaken(c.ctx, client, address, structured, sample(numbered(p, n)), 1); err != nil {
				c.fail(err)
				return
			}
		}
	})
}

// publishInBatches posts batches of 1 to 13 events, and before each one that is refused.
func (c *crowd) publishInBatches(p, each int, client *http.Client, address string) {
	c.publishing.Go(func() {
		for n := 0; n < each; {
			var events, refused []string
			for range min(1+n%13, each-n) {
				events = append(events, sample(numbered(p, n)))
				refused = append(refused, sample("refused-"+numbered(p, n)))
				n++
			}
			bad := n % (len(refused) + 1)
			refused = slices.Insert(refused, bad, `{"specversion":"1.0","id":"refused","source":"/e2e"}`)
			status, answer, err := try(c.ctx, client, address, batched, "["+strings.Join(refused, ",")+"]")
			var problem struct {
				Type      string
				Index     *int
				Attribute string
			}
			if err == nil {
				err = json.Unmarshal(answer, &problem)
			}
			if err != nil || status != http.StatusBadRequest || !strings.HasSuffix(problem.Type, "/event") ||
				problem.Index == nil || *problem.Index != bad || problem.Attribute != "type" {
				c.fail(fmt.Errorf("a batch without a type in its event %d: %d %s (%v)", bad, status, answer, err))
				return
			}
			if err := untilTaken(c.ctx, client, address, batched, "["+strings.Join(events, ",")+"]", len(events)); err != nil {
				c.fail(err)
				return
			}
		}
	})
}

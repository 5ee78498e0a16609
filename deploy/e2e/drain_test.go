package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A gateway that is stopped while events flow tells each of 500 subscribers so, and
// closes their streams in good order; they resume on the gateway that follows, and
// none misses anything. Meanwhile /healthz says that the gateway is going.
func TestDrainMissesNothing(t *testing.T) {
	const subscribers = 500
	g := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	plain, tls1, tls2 := httpClient(t), g.tlsClient(t, false), g.tlsClient(t, true)
	c := &crowd{t: t, ctx: ctx, cancel: cancel}
	defer c.following.Wait()
	defer c.publishing.Wait()
	defer cancel() // before the two are waited for

	ways := []endpoint{ // one in ten over TLS
		{name: "a WebSocket over TLS", address: g.secure("drain/*", "positions", "true"), client: tls1},
		{name: "server-sent events over HTTP/2", address: g.secure("drain/*"), sse: true, http2: true, client: tls2},
	}
	for len(ways) < 20 {
		ways = append(ways,
			endpoint{name: "a WebSocket", address: g.topics("drain/*", "positions", "true"), client: plain},
			endpoint{name: "server-sent events", address: g.topics("drain/*"), sse: true, client: plain})
	}
	flowing := make(chan struct{}) // the first of them has got some events
	for n := range subscribers {
		e := ways[n%len(ways)]
		e.name = fmt.Sprintf("subscriber %d, %s", n, e.name)
		d := &drained{follower: follower{endpoint: e}}
		d.ended = d.checkEnd
		d.each = d.look
		if n == 0 {
			d.each = func(a arrival) (bool, error) {
				if a.RelayCursor != "" && len(d.ids) == 10 {
					close(flowing)
				}
				return d.look(a)
			}
		}
		c.follow(&d.follower)
	}
	c.opening.Wait()

	restarted := make(chan struct{})
	address := g.topics("drain/one") // g is the test's own to look at, for it starts it again
	c.publishing.Go(func() {
		pace := time.NewTicker(20 * time.Millisecond) // 500 deliveries each
		defer pace.Stop()
		after := 0
		for n := 0; after < 20; n++ {
			if err := untilTaken(ctx, plain, address, structured, sample(fmt.Sprint("event-", n)), 1); err != nil {
				c.fail(err)
				return
			}
			select {
			case <-restarted:
				after++
			default:
			}
			<-pace.C
		}
		if err := untilTaken(ctx, plain, address, structured, sample("last"), 1); err != nil {
			c.fail(err)
		}
	})
	select {
	case <-flowing:
	case <-ctx.Done():
		t.FailNow()
	}
	watched := make(chan error, 1)
	health := g.HTTP + "/healthz"
	go func() { watched <- watchHealth(ctx, health) }()
	g.stop(t)
	if err := <-watched; err != nil {
		t.Error(err)
	}
	g.run(t)
	close(restarted)
	c.publishing.Wait()
	c.following.Wait()
	if t.Failed() {
		return
	}

	log := g.stored(t, "drain/*", "limit", "1000")
	for _, f := range c.followers {
		if d := difference(f.ids, log); d != "" {
			t.Errorf("%s and the log differ: %s", f.name, d)
		}
		if f.opened != 2 {
			t.Errorf("%s opened %d streams, want one on each gateway", f.name, f.opened)
		}
	}
}

// A drained is a follower whose first stream ends by a drain.
type drained struct {
	follower
	told int // notices that the gateway drains
}

func (d *drained) look(a arrival) (bool, error) {
	if a.Type != "dev.outrelay.draining" {
		return true, nil
	}
	d.told++
	if ms := a.Data.ReconnectAfterMS; ms == nil || *ms < 0 {
		return false, errors.New("the notice of the drain does not say when to connect again")
	} else if d.sse && a.retry != strconv.Itoa(*ms) {
		return false, fmt.Errorf("retry: %q, and the notice says %d", a.retry, *ms)
	}
	return true, nil
}

// checkEnd wants a stream to have ended as one that is drained does.
func (d *drained) checkEnd(err error) error {
	if d.told != 1 {
		return fmt.Errorf("%w: the stream ended with %w after %d notices of the drain", errContract, err, d.told)
	}
	if d.sse {
		if err != io.EOF {
			return contractError("the event stream ended with %v", err)
		}
		return nil
	}
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway || !strings.HasPrefix(closed.Reason, "drain") {
		return contractError("the WebSocket ended with %v, want 1001 drain", err)
	}
	return nil
}

// watchHealth asks a gateway how it is until it is gone: at first 200, then, for a
// second at least, 503.
func watchHealth(ctx context.Context, address string) error {
	transport := &http.Transport{DisableKeepAlives: true} // each time as a stranger
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var well, going int
	lastWell := time.Now()
	for {
		asked := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// It said 503 from some time after lastWell to some time before now.
			if said := time.Since(lastWell); going < 2 || said < time.Second {
				return fmt.Errorf("/healthz said 503 to %d questions, and for %v at most, want 1 s at least", going, said)
			}
			return nil
		}
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusOK && going == 0:
			well++
			lastWell = asked
		case resp.StatusCode == http.StatusServiceUnavailable:
			going++
		default:
			return fmt.Errorf("/healthz says %s, after 200 to %d questions and 503 to %d", resp.Status, well, going)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

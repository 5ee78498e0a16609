package deliver_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/cmd/outrelay/internal/deliver"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/subscriber"
)

// patience is how long a test waits for what should come at once.
const patience = 60 * time.Second

// newClient starts a real gateway on a real broker and is a client of it.
func newClient(t *testing.T) *subscriber.Client {
	t.Helper()
	b, err := broker.New(broker.Config{
		Dir: t.TempDir(), Log: broker.LogConfig{Flush: "1m"}, Namespaces: map[string]broker.NamespaceConfig{"default": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := access.New(access.Config{Namespaces: map[string]access.Namespace{"default": {Dev: true}}})
	if err != nil {
		t.Fatal(err)
	}
	joins, err := relay.New(relay.Config{Broker: b, Access: policy})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Broker: b, Access: policy, Relay: joins, Dev: true, HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	brokerCtx, stopBroker := context.WithCancel(context.Background())
	gatewayCtx, stopGateway := context.WithCancel(context.Background())
	var broken, ended sync.WaitGroup
	broken.Go(func() {
		if err := b.Run(brokerCtx); err != nil {
			t.Errorf("broker.Run() = %v", err)
		}
	})
	t.Cleanup(func() {
		stopBroker()
		broken.Wait()
	})
	select {
	case <-b.Ready():
	case <-time.After(patience):
		t.Fatal("the broker is not ready")
	}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ended.Go(func() {
		if err := g.Run(gatewayCtx); err != nil {
			t.Errorf("gateway.Run() = %v", err)
		}
	})
	t.Cleanup(func() {
		stopGateway()
		ended.Wait()
	})
	c, err := subscriber.New(subscriber.Config{Gateway: "http://" + g.HTTPAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// put publishes n events of so many partitions, in turn: the ids are "partition-number".
func put(t *testing.T, c *subscriber.Client, topic string, from, n, keys int) {
	t.Helper()
	var events [][]byte
	for i := from; i < from+n; i++ {
		events = append(events, fmt.Appendf(nil, `{"specversion":"1.0","id":"%d-%d","source":"/s","type":"t","partitionkey":"%d"}`, i%keys, i/keys, i%keys))
	}
	for len(events) > 0 {
		some := events[:min(len(events), 500)]
		if _, err := c.PublishJSON(t.Context(), topic, some...); err != nil {
			t.Fatal(err)
		}
		events = events[len(some):]
	}
}

// A run is an agent at work for a service.
type run struct {
	t       *testing.T
	stop    context.CancelFunc
	working sync.WaitGroup

	mu      sync.Mutex
	reports []deliver.Report
	told    []string
	err     error
}

func newRun(t *testing.T, a *deliver.Agent, handler http.HandlerFunc) *run {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	target, err := deliver.NewHTTP(deliver.HTTPConfig{To: server.URL, Timeout: 20 * time.Second, Connections: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	r := &run{t: t}
	a.Target = target
	a.Report = func(report deliver.Report) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reports = append(r.reports, report)
	}
	a.Tell = func(text string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	r.working.Go(func() {
		err := a.Run(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
	})
	t.Cleanup(func() { r.end() })
	return r
}

// end stops the agent and returns what Run did.
func (r *run) end() error {
	r.stop()
	r.working.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// said is what it has reported and told.
func (r *run) said() ([]deliver.Report, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]deliver.Report(nil), r.reports...), append([]string(nil), r.told...)
}

// until waits for something.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// empty says whether all that a subscription gets is settled.
func empty(t *testing.T, c *subscriber.Client, name string) bool {
	t.Helper()
	s, err := c.Subscription(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.Pending == 0 && s.Unsettled+s.Delayed == 0
}

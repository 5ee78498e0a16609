package subscriber_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
	"github.com/outrelay/outrelay/subscriber"
)

// patience is how long a test waits for what should come at once.
const patience = 60 * time.Second

// A world is a real gateway on a real broker that can be stopped and started again
// on the same data, behind a proxy that stays.
type world struct {
	t     testing.TB
	dir   string
	proxy *proxy
	stop  func()
	guard access.Namespace // who may do what
}

// newWorld starts a gateway, open to all, in which the topics under live/ are not
// stored.
func newWorld(t testing.TB) *world {
	return newGuardedWorld(t, access.Namespace{Dev: true})
}

// newGuardedWorld starts one that lets in whom it is told.
func newGuardedWorld(t testing.TB, guard access.Namespace) *world {
	w := &world{t: t, dir: t.TempDir(), proxy: newProxy(t), guard: guard}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	b, err := broker.New(broker.Config{
		Dir: w.dir,
		Log: broker.LogConfig{Flush: "1m"},
		Namespaces: map[string]broker.NamespaceConfig{
			"default": {Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}}},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	policy, err := access.New(access.Config{Namespaces: map[string]access.Namespace{"default": w.guard}})
	if err != nil {
		w.t.Fatal(err)
	}
	joins, err := relay.New(relay.Config{
		Broker: b, Access: policy, Rules: map[string][]relay.Rule{"default": {{Name: "**"}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{
		Broker: b, Access: policy, Relay: joins, Dev: true, HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	brokerCtx, stopBroker := context.WithCancel(context.Background())
	gatewayCtx, stopGateway := context.WithCancel(context.Background())
	var broken, ended sync.WaitGroup
	broken.Go(func() {
		if err := b.Run(brokerCtx); err != nil {
			w.t.Errorf("broker.Run() = %v", err)
		}
	})
	select {
	case <-b.Ready():
	case <-time.After(patience):
		w.t.Fatal("the broker is not ready")
	}
	if err := g.Listen(); err != nil {
		w.t.Fatal(err)
	}
	ended.Go(func() {
		if err := g.Run(gatewayCtx); err != nil {
			w.t.Errorf("gateway.Run() = %v", err)
		}
	})
	w.proxy.to(g.HTTPAddr().String())
	w.stop = sync.OnceFunc(func() {
		stopGateway()
		ended.Wait()
		w.proxy.to("")
		stopBroker()
		broken.Wait()
	})
}

// client is a client that reaches the gateway through the proxy.
func (w *world) client() *subscriber.Client {
	c, err := subscriber.New(subscriber.Config{Gateway: "http://" + w.proxy.listener.Addr().String()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// A proxy passes TCP connections on, and resets them where a test wants it.
type proxy struct {
	t        testing.TB
	listener net.Listener
	tasks    sync.WaitGroup

	mu     sync.Mutex
	target string // empty: nobody is there
	// limit says how many bytes of the answer a connection passes before it is
	// reset, -1 for all. Nil is all.
	limit func() int
	cuts  int
	conns map[net.Conn]bool
}

func newProxy(t testing.TB) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, conns: map[net.Conn]bool{}}
	p.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.tasks.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cutAll()
		p.tasks.Wait()
	})
	return p
}

func (p *proxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *proxy) cutting(limit func() int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = limit
}

func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// cutAll resets all connections that there are.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

// reset ends a connection with an RST, on both sides.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	target, left := p.target, -1
	if p.limit != nil {
		left = p.limit()
	}
	p.mu.Unlock()
	if target == "" {
		reset(client)
		return
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		reset(client)
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.conns, server)
		p.mu.Unlock()
	}()
	var up sync.WaitGroup
	up.Go(func() {
		b := make([]byte, 4<<10)
		for {
			n, err := client.Read(b)
			if n > 0 {
				if _, err := server.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				server.(*net.TCPConn).CloseWrite()
				return
			}
		}
	})
	defer up.Wait()
	b := make([]byte, 4<<10)
	for {
		n, err := server.Read(b)
		if left >= 0 {
			n = min(n, left)
			left -= n
		}
		if n > 0 {
			if _, err := client.Write(b[:n]); err != nil {
				reset(client)
				return
			}
		}
		if left == 0 {
			p.mu.Lock()
			p.cuts++
			p.mu.Unlock()
			reset(client)
			reset(server)
			return
		}
		if err != nil {
			client.(*net.TCPConn).CloseWrite()
			client.Close()
			return
		}
	}
}

// seeded is a source of chance whose seed is printed when the test fails.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, seed))
}

func numbered(from, to int) [][]byte {
	var events [][]byte
	for n := from; n <= to; n++ {
		events = append(events, fmt.Appendf(nil, `{"specversion":"1.0","id":"%d","source":"/test","type":"t","data":{"n":%d}}`, n, n))
	}
	return events
}

package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// rounds is how often a fault is made: in full with OUTRELAY_SOAK, else a tenth.
func rounds(full int) int {
	if os.Getenv("OUTRELAY_SOAK") != "" {
		return full
	}
	return full / 10
}

// cluster starts n NATS servers that know each other and returns their addresses.
func cluster(t *testing.T, n int) []string {
	t.Helper()
	routes := make([]string, n)
	listeners := make([]net.Listener, n)
	for i := range routes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], routes[i] = l, "nats://"+l.Addr().String()
	}
	for _, l := range listeners {
		l.Close()
	}
	var urls []string
	var servers []*server.Server
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), MaxPayload: 4 << 20, SyncInterval: time.Minute,
		}
		if n > 1 {
			addr := listeners[i].Addr().(*net.TCPAddr)
			o.Cluster = server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: addr.Port}
			o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		}
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		servers = append(servers, s)
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	}
	for _, s := range servers {
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("a NATS server is not ready")
		}
		urls = append(urls, s.ClientURL())
	}
	if n > 1 {
		await(t, "a JetStream leader", func() bool {
			for _, s := range servers {
				if s.JetStreamIsLeader() {
					return len(s.JetStreamClusterPeers()) == n
				}
			}
			return false
		})
	}
	return urls
}

// await polls until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s: no %s", what)
		}
	}
}

// A cutter passes bytes to a server and can cut all connections at once.
type cutter struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	conns    map[net.Conn]bool
	refusing bool
	done     sync.WaitGroup
	hold     func(sent []byte) // guarded by mu; if set, called before the broker's bytes go on to NATS
}

func newCutter(t *testing.T, target string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, target: strings.TrimPrefix(target, "nats://"), conns: map[net.Conn]bool{}}
	c.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.done.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); c.cut(); c.done.Wait() })
	return c
}

func (c *cutter) pass(conn net.Conn) {
	up, err := net.Dial("tcp", c.target)
	if err != nil {
		conn.Close()
		return
	}
	c.mu.Lock()
	if c.refusing {
		c.mu.Unlock()
		conn.Close()
		up.Close()
		return
	}
	c.conns[conn], c.conns[up] = true, true
	hold := c.hold
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { copyAll(up, conn, hold) })
	copyAll(conn, up, nil)
	both.Wait()
	c.mu.Lock()
	delete(c.conns, conn)
	delete(c.conns, up)
	c.mu.Unlock()
}

func copyAll(to, from net.Conn, before func([]byte)) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if before != nil {
				before(b[:n])
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// refuse has new connections closed at once, or not.
func (c *cutter) refuse(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusing = yes
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.(*net.TCPConn).SetLinger(0) // RST
		conn.Close()
	}
}

// flow publishes until stop is called, over two topics, and returns the ids in the
// order of each publisher.
func flow(t *testing.T, b *broker.Broker) (stop func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var ids []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			id := fmt.Sprintf("e%d", i)
			topic := schemas.Topic([]string{"a", "b"}[i%2])
			for { // as a publisher would: again until it is answered
				limited, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				_, err := b.Publish(limited, ns, topic, []*schemas.Event{event(t, id)})
				cancel()
				if err == nil {
					break
				}
				if !strings.Contains(err.Error(), "log") && !strings.Contains(err.Error(), "deadline") {
					t.Errorf("Publish(%s): %v", id, err)
					return
				}
			}
			ids = append(ids, id)
		}
	}()
	return func() []string {
		cancel()
		<-done
		return ids
	}
}

// checkStreams makes a fault several times while events flow and checks that every
// stream gets every event once and in order, without a gap.
func checkStreams(t *testing.T, b *broker.Broker, times int, fault func(round int)) {
	t.Helper()
	all := subscribe(t, b, broker.StreamOptions{Topics: "**"})
	onlyB := subscribe(t, b, broker.StreamOptions{Topics: "b"})
	stop := flow(t, b)
	stopped := false
	defer func() {
		if !stopped {
			stop()
		}
	}()
	var got []string
	for round := range times {
		fault(round)
		got = append(got, take(t, all, 20)...) // the stream goes on after each fault
	}
	want := stop()
	stopped = true
	got = append(got, take(t, all, len(want)-len(got))...)
	if !slices.Equal(got, want) {
		t.Errorf("a stream of all got %d events, not the %d published in their order: %s", len(got), len(want), firstDifference(got, want))
	}
	wantB := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return (id[len(id)-1]-'0')%2 == 0 })
	if gotB := take(t, onlyB, len(wantB)); !slices.Equal(gotB, wantB) {
		t.Errorf("a stream of b: %s", firstDifference(gotB, wantB))
	}
	none(t, b, all, "a")
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("at %d got %q, want %q", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("got %d, want %d", len(got), len(want))
}

func TestReaderHealsWhenItsConsumerIsDeleted(t *testing.T) {
	url := cluster(t, 1)[0]
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deleted := 0
	checkStreams(t, b, rounds(50), func(int) {
		var list struct{ Consumers []string }
		await(t, "consumer of the feed", func() bool {
			m, err := conn.Request("$JS.API.CONSUMER.NAMES.LOG_default", nil, 5*time.Second)
			if err != nil || json.Unmarshal(m.Data, &list) != nil {
				return false
			}
			return len(list.Consumers) > 0
		})
		for _, name := range list.Consumers {
			if _, err := conn.Request("$JS.API.CONSUMER.DELETE.LOG_default."+name, nil, 5*time.Second); err != nil {
				t.Fatal(err)
			}
			deleted++
		}
	})
	if deleted < rounds(50) {
		t.Errorf("%d consumers deleted, want %d", deleted, rounds(50))
	}
}

func TestReaderHealsWhenItsConnectionIsCut(t *testing.T) {
	c := newCutter(t, cluster(t, 1)[0])
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: "nats://" + c.listener.Addr().String()}})
	checkStreams(t, b, rounds(50), func(int) { c.cut() })
}

func TestReaderHealsWhenTheLeaderStepsDown(t *testing.T) {
	urls := cluster(t, 3)
	b, _ := start(t, broker.Config{
		NATS: broker.NATSConfig{URL: strings.Join(urls, ",")},
		Log:  broker.LogConfig{Replicas: 3},
	})
	conn, err := nats.Connect(urls[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stepped := 0
	checkStreams(t, b, rounds(50), func(int) {
		await(t, "leader that steps down", func() bool {
			m, err := conn.Request("$JS.API.STREAM.LEADER.STEPDOWN.LOG_default", nil, 5*time.Second)
			return err == nil && strings.Contains(string(m.Data), `"success":true`)
		})
		stepped++
	})
	if stepped != rounds(50) {
		t.Errorf("%d leaders stepped down, want %d", stepped, rounds(50))
	}
}

// With three replicas a batch with copies is settled as with one.
func TestDuplicatesInACluster(t *testing.T) {
	urls := cluster(t, 3)
	c := broker.Config{NATS: broker.NATSConfig{URL: strings.Join(urls, ",")}, Log: broker.LogConfig{Replicas: 3}}
	first, _ := start(t, c)
	second, _ := start(t, c)
	publish(t, first, "a", ids("e", 1, 10)...)
	r := publish(t, second, "a", "n1", "e3", "n2", "e9", "n3", "n3")
	if !slices.Equal(r.Duplicates, []int{1, 3, 5}) || r.Accepted != 6 {
		t.Errorf("a batch with another gateway's events got %+v", r)
	}
	s := subscribe(t, first, broker.StreamOptions{Topics: "a", Start: broker.Start{From: broker.FromEarliest}})
	if got, want := take(t, s, 13), append(ids("e", 1, 10), "n1", "n2", "n3"); !slices.Equal(got, want) {
		t.Errorf("delivered %v, want %v", got, want)
	}
	none(t, second, s, "a")
}

// connect opens a connection of the test's own to NATS.
func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

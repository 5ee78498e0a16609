package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// natsServer runs a NATS of its own in this process, with room for 64 MiB.
func natsServer(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 20, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS is not ready after 30 s")
	}
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	return s.ClientURL(), js
}

// streamConfig is what NATS says of a namespace's log.
func streamConfig(t *testing.T, js jetstream.JetStream, namespace string) jetstream.StreamConfig {
	t.Helper()
	s, err := js.Stream(limited(t), "LOG_"+namespace)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func reload(t *testing.T, b *broker.Broker, c broker.NamespaceConfig) {
	t.Helper()
	if err := b.Reload(limited(t), map[string]broker.NamespaceConfig{ns: c}); err != nil {
		t.Fatalf("Reload(%+v): %v", c, err)
	}
}

var unstored = broker.NamespaceConfig{Topics: []broker.TopicRule{{Filter: "a/**", Unstored: true}}}

// A topic becomes one that is not stored, and stored again, under the streams that
// are open; who was away meanwhile is told that something may be missing.
func TestReloadOfTopics(t *testing.T) {
	b, _ := start(t, broker.Config{})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a/*"})
	first := publish(t, b, "a/b", "stored")
	if !first.Stored {
		t.Fatalf("publish by the first rules = %+v, want it stored", first)
	}
	if got := take(t, s, 1); got[0] != "stored" {
		t.Errorf("the stream got %v", got)
	}
	other := publish(t, b, "other", "o1")

	reload(t, b, unstored)
	if r := publish(t, b, "a/b", "live"); r.Stored || b.Stored(ns, "a/b") {
		t.Errorf("publish by the second rules = %+v, want it not stored", r)
	}
	if got := take(t, s, 1); got[0] != "live" {
		t.Errorf("the stream got %v", got)
	}

	reload(t, b, broker.NamespaceConfig{})
	if r := publish(t, b, "a/b", "again"); !r.Stored {
		t.Errorf("publish by the third rules = %+v, want it stored", r)
	}
	if got := take(t, s, 1); got[0] != "again" {
		t.Errorf("the stream got %v", got)
	}

	resumed := func(c schemas.Cursor, topics schemas.TopicFilter, n int) []string {
		return take(t, subscribe(t, b, broker.StreamOptions{Topics: topics, Start: after(c)}), n)
	}
	if got := resumed(first.Cursor, "a/*", 2); !slices.Equal(got, []string{"gap unstored", "again"}) {
		t.Errorf("resumed from before the time when it was not stored: %v", got)
	}
	last := publish(t, b, "a/b", "last")
	publish(t, b, "a/b", "newest")
	if got := resumed(last.Cursor, "a/*", 1); got[0] != "newest" {
		t.Errorf("resumed from after it: %v", got)
	}
	publish(t, b, "other", "o2")
	if got := resumed(other.Cursor, "other", 1); got[0] != "o2" {
		t.Errorf("resumed a topic that was always stored: %v", got)
	}

	// What former rules have been forgotten, nobody can rule out any more.
	for range 40 {
		reload(t, b, unstored)
		reload(t, b, broker.NamespaceConfig{})
	}
	if got := resumed(other.Cursor, "other", 2); !slices.Equal(got, []string{"gap unstored", "o2"}) {
		t.Errorf("resumed from before 80 reloads: %v", got)
	}
}

// How long and how much is kept changes in the log itself, and an event that was
// stored while the log's age grew keeps to its own.
func TestReloadOfRetention(t *testing.T) {
	url, js := natsServer(t)
	retention := broker.Retention{MaxAge: time.Hour, MaxBytes: 8 << 20, Dedup: time.Hour}
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}, Namespaces: map[string]broker.NamespaceConfig{ns: {Retention: retention}}})
	old := publish(t, b, "a", "1")

	retention.MaxBytes = 16 << 20
	reload(t, b, broker.NamespaceConfig{Retention: retention, Topics: []broker.TopicRule{{Filter: "long", MaxAge: 3 * time.Hour}}})
	if c := streamConfig(t, js, ns); c.MaxAge != 3*time.Hour || c.MaxBytes != 16<<20 || c.Duplicates != time.Hour {
		t.Errorf("the log has maxage %s, maxbytes %d, dedup %s", c.MaxAge, c.MaxBytes, c.Duplicates)
	}
	stream, err := js.Stream(limited(t), "LOG_default")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[schemas.Topic]string{"a": "3600", "long": ""} {
		r := publish(t, b, topic, "2")
		m, err := stream.GetMsg(limited(t), r.Cursor.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get(nats.MsgTTLHdr); got != want {
			t.Errorf("an event of %s is kept for %q s, want %q, where the log keeps its for three hours", topic, got, want)
		}
	}

	// Two seconds from now on: all of it goes, and is old to who resumes.
	reload(t, b, broker.NamespaceConfig{Retention: broker.Retention{MaxAge: 2 * time.Second, MaxBytes: 8 << 20, Dedup: time.Second}})
	deadline := time.Now().Add(30 * time.Second)
	for {
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "**", Start: broker.Start{From: broker.FromEarliest}, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events are still there after 30 s", len(page.Events))
		}
		time.Sleep(50 * time.Millisecond)
	}
	// Kept longer again, so that what comes next is read before it goes.
	reload(t, b, broker.NamespaceConfig{Retention: broker.Retention{MaxAge: time.Hour, MaxBytes: 8 << 20, Dedup: time.Second}})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(old.Cursor)})
	if r := publish(t, b, "a", "1"); len(r.Duplicates) != 0 { // known for an hour, before
		t.Errorf("an event from before the new dedup window is a duplicate: %+v", r)
	}
	if got := take(t, s, 2); !slices.Equal(got, []string{"gap expired", "1"}) {
		t.Errorf("resumed over what is gone: %v", got)
	}
}

// A reload that one log refuses changes nothing in any.
func TestReloadIsAllOrNothing(t *testing.T) {
	url, js := natsServer(t)
	small := broker.NamespaceConfig{Retention: broker.Retention{MaxBytes: 8 << 20}}
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}, Namespaces: map[string]broker.NamespaceConfig{"a": small, "b": small}})
	larger, huge := small, small
	larger.Retention.MaxBytes, huge.Retention.MaxBytes = 16<<20, 1<<40
	larger.Topics = []broker.TopicRule{{Filter: "**", Unstored: true}}
	for name, next := range map[string]map[string]broker.NamespaceConfig{
		"more than NATS has room for": {"a": larger, "b": huge},
		"a filter that is none":       {"a": larger, "b": {Topics: []broker.TopicRule{{Filter: "a//b"}}}},
		"an age below a second":       {"a": {Topics: []broker.TopicRule{{Filter: "a", MaxAge: time.Millisecond}}}},
	} {
		err := b.Reload(limited(t), next)
		if err == nil {
			t.Fatalf("Reload with %s: no error", name)
		}
		for _, namespace := range []string{"a", "b"} {
			if c := streamConfig(t, js, namespace); c.MaxBytes != 8<<20 {
				t.Errorf("after %s (%v) the log of %s has maxbytes %d", name, err, namespace, c.MaxBytes)
			}
			if !b.Stored(namespace, "t") {
				t.Errorf("after %s the topics of %s are not stored", name, namespace)
			}
		}
	}
	// What the broker does not have is passed over, and what is not named stays.
	if err := b.Reload(limited(t), map[string]broker.NamespaceConfig{"c": small, "a": larger}); err != nil {
		t.Fatal(err)
	}
	if b.Stored("a", "t") || !b.Stored("b", "t") {
		t.Error("the good reload does not hold in a, or does in b")
	}
	if c := streamConfig(t, js, "a"); c.MaxBytes != 16<<20 {
		t.Errorf("the log of a has maxbytes %d", c.MaxBytes)
	}
}

// A log may be larger than the disk's free space by its retention: it is small, at
// first, and the operator may add a disk.
func TestRetentionBeyondTheDisk(t *testing.T) {
	large := broker.NamespaceConfig{Retention: broker.Retention{MaxBytes: 1 << 50}}
	b, _ := start(t, broker.Config{Namespaces: map[string]broker.NamespaceConfig{ns: large, "other": large}})
	publish(t, b, "a", "1")
}

func TestReloadBeforeRun(t *testing.T) {
	b, err := broker.New(broker.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(limited(t), map[string]broker.NamespaceConfig{ns: {}}); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("Reload before Run: %v", err)
	}
}

// Reloads under load lose nothing, double nothing and turn nothing round.
func TestReloadUnderLoad(t *testing.T) {
	b, _ := start(t, broker.Config{Log: broker.LogConfig{Storage: "memory"}})
	s := subscribe(t, b, broker.StreamOptions{Topics: "a/*"})
	const events = 500
	var publishers sync.WaitGroup
	defer publishers.Wait()
	stop := make(chan struct{})
	publishers.Go(func() { // reloads until all is published
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			c := broker.NamespaceConfig{Retention: broker.Retention{MaxAge: time.Duration(n%7+1) * time.Hour, Dedup: time.Duration(n%3+1) * time.Minute}}
			if n%2 == 0 {
				c.Topics = []broker.TopicRule{{Filter: "a/b", MaxAge: 9 * time.Hour}, {Filter: "x/**", Unstored: true}}
			}
			if err := b.Reload(limited(t), map[string]broker.NamespaceConfig{ns: c}); err != nil {
				t.Errorf("Reload %d: %v", n, err)
				return
			}
		}
	})
	publishers.Go(func() {
		defer close(stop)
		for n := range events {
			e := event(t, fmt.Sprint(n))
			if _, err := b.Publish(limited(t), ns, "a/b", []*schemas.Event{e}); err != nil {
				t.Errorf("Publish %d: %v", n, err)
				return
			}
		}
	})
	for n, id := range take(t, s, events) {
		if id != fmt.Sprint(n) {
			t.Fatalf("delivery %d is the event %s", n, id)
		}
	}
}

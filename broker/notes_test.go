package broker_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// complaints collects what an operator is warned of.
type complaints struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *complaints) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *complaints) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func (c *complaints) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(c, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// losses counts what a start found missing.
type losses struct {
	mu sync.Mutex
	n  uint64
}

func (*losses) Stored(string, int, int, time.Duration, error) {}
func (*losses) Behind(string, int)                            {}
func (l *losses) Lost(_ string, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += n
}

// copied is a copy of a data folder, as a kill at this moment would leave it.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	for {
		err := os.CopyFS(to, os.DirFS(dir))
		if err == nil {
			return to
		}
		if !os.IsNotExist(err) { // a file that was being replaced
			t.Fatal(err)
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
}

// What leaves the log as it should is no loss, killed or stopped: events of their own
// short age in the middle, with the files written anew around the gaps, and the oldest of
// a full log.
func TestExpiryAndRetentionAreNoLoss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := broker.Config{Dir: dir, Namespaces: map[string]broker.NamespaceConfig{ns: {
		Topics:    []broker.TopicRule{{Filter: "short/**", MaxAge: time.Second}},
		Retention: broker.Retention{MaxBytes: 8 << 20},
	}}}
	b, stop := start(t, config)
	padding := fmt.Sprintf(`"data":%q`, strings.Repeat("x", 8<<10))
	kept := 0
	fill := func(topic schemas.Topic, batches int) {
		t.Helper()
		for n := range batches {
			events := make([]*schemas.Event, 50)
			for i := range events {
				events[i] = event(t, fmt.Sprintf("%s-%d-%d-%d", topic, kept, n, i), padding)
			}
			if _, err := b.Publish(limited(t), ns, topic, events); err != nil {
				t.Fatal(err)
			}
			publish(t, b, "long", fmt.Sprint("long", kept))
			kept++
		}
	}
	look := func(what, dir string) *broker.Broker {
		t.Helper()
		var said complaints
		lost := new(losses)
		c := config
		c.Dir, c.Logger, c.Observer = dir, said.logger(), lost
		again, _ := start(t, c)
		if lost.n != 0 || strings.Contains(said.String(), "are lost") || strings.Contains(said.String(), "spoilt") {
			t.Errorf("%s: %d events are called lost:\n%s", what, lost.n, said.String())
		}
		return again
	}
	fill("short/a", 14) // 6 MiB, in two files
	var during []string
	await(t, "expiry", func() bool {
		during = append(during, copied(t, dir))
		page, err := b.History(limited(t), ns, broker.HistoryOptions{Topics: "short/**", Start: broker.Start{From: broker.FromEarliest}, Limit: 1})
		return err == nil && len(page.Events) == 0
	})
	for i, at := range during[max(0, len(during)-3):] {
		again := look(fmt.Sprintf("copy %d while events expired", i), at)
		page, err := again.History(limited(t), ns, broker.HistoryOptions{Topics: "long", Start: broker.Start{From: broker.FromEarliest}, Limit: 1000})
		if err != nil || len(page.Events) != kept || page.Gap != nil {
			t.Errorf("copy %d has %d events that stay, %v, want %d", i, len(page.Events), err, kept)
		}
	}
	fill("other", 26) // 11 MiB: the oldest go
	look("a copy when the oldest went", copied(t, dir))
	fill("short/b", 2)
	stop()
	time.Sleep(1200 * time.Millisecond) // they expire when nobody runs
	look("after a stop", dir)
}

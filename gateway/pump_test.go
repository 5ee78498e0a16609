package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// liveTopics makes live/** topics that are not stored.
func liveTopics(_ *gateway.Config, _ *access.Config, b *broker.Config) {
	b.Namespaces = map[string]broker.NamespaceConfig{broker.DefaultNamespace: {
		Topics: []broker.TopicRule{{Filter: "live/**", Unstored: true}},
	}}
}

// What an event allocates does not grow with its subscribers: a delivery allocates
// nothing.
func TestDeliveriesAllocateNothing(t *testing.T) {
	perEvent := func(subscribers int) float64 {
		w := start(t, liveTopics)
		defer w.stop()
		var received atomic.Int64
		var reading sync.WaitGroup
		defer reading.Wait()
		for range subscribers {
			s := w.raw(t, false, "/topics/live/a", "")
			defer s.Close()
			reading.Go(func() {
				b := make([]byte, 4096)
				for {
					n, err := s.Read(b)
					if err != nil {
						return
					}
					received.Add(int64(n))
				}
			})
		}
		e, err := schemas.ParseEvent([]byte(event("1")))
		if err != nil {
			t.Fatal(err)
		}
		events := []*schemas.Event{e}
		publish := func() {
			before := received.Load()
			if _, err := w.broker.Publish(context.Background(), broker.DefaultNamespace, "live/a", events); err != nil {
				t.Fatal(err)
			}
			size := int64(e.Size()) // each gets at least so much
			for deadline := time.Now().Add(10 * time.Second); received.Load()-before < size*int64(subscribers); {
				if time.Now().After(deadline) {
					t.Fatal("an event did not reach every subscriber within 10 s")
				}
				time.Sleep(50 * time.Microsecond) // between two looks
			}
		}
		publish()
		return testing.AllocsPerRun(200, publish)
	}
	one, many := perEvent(1), perEvent(101)
	if each := (many - one) / 100; each > 0.02 {
		t.Errorf("an event allocates %.1f times with 1 subscriber and %.1f with 101: %.2f a delivery, want 0", one, many, each)
	}
}

// Streams that stall and go on at random, beside others, get every event once and in
// order, and of what is not stored a gap with the right count.
func TestStuckStreamsCatchUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	w := start(t, func(g *gateway.Config, a *access.Config, b *broker.Config) {
		liveTopics(g, a, b)
		b.Limits.RingBytes = 1 << 20
	})
	const events, size = 400, 20_000 // 8 MB, far more than ring and socket hold
	type client struct {
		*rawSocket
		stored bool
		stalls []int // before which of its messages it stops reading
	}
	var clients []client
	for i := range 8 {
		c := client{stored: i%2 == 0}
		topic := map[bool]string{true: "log", false: "live/log"}[c.stored]
		c.rawSocket = w.raw(t, i%4 > 1, "/topics/"+topic, "")
		if i >= 4 {
			c.stalls = []int{random.IntN(50), 50 + random.IntN(100)}
		}
		clients = append(clients, c)
	}
	published := make(chan struct{})
	var reading sync.WaitGroup
	for i, c := range clients {
		reading.Go(func() {
			next := 0
			for messages := 0; next < events; messages++ {
				if len(c.stalls) > 0 && messages == c.stalls[0] {
					c.stalls = c.stalls[1:]
					<-published
				}
				_, payload, err := c.read()
				if err != nil {
					t.Errorf("client %d after event %d: %v", i, next, err)
					return
				}
				var missed int
				if _, err := fmt.Sscanf(field(payload, "missed"), "%d", &missed); err == nil {
					if c.stored {
						t.Errorf("client %d of a stored topic has a gap of %d", i, missed)
					}
					next += missed
					continue
				}
				if want := fmt.Sprintf(`"id":"%d"`, next); !strings.Contains(payload[:100], want) {
					t.Errorf("client %d got %.60s, want %s", i, payload, want)
					return
				}
				next++
			}
		})
	}
	pad := strings.Repeat("x", size)
	for i := range events {
		e, err := schemas.ParseEvent([]byte(fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":%q}`, i, pad)))
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range []schemas.Topic{"log", "live/log"} {
			if _, err := w.broker.Publish(context.Background(), broker.DefaultNamespace, topic, []*schemas.Event{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(published)
	reading.Wait()
}

// Streams that read nothing for a while, without falling behind the ring, get all the
// rest when they read again: a socket that takes nothing of what a pump has in hand
// loses none of it.
func TestStreamsThatPauseGetTheRest(t *testing.T) {
	w := start(t, nil)
	const events, size = 250, 100_000 // within the ring, more than sockets hold
	var clients []*rawSocket
	for i := range 4 {
		clients = append(clients, w.raw(t, i%2 == 1, "/topics/log", ""))
	}
	pad := strings.Repeat("x", size)
	for i := range events {
		e, err := schemas.ParseEvent([]byte(fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":%q}`, i, pad)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.broker.Publish(context.Background(), broker.DefaultNamespace, "log", []*schemas.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	var reading sync.WaitGroup
	for i, c := range clients {
		reading.Go(func() {
			for next := range events {
				_, payload, err := c.read()
				if want := fmt.Sprintf(`"id":"%d"`, next); err != nil || !strings.Contains(payload[:min(len(payload), 100)], want) {
					t.Errorf("client %d got %.60s (%v), want %s", i, payload, err, want)
					return
				}
			}
		})
	}
	reading.Wait()
}

// field finds a number in a notice, as text.
func field(payload, name string) string {
	if len(payload) > 1000 {
		return "" // an event of this test
	}
	_, after, _ := strings.Cut(payload, `"`+name+`":`)
	return after
}

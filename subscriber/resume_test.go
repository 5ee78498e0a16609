package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// expect takes the events 1 to last of a stream: each once, in order, no gap.
func expect(t *testing.T, s *subscriber.Stream, last int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for n := 1; n <= last; n++ {
		d, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("instead of event %d: %v", n, err)
		}
		if got := id(t, d); got != fmt.Sprint(n) || d.Repeated {
			t.Fatalf("got event %s (repeated: %v), want %d", got, d.Repeated, n)
		}
	}
}

// publish sends events in small batches, as long as it takes.
func publish(t *testing.T, c *subscriber.Client, topic string, events [][]byte, pause func()) {
	for len(events) > 0 {
		n := min(10, len(events))
		if _, err := c.PublishJSON(t.Context(), topic, events[:n]...); err != nil {
			t.Errorf("publish: %v", err)
			return
		}
		events = events[n:]
		pause()
	}
}

// The connection is reset again and again, at random places, which are mostly
// inside a frame.
func TestResetConnectionLosesAndDoublesNothing(t *testing.T) {
	const events, resets = 2000, 20
	w := newWorld(t)
	chance := seeded(t)
	c := w.client()
	subscriber.Hurry(c)
	s, err := c.Subscribe(t.Context(), "orders/*", subscriber.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w.proxy.cutting(func() int {
		if w.proxy.cuts >= resets { // called under its lock
			return -1
		}
		return 1 + chance.IntN(8<<10)
	})
	w.proxy.cutAll()
	direct, err := subscriber.New(subscriber.Config{Gateway: "http://" + w.proxy.target})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	var publishing sync.WaitGroup
	publishing.Go(func() {
		publish(t, direct, "orders/eu", numbered(1, events), func() { time.Sleep(5 * time.Millisecond) })
	})
	defer publishing.Wait()
	expect(t, s, events)
	if got := w.proxy.count(); got != resets {
		t.Errorf("%d connections were reset, want %d", got, resets)
	}
}

// Resets that hit the handshake or the first notice must not move the beginning.
func TestResetAroundTheHandshakeKeepsThePlace(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	subscriber.Hurry(c)
	s, err := c.Subscribe(t.Context(), "orders/*", subscriber.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	direct, err := subscriber.New(subscriber.Config{Gateway: "http://" + w.proxy.target})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	cuts := 0
	w.proxy.cutting(func() int { // the head of the answer has about 130 bytes, the notice 300
		if cuts++; cuts > 50 {
			return -1
		}
		return 10 * cuts
	})
	w.proxy.cutAll()
	publish(t, direct, "orders/eu", numbered(1, 50), func() {})
	expect(t, s, 50)
}

func TestRestartedGatewayLosesAndDoublesNothing(t *testing.T) {
	const events = 600
	w := newWorld(t)
	publisher := w.client()
	subscriber.Hurry(publisher)
	var opened []*subscriber.Stream
	for _, filter := range []string{"orders/**", "orders/eu"} {
		c := w.client()
		subscriber.Hurry(c)
		s, err := c.Subscribe(t.Context(), filter, subscriber.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		opened = append(opened, s)
	}
	half := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		publish(t, publisher, "orders/eu", numbered(1, events/2), func() {})
		close(half)
		// Goes on while the gateway is away: the client tries again.
		publish(t, publisher, "orders/eu", numbered(events/2+1, events), func() {})
	})
	<-half
	w.stop()
	w.start()
	for _, s := range opened {
		expect(t, s, events)
	}
	publishing.Wait()
}

func TestResumedStreamOnALiveTopicIsToldOfTheGap(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s, err := c.Subscribe(t.Context(), "live/x", subscriber.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	publish(t, c, "live/x", numbered(1, 3), func() {})
	expect(t, s, 3)
	w.proxy.cutAll()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var gap *subscriber.GapError
	if d, err := s.Next(ctx); !errors.As(err, &gap) || gap.Reason != schemas.GapUnstored {
		t.Errorf("Next = %s, %v; want the gap unstored", d.Raw, err)
	}
}

func TestAnotherLogIsTold(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	s, err := c.Subscribe(t.Context(), "orders/*", subscriber.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	publish(t, c, "orders/eu", numbered(1, 20), func() {})
	expect(t, s, 20)
	w.stop()
	w.dir = t.TempDir()
	w.start()
	publish(t, c, "orders/eu", numbered(1, 5), func() {})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var gap *subscriber.GapError
	if d, err := s.Next(ctx); !errors.As(err, &gap) || gap.Reason != schemas.GapReset {
		t.Fatalf("Next = %s, %v; want the gap reset", d.Raw, err)
	}
	expect(t, s, 5)
}

func TestStreamBeginsWhereItIsTold(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	publish(t, c, "orders/eu", numbered(1, 5), func() {})
	receipt, err := c.PublishJSON(t.Context(), "orders/us", numbered(6, 6)...)
	if err != nil || !receipt.Stored {
		t.Fatalf("publish: %+v, %v", receipt, err)
	}
	again, err := c.PublishJSON(t.Context(), "orders/us", numbered(6, 7)...)
	if err != nil || again.Accepted != 2 || len(again.Duplicates) != 1 || again.Duplicates[0] != 0 {
		t.Errorf("publish again: %+v, %v; want one of two known", again, err)
	}
	for _, tt := range []struct {
		name, filter string
		options      subscriber.SubscribeOptions
		want         []string
	}{
		{"earliest", "orders/**", subscriber.SubscribeOptions{From: "earliest"}, []string{"1", "2", "3", "4", "5", "6", "7"}},
		{"one topic", "orders/us", subscriber.SubscribeOptions{From: "earliest"}, []string{"6", "7"}},
		{"last", "orders/**", subscriber.SubscribeOptions{From: "last"}, []string{"5", "7"}},
		{"after", "orders/**", subscriber.SubscribeOptions{After: receipt.Cursor}, []string{"7"}},
		{"filter", "orders/**", subscriber.SubscribeOptions{From: "earliest", Filter: []byte(`{"exact":{"id":"3"}}`)}, []string{"3"}},
		{"sql", "orders/**", subscriber.SubscribeOptions{From: "earliest", SQL: "id LIKE '4%'"}, []string{"4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := c.Subscribe(t.Context(), tt.filter, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := take(t, s, len(tt.want)); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		name    string
		options subscriber.SubscribeOptions
		want    error
	}{
		{"filter", subscriber.SubscribeOptions{Filter: []byte(`{"sounds":{"id":"3"}}`)}, schemas.ErrFilter},
		{"from", subscriber.SubscribeOptions{From: "yesterday"}, schemas.ErrParameter},
		{"cursor", subscriber.SubscribeOptions{After: "zzz"}, schemas.ErrCursor},
	} {
		if s, err := c.Subscribe(t.Context(), "orders/**", tt.options); !errors.Is(err, tt.want) {
			t.Errorf("Subscribe with a bad %s = %v, %v; want %v", tt.name, s, err, tt.want)
		}
	}
}

func TestRefusedBatchNamesItsEvent(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	var p *schemas.Problem
	_, err := c.PublishJSON(t.Context(), "orders/eu", numbered(1, 1)[0], []byte(`{"specversion":"1.0","id":"2","source":"/s"}`))
	if !errors.As(err, &p) || p.Name != "event" || p.Index == nil || *p.Index != 1 || p.Attribute != "type" {
		t.Errorf("publish = %v, want a problem with index 1 and the attribute type", err)
	}
	large := fmt.Appendf(nil, `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"%s"}`, strings.Repeat("x", 6<<20))
	if _, err := c.PublishJSON(t.Context(), "orders/eu", large); !errors.Is(err, schemas.ErrTooLarge) {
		t.Errorf("publish of 6 MiB = %v, want the problem too-large", err)
	}
}

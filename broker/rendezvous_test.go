package broker_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
)

// A rendezvous whose NATS is away when it starts connects as soon as it is back.
func TestRendezvousWaitsForNATS(t *testing.T) {
	url, kill, run := natsProcess(t)
	b, _ := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	kill()
	r := broker.NewRendezvous(b, func([]byte) {})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	ended := make(chan struct{})
	running.Go(func() {
		defer close(ended)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()
	select {
	case <-ended: // a try was refused, and it gave up
		t.Error("Run ended while NATS was away")
	case <-time.After(time.Second): // some were
	}
	run()
	patient, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	if _, err := r.Listen(patient, "default", "a", "one", func([]byte) []byte { return []byte("here") }); err != nil {
		t.Fatal(err)
	}
	if answer, err := r.Offer(patient, "default", "a", "one", []byte("who")); err != nil || string(answer) != "here" {
		t.Errorf("Offer = %q, %v", answer, err)
	}
}

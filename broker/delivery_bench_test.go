package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/schemas"
)

// processorTime is what the process has used of all processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured runs f, in which b.N events are delivered and acked, and reports how many a
// second of processor time does.
func measured(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime(b)
	f()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/(processorTime(b)-before).Seconds(), "acked/cpu-s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acked/s")
}

const benchCredit = 64

// BenchmarkAcked is one event delivered to one of so many competing subscribers, and
// acked. Outrelay's acks are answered once they are settled. NATS's client does the same
// where it confirms; it costs less to send an ack and not to know.
func BenchmarkAcked(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("outrelay/%d", n), func(b *testing.B) { benchOutrelay(b, n) })
		b.Run(fmt.Sprintf("nats-confirmed/%d", n), func(b *testing.B) { benchNATS(b, n, true) })
		b.Run(fmt.Sprintf("nats-unconfirmed/%d", n), func(b *testing.B) { benchNATS(b, n, false) })
	}
}

func benchOutrelay(b *testing.B, subscribers int) {
	br, _ := start(b, broker.Config{Log: broker.LogConfig{Storage: "memory"}})
	ctx := b.Context()
	padding := `"padding":"` + strings.Repeat("x", 256) + `"`
	for at := 0; at < b.N; at += 500 {
		var events []*schemas.Event
		for i := at; i < min(at+500, b.N); i++ {
			events = append(events, event(b, fmt.Sprint(i), padding))
		}
		if _, err := br.Publish(ctx, ns, "a", events); err != nil {
			b.Fatal(err)
		}
	}
	put(b, br, "s", broker.SubscriptionOptions{Topics: "a"}, broker.Start{From: broker.FromEarliest})
	all := make([]*broker.Subscriber, subscribers)
	for i := range all {
		all[i] = open(b, br, "s", broker.SubscriberOptions{Credit: benchCredit})
	}
	measured(b, func() {
		var done atomic.Int64
		over := make(chan struct{})
		var tasks sync.WaitGroup
		for _, s := range all {
			tasks.Go(func() {
				for {
					some, err := s.Next(ctx, benchCredit)
					if err != nil {
						return
					}
					tags := make([]string, len(some))
					for i := range some {
						tags[i] = some[i].Tag
					}
					settled, err := s.Settle(ctx, broker.Settlement{Tags: tags})
					if err != nil || len(settled.Unknown) > 0 {
						b.Errorf("Settle = %+v, %v", settled, err)
						return
					}
					if done.Add(int64(len(some))) == int64(b.N) {
						close(over)
					}
				}
			})
		}
		<-over
		for _, s := range all {
			s.Close()
		}
		tasks.Wait()
	})
}

func benchNATS(b *testing.B, subscribers int, confirmed bool) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, StoreDir: b.TempDir(), NoLog: true, JetStreamMaxMemory: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	ctx := b.Context()
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		b.Fatal(err)
	}
	data := []byte(event(b, "id", `"padding":"`+strings.Repeat("x", 256)+`"`).JSON())
	for range b.N {
		if _, err := js.PublishAsync("log.a", data); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	measured(b, func() {
		var done atomic.Int64
		over := make(chan struct{})
		var tasks sync.WaitGroup
		var stops []func()
		for range subscribers {
			c, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: "s", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 20_000})
			if err != nil {
				b.Fatal(err)
			}
			finish := func() {
				if done.Add(1) == int64(b.N) {
					close(over)
				}
			}
			consuming, err := c.Consume(func(m jetstream.Msg) {
				if !confirmed {
					m.Ack() //nolint:errcheck // nobody waits for it
					finish()
					return
				}
				tasks.Go(func() {
					if err := m.DoubleAck(ctx); err != nil {
						b.Error(err)
					}
					finish()
				})
			}, jetstream.PullMaxMessages(benchCredit))
			if err != nil {
				b.Fatal(err)
			}
			stops = append(stops, consuming.Stop)
		}
		<-over
		for _, stop := range stops {
			stop()
		}
		tasks.Wait()
	})
}

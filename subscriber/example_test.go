package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"

	sdk "github.com/cloudevents/sdk-go/v2/event"

	"github.com/outrelay/outrelay/subscriber"
)

// A service behind a firewall takes orders as they are paid, goes on where it was
// when the connection is lost, and remembers its place over its own restarts.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := subscriber.New(subscriber.Config{
		Gateway: "https://events.example.com",
		Token:   func(context.Context) (string, error) { return os.Getenv("ORDERS_TOKEN"), nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	place, _ := os.ReadFile("place")
	stream, err := client.Subscribe(ctx, "orders/**", subscriber.SubscribeOptions{
		After:   string(place), // from now on, the first time
		Filter:  []byte(`{"exact":{"type":"order.paid"}}`),
		OnState: func(s subscriber.State) { log.Println(s.Phase, s.Why) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer stream.Close()

	for delivery, err := range stream.All(ctx) {
		var gap *subscriber.GapError
		switch {
		case errors.As(err, &gap):
			log.Println("look into the books:", gap)
			continue
		case err != nil:
			log.Println(err)
			return
		}
		order, err := delivery.Event()
		if err != nil {
			log.Println(err)
			continue
		}
		fmt.Println(order.ID(), order.Subject())
		if err := os.WriteFile("place", []byte(stream.Cursor()), 0o600); err != nil {
			log.Println(err)
		}
	}
}

// An event is published once the gateway keeps it. It is safe to publish it again:
// the gateway knows it by its source and id.
func ExampleClient_Publish() {
	client, err := subscriber.New(subscriber.Config{Gateway: "https://events.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	paid := sdk.New()
	paid.SetID("A-17")
	paid.SetSource("/shop")
	paid.SetType("order.paid")
	if err := paid.SetData(sdk.ApplicationJSON, map[string]int{"total": 1250}); err != nil {
		log.Fatal(err)
	}
	receipt, err := client.Publish(context.Background(), "orders/eu", paid)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("kept at", receipt.Cursor)
}

// A web server behind a firewall is reached at https://relay.example.com/shop/, without
// an open port: by HTTP requests, and by connections of other programs with this client.
func ExampleClient_Listen() {
	client, err := subscriber.New(subscriber.Config{
		Gateway: "https://relay.example.com",
		Token:   func(context.Context) (string, error) { return os.Getenv("SHOP_TOKEN"), nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	listener, err := client.Listen(context.Background(), "shop")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s, you asked for %s\n", r.RemoteAddr, r.URL.Path)
	})))
}

// A program elsewhere talks to whatever listens on a name, here a line of text and its
// answer. The end of what it sends is not the end of what it reads.
func ExampleClient_Dial() {
	client, err := subscriber.New(subscriber.Config{Gateway: "https://relay.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	conn, err := client.Dial(context.Background(), "office/printer")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "status")
	if err := conn.(*subscriber.Conn).CloseWrite(); err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		log.Fatal(err)
	}
}

// A worker takes the events of a durable subscription, eight at a time. An event is done
// when the handler returns nil; one that can't be handled is a dead letter, and any other
// error brings it again later, here or at another copy of the worker.
func ExampleSubscription_Handle() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := subscriber.New(subscriber.Config{Gateway: "https://events.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	billing, err := client.OpenSubscription(ctx, "billing", subscriber.OpenOptions{
		DurableOptions: subscriber.DurableOptions{Topic: "orders/**", From: "earliest", DeadLetter: "dead/billing"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer billing.Close()
	err = billing.Handle(ctx, 8, func(ctx context.Context, d *subscriber.SubscriptionDelivery) error {
		order, err := d.Event()
		if err != nil {
			return &subscriber.RejectError{Reason: "this is no order"}
		}
		log.Println(order.ID(), "attempt", d.Attempt)
		return nil
	})
	log.Println(err)
}

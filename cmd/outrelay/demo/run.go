package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/outrelay/outrelay/subscriber"
)

// catchUp is how long the subscribers may need after the last publish before what
// they don't have counts as lost.
const catchUp = 30 * time.Second

// run is the whole demo. The end of ctx ends it early, which is no error without --once.
func run(ctx context.Context, serve Serve, o options) (err error) {
	week, err := Week()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "outrelay-demo-")
	if err != nil {
		return fmt.Errorf("the gateway's data folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	gateway, err := start(ctx, serve, folder)
	if err != nil {
		return early(ctx, o, err)
	}
	defer func() { err = errors.Join(err, gateway.stop()) }()
	ctx, unwatch := gateway.watch(ctx)
	defer unwatch()

	if !o.once {
		handler, pageErr := Page(gateway.HTTP, week)
		if pageErr != nil {
			return pageErr
		}
		page, serveErr := servePage(ctx, handler)
		if serveErr != nil {
			return serveErr
		}
		defer func() { err = errors.Join(err, page.stop()) }()
		o.announce(page.address, gateway.Gateway, week)
	}
	summary, err := play(ctx, gateway.Gateway, week, o)
	if err != nil {
		return early(ctx, o, err)
	}
	o.conclude(summary)
	if err := summary.err(week); err != nil || o.once {
		return err
	}
	<-ctx.Done()
	return early(ctx, o, context.Cause(ctx))
}

// early is the error of a demo that ended with err: none where somebody ended a
// demo that goes on until then.
func early(ctx context.Context, o options, err error) error {
	if !o.once && errors.Is(context.Cause(ctx), context.Canceled) {
		return nil
	}
	return err
}

// play publishes the week to three subscribers, each a client with a socket of
// its own, and compares.
func play(ctx context.Context, g Gateway, week []Quake, o options) (Summary, error) {
	trust, err := g.trust()
	if err != nil {
		return Summary{}, err
	}
	config := subscriber.Config{Gateway: g.HTTPS, TLS: trust}

	collectors := make([]*collector, len(shares))
	var collecting sync.WaitGroup
	defer collecting.Wait() // after all clients have closed
	for i, share := range shares {
		client, err := subscriber.New(config)
		if err != nil {
			return Summary{}, err
		}
		defer client.Close()
		stream, err := client.Subscribe(ctx, share.topic, subscriber.SubscribeOptions{Filter: share.filter, FailFast: true})
		if err != nil {
			return Summary{}, err
		}
		defer stream.Close()
		c := newCollector(len(share.expect(week)))
		collectors[i] = c
		collecting.Go(func() { c.run(ctx, stream) }) // ends with its stream
	}

	publisher, err := subscriber.New(config)
	if err != nil {
		return Summary{}, err
	}
	defer publisher.Close()
	publish := func(ctx context.Context, topic string, events ...[]byte) (int, error) {
		receipt, err := publisher.PublishJSON(ctx, topic, events...)
		return receipt.Accepted, err
	}
	show := newProgress(o, len(week), collectors)
	published, err := Replay(ctx, publish, week, float64(o.speed), show.update)
	show.clear()
	if err != nil {
		return Summary{}, err
	}
	if o.once { // without, the page would count the marker, too
		if _, err := publish(ctx, markerTopic, []byte(markerJSON)); err != nil {
			return Summary{}, err
		}
	}
	patience, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	got := make([][]string, len(shares))
	for i, c := range collectors {
		if err := c.wait(patience, o.once); err != nil {
			return Summary{}, fmt.Errorf("subscriber %s: %w", shares[i].name, err)
		}
		got[i] = c.got()
	}
	if ctx.Err() != nil {
		return Summary{}, context.Cause(ctx)
	}
	return summarize(week, published, got), nil
}

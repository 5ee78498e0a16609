package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// serveCentrifuge runs the Centrifuge library as its documentation advises for many
// subscribers on one node: the memory broker, small read buffers and a pool of write
// buffers for the WebSockets, no compression. delay is ConnectReply.WriteDelay,
// which it offers to save system calls at high rates. Everything is open to all.
func serveCentrifuge(delay time.Duration) error {
	node, err := centrifuge.New(centrifuge.Config{
		// A hundred publishers to one subscriber have 2 MB under way; the default of
		// 1 MB would disconnect it.
		ClientQueueMaxSize: 16 << 20,
	})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		reply := centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}, WriteDelay: delay}
		if delay > 0 {
			reply.MaxMessagesInFrame = -1 // 16 would bound the rate instead of the calls
		}
		return reply, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
		c.OnPublish(func(_ centrifuge.PublishEvent, done centrifuge.PublishCallback) {
			done(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		ReadBufferSize:     512,
		UseWriteBufferPool: true,
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	announce(listener.Addr().String())
	s := &http.Server{Handler: mux}
	go func() { // ends the server
		waitForSignal()
		s.Close()
	}()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return node.Shutdown(ctx)
}

package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	natsd "github.com/nats-io/nats-server/v2/server"
)

//go:embed config/nats.conf
var natsConfig []byte

// serveNATS runs nats-server with config/nats.conf until interrupted; with keep it
// has JetStream keep log.> in a file that is flushed before a publish is answered,
// as outrelay does.
func serveNATS(keep bool) error {
	file, err := os.CreateTemp("", "nats*.conf")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := bytes.NewReader(natsConfig).WriteTo(file); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	options, err := natsd.ProcessConfigFile(file.Name())
	if err != nil {
		return err
	}
	options.NoSigs = true
	if keep {
		folder, err := os.MkdirTemp("", "jetstream")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		options.JetStream, options.StoreDir, options.SyncAlways = true, folder, true
	}
	s, err := natsd.NewServer(options)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("nats-server did not start")
	}
	if keep {
		if err := keepLog(s); err != nil {
			return err
		}
	}
	announce(strings.TrimPrefix(s.WebsocketURL(), "ws://"))
	waitForSignal()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// keepLog makes the stream that keeps log.>.
func keepLog(s *natsd.Server) error {
	c, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return err
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "log", Subjects: []string{"log.>"}, Storage: jetstream.FileStorage})
	return err
}

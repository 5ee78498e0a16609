package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// serve runs one of the peers until it is interrupted. outrelay runs as the real
// binary and is not here.
func serve(name string, gather int) error {
	switch name {
	case "nats":
		return serveNATS(false)
	case "jetstream":
		return serveNATS(true)
	case "centrifuge":
		return serveCentrifuge(0)
	case "centrifuge-delayed":
		return serveCentrifuge(10 * time.Millisecond)
	case "limit":
		return serveLimit(gather)
	}
	return fmt.Errorf("no server %q", name)
}

// announce says where a server listens, as outrelay does.
func announce(address string) {
	json.NewEncoder(os.Stdout).Encode(map[string]string{"http": "http://" + address})
}

func waitForSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
}

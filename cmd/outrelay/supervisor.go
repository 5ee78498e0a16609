package main

import (
	"fmt"
	"net"
	"os"
)

// A supervisor is a service manager that wants to know when the service is ready
// and when it stops, as systemd does of a service of Type=notify (sd_notify(3)).
type supervisor struct{ socket string }

// newSupervisor is the one that listens on a datagram socket: a path, or @ and a name
// in the abstract namespace. "" is none. What this process starts is not to speak for it.
func newSupervisor(socket string) supervisor {
	os.Unsetenv("NOTIFY_SOCKET") //nolint:errcheck // it fails only for names that are none
	return supervisor{socket}
}

// tell sends a state, such as READY=1. Without a supervisor it does nothing.
func (s supervisor) tell(state string) error {
	if s.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return nil
}

package main

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A service manager hears that the gateway serves, not before it does, and that it
// is about to stop.
func TestServiceManagerIsTold(t *testing.T) {
	for name, address := range map[string]string{
		"a path":                 filepath.Join(t.TempDir(), "notify"),
		"the abstract namespace": "@" + t.TempDir(),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			told := func(want string) {
				t.Helper()
				var b [100]byte
				if n, err := conn.Read(b[:]); err != nil || string(b[:n]) != want {
					t.Fatalf("the service manager was told %q (%v), want %s", b[:n], err, want)
				}
			}
			t.Setenv("NOTIFY_SOCKET", address)
			p := start(t, "--dev", "--https", "127.0.0.1:0", "--http", "127.0.0.1:0")
			told("READY=1")
			p.signal(t, syscall.SIGTERM)
			told("STOPPING=1")
			if err := <-p.ended; err != nil {
				t.Errorf("serve ended with %v:\n%s", err, p.errs)
			}
		})
	}
}

// A service manager that can't be told is an error at the start.
func TestServiceManagerThatIsGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "kept for the end of the test")
	s := newSupervisor(filepath.Join(t.TempDir(), "nobody"))
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("NOTIFY_SOCKET is still set; what this process starts could speak for it")
	}
	if err := s.tell("READY=1"); err == nil {
		t.Error("tell(READY=1) to nobody = nil, want an error")
	}
	if err := newSupervisor("").tell("READY=1"); err != nil {
		t.Errorf("tell without a service manager = %v", err)
	}
}

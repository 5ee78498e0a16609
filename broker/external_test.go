package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker"
)

// natsProcess runs a nats-server of its own, built from the module, and returns its
// address. kill ends it, run starts it again on the same data.
func natsProcess(t *testing.T) (url string, kill, run func()) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "nats-server")
	build := exec.Command("go", "build", "-C", "../tools", "-o", binary, "github.com/nats-io/nats-server/v2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	dir := t.TempDir()
	var cmd *exec.Cmd
	run = func() {
		cmd = exec.Command(binary, "-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", dir)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Server is ready") {
				go func() { // so that it never waits for its log to be read
					for lines.Scan() {
					}
				}()
				return
			}
		}
		t.Fatal("nats-server did not become ready")
	}
	kill = func() {
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
	}
	run()
	t.Cleanup(func() { kill() })
	return fmt.Sprintf("nats://127.0.0.1:%d", port), kill, run
}

// An existing NATS works in place of the embedded one, also when it is killed and
// comes back.
func TestExternalServer(t *testing.T) {
	url, kill, run := natsProcess(t)
	b, stop := start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	if p := b.Promise(); p != "unknown" {
		t.Errorf("Promise() = %q where the flush setting is not stated, want unknown", p)
	}
	s := subscribe(t, b, broker.StreamOptions{Topics: "**"})
	want := ids("e", 1, 100)
	first := publish(t, b, "a", want...)
	if got := take(t, s, 100); !slices.Equal(got, want) {
		t.Errorf("delivered %v", got)
	}
	kill()
	run()
	publish(t, b, "a", "on")
	if got := take(t, s, 1); got[0] != "on" {
		t.Errorf("after a restart of NATS the stream got %v", got)
	}
	stop()
	// Another gateway takes over by cursor.
	b, _ = start(t, broker.Config{NATS: broker.NATSConfig{URL: url}})
	if got := take(t, subscribe(t, b, broker.StreamOptions{Topics: "a", Start: after(first.Cursor)}), 1); got[0] != "on" {
		t.Errorf("on another gateway the cursor resumed with %v", got)
	}
}

// A NATS that is slow to make the log is waited for.
func TestRunIsPatient(t *testing.T) {
	t.Parallel()
	url, _ := natsServer(t)
	c := newCutter(t, url)
	c.mu.Lock()
	c.hold = func(sent []byte) {
		if bytes.Contains(sent, []byte("$JS.API.STREAM.CREATE.LOG_")) {
			time.Sleep(6 * time.Second) // how slow it is: the library's own patience is 5
		}
	}
	c.mu.Unlock()
	b, _ := start(t, broker.Config{
		NATS:       broker.NATSConfig{URL: "nats://" + c.listener.Addr().String()},
		Namespaces: map[string]broker.NamespaceConfig{ns: {Retention: broker.Retention{MaxBytes: 8 << 20}}},
	})
	publish(t, b, "a", "1")
}

func TestRunNamesWhatIsWrong(t *testing.T) {
	b, err := broker.New(broker.Config{NATS: broker.NATSConfig{URL: "nats://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Run(ctx); err == nil || !strings.Contains(err.Error(), "connect to NATS") {
		t.Errorf("Run without a server: %v", err)
	}
	if _, err := broker.New(broker.Config{Log: broker.LogConfig{Storage: "tape", Flush: "soon", Replicas: 2}}); err == nil ||
		strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("New with four mistakes: %v, want all of them", err)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The server has one processor, the load another.
const (
	serverProcessor = 0
	loadProcessor   = 1
)

// The peers, in the order of a round.
var peers = []string{"direct", "outrelay", "nginx", "bare", "proxy"}

// joiners are the peers that join streams.
var joiners = []string{"direct", "outrelay", "nginx", "bare"}

// startPinned starts a command on one processor; Go programs use no more than it.
func startPinned(cmd *exec.Cmd, processor int) error {
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	// A child has the affinity of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("processor affinity: %w", err)
	}
	one.Set(processor)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to processor %d: %w", processor, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// processorTime is what all threads of a process have used, user and system; 0 for none.
func processorTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	var ts unix.Timespec
	// The process's CPU clock, as clock_getcpuclockid(3) makes its number.
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("processor time of the server: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// resident is a process's memory in KiB, without files that are only mapped.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, errors.New("the process has no RssAnon")
}

// build makes the binary under test.
func build(folder string) (string, error) {
	binary := filepath.Join(folder, "outrelay")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/outrelay")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return binary, nil
}

// A server is a peer's process; the direct connection has none.
type server struct {
	cmd     *exec.Cmd
	address string // where senders connect
	admin   string
	folder  string
	output  bytes.Buffer
}

func (s *server) pid() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// startServer starts a peer and waits until it can be reached.
func startServer(o options, folder, peer, sink string) (*server, error) {
	s := &server{address: sink}
	var err error
	if s.folder, err = os.MkdirTemp(folder, peer); err != nil {
		return nil, err
	}
	ready := filepath.Join(s.folder, "ready")
	switch peer {
	case "direct":
		return s, nil
	case "bare", "proxy":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		s.cmd = exec.Command(self, peer, ready, sink)
	case "outrelay":
		s.cmd = exec.Command(o.binary, "serve", "--dev", "--https", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0",
			"--data", s.folder, "--ready-file", ready)
	case "nginx":
		if s.address, err = freeAddress(); err != nil {
			return nil, err
		}
		config := filepath.Join(s.folder, "nginx.conf")
		text := fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 8192; }
stream { server { listen %[2]s backlog=4096; proxy_pass %[3]s; } }
`, s.folder, s.address, sink)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		s.cmd = exec.Command("nginx", "-p", s.folder, "-e", "stderr", "-c", config)
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := startPinned(s.cmd, serverProcessor); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if s.reached(peer, ready) {
			return s, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("%s is not ready:\n%s", peer, s.output.String()), s.stop())
		}
	}
}

func (s *server) reached(peer, ready string) bool {
	if peer == "nginx" {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	b, err := os.ReadFile(ready)
	if err != nil {
		return false
	}
	var r struct{ HTTP, Admin string }
	if json.Unmarshal(b, &r) != nil {
		return false
	}
	s.address, s.admin = strings.TrimPrefix(r.HTTP, "http://"), r.Admin
	return true
}

func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case <-ended: // how does not matter: its work was measured
		return nil
	case <-time.After(3 * time.Second):
		err := s.cmd.Process.Kill()
		<-ended
		return err
	}
}

// profile writes a processor profile of outrelay to a file while it is measured; the
// function returned waits for it.
func (s *server) profile(file string, length time.Duration) func() {
	var wait sync.WaitGroup
	wait.Go(func() {
		time.Sleep(length / 4)
		r, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", s.admin, max(1, int(length.Seconds()/2))))
		if err != nil {
			fmt.Fprintln(os.Stderr, "no profile:", err)
			return
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(file, b, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "no profile:", err)
		}
	})
	return wait.Wait
}

// load runs the load as a process of its own.
func load(text string) (r result, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(self, "load", text)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := startPinned(cmd, loadProcessor); err != nil {
		return r, err
	}
	if err := cmd.Wait(); err != nil {
		return r, fmt.Errorf("the load: %w\n%s", err, errs.String())
	}
	return r, json.Unmarshal(out.Bytes(), &r)
}

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The server has one processor, the load another.
const (
	serverProcessor = 0
	loadProcessor   = 1
)

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

// processorTime is what all threads of a process have used, user and system.
func processorTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	// The process's CPU clock, as clock_getcpuclockid(3) makes its number.
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("processor time of the server: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// waitingTime is how long all threads of a process were ready to run and did not,
// because others had the processor.
func waitingTime(pid int) (total time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		if f := strings.Fields(string(b)); len(f) > 1 {
			ns, _ := strconv.ParseInt(f[1], 10, 64)
			total += time.Duration(ns)
		}
	}
	return total
}

// softIRQ is the processor time of the kernel thread that does a processor's network
// work when there is too much of it for those whose work it is.
func softIRQ(processor int) time.Duration {
	if softIRQPID == 0 {
		files, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, file := range files {
			if b, _ := os.ReadFile(file); strings.TrimSpace(string(b)) == fmt.Sprintf("ksoftirqd/%d", processor) {
				softIRQPID, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
			}
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", softIRQPID))
	if err != nil {
		return 0
	}
	ns, _ := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
	return time.Duration(ns)
}

var softIRQPID int

// resident is a process's memory that is in RAM, KiB.
func resident(pid int) (float64, error) { return memory(pid, "VmRSS:") }

// peakMemory is the most that it ever was, KiB.
func peakMemory(pid int) (float64, error) { return memory(pid, "VmHWM:") }

// memory is a line of a process's status, KiB.
func memory(pid int, name string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), name)
	return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]), "kB")), 64)
}

// kernelMemory is the kernel's memory for its own objects, sockets among them, KiB.
func kernelMemory() float64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "\nSlab:")
	f := strings.Fields(after)
	if len(f) == 0 {
		return 0
	}
	kib, _ := strconv.ParseFloat(f[0], 64)
	return kib
}

// A server is a peer's process.
type server struct {
	cmd     *exec.Cmd
	log     *os.File
	address string // host:port
	secure  string // host:port with TLS, "" if there is none
	admin   string // URL, "" if there is none
	keyName string // of the key in keyFile, "" if there is none
	keyFile string
}

// startServer starts a peer and waits until it listens. folder is its own. gather
// is how many frames the limit joins before it writes them.
func startServer(p peer, binary, folder string, gather int) (*server, error) {
	var cmd *exec.Cmd
	if p.server == "outrelay" {
		for _, name := range []string{"outrelay.yaml", "cert.pem", "key.pem"} {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(folder), name))
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
				return nil, err
			}
		}
		cmd = exec.Command(binary, "serve", "--config", filepath.Join(folder, "outrelay.yaml"), "--data", filepath.Join(folder, "data"),
			"--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	} else {
		own, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd = exec.Command(own, "serve", p.server, strconv.Itoa(gather))
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: cmd}
	if s.log, err = os.Create(filepath.Join(folder, "log")); err != nil {
		return nil, err
	}
	cmd.Stderr = s.log
	if err := startPinned(cmd, serverProcessor); err != nil {
		s.log.Close()
		return nil, err
	}
	var ready struct {
		HTTP    string `json:"http"`
		HTTPS   string `json:"https"`
		Admin   string `json:"admin"`
		KeyName string `json:"keyname"`
		KeyFile string `json:"keyfile"`
	}
	timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	timer.Stop()
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		tail := s.tail()
		s.stop()
		return nil, fmt.Errorf("%s did not start: %w: %s", p.name, err, tail)
	}
	s.address = strings.TrimPrefix(ready.HTTP, "http://")
	s.secure = strings.TrimPrefix(ready.HTTPS, "https://")
	s.admin, s.keyName, s.keyFile = ready.Admin, ready.KeyName, ready.KeyFile
	return s, nil
}

// profile keeps a profile of the next d of the server's processor time in a file. It
// returns at once; wait for done.
func (s *server) profile(file string, d time.Duration) (done <-chan error) {
	ended := make(chan error, 1)
	go func() {
		answer, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", s.admin, d.Seconds()))
		if err != nil {
			ended <- err
			return
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("profile: %s: %s", answer.Status, b)
		}
		ended <- errors.Join(err, os.WriteFile(file, b, 0o600))
	}()
	return ended
}

// tail is the end of what the server said.
func (s *server) tail() string {
	b, _ := os.ReadFile(s.log.Name())
	return string(b[max(0, len(b)-2000):])
}

// stop ends the process and waits for it.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	// A second signal ends a drain at once.
	again := time.AfterFunc(500*time.Millisecond, func() { s.cmd.Process.Signal(syscall.SIGTERM) })
	kill := time.AfterFunc(10*time.Second, func() { s.cmd.Process.Kill() })
	s.cmd.Wait() // how it ended says nothing here
	again.Stop()
	kill.Stop()
	s.log.Close()
}

// load has a load process do what the spec says.
func load(s spec) (r result, err error) {
	own, err := os.Executable()
	if err != nil {
		return r, err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return r, err
	}
	cmd := exec.Command(own, "load", string(b))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := startPinned(cmd, loadProcessor); err != nil {
		return r, err
	}
	if err := cmd.Wait(); err != nil {
		return r, fmt.Errorf("load: %w: %s", err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("load said %q: %w", out.String(), err)
	}
	return r, nil
}

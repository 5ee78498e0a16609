package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that should come at once: the
// race detector and a busy machine make it slow, never late.
const patience = 60 * time.Second

// A gateway is a running "outrelay serve" on free loopback ports, with --dev where it
// has no config.
type gateway struct {
	HTTP  string `json:"http"`
	HTTPS string `json:"https"`
	Admin string `json:"admin"`
	CA    string `json:"ca"`
	PID   int    `json:"pid"`

	KeyName string `json:"keyname"`
	KeyFile string `json:"keyfile"`

	under  []string // a program and its arguments that run the command, if any
	config string   // a config file; "" for --dev
	dev    bool     // --dev with a config
	plain  bool     // without HTTPS
	bare   string   // the command built without the race detector, where that matters
	data   string
	cmd    *exec.Cmd
	output *buffer
	ended  chan error // the answer of Wait, once
}

// start runs a gateway with a data folder of its own, under another program if
// one is given. It is stopped, and must end well, when the test is over.
func start(t *testing.T, under ...string) *gateway {
	t.Helper()
	return launch(t, &gateway{under: under})
}

// startConfig runs a gateway as start does, with a config in place of --dev; the
// addresses and the data folder of the config are not used.
func startConfig(t *testing.T, config string) *gateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outrelay.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return launch(t, &gateway{config: file, plain: strings.Contains(config, "tls: off")})
}

// launch gives g addresses and a data folder, runs it and stops it after the test.
func launch(t *testing.T, g *gateway) *gateway {
	t.Helper()
	if g.data == "" {
		g.data = t.TempDir()
	}
	g.HTTP, g.Admin = "http://127.0.0.1:0", "http://127.0.0.1:0"
	if !g.plain {
		g.HTTPS = "https://127.0.0.1:0"
	}
	g.run(t)
	t.Cleanup(func() {
		if g.cmd != nil {
			g.stop(t)
		}
	})
	return g
}

// run starts the process on g's addresses and data folder and waits until it serves.
func (g *gateway) run(t *testing.T) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	g.output, g.PID = new(buffer), 0
	program := outrelay
	if g.bare != "" {
		program = g.bare
	}
	args := append(slices.Clone(g.under), program, "serve", "--http", hostport(t, g.HTTP), "--admin", hostport(t, g.Admin),
		"--data", g.data, "--ready-file", ready)
	if g.config == "" || g.dev {
		args = append(args, "--dev")
	}
	if g.config != "" {
		args = append(args, "--config", g.config)
	}
	if g.HTTPS != "" {
		args = append(args, "--https", hostport(t, g.HTTPS))
	}
	g.cmd = exec.Command(args[0], args[1:]...)
	g.cmd.Stdout, g.cmd.Stderr = g.output, g.output
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(g.cmd, g.ended)
	deadline := time.After(patience)
	for {
		b, err := os.ReadFile(ready)
		if err == nil {
			if err := json.Unmarshal(b, g); err != nil {
				t.Fatalf("the ready file %s: %v", b, err)
			}
			return
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		select {
		case err := <-g.ended:
			g.cmd = nil
			t.Fatalf("serve ended (%v) before it was ready:\n%s", err, g.output)
		case <-deadline:
			g.kill(t)
			t.Fatalf("serve was not ready after %v:\n%s", patience, g.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop asks the process to drain and waits for its good end.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(g.PID, syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, g.output)
	}
	select {
	case err := <-g.ended:
		if err != nil {
			t.Errorf("serve ended with %v after SIGTERM, want status 0:\n%s", err, g.output)
		} else if !strings.Contains(g.output.String(), "drained") {
			t.Errorf("serve did not say \"drained\":\n%s", g.output)
		}
	case <-time.After(patience):
		t.Errorf("serve still runs %v after SIGTERM:\n%s", patience, g.output)
		g.kill(t)
	}
	g.cmd = nil
}

// kill ends the process with SIGKILL.
func (g *gateway) kill(t *testing.T) {
	t.Helper()
	if g.PID > 0 {
		_ = syscall.Kill(g.PID, syscall.SIGKILL) // it may have ended by itself; what counts is that it has
	}
	_ = g.cmd.Process.Kill() // and what it runs under
	<-g.ended
	g.cmd = nil
}

// topics is the address of a topic or filter, with query parameters, over HTTP.
func (g *gateway) topics(filter string, query ...string) string {
	u := g.HTTP + "/topics/" + filter
	if len(query) > 0 {
		v := url.Values{}
		for i := 0; i < len(query); i += 2 {
			v.Set(query[i], query[i+1])
		}
		u += "?" + v.Encode()
	}
	return u
}

// ws is the same as a WebSocket address.
func (g *gateway) ws(filter string, query ...string) string {
	return "ws" + strings.TrimPrefix(g.topics(filter, query...), "http")
}

func hostport(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		t.Fatalf("the ready file has the address %q (%v)", address, err)
	}
	return u.Host
}

// A buffer collects a process's output while a test may read it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// output runs a command to its end and returns what it printed on standard output.
func output(t *testing.T, dir, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = patience
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd, err, out.String(), errs.String())
	}
	return out.String()
}

// A process is a running client whose lines of standard output the test reads.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
	errs  *buffer
}

// client starts a command that runs until the test is over.
func client(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), lines: make(chan string, 1000), errs: new(buffer)}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.errs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // owns lines; ends with the process's output
		defer close(done)
		defer close(p.lines)
		readLines(stdout, p.lines)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		stdin.Close()
		for range p.lines { // unread lines must not hold the reader
		}
		<-done
		_ = p.cmd.Wait() // killed on purpose
	})
	return p
}

// line is the next line of output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			t.Fatalf("%v ended:\n%s", p.cmd, p.errs)
		}
		return line
	case <-time.After(patience):
		t.Fatalf("%v printed nothing for %v:\n%s", p.cmd, patience, p.errs)
	}
	return ""
}

// wait waits until the process ends and returns its exit status.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case _, ok := <-p.lines:
			if !ok {
				_ = p.cmd.Wait() // the status says how it ended
				return p.cmd.ProcessState.ExitCode()
			}
		case <-deadline:
			t.Fatalf("%v still runs after %v:\n%s", p.cmd, patience, p.errs)
		}
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what should come at once: the race detector
// and a busy machine make it slow, never late.
const patience = 60 * time.Second

// TestMain lets the scripts run this very binary as "outrelay".
func TestMain(m *testing.M) {
	testscript.Main(guarded{m, goleak.Find}, map[string]func(){"outrelay": main})
}

// guarded fails tests that leave goroutines behind.
type guarded struct {
	m     *testing.M
	leaks func(...goleak.Option) error
}

func (g guarded) Run() int {
	code := g.m.Run()
	if err := g.leaks(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Each script is one behaviour, told as what a user types and sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":    await,
			"exits":    exits,
			"retry":    retry,
			"freeport": freeport,
			"reach":    reach,
			"website":  website,
			"detour":   detour,
			"webhook":  webhook,
		},
	})
}

// await FILE VAR waits for the ready file of "outrelay serve" and puts its "http"
// in VAR, and each other field in VAR_FIELD: GATEWAY_HTTPS, GATEWAY_CA.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE VAR")
	}
	ready := map[string]any{}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil {
			ts.Check(json.Unmarshal(b, &ready))
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not there after %v", args[0], patience)
		}
	}
	for name, value := range ready {
		ts.Setenv(args[1]+"_"+strings.ToUpper(name), fmt.Sprint(value))
	}
	ts.Setenv(args[1], fmt.Sprint(ready["http"]))
}

// exits CODE COMMAND [ARG...] runs a command that must end with the exit code. What
// it printed is there for stdout and stderr, as after exec.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := scripted(ctx, ts, args[1:])
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	err = cmd.Run()
	if ended := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ended) {
		ts.Fatalf("%v: %v", cmd, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("%v ended with status %d, want %d", args[1:], got, want)
	}
}

// scripted is a command in the script's folder and environment.
func scripted(ctx context.Context, ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK", "PWD", "OUTRELAY_GATEWAY", "OUTRELAY_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

// retry PATTERN COMMAND [ARG...] runs a command again and again until what it prints
// matches. That is there for stdout, as after exec.
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: retry PATTERN COMMAND [ARG...]")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		cmd := scripted(context.Background(), ts, args[1:])
		out, err := cmd.Output()
		if err == nil && pattern.Match(out) {
			_, err = ts.Stdout().Write(out)
			ts.Check(err)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v printed %q (%v), want it to match %s", args[1:], out, err, args[0])
		}
	}
}

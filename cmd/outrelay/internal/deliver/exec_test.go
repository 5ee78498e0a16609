//go:build unix

package deliver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const anEvent = `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"$(exit 9)"}`

func TestExec(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in")
	for _, tt := range []struct {
		command string
		outcome Outcome
		status  int // -1 is none
		why     string
	}{
		{"cat > " + in, Acked, 0, ""},
		{"true", Acked, 0, ""}, // without a look at its input
		{"exit 65", Rejected, 65, "exit code 65"},
		{"exit 1", Released, 1, "exit code 1"},
		{"exit 75", Released, 75, "exit code 75"},
		{"exit $OUTRELAY_ATTEMPT", Released, 4, "exit code 4"},
		{"kill -9 $$", Released, -1, "signal: killed"},
		{"no-such-command-anywhere", Released, 127, "exit code 127"},
	} {
		var output bytes.Buffer
		x := &Exec{Command: tt.command, Timeout: 30 * time.Second, Output: &output}
		a := x.Deliver(t.Context(), event(t, anEvent), 4)
		status := -1
		if a.Status != nil {
			status = *a.Status
		}
		if a.Outcome != tt.outcome || status != tt.status || a.Why != tt.why {
			t.Errorf("%q gave %+v, status %d", tt.command, a, status)
		}
	}
	got, err := os.ReadFile(in)
	if err != nil || string(got) != anEvent+"\n" {
		t.Errorf("the command read %q (%v)", got, err)
	}
}

// A command that takes too long is killed with all that it has started; so is one that is
// under way when the agent stops.
func TestExecIsKilledWithItsGroup(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "pid")
		timeout := 300 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if stopped {
			timeout = time.Hour
			time.AfterFunc(300*time.Millisecond, cancel)
		}
		var output bytes.Buffer
		x := &Exec{Command: "sleep 3600 & echo $! > " + file + "; wait", Timeout: timeout, Output: &output}
		a := x.Deliver(ctx, event(t, anEvent), 1)
		want := stalled
		if stopped {
			want = unknown
		}
		if a.Outcome != Released || a.health != want {
			t.Errorf("it gave %+v", a)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d, which the command had started, still runs", pid)
			}
		}
	}
}

// alive says whether a process runs; one that nobody has waited for yet does not.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

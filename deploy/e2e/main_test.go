package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// root is the project's top folder, seen from this one.
const root = "../.."

// outrelay is the path of the command under test, built by TestMain.
var outrelay string

// built builds the command before the tests run and removes it after them.
type built struct{ m *testing.M }

func (b built) Run() int {
	dir, err := os.MkdirTemp("", "outrelay-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	outrelay = filepath.Join(dir, "outrelay")
	// A data race in the process ends it with status 66 and a report, which the tests see.
	cmd := exec.CommandContext(context.Background(), "go", "build", "-race", "-o", outrelay, "./cmd/outrelay")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", cmd, err, out)
		return 1
	}
	return b.m.Run()
}

// bare is the path of the command built without the race detector, for what takes many
// connections.
func bare(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outrelay")
	output(t, root, "", "go", "build", "-o", path, "./cmd/outrelay")
	return path
}

func TestMain(m *testing.M) {
	asWorker() // where the process is one
	goleak.VerifyTestMain(built{m})
}

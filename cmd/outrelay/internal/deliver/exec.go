package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// ExitReject is the exit code of a command by which it rejects an event: EX_DATAERR of
// sysexits.h, "the input data was incorrect in some way".
const ExitReject = 65

// pipePatience is how long a command that has ended may keep its output open in processes
// that it left behind.
const pipePatience = time.Second

// An Exec is a command that gets each event as structured JSON on its standard input.
type Exec struct {
	// Command is a line for the system's shell. Nothing of an event gets into it.
	Command string
	// Timeout is how long it may take. It is then killed, with all of its process group.
	Timeout time.Duration
	// Output gets its standard output and error.
	Output io.Writer
}

// String is the command.
func (x *Exec) String() string { return x.Command }

// Close implements [Target].
func (x *Exec) Close() {}

// Deliver runs the command once.
func (x *Exec) Deliver(parent context.Context, e *Event, attempt int) Answer {
	ctx, cancel := context.WithTimeout(parent, x.Timeout)
	defer cancel()
	cmd := shell(ctx, x.Command)
	cmd.Stdin = bytes.NewReader(append(bytes.Clone(e.Raw), '\n'))
	cmd.Stdout, cmd.Stderr = x.Output, x.Output
	cmd.Env = append(os.Environ(), "OUTRELAY_ATTEMPT="+strconv.Itoa(attempt))
	cmd.WaitDelay = pipePatience
	err := cmd.Run()
	status := cmd.ProcessState
	switch {
	case ctx.Err() != nil && !(status != nil && status.Success()):
		a := noAnswer(ctx, ctx.Err(), x.Timeout, true)
		if a.health == stalled {
			a.Why = fmt.Sprintf("killed: it took longer than %v", x.Timeout)
		}
		return a
	case status == nil: // it was not even started
		return Answer{Outcome: Released, Why: printable(err.Error(), maxWhy), health: down}
	}
	// The status tells, not the error: a command need not read its input to its end.
	code := status.ExitCode()
	a := Answer{Status: &code, Outcome: Released, Why: fmt.Sprintf("exit code %d", code), health: failing}
	switch code {
	case 0:
		a.Outcome, a.Why, a.health = Acked, "", working
	case ExitReject:
		a.Outcome, a.health = Rejected, working
	case -1:
		a.Status, a.Why = nil, status.String() // such as "signal: killed"
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			a.Why = printable(err.Error(), maxWhy)
		}
	}
	return a
}

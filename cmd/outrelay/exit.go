package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// The exit codes of every command.
const (
	exitDone = iota
	exitOther
	exitUsage
	exitConfig
	exitNetwork
	exitAccess
	exitNotFound
	exitTimeout
)

// An exitError is an error whose exit code its maker knows.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// A usageError is a command that was written wrongly.
type usageError struct {
	command string // what to ask for help
	err     error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// exitCode finds the exit code of a command's error: the one that was given with
// it, else that of its kind.
func exitCode(err error) int {
	var (
		exit    exitError
		usage   usageError
		faults  config.Faults
		problem *schemas.Problem
		status  *subscriber.StatusError
		address *url.Error
		network *net.OpError
		name    *net.DNSError
		slow    interface{ Timeout() bool }
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &faults):
		if faults.Flags() {
			return exitUsage
		}
		return exitConfig
	case errors.As(err, &problem):
		return statusExit(problem.Status(), exitOther)
	case errors.As(err, &status):
		return statusExit(status.Status, exitNetwork)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return exitTimeout
	case errors.As(err, &address), errors.As(err, &network), errors.As(err, &name):
		return exitNetwork
	}
	return exitOther
}

func statusExit(status, other int) int {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return exitAccess
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return exitTimeout
	}
	return other
}

// report prints a command's error for a person.
func report(w io.Writer, err error) {
	if faults := (config.Faults{}); errors.As(err, &faults) {
		for _, f := range faults {
			if f.File == "" {
				fmt.Fprint(w, "outrelay: ")
			}
			fmt.Fprintln(w, f) // FILE:LINE: at the start, as editors know it
		}
		return
	}
	fmt.Fprintf(w, "outrelay: %v\n", err)
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintf(w, "See %s --help.\n", usage.command)
	}
}

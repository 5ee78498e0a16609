package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/outrelay/outrelay/cmd/outrelay/internal/config"
	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

func TestExitCodes(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("any"), 1},
		{usageError{"outrelay", errors.New("any")}, 2},
		{config.Faults{{Path: "--https"}}, 2},
		{config.Faults{{File: "c.yaml", Line: 3, Path: "tls"}}, 3},
		{config.Faults{{Path: "tls"}}, 3},
		{refused, 4},
		{&url.Error{Op: "Get", Err: refused}, 4},
		{&net.DNSError{Err: "no such host"}, 4},
		{&subscriber.StatusError{Status: 502}, 4},
		{schemas.Problemf("unauthorized", ""), 5},
		{schemas.Problemf("forbidden", ""), 5},
		{schemas.Problemf("not-found", ""), 6},
		{schemas.Problemf("event", ""), 1},
		{context.DeadlineExceeded, 7},
		{&url.Error{Op: "Get", Err: context.DeadlineExceeded}, 7},
		{schemas.Problemf("listener-timeout", ""), 7},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, 1},
		{exitError{6, refused}, 6},
	}
	for _, tt := range tests {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("exitCode(%#v) = %d, want %d", tt.err, got, tt.want)
		}
		if tt.err == nil {
			continue
		}
		if got := exitCode(fmt.Errorf("wrapped: %w", tt.err)); got != tt.want {
			t.Errorf("exitCode(wrapped %#v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

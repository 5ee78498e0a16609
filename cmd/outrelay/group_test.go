package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A diary notes what members do, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// member is one that notes its start and its end.
func (d *diary) member(name string, err error) member {
	ready := make(chan struct{})
	return member{name, func(ctx context.Context) error {
		d.note("start " + name)
		close(ready)
		<-ctx.Done()
		d.note("end " + name)
		return err
	}, ready}
}

func TestMembersStopInReverse(t *testing.T) {
	var d diary
	ctx, cancel := context.WithCancel(t.Context())
	last := member{"last", func(own context.Context) error {
		cancel()
		<-own.Done()
		d.note("end last")
		return nil
	}, nil}
	if err := runMembers(ctx, d.member("a", nil), d.member("b", nil), last); err != nil {
		t.Error(err)
	}
	want := []string{"start a", "start b", "end last", "end b", "end a"}
	if !slices.Equal(d.lines, want) {
		t.Errorf("they did %q, want %q", d.lines, want)
	}
}

func TestFirstExitStopsAll(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		ends error
		want string
	}{
		"with an error": {broken, "c: broken"},
		"without one":   {nil, "c: ended by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			var d diary
			c := member{"c", func(context.Context) error { return tt.ends }, make(chan struct{})} // never ready
			err := runMembers(t.Context(), d.member("a", errors.New("late")), c, d.member("never", nil))
			if err == nil || err.Error() != tt.want || tt.ends != nil && !errors.Is(err, tt.ends) {
				t.Errorf("error = %v, want %s", err, tt.want)
			}
			if got := strings.Join(d.lines, ", "); got != "start a, end a" {
				t.Errorf("they did %s, want that a ends and the last never starts", got)
			}
		})
	}
}

func TestStoppedWhileTheyStart(t *testing.T) {
	var d diary
	ctx, cancel := context.WithCancel(t.Context())
	slow := member{"slow", func(own context.Context) error {
		cancel()
		<-own.Done()
		return nil
	}, make(chan struct{})}
	if err := runMembers(ctx, d.member("a", nil), slow, d.member("never", nil)); err != nil {
		t.Error(err)
	}
	if got := strings.Join(d.lines, ", "); got != "start a, end a" {
		t.Errorf("they did %s", got)
	}
}

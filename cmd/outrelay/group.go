package main

import (
	"context"
	"fmt"
	"sync"
)

// A member is a part of the program that runs until its context ends.
type member struct {
	name string
	run  func(context.Context) error
	// ready is closed once the next member may start; nil for at once.
	ready <-chan struct{}
}

// runMembers starts the members in their order and waits for all of them. When ctx
// ends, or the first of them does, they are stopped from the last to the first, each
// once the one after it has ended, so that none loses what it stands on.
//
// The error is that of the member that ended before it was told to, else the first
// of those that ended badly.
func runMembers(ctx context.Context, members ...member) error {
	type running struct {
		cancel context.CancelFunc
		ended  chan struct{}
	}
	var (
		started []running
		once    sync.Once
		failed  = make(chan struct{}) // closed when err is set
		err     error
	)
	fail := func(e error) {
		once.Do(func() {
			err = e
			close(failed)
		})
	}
start:
	for _, m := range members {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{cancel, make(chan struct{})}
		started = append(started, r)
		go func() { // runs one member; ends when it is told to, or by itself
			defer close(r.ended)
			switch e := m.run(own); {
			case e != nil:
				fail(fmt.Errorf("%s: %w", m.name, e))
			case own.Err() == nil:
				fail(fmt.Errorf("%s: ended by itself", m.name))
			}
		}()
		ready := m.ready
		if ready == nil {
			closed := make(chan struct{})
			close(closed)
			ready = closed
		}
		select {
		case <-ready:
		case <-failed:
			break start
		case <-ctx.Done():
			break start
		}
	}
	select {
	case <-failed:
	case <-ctx.Done():
	}
	for i := len(started) - 1; i >= 0; i-- {
		started[i].cancel()
		<-started[i].ended
	}
	return err
}

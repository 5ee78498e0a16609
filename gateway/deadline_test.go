package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeadline(t.Context(), time.Second)
		if at, ok := d.Deadline(); !ok || !at.Equal(time.Now().Add(time.Second)) {
			t.Errorf("ends at %v", at)
		}
		time.Sleep(900 * time.Millisecond)
		if err := d.Err(); err != nil {
			t.Errorf("ended too early: %v", err)
		}
		<-d.Done()
		if err := d.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}

		late := newDeadline(t.Context(), time.Second)
		time.Sleep(2 * time.Second)
		if err := late.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("asked too late, it ended with %v", err)
		}

		for _, first := range []func(*deadline){func(*deadline) {}, func(d *deadline) { d.Done() }} {
			d := newDeadline(t.Context(), time.Second)
			first(d)
			d.cancel()
			<-d.Done()
			if err := d.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled, it ended with %v", err)
			}
		}

		parent, cancel := context.WithCancel(t.Context())
		child := newDeadline(parent, time.Second)
		cancel()
		<-child.Done()
		if err := child.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("with its parent canceled, it ended with %v", err)
		}
	})
}

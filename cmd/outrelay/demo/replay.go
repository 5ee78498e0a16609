package demo

import (
	"context"
	"time"
)

// maxRun is how many events go into one publish: far below the gateway's limits,
// with events of about 1 KiB.
const maxRun = 100

// A Publish takes events, as JSON, to a topic, all or none, and returns how many
// the gateway accepted. It is called for one publish at a time.
type Publish func(ctx context.Context, topic string, events ...[]byte) (accepted int, err error)

// Replay publishes the week in the order of its times, speed times as fast as it
// happened; a speed of 0 waits for nothing. It returns how many events were
// accepted, and the error that ended it: ctx's, or that of publish.
//
// One publish waits for the answer to the one before, so the log has the order of
// the file. Neighbours that are due and share a topic go together.
//
// After each publish progress is told how many were accepted so far and which
// event was the last; it must not wait.
func Replay(ctx context.Context, publish Publish, week []Quake, speed float64, progress func(published int, last Quake)) (published int, err error) {
	begin := time.Now()
	for i := 0; i < len(week); {
		if err := until(ctx, begin.Add(offset(week, i, speed))); err != nil {
			return published, err
		}
		var run [][]byte
		now := time.Since(begin)
		for j := i; j < len(week) && len(run) < maxRun; j++ {
			if j > i && (week[j].Topic() != week[i].Topic() || offset(week, j, speed) > now) {
				break
			}
			run = append(run, week[j].JSON)
		}
		accepted, err := publish(ctx, week[i].Topic(), run...)
		if err != nil {
			return published, err
		}
		published += accepted
		i += len(run)
		progress(published, week[i-1])
	}
	return published, nil
}

// offset is when event i is due, from the beginning of the replay.
func offset(week []Quake, i int, speed float64) time.Duration {
	if speed == 0 {
		return 0
	}
	const century = float64(100 * 365 * 24 * time.Hour) // more would overflow
	return time.Duration(min(float64(week[i].Time.Sub(week[0].Time))/speed, century))
}

// until waits for a time, or for the end of ctx, whose error it returns then.
func until(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return ctx.Err()
	}
}

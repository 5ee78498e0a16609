package broker

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// Where the logs of an embedded server ended is noted beside them, so that one whose end
// is missing at the next start is noticed: NATS takes a file that was cut short for one
// whose last writes were under way.
const (
	endsFile     = "log-ends.json"
	endsInterval = 500 * time.Millisecond
)

// A noted end is that of a namespace's log.
type notedEnd struct {
	Log  uint64 `json:"log"`
	Last uint64 `json:"last"`
}

// checkEnds says which logs have lost their end since it was noted.
func (b *Broker) checkEnds() {
	if !b.disk.guarded() {
		return
	}
	text, err := os.ReadFile(filepath.Join(b.config.Dir, endsFile))
	if err != nil {
		return // the first start
	}
	var ends map[string]notedEnd
	if err := json.Unmarshal(text, &ends); err != nil {
		b.logger.Warn("the note of where the logs ended can't be read; whether one lost its end is not known", "file", endsFile)
		return
	}
	for name, ns := range b.namespaces {
		noted, now := ends[name], ns.writer.end.Load().sequence
		if noted.Log == ns.log.id && noted.Last > now {
			b.logger.Error("events are lost: the log's end is missing, its files were cut short; restore a copy of the data folder if there is one. Subscribers whose cursor is beyond the end are told",
				"namespace", name, "events lost", noted.Last-now, "ends at", now, "ended at", noted.Last)
		}
	}
}

// noteEnds owns the note until ctx ends.
func (b *Broker) noteEnds(ctx context.Context) {
	if !b.disk.guarded() {
		return
	}
	noted := map[string]notedEnd{}
	note := func() {
		changed := false
		for name, ns := range b.namespaces {
			if end := (notedEnd{ns.log.id, ns.writer.end.Load().sequence}); noted[name] != end {
				noted[name], changed = end, true
			}
		}
		if !changed {
			return
		}
		text, err := json.Marshal(noted)
		if err != nil {
			panic(err) // numbers can be written
		}
		file := filepath.Join(b.config.Dir, endsFile)
		if err = os.WriteFile(file+".new", text, 0o600); err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			b.logger.Debug("where the logs end can't be noted", "error", err)
			clear(noted) // try again
		}
	}
	defer note()
	tick := time.NewTicker(endsInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			note()
		case <-ctx.Done():
			return
		}
	}
}

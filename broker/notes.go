package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/broker/vet"
)

// Between two notes of where the logs begin and end, and two copies of what
// subscriptions' states were.
const (
	noteInterval = 500 * time.Millisecond
	copyInterval = 10 * time.Second
	// restInterval is how often a log is asked to which nothing was published.
	restInterval = 10 * time.Second
	// maxGaps is how many removed events are noted one by one; beyond manyGaps they are
	// asked for less often, since the answer is long.
	maxGaps     = 200_000
	manyGaps    = 2_000
	gapInterval = 2 * time.Second
)

// notes are what this broker knows of the logs of its own server, beside them, so that
// what is missing at the next start is noticed and said. With an external cluster, or in
// memory, there are none.
type notes struct {
	broker *Broker
	store  *vet.Store
	found  map[string]vet.Finding // by stream; fixed by look
}

// look looks over the server's files before it opens them. Its error is for whoever
// starts the gateway.
func (n *notes) look() error {
	if !n.broker.disk.guarded() {
		return nil
	}
	logger := n.broker.logger
	n.store, n.found = vet.New(n.broker.config.Dir), map[string]vet.Finding{}
	findings, err := n.store.Look(func(read, of int64) {
		logger.Info("the log's files are looked over before they are opened", "bytes", read, "of", of)
	})
	if err != nil {
		return fmt.Errorf("the files of the log: %w", err)
	}
	for _, f := range findings {
		n.found[f.Stream] = f
		if f.Blind {
			logger.Warn("the notes about a log can't be read; whether it lost events is not known", "stream", f.Stream)
		}
		for i, file := range f.Spoilt {
			logger.Error("a file of the log was spoilt; what can be read of it stays, and the file as it was is kept aside", "file", filepath.Base(file), "stream", f.Stream, "kept", f.Kept[i])
		}
		if f.Note == nil && len(f.Spoilt) > 0 {
			logger.Error("events may be lost with the spoilt files; how many is not known, since there are no notes about the log yet", "stream", f.Stream)
		}
		for _, file := range f.Restored {
			logger.Warn("a file with settings, or with what a subscription was handed, was spoilt; it is as it was a while ago, and its deliveries since then may come again", "file", file)
		}
		for _, name := range f.Dropped {
			subscription, _, ok := subscriptionName(name)
			if !ok {
				subscription = name
			}
			logger.Error("a subscription is lost: its settings were spoilt and there is no copy of them; make it again, and replay it from before its loss", "subscription", subscription, "stream", f.Stream)
		}
	}
	return nil
}

// unopened says whether a stream that the server does not know has files all the same.
func (n *notes) unopened(stream string) bool { return n.store != nil && n.store.Has(stream) }

// settle says what the log of a namespace has lost, and gives the lost sequences back to
// nobody: new events come after them. It must be called before anything is published.
func (n *notes) settle(ctx context.Context, ns *namespace) error {
	if n.store == nil {
		return nil
	}
	logger := n.broker.logger.With("namespace", ns.name)
	f := n.found[ns.log.stream]
	if f.Note != nil && f.Note.Log != ns.log.id {
		if kept := (vet.Sequences{{f.Note.First, f.Last}}).Without(f.Note.Gaps).Count(); f.Note.First > 0 && f.Last >= f.Note.First {
			logger.Error("events are lost: the log is gone, and an empty one is in its place; restore a copy of the data folder if there is one. Subscribers who resume are told", "events lost", kept)
			n.broker.config.Observer.Lost(ns.name, kept)
		}
		if err := n.store.Forget(ns.log.stream); err != nil {
			return err
		}
		f = vet.Finding{}
	}
	if f.Note != nil {
		ns.log.lost = f.Note.Lost
		ns.log.expiring.Store(f.Note.Expiring)
	}
	if count := f.Lost.Count(); count > 0 {
		words := "events are lost: files of the log were cut short, spoilt or removed; restore a copy of the data folder if there is one. Subscribers who resume from before them are told"
		if f.AtMost {
			words = "events are lost, at most so many: files of the log were spoilt; restore a copy of the data folder if there is one. Subscribers who resume from before them are told"
		}
		logger.Error(words, "events lost", count, "sequences", f.Lost)
		n.broker.config.Observer.Lost(ns.name, count)
	}
	if count := f.Unsure.Count(); count > 0 {
		logger.Warn("events are missing that expired just before the gateway died, or else went with a file of the log; which of both is not known", "events", count, "sequences", f.Unsure)
	}
	at, err := ns.log.place(ctx)
	if err != nil {
		return err
	}
	if at.last < f.Last {
		if err := ns.writer.fill(ctx, f.Last-at.last); err != nil {
			logger.Warn("the places of lost events could not be filled; new events get the same", "error", err)
		}
		if at, err = ns.log.place(ctx); err != nil {
			return err
		}
	}
	ns.answered, err = n.store.Answered(ns.log.stream, ns.log.id, at.last)
	if err == nil {
		err = n.note(ctx, ns, true)
	}
	if err != nil { // a full disk can be read
		logger.Warn("the notes about the log can't be written; what it loses from now on may not be noticed", "error", err)
	}
	return nil
}

// note writes down where a log begins and ends.
func (n *notes) note(ctx context.Context, ns *namespace, sync bool) error {
	note, err := ns.log.note(ctx, sync)
	if err != nil {
		return err
	}
	ns.notedAt = time.Now()
	if same := ns.noted; !sync && same.First == note.First && same.Last == note.Last && same.Fresh == note.Fresh && same.Expiring == note.Expiring && slices.Equal(same.Gaps, note.Gaps) {
		return nil
	}
	ns.noted = note
	return n.store.Keep(ns.log.stream, note, sync)
}

// run keeps the notes until ctx ends.
func (n *notes) run(ctx context.Context) {
	if n.store == nil {
		return
	}
	tick := time.NewTicker(noteInterval)
	defer tick.Stop()
	copied := time.Time{}
	complain := func(err error) {
		if err != nil && ctx.Err() == nil {
			n.broker.logger.Debug("the notes about the log can't be written", "error", err)
		}
	}
	for {
		select {
		case now := <-tick.C:
			for _, ns := range n.broker.namespaces {
				if ns.answered != nil && ns.subscriptions.any() { // whose states are written
					complain(ns.answered.Alive())
				}
				if ns.writer.end.Load().sequence == ns.noted.Last && now.Sub(ns.notedAt) < restInterval {
					continue
				}
				limited, cancel := context.WithTimeout(ctx, requestTimeout)
				complain(n.note(limited, ns, false))
				cancel()
			}
			if now.Sub(copied) >= copyInterval {
				copied = now
				complain(n.store.CopyAll())
			}
		case <-ctx.Done():
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
			defer cancel()
			for _, ns := range n.broker.namespaces {
				if err := n.note(limited, ns, true); err != nil {
					n.broker.logger.Warn("the last note about the log can't be written", "error", err)
				}
			}
			return
		}
	}
}

// close ends the notes after the server has ended. well says that nothing failed.
func (n *notes) close(well bool) {
	if n.store == nil {
		return
	}
	for _, ns := range n.broker.namespaces {
		if ns.answered != nil {
			_ = ns.answered.Close() // the note says the same
		}
	}
	if !well {
		return
	}
	if err := n.store.Close(); err != nil {
		n.broker.logger.Warn("the notes about the log can't be closed; the next start knows less", "error", err)
	}
}

// gaps are the sequences missing in a log, as last asked for.
type gaps struct {
	known vet.Sequences
	count int
	first uint64 // where the log began
	asked time.Time
}

// note asks the log where it begins and ends, and what is missing in between.
func (l *eventLog) note(ctx context.Context, sync bool) (vet.Note, error) {
	at, err := l.bounds(ctx) // the last note is made when nobody else may ask
	if err != nil {
		return vet.Note{}, err
	}
	note := vet.Note{Log: l.id, First: at.first, Last: at.last, Lost: l.lost, Expiring: l.expiring.Load()}
	rules := l.rules.now()
	note.Fresh = at.bytes < rules.retention.MaxBytes/4*3 && (at.firstAt == 0 || time.Since(time.Unix(0, at.firstAt)) < rules.maxAge-time.Minute)
	switch {
	case at.deleted == 0:
	case at.deleted > maxGaps:
		note.Many = true
	case at.deleted == l.gaps.count && at.first == l.gaps.first, !sync && at.deleted > manyGaps && time.Since(l.gaps.asked) < gapInterval:
		note.Gaps = l.gaps.known
	default:
		answer, err := api[struct {
			State struct {
				Deleted []uint64 `json:"deleted"`
			} `json:"state"`
		}](ctx, l.broker, "STREAM.INFO."+l.stream, map[string]any{"deleted_details": true})
		if err != nil {
			return vet.Note{}, err
		}
		spans := make([]vet.Span, len(answer.State.Deleted))
		for i, sequence := range answer.State.Deleted {
			spans[i] = vet.Span{sequence, sequence}
		}
		note.Gaps = vet.Union(spans...)
		l.gaps = gaps{known: note.Gaps, count: at.deleted, first: at.first, asked: time.Now()}
	}
	return note, nil
}

// fillSubject is where messages stand that only keep a place; no name has it.
func fillSubject(namespace string) string {
	return requeuePrefix + toSubject.Replace(namespace) + ".=.fill"
}

// fill puts n messages at the log's end and removes them, so that the sequences of lost
// events are not given to new ones: what was handed out of the lost must not pass for
// them, in a subscription's state or a tag.
func (w *writer) fill(ctx context.Context, n uint64) error {
	w.patience = maxPatience
	for n > 0 {
		items := make([]*item, min(n, 1000))
		for i := range items {
			items[i] = newFiller(w.namespace)
		}
		var err error
		if len(items) == 1 {
			err = w.single(ctx, items[0])
		} else {
			err = w.batch(ctx, items)
		}
		if err != nil {
			return err
		}
		n -= uint64(len(items))
	}
	answer, err := api[struct {
		Success bool `json:"success"`
	}](ctx, w.broker, "STREAM.PURGE."+w.namespace.log.stream, map[string]any{"filter": fillSubject(w.namespace.name)})
	if err == nil && !answer.Success {
		err = errors.New("the fillers were not removed")
	}
	return err
}

// newFiller is a message that only keeps a place.
func newFiller(ns *namespace) *item {
	i := &item{subject: fillSubject(ns.name), accepted: time.Now().UnixNano(), data: []byte("{}")}
	rand.Read(i.identity[:])
	i.header = nats.Header{headerAccepted: {strconv.FormatInt(i.accepted, 10)}}
	return i
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// undoTimeout is how long it may take to bring the streams back after a reload that
// failed, each.
const undoTimeout = 5 * time.Second

// Reload replaces the rules of namespaces, all or none: which topics are stored, for
// how long, and how much is kept. What was stored stays for as long as the log keeps
// it, shorter if the log's age or size has shrunk. A namespace that the broker does
// not have is passed over, and one that is not in the map stays as it is: to add or
// remove one takes a new broker.
//
// Events that were published before the return went by the old rules or the new
// ones. With an error, which is for the operator, the old rules hold. ctx bounds the
// wait for the logs.
func (b *Broker) Reload(ctx context.Context, namespaces map[string]NamespaceConfig) error {
	c := b.config
	c.Namespaces = namespaces
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	b.reloading.Lock()
	defer b.reloading.Unlock()
	var changed []*change
	for _, name := range slices.Sorted(maps.Keys(c.Namespaces)) {
		if _, ours := b.config.Namespaces[name]; !ours {
			continue
		}
		ns, err := b.namespace(name)
		if err != nil {
			return err
		}
		old, next := ns.rules.now(), newRules(c.Namespaces[name])
		if old.retention != next.retention || !slices.Equal(old.list, next.list) {
			changed = append(changed, &change{ns.log, old, next})
		}
	}
	for n, ch := range changed {
		if err := ch.prepare(ctx); err != nil {
			errs := []error{fmt.Errorf("log of namespace %s: %w", ch.log.namespace, err)}
			for _, done := range changed[:n+1] {
				errs = append(errs, done.undo(ctx))
			}
			return errors.Join(errs...)
		}
	}
	for _, ch := range changed {
		ch.log.rules.held.Store(ch.next.after(ch.old, time.Now()))
	}
	return nil
}

// A change is that of one namespace's rules.
type change struct {
	log  *eventLog
	old  *rules
	next rules
}

// prepare sets up the stream for the new rules. Until they hold, what goes by the old
// ones says by itself how long it is kept, so that a longer age of the log does not
// become its own.
func (c *change) prepare(ctx context.Context) error {
	interim := *c.old
	interim.maxAge = max(c.old.maxAge, c.next.maxAge)
	c.log.rules.held.Store(&interim)
	return c.log.update(ctx, c.old, &c.next)
}

// undo brings stream and rules back.
func (c *change) undo(ctx context.Context) error {
	defer c.log.rules.held.Store(c.old)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := c.log.update(ctx, &c.next, c.old); err != nil {
		return fmt.Errorf("log of namespace %s, back to the old rules: %w", c.log.namespace, err)
	}
	return nil
}

// update changes the stream's settings from those of one set of rules to another's.
func (l *eventLog) update(ctx context.Context, from, to *rules) error {
	was, config := l.config(from), l.config(to)
	if was.MaxAge == config.MaxAge && was.MaxBytes == config.MaxBytes && was.Duplicates == config.Duplicates {
		return nil
	}
	stream, err := l.broker.js.Stream(ctx, l.stream)
	if err != nil {
		return err
	}
	config.Metadata = map[string]string{metadataLog: stream.CachedInfo().Config.Metadata[metadataLog]}
	_, err = l.broker.js.UpdateStream(ctx, config)
	return err
}

package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outrelay/outrelay/schemas"
)

// Error codes of JetStream that mean something to the writer.
const (
	codeBatchDuplicate    = 10201 // the batch has an identity that is stored, or twice
	codeDuplicateInFlight = 10158 // the first copy is being stored
	codeBatchIncomplete   = 10176 // the server dropped what came before the commit
	codeTooManyBatches    = 10175 // too many batches are open
	codeWrongLastSequence = 10071 // what a probe expects
	codeUnavailable       = 10008 // the cluster is between leaders
	codeNotLeader         = 10009
)

// A publication is one call of Publish on its way through the writer.
type publication struct {
	items []*item
	err   error
	done  chan struct{} // closed once items or err hold the outcome
}

// A writer stores a namespace's events. Publishes that wait share an atomic batch,
// and so its flush; one batch is settled before the next is sent, so events are
// stored in the order in which they were taken.
type writer struct {
	broker    *Broker
	namespace *namespace
	queue     chan *publication
	waiting   atomic.Int64  // events in the queue or beyond
	left      chan struct{} // somebody may find room now
	recent    *recent       // owned by run
	// end is the newest event that was answered, for who alone writes to the log.
	end      atomic.Pointer[position]
	patience time.Duration // for one answer; owned by run
	unseen   int64         // bytes stored since the log's size was looked at; owned by run
	held     *publication  // taken from the queue, too large for the batch before; owned by run
	// cohort is how many publications waited for the last batch, in it or behind it, and
	// took how long it took. Both are owned by run.
	cohort int
	took   time.Duration
}

func newWriter(b *Broker, ns *namespace) *writer {
	return &writer{
		broker: b, namespace: ns,
		queue:  make(chan *publication, b.config.Limits.PublishQueue),
		left:   make(chan struct{}, 1),
		recent: newRecent(),
	}
}

// room waits until n more events may wait, which is the back pressure of publishers.
func (w *writer) room(ctx context.Context, n int) error {
	limit := int64(max(w.broker.config.Limits.PublishQueue, schemas.MaxBatchEvents))
	for {
		if w.waiting.Add(int64(n)) <= limit {
			return nil
		}
		w.leave(n)
		select {
		case <-w.left:
		case <-ctx.Done():
			return ctx.Err()
		case <-w.broker.ctx.Done():
			return errDraining()
		case <-time.After(100 * time.Millisecond): // several wait for one signal
		}
	}
}

func (w *writer) leave(n int) {
	w.waiting.Add(int64(-n))
	select {
	case w.left <- struct{}{}:
	default:
	}
}

// run owns the namespace's way into the log until ctx ends.
func (w *writer) run(ctx context.Context) {
	defer func() { // answer who is left
		for {
			select {
			case p := <-w.queue:
				w.finish(p, errDraining())
			default:
				if w.held != nil {
					w.finish(w.held, errDraining())
				}
				return
			}
		}
	}()
	for {
		batch := w.gather(ctx)
		if len(batch) == 0 {
			return
		}
		began, events := time.Now(), 0
		for _, p := range batch {
			events += len(p.items)
		}
		err := w.store(ctx, batch)
		w.took, w.cohort = time.Since(began), len(batch)+len(w.queue)
		w.broker.config.Observer.Stored(w.namespace.name, len(batch), events, time.Since(began), err)
		if err != nil {
			err = w.broker.errStorage("publish", err)
		}
		for _, p := range batch {
			w.finish(p, err)
		}
	}
}

func (w *writer) finish(p *publication, err error) {
	p.err = err
	w.leave(len(p.items))
	close(p.done)
}

// maxLinger bounds how long a batch waits for more; else it is a quarter of what the last
// one took.
const maxLinger = 5 * time.Millisecond

// gather waits for a publication and takes all that wait with it, up to a batch. Who was
// answered a moment ago may be about to publish again: where there were several, the batch
// waits for as many for a moment. Otherwise they would go by in two halves, each with a
// flush of its own, and every flush of a batch is several of the disk.
func (w *writer) gather(ctx context.Context) []*publication {
	var batch []*publication
	count, size := 0, 0
	take := func(p *publication) bool {
		bytes := 0
		for _, i := range p.items {
			bytes += len(i.data)
		}
		if len(batch) > 0 && (count+len(p.items) > schemas.MaxBatchEvents || size+bytes > schemas.MaxBatch) {
			w.held = p
			return false
		}
		batch, count, size = append(batch, p), count+len(p.items), size+bytes
		return true
	}
	if p := w.held; p != nil {
		w.held = nil
		take(p)
	} else {
		select {
		case p := <-w.queue:
			take(p)
		case <-ctx.Done():
			return nil
		}
	}
	var over <-chan time.Time
	for {
		select {
		case p := <-w.queue:
			if !take(p) {
				return batch
			}
			continue
		default:
		}
		if len(batch) >= w.cohort {
			return batch
		}
		if over == nil {
			linger := time.NewTimer(min(w.took/4, maxLinger))
			defer linger.Stop()
			over = linger.C
		}
		select {
		case p := <-w.queue:
			if !take(p) {
				return batch
			}
		case <-over:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
}

// store keeps the batch's events, all or none, and settles each of them.
func (w *writer) store(ctx context.Context, batch []*publication) error {
	now := time.Now()
	w.recent.expire(now, w.namespace.rules.now().retention.Dedup)
	fresh := make([]*item, 0, len(batch))
	seen := make(map[identity]*item, len(batch))
	var copies []*item // of events of the same batch
	for _, p := range batch {
		for _, i := range p.items {
			if i.expired {
				continue
			}
			if known, ok := w.recent.find(i.identity); ok {
				i.settle(known.sequence, known.accepted, true)
			} else if seen[i.identity] != nil {
				copies = append(copies, i)
			} else {
				seen[i.identity] = i
				fresh = append(fresh, i)
			}
		}
	}
	if len(fresh) > 0 {
		size := 0
		for _, i := range fresh {
			size += len(i.data) + headerRoom/2
		}
		if err := w.broker.disk.room(size); err != nil {
			return err
		}
	}
	if err := w.commit(ctx, fresh); err != nil {
		return err
	}
	if left := unsettled(fresh); len(left) > 0 {
		return fmt.Errorf("%d of %d events were neither stored nor known", len(left), len(fresh))
	}
	end := *w.end.Load()
	for _, i := range fresh {
		w.recent.add(i.identity, known{i.sequence, i.first})
		if i.sequence > end.sequence {
			end = position{i.sequence, i.first}
		}
	}
	w.end.Store(&end)
	if w.namespace.answered != nil {
		if err := w.namespace.answered.Set(end.sequence); err != nil {
			w.broker.logger.Debug("what was answered can't be noted", "error", err)
		}
	}
	w.watch(ctx, fresh)
	for _, i := range copies {
		original := seen[i.identity]
		i.settle(original.sequence, original.first, true)
	}
	return nil
}

// watch has the log's size looked at often enough that it can't fill and empty again
// unseen: whether the oldest went for its size decides what a cursor is told.
func (w *writer) watch(ctx context.Context, stored []*item) {
	for _, i := range stored {
		w.unseen += int64(len(i.data))
	}
	if w.unseen < w.namespace.rules.now().retention.MaxBytes/8 {
		return
	}
	if _, err := w.namespace.log.bounds(ctx); err == nil {
		w.unseen = 0
	}
}

// commit stores items that are not known here. The log may know some of them: from
// another gateway, from before a restart, or from a try whose answer was lost.
func (w *writer) commit(ctx context.Context, items []*item) error {
	deadline := time.Now().Add(storeTimeout)
	w.patience = minPatience
	for delay := time.Millisecond; ; delay = min(2*delay, 250*time.Millisecond) {
		err := w.try(ctx, items)
		w.patience = min(2*w.patience, maxPatience)
		if err == nil {
			return nil
		}
		// Only what may pass by itself is tried again. A batch whose answer was lost
		// is sent again as it was: if it was stored, the log refuses it as known.
		if !transient(err) || time.Now().After(deadline) {
			return err
		}
		if err := w.broker.disk.doubt(); err != nil {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// storeTimeout is how long a batch is tried before its publishers hear that the log
// can't take it.
const storeTimeout = 20 * time.Second

// How long the first try waits for an answer, and a later one at most.
const (
	minPatience = time.Second
	maxPatience = 5 * time.Second
)

func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeDuplicateInFlight, codeBatchIncomplete, codeTooManyBatches, codeUnavailable, codeNotLeader:
			return true
		}
		return false
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded)
}

// try sends the items that are not settled, as one message or one atomic batch.
func (w *writer) try(ctx context.Context, items []*item) error {
	left := unsettled(items)
	if len(left) == 0 {
		return nil
	}
	if len(left) == 1 {
		return w.single(ctx, left[0])
	}
	err := w.batch(ctx, left)
	if !isCode(err, codeBatchDuplicate) {
		return err
	}
	known, err := w.probe(ctx, left)
	if err != nil {
		return err
	}
	for _, i := range known { // stored already, so this stores nothing and tells where
		if err := w.single(ctx, i); err != nil {
			return err
		}
	}
	if left = unsettled(left); len(left) == 0 {
		return nil
	}
	if len(left) == 1 {
		return w.single(ctx, left[0])
	}
	return w.batch(ctx, left)
}

func unsettled(items []*item) []*item {
	left := make([]*item, 0, len(items))
	for _, i := range items {
		if !i.settled {
			left = append(left, i)
		}
	}
	return left
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

func (i *item) message() *nats.Msg {
	header := make(nats.Header, len(i.header)+4)
	for k, v := range i.header {
		header[k] = v
	}
	header[nats.MsgIdHdr] = []string{base64.RawURLEncoding.EncodeToString(i.identity[:])}
	return &nats.Msg{Subject: i.subject, Header: header, Data: i.data}
}

// ack is JetStream's answer to a publish.
type ack struct {
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Count     int                 `json:"count"`
	Error     *jetstream.APIError `json:"error"`
}

func (w *writer) request(ctx context.Context, m *nats.Msg) (ack, error) {
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	answer, err := w.broker.request(ctx, m)
	if err != nil {
		return ack{}, err
	}
	var a ack
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return ack{}, fmt.Errorf("answer of the log: %w", err)
	}
	if a.Error != nil {
		return ack{}, a.Error
	}
	return a, nil
}

// single stores one item by itself. It is settled as a duplicate if the log knew it.
func (w *writer) single(ctx context.Context, i *item) error {
	a, err := w.request(ctx, i.message())
	if err != nil {
		return err
	}
	if !a.Duplicate {
		i.settle(a.Sequence, i.accepted, false)
		return nil
	}
	first := i.accepted
	r, err := w.namespace.log.at(ctx, a.Sequence)
	switch {
	case err == nil:
		first = r.accepted
	case !errors.Is(err, errGone):
		return err
	}
	// With this call's own time, the copy is its own try whose answer was lost.
	i.settle(a.Sequence, first, first != i.accepted)
	return nil
}

// batch stores items as one atomic batch (ADR-50), flushed once.
func (w *writer) batch(ctx context.Context, items []*item) error {
	a, err := w.send(ctx, items, 0)
	if err != nil {
		return err
	}
	if a.Count != len(items) {
		return fmt.Errorf("the log took %d of a batch of %d", a.Count, len(items))
	}
	for n, i := range items {
		i.settle(a.Sequence-uint64(len(items)-1-n), i.accepted, false)
	}
	return nil
}

// send publishes a batch and waits for the answer to its commit. A positive
// expected makes it a probe, which no log has as its last sequence.
func (w *writer) send(ctx context.Context, items []*item, expected uint64) (ack, error) {
	id := nats.NewInbox()[len(nats.InboxPrefix):]
	for n, i := range items {
		m := i.message()
		m.Header["Nats-Batch-Id"] = []string{id}
		m.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(n + 1)}
		if expected > 0 && n == len(items)-1 { // looked at after all identities
			m.Header[nats.ExpectedLastSeqHdr] = []string{strconv.FormatUint(expected, 10)}
		}
		if n < len(items)-1 {
			if err := w.broker.conn.PublishMsg(m); err != nil {
				return ack{}, err
			}
			continue
		}
		m.Header["Nats-Batch-Commit"] = []string{"1"}
		return w.request(ctx, m)
	}
	return ack{}, errors.New("empty batch")
}

// impossible is a last sequence that no log has.
const impossible = 1 << 62

// probe finds the items that the log knows, by halves. It stores nothing: a commit
// that can't succeed is refused as a duplicate before its sequence is looked at.
func (w *writer) probe(ctx context.Context, items []*item) ([]*item, error) {
	_, err := w.send(ctx, items, impossible)
	switch {
	case isCode(err, codeWrongLastSequence):
		return nil, nil
	case !isCode(err, codeBatchDuplicate):
		return nil, cmpErr(err, errors.New("a probe was stored"))
	case len(items) == 1:
		return slices.Clone(items), nil // the caller's array must not grow
	}
	half := len(items) / 2
	known, err := w.probe(ctx, items[:half])
	if err != nil {
		return nil, err
	}
	more, err := w.probe(ctx, items[half:])
	return append(known, more...), err
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// recent remembers what was stored within the dedup window, so that a known event
// costs no refused batch. Memory: about 100 bytes an event, bounded.
type recent struct {
	events map[identity]known
	order  []identity // oldest first, from head on
	head   int
}

type known struct {
	sequence uint64
	accepted int64 // the window begins here
}

// maxRecent bounds what is remembered; beyond it the log itself is asked.
const maxRecent = 200_000

func newRecent() *recent {
	return &recent{events: map[identity]known{}}
}

func (r *recent) find(i identity) (known, bool) {
	k, ok := r.events[i]
	return k, ok
}

func (r *recent) add(i identity, k known) {
	if _, ok := r.events[i]; ok {
		return
	}
	r.events[i] = k
	r.order = append(r.order, i)
}

// expire forgets what was stored before the window, or is too much.
func (r *recent) expire(now time.Time, window time.Duration) {
	for r.head < len(r.order) {
		oldest := r.order[r.head]
		if len(r.order)-r.head <= maxRecent && now.UnixNano()-r.events[oldest].accepted < int64(window) {
			break
		}
		delete(r.events, oldest)
		r.head++
	}
	if r.head > len(r.order)/2 {
		r.order = append(r.order[:0:0], r.order[r.head:]...)
		r.head = 0
	}
}

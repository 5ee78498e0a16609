package broker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outrelay/outrelay/broker/filter"
	"github.com/outrelay/outrelay/schemas"
)

// A feed is a namespace's events as they come, on this gateway: one ordered reader
// of the log and one subscription to what is not stored, whatever the number of
// subscribers. It keeps a window of them, the ring, of which views are the parts
// that pass a filter.
type feed struct {
	broker    *Broker
	namespace *namespace
	stop      context.CancelFunc
	live      *nats.Subscription

	mu sync.Mutex
	// generation counts the logs seen; it grows when the log is another one.
	generation uint64
	log        uint64   // the log's id
	head       position // the newest stored event taken in
	gone       position // the newest stored event that left the ring or never was in it
	ring       []*entry // oldest first, from front on
	front      int
	bytes      int
	views      map[viewKey]*view
	routes     routes
	idle       time.Time // since when nobody subscribes; zero while somebody does
	closed     bool
}

// A position is a stored event's place and the time of its acceptance.
type position struct {
	sequence uint64
	accepted int64
}

// An entry is an event in the ring.
type entry struct {
	position           // zero unless stored
	expires  int64     // 0: never
	at       time.Time // when it came
	topic    schemas.Topic
	json     []byte                 // as delivered
	made     atomic.Pointer[[]byte] // of it, by [Delivery.Once]
	views    []*view                // that refer to it
}

func (e *entry) stored() bool { return e.sequence != 0 }

func (e *entry) size() int { return len(e.json) + 200 }

type viewKey struct {
	topics schemas.TopicFilter
	filter string
}

// A view is the part of a feed that passes one filter: references into the ring,
// counted from the feed's beginning.
type view struct {
	key    viewKey
	filter *filter.Filter
	// The references, of which the first has the place base.
	refs  []*entry
	front int
	base  uint64
	since position // stored events up to here never were in the view
	lost  uint64   // unstored events that left the view

	streams int
	idle    time.Time     // since when it has no stream
	wake    chan struct{} // closed when something comes; nil if nobody waits
	groups  []*Group      // of streams that are level
}

func (v *view) end() uint64 { return v.base + uint64(len(v.refs)-v.front) }

func (v *view) at(place uint64) *entry { return v.refs[v.front+int(place-v.base)] }

// newFeed starts a feed at the log's end.
func newFeed(b *Broker, ns *namespace, at place) (*feed, error) {
	f := &feed{
		broker: b, namespace: ns,
		log:   at.log,
		head:  position{at.last, at.accepted},
		gone:  position{at.last, at.accepted},
		views: map[viewKey]*view{},
		idle:  time.Now(),
	}
	var err error
	f.live, err = b.feeding.Subscribe(livePrefix+toSubject.Replace(ns.name)+".>", func(m *nats.Msg) {
		f.takeLive(subjectTopic(livePrefix, ns.name, m.Subject), m.Data, nil)
	})
	if err != nil {
		return nil, err
	}
	if err := f.live.SetPendingLimits(-1, 256<<20); err != nil {
		return nil, err
	}
	if err := b.feeding.FlushTimeout(requestTimeout); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	f.stop = cancel
	reader := &reader{broker: b, log: ns.log, feed: f, at: at}
	b.start(func(context.Context) { reader.run(ctx) })
	b.start(func(context.Context) { f.keep(ctx) })
	return f, nil
}

// keep bounds the ring by age and ends what nobody has used for a while, the feed
// itself last.
func (f *feed) keep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer f.close()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if f.tidy(now) {
				return
			}
		}
	}
}

// tidy says whether the feed has been idle for too long.
func (f *feed) tidy(now time.Time) bool {
	limits := f.broker.config.Limits
	f.namespace.mu.Lock() // nobody may find the feed between the decision and the end
	defer f.namespace.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.front < len(f.ring) && now.Sub(f.ring[f.front].at) > limits.RingAge {
		f.evict()
	}
	for key, v := range f.views {
		if v.streams == 0 && now.Sub(v.idle) > limits.FeedLinger {
			delete(f.views, key)
			f.routes.remove(v)
		}
	}
	if len(f.views) > 0 || now.Sub(f.idle) <= limits.FeedLinger {
		return false
	}
	f.closed = true
	if f.namespace.feed == f {
		f.namespace.feed = nil
	}
	return true
}

func (f *feed) close() {
	f.live.Unsubscribe() //nolint:errcheck // it fails only on a closed connection
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, v := range f.views {
		v.signal()
	}
}

func (v *view) signal() {
	if v.wake != nil {
		close(v.wake)
		v.wake = nil
	}
	for _, g := range v.groups {
		g.tell()
	}
}

// takeLive takes in an event that is not stored. parsed is the same event, or nil.
func (f *feed) takeLive(topic schemas.Topic, json []byte, parsed *schemas.Event) {
	f.take(&entry{
		at:    time.Now(),
		topic: topic,
		json:  schemas.AppendDelivered(make([]byte, 0, len(json)+len(topic)+32), json, topic, nil),
	}, json, parsed)
}

// takeStored takes in an event of the log.
func (f *feed) takeStored(r record) {
	now := time.Now()
	if r.expired(now.UnixNano()) {
		f.mu.Lock()
		f.head = position{r.sequence, r.accepted}
		f.mu.Unlock()
		return
	}
	f.take(&entry{
		position: position{r.sequence, r.accepted},
		expires:  r.expires,
		at:       now,
		topic:    subjectTopic(logPrefix, f.namespace.name, r.subject),
		json:     f.namespace.log.delivered(f.log, r),
	}, r.data, nil)
}

// take puts an entry into the ring and the views it belongs to. stored is its event
// without the broker's attributes, which filters don't see; event is the same, parsed,
// or nil.
func (f *feed) take(e *entry, stored []byte, event *schemas.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.stored() {
		f.head = e.position
	}
	f.ring = append(f.ring, e)
	f.bytes += e.size()
	for _, v := range f.routes.find(e.topic) {
		if v.filter != nil {
			if event == nil {
				var err error
				if event, err = schemas.ParseStored(stored); err != nil {
					f.broker.logger.Error("the log holds what is no event", "sequence", e.sequence)
					break
				}
			}
			if !v.filter.Match(event) {
				continue
			}
		}
		e.views = append(e.views, v)
		v.refs = append(v.refs, e)
		v.signal()
	}
	for f.bytes > f.broker.config.Limits.RingBytes && len(f.ring)-f.front > 1 {
		f.evict()
	}
}

// evict drops the oldest entry.
func (f *feed) evict() {
	e := f.ring[f.front]
	f.ring[f.front] = nil
	f.front++
	f.bytes -= e.size()
	if e.stored() {
		f.gone = e.position
	}
	for _, v := range e.views { // it is the oldest of each
		v.refs[v.front] = nil
		v.front++
		v.base++
		if !e.stored() {
			v.lost++
		}
		if v.front > 64 && v.front > len(v.refs)/2 {
			v.refs = append(v.refs[:0:0], v.refs[v.front:]...)
			v.front = 0
		}
	}
	if f.front > 64 && f.front > len(f.ring)/2 {
		f.ring = append(f.ring[:0:0], f.ring[f.front:]...)
		f.front = 0
	}
}

// reset begins anew after the log turned out to be another one. Whoever subscribes
// hears of it, and goes on with the oldest event kept.
func (f *feed) reset(at place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.front < len(f.ring) {
		f.evict()
	}
	f.generation++
	f.log = at.log
	f.head = position{}
	f.gone = position{}
	if at.first > 1 {
		f.head.sequence, f.gone.sequence = at.first-1, at.first-1
	}
	for _, v := range f.views {
		v.since = f.gone
		v.signal()
	}
}

// join finds or makes the view of a filter and counts one more stream on it.
func (f *feed) join(topics schemas.TopicFilter, content *filter.Filter) (*view, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, false
	}
	key := viewKey{topics: topics}
	if content != nil {
		key.filter = content.Key()
	}
	v := f.views[key]
	if v == nil {
		v = &view{key: key, filter: content, since: f.head}
		f.views[key] = v
		f.routes.add(v)
	}
	v.streams++
	f.idle = time.Time{}
	return v, true
}

// leave counts one stream less.
func (f *feed) leave(v *view) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.streams--
	if v.streams == 0 {
		v.idle = time.Now()
		f.idle = v.idle
	}
}

func (f *feed) cursor(p position) schemas.Cursor {
	return schemas.Cursor{Log: f.log, Sequence: p.sequence, Accepted: p.accepted}
}

// covered is the newest stored event that v does not hold. The feed's lock is held.
func (f *feed) covered(v *view) position {
	if f.gone.sequence > v.since.sequence {
		return f.gone
	}
	return v.since
}

// feed finds the namespace's feed or starts it.
func (b *Broker) feed(ctx context.Context, ns *namespace) (*feed, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.feed != nil {
		return ns.feed, nil
	}
	at, err := ns.log.place(ctx)
	if err != nil {
		return nil, err
	}
	f, err := newFeed(b, ns, at)
	if err != nil {
		return nil, err
	}
	ns.feed = f
	return f, nil
}

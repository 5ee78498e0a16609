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
	ring       queue[*entry]
	bytes      int
	views      map[viewKey]*view
	routes     routes
	streams    int       // of all views
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
	position       // zero unless stored
	expires  int64 // 0: never
	at       int64 // when it came, in nanoseconds since 1970
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
	refs  queue[*entry]
	base  uint64
	since position // stored events up to here never were in the view
	lost  uint64   // unstored events that left the view

	streams int
	idle    time.Time     // since when it has no stream
	fresh   bool          // something came that has not been signaled
	wake    chan struct{} // closed when something comes; nil if nobody waits
	groups  []*Group      // of streams that are level
}

func (v *view) end() uint64 { return v.base + uint64(v.refs.len()) }

func (v *view) at(place uint64) *entry { return v.refs.at(int(place - v.base)) }

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
	f.live, err = b.feeding.Subscribe(livePrefix+toSubject.Replace(ns.name)+".>", f.takeMessage)
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
	for f.ring.len() > 0 && now.UnixNano()-f.ring.at(0).at > int64(limits.RingAge) {
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

// slab is how many bytes of events that came together share one piece of memory, which
// stays while one of them is in the ring.
const slab = 64 << 10

// takeLive takes in events that are not stored.
func (f *feed) takeLive(topic schemas.Topic, events []*schemas.Event, now time.Time) {
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && (n == 0 || size < slab) {
			size += events[n].Size() + schemas.DeliveredRoom(topic)
			n++
		}
		text := make([]byte, 0, size)
		entries := make([]entry, n)
		for i, e := range events[:n] {
			start := len(text)
			text = schemas.AppendDelivered(text, e.JSON(), topic, nil)
			entries[i] = entry{at: now.UnixNano(), topic: topic, json: text[start:len(text):len(text)]}
		}
		f.take(topic, entries, func(i int) *schemas.Event { return events[i] })
		events = events[n:]
	}
}

// takeMessage takes in an event that is not stored, of another gateway.
func (f *feed) takeMessage(m *nats.Msg) {
	topic := subjectTopic(livePrefix, f.namespace.name, m.Subject)
	json := schemas.AppendDelivered(make([]byte, 0, len(m.Data)+schemas.DeliveredRoom(topic)), m.Data, topic, nil)
	f.take(topic, []entry{{at: time.Now().UnixNano(), topic: topic, json: json}}, func(int) *schemas.Event { return f.parse(m.Data) })
}

// takeStored takes in an event of the log.
func (f *feed) takeStored(r record) {
	now := time.Now().UnixNano()
	if r.expired(now) {
		f.mu.Lock()
		f.head = position{r.sequence, r.accepted}
		f.mu.Unlock()
		return
	}
	topic := subjectTopic(logPrefix, f.namespace.name, r.subject)
	f.take(topic, []entry{{
		position: position{r.sequence, r.accepted},
		expires:  r.expires,
		at:       now,
		topic:    topic,
		json:     f.namespace.log.delivered(f.log, r),
	}}, func(int) *schemas.Event { return f.parse(r.data) })
}

// parse reads an event that was published, nil if it is none.
func (f *feed) parse(json []byte) *schemas.Event {
	e, err := schemas.ParseStored(json)
	if err != nil {
		f.broker.logger.Error("what was published is no event", "namespace", f.namespace.name)
		return nil
	}
	return e
}

// take puts entries of one topic into the ring and the views they belong to. parsed
// gives each as filters see it, without the broker's attributes; nil passes none.
func (f *feed) take(topic schemas.Topic, entries []entry, parsed func(i int) *schemas.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	views := f.routes.find(topic)
	for i := range entries {
		e := &entries[i]
		if e.stored() {
			f.head = e.position
		}
		f.ring.push(e)
		f.bytes += e.size()
		e.views = f.passing(views, i, parsed)
		for _, v := range e.views {
			v.refs.push(e)
			v.fresh = true
		}
	}
	for _, v := range views {
		if v.fresh {
			v.fresh = false
			v.signal()
		}
	}
	for f.bytes > f.broker.config.Limits.RingBytes && f.ring.len() > 1 {
		f.evict()
	}
}

// passing returns those of the views that the event passes: the slice itself if it
// passes all, which is not to be changed.
func (f *feed) passing(views []*view, i int, parsed func(i int) *schemas.Event) []*view {
	var event *schemas.Event
	var some []*view
	all := true
	for n, v := range views {
		passes := v.filter == nil
		if !passes {
			if event == nil {
				if event = parsed(i); event == nil {
					return nil
				}
			}
			passes = v.filter.Match(event)
		}
		if all && !passes {
			all, some = false, append(some, views[:n]...)
		} else if !all && passes {
			some = append(some, v)
		}
	}
	if all {
		return views
	}
	return some
}

// evict drops the oldest entry.
func (f *feed) evict() {
	e := f.ring.pop()
	f.bytes -= e.size()
	if e.stored() {
		f.gone = e.position
	}
	for _, v := range e.views { // it is the oldest of each
		v.refs.pop()
		v.base++
		if !e.stored() {
			v.lost++
		}
	}
}

// reset begins anew after the log turned out to be another one. Whoever subscribes
// hears of it, and goes on with the oldest event kept.
func (f *feed) reset(at place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.ring.len() > 0 {
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
	f.streams++
	f.idle = time.Time{}
	return v, true
}

// leave counts one stream less.
func (f *feed) leave(v *view) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.streams--
	f.streams--
	if v.streams == 0 {
		v.idle = time.Now()
		f.idle = v.idle
	}
}

func (f *feed) cursor(p position) schemas.Cursor {
	return schemas.Cursor{Log: f.log, Sequence: p.sequence, Accepted: p.accepted}
}

// page is how many bytes a stream behind the ring reads of the log at a time: all of them
// together hold about as much as the ring. The feed's lock is held.
func (f *feed) page() int {
	return min(readBytes, max(leastPage, f.broker.config.Limits.RingBytes/max(f.streams, 1)))
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

package gateway

import (
	"context"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// A pump serves the WebSocket streams that are level with their view: it takes all
// that waits, joins the frames once, and writes them to every socket without waiting
// for any (design section 2). A stream whose socket is full, or that has anything of
// its own to do, goes back to a goroutine of its own until it is level again.
//
// One goroutine runs a pump; park and unpark may be called from any.
type pump struct {
	gateway *Gateway
	wake    chan struct{} // somebody is in a list below

	mu      sync.Mutex
	ready   []*broker.Group
	leaving []*parked

	// Owned by run.
	parties    map[*broker.Group]*party
	working    []*broker.Group
	going      []*parked
	deliveries []broker.Delivery
	chunk, own frame.Chunk
	marks      []broker.Mark
	short      frame.Chunk // the chunk with its events compressed
	deflater   frame.Deflater
}

// A party is a group's members.
type party struct {
	group *broker.Group
	level []lane
	// fresh are those that joined at a later place than the group's.
	fresh     []*parked
	delivered time.Time // when the group last brought something
}

// A lane is a member and its way out, side by side: of most members no more is looked at.
type lane struct {
	outlet *frame.Outlet
	parked *parked
}

func (k *parked) lane() lane { return lane{k.stream.socket.Outlet(), k} }

// members are all of them.
func (pt *party) members() []*parked {
	all := slices.Clone(pt.fresh)
	for _, l := range pt.level {
		all = append(all, l.parked)
	}
	return all
}

// A parked is a stream in the care of a pump.
type parked struct {
	pump   *pump
	stream *stream

	// Owned by the pump's goroutine.
	here   bool // it has arrived in its party, and not left
	group  *broker.Group
	member broker.Member
}

const (
	// pumpBytes is how many bytes of frames are joined; a larger event goes alone.
	pumpBytes = 64 << 10
	// pumpDeliveries is how many deliveries are taken at a time.
	pumpDeliveries = 512
	// pumpShare is how many sockets of one view a pump takes before the next helps.
	pumpShare = 1000
)

func (g *Gateway) startPumps() {
	g.pumps = make([]*pump, runtime.GOMAXPROCS(0))
	for i := range g.pumps {
		p := &pump{gateway: g, wake: make(chan struct{}, 1), parties: map[*broker.Group]*party{}}
		g.pumps[i] = p
		g.tasks.Go(func() { p.run(g.ctx) })
	}
}

var pumpSeed = maphash.MakeSeed()

// pumpFor chooses a pump: one for the streams of a filter, more for many.
func (g *Gateway) pumpFor(f *flow) *pump {
	n := maphash.String(pumpSeed, string(f.ask.Topics)) + uint64(f.events.Members()/pumpShare)
	return g.pumps[n%uint64(len(g.pumps))]
}

// park takes a stream into the pump's care. It reports false if the stream can't be
// parked now: it has something to say, or somebody wants something of it.
func (p *pump) park(s *stream) bool {
	f := s.flow
	k := &parked{pump: p, stream: s}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rung || f.end != nil || !f.drainAt.IsZero() {
		return false
	}
	if _, _, ok := f.events.Join(p, k, p.notify); !ok {
		return false
	}
	f.parked = k
	return true
}

// notify hears that a group has something to take. It is called under the feed's lock.
func (p *pump) notify(g *broker.Group) {
	p.mu.Lock()
	p.ready = append(p.ready, g)
	p.mu.Unlock()
	p.rouse()
}

// unpark gives a stream back to a goroutine of its own, soon.
func (p *pump) unpark(k *parked) {
	p.mu.Lock()
	p.leaving = append(p.leaving, k)
	p.mu.Unlock()
	p.rouse()
}

func (p *pump) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pump) run(ctx context.Context) {
	// A stream that is idle for nine tenths of the interval must hear from us by its end.
	tick := time.NewTicker(min(time.Second, p.gateway.config.Limits.PingInterval/20))
	defer tick.Stop()
	for {
		select {
		case <-p.wake:
			// Whoever can run now may have more to publish: it is joined.
			runtime.Gosched()
			p.work()
		case now := <-tick.C:
			p.look(now)
		case <-ctx.Done():
			p.work()
			for _, pt := range p.parties {
				mark := pt.group.Mark()
				for _, k := range pt.members() {
					p.release(k, mark)
				}
			}
			return
		}
	}
}

// work serves the groups that have something, and then lets go who wants to leave:
// whoever leaves has arrived by then.
func (p *pump) work() {
	p.mu.Lock()
	p.working, p.ready = p.ready, p.working[:0]
	p.going, p.leaving = p.leaving, p.going[:0]
	p.mu.Unlock()
	for i, g := range p.working {
		p.serve(g)
		p.working[i] = nil
	}
	for i, k := range p.going {
		if k.here {
			p.release(k, k.group.Mark())
		}
		p.going[i] = nil
	}
}

// serve sends a group's events to its members.
func (p *pump) serve(g *broker.Group) {
	pt := p.parties[g]
	if pt == nil {
		pt = &party{group: g}
		p.parties[g] = pt
	}
	for more := true; more; {
		t := g.Take(p.deliveries[:0], pumpDeliveries)
		for _, a := range t.Arrived {
			k := a.Token.(*parked)
			k.group, k.member, k.here = g, a.Member, true
			pt.fresh = append(pt.fresh, k)
			p.parties[g] = pt // release forgets a party of which all have left
		}
		if t.Lost {
			for _, k := range pt.members() {
				p.release(k, t.From)
			}
			return
		}
		p.deliveries = t.Deliveries
		p.send(pt, t)
		p.settle(pt, t.To)
		clear(p.deliveries)
		more = t.More
	}
	if len(pt.level)+len(pt.fresh) == 0 {
		delete(p.parties, g)
	}
}

// settle moves those who are level to the others.
func (p *pump) settle(pt *party, to broker.Mark) {
	pt.fresh = slices.DeleteFunc(pt.fresh, func(k *parked) bool {
		if k.member.Past(to) {
			pt.level = append(pt.level, k.lane())
			return true
		}
		return false
	})
}

// send joins the frames of some deliveries at a time and writes them to every member.
func (p *pump) send(pt *party, t broker.Taking) {
	d := t.Deliveries
	if len(d) == 0 {
		return
	}
	pt.delivered = time.Now()
	events, size := 0, 0
	before := t.From
	for len(d) > 0 {
		p.chunk.Reset()
		p.marks = append(p.marks[:0], before)
		n := 0
		for n < len(d) && (n == 0 || len(p.chunk.Bytes)+len(d[n].Event) <= pumpBytes) {
			p.chunk.Text(d[n].Event)
			before = d[n].Mark()
			p.marks = append(p.marks, before)
			n++
		}
		p.short.Reset()
		for i := 0; i < len(pt.level); {
			l, c := pt.level[i], &p.chunk
			if l.outlet.Deflate() {
				c = p.compress(d[:n])
			}
			if p.write(l, c, p.marks) {
				i++
			} // else another stands in its place now
		}
		events, size = events+n*len(pt.level), size+len(p.chunk.Bytes)*len(pt.level)
		for i := 0; i < len(pt.fresh); {
			if p.sendOwn(pt.fresh[i], p.marks[0], d[:n]) {
				i++
			}
		}
		d = d[n:]
	}
	if cap(p.chunk.Bytes) > 4*pumpBytes {
		p.chunk, p.short = frame.Chunk{}, frame.Chunk{}
	}
	namespace := ""
	if len(pt.level) > 0 {
		namespace = pt.level[0].parked.stream.flow.namespace
		p.gateway.metrics.delivered(namespace, events, size)
	}
}

// compress is the chunk for those who take compressed messages, made at the first
// of them.
func (p *pump) compress(deliveries []broker.Delivery) *frame.Chunk {
	if len(p.short.Ends) > 0 {
		return &p.short
	}
	for i := range deliveries {
		if short := deliveries[i].Once(p.deflater.Compress); short != nil {
			p.short.Compressed(short)
		} else {
			p.short.Text(deliveries[i].Event)
		}
	}
	return &p.short
}

// write writes a chunk to a member. It returns false if the member left: its socket
// is full, or gone.
func (p *pump) write(l lane, c *frame.Chunk, marks []broker.Mark) bool {
	n, err := l.outlet.TryWrite(c.Bytes, c.Ends, 0)
	if n == len(c.Ends) && err == nil {
		return true
	}
	if err != nil {
		l.parked.stream.flow.finish(connectionLost, "")
	}
	p.release(l.parked, marks[n])
	return false
}

// sendOwn sends a fresh member what it has not had of some deliveries, which begin
// after a mark. The group's own is past them already.
func (p *pump) sendOwn(k *parked, before broker.Mark, deliveries []broker.Delivery) bool {
	p.own.Reset()
	own := make([]broker.Mark, 0, len(deliveries)+1)
	own = append(own, before)
	events := 0
	for i := range deliveries {
		d := &deliveries[i]
		if k.member.Skips(d) {
			own[len(own)-1] = d.Mark()
			continue
		}
		p.own.Text(d.Event)
		own = append(own, d.Mark())
		events++
	}
	if events == 0 {
		return true
	}
	p.gateway.metrics.delivered(k.stream.flow.namespace, events, len(p.own.Bytes))
	return p.write(k.lane(), &p.own, own)
}

// release gives a member back to a goroutine of its own, which goes on after mark.
func (p *pump) release(k *parked, mark broker.Mark) {
	pt := p.parties[k.group]
	pt.remove(k)
	k.here = false
	f := k.stream.flow
	f.delivered = later(f.delivered, pt.delivered)
	if len(pt.level)+len(pt.fresh) == 0 {
		delete(p.parties, k.group)
	}
	f.events.Leave(k.group, k.member, mark)
	f.mu.Lock()
	f.parked = nil
	f.mu.Unlock()
	p.gateway.tasks.Go(k.stream.run)
}

func (pt *party) remove(k *parked) {
	pt.level = without(pt.level, func(l lane) bool { return l.parked == k })
	pt.fresh = without(pt.fresh, func(f *parked) bool { return f == k })
}

// without is a list without one of its members, in whose place the last stands.
func without[T any](list []T, is func(T) bool) []T {
	i := slices.IndexFunc(list, is)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}

// look keeps idle streams alive, tells where they are, and lets go whose token has
// expired.
func (p *pump) look(now time.Time) {
	for g, pt := range p.parties {
		mark := g.Mark()
		p.settle(pt, mark)
		for i := len(pt.level) - 1; i >= 0; i-- { // who leaves is replaced by one that was looked at
			p.lookAt(pt.level[i].parked, pt, mark, now)
		}
	}
}

func (p *pump) lookAt(k *parked, pt *party, mark broker.Mark, now time.Time) {
	f := k.stream.flow
	if expires := f.grant.Load().Expires; !expires.IsZero() && !now.Before(expires) {
		p.release(k, mark)
		return
	}
	if !now.Before(f.nextAlive) {
		if k.stream.socket.Ping() != nil {
			f.finish(connectionLost, "")
		}
		f.nextAlive = now.Add(f.interval)
	}
	if f.params.positions && !now.Before(later(f.delivered, pt.delivered).Add(f.interval)) {
		f.delivered = now
		p.own.Reset()
		p.own.Text(cursorNotice(schemas.NoticePosition, k.group.Cursor(mark)))
		p.write(k.lane(), &p.own, []broker.Mark{mark, mark})
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A flow decides what a stream sends, and when: its events, its notices, what keeps
// it alive, and its end. How that looks on the wire is its outlet's. One goroutine
// runs it, or a pump while it is level with its view; the methods that end and drain
// it may be called from any.
type flow struct {
	// Fixed by newFlow.
	gateway   *Gateway
	namespace string
	kind      string // label of its metrics
	ask       access.Ask
	params    streamParams
	interval  time.Duration // of keep-alives

	events *broker.Stream // set before run

	grant atomic.Pointer[access.Grant] // replaced when the rules change

	// Owned by whoever sends: the flow's goroutine, or the pump that it is parked at.
	opened    bool      // the first look at the stream was taken
	announced bool      // the draining notice was sent
	delivered time.Time // when the stream last brought something
	nextAlive time.Time // when to show that the connection is alive

	mu      sync.Mutex
	rung    bool               // something waits to be seen
	cancel  context.CancelFunc // ends the wait for events; nil outside one
	end     *ending            // the first that was given
	drainAt time.Time          // when to close; zero unless draining
	retry   time.Duration      // what the draining notice says
	cut     func()             // takes the connection away; nil until there is one
	parked  *parked            // at a pump; nil while the flow has its goroutine
}

// An ending is why and how a stream ends.
type ending struct {
	reason schemas.CloseReason
	detail string
}

// Reasons that never stand in a Close frame of the gateway's own making: the client
// closed, or can't be reached any more.
var (
	closedByClient = schemas.CloseReason{Word: "done", Code: 1000, Retry: schemas.RetryNever}
	connectionLost = schemas.CloseReason{Word: "lost", Retry: schemas.RetryNow}
)

// An outlet is a stream's way to its client. All methods are called by the flow's
// goroutine. All but flush only gather what flush writes.
type outlet interface {
	event(broker.Delivery)
	notice([]byte)
	// position says where the stream is; kind is [schemas.NoticeOpen] or [schemas.NoticePosition].
	position(kind string, c schemas.Cursor)
	draining(retry time.Duration)
	// alive shows that the connection is.
	alive()
	// full says that it is time to flush.
	full() bool
	// flush writes and blocks until the client takes it. An error ends the stream.
	flush() error
	// park gives the flow to a pump, if there is one and nothing else is to be done.
	park() bool
}

// Bounds of the loop.
const (
	maxDeliveries   = 256
	storagePatience = 10 * time.Second // for a log that can't be read to come back
	storagePause    = 250 * time.Millisecond
)

func newFlow(g *Gateway, namespace string, w way, ask access.Ask, grant *access.Grant, params streamParams) *flow {
	f := &flow{gateway: g, namespace: namespace, kind: "websocket", ask: ask, params: params}
	if w == waySSE {
		f.kind = "sse"
	}
	f.grant.Store(grant)
	most := g.config.Limits.PingInterval
	f.interval = most - most/10 - time.Duration(rand.Int64N(int64(most)/10+1)) // so that a look of the pump falls in between
	return f
}

// addFlow takes a place among the namespace's streams, removeFlow gives it back.
func (g *Gateway) addFlow(f *flow) error {
	err := g.enter(f.namespace, f)
	if err == nil {
		g.metrics.opened(f)
	}
	return err
}

func (g *Gateway) removeFlow(f *flow) {
	g.metrics.closed(f)
	g.leave(f.namespace, f)
}

// close ends the broker's stream and gives the flow's place back.
func (f *flow) close() {
	f.events.Close()
	f.gateway.removeFlow(f)
}

// ringLocked makes the flow look at its orders. mu is held.
func (f *flow) ringLocked() {
	if f.cancel != nil {
		f.cancel()
	}
	if f.parked != nil && !f.rung {
		f.parked.pump.unpark(f.parked)
	}
	f.rung = true
}

// finish ends the flow soon, if nothing has ended it yet.
func (f *flow) finish(reason schemas.CloseReason, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == nil {
		f.end = &ending{reason, detail}
	}
	f.ringLocked()
}

// drain makes the flow say that the gateway is about to stop, and end at the time given.
func (f *flow) drain(at time.Time, retry time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drainAt, f.retry = at, retry
	f.ringLocked()
}

// onCut sets what takes the connection away, for a client that takes nothing until
// the drain's deadline.
func (f *flow) onCut(cut func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
}

func (f *flow) cutOff() {
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	if cut != nil {
		cut()
	}
}

// over says whether the flow has been told to end.
func (f *flow) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.end != nil
}

// orders returns what other goroutines want.
func (f *flow) orders() (end *ending, drainAt time.Time, retry time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rung = false
	return f.end, f.drainAt, f.retry
}

// wait is a context that ends at the time given, or when the flow is rung.
func (f *flow) wait(until time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(context.Background(), until)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rung {
		cancel()
	}
	f.cancel = cancel
	return ctx, func() {
		f.mu.Lock()
		f.cancel = nil
		f.mu.Unlock()
		cancel()
	}
}

// run sends until the flow is to end, and returns why it did. All that it gathered
// is flushed then, unless the connection is lost. It also returns, with parked true,
// when a pump has taken over: run must be called again when that gives the flow back.
func (f *flow) run(out outlet) (end ending, parked bool) {
	end, parked = f.send(out)
	if parked {
		return end, true
	}
	f.mu.Lock()
	if f.end == nil {
		f.end = &end
	}
	f.mu.Unlock()
	if end.reason != connectionLost && out.flush() != nil {
		end = ending{reason: connectionLost}
	}
	f.gateway.metrics.ended(f, end.reason)
	return end, false
}

// open takes the first look at the stream.
func (f *flow) open(out outlet) {
	f.opened = true
	f.delivered = time.Now()
	f.nextAlive = f.delivered.Add(f.interval)
	if f.params.positions {
		out.position(schemas.NoticeOpen, f.events.Cursor())
	}
}

// begin gives a stream that has nothing to say to a pump, which saves most streams a
// goroutine. If it reports false, run must be called.
func (f *flow) begin(out outlet) bool {
	if f.params.positions {
		return false
	}
	f.open(out)
	return out.park()
}

func (f *flow) send(out outlet) (ended ending, parked bool) {
	if !f.opened {
		f.open(out)
	}
	lost := ending{reason: connectionLost}
	var failing time.Time // since when the log can't be read
	for {
		end, drainAt, retry := f.orders()
		now := time.Now()
		expires := f.grant.Load().Expires
		switch {
		case end != nil:
			return *end, false
		case !expires.IsZero() && !now.Before(expires):
			return ending{reason: schemas.CloseTokenExpired}, false
		case !drainAt.IsZero() && !f.announced:
			f.announced = true
			out.draining(retry)
		case !drainAt.IsZero() && !now.Before(drainAt):
			return ending{reason: schemas.CloseDrain}, false
		}
		if !now.Before(f.nextAlive) {
			out.alive()
			f.nextAlive = now.Add(f.interval)
		}
		until := f.nextAlive
		if f.params.positions {
			if !now.Before(f.delivered.Add(f.interval)) {
				out.position(schemas.NoticePosition, f.events.Cursor())
				f.delivered = now
			}
			until = earlier(until, f.delivered.Add(f.interval))
		}
		if out.flush() != nil {
			return lost, false
		}
		if out.park() {
			return ended, true
		}
		until = earlier(earlier(until, expires), drainAt)
		ctx, done := f.wait(until)
		deliveries, err := f.events.Next(ctx, maxDeliveries)
		interrupted := ctx.Err() != nil
		done()
		switch {
		case err == nil:
			failing = time.Time{}
		case errors.Is(err, schemas.ErrDraining):
			return ending{reason: schemas.CloseDrain}, false
		case interrupted:
			continue
		case errors.Is(err, schemas.ErrStorage), errors.Is(err, context.DeadlineExceeded):
			if failing.IsZero() {
				failing = now
			}
			if now.Sub(failing) > storagePatience {
				return ending{schemas.CloseFault, "the log can't be read now"}, false
			}
			ctx, done := f.wait(now.Add(storagePause))
			<-ctx.Done()
			done()
			continue
		default:
			f.gateway.config.Logger.Error("stream failed", "namespace", f.namespace, "error", err)
			return ending{schemas.CloseFault, "the gateway failed"}, false
		}
		if len(deliveries) > 0 {
			f.delivered = time.Now()
		}
		if end := f.pass(deliveries, out); end != nil {
			return *end, false
		}
	}
}

// pass hands deliveries to the outlet.
func (f *flow) pass(deliveries []broker.Delivery, out outlet) *ending {
	events, size := 0, 0
	defer func() { f.gateway.metrics.delivered(f.namespace, events, size) }()
	for _, d := range deliveries {
		if d.Gap == nil {
			events, size = events+1, size+len(d.Event)
			out.event(d)
		} else {
			f.gateway.metrics.gap(f.namespace, d.Gap.Reason)
			out.notice(gapNotice(d.Gap))
			if d.Gap.Reason == schemas.GapSlow && f.params.slowClose {
				return &ending{reason: schemas.CloseSlow}
			}
		}
		if out.full() && out.flush() != nil {
			return &ending{reason: connectionLost}
		}
	}
	return nil
}

// earlier is the first of two times, of which b may be zero for never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

// watchRights looks at the rights of all that is open when the rules change, until the
// gateway's context ends.
func (g *Gateway) watchRights() {
	for {
		changed := g.config.Access.Changed()
		for _, o := range g.occupants() {
			o.recheck()
		}
		select {
		case <-changed:
		case <-g.ctx.Done():
			return
		}
	}
}

// recheck ends the flow if the present rules no longer cover it.
func (f *flow) recheck() {
	grant, err := f.gateway.config.Access.Refresh(f.grant.Load())
	if err == nil {
		f.grant.Store(grant)
		err = grant.Allows(f.ask)
	}
	if err != nil {
		f.finish(schemas.CloseRightLost, "")
	}
}

package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

const (
	// Farewell is how long what is under way may take to finish once the agent is to stop.
	Farewell = 10 * time.Second
	// lastWords is how long the settling of it may take then.
	lastWords = 5 * time.Second
	// askAgain comes before another try where the gateway could not do something now.
	askAgain = time.Second
	// orderedCredit is how many events are held at least where they are ordered.
	orderedCredit = 256
)

// A Target is what events are handed to. Deliver may be called from many goroutines; it
// returns soon after its context has ended.
type Target interface {
	Deliver(ctx context.Context, e *Event, attempt int) Answer
	String() string
	Close()
}

// An Agent hands the events of a durable subscription to a target.
type Agent struct {
	Client *subscriber.Client
	// Subscription is its name. Options make it where there is none, if they have a Topic.
	Subscription string
	Options      subscriber.DurableOptions
	Target       Target
	// Concurrency is how many events are with the target at once, from 1.
	Concurrency int
	// Ordered keeps the order of the events of each partitionkey. A subscription that is
	// made is then exclusive.
	Ordered bool
	// Report is told what became of each event. Tell is told what a person should know:
	// that the service is down, and works again. Both are called by one goroutine.
	Report func(Report)
	Tell   func(string)
	// OnState is told how the connection to the gateway is, by another.
	OnState func(subscriber.State)
}

// Run hands out events until ctx ends, which is no error, or the subscription does. What
// is under way then has [Farewell] to finish; the rest is released.
func (a *Agent) Run(ctx context.Context) error {
	o, err := a.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer o.subscription.Close()
	return o.run(ctx)
}

// An office is an agent at work. Its fields but those of the first group belong to the
// goroutine in run.
type office struct {
	*Agent
	subscription *subscriber.Subscription
	credit       int
	sessions     atomic.Uint64 // connections to the gateway so far
	connected    chan struct{} // one more; holds one
	arrivals     chan arrival
	words        chan func() // what goroutines have to tell

	work, settling       context.Context // of requests, and of settlements
	endWork, endSettling context.CancelFunc
	tasks                sync.WaitGroup

	ackWait    time.Duration
	maxDeliver int
	session    uint64
	held       held
	busy       int // with the target
	outside    int // goroutines that have not told yet
	settlers   int // of them: that settle
	settled    int // counts the settlements begun and ended
	brake      brake
	settleIn   settleIn
	stopping   bool
	returned   map[string]bool // places of events released since; nil before
	failed     error           // of the subscription
}

// An arrival is what the subscription brought.
type arrival struct {
	delivery subscriber.SubscriptionDelivery
	session  uint64 // on which it came; 0 is not known
	err      error
}

// open opens the subscription, and makes it if need be.
func (a *Agent) open(ctx context.Context) (*office, error) {
	o := &office{
		Agent: a, credit: 2 * a.Concurrency,
		connected: make(chan struct{}, 1), arrivals: make(chan arrival), words: make(chan func()),
	}
	o.held.ordered, o.held.places = a.Ordered, map[string]*entry{}
	options := a.Options
	if a.Ordered {
		o.credit = max(o.credit, orderedCredit)
		_, err := a.Client.Subscription(ctx, a.Subscription)
		options.Exclusive = errors.Is(err, schemas.ErrNotFound)
	}
	// The end of ctx ends the connecting, and later not the subscription, over which what
	// is under way is to be settled.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	s, err := a.Client.OpenSubscription(lasting, a.Subscription, subscriber.OpenOptions{
		DurableOptions: options, Credit: o.credit, FailFast: true, OnState: o.state,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	o.subscription = s
	about, err := a.Client.Subscription(ctx, a.Subscription)
	if err == nil {
		err = o.learn(about)
	}
	if err != nil {
		s.Close()
		cancel()
		return nil, err
	}
	if about.DeadLetter == "" {
		a.Tell("the subscription has no dead-letter topic: events that are rejected, or whose attempts are used up, are dropped")
	}
	if a.Ordered && !about.Exclusive {
		a.Tell("the subscription is not exclusive: the order holds as long as nobody else has it open")
	}
	return o, nil
}

// learn takes in what the gateway says of the subscription.
func (o *office) learn(about schemas.Subscription) error {
	wait, err := time.ParseDuration(about.AckWait)
	if err != nil || wait <= 0 {
		return fmt.Errorf("subscription %s: its ackwait is %q", o.Subscription, printable(about.AckWait, maxWhy))
	}
	o.ackWait, o.maxDeliver = wait, about.MaxDeliver
	return nil
}

// state is called by the subscription's goroutine, before anything of a new session comes.
func (o *office) state(s subscriber.State) {
	if s.Phase == subscriber.Connected {
		o.sessions.Add(1)
		select {
		case o.connected <- struct{}{}:
		default:
		}
	}
	if o.OnState != nil {
		o.OnState(s)
	}
}

// receive passes on what the subscription brings, until it or ctx ends.
func (o *office) receive(ctx context.Context) {
	for {
		before := o.sessions.Load()
		d, err := o.subscription.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		came := arrival{d, before, err}
		if before != o.sessions.Load() {
			came.session = 0 // it may be of either
		}
		select {
		case o.arrivals <- came:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// outsource runs f in a goroutine. What f returns is run by the owner.
func (o *office) outsource(f func() func()) {
	o.outside++
	o.tasks.Go(func() {
		word := f()
		o.words <- word
	})
}

// run is the owner of all that is held.
func (o *office) run(ctx context.Context) error {
	lasting := context.WithoutCancel(ctx)
	o.work, o.endWork = context.WithCancel(lasting)
	o.settling, o.endSettling = context.WithCancel(lasting)
	defer o.tasks.Wait()
	defer o.endSettling()
	defer o.endWork()
	receiving, endReceiving := context.WithCancel(lasting)
	o.tasks.Go(func() { o.receive(receiving) })
	defer endReceiving()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var late <-chan time.Time // when what is under way has had its time
	stop := ctx.Done()
	for {
		o.reconnected() // before anything that came since is looked at
		if o.stopping && o.outside == 0 && len(o.held.entries) == 0 {
			return o.failed
		}
		if wait := o.advance(time.Now()); wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case came := <-o.arrivals:
			if came.err != nil {
				o.failed = came.err
				if !o.stopping {
					o.stop()
					late = time.After(Farewell)
				}
				continue
			}
			o.arrive(came)
		case word := <-o.words:
			o.outside--
			word()
		case <-o.connected:
		case <-timer.C:
		case <-stop:
			stop = nil
			if !o.stopping {
				o.stop()
				late = time.After(Farewell)
			}
		case <-late:
			if o.work.Err() == nil {
				o.endWork()
				late = time.After(lastWords)
			} else {
				o.endSettling()
				late = nil
			}
		}
	}
}

// stop begins nothing any more and releases what waits, and what comes from now on.
func (o *office) stop() {
	o.stopping = true
	o.returned = map[string]bool{}
	for _, e := range o.held.all() {
		switch {
		case e.state == away, e.state == waiting && e.lost:
			o.held.remove(e)
		case e.state == waiting:
			o.settle(e, Released, 0, Report{})
		}
	}
}

// arrive takes in a delivery.
func (o *office) arrive(came arrival) {
	now := time.Now()
	d := came.delivery
	place := d.Cursor
	if place == "" {
		place = d.Tag
	}
	e := o.held.places[place]
	if o.stopping && (e != nil || o.returned[place]) {
		return // nobody else takes it now: it goes back once the subscription is closed
	}
	if e == nil {
		event, err := readEvent(&d)
		e = &entry{event: event, place: place, state: waiting}
		if err != nil { // no gateway takes such a one
			o.take(e, came, now)
			o.settle(e, Rejected, 0, Report{Outcome: Rejected, Error: printable(err.Error(), maxWhy)})
			return
		}
		e.key = event.key()
		o.held.add(e)
	}
	o.take(e, came, now)
	if o.stopping {
		o.settle(e, Released, 0, Report{})
	}
}

// take notes that the delivery is the newest of the entry's.
func (o *office) take(e *entry, came arrival, now time.Time) {
	e.delivery, e.lost = came.delivery, false
	e.attempt = max(e.attempt, came.delivery.Attempt)
	e.session = came.session
	e.extendAt = now.Add(o.ackWait / 3)
	if came.session == 0 {
		e.extendAt = now // which tells
	}
	if e.state == away {
		e.state = waiting
	}
}

// advance begins what may begin, and returns how long it is until something is due; 0 if
// only a word from elsewhere can change anything.
func (o *office) advance(now time.Time) time.Duration {
	next := time.Time{}
	due := func(t time.Time) bool {
		if !t.After(now) {
			return true
		}
		if next.IsZero() || t.Before(next) {
			next = t
		}
		return false
	}
	for _, e := range o.held.entries {
		if e.extends() && due(e.extendAt) {
			o.extend(e)
		}
		if e.state == away && due(e.extendAt) { // it does not come
			e.state, e.lost = waiting, true
			o.settleIn.begin(now)
		}
	}
	if !o.stopping {
		o.settleIn.advance(o, now, due)
		if !o.settleIn.on {
			o.begin(now, due)
		}
	}
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

// begin hands what may be handed to the target.
func (o *office) begin(now time.Time, due func(time.Time) bool) {
	for e := range o.held.ready() {
		if o.busy >= o.Concurrency {
			return
		}
		if ok, wait := o.brake.mayBegin(now); !ok {
			if wait > 0 {
				due(now.Add(wait))
			}
			return
		}
		if due(e.notBefore) {
			o.hand(e)
		}
	}
}

// hand hands an event to the target.
func (o *office) hand(e *entry) {
	e.state = busy
	o.busy++
	probe := o.brake.began()
	attempt := e.attempt
	o.outsource(func() func() {
		began := time.Now()
		answer := o.Target.Deliver(o.work, &e.event, attempt)
		return func() {
			o.busy--
			o.answered(e, answer, began, probe)
		}
	})
}

// answered decides what becomes of an event.
func (o *office) answered(e *entry, answer Answer, began time.Time, probe bool) {
	now := time.Now()
	if o.brake.ended(now, began, probe, answer) && !o.stopping {
		o.tellBrake(now, answer)
	}
	e.state = waiting
	report := Report{
		Attempt: e.attempt, Outcome: answer.Outcome, Status: answer.Status,
		Milliseconds: now.Sub(began).Milliseconds(), Error: answer.Why,
	}
	switch {
	case answer.health == unknown:
		o.settle(e, Released, 0, report)
	case answer.Outcome != Released:
		o.settle(e, answer.Outcome, 0, report)
	case e.attempt >= o.maxDeliver:
		o.last(e, answer, report)
	default:
		o.again(e, answer, report)
	}
}

// again has a failure tried again later.
func (o *office) again(e *entry, answer Answer, report Report) {
	delay := max(subscriber.Backoff(e.attempt), answer.RetryAfter)
	if !o.Ordered || o.stopping {
		if o.stopping {
			delay = 0
		}
		o.settle(e, Released, delay, report)
		return
	}
	o.Tell(fmt.Sprintf("%s: attempt %d failed, the next in %v: %s",
		printable(e.event.ID(), 80), e.attempt, delay.Round(time.Millisecond), answer.Why))
	e.attempt++
	e.state, e.notBefore = waiting, time.Now().Add(delay)
}

// last rejects an event whose last attempt has failed, if that is still the last.
func (o *office) last(e *entry, answer Answer, report Report) {
	e.state = settling // what is known of the subscription may be old
	o.outsource(func() func() {
		about, err := o.Client.Subscription(o.settling, o.Subscription)
		return func() {
			if err == nil {
				err = o.learn(about)
			}
			e.state = waiting
			switch {
			case err != nil && o.settling.Err() != nil:
				o.settle(e, Released, 0, report)
			case e.attempt < o.maxDeliver:
				o.again(e, answer, report)
			default:
				report.Outcome = Rejected
				report.Error = fmt.Sprintf("maxdeliver: attempt %d of %d failed: %s", e.attempt, o.maxDeliver, answer.Why)
				o.settle(e, Rejected, 0, report)
			}
		}
	})
}

func (o *office) tellBrake(now time.Time, answer Answer) {
	if !o.brake.on {
		o.Tell("the service works again")
		return
	}
	pause := max(o.brake.until.Sub(now), o.brake.told.Sub(now))
	o.Tell(fmt.Sprintf("the service does not work (%s): one event at a time is tried, the first in %v", answer.Why, pause.Round(100*time.Millisecond)))
}

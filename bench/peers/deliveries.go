package main

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is how long the last deliveries may take once nothing is published.
const drainTime = 20 * time.Second

// settle is a pause after connecting, so that what that leaves to do is not measured.
const settle = 300 * time.Millisecond

// wait takes what comes for a while.
func (e *engine) wait(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		e.turn(10)
	}
}

// refill publishes until each publisher has its share under way.
func (e *engine) refill() {
	window := e.spec.UnderWay * e.fan
	now := time.Now().UnixNano()
	for p, c := range e.pubs {
		if len(c.out) > 0 { // the server does not read: it has enough
			e.write(c)
			continue
		}
		for e.sent[p]*e.fan-e.got[p]+e.fan <= window && (!e.acks || e.sent[p]-e.acked[p] < e.spec.UnderWay) {
			e.publish(p, now)
		}
		e.write(c)
	}
}

func (e *engine) published() (n int) {
	for _, sent := range e.sent {
		n += sent
	}
	return n
}

// answered is how many publishes were answered.
func (e *engine) answered() (n int) {
	for _, acked := range e.acked {
		n += acked
	}
	return n
}

// saturate runs at most rate until done says so.
func (e *engine) saturate(done func() bool) {
	for len(e.wrong) == 0 {
		e.refill()
		e.turn(1)
		if done() {
			return
		}
	}
}

func after(d time.Duration) func() bool {
	end := time.Now().Add(d)
	return func() bool { return !time.Now().Before(end) }
}

// A timer makes the thread wake when an event is due.
type timer struct{ fd int }

func (e *engine) newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	for len(e.byFD) <= fd {
		e.byFD = append(e.byFD, nil)
	}
	return &timer{fd}, unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
}

func (t *timer) set(d time.Duration) error {
	return unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))}, nil)
}

// paced publishes at the spec's rate until end, whatever comes back.
func (e *engine) paced(t *timer, next, end time.Time) (time.Time, error) {
	interval := time.Second / time.Duration(e.spec.Rate)
	p := e.published() % len(e.pubs)
	for len(e.wrong) == 0 {
		now := time.Now()
		for ; !next.After(now) && next.Before(end); next = next.Add(interval) {
			e.publish(p, next.UnixNano())
			p = (p + 1) % len(e.pubs)
		}
		for _, c := range e.pubs {
			e.write(c)
		}
		if !now.Before(end) {
			break
		}
		if err := t.set(time.Until(next)); err != nil {
			return next, err
		}
		e.turn(20)
	}
	return next, nil
}

// drain waits for the deliveries that are under way, and for the answers where they
// count.
func (e *engine) drain() {
	want, answers := e.published()*e.fan, 0
	if e.acks {
		answers = e.published()
	}
	last, progress := e.total+e.answered(), time.Now()
	for (e.total < want || e.answered() < answers) && len(e.wrong) == 0 {
		for _, c := range e.pubs {
			e.write(c)
		}
		e.turn(10)
		if now := e.total + e.answered(); now > last {
			last, progress = now, time.Now()
		} else if time.Since(progress) > drainTime {
			e.fault("%d of %d deliveries and %d of %d answers are missing", want-e.total, want, max(0, answers-e.answered()), answers)
		}
	}
	// What is doubled would come now.
	e.wait(50 * time.Millisecond)
	if e.total > want {
		e.fault("%d deliveries more than %d events make", e.total-want, e.published())
	}
}

// deliveries measures deliveries at most rate or at the spec's rate.
func deliveries(s spec) (result, error) {
	var r result
	e, err := newEngine(s)
	if err != nil {
		return r, err
	}
	if err := e.connect(); err != nil {
		return r, err
	}
	e.wait(settle)
	var t *timer
	if s.Rate > 0 {
		e.took = make([]int64, 0, 1<<20)
		if t, err = e.newTimer(); err != nil {
			return r, err
		}
	}
	if s.Burst > 0 {
		e.saturate(func() bool { return e.published() >= s.Burst })
		e.drain()
		if r.Unsent, err = e.unsent(); err != nil {
			return r, err
		}
	}
	next := time.Now()
	phase := func(d time.Duration) error {
		if s.Rate == 0 {
			e.saturate(after(d))
			return nil
		}
		e.from, e.until = next.UnixNano(), next.Add(d).UnixNano()
		next, err = e.paced(t, next, next.Add(d))
		return err
	}
	if err := phase(s.Warm); err != nil {
		return r, err
	}
	m, err := e.begin()
	if err != nil {
		return r, err
	}
	e.timed = s.Rate > 0
	if err := phase(s.Measure); err != nil {
		return r, err
	}
	if err := m.end(&r); err != nil {
		return r, err
	}
	e.drain()
	r.Checked = e.total
	e.latencies(&r)
	r.Wrong = e.wrong
	e.close()
	return r, nil
}

// A measuring is what was when it began.
type measuring struct {
	e                         *engine
	began                     time.Time
	server, own, waited, soft time.Duration
	total, reads, events      int
	answers                   int
}

func (e *engine) begin() (measuring, error) {
	server, err := processorTime(e.spec.PID)
	if err != nil {
		return measuring{}, err
	}
	own, err := processorTime(os.Getpid())
	return measuring{e, time.Now(), server, own, waitingTime(e.spec.PID), softIRQ(serverProcessor), e.total, e.reads, e.published(), e.answered()}, err
}

// end writes down what happened since.
func (m measuring) end(r *result) error {
	server, err := processorTime(m.e.spec.PID)
	if err != nil {
		return err
	}
	own, err := processorTime(os.Getpid())
	if err != nil {
		return err
	}
	r.Seconds = time.Since(m.began).Seconds()
	r.CPU = (server - m.server).Seconds()
	r.Busy = (own - m.own).Seconds() / r.Seconds
	r.Waited = (waitingTime(m.e.spec.PID) - m.waited).Seconds() / r.Seconds
	r.SoftIRQ = (softIRQ(serverProcessor) - m.soft).Seconds()
	r.Deliveries = m.e.total - m.total
	r.Events = m.e.published() - m.events
	r.Answers = m.e.answered() - m.answers
	r.PerRead = float64(r.Deliveries) / float64(max(1, m.e.reads-m.reads))
	return nil
}

func (e *engine) latencies(r *result) {
	if len(e.took) == 0 {
		return
	}
	slices.Sort(e.took)
	at := func(q float64) float64 { return float64(e.took[int(q*float64(len(e.took)-1))]) / 1e6 }
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
}

// close closes all connections.
func (e *engine) close() {
	e.closing = true
	for _, c := range e.clients {
		if e.byFD[c.fd] == c {
			unix.Close(int(c.fd))
		}
	}
}

package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A client is one connection of the load.
type client struct {
	fd    int32
	index int32 // of a publisher
	reads bool  // a subscriber's: its events are checked
	stuck bool  // it does not read; once it does, its events are counted apart
	next  []int32
	rest  []byte         // of a frame that is not whole
	text  []byte         // of NATS's protocol that is not whole
	out   []byte         // what the socket refused
	take  func(m []byte) // takes its messages instead of the engine, if there is one

	// Of a stuck one.
	received int
	missed   int // events that gap notices named
	skipped  int // of them, those that the next event must jump over
	notices  int
}

// An engine drives all connections of a load process with one thread, without
// allocating for a delivery.
type engine struct {
	spec    spec
	dialect dialect
	style   style
	kind    string // of the topics
	step    int32  // between an event's number and the next on the same topic
	fan     int    // deliveries of an event
	acks    bool   // answers to publishes count for what is under way
	event   template

	epoll   int
	byFD    []*client
	clients []*client
	subs    []*client
	stuck   []*client
	pubs    []*client
	events  []unix.EpollEvent
	buf     []byte
	closing bool

	// By publisher.
	sent  []int
	got   []int // deliveries
	acked []int // answers

	total int     // deliveries
	reads int     // reads that brought deliveries
	timed bool    // latencies are taken
	now   int64   // when the read began, if timed
	from  int64   // latencies of events that were to be published from then
	until int64   // until then
	took  []int64 // ns

	wrong []string
}

func newEngine(s spec) (*engine, error) {
	d := dialects[s.Peer]
	if d == nil {
		return nil, fmt.Errorf("no dialect %q", s.Peer)
	}
	e := &engine{
		spec: s, dialect: d, style: d.style(), kind: "live", step: int32(s.Topics),
		fan: s.Subscribers, acks: s.Stored, event: newTemplate(s.Size),
		events: make([]unix.EpollEvent, 1024), buf: make([]byte, 1<<20),
	}
	if s.Stored {
		e.kind = "log"
	}
	var err error
	e.epoll, err = unix.EpollCreate1(0)
	return e, err
}

// fault notes what went wrong; the first few are kept.
func (e *engine) fault(format string, args ...any) {
	if len(e.wrong) < 5 {
		e.wrong = append(e.wrong, fmt.Sprintf(format, args...))
	}
}

// add opens a connection.
func (e *engine) add(o opening, receive int) (*client, error) {
	// Each address of this machine has ports of its own.
	source := fmt.Sprintf("127.0.0.%d", 2+len(e.clients)/5000)
	fd, rest, err := dial(e.spec.Address, source, receive, o)
	if err != nil {
		return nil, err
	}
	c := &client{fd: int32(fd), rest: rest}
	for len(e.byFD) <= fd {
		e.byFD = append(e.byFD, nil)
	}
	e.byFD[fd] = c
	e.clients = append(e.clients, c)
	if len(e.clients)%100 == 0 { // pings are answered while others connect
		e.turn(0)
	}
	return c, nil
}

func (e *engine) watch(c *client) error {
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, int(c.fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.fd})
}

// subscriber opens a subscriber's connection; that of a stuck one is not watched.
func (e *engine) subscriber(topic, filter int, stuck bool) (*client, error) {
	receive := 0
	if stuck {
		receive = stuckBuffer
	}
	c, err := e.add(e.dialect.subscribe(e.kind, topic, filter), receive)
	if err != nil {
		return nil, fmt.Errorf("subscriber %d: %w", len(e.clients), err)
	}
	c.reads, c.stuck = true, stuck
	c.next = make([]int32, max(1, e.spec.Publishers))
	for i := range c.next {
		c.next[i] = int32(topic)
	}
	if stuck {
		return c, nil
	}
	return c, e.watch(c)
}

// connect opens all connections of the spec.
func (e *engine) connect() error {
	for i := range e.spec.Topics * e.spec.Subscribers {
		c, err := e.subscriber(i/e.spec.Subscribers, 0, false)
		if err != nil {
			return err
		}
		e.subs = append(e.subs, c)
	}
	for range e.spec.Stuck {
		c, err := e.subscriber(0, 0, true)
		if err != nil {
			return err
		}
		e.stuck = append(e.stuck, c)
	}
	for i := range e.spec.Filters * e.spec.Filtered {
		if _, err := e.subscriber(0, 1+i%e.spec.Filters, false); err != nil {
			return err
		}
	}
	return e.addPublishers(e.spec.Publishers)
}

func (e *engine) addPublishers(n int) error {
	for i := range n {
		c, err := e.add(e.dialect.publisher(e.kind, i), 0)
		if err != nil {
			return fmt.Errorf("publisher %d: %w", i, err)
		}
		c.index = int32(i)
		if err := e.watch(c); err != nil {
			return err
		}
		e.pubs = append(e.pubs, c)
	}
	e.sent, e.got, e.acked = make([]int, n), make([]int, n), make([]int, n)
	return nil
}

// publish appends the publisher's next event to what it will write.
func (e *engine) publish(p int, at int64) {
	n := e.sent[p]
	e.sent[p]++
	c := e.pubs[p]
	c.out = e.dialect.publish(c.out, e.kind, n%e.spec.Topics, p, n, e.event.event(p, n, at))
}

// write writes what waits, as far as the socket takes it.
func (e *engine) write(c *client) {
	if len(c.out) == 0 {
		return
	}
	n, err := unix.Write(int(c.fd), c.out)
	if err == unix.EAGAIN {
		return
	}
	if err != nil {
		if !e.closing {
			e.fault("write: %v", err)
		}
		c.out = c.out[:0]
		return
	}
	c.out = c.out[:copy(c.out, c.out[n:])]
}

// turn waits up to ms for what comes and takes it.
func (e *engine) turn(ms int) {
	n, err := unix.EpollWait(e.epoll, e.events, ms)
	if err != nil && err != unix.EINTR {
		e.fault("epoll: %v", err)
		return
	}
	for i := range max(n, 0) {
		if c := e.byFD[e.events[i].Fd]; c != nil {
			e.read(c)
		}
	}
}

// readRaw is read(2) without telling the Go scheduler: the sockets don't wait.
func readRaw(fd int32, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// read takes what a socket has.
func (e *engine) read(c *client) {
	if len(c.rest) > len(e.buf)/2 {
		e.buf = make([]byte, 2*len(e.buf))
	}
	k := copy(e.buf, c.rest)
	n, errno := readRaw(c.fd, e.buf[k:])
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return
	}
	if errno != 0 || n == 0 {
		e.lost(c, errno)
		return
	}
	if e.timed {
		e.now = time.Now().UnixNano()
	}
	before := e.total
	b := e.buf[:k+n]
	for {
		first, begin, end := parseFrame(b)
		if end == 0 {
			break
		}
		if first == frameText || first == frameBinary {
			e.message(c, b[begin:end])
		} else {
			e.control(c, first, b[begin:end])
		}
		b = b[end:]
	}
	c.rest = append(c.rest[:0], b...)
	if e.total > before {
		e.reads++
	}
}

func (e *engine) lost(c *client, errno unix.Errno) {
	unix.EpollCtl(e.epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	unix.Close(int(c.fd))
	e.byFD[c.fd] = nil
	if !e.closing {
		e.fault("the server ended a connection (%v)", errno)
	}
}

func (e *engine) control(c *client, first byte, payload []byte) {
	switch first {
	case framePing:
		c.out = appendClientFrame(c.out, framePong, payload)
		e.write(c)
	case framePong:
	case frameClose:
		if !e.closing {
			e.fault("the server closed a WebSocket: %q", payload)
		}
	default:
		e.fault("a frame that begins with %#x", first)
	}
}

func (e *engine) message(c *client, m []byte) {
	switch e.style {
	case oneEvent:
		if c.take != nil {
			c.take(m)
		} else if c.reads {
			e.delivery(c, m)
		} else {
			e.answer(c, m)
		}
	case lines:
		for len(m) > 0 {
			line := m
			if i := bytes.IndexByte(m, '\n'); i >= 0 {
				line, m = m[:i], m[i+1:]
			} else {
				m = nil
			}
			e.line(c, line)
		}
	case natsText:
		if len(c.text) == 0 {
			c.text = append(c.text, m[e.nats(c, m):]...)
			return
		}
		c.text = append(c.text, m...)
		n := e.nats(c, c.text)
		c.text = c.text[:copy(c.text, c.text[n:])]
	}
}

var (
	centrifugePush = []byte(`{"push":{"channel":"`)
	centrifugeData = []byte(`"data":`)
	published      = []byte(`{"op":"published"`)
)

// line takes one line of Centrifuge's protocol.
func (e *engine) line(c *client, line []byte) {
	switch {
	case bytes.HasPrefix(line, centrifugePush):
		if i := bytes.Index(line, centrifugeData); i >= 0 {
			e.delivery(c, line[i+len(centrifugeData):])
		}
	case string(line) == "{}": // a ping
		c.out = appendClientFrame(c.out, frameText, line)
		e.write(c)
	default:
		e.answer(c, line)
	}
}

// answer takes what a publisher is told.
func (e *engine) answer(c *client, m []byte) {
	if bytes.HasPrefix(m, published) {
		e.acked[c.index]++
		return
	}
	if s := string(m); strings.Contains(s, `"error"`) || strings.Contains(s, "dev.outrelay.") || strings.Contains(s, "-ERR") {
		e.fault("refused: %s", s)
	}
}

var (
	natsMessage = []byte("MSG ")
	stored      = []byte(`{"stream":`)
)

// nats takes all whole parts of b, NATS's protocol, and returns their length.
func (e *engine) nats(c *client, b []byte) int {
	done := 0
	for {
		rest := b[done:]
		end := bytes.IndexByte(rest, '\n')
		if end < 1 {
			return done
		}
		line := rest[:end-1]
		if !bytes.HasPrefix(line, natsMessage) {
			switch s := string(line); {
			case s == "PING":
				c.out = appendClientFrame(c.out, frameBinary, []byte("PONG\r\n"))
				e.write(c)
			case strings.HasPrefix(s, "-ERR"):
				e.fault("nats-server: %s", s)
			}
			done += end + 1
			continue
		}
		size, i := 0, len(line)-1
		for scale := 1; line[i] != ' '; i-- {
			size += int(line[i]-'0') * scale
			scale *= 10
		}
		if len(rest) < end+1+size+2 {
			return done
		}
		if m := rest[end+1 : end+1+size]; c.reads {
			e.delivery(c, m)
		} else if bytes.HasPrefix(m, stored) {
			e.acked[c.index]++
		} else {
			e.fault("JetStream answered %s", m)
		}
		done += end + 1 + size + 2
	}
}

// delivery checks one event of a subscriber.
func (e *engine) delivery(c *client, m []byte) {
	if len(m) < leastEvent || string(m[:len(prefix)]) != prefix || string(m[numberAt+numberDigits:][:len(ownSource)]) != ownSource {
		e.notice(c, m)
		return
	}
	p := digits(m[publisherAt:numberAt])
	n := int32(digits(m[numberAt : numberAt+numberDigits]))
	if p >= len(c.next) {
		e.fault("an event of publisher %d", p)
		return
	}
	if n != c.next[p] || c.skipped > 0 {
		e.disorder(c, p, n)
	}
	c.next[p] = n + e.step
	if c.stuck {
		c.received++
		return
	}
	e.got[p]++
	e.total++
	if e.timed {
		if at := int64(digits(m[timeAt : timeAt+timeDigits])); at >= e.from && at < e.until {
			e.took = append(e.took, e.now-at)
		}
	}
}

// disorder says what is wrong with an event that is not the next.
func (e *engine) disorder(c *client, publisher int, n int32) {
	want := c.next[publisher]
	switch missing := int((n - want) / e.step); {
	case n > want && missing == c.skipped:
		c.skipped = 0
	case n > want:
		e.fault("a subscriber got event %d of publisher %d: %d are missing before it, of which it was told %d", n, publisher, missing, c.skipped)
	default:
		e.fault("a subscriber got event %d of publisher %d after %d: doubled or out of order", n, publisher, want-e.step)
	}
}

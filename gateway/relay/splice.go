package relay

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// bulkBuffer is what is read at a time of a side that sends much, and what a
	// pair holds at most for each direction.
	bulkBuffer = 32 << 10
	// idleBuffer is what a side that sends little is read into.
	idleBuffer = 1 << 10
	// bulkLeast is how much must come at once for the large buffer to stay.
	bulkLeast = 4 << 10
)

var bulkBuffers = sync.Pool{New: func() any { return new([headroom + bulkBuffer]byte) }}

// A splice joins two WebSockets beneath their handshakes: what a client sends goes to
// the other with its kind, boundaries and Close frames, bytes as they come. It ends
// when both have closed, or one is lost.
//
// Two goroutines run it, one a direction; the relay's sweeper looks after it from
// time to time.
type splice struct {
	relay     *Relay
	namespace string
	sides     [2]side
	began     int64 // on the relay's clock
	moved     atomic.Int64
	over      atomic.Bool
	bytes     [2]atomic.Int64 // that went from sides[i] to the other and are not counted yet
	// extended says that the two have agreed on an extension.
	extended bool
	ended    atomic.Pointer[schemas.CloseReason] // why it is over
}

// A side is one of the two clients.
type side struct {
	conn  net.Conn
	early []byte                      // came with the handshake; owned by the reader
	small [headroom + idleBuffer]byte // likewise; on a goroutine's stack it would make that grow
	seen  atomic.Int64
	// writing is since when a write to the client waits; 0 for none.
	writing atomic.Int64
	// closing says that the client sent its Close frame.
	closing atomic.Bool
	lost    atomic.Bool // the client's connection is worth nothing any more

	mu      sync.Mutex // of writing; guards what follows
	between bool       // what was written ends with a frame
	closed  bool       // a Close frame was written
	asked   int64      // when a ping of ours was written that nothing has answered; 0 for none
}

// pingPayload marks the pings of ours whose pongs are not for the other side.
var pingPayload = []byte("outrelay")

var pingFrame = appendFrame(nil, bitFinal|opPing, pingPayload)

func newSplice(r *Relay, namespace string, sender, listener hijacked, extended bool) *splice {
	s := &splice{relay: r, namespace: namespace, began: r.clock.Load(), extended: extended}
	for i, h := range []hijacked{sender, listener} {
		s.sides[i].conn, s.sides[i].early, s.sides[i].between = h.conn, h.early, true
		s.sides[i].seen.Store(s.began)
	}
	s.moved.Store(s.began)
	return s
}

// run copies both ways and returns when both connections are closed.
func (s *splice) run() {
	var back sync.WaitGroup
	back.Go(func() { s.copy(1) })
	s.copy(0)
	back.Wait()
	for i := range s.sides {
		s.sides[i].conn.Close()
	}
}

// copy moves what side i sends to the other until side i's connection ends. It owns
// reading from side i.
func (s *splice) copy(i int) {
	from, to := &s.sides[i], &s.sides[1-i]
	f := reframer{extended: s.extended}
	f.control = func(opcode byte, payload []byte) bool {
		return opcode != opPong || string(payload) != string(pingPayload)
	}
	buffer := from.small[:]
	var bulk *[headroom + bulkBuffer]byte
	release := func() {
		if bulk != nil {
			bulkBuffers.Put(bulk)
			bulk, buffer = nil, from.small[:]
		}
	}
	defer release()
	for {
		n, err := from.read(buffer[headroom:])
		if n > 0 && !f.closed {
			now := s.relay.clock.Load()
			from.seen.Store(now)
			out, wrong := f.feed(buffer, headroom, headroom+n)
			if len(out) > 0 {
				s.moved.Store(now)
				s.bytes[i].Add(int64(len(out)))
				if to.write(out, f.between(), f.closed, now) != nil {
					s.lose(to)
				}
			}
			if wrong != nil {
				s.finish(from, schemas.CloseProtocol, to, schemas.ClosePeerLost)
			}
			if f.closed {
				from.closing.Store(true)
				if to.closing.Load() {
					s.finish(nil, schemas.CloseDone, nil, schemas.CloseDone)
				}
			}
		}
		if err != nil {
			switch {
			case s.over.Load():
			case from.closing.Load():
				// It has said goodbye and is gone; the other may have more to say, to
				// nobody. It gets the time of a closing handshake.
				to.conn.SetReadDeadline(time.Now().Add(closeWait)) //nolint:errcheck // it ends anyway
			default:
				s.lose(from)
			}
			return
		}
		switch full := n == len(buffer)-headroom; {
		case bulk == nil && full:
			bulk = bulkBuffers.Get().(*[headroom + bulkBuffer]byte)
			buffer = bulk[:]
		case bulk != nil && n < bulkLeast:
			release()
		}
	}
}

func (c *side) read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	return c.conn.Read(b)
}

// write writes frames, or the beginning of one if between is false.
func (c *side) write(b []byte, between, closes bool, now int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil // the relay has said goodbye in the other's name
	}
	c.between = between
	c.closed = closes
	c.writing.Store(now)
	_, err := c.conn.Write(b)
	c.writing.Store(0)
	return err
}

// lose ends the splice because one side's connection is gone or takes nothing: the
// other is told, if it can be.
func (s *splice) lose(gone *side) {
	other := &s.sides[0]
	if gone == other {
		other = &s.sides[1]
	}
	gone.lost.Store(true)
	s.finish(nil, schemas.ClosePeerLost, other, schemas.ClosePeerLost)
	gone.conn.Close()
}

// finish ends the splice, once: each side given gets a Close frame, if it has had none
// and is between frames, and the time to read it; a side that had none and can't be
// told is cut. It does not wait.
func (s *splice) finish(a *side, ra schemas.CloseReason, b *side, rb schemas.CloseReason) {
	if s.over.Swap(true) {
		return
	}
	s.ended.Store(&rb)
	for _, t := range []struct {
		side   *side
		reason schemas.CloseReason
	}{{a, ra}, {b, rb}} {
		if t.side != nil {
			t.side.tell(t.reason)
		}
	}
	for i := range s.sides {
		if s.sides[i].lost.Load() {
			continue // it is closed once the other is told
		}
		c := s.sides[i].conn
		c.SetDeadline(time.Now().Add(closeWait)) //nolint:errcheck // it ends anyway
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			half.CloseWrite() //nolint:errcheck // it ends anyway
		} else {
			c.Close()
		}
	}
}

// tell sends a Close frame of the relay's own.
func (c *side) tell(reason schemas.CloseReason) {
	c.conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a write under way must end
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.between {
		if !c.closed {
			c.conn.Close()
		}
		return
	}
	c.closed = true
	c.conn.Write(closeFrame(reason.Code, reason.Word)) //nolint:errcheck // it is told if it can be
}

// sweep looks after the splice at a time of the relay's clock: it asks sides that are
// silent whether they live, and ends what is dead, idle or too old. It does not wait.
func (s *splice) sweep(now int64) {
	if s.over.Load() {
		return
	}
	l := &s.relay.limits
	interval := seconds(l.RelayPeerPing)
	switch {
	case now-s.began >= seconds(l.RelayLifetime):
		s.relay.start(func() { s.finish(&s.sides[0], schemas.CloseLifetime, &s.sides[1], schemas.CloseLifetime) })
		return
	case now-s.moved.Load() >= seconds(l.RelayIdle):
		s.relay.start(func() { s.finish(&s.sides[0], schemas.CloseIdle, &s.sides[1], schemas.CloseIdle) })
		return
	}
	for i := range s.sides {
		c := &s.sides[i]
		if w := c.writing.Load(); w != 0 && now-w >= 2*interval {
			s.relay.start(func() { s.lose(c) })
			return
		}
		quiet := now - c.seen.Load()
		if quiet < interval || c.closing.Load() || !c.mu.TryLock() {
			continue
		}
		asked := c.asked
		if asked <= c.seen.Load() { // it was asked when it had been silent: this came after
			asked = 0
		}
		dead := asked != 0 && now-asked >= interval
		ask := asked == 0 && c.between && !c.closed
		if ask {
			c.asked = now
		}
		c.mu.Unlock()
		switch {
		case dead:
			s.relay.start(func() { s.lose(c) })
			return
		case ask:
			s.relay.start(c.ping)
		}
	}
}

// ping asks a silent client whether it lives.
func (c *side) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.between && !c.closed {
		c.conn.Write(pingFrame) //nolint:errcheck // the reader notices
	}
}

// reason is why the splice has ended.
func (s *splice) reason() schemas.CloseReason {
	if r := s.ended.Load(); r != nil {
		return *r
	}
	return schemas.ClosePeerLost // both sides were gone at once
}

func seconds(d time.Duration) int64 { return max(1, int64(d/time.Second)) }

// cut ends the splice without a word.
func (s *splice) cut() {
	if !s.over.Swap(true) {
		reason := schemas.CloseDrain
		s.ended.Store(&reason)
	}
	for i := range s.sides {
		s.sides[i].conn.Close()
	}
}

package gateway

import (
	"context"
	"crypto/rand"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// A session is a WebSocket with many subscriptions and publishes on it (protocol
// section 5). One goroutine reads and one writes. What a request asks for is done by
// others, which live as long as there is something to do: one for each id (line), one
// for the publishes, so that neither waits for the other. Each open subscription is a
// source, with a goroutine that hands the writer some messages at a time, so that one
// that is stuck holds up nobody.
//
// What a client makes grow is bounded: requests without an answer and open subscriptions
// by a limit each, and what waits to be written by both.
type session struct {
	// Fixed before it runs.
	gateway   *Gateway
	namespace string
	id        string
	socket    *socket
	interval  time.Duration // of keep-alives, and positions
	ctx       context.Context
	cancel    context.CancelFunc // ends all that is asked of the broker
	ended     chan struct{}      // closed when end is set
	read      chan struct{}      // closed when the reader has ended
	wake      chan struct{}      // the writer has something to do
	slots     chan struct{}      // answers were gathered, so that more may be asked

	grant atomic.Pointer[access.Grant] // replaced by a token, and when the rules change

	gathered atomic.Uint64 // answers that the writer took

	asked   uint64 // owned by the reader: requests read; those not gathered are bounded
	fields  fields // owned by the reader
	live    live   // owned by the reader
	writing int    // owned by the writer: bytes that the budget gets back with what it writes

	tasks sync.WaitGroup // of lines and publishes; nothing is added once closing is set

	mu         sync.Mutex // guards what follows
	end        *ending    // the first that was given
	closing    bool       // no request is taken any more
	drainAt    time.Time  // when to close; zero unless draining
	retry      time.Duration
	cut        func() // takes the connection away; nil until there is one
	lines      map[string]*line
	sources    int         // open or being opened
	answers    frame.Chunk // to be written
	answered   int         // slots that are free once they are
	held       int         // bytes that go back to the budget then
	ready      []*source   // have a chunk for the writer
	publishes  []*request  // wait to be begun
	publishing bool        // somebody begins them
	outcomes   []outcome   // wait for the log
	awaiting   bool        // somebody waits for the first of them
}

// gatewayID tells one gateway from another in a welcome.
var gatewayID = randomID()

// randomID is 80 random bits as text.
func randomID() string {
	var b [10]byte
	rand.Read(b[:])
	return new(big.Int).SetBytes(b[:]).Text(36)
}

// connect takes GET /connect: the handshake of a session.
func (c *call) connect() {
	if err := c.openSession(); err != nil {
		c.gateway.logRefusal(c.namespace, err)
		c.refuse(err)
	}
}

// openSession checks all before it answers, so that a refusal is a problem document.
func (c *call) openSession() error {
	wanted := c.r.Method == http.MethodGet && c.r.ProtoMajor == 1 && hasToken(c.r.Header, "Upgrade", "websocket")
	if wanted && !c.gateway.config.Access.RequestAllowed(c.namespace, c.r) {
		return schemas.Problemf("forbidden", "Pages of this origin may not connect; the operator can allow it under \"origins\".")
	}
	grant, err := c.authorizeAll()
	if err != nil {
		return err
	}
	if !wanted {
		return c.wantsUpgrade("This address speaks WebSocket over HTTP/1.1, with the subprotocol %s.", schemas.SubprotocolSession)
	}
	if err := c.checkHandshake(); err != nil {
		return err
	}
	protocol, err := chooseProtocol(c.r.Header, schemas.SubprotocolSession)
	if err != nil {
		return err
	}
	if c.r.ContentLength != 0 {
		return schemas.Problemf("parameter", "The request for a session has a body; send none.")
	}
	s := newSession(c.gateway, c.namespace, grant)
	if err := c.gateway.enter(c.namespace, s); err != nil {
		s.cancel()
		return err
	}
	if s.socket, err = c.upgrade(protocol, schemas.MaxSessionMessage); err != nil {
		s.cancel()
		c.gateway.leave(c.namespace, s)
		c.gateway.config.Logger.Debug("upgrade failed", "namespace", c.namespace)
		return nil
	}
	s.mu.Lock()
	s.cut = func() { s.socket.Close() }
	s.answers.Text(s.welcome())
	s.mu.Unlock()
	c.gateway.metrics.session.opened(s)
	s.recheck() // the rules may have changed since the grant was given
	// The handler returns, so that what net/http holds for it is freed.
	c.gateway.tasks.Go(s.receive)
	c.gateway.tasks.Go(s.run)
	return nil
}

func newSession(g *Gateway, namespace string, grant *access.Grant) *session {
	most := g.config.Limits.PingInterval
	s := &session{
		gateway: g, namespace: namespace, id: randomID(),
		interval: most - time.Duration(mathrand.Int64N(int64(most)/10+1)),
		ended:    make(chan struct{}), read: make(chan struct{}), wake: make(chan struct{}, 1),
		slots: make(chan struct{}, 1),
		lines: map[string]*line{},
	}
	s.grant.Store(grant)
	s.ctx, s.cancel = context.WithCancel(g.ctx)
	return s
}

// rouse wakes the writer.
func (s *session) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish ends the session soon, if nothing has ended it yet.
func (s *session) finish(reason schemas.CloseReason, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return
	}
	s.end = &ending{reason, detail}
	close(s.ended)
	s.rouse()
}

// over says whether the session has been told to end.
func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// drain makes the session say that the gateway is about to stop, and end at the time
// given.
func (s *session) drain(at time.Time, retry time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainAt, s.retry = at, retry
	s.rouse()
}

// cutOff takes the connection away.
func (s *session) cutOff() {
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut != nil {
		cut()
	}
}

// recheck looks at the session's rights under the present rules, and closes what they
// no longer cover.
func (s *session) recheck() {
	for {
		old := s.grant.Load()
		grant, err := s.gateway.config.Access.Refresh(old)
		if err == nil {
			err = s.gateway.config.Access.Recheck(grant)
		}
		if err != nil {
			s.finish(schemas.CloseRightLost, "")
			return
		}
		if s.grant.CompareAndSwap(old, grant) {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if l.source != nil {
			l.source.recheckLocked()
		}
	}
}

// guard turns a panic into the end of this one session.
func (s *session) guard() {
	if v := recover(); v != nil {
		s.gateway.logPanic(v)
		s.finish(schemas.CloseFault, "the gateway failed")
	}
}

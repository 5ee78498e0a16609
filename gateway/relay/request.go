package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

const (
	// inlineRequest is the longest body that goes to a listener on its control
	// channel, with the request. Longer ones, and those whose length is not known,
	// are streamed over a WebSocket of their own (facts: Azure's bound).
	inlineRequest = 64 << 10
	// maxRequestText is the longest message to a listener: .NET's reads no longer one.
	maxRequestText = 64<<10 - 1
)

// An exchange is an HTTP request on its way to a listener, and the answer on its way
// back. It belongs to the request's goroutine.
type exchange struct {
	*visit
	rule    *Rule
	control *http.ResponseController
	ctx     context.Context // ends when nobody waits for the answer any more
	cancel  context.CancelCauseFunc

	meeting  *meeting
	taken    taken
	settled  bool // the listener's gateway knows that the request needs it no more
	deadline time.Time
}

// errCut says that an answer had begun that can't go on: the sender's connection is to
// be cut, for its end would be a lie.
var errCut = errors.New("relay: the answer has broken off")

// request relays an HTTP request to a listener.
func (v *visit) request() error {
	if v.r.Method == http.MethodConnect {
		return schemas.Problemf("method", "CONNECT can't be relayed.")
	}
	x := &exchange{visit: v, control: http.NewResponseController(v.w)}
	x.ctx, x.cancel = context.WithCancelCause(v.r.Context())
	defer x.cancel(nil)
	if err := v.relay.enter(x); err != nil {
		return err
	}
	defer v.relay.leave(x)
	rule, grant, err := v.resolve()
	if err != nil {
		return err
	}
	if rule.NoHTTP {
		return schemas.Problemf("parameter", "This hybrid connection takes WebSockets only; connect with Upgrade: websocket.")
	}
	x.rule = rule
	return x.serve(grant)
}

// enter counts a request among those under way; leave takes it out.
func (r *Relay) enter(x *exchange) error {
	r.starting.Lock()
	defer r.starting.Unlock()
	if r.stopped {
		return errDraining()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return errDraining()
	case len(r.exchanges) >= r.limits.RelayRequests:
		return errFull("requests that are under way")
	}
	r.exchanges[x] = struct{}{}
	r.tasks.Add(1)
	return nil
}

func (r *Relay) leave(x *exchange) {
	r.mu.Lock()
	delete(r.exchanges, x)
	r.mu.Unlock()
	r.tasks.Done()
}

// serve offers the request to a listener and passes the answer on.
func (x *exchange) serve(grant *access.Grant) error {
	r := x.relay
	var err error
	if x.meeting, err = r.meetings.open(kindRequest, x.entity); err != nil {
		return err
	}
	defer func() {
		r.meetings.close(x.meeting)
		r.forget(x.meeting)
	}()
	o := x.offer(x.meeting)
	switch n := x.r.ContentLength; {
	case n == 0:
	case n > r.limits.RelayBodyBytes:
		return errRequestTooLong(r.limits.RelayBodyBytes)
	case n > 0 && n <= inlineRequest:
		if !r.bodies.take(n) {
			return errFull("bodies of requests")
		}
		defer r.bodies.give(n)
		if o.body, err = x.inline(n); err != nil {
			return err
		}
		o.hasBody = true
		x.moved(0, len(o.body))
	default:
		o.pointer, o.hasBody = true, true
	}
	x.describe(o, grant)
	if len(o.members)+len(o.path)+len(o.query) > maxRequestText-1<<10 {
		return refusal{http.StatusRequestHeaderFieldsTooLarge, "The request's address and headers are too long to be relayed"}
	}
	if x.taken, err = x.ask(x.ctx, x.rule, o); err != nil {
		return x.why(err)
	}
	defer func() {
		if !x.settled {
			r.gone(x.taken)
		}
	}()
	x.deadline = time.Now().Add(x.rule.Deadline)
	return x.await(o)
}

// moved counts bytes of a body: of the request, 0, or the answer, 1.
func (x *exchange) moved(direction, n int) {
	x.relay.metrics.bodies.WithLabelValues(x.namespace, directions[direction]).Add(float64(n))
}

// describe writes what the listener is told of the request, in Azure's order.
func (x *exchange) describe(o *offer, grant *access.Grant) {
	b := append(o.members, `,"requestTarget":`...)
	b = appendString(b, target(o.path, o.query))
	b = append(b, `,"method":`...)
	b = appendString(b, x.r.Method)
	b = x.appendRemote(b)
	b = append(b, `,"requestHeaders":`...)
	via := append(x.r.Header["Via"], "1.1 "+safeHost(x.r.Host))
	header := x.r.Header.Clone()
	header["Via"] = via
	named := connectionTokens(header["Connection"])
	b = appendHeaders(b, x.r.Host, header, func(name string, values []string) []string {
		switch {
		case hopByHop[name], named[name] && name != "Via", name == "Servicebusauthorization",
			name == "Authorization" && grant.Source == access.Authorization:
			return nil
		case name == "Sec-Websocket-Protocol":
			return withoutBearer(values)
		case name == "Cookie":
			return withoutSession(values)
		}
		return values
	})
	if o.hasBody {
		b = append(b, `,"body":true`...)
	} else {
		b = append(b, `,"body":false`...)
	}
	o.members = b
}

func errRequestTooLong(limit int64) *schemas.Problem {
	return schemas.Problemf("too-large", "The body has more than %d bytes, which is the limit of this gateway.", limit)
}

// inline reads a body of n bytes.
func (x *exchange) inline(n int64) ([]byte, error) {
	if strings.EqualFold(x.r.Header.Get("Expect"), "100-continue") {
		// The sender waits to hear whether its body is wanted.
		listened, err := x.relay.rendezvous.Listened(x.ctx, x.entity.namespace, x.entity.name)
		if err != nil {
			return nil, x.why(err)
		}
		if !listened {
			return nil, schemas.Problemf("no-listener", "There are no listeners connected for the endpoint.")
		}
	}
	body := make([]byte, n)
	x.control.SetReadDeadline(time.Now().Add(x.relay.limits.RelayBodyIdle)) //nolint:errcheck // the read will say it
	if _, err := io.ReadFull(x.r.Body, body); err != nil {
		return nil, errBody(err)
	}
	// The body's end must have been read for net/http to watch the connection.
	if _, err := x.r.Body.Read(make([]byte, 1)); err != io.EOF {
		return nil, errBody(err)
	}
	x.control.SetReadDeadline(time.Time{}) //nolint:errcheck // the connection has ended
	return body, nil
}

// errBody is what a failure to read a request's body means.
func errBody(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refusal{http.StatusRequestTimeout, "The request's body did not arrive in time"}
	}
	return refusal{http.StatusBadRequest, "The request's body ended before it was complete"}
}

// await waits for the listener's answer, on the control channel or at the meeting.
func (x *exchange) await(o *offer) error {
	timer := time.NewTimer(time.Until(x.deadline))
	defer timer.Stop()
	var grace <-chan time.Time
	lost := x.meeting.lost
	for {
		select {
		case a := <-x.meeting.answers:
			x.settled = true // its gateway has taken it for done
			return x.pass(a)
		case a := <-x.meeting.joined:
			return x.meet(a, o)
		case <-lost:
			lost = nil
			grace = time.After(lostGrace)
		case <-grace:
			return errLost()
		case <-timer.C:
			return errLate()
		case <-x.ctx.Done():
			return x.why(nil)
		}
	}
}

// errLate says that the listener took too long.
func errLate() *schemas.Problem {
	return schemas.Problemf("listener-timeout", "The request was routed to the listener but the listener did not respond in the required time.")
}

// why says why the exchange is over, if it is; else it returns err.
func (x *exchange) why(err error) error {
	if x.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(x.ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errCut // the sender has gone
}

// pass passes an answer on that came on the control channel.
func (x *exchange) pass(a *answer) error {
	defer x.relay.bodies.give(a.held)
	if a.problem != nil {
		return a.problem
	}
	p, err := x.begin(&a.response, int64(len(a.body)), true)
	if err != nil {
		return err
	}
	x.relay.metrics.answers.WithLabelValues(x.namespace, wayControl).Inc()
	x.moved(1, len(a.body))
	if err := p.write(a.body); err != nil {
		return p.cut()
	}
	return p.finish()
}

// cancel tells the listener that the sender of a request has gone. The caller holds mu.
func (l *listener) cancel(id string) {
	frame := appendFrame(nil, bitFinal|opText, append(appendString([]byte(`{"cancel":{"id":`), id), "}}"...))
	select {
	case l.queue <- frame:
		l.queued += len(frame)
	default: // it has more urgent things to hear
	}
}

package relay

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A rendezvous is the WebSocket of one HTTP request that a listener has opened: for a
// body of the request that goes over no control channel, for such a body of the
// answer, or both. It is used once.
//
// Three goroutines run it: the request's own reads from the listener and writes to the
// sender, one copies the other way, and one watches the time.
type rendezvous struct {
	*exchange
	socket *socket

	uploaded  chan struct{} // closed when nothing more is sent to the listener
	responded chan struct{} // closed when the listener's answer has begun
	over      chan struct{} // closed when the exchange is
	stopping  atomic.Bool   // the sender's body is not wanted any more
	wholly    atomic.Bool   // the sender's body has been read to its end
	failure   error         // why the upload has failed; set before uploaded is closed
}

// meet carries on the exchange with a listener that has come to the meeting.
func (x *exchange) meet(a arrival, o *offer) error {
	a.conn.SetDeadline(time.Time{}) //nolint:errcheck // each read and write has its own
	v := &rendezvous{
		exchange: x, socket: newSocket(a.hijacked, 4<<10, x.relay.limits.RelayBodyIdle),
		uploaded: make(chan struct{}), responded: make(chan struct{}), over: make(chan struct{}),
	}
	// Until the answer begins, only the deadline ends the wait.
	v.socket.silence = 365 * 24 * time.Hour
	var tasks sync.WaitGroup
	if o.pointer {
		x.control.EnableFullDuplex() //nolint:errcheck // HTTP/2 always is
		complete := *o
		complete.pointer = false
		text := complete.message(a.scheme, a.host, x.taken.id)
		tasks.Go(func() {
			defer close(v.uploaded)
			if err := v.socket.write(bitFinal|opText, text); err == nil {
				v.upload()
			}
		})
	} else {
		close(v.uploaded)
	}
	tasks.Go(v.watch)
	err := v.converse()
	gone := v.ctx.Err() != nil
	close(v.over)
	select {
	case <-v.uploaded:
	default:
		if v.stopping.Store(true); !v.wholly.Load() {
			x.control.SetReadDeadline(longAgo) //nolint:errcheck // the body is not wanted
		}
		v.socket.conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // it ends anyway
	}
	tasks.Wait()
	if v.failure != nil && !v.answered {
		err, gone = v.failure, true
	}
	v.farewell(err, gone)
	return err
}

// farewell closes the WebSocket: with 1000 after an answer, 1001 where the sender has
// gone, 1011 where the listener's answer could not be used. It does not wait.
func (v *rendezvous) farewell(err error, gone bool) {
	reason := schemas.CloseDone
	switch {
	case gone:
		reason = schemas.CloseSenderGone
	case err != nil:
		reason = schemas.CloseBadAnswer
	}
	v.relay.partWith(v.socket, reason)
}

// partWith sends a Close frame and ends the connection once the listener has read it:
// some do not survive one that is reset. It does not wait.
func (r *Relay) partWith(s *socket, reason schemas.CloseReason) {
	began := r.start(func() {
		s.patience = closeWait
		if s.goodbye(reason.Code, reason.Word) != nil {
			s.conn.Close()
			return
		}
		s.end()
	})
	if !began {
		s.conn.Close()
	}
}

// watch interrupts the reading when the time is up, or nobody waits any more.
func (v *rendezvous) watch() {
	timer := time.NewTimer(time.Until(v.deadline))
	defer timer.Stop()
	expired, uploaded, responded := timer.C, v.uploaded, v.responded
	for {
		select {
		case <-uploaded:
			uploaded = nil
			if responded != nil && v.bodied() {
				timer.Reset(v.rule.Deadline)
			}
		case <-expired:
			if uploaded == nil { // else the time has not begun to count
				v.cancel(errLate())
			}
		case <-responded:
			responded, expired = nil, nil
		case <-v.ctx.Done():
			v.socket.interrupt()
			return
		case <-v.over:
			return
		}
	}
}

// bodied says whether the request has a body that travels here.
func (v *rendezvous) bodied() bool { return v.r.ContentLength < 0 || v.r.ContentLength > inlineRequest }

// upload streams the request's body to the listener as one message.
func (v *rendezvous) upload() {
	limits := &v.relay.limits
	buffer := bulkBuffers.Get().(*[headroom + bulkBuffer]byte)
	defer bulkBuffers.Put(buffer)
	opcode, total := byte(opBinary), int64(0)
	for {
		began := time.Now()
		v.control.SetReadDeadline(began.Add(limits.RelayBodyIdle)) //nolint:errcheck // the read will say it
		if v.stopping.Load() {
			return
		}
		n, err := v.r.Body.Read(buffer[headroom:])
		if n > 0 {
			if total += int64(n); total > limits.RelayBodyBytes {
				v.cancel(errRequestTooLong(limits.RelayBodyBytes))
				return
			}
			v.moved(0, n)
			head := appendHeader(make([]byte, 0, maxHeader), opcode, uint64(n))
			start := headroom - len(head)
			copy(buffer[start:], head)
			opcode = opContinuation
			if err := v.socket.send(buffer[start : headroom+n]); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) && !v.stopping.Load() {
					v.cancel(schemas.Problemf("listener-failed", "The listener did not take the request's body in time."))
				}
				return // the reader notices
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			v.control.SetReadDeadline(time.Time{}) //nolint:errcheck // the connection has ended
			v.wholly.Store(true)
			v.socket.write(bitFinal|opcode, nil) //nolint:errcheck // the reader notices
			return
		case err != nil:
			// net/http may have ended the request's context already, and that the
			// exchange: whose fault it was is told by the time that has passed.
			late := !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) >= limits.RelayBodyIdle
			if late || !v.stopping.Load() {
				v.failure = errBody(err)
				v.cancel(v.failure)
			}
			return
		}
	}
}

// converse reads the listener's answer and writes it to the sender.
func (v *rendezvous) converse() error {
	r, err := v.response()
	if err != nil {
		return v.why(err)
	}
	close(v.responded)
	v.settled = true
	v.relay.done(v.taken)
	v.relay.metrics.answers.WithLabelValues(v.namespace, wayRendezvous).Inc()
	v.socket.silence = v.relay.limits.RelayBodyIdle
	if !r.body {
		p, err := v.begin(&r, 0, v.bodyRead())
		if err != nil {
			return err
		}
		return p.finish()
	}
	var p *reply
	if v.socket.in.Buffered() == 0 {
		// The body is still to come: the sender need not wait for the head.
		if p, err = v.begin(&r, -1, v.bodyRead()); err == nil {
			err = p.flush()
		}
		if err != nil {
			return v.broken(p, err)
		}
	}
	m, err := v.socket.message()
	if ended(err) {
		m, err = nil, nil // an empty body
	}
	if p == nil {
		length := int64(-1)
		switch {
		case err != nil:
			return v.why(errBroken(err))
		case m == nil:
			length = 0
		case m.whole:
			length = int64(m.left)
		}
		if length > v.relay.limits.RelayBodyBytes {
			return errAnswer("its body is longer than the gateway's limit")
		}
		if p, err = v.begin(&r, length, v.bodyRead()); err != nil {
			return err
		}
	}
	if err == nil && m != nil {
		err = v.download(m, p)
	}
	if err != nil {
		return v.broken(p, err)
	}
	return p.finish()
}

// bodyRead says whether the request has no body that is still to be read.
func (v *rendezvous) bodyRead() bool { return !v.bodied() || v.wholly.Load() }

// broken ends an answer that has begun. What is wrong can't be said any more.
func (v *rendezvous) broken(p *reply, err error) error {
	v.relay.metrics.cut.WithLabelValues(v.namespace).Inc()
	v.relay.logger.Info("answer cut", "namespace", v.entity.namespace, "tracking", v.trackingID(), "error", v.why(err))
	if p == nil {
		return err
	}
	return p.cut()
}

// errSenderLost says that the sender takes no more of its answer.
var errSenderLost = errors.New("the sender takes no more")

// download streams the answer's body to the sender: what has come is sent before more
// is waited for.
func (v *rendezvous) download(m *message, p *reply) error {
	buffer := bulkBuffers.Get().(*[headroom + bulkBuffer]byte)
	defer bulkBuffers.Put(buffer)
	lost := false
	m.paused = func() { lost = p.flush() != nil || lost }
	total := int64(0)
	for {
		n, err := m.Read(buffer[:])
		if total += int64(n); total > v.relay.limits.RelayBodyBytes {
			return errAnswer("its body is longer than the gateway's limit")
		}
		v.moved(1, n)
		if lost = p.write(buffer[:n]) != nil || lost; lost {
			v.cancel(errSenderLost)
			return errSenderLost
		}
		switch {
		case err == io.EOF, ended(err):
			return nil
		case err != nil:
			return err
		}
	}
}

// ended says whether an error is the good end of a body that lacks its last frame:
// Java's client never sends it, but closes with 1000.
func ended(err error) bool {
	var closed closeError
	return errors.As(err, &closed) && closed.code == schemas.CloseDone.Code
}

// response reads the listener's words.
func (v *rendezvous) response() (response, error) {
	for {
		m, err := v.socket.message()
		if err != nil {
			return response{}, errBroken(err)
		}
		if m.kind != opText {
			if err := m.skip(); err != nil {
				return response{}, errBroken(err)
			}
			continue
		}
		text, err := m.all(maxControlText)
		if err != nil {
			return response{}, errBroken(err)
		}
		var c control
		if json.Unmarshal(text, &c) != nil || c.Response == nil {
			return response{}, errAnswer(`it is no JSON object with a member "response"`)
		}
		r, err := parseResponse(c.Response)
		if err != nil {
			return r, errAnswer(err.Error())
		}
		return r, nil
	}
}

// errBroken says that the listener's WebSocket ended too early.
func errBroken(err error) error {
	var closed closeError
	switch {
	case errors.Is(err, errLong):
		return errAnswer("its head is too long")
	case errors.Is(err, errFrame):
		return errAnswer("it breaks the WebSocket protocol")
	case errors.As(err, &closed):
		return schemas.Problemf("listener-failed", "The listener closed before its answer was complete; try again.")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errLate()
	}
	return schemas.Problemf("listener-failed", "The listener's connection was lost before it answered; try again.")
}

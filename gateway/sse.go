package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// An sse is a stream as server-sent events (HTML Standard, section 9.2): a block with
// the cursor as its id and the event as its data.
type sse struct {
	call *call
	buf  []byte
}

// isEventSource says whether the request is for an event stream and comes from a
// page: browsers mark what a page asks for with at least one of these headers.
func (c *call) isEventSource() bool {
	h := c.r.Header
	return c.r.Method == http.MethodGet && (h.Get("Origin") != "" || h.Get("Sec-Fetch-Mode") != "") &&
		!hasToken(h, "Upgrade", "websocket") && negotiate(h) == mediaTypeSSE
}

// openSSE answers with an event stream and returns when it has ended.
func (c *call) openSSE(topics schemas.TopicFilter) error {
	if c.r.Method == http.MethodHead {
		return c.headSSE(topics)
	}
	f, err := c.openFlow(topics, waySSE)
	if isDraining(err) && c.isEventSource() {
		c.turnAwaySSE()
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	stop := context.AfterFunc(c.r.Context(), func() { f.finish(connectionLost, "") })
	defer stop()
	f.onCut(func() { c.control.SetWriteDeadline(time.Now()) })
	c.beginSSE()
	f.run(&sse{call: c})
	c.control.SetWriteDeadline(time.Now().Add(c.gateway.config.Limits.WriteTimeout)) // for the end of the answer
	return nil
}

// beginSSE answers with the head of an event stream.
func (c *call) beginSSE() {
	h := c.w.Header()
	h.Set("Content-Type", mediaTypeSSE)
	if h.Get("Cache-Control") != "private" {
		h.Set("Cache-Control", "no-cache") // as the standard's own examples have it
	}
	h.Set("X-Accel-Buffering", "no") // a proxy that gathers an answer would hold events back
	c.answered = true
	c.w.WriteHeader(http.StatusOK)
}

// turnAwaySSE answers a page's request for an event stream that comes during the
// drain: with one that says when to come back, and ends. Not with 503, because an
// EventSource takes every answer but 200 for final and would never come back.
func (c *call) turnAwaySSE() {
	c.beginSSE()
	s := &sse{call: c}
	s.draining(drainRetry + rand.N(drainRetry))
	_ = s.flush() // whoever has gone by now needs no answer
}

// headSSE checks what a GET would, and opens nothing.
func (c *call) headSSE(topics schemas.TopicFilter) error {
	if _, err := c.authorize(access.Subscribe, topics); err != nil {
		return err
	}
	if _, err := parseStreamParams(c.r, waySSE); err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", mediaTypeSSE)
	c.answered = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *sse) event(d broker.Delivery) {
	if d.Stored {
		s.id(d.Cursor)
	}
	s.buf = append(appendData(s.buf, d.Event), '\n')
}

func (s *sse) notice(n []byte) { s.buf = append(appendData(s.buf, n), '\n') }

func (s *sse) id(c schemas.Cursor) {
	s.buf = c.AppendTo(append(s.buf, "id: "...))
	s.buf = append(s.buf, '\n')
}

// position is a block with an id alone: the client remembers it and dispatches nothing.
func (s *sse) position(_ string, c schemas.Cursor) {
	s.id(c)
	s.buf = append(s.buf, '\n')
}

func (s *sse) draining(retry time.Duration) {
	s.buf = append(s.buf, "retry: "...)
	s.buf = strconv.AppendInt(s.buf, retry.Milliseconds(), 10)
	s.buf = append(s.buf, '\n')
	s.notice(drainingNotice(retry))
}

func (s *sse) park() bool { return false }
func (s *sse) alive()     { s.buf = append(s.buf, ":\n\n"...) }
func (s *sse) full() bool { return len(s.buf) >= joined }

// flush writes with a deadline for each piece, so that a client that keeps taking
// some keeps its stream.
func (s *sse) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	b := s.buf
	s.buf = s.buf[:0]
	if cap(s.buf) > 2*joined {
		s.buf = nil
	}
	patience := 2 * s.call.gateway.config.Limits.PingInterval
	for len(b) > 0 {
		s.call.control.SetWriteDeadline(time.Now().Add(patience))
		n := min(len(b), maxWrite)
		if _, err := s.call.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	s.call.control.SetWriteDeadline(time.Now().Add(patience))
	err := s.call.control.Flush()
	s.call.control.SetWriteDeadline(time.Time{}) // over HTTP/2 it would end a stream that is idle
	return err
}

// appendData appends the data lines of a block: one for each line of b, which may
// end in LF, CR or both. The client joins them with LF.
func appendData(dst, b []byte) []byte {
	dst = append(dst, "data: "...)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\r':
			if i+1 < len(b) && b[i+1] == '\n' {
				i++
			}
			fallthrough
		case '\n':
			dst = append(dst, "\ndata: "...)
		default:
			dst = append(dst, b[i])
		}
	}
	return append(dst, '\n')
}

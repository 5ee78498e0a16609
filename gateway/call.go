package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A call is one request and its answer. It belongs to the request's goroutine.
type call struct {
	gateway   *Gateway
	w         http.ResponseWriter
	r         *http.Request
	control   *http.ResponseController
	namespace string
	rest      []string // the decoded segments that the route does not spell out
	answered  bool
	cutShort  bool // the body ended, or stalled, before it was complete
}

// begin gives the request its first deadlines and the answer what all answers have.
func (c *call) begin() {
	if c.r.ContentLength != 0 {
		// net/http would wait for the rest of a body that nobody reads.
		c.control.SetReadDeadline(time.Now().Add(c.gateway.config.Limits.StallTimeout))
	}
	h := c.w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if c.gateway.draining.Load() {
		h.Set("Connection", "close")
	}
}

// joined is the name in the path. A segment that held an encoded slash is outside
// every grammar of names.
func (c *call) joined(what string) (string, error) {
	for _, s := range c.rest {
		if strings.Contains(s, "/") {
			return "", schemas.Problemf("name", "The %s has an encoded slash; \"%%2F\" is no separator, write \"/\".", what)
		}
	}
	return strings.Join(c.rest, "/"), nil
}

// authorize asks for a right and returns what the request's credentials allow.
func (c *call) authorize(action access.Action, topics schemas.TopicFilter) (*access.Grant, error) {
	return c.authorizeAll(access.Ask{Action: action, Topics: topics})
}

// authorizeAll asks for several rights; without asks for any right at all.
func (c *call) authorizeAll(asks ...access.Ask) (*access.Grant, error) {
	grant, err := c.gateway.config.Access.Authorize(c.namespace, c.r, asks...)
	if err != nil {
		return nil, err
	}
	if grant.Source.InURL() {
		c.w.Header().Set("Cache-Control", "private")
	}
	return grant, nil
}

// brokerContext is for one call of the broker.
func (c *call) brokerContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.r.Context(), c.gateway.config.Limits.BrokerTimeout)
}

// body reads the request's body, at most limit bytes. release, which the caller
// owes, gives its memory back.
func (c *call) body(limit int64) (body []byte, release func(), err error) {
	if c.r.ContentLength > limit {
		return nil, func() {}, errBodyTooLarge(limit)
	}
	deadline := time.Now().Add(c.gateway.config.Limits.BodyTimeout)
	limited := http.MaxBytesReader(c.w, c.r.Body, limit)
	body, release, err = c.gateway.bodies.readAll(readerFunc(func(p []byte) (int, error) {
		next := time.Now().Add(c.gateway.config.Limits.StallTimeout)
		if next.After(deadline) {
			next = deadline
		}
		c.control.SetReadDeadline(next)
		return limited.Read(p)
	}))
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		// The server goes on reading, to notice a client that leaves; that read
		// must not run into the deadline.
		c.control.SetReadDeadline(time.Time{})
		return body, release, nil
	case errors.As(err, &tooLarge):
		return nil, release, errBodyTooLarge(limit)
	case errors.Is(err, errBudget):
		p := schemas.Problemf("rate", "The gateway has its hands full with other requests' bodies; try again.")
		p.RetryAfter = time.Second
		return nil, release, p
	}
	c.cutShort = true
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, release, schemas.Problemf("event", "The body did not arrive in time.")
	}
	return nil, release, schemas.Problemf("event", "The body ended before it was complete.")
}

const (
	// maxSwallow is how much of a refused body is read all the same.
	maxSwallow = 32 << 20
	// swallowStall is for its next piece to arrive, swallowTimeout for all of it.
	swallowStall, swallowTimeout = time.Second, 10 * time.Second
)

// swallow throws away what is left of the body. Most clients of HTTP/1 send all of it
// before they look for an answer, and one that finds the connection closed meanwhile
// never sees the refusal. A client that waits to be asked for the body is not asked.
func (c *call) swallow() {
	n := c.r.ContentLength
	if n == 0 || n > maxSwallow || c.cutShort || c.r.ProtoMajor != 1 || c.r.Header.Get("Expect") != "" {
		return
	}
	deadline := time.Now().Add(min(swallowTimeout, c.gateway.config.Limits.BodyTimeout))
	stall := min(swallowStall, c.gateway.config.Limits.StallTimeout)
	io.Copy(io.Discard, io.LimitReader(readerFunc(func(p []byte) (int, error) {
		c.control.SetReadDeadline(earlier(time.Now().Add(stall), deadline))
		return c.r.Body.Read(p)
	}), maxSwallow))
}

func errBodyTooLarge(limit int64) *schemas.Problem {
	return schemas.Problemf("too-large", "The body has more than %d bytes, which no event or batch within the limits needs.", limit)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// answer writes a whole answer. The body is left out for HEAD.
func (c *call) answer(status int, contentType string, body []byte) {
	c.answered = true
	h := c.w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	if status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	c.control.SetWriteDeadline(time.Now().Add(c.gateway.config.Limits.WriteTimeout))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead && len(body) > 0 {
		c.write(body)
	}
}

// maxWrite is how much is written under one deadline.
const maxWrite = 32 << 10

// write writes b to a client that keeps taking it.
func (c *call) write(b []byte) error {
	for len(b) > 0 {
		c.control.SetWriteDeadline(time.Now().Add(c.gateway.config.Limits.WriteTimeout))
		n := min(len(b), maxWrite)
		if _, err := c.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (c *call) answerJSON(status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only the gateway's own types come here
	}
	c.answer(status, mediaTypeJSON, b)
}

// refuse answers with a problem.
func (c *call) refuse(err error) {
	c.swallow()
	p := c.gateway.problem(err)
	c.gateway.metrics.refused(c.namespace, p)
	h := c.w.Header()
	if errors.Is(p, schemas.ErrUnauthorized) {
		h.Set("WWW-Authenticate", access.Challenge)
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	c.answer(p.Status(), schemas.MediaTypeProblem, b)
}

// fault answers for a handler that panicked. Where an answer had begun it is cut
// off, for its end would be a lie.
func (c *call) fault() {
	if c.answered {
		panic(http.ErrAbortHandler)
	}
	c.refuse(schemas.Problemf("internal", "The gateway failed on this request; its log says where."))
}

// problem puts an error into the words of the contract. What is none of them is
// logged and hidden.
func (g *Gateway) problem(err error) *schemas.Problem {
	var p *schemas.Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p = schemas.Problemf("storage", "The log did not answer in time; it may have taken the events all the same. Send them again: copies are recognised.")
	default:
		g.config.Logger.Error("unexpected", "error", err)
		return schemas.Problemf("internal", "The gateway failed on this request; its log says why.")
	}
	p.RetryAfter = time.Second
	return p
}

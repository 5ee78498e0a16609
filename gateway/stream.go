package gateway

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// A stream is a WebSocket on a topic filter (protocol section 2). Its goroutine
// sends; another, which it owns, reads and publishes.
type stream struct {
	flow   *flow
	socket *socket
	// topic is where the client may publish, "" on a filter with wildcards.
	topic schemas.Topic
	// rejections wait to be sent; a client that does not take them is not read from.
	rejections chan []byte

	buf []byte // owned by the sender; nil while nothing waits
}

// maxRejections is how many rejected notices wait for a client to take them.
const maxRejections = 16

// openWebSocket answers the handshake of a stream. All is checked before, so that a
// refusal is a problem document; the error is one to refuse with.
func (c *call) openWebSocket(topics schemas.TopicFilter) error {
	if !c.gateway.config.Access.RequestAllowed(c.namespace, c.r) {
		return schemas.Problemf("forbidden", "Pages of this origin may not connect; the operator can allow it under \"origins\".")
	}
	if err := c.checkHandshake(); err != nil {
		return err
	}
	protocol, err := chooseProtocol(c.r.Header, schemas.SubprotocolCloudEvents)
	if err != nil {
		return err
	}
	f, err := c.openFlow(topics, wayWebSocket)
	if err != nil {
		return err
	}
	s := &stream{flow: f, rejections: make(chan []byte, maxRejections)}
	if topics.Concrete() {
		s.topic = schemas.Topic(topics)
	}
	if s.socket, err = c.upgrade(protocol, f.ring); err != nil {
		f.close()
		c.gateway.config.Logger.Debug("upgrade failed", "namespace", c.namespace)
		return nil
	}
	raw := s.socket.raw
	f.onCut(func() { raw.Close() })
	// The handler returns, so that what net/http holds for it is freed.
	c.gateway.tasks.Go(s.run)
	return nil
}

// checkHandshake checks the request against RFC 6455 section 4.2.1.
func (c *call) checkHandshake() error {
	h := c.w.Header()
	upgrade := func(format string, args ...any) error {
		h.Set("Upgrade", "websocket")
		h.Set("Sec-WebSocket-Version", "13")
		return schemas.Problemf("upgrade", format, args...)
	}
	if !c.r.ProtoAtLeast(1, 1) || !hasToken(c.r.Header, "Connection", "Upgrade") {
		return upgrade("The WebSocket handshake arrived without \"Connection: Upgrade\" over HTTP/1.1; a proxy on the way may not let WebSockets through.")
	}
	if versions := c.r.Header.Values("Sec-WebSocket-Version"); len(versions) != 1 || versions[0] != "13" {
		return upgrade("Only version 13 of the WebSocket protocol is spoken.")
	}
	keys := c.r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return schemas.Problemf("parameter", "The WebSocket handshake needs one Sec-WebSocket-Key.")
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0])); err != nil || len(key) != 16 {
		return schemas.Problemf("parameter", "The Sec-WebSocket-Key is not 16 bytes in base64.")
	}
	return nil
}

// chooseProtocol returns the subprotocol to name in the answer: known if it is
// offered, "" if none is. Items that carry a token are no offers and never echoed.
func chooseProtocol(header http.Header, known string) (string, error) {
	offered := false
	for _, value := range header.Values("Sec-WebSocket-Protocol") {
		for item := range strings.SplitSeq(value, ",") {
			item = strings.Trim(item, " \t")
			if item == known {
				return known, nil
			}
			if item != "" && !strings.HasPrefix(item, schemas.SubprotocolBearerPrefix) {
				offered = true
			}
		}
	}
	if offered {
		return "", schemas.Problemf("parameter", "None of the offered subprotocols is spoken here; offer %s.", known)
	}
	return "", nil
}

// run sends until the stream ends. It owns the flow, the socket and the reader.
func (s *stream) run() {
	defer s.flow.close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer s.guard()
		s.read()
	}()
	end := ending{reason: schemas.CloseFault}
	func() {
		defer s.guard()
		end = s.flow.run(s)
	}()
	s.socket.close(end, read)
}

// guard turns a panic into the end of this one stream.
func (s *stream) guard() {
	if v := recover(); v != nil {
		s.flow.gateway.logPanic(v)
		s.flow.finish(schemas.CloseFault, "the gateway failed")
	}
}

// read takes the client's messages one after the other: the next is not read
// before the last is kept, so that a client that sends too fast waits, and one
// whose Close frame is answered knows that all before it was taken.
func (s *stream) read() {
	for {
		message, release, end := s.socket.read()
		if end != nil {
			s.flow.finish(end.reason, end.detail)
			return
		}
		if !s.flow.over() {
			if err := s.publish(message); err != nil {
				s.reject(err, message)
			}
		}
		release()
	}
}

// publish publishes a message of the client.
func (s *stream) publish(message []byte) error {
	g, namespace := s.flow.gateway, s.flow.namespace
	if s.topic == "" {
		return schemas.Problemf("name", "This stream is of a topic filter with wildcards; publish on a stream of one topic.")
	}
	if err := publishable(s.topic); err != nil {
		return err
	}
	if err := s.flow.grant.Load().Allows(access.Ask{Action: access.Publish, Topics: schemas.TopicFilter(s.topic)}); err != nil {
		return err
	}
	events, err := one(schemas.ParseEvent(message))
	if err != nil {
		return err
	}
	g.metrics.received(namespace, events)
	ctx, cancel := context.WithTimeout(g.ctx, g.config.Limits.BrokerTimeout)
	defer cancel()
	began := time.Now()
	receipt, err := g.config.Broker.Publish(ctx, namespace, s.topic, events)
	if err == nil {
		g.metrics.published(namespace, time.Since(began), len(receipt.Duplicates))
	}
	return err
}

// reject tells the client that a message was not taken. It waits until there is
// room for the notice.
func (s *stream) reject(err error, message []byte) {
	g := s.flow.gateway
	p := g.problem(err)
	g.metrics.refused(s.flow.namespace, p)
	notice := rejectedNotice(p, message)
	for {
		select {
		case s.rejections <- notice:
			s.flow.ring()
			return
		case <-time.After(rejectionPoll):
			if s.flow.over() {
				return
			}
		}
	}
}

const rejectionPoll = 100 * time.Millisecond

// What the sender gathers before it writes, and a buffer that is kept for the next
// stream that has something to send.
const joined = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, joined+8<<10); return &b }}

func (s *stream) frame(opcode byte, payload []byte) {
	if s.buf == nil {
		s.buf = (*buffers.Get().(*[]byte))[:0]
	}
	s.buf = appendFrame(s.buf, opcode, payload)
}

func (s *stream) event(d broker.Delivery) { s.frame(frameText, d.Event) }
func (s *stream) notice(n []byte)         { s.frame(frameText, n) }
func (s *stream) full() bool              { return len(s.buf) >= joined }

func (s *stream) position(kind string, c schemas.Cursor) { s.notice(cursorNotice(kind, c)) }
func (s *stream) draining(retry time.Duration)           { s.notice(drainingNotice(retry)) }

func (s *stream) alive() {
	s.frame(framePing, nil)
	s.socket.wrotePing()
}

func (s *stream) others() {
	if pong, ok := s.socket.takePong(); ok {
		s.frame(framePong, pong)
	}
	for {
		select {
		case n := <-s.rejections:
			s.notice(n)
		default:
			return
		}
	}
}

func (s *stream) flush() error {
	if s.buf == nil {
		return nil
	}
	err := s.socket.write(s.buf)
	if cap(s.buf) <= 2*joined {
		b := s.buf
		buffers.Put(&b)
	}
	s.buf = nil
	return err
}

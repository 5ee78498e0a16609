package gateway

import (
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// A stream is a WebSocket on a topic filter (protocol section 2). One goroutine
// reads and publishes; another sends, unless a pump does it with others.
type stream struct {
	flow   *flow
	socket *socket
	inlet  inlet         // owned by the reader
	read   chan struct{} // closed when the reader has ended

	chunk *frame.Chunk // owned by the sender; nil while nothing waits
}

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
	s := &stream{flow: f, read: make(chan struct{})}
	if topics.Concrete() {
		s.inlet.topic = schemas.Topic(topics)
	}
	if s.socket, err = c.upgrade(protocol, schemas.MaxStreamMessage); err != nil {
		f.close()
		c.gateway.config.Logger.Debug("upgrade failed", "namespace", c.namespace)
		return nil
	}
	f.onCut(func() { s.socket.Close() })
	// The handler returns, so that what net/http holds for it is freed.
	c.gateway.tasks.Go(s.receive)
	if !f.begin(s) {
		c.gateway.tasks.Go(s.run)
	}
	return nil
}

// checkHandshake checks the request against RFC 6455 section 4.2.1.
func (c *call) checkHandshake() error {
	if !c.r.ProtoAtLeast(1, 1) || !hasToken(c.r.Header, "Connection", "Upgrade") {
		return c.wantsUpgrade("The WebSocket handshake arrived without \"Connection: Upgrade\" over HTTP/1.1; a proxy on the way may not let WebSockets through.")
	}
	if versions := c.r.Header.Values("Sec-WebSocket-Version"); len(versions) != 1 || versions[0] != "13" {
		return c.wantsUpgrade("Only version 13 of the WebSocket protocol is spoken.")
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

// wantsUpgrade is the problem "upgrade", with the headers that go with it.
func (c *call) wantsUpgrade(format string, args ...any) error {
	if c.r.ProtoMajor == 1 { // HTTP/2 has no such headers
		c.w.Header().Set("Upgrade", "websocket")
		c.w.Header().Set("Sec-WebSocket-Version", "13")
	}
	return schemas.Problemf("upgrade", format, args...)
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

// run sends until the stream ends, and then closes it, or until a pump takes over.
func (s *stream) run() {
	end, parked := ending{reason: schemas.CloseFault}, false
	func() {
		defer s.guard()
		end, parked = s.flow.run(s)
	}()
	if parked {
		return
	}
	defer s.flow.close()
	s.socket.close(end, s.read)
}

// guard turns a panic into the end of this one stream.
func (s *stream) guard() {
	if v := recover(); v != nil {
		s.flow.gateway.logPanic(v)
		s.flow.finish(schemas.CloseFault, "the gateway failed")
	}
}

// joined is how much the sender gathers before it writes.
const joined = 64 << 10

var chunks = sync.Pool{New: func() any { return new(frame.Chunk) }}

func (s *stream) text(payload []byte) {
	if s.chunk == nil {
		s.chunk = chunks.Get().(*frame.Chunk)
		s.chunk.Reset()
	}
	s.chunk.Text(payload)
}

func (s *stream) event(d broker.Delivery) { s.text(d.Event) }
func (s *stream) notice(n []byte)         { s.text(n) }
func (s *stream) full() bool              { return s.chunk != nil && len(s.chunk.Bytes) >= joined }

func (s *stream) position(kind string, c schemas.Cursor) { s.notice(cursorNotice(kind, c)) }
func (s *stream) draining(retry time.Duration)           { s.notice(drainingNotice(retry)) }

func (s *stream) alive() {
	if s.socket.Ping() != nil {
		s.flow.finish(connectionLost, "")
	}
}

func (s *stream) flush() error {
	if s.chunk == nil {
		return s.socket.Flush() // what a pump or the reader left
	}
	err := s.socket.Write(s.chunk)
	if cap(s.chunk.Bytes) <= 2*joined {
		chunks.Put(s.chunk)
	}
	s.chunk = nil
	return err
}

func (s *stream) park() bool { return s.flow.gateway.pumpFor(s.flow).park(s) }

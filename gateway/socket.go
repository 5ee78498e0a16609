package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/gateway/frame"
	"github.com/outrelay/outrelay/schemas"
)

// A socket is one WebSocket of the contract: text messages in, within the gateway's
// budget, and the endings that the contract has words for.
//
// One goroutine reads. Writing is [frame.Socket]'s.
type socket struct {
	*frame.Socket
	bodies  *budget
	message time.Duration // for one message to arrive
	longest int64         // message in bytes
}

// closeWait is how long a client has to answer a Close frame, and to read it.
const closeWait = 5 * time.Second

// maxDiscard is how much a client may still send that has been told to stop.
const maxDiscard = 16 << 20

// upgrade completes a WebSocket handshake that has been checked. The protocol, ""
// for none, is named in the answer. A message of more than longest bytes closes it.
// After an error the answer has been written.
func (c *call) upgrade(protocol string, longest int64) (*socket, error) {
	l := c.gateway.config.Limits
	h := c.w.Header()
	for _, name := range []string{"Cache-Control", "X-Content-Type-Options", "Vary"} {
		h.Del(name)
	}
	c.answered = true
	ws, err := frame.Accept(c.w, c.r, frame.Options{
		Subprotocol: protocol, Interval: l.PingInterval, Deflate: l.Compression, Memory: &c.gateway.bodies,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(longest)
	return &socket{Socket: ws, bodies: &c.gateway.bodies, message: l.BodyTimeout, longest: longest}, nil
}

// read returns the next text message, which is valid until the next read. release, which
// the caller owes before that, gives its memory back. The ending is for the flow, nil for
// a message; with one nothing is owed.
func (s *socket) read() (message []byte, release func(), end *ending) {
	message, whole, err := s.Next(s.message)
	switch {
	case err != nil:
		return nil, nil, s.judge(err)
	case whole && utf8.Valid(message):
		return message, nothing, nil
	case whole:
		return nil, nil, notUTF8()
	}
	kind, r, err := s.Read(context.Background())
	if err != nil {
		return nil, nil, s.judge(err)
	}
	s.Sign()
	if kind != websocket.MessageText {
		return nil, nil, &ending{schemas.CloseFrameKind, "only text messages are taken"}
	}
	s.Expect(time.Now().Add(s.message))
	message, release, err = s.bodies.readAll(r)
	s.Expect(time.Time{})
	s.Sign()
	switch {
	case err == nil && utf8.Valid(message):
		return message, release, nil
	case err == nil:
		end = notUTF8()
	case errors.Is(err, errBudget):
		end = &ending{schemas.CloseQuota, "the gateway has its hands full with messages"}
	default:
		end = s.judge(err)
	}
	release()
	return nil, nil, end
}

// nothing is a release of what need not be given back.
func nothing() {}

func notUTF8() *ending {
	return &ending{schemas.CloseNotUTF8, "a text message was not UTF-8"}
}

// judge says what an error of the reading means for the stream.
func (s *socket) judge(err error) *ending {
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed):
		reason := closedByClient
		reason.Code = int(closed.Code) // which the answer repeats
		if closed.Code == websocket.StatusNoStatusRcvd {
			reason.Code = 0
		}
		return &ending{reason: reason}
	case errors.Is(s.Broken(), frame.ErrSilent):
		return &ending{reason: schemas.CloseSilent}
	case s.Broken() != nil:
		return &ending{reason: connectionLost}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return &ending{schemas.CloseTooBig, fmt.Sprintf("a message was longer than %d MiB", s.longest>>20)}
	}
	return &ending{closeProtocol, "a frame broke the WebSocket protocol"}
}

// closeProtocol is for frames that RFC 6455 does not allow.
var closeProtocol = schemas.CloseReason{Word: "protocol", Code: 1002, Retry: schemas.RetryLater}

// close ends the WebSocket: it sends the Close frame unless the connection is lost,
// lets the client answer or at least read it, and closes the connection. read is
// closed when the reader has ended, which close brings about.
func (s *socket) close(end ending, read <-chan struct{}) {
	defer func() {
		s.Close()
		<-read
		s.Release()
	}()
	if end.reason == connectionLost {
		return
	}
	text := end.reason.Text(end.detail)
	if end.reason.Word == closedByClient.Word {
		text = ""
	}
	if s.Goodbye(end.reason.Code, text, time.Now().Add(closeWait)) != nil || s.Flush() != nil {
		return
	}
	if end.reason.Word == closedByClient.Word {
		return // the server closes first (RFC 6455 section 7.1.1)
	}
	select {
	case <-read:
	default:
		<-read // ends by the client's Close frame, or at the end of closeWait
		return
	}
	// The reader gave up in the middle of something. Closing now would reset the
	// connection, and with it the Close frame that the client has not read yet.
	s.CloseWrite()
	s.Discard(maxDiscard)
}

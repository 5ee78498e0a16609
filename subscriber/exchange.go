package subscriber

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

const (
	// inlineBody is the longest body of an answer on the control channel, in bytes, as
	// Azure's clients have it.
	inlineBody = 64 << 10
	// inlineWait is how long a short answer may take from its head to its end; what
	// takes longer is streamed.
	inlineWait = 20 * time.Millisecond
)

// errSenderGone is why an exchange ends before its answer.
var errSenderGone = errors.New("the sender has gone")

// An exchange is an HTTP request of a sender under way: it is written to a server as
// HTTP/1.1, over a connection in memory, and the answer is carried back.
type exchange struct {
	listener *Listener
	offer    *requestOffer
	ctx      context.Context // ends with the client

	channel *channel      // on which it may be answered; nil where it has a rendezvous
	own     *rendezvous   // nil while it has none
	cancel  chan struct{} // closed when the gateway says on the channel that the sender has gone
	tasks   sync.WaitGroup
}

// A rendezvous is the connection of one request.
type rendezvous struct {
	*link
	in   *messages
	gone chan struct{} // closed when it has ended
}

// requested takes a request that came on the control channel. It does not wait.
func (l *Listener) requested(ch *channel, o *requestOffer, body []byte) {
	x := &exchange{listener: l, offer: o, channel: ch, cancel: make(chan struct{})}
	if l.isClosing() {
		x.busy("The listener is closing; try again.")
		return
	}
	select {
	case l.requests <- struct{}{}:
	default:
		x.busy("The listener has its hands full; try again later.")
		return
	}
	if !l.reserve() {
		<-l.requests
		x.busy("The listener's backlog is full; try again later.")
		return
	}
	ctx, done, err := l.client.open(context.WithoutCancel(l.ctx))
	if err != nil {
		<-l.places
		<-l.requests
		return
	}
	x.ctx = ctx
	if !o.pointer() {
		ch.begin(x)
	}
	go func() {
		defer done()
		defer func() { <-l.requests }()
		if err := x.run(body); err != nil && !errors.Is(err, errSenderGone) {
			l.fault("request", err)
		}
	}()
}

// busy answers 503, where that is cheap: a request that is elsewhere is left to its
// deadline.
func (x *exchange) busy(reason string) {
	if !x.offer.pointer() {
		m := responseMessage{RequestID: x.offer.ID, StatusCode: http.StatusServiceUnavailable, StatusDescription: reason}
		m.ResponseHeaders = map[string]any{"Retry-After": "1"}
		_ = x.channel.answer(&m, nil)
	}
}

// run carries the exchange to its end.
func (x *exchange) run(body []byte) error {
	defer x.tasks.Wait()
	defer func() {
		if x.channel != nil {
			x.channel.settle(x)
		}
	}()
	if x.offer.pointer() {
		x.channel = nil
		if err := x.collect(); err != nil {
			<-x.listener.places
			return err
		}
	}
	defer x.part()
	length := len(body)
	if x.own != nil && x.offer.hasBody() {
		length = -1
	}
	head, ok := x.offer.head(x.listener.strip(x.offer.RequestTarget), length)
	if !ok {
		<-x.listener.places
		x.watch()
		return x.fail(http.StatusBadRequest, "The request can't be put into HTTP/1.1.")
	}
	near, far := net.Pipe()
	defer near.Close()
	x.listener.deliver(&served{Conn: far, local: x.listener.Addr(), remote: x.offer.RemoteEndpoint.addr(x.listener.name)})
	if x.own == nil {
		x.tasks.Go(func() { _, _ = near.Write(append(head, body...)) }) // who does not read answers all the same
	} else {
		x.tasks.Go(func() {
			defer x.own.watch()
			x.own.pass(near, head, length < 0)
		})
	}
	pieces, stop, closed := make(chan piece), make(chan struct{}), make(chan struct{})
	defer close(stop)
	x.tasks.Go(func() {
		defer close(closed)
		receive(near, x.offer.Method, pieces, stop)
	})
	if err := x.answer(pieces); err != nil {
		return err
	}
	// The server was asked to close. It knows best when it has done with the request,
	// whose context would end with the connection.
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	for {
		select {
		case <-pieces: // of no body
			continue
		case <-closed:
		case <-timer.C:
		case <-x.ctx.Done():
		}
		return nil
	}
}

// collect opens the rendezvous of a request that is there, and reads it up to its body.
func (x *exchange) collect() error {
	address := x.offer.Address
	if err := x.meet(); err != nil {
		return err
	}
	op, err := x.own.in.next()
	if err != nil {
		x.own.raw.Close()
		return errSenderGone
	}
	text, err := x.own.in.all(maxOffer)
	var o offer
	if err != nil || op != opText || json.Unmarshal(text, &o) != nil || o.Request == nil || o.Request.Method == "" {
		x.own.raw.Close()
		return fmt.Errorf("%w: no request is where one was said to be", errProtocol)
	}
	x.offer = o.Request
	x.offer.Address = address
	return nil
}

// meet opens the request's rendezvous.
func (x *exchange) meet() error {
	address, err := x.listener.client.rendezvous(x.offer.Address)
	if err != nil {
		return err
	}
	ln, _, err := x.listener.client.openLink(x.ctx, address, http.Header{})
	if err != nil {
		return err
	}
	x.own = &rendezvous{link: ln, in: newMessages(ln, 0), gone: make(chan struct{})}
	return nil
}

// move opens the rendezvous of a request that came on the control channel, which does
// not wait for it any more.
func (x *exchange) move() error {
	if err := x.meet(); err != nil {
		return err
	}
	x.channel.settle(x)
	x.channel = nil
	x.watch()
	return nil
}

func (x *exchange) watch() { x.tasks.Go(x.own.watch) }

// gone is closed when the sender has gone.
func (x *exchange) gone() <-chan struct{} {
	if x.own == nil {
		return x.cancel
	}
	return x.own.gone
}

// part ends the rendezvous, if there is one: it says goodbye if nobody has, and gives
// the gateway the time to answer.
func (x *exchange) part() {
	if x.own == nil {
		return
	}
	_ = x.own.raw.SetWriteDeadline(time.Now().Add(farewell))
	if x.own.goodbye(schemas.CloseDone.Code, "") == nil {
		timer := time.NewTimer(farewell)
		defer timer.Stop()
		select {
		case <-x.own.gone:
		case <-timer.C:
		}
	}
	x.own.raw.Close()
}

// pass writes the request to the server, its body as it comes.
func (r *rendezvous) pass(to io.Writer, head []byte, hasBody bool) {
	if _, err := to.Write(head); err != nil || !hasBody {
		return
	}
	if _, err := r.in.next(); err != nil {
		return
	}
	body := httputil.NewChunkedWriter(to)
	if _, err := io.Copy(body, r.in); err != nil || body.Close() != nil {
		return
	}
	_, _ = io.WriteString(to, "\r\n")
}

// watch reads what still comes until the rendezvous ends.
func (r *rendezvous) watch() {
	defer close(r.gone)
	for {
		if _, err := r.in.next(); err != nil {
			break
		}
	}
	_ = r.raw.SetWriteDeadline(time.Now().Add(farewell)) // nobody waits for an answer
}

// answer carries the server's answer back.
func (x *exchange) answer(pieces <-chan piece) error {
	var moving <-chan struct{}
	if x.channel != nil {
		moving = x.channel.moving
	}
	var head *http.Response
	for head == nil {
		select {
		case p := <-pieces:
			if p.err != nil {
				return x.fail(http.StatusBadGateway, "The service gave no answer that is HTTP.")
			}
			head = p.head
		case <-moving:
			if err := x.move(); err != nil {
				return err
			}
			moving = nil
		case <-x.gone():
			return errSenderGone
		case <-x.ctx.Done():
			return x.ctx.Err()
		}
	}
	m := answerTo(x.offer.ID, head)
	if head.Body == http.NoBody || x.offer.Method == http.MethodHead {
		return x.reply(&m)
	}
	m.Body = true
	begun, over, err := x.inline(&m, head, pieces, moving)
	if err != nil || over && x.channel != nil {
		return err
	}
	if x.own == nil {
		if err := x.move(); err != nil {
			return err
		}
	}
	return x.stream(&m, begun, over, pieces)
}

// inline answers on the control channel if the answer is short and soon there; over
// says that it is whole. If it was answered, the channel is still there, and else what
// there is of the body is in begun.
func (x *exchange) inline(m *responseMessage, head *http.Response, pieces <-chan piece, moving <-chan struct{}) (begun []byte, over bool, err error) {
	if x.channel == nil || head.ContentLength > inlineBody {
		return nil, false, nil
	}
	wait := time.NewTimer(inlineWait)
	defer wait.Stop()
	for {
		select {
		case p := <-pieces:
			begun = append(begun, p.data...)
			switch {
			case p.err == io.EOF && len(begun) <= inlineBody:
				if x.channel.answer(m, begun) == nil {
					return nil, true, nil
				}
				// The channel is lost; the rendezvous may not be.
				return begun, true, x.move()
			case p.err != nil && p.err != io.EOF:
				return nil, false, x.fail(http.StatusBadGateway, "The service broke its answer off.")
			case len(begun) > inlineBody:
				return begun, p.err == io.EOF, nil
			}
		case <-wait.C:
			return begun, false, nil
		case <-moving:
			return begun, false, nil
		case <-x.gone():
			return nil, false, errSenderGone
		case <-x.ctx.Done():
			return nil, false, x.ctx.Err()
		}
	}
}

// stream answers on the rendezvous, as the answer comes.
func (x *exchange) stream(m *responseMessage, begun []byte, over bool, pieces <-chan piece) error {
	defer context.AfterFunc(x.ctx, func() { _ = x.own.raw.SetDeadline(time.Now()) })()
	if err := x.own.say(m); err != nil {
		return err
	}
	op := byte(opBinary)
	write := func(data []byte) error {
		if len(data) == 0 {
			return nil
		}
		err := x.own.send(op, data)
		op = opContinuation
		return err
	}
	if err := write(begun); err != nil {
		return err
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for !over {
		select {
		case p := <-pieces:
			if err := write(p.data); err != nil {
				return err
			}
			switch p.err {
			case nil:
			case io.EOF:
				over = true
			default: // and no end of the body, so that it is not taken for whole
				_ = x.own.goodbye(schemas.CloseFault.Code, schemas.CloseFault.Word)
				return fmt.Errorf("the service broke its answer off: %w", p.err)
			}
		case <-ping.C:
			x.own.control(opPing, nil)
		case <-x.own.gone:
			return errSenderGone
		}
	}
	return x.own.send(finalBit|op, nil)
}

// reply answers without a body, wherever the request came from.
func (x *exchange) reply(m *responseMessage) error {
	if x.channel != nil {
		if x.channel.answer(m, nil) == nil {
			return nil
		}
		if err := x.move(); err != nil {
			return err
		}
	}
	return x.own.say(m)
}

// fail answers for a server that does not.
func (x *exchange) fail(status int, reason string) error {
	return x.reply(&responseMessage{
		RequestID: x.offer.ID, StatusCode: status, StatusDescription: reason, ResponseHeaders: map[string]any{},
	})
}

// say sends the message that an answer begins with.
func (r *rendezvous) say(m *responseMessage) error {
	text, err := m.text()
	if err != nil {
		return err
	}
	return r.send(finalBit|opText, text)
}

func (m *responseMessage) text() ([]byte, error) {
	return json.Marshal(map[string]*responseMessage{"response": m})
}

// answer sends an answer on the control channel, and its body right behind it, if it
// has one.
func (ch *channel) answer(m *responseMessage, body []byte) error {
	text, err := m.text()
	if err != nil {
		return err
	}
	ch.mu.Lock()
	over := ch.over
	ch.mu.Unlock()
	if over {
		return net.ErrClosed
	}
	ch.writing.Lock()
	defer ch.writing.Unlock()
	if err := ch.sendLocked(finalBit|opText, text); err != nil || !m.Body {
		return err
	}
	return ch.sendLocked(finalBit|opBinary, body)
}

// A served connection is a server's end of one in memory, with the addresses of the
// sender and of the hybrid connection.
type served struct {
	net.Conn
	local, remote net.Addr
}

func (c *served) LocalAddr() net.Addr  { return c.local }
func (c *served) RemoteAddr() net.Addr { return c.remote }

// A piece is part of an answer: its head, or some of its body; err is io.EOF with the
// last.
type piece struct {
	head *http.Response
	data []byte
	err  error
}

// receive reads an answer of the server, and then waits for the connection's end.
func receive(conn net.Conn, method string, pieces chan<- piece, stop <-chan struct{}) {
	put := func(p piece) bool {
		select {
		case pieces <- p:
			return p.err == nil
		case <-stop:
			return false
		}
	}
	in := bufio.NewReader(conn)
	var resp *http.Response
	for {
		var err error
		if resp, err = http.ReadResponse(in, &http.Request{Method: method}); err != nil {
			put(piece{err: err})
			return
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	if !put(piece{head: resp}) {
		return
	}
	// What was put is not ours any more; what is left of a buffer is.
	size := smallCopy
	b := make([]byte, size)
	for {
		n, err := resp.Body.Read(b)
		if !put(piece{data: b[:n], err: err}) {
			break
		}
		if n == len(b) {
			size = min(2*size, frameBuffer)
		}
		if b = b[n:]; len(b) < smallRead {
			b = make([]byte, size)
		}
	}
	_, _ = io.Copy(io.Discard, in)
}

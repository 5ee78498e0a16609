package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

const (
	// listenerQueue is how many messages wait for a listener to take them; with more
	// it is busy, and another is asked.
	listenerQueue = 256
	// listenerBytes is the same in bytes, about.
	listenerBytes = 4 << 20
	// listenerBusy is how many senders a listener may keep waiting at once.
	listenerBusy = 2000
	// maxControlText is the longest JSON message of a listener.
	maxControlText = 128 << 10
	// expiryGrace is how long after its token's expiry a control channel stays: some
	// clients renew at the very moment.
	expiryGrace = 3 * time.Second
)

// A listener is one control channel.
//
// Two goroutines run it: the reader, and the writer, which alone sends what is queued.
type listener struct {
	// Fixed before it runs.
	relay        *Relay
	entity       entity
	id           string // what senders may ask for it by
	number       uint64 // of this control channel, among all
	scheme, host string // by which it has reached us
	tracking     string
	remote       string
	cancels      bool // wants to hear of requests whose sender has gone
	socket       *socket
	place        *broker.Listening

	queue  chan []byte
	orders chan struct{} // the writer is to look at ending and the grant
	ended  chan struct{} // closed when the channel is over

	mu       sync.Mutex // guards what follows
	queued   int        // bytes in queue
	grant    *access.Grant
	ending   *schemas.CloseReason // why it is to close; nil while it is open
	accepted map[string]accepted  // senders that were offered and wait, by id
	left     bool                 // it takes no offers any more
}

// accepted is a sender that was handed to the listener.
type accepted struct {
	kind    byte
	gateway string
	token   string
}

// listen opens a control channel.
func (v *visit) listen() error {
	name := fold(strings.Trim(v.path, "/"))
	key := throttleKey{entity: entity{v.namespace, name[:min(len(name), maxName)]}}
	key.address, _ = v.remote()
	t := &v.relay.throttle
	err := v.tryListen()
	if err == nil {
		t.succeeded(key)
		return nil
	}
	if w := t.failed(key, time.Now(), errors.Is(err, errQuota)); w != nil {
		v.relay.metrics.throttled.WithLabelValues(v.namespace).Inc()
		timer := time.NewTimer(w.hold)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-w.release:
		case <-v.relay.halted:
		case <-v.r.Context().Done():
		}
		t.done(key, w)
	}
	return err
}

func (v *visit) tryListen() error {
	r := v.relay
	if err := v.checkHandshake(); err != nil {
		return err
	}
	if err := v.checkOrigin(); err != nil {
		return err
	}
	for len(v.segments) > 1 && v.segments[len(v.segments)-1] == "" {
		v.segments = v.segments[:len(v.segments)-1]
	}
	names, err := prefixes(v.segments)
	if err != nil {
		return err
	}
	if len(names) < len(v.segments) {
		_, err := schemas.ParseTopic(strings.Join(v.segments, "/"))
		if err == nil {
			err = schemas.Problemf("name", "The name has %d segments and %d bytes; at most %d and %d are allowed.", len(v.segments), len(v.path)-1, maxSegments, maxName)
		}
		return err
	}
	book := r.rules.Load()
	name := names[0]
	rule := book.find(entity{v.namespace, name})
	for i := 1; rule == nil && i < len(names); i++ {
		if e := (entity{v.namespace, names[i]}); book.named(e) {
			name, rule = names[i], book.find(e)
		}
	}
	grant, err := v.authorize(access.Listen, name)
	if err != nil {
		return err
	}
	v.entity = entity{v.namespace, name}
	if rule == nil {
		return errNoEndpoint()
	}
	l := &listener{
		relay: r, entity: v.entity, id: v.parameters[paramListener], number: random(), tracking: v.trackingID(),
		queue: make(chan []byte, listenerQueue), orders: make(chan struct{}, 1), ended: make(chan struct{}),
		grant: grant, accepted: map[string]accepted{}, cancels: v.parameters[paramCancels] == "true",
	}
	l.remote, _ = v.remote()
	l.scheme, l.host = v.ownAddress()
	if l.id == "" {
		l.id = fmt.Sprintf("%016x", l.number)
	} else if _, err := schemas.ParseSegment("listener id", l.id); err != nil {
		return err
	}
	if err := r.admit(l, rule); err != nil {
		return err
	}
	if l.place, err = r.rendezvous.Listen(v.r.Context(), l.entity.namespace, l.entity.name, l.id, l.offered); err != nil {
		r.dismiss(l)
		return err
	}
	var h hijacked
	headers := "TrackingId: " + v.trackingID() + "\r\n"
	if p := v.firstProtocol(); p != "" {
		headers += "Sec-WebSocket-Protocol: " + p + "\r\n"
	}
	if err := v.welcome(&h, headers); err != nil {
		l.leave()
		r.dismiss(l)
		return nil
	}
	l.mu.Lock()
	l.socket = newSocket(h, idleBuffer, r.limits.RelayPing*5/2)
	l.mu.Unlock()
	if !r.start(l.run) {
		l.leave()
		r.dismiss(l)
		h.conn.Close()
	}
	return nil
}

// firstProtocol is the first subprotocol that the handshake offers and that is no
// token: a client that offers some expects one back.
func (v *visit) firstProtocol() string {
	for _, value := range withoutBearer(v.r.Header.Values("Sec-WebSocket-Protocol")) {
		first, _, _ := strings.Cut(value, ",")
		if first = strings.Trim(first, " \t"); first != "" {
			return first
		}
	}
	return ""
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// errQuota is what a refusal is that says that there are enough listeners.
var errQuota = errors.New("relay: enough listeners")

type quotaProblem struct{ *schemas.Problem }

func (quotaProblem) Is(target error) bool { return target == errQuota }
func (q quotaProblem) Unwrap() error      { return q.Problem }

// admit takes a listener's place among those of its name and of the gateway; dismiss
// gives it back.
func (r *Relay) admit(l *listener, rule *Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return errDraining()
	case len(r.listeners) >= r.limits.RelayListeners:
		return errFull("listeners")
	case r.counts[l.entity] >= rule.Listeners:
		return quotaProblem{schemas.Problemf("forbidden", "The hybrid connection has %d listeners, which is its limit (QuotaExceeded).", rule.Listeners)}
	}
	r.counts[l.entity]++
	r.listeners[l], r.numbers[l.number] = struct{}{}, l
	return nil
}

func (r *Relay) dismiss(l *listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.listeners, l)
	delete(r.numbers, l.number)
	if r.counts[l.entity]--; r.counts[l.entity] == 0 {
		delete(r.counts, l.entity)
	}
}

// offered takes an offer, or not. It does not wait.
func (l *listener) offered(b []byte) []byte {
	o, err := parseOffer(b)
	if err != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left || l.ending != nil || len(l.accepted) >= listenerBusy || l.queued > listenerBytes {
		return nil
	}
	id := o.id
	for n := 1; ; n++ { // senders may repeat an id
		if _, used := l.accepted[id]; !used {
			break
		}
		id = fmt.Sprintf("%s_%d", o.id, n)
	}
	frames := o.frames(l.scheme, l.host, id)
	select {
	case l.queue <- frames:
	default:
		return nil
	}
	l.queued += len(frames)
	l.accepted[id] = accepted{o.kind, o.gateway, o.token}
	return taken{l.relay.rendezvous.Gateway(), l.number, l.id, id}.append(nil)
}

// frames is the offer as it goes over the control channel: a JSON message, and behind
// it the body, if it has one.
func (o *offer) frames(scheme, host, id string) []byte {
	text := o.message(scheme, host, id)
	b := make([]byte, 0, len(text)+len(o.body)+20)
	b = appendFrame(b, bitFinal|opText, text)
	if o.hasBody && !o.pointer {
		b = appendFrame(b, bitFinal|opBinary, o.body)
	}
	return b
}

// run serves the control channel until it ends.
func (l *listener) run() {
	r := l.relay
	r.metrics.listening(l)
	l.announce(schemas.NoticeListenerUp, "")
	var writer sync.WaitGroup
	writer.Go(l.write)
	ended := l.read()
	l.leave() // before anybody hears of the end
	l.end(ended)
	l.mu.Lock()
	reason := *l.ending
	l.mu.Unlock()
	l.announce(schemas.NoticeListenerDown, reason.Word)
	writer.Wait()
	l.bury()
	r.dismiss(l)
	r.metrics.listened(l, reason)
	r.logger.Info("listener gone", "namespace", l.entity.namespace, "reason", reason.Word, "tracking", l.tracking)
}

// leave takes no offers any more. It is not found any more before it refuses them: who
// finds nobody is told so, and who only meets refusals is told to try again.
func (l *listener) leave() {
	if l.place != nil {
		l.place.Leave()
	}
	l.mu.Lock()
	l.left = true
	l.mu.Unlock()
}

// bury tells the senders that wait for this listener that it is gone.
func (l *listener) bury() {
	l.mu.Lock()
	waiting := l.accepted
	l.accepted = map[string]accepted{}
	l.mu.Unlock()
	for _, a := range waiting {
		l.relay.tell(a.gateway, note{op: noteLost, token: a.token})
	}
}

// end ends the control channel, once, for a reason.
func (l *listener) end(reason schemas.CloseReason) {
	l.mu.Lock()
	if l.ending == nil {
		l.ending = &reason
	}
	l.mu.Unlock()
	l.order()
}

// order makes the writer look.
func (l *listener) order() {
	select {
	case l.orders <- struct{}{}:
	default:
	}
}

// cut ends the connection at once.
func (l *listener) cut() {
	l.end(schemas.CloseDrain)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket != nil {
		l.socket.conn.SetDeadline(time.Now().Add(time.Second)) //nolint:errcheck // it ends anyway
	}
}

// write sends what is queued, and pings, until the channel ends. It closes the
// connection.
func (l *listener) write() {
	interval := l.relay.limits.RelayPing
	ping := time.NewTicker(interval)
	defer ping.Stop()
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	l.order()
	for {
		var err error
		select {
		case frames := <-l.queue:
			err = l.socket.send(frames)
			l.mu.Lock()
			l.queued -= len(frames)
			l.mu.Unlock()
		case <-ping.C:
			err = l.socket.write(bitFinal|opPing, nil)
		case <-expiry.C:
			l.order()
		case <-l.orders:
			l.mu.Lock()
			ending, expires := l.ending, l.grant.Expires
			l.mu.Unlock()
			if ending == nil && !expires.IsZero() {
				left := time.Until(expires.Add(expiryGrace))
				if left <= 0 {
					l.end(schemas.CloseTokenExpired)
					continue
				}
				expiry.Reset(left)
			}
			if ending != nil {
				l.leave() // the listener may take long to answer
				l.close(*ending)
				return
			}
		}
		if err != nil {
			l.end(closeConnectionLost)
			l.socket.conn.Close() // so that the reader ends
			return
		}
	}
}

// closeConnectionLost never stands in a Close frame.
var closeConnectionLost = schemas.CloseReason{Word: "lost"}

// close sends the Close frame and ends the connection, after the listener has had the
// time to answer.
func (l *listener) close(reason schemas.CloseReason) {
	if reason.Code == 0 {
		l.socket.conn.Close()
		return
	}
	text := reason.Word
	if reason.Word == schemas.CloseDone.Word {
		text = "" // the answer to the listener's own Close frame
	}
	if l.socket.goodbye(reason.Code, text) != nil {
		l.socket.conn.Close()
		return
	}
	if half, ok := l.socket.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // it ends anyway
	}
	select {
	case <-l.ended:
	case <-time.After(closeWait):
	}
	l.socket.conn.Close()
}

// read takes what the listener says until the channel ends, and returns why it did.
func (l *listener) read() schemas.CloseReason {
	defer close(l.ended)
	for {
		m, err := l.socket.message()
		if err == nil && m.kind == opText {
			var text []byte
			if text, err = m.all(maxControlText); err == nil {
				err = l.heard(text)
			}
		} else if err == nil {
			err = m.skip() // a body that belongs to nothing
		}
		if err != nil {
			return closeReasonOf(err)
		}
	}
}

// errRenewal says that a new token was refused.
var errRenewal = errors.New("the new token was refused")

// heard takes a JSON message of the listener.
func (l *listener) heard(text []byte) error {
	c, ok := parseControl(text)
	switch {
	case !ok:
		return nil // other words than ours
	case c.RenewToken != nil:
		return l.renew(c.RenewToken.Token)
	case c.Response != nil:
		return l.responded(c.Response)
	}
	return nil
}

// renew takes a new token, which must be as good as the first.
func (l *listener) renew(token string) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.socket.patience)
	defer cancel()
	grant, err := l.relay.access.Check(ctx, l.entity.namespace, token)
	if err == nil {
		err = grant.Allows(access.Ask{Action: access.Listen, Name: l.entity.name})
	}
	if err != nil {
		return errRenewal
	}
	l.mu.Lock()
	l.grant = grant
	l.mu.Unlock()
	l.order()
	return nil
}

// closeReasonOf says what an error of the reading means for the control channel.
func closeReasonOf(err error) schemas.CloseReason {
	var closed closeError
	var timeout net.Error
	switch {
	case errors.As(err, &closed):
		reason := schemas.CloseDone
		reason.Code = answerCode(closed.code)
		return reason
	case errors.Is(err, errFrame):
		return schemas.CloseProtocol
	case errors.Is(err, errLong):
		return schemas.CloseTooBig
	case errors.Is(err, errRenewal):
		return schemas.CloseTokenExpired
	case errors.As(err, &timeout) && timeout.Timeout():
		return schemas.CloseSilent
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	}
	return closeConnectionLost
}

// answerCode is the code with which a Close frame is answered: its own, if it may
// stand in one.
func answerCode(code int) int {
	if code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999 {
		return code
	}
	return 1000
}

package relay

import (
	"context"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/schemas"
)

// resolve finds the hybrid connection that the address is one of, and checks that the
// sender may send to it.
func (v *visit) resolve() (*Rule, *access.Grant, error) {
	names, err := prefixes(v.segments)
	if err != nil {
		return nil, nil, err
	}
	if v.bound != "" {
		names = []string{v.bound} // the whole path is the suffix
	}
	book := v.relay.rules.Load()
	for _, name := range names {
		e := entity{v.namespace, name}
		named := book.named(e)
		if !named && book.find(e) == nil {
			continue
		}
		if !named {
			listened, err := v.relay.rendezvous.Listened(v.r.Context(), e.namespace, e.name)
			if err != nil {
				return nil, nil, err
			}
			if !listened {
				continue
			}
		}
		v.entity = e
		rule := book.find(e)
		grant, err := v.authorizeSender(rule, e)
		return rule, grant, err
	}
	// There is none. Who could send to none of the names must not learn that.
	var refused error
	for _, name := range names {
		rule := book.find(entity{v.namespace, name})
		if _, err := v.authorizeSender(rule, entity{v.namespace, name}); err != nil {
			if refused == nil {
				refused = err
			}
			continue
		}
		v.entity = entity{v.namespace, names[0]}
		for _, name := range names {
			if book.find(entity{v.namespace, name}) != nil {
				return nil, nil, schemas.Problemf("no-listener", "There are no listeners connected for the endpoint.")
			}
		}
		return nil, nil, errNoEndpoint()
	}
	return nil, nil, refused
}

func errNoEndpoint() *schemas.Problem {
	return schemas.Problemf("not-found", "Endpoint does not exist.")
}

// authorizeSender asks for the right to send. Where the rule lets anonymous senders
// in, a token that can only be for us must be good all the same.
func (v *visit) authorizeSender(rule *Rule, e entity) (*access.Grant, error) {
	if rule != nil && rule.AnonymousSenders && !access.CarriesRelayed(v.r) {
		return &access.Grant{}, nil
	}
	return v.authorize(access.Send, e.name)
}

// connect offers a sender's WebSocket to a listener and joins the two.
func (v *visit) connect() error {
	r := v.relay
	if err := v.checkHandshake(); err != nil {
		return err
	}
	if err := v.checkOrigin(); err != nil {
		return err
	}
	rule, grant, err := v.resolve()
	if err != nil {
		return err
	}
	if rule.NoWebSocket {
		return schemas.Problemf("parameter", "This hybrid connection takes HTTP requests only; send one without Upgrade and without /$hc.")
	}
	if err := r.roomForSplice(); err != nil {
		return err
	}
	m, err := r.meetings.open(kindAccept, v.entity)
	if err != nil {
		return err
	}
	defer r.meetings.close(m)
	m.extensions = v.r.Header.Values("Sec-WebSocket-Extensions")

	o := v.offer(m)
	o.members = append(o.members, `,"connectHeaders":`...)
	o.members = appendHeaders(o.members, v.r.Host, v.r.Header, func(name string, values []string) []string {
		return v.connectHeader(name, values, grant)
	})
	o.members = v.appendRemote(o.members)
	ctx, cancel := context.WithTimeout(v.r.Context(), r.limits.RelayAccept)
	defer cancel()
	taken, err := v.ask(ctx, rule, o)
	if err != nil {
		return err
	}
	defer r.done(taken)
	a, err := v.await(ctx, m)
	if err != nil {
		return err
	}
	if a.refused != nil {
		r.metrics.refused(v, "rejected")
		return *a.refused
	}
	return v.join(a)
}

// offer is one for this sender, but for its members.
func (v *visit) offer(m *meeting) *offer {
	return &offer{
		kind: m.kind, gateway: v.relay.rendezvous.Gateway(), token: m.token,
		path: v.path, query: filterQuery(v.query), id: v.tracking,
	}
}

func (v *visit) appendRemote(b []byte) []byte {
	address, port := v.remote()
	b = append(b, `,"remoteEndpoint":{"address":`...)
	b = appendString(b, address)
	b = append(b, `,"port":`...)
	return append(strconv.AppendInt(b, int64(port), 10), '}')
}

// connectHeader says what of a handshake's header the listener gets: all but the
// token.
func (v *visit) connectHeader(name string, values []string, grant *access.Grant) []string {
	switch name {
	case "Servicebusauthorization":
		return nil
	case "Authorization":
		if grant.Source == access.Authorization {
			return nil
		}
	case "Sec-Websocket-Protocol":
		return withoutBearer(values)
	case "Cookie":
		return withoutSession(values)
	}
	return values
}

// withoutBearer takes the tokens out of offered subprotocols.
func withoutBearer(values []string) []string {
	var kept []string
	for _, value := range values {
		if !strings.Contains(value, schemas.SubprotocolBearerPrefix) {
			kept = append(kept, value)
			continue
		}
		var items []string
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.Trim(item, " \t"); !strings.HasPrefix(item, schemas.SubprotocolBearerPrefix) {
				items = append(items, item)
			}
		}
		if len(items) > 0 {
			kept = append(kept, strings.Join(items, ", "))
		}
	}
	return kept
}

// A taken offer is in a listener's hands.
type taken struct {
	gateway  string
	listener uint64
	name     string // the id of the listener
	id       string // of the sender, as the listener knows it
}

// offer hands an offer to a listener.
func (r *Relay) offer(ctx context.Context, e entity, listener string, o *offer) (taken, error) {
	b := o.append(make([]byte, 0, 256+len(o.members)+len(o.path)+len(o.query)+len(o.body)))
	// A sender that goes away meanwhile must not hide which listener has taken it, who
	// is to be told.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.limits.RelayAccept)
	defer cancel()
	answer, err := r.rendezvous.Offer(ctx, e.namespace, e.name, listener, b)
	if err != nil {
		return taken{}, err
	}
	const fixed = tokenGateway + 8
	if len(answer) < fixed {
		return taken{}, errOffer
	}
	name, id, ok := strings.Cut(string(answer[fixed:]), "\n")
	if !ok {
		return taken{}, errOffer
	}
	return taken{
		gateway: string(answer[:tokenGateway]), listener: binary.BigEndian.Uint64(answer[tokenGateway:]), name: name, id: id,
	}, nil
}

func (t taken) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, t.gateway...), t.listener)
	return append(append(append(b, t.name...), '\n'), t.id...)
}

// lostGrace is how long a sender waits for a listener whose control channel is gone:
// it may be dialing already.
const lostGrace = time.Second

// await waits for the listener to come to the meeting.
func (v *visit) await(ctx context.Context, m *meeting) (arrival, error) {
	var grace <-chan time.Time
	lost := m.lost
	for {
		select {
		case a := <-m.joined:
			return a, nil
		case <-lost:
			lost = nil
			grace = time.After(lostGrace)
		case <-grace:
			return arrival{}, errLost()
		case <-ctx.Done():
			if v.r.Context().Err() != nil {
				return arrival{}, context.Canceled
			}
			return arrival{}, schemas.Problemf("listener-timeout", "None of the connected listeners accepted the connection within the allowed time.")
		}
	}
}

func errLost() *schemas.Problem {
	return schemas.Problemf("listener-failed", "The listener's connection was lost before it answered; try again.")
}

// join answers the sender's handshake, after the listener's was answered, and starts
// the splice.
func (v *visit) join(a arrival) error {
	r := v.relay
	if err := r.reserveSplice(); err != nil {
		goAway(a.conn)
		return err
	}
	defer r.releaseSplice()
	var headers strings.Builder
	if a.protocol != "" {
		headers.WriteString("Sec-WebSocket-Protocol: " + a.protocol + "\r\n")
	}
	if a.extensions != "" {
		headers.WriteString("Sec-WebSocket-Extensions: " + a.extensions + "\r\n")
	}
	headers.WriteString("TrackingId: " + v.trackingID() + "\r\n")
	if cookie := v.sessionCookie(); cookie != "" {
		headers.WriteString("Set-Cookie: " + cookie + "\r\n")
	}
	clear(v.w.Header())
	v.answered = true
	sender, err := hijack(v.w)
	if err != nil {
		goAway(a.conn)
		return nil
	}
	sender.conn.SetWriteDeadline(time.Now().Add(answerTimeout)) //nolint:errcheck // the write will say it
	if _, err := sender.conn.Write(switching(v.r.Header.Get("Sec-WebSocket-Key"), headers.String())); err != nil {
		sender.conn.Close()
		goAway(a.conn)
		return nil
	}
	sender.conn.SetDeadline(time.Time{}) //nolint:errcheck // the splice will notice
	a.conn.SetDeadline(time.Time{})      //nolint:errcheck // the splice will notice
	s := newSplice(r, v.namespace, sender, a.hijacked, a.extensions != "")
	if !r.splice(s) {
		s.cut()
	}
	return nil
}

// roomForSplice says whether another pair may be joined.
func (r *Relay) roomForSplice() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fits()
}

// fits is the same while mu is held.
func (r *Relay) fits() error {
	switch {
	case r.draining:
		return errDraining()
	case len(r.splices)+r.joining >= r.limits.RelayConnections:
		return errFull("joined connections")
	}
	return nil
}

// reserveSplice takes the place of one that is about to be joined.
func (r *Relay) reserveSplice() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fits(); err != nil {
		return err
	}
	r.joining++
	return nil
}

func (r *Relay) releaseSplice() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joining--
}

// splice runs one in a goroutine of its own, so that what net/http holds for the
// handshakes goes.
func (r *Relay) splice(s *splice) bool {
	r.mu.Lock()
	if r.draining {
		r.mu.Unlock()
		return false
	}
	r.splices[s] = struct{}{}
	r.mu.Unlock()
	over := func() {
		r.mu.Lock()
		delete(r.splices, s)
		r.mu.Unlock()
		r.metrics.closed(s)
	}
	r.metrics.opened(s)
	if !r.start(func() { s.run(); over() }) {
		over()
		return false
	}
	return true
}

// goAway closes a rendezvous whose sender has gone: its listener is told, and has the
// time to read it.
func goAway(c interface {
	Write([]byte) (int, error)
	Close() error
	SetDeadline(time.Time) error
}) {
	c.SetDeadline(time.Now().Add(closeWait))                                        //nolint:errcheck // it ends anyway
	c.Write(closeFrame(schemas.CloseSenderGone.Code, schemas.CloseSenderGone.Word)) //nolint:errcheck // it ends anyway
	c.Close()
}

// accept answers a listener that dials the address of a meeting.
func (v *visit) accept() error {
	kind := byte(kindAccept)
	if v.action == actionRequest {
		kind = kindRequest
	}
	status, declines := v.parameters[paramStatus]
	var declined *refusal
	if declines && kind == kindAccept {
		n, err := strconv.Atoi(status)
		if err != nil || n < 100 || n > 999 {
			return schemas.Problemf("parameter", "The parameter sb-hc-statusCode must be a number from 100 to 999.")
		}
		if n < 200 {
			n = http.StatusBadGateway // a status of the 100s ends no handshake, and 101 would open one
		}
		reason := v.parameters[paramDescription]
		if reason == "" {
			reason = http.StatusText(n)
		}
		declined = &refusal{n, reason}
	}
	if err := v.checkHandshake(); err != nil {
		return err
	}
	names, err := prefixes(v.segments)
	if err != nil {
		return err
	}
	token := v.parameters[paramRendezvous]
	if v.relay.meetings.foreign(token) {
		return v.acceptElsewhere(kind, names, token, declined)
	}
	m, genuine := v.relay.meetings.take(kind, v.namespace, names, token)
	switch {
	case m == nil && genuine && kind == kindRequest:
		return v.turnAway()
	case m == nil:
		return errStaleAddress()
	}
	v.entity = m.entity
	if declined != nil {
		select {
		case m.joined <- arrival{refused: declined}:
		case <-m.over:
		}
		return refusal{http.StatusGone, "Gone"}
	}
	a := arrival{extensions: agreed(m.extensions, v.r.Header.Values("Sec-WebSocket-Extensions"))}
	a.scheme, a.host = v.ownAddress()
	a.protocol = strings.Join(v.r.Header.Values("Sec-WebSocket-Protocol"), ", ")
	headers := "TrackingId: " + v.trackingID() + "\r\n"
	if a.protocol != "" {
		headers += "Sec-WebSocket-Protocol: " + a.protocol + "\r\n"
	}
	if a.extensions != "" {
		headers += "Sec-WebSocket-Extensions: " + a.extensions + "\r\n"
	}
	if err := v.welcome(&a.hijacked, headers); err != nil {
		return nil // the listener has gone; the sender waits for its time
	}
	select {
	case m.joined <- a:
	case <-m.over:
		v.partWithLate(kind, a.hijacked)
	}
	return nil
}

// agreed is what of a listener's Sec-WebSocket-Extensions goes into both answers. A
// listener of Azure's protocol puts there what it chose of the sender's offer, and it
// is copied. Any other WebSocket library puts there an offer of its own, to a server
// that speaks no extension: that is recognised by an extension that the sender did not
// offer, or by a parameter that only an offer can have (RFC 7692 section 7.1.2.2).
func agreed(offered, chosen []string) string {
	if len(offered) == 0 || len(chosen) == 0 {
		return ""
	}
	offers := map[string]bool{}
	for _, value := range offered {
		for item := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(item, ";")
			offers[strings.ToLower(strings.Trim(name, " \t"))] = true
		}
	}
	text := strings.Join(chosen, ", ")
	for item := range strings.SplitSeq(text, ",") {
		name, rest, _ := strings.Cut(item, ";")
		if !offers[strings.ToLower(strings.Trim(name, " \t"))] {
			return ""
		}
		for parameter := range strings.SplitSeq(rest, ";") {
			if strings.EqualFold(strings.Trim(parameter, " \t"), "client_max_window_bits") {
				return ""
			}
		}
	}
	return text
}

// welcome answers a listener's handshake.
func (v *visit) welcome(h *hijacked, headers string) error {
	clear(v.w.Header())
	v.answered = true
	var err error
	if *h, err = hijack(v.w); err != nil {
		return err
	}
	h.conn.SetDeadline(time.Now().Add(answerTimeout)) //nolint:errcheck // the write will say it
	if _, err := h.conn.Write(switching(v.r.Header.Get("Sec-WebSocket-Key"), headers)); err != nil {
		h.conn.Close()
		return err
	}
	return nil
}

// turnAway welcomes a listener that comes too late to answer a request: some clients
// do not survive a refusal.
func (v *visit) turnAway() error {
	var h hijacked
	if v.welcome(&h, "TrackingId: "+v.trackingID()+"\r\n") == nil {
		v.partWithLate(kindRequest, h)
	}
	return nil
}

// partWithLate tells a listener that its sender has gone.
func (v *visit) partWithLate(kind byte, h hijacked) {
	if kind == kindRequest {
		v.relay.partWith(newSocket(h, idleBuffer, closeWait), schemas.CloseSenderGone)
		return
	}
	goAway(h.conn)
}

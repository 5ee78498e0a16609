package subscriber

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// mostRefusals is how many offers a listener refuses at once; it lets others pass,
// and their senders wait until their time is over.
const mostRefusals = 16

// An acceptOffer is a sender's WebSocket.
type acceptOffer struct {
	Address        string            `json:"address"`
	ID             string            `json:"id"`
	ConnectHeaders map[string]string `json:"connectHeaders"`
	RemoteEndpoint remoteEndpoint    `json:"remoteEndpoint"`
}

// offered takes a sender's WebSocket, or refuses it. It does not wait.
func (l *Listener) offered(o *acceptOffer) {
	switch {
	case l.isClosing():
		l.refuse(o, http.StatusServiceUnavailable, "The listener is closing; try again.")
	case !l.reserve():
		l.refuse(o, http.StatusServiceUnavailable, "The listener's backlog is full; try again later.")
	default:
		l.tasks.Go(func() {
			if !l.accept(o) {
				<-l.places
			}
		})
	}
}

// accept dials back to a sender and puts the connection into the backlog.
func (l *Listener) accept(o *acceptOffer) bool {
	header := make(http.Header, len(o.ConnectHeaders))
	for name, value := range o.ConnectHeaders {
		header.Set(name, value)
	}
	if l.options.Upgrades && header.Get(headerStream) != streamBytes {
		return l.upgrade(o, header)
	}
	address, err := l.client.rendezvous(o.Address)
	if err != nil {
		l.fault("accept", err)
		return false
	}
	// A sender that insists on a subprotocol gets its first one.
	answer := http.Header{}
	if first, _, _ := strings.Cut(header.Get("Sec-WebSocket-Protocol"), ","); first != "" {
		answer.Set("Sec-WebSocket-Protocol", strings.TrimSpace(first))
	}
	ln, _, err := l.client.openLink(l.ctx, address, answer)
	if err != nil {
		l.fault("accept", err)
		return false
	}
	conn, err := l.client.newConn(ln, l.Addr(), o.RemoteEndpoint.addr(l.name))
	if err != nil {
		return false
	}
	conn.header, conn.target = header, l.target(o.Address)
	l.deliver(conn)
	return true
}

// refuse tells a sender that nobody takes its connection.
func (l *Listener) refuse(o *acceptOffer, status int, reason string) {
	select {
	case l.refusing <- struct{}{}:
	default:
		return
	}
	l.tasks.Go(func() {
		defer func() { <-l.refusing }()
		l.reject(l.ctx, o, status, reason)
	})
}

// reject answers a sender's handshake with a status.
func (l *Listener) reject(ctx context.Context, o *acceptOffer, status int, reason string) {
	address, err := l.client.rendezvous(o.Address)
	if err != nil {
		l.fault("reject", err)
		return
	}
	more := url.Values{"sb-hc-statusCode": {strconv.Itoa(status)}, "sb-hc-statusDescription": {reason}}
	ln, _, err := l.client.openLink(ctx, address+"&"+more.Encode(), http.Header{})
	if err == nil { // the gateway answers 410
		ln.raw.Close()
	}
}

// target is what of an address of the relay comes behind the listener's name.
func (l *Listener) target(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "/"
	}
	_, path, _ := strings.Cut(u.EscapedPath(), "/$hc/")
	var kept []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, valued := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); err == nil && valued && len(decoded) >= 6 && strings.EqualFold(decoded[:6], "sb-hc-") {
			continue
		}
		kept = append(kept, part)
	}
	target := l.strip("/" + path)
	if query := strings.Join(kept, "&"); query != "" {
		target += "?" + query
	}
	return target
}

// strip takes the listener's name off a path with its query, as much of the name as is
// there.
func (l *Listener) strip(target string) string {
	path, query, asked := strings.Cut(target, "?")
	if l.options.KeepName || !strings.HasPrefix(path, "/") {
		return target
	}
	for segment := range strings.SplitSeq(l.name, "/") {
		first, behind, more := strings.Cut(path[1:], "/")
		if decoded, err := url.PathUnescape(first); err != nil || !strings.EqualFold(decoded, segment) {
			break
		}
		if path = "/" + behind; !more {
			break
		}
	}
	if asked {
		path += "?" + query
	}
	return path
}

// fault says what went wrong with a sender.
func (l *Listener) fault(what string, err error) {
	l.client.config.Logger.LogAttrs(l.ctx, levelRetry, "a sender is lost", attrName(l.name), attrWhat(what), attrErr(err))
}

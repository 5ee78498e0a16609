package relay

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/outrelay/outrelay/schemas"
)

// A tunnel carries the connection of a listener that has dialed another gateway than
// the one at which its sender waits: bytes as they come, both ways, in notes between
// the two gateways. The sender's gateway has a pipe in the place of the connection.
//
// Two goroutines run each of its ends: one reads the connection, or pipe, and tells;
// one writes there what it is told.
type tunnel struct {
	relay   *Relay
	gateway string // at the other end
	id      uint64
	answers chan tunnelAnswer // at the listener's end: what the other says to the opening
	begun   chan struct{}     // at the sender's end: closed when the listener was welcomed
	over    chan struct{}     // closed when nothing goes any more
	begin   func()
	end     func()
	changed chan struct{} // there is something to write, or room to tell more

	mu       sync.Mutex // guards what follows
	queue    [][]byte   // told, not yet written; nil at the end of the other side
	queued   int
	next     uint64 // the number of the next note
	room     int    // bytes that may be told until the other has written some
	heard    time.Time
	finished bool // the other side's end is in the queue
}

const (
	// tunnelWindow is what one side may be ahead of the other.
	tunnelWindow = 256 << 10
	// tunnelBeat is how often a silent end says that it is there; one that was not heard
	// of for three times as long is gone.
	tunnelBeat = 10 * time.Second
	// tunnelOpening is for the other gateway to answer.
	tunnelOpening = 5 * time.Second
)

// What one end of a tunnel tells the other.
const (
	tunnelOpen    = 'o' // a listener is here, with JSON of a tunnelOffer
	tunnelReply   = 'r' // JSON of a tunnelAnswer
	tunnelWelcome = 'w' // the listener was welcomed
	tunnelData    = 'd'
	tunnelRoom    = 'a' // so many bytes were written
	tunnelEnd     = 'e' // no more data
	tunnelCut     = 'c' // no more at all
)

// A tunnelOffer is what a listener's gateway says of it to the sender's.
type tunnelOffer struct {
	Gateway, Token string
	Kind           byte
	Namespace      string
	Names          []string
	Protocol       string
	Extensions     []string
	Scheme, Host   string
	DeclinedStatus int // 0 if the listener has come to join
	DeclinedReason string
}

// A tunnelAnswer is whether it is waited for.
type tunnelAnswer struct {
	Waiting, Genuine bool
	Extensions       string
}

func (r *Relay) newTunnel(gateway string, id uint64) *tunnel {
	t := &tunnel{
		relay: r, gateway: gateway, id: id, answers: make(chan tunnelAnswer, 1), begun: make(chan struct{}), over: make(chan struct{}),
		changed: make(chan struct{}, 2), room: tunnelWindow, heard: time.Now(),
	}
	t.begin = sync.OnceFunc(func() { close(t.begun) })
	t.end = sync.OnceFunc(func() { close(t.over) })
	r.mu.Lock()
	r.tunnels[id] = t
	r.mu.Unlock()
	return t
}

func (t *tunnel) forget() {
	t.end()
	t.relay.mu.Lock()
	delete(t.relay.tunnels, t.id)
	t.relay.mu.Unlock()
}

func (t *tunnel) tell(op byte, number uint64, data []byte) {
	t.relay.tell(t.gateway, note{op: noteTunnel, listener: t.id, flags: op, number: number, data: data})
}

// acceptElsewhere answers a listener whose sender waits at another gateway.
func (v *visit) acceptElsewhere(kind byte, names []string, token string, declined *refusal) error {
	gateway := token[:tokenGateway]
	if !v.relay.rendezvous.There(v.r.Context(), gateway) {
		// Where there are several, it may have been one's that is gone.
		if kind == kindRequest && !v.relay.rendezvous.Alone() {
			return v.turnAway()
		}
		return errStaleAddress()
	}
	t := v.relay.newTunnel(gateway, random())
	o := tunnelOffer{
		Gateway: v.relay.rendezvous.Gateway(), Token: token, Kind: kind, Namespace: v.namespace, Names: names,
		Protocol: strings.Join(v.r.Header.Values("Sec-WebSocket-Protocol"), ", "), Extensions: v.r.Header.Values("Sec-WebSocket-Extensions"),
	}
	o.Scheme, o.Host = v.ownAddress()
	if declined != nil {
		o.DeclinedStatus, o.DeclinedReason = declined.status, declined.reason
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.forget()
		return err
	}
	t.tell(tunnelOpen, 0, text)
	timer := time.NewTimer(tunnelOpening)
	defer timer.Stop()
	var a tunnelAnswer
	select {
	case a = <-t.answers:
	case <-timer.C:
		a.Genuine = true // perhaps: its gateway is gone
	case <-t.over:
	case <-v.r.Context().Done():
	}
	switch {
	case a.Waiting && declined != nil:
		t.forget()
		return refusal{http.StatusGone, "Gone"}
	case !a.Waiting:
		t.forget()
		if a.Genuine && kind == kindRequest {
			return v.turnAway()
		}
		return errStaleAddress()
	}
	headers := "TrackingId: " + v.trackingID() + "\r\n"
	if o.Protocol != "" {
		headers += "Sec-WebSocket-Protocol: " + o.Protocol + "\r\n"
	}
	if a.Extensions != "" {
		headers += "Sec-WebSocket-Extensions: " + a.Extensions + "\r\n"
	}
	var h hijacked
	if v.welcome(&h, headers) != nil {
		t.tell(tunnelCut, 0, nil)
		t.forget()
		return nil
	}
	h.conn.SetDeadline(time.Time{}) //nolint:errcheck // the tunnel ends by what its ends say
	t.tell(tunnelWelcome, 0, nil)
	if !v.relay.start(func() { t.run(h) }) {
		h.conn.Close()
		t.forget()
	}
	return nil
}

// opened takes the opening of a tunnel from a listener's gateway. It does not wait.
func (r *Relay) opened(id uint64, text []byte) {
	var o tunnelOffer
	if json.Unmarshal(text, &o) != nil {
		return
	}
	t := r.newTunnel(o.Gateway, id)
	m, genuine := r.meetings.take(o.Kind, o.Namespace, o.Names, o.Token)
	a := tunnelAnswer{Waiting: m != nil, Genuine: genuine}
	if m != nil && o.DeclinedStatus == 0 {
		a.Extensions = agreed(m.extensions, o.Extensions)
	}
	answer, err := json.Marshal(a)
	if err != nil {
		panic(err) // it can always be written
	}
	t.tell(tunnelReply, 0, answer)
	if m == nil || !r.start(func() { t.bring(m, o, a.Extensions) }) {
		t.forget()
	}
}

// bring brings the listener at the other end to the meeting.
func (t *tunnel) bring(m *meeting, o tunnelOffer, extensions string) {
	if o.DeclinedStatus != 0 {
		defer t.forget()
		select {
		case m.joined <- arrival{refused: &refusal{o.DeclinedStatus, o.DeclinedReason}}:
		case <-m.over:
		}
		return
	}
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case <-t.begun:
	case <-t.over:
		t.forget()
		return
	case <-timer.C:
		t.tell(tunnelCut, 0, nil)
		t.forget()
		return
	}
	near, far := net.Pipe()
	a := arrival{hijacked: hijacked{conn: near}, scheme: o.Scheme, host: o.Host, protocol: o.Protocol, extensions: extensions}
	select {
	case m.joined <- a:
	case <-m.over:
		t.relay.partWith(newSocket(a.hijacked, idleBuffer, closeWait), schemas.CloseSenderGone)
	}
	t.run(hijacked{conn: far})
}

// run carries bytes both ways until both sides have ended, or the tunnel is cut.
func (t *tunnel) run(h hijacked) {
	defer t.forget()
	var tasks sync.WaitGroup
	tasks.Go(func() { t.read(h) })
	tasks.Go(func() {
		<-t.over
		h.conn.SetDeadline(longAgo) //nolint:errcheck // it ends anyway
	})
	if t.write(h.conn) {
		// The other side has ended; what it said last may still be on its way.
		linger(h.conn, closeWait)
	}
	h.conn.Close()
	t.end()
	tasks.Wait()
}

// read tells the other end what comes on the connection.
func (t *tunnel) read(h hijacked) {
	in := h.reader()
	buffer := bulkBuffers.Get().(*[headroom + bulkBuffer]byte)
	defer bulkBuffers.Put(buffer)
	for number := uint64(1); ; number++ {
		room := t.await()
		if room == 0 {
			return
		}
		n, err := in.Read(buffer[:min(room, bulkBuffer)])
		if n > 0 {
			t.mu.Lock()
			t.room -= n
			t.mu.Unlock()
			t.tell(tunnelData, number, buffer[:n])
		}
		if err != nil {
			if n > 0 {
				number++
			}
			t.tell(tunnelEnd, number, nil)
			return
		}
		if n == 0 {
			number--
		}
	}
}

// await waits for room, and returns how much there is; 0 once the tunnel is over.
func (t *tunnel) await() int {
	for {
		t.mu.Lock()
		room := t.room
		t.mu.Unlock()
		if room > 0 {
			return room
		}
		select {
		case <-t.changed:
		case <-t.over:
			return 0
		}
	}
}

// write writes to the connection what the other end tells. It reports whether the
// other side has ended well. What can't be written any more is taken all the same: the
// other side, which is told by our end, may have a last word on its way to its client.
func (t *tunnel) write(c net.Conn) bool {
	gone := false
	for {
		t.mu.Lock()
		var b []byte
		waiting := len(t.queue) > 0
		if waiting {
			b = t.queue[0]
			t.queue = t.queue[1:]
			t.queued -= len(b)
		}
		t.mu.Unlock()
		switch {
		case waiting && b == nil:
			return true
		case waiting:
			if !gone {
				_, err := c.Write(b)
				gone = err != nil
			}
			t.tell(tunnelRoom, uint64(len(b)), nil)
		default:
			select {
			case <-t.changed:
			case <-t.over:
				return false
			}
		}
	}
}

// hear takes what the other end tells. It does not wait.
func (t *tunnel) hear(n note) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = time.Now()
	switch n.flags {
	case tunnelReply:
		var a tunnelAnswer
		if json.Unmarshal(n.data, &a) == nil {
			select {
			case t.answers <- a:
			default:
			}
		}
	case tunnelWelcome:
		t.begin()
	case tunnelData, tunnelEnd:
		t.next++
		// A note that was lost, or too many, leave no sense in the rest.
		if n.number != t.next || t.finished || t.queued+len(n.data) > tunnelWindow {
			t.end()
			return
		}
		b := append([]byte(nil), n.data...) // nil for the end
		t.finished = n.flags == tunnelEnd
		t.queue = append(t.queue, b)
		t.queued += len(b)
	case tunnelRoom:
		t.room = min(t.room+int(min(n.number, tunnelWindow)), tunnelWindow)
	case tunnelCut:
		t.end()
	}
	// Both who writes and who waits for room may be asleep.
	for range 2 {
		select {
		case t.changed <- struct{}{}:
		default:
		}
	}
}

// tunnelled is how many tunnels have an end here.
func (r *Relay) tunnelled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tunnels)
}

// noteTunnel takes a note about a tunnel.
func (r *Relay) noteTunnel(n note) {
	if n.flags == tunnelOpen {
		r.opened(n.listener, n.data)
		return
	}
	r.mu.Lock()
	t := r.tunnels[n.listener]
	r.mu.Unlock()
	if t != nil {
		t.hear(n)
	}
}

// sweepTunnels says to the other ends that these are there, and cuts those whose other
// end is not. It is called every second.
func (r *Relay) sweepTunnels(now time.Time) {
	r.mu.Lock()
	var all []*tunnel
	for _, t := range r.tunnels {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		silent := now.Sub(t.heard)
		t.mu.Unlock()
		if silent > 3*tunnelBeat {
			t.end()
		}
		if now.Unix()%int64(tunnelBeat/time.Second) == 0 {
			t.tell(tunnelRoom, 0, nil)
		}
	}
}

// foreign says whether a token may be another gateway's.
func (m *meetings) foreign(token string) bool {
	return len(token) == tokenLength && strings.Trim(token, "0123456789abcdef") == "" && !strings.HasPrefix(token, m.gateway)
}

func errStaleAddress() *schemas.Problem {
	return schemas.Problemf("forbidden", "The address is not good, or not any more: each is good once, for a short time.")
}

// appendTunnel writes what a note of a tunnel has.
func (n note) appendTunnel(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint64(b, n.listener), n.flags)
	return append(binary.AppendUvarint(b, n.number), n.data...)
}

// parseTunnel reads it. It shares b's memory.
func (n *note) parseTunnel(b []byte) bool {
	if len(b) < 9 {
		return false
	}
	n.listener, n.flags = binary.BigEndian.Uint64(b), b[8]
	number, size := binary.Uvarint(b[9:])
	if size <= 0 {
		return false
	}
	n.number, n.data = number, b[9+size:]
	return true
}

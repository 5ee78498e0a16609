package relay

import "encoding/binary"

// A note is what one gateway tells another.
type note struct {
	op       byte
	token    string // noteLost: of the meeting
	listener uint64 // noteDone, noteGone: whose
	id       string // noteDone, noteGone: which of its senders

	// noteAnswer: a piece of an answer. noteTunnel: listener is the tunnel's number.
	flags  byte
	number uint64
	data   []byte // not kept
}

const (
	noteVersion = 1
	noteLost    = 'l' // to the sender's: the listener's control channel is gone
	noteDone    = 'd' // to the listener's: the sender waits no more
	noteGone    = 'g' // to the listener's: the same, and it had no answer
	noteAnswer  = 'a' // to the sender's: a piece of the answer to its request
	noteTunnel  = 't' // about a listener's connection that the other gateway has
)

func (n note) append(b []byte) []byte {
	b = append(b, noteVersion, n.op)
	switch n.op {
	case noteLost:
		b = append(b, n.token...)
	case noteAnswer:
		b = n.appendPiece(b)
	case noteTunnel:
		b = n.appendTunnel(b)
	case noteDone, noteGone:
		b = append(binary.BigEndian.AppendUint64(b, n.listener), n.id...)
	}
	return b
}

func parseNote(b []byte) (n note, ok bool) {
	if len(b) < 2 || b[0] != noteVersion {
		return n, false
	}
	n.op, b = b[1], b[2:]
	switch n.op {
	case noteLost:
		n.token = string(b)
	case noteAnswer:
		return n, n.parsePiece(b)
	case noteTunnel:
		return n, n.parseTunnel(b)
	case noteDone, noteGone:
		if len(b) < 8 {
			return n, false
		}
		n.listener, n.id = binary.BigEndian.Uint64(b), string(b[8:])
	default:
		return n, false
	}
	return n, true
}

// tell tells a gateway something, if it can be told.
func (r *Relay) tell(gateway string, n note) {
	if gateway == r.rendezvous.Gateway() {
		r.note(n)
		return
	}
	r.rendezvous.Tell(gateway, n.append(nil)) //nolint:errcheck // what is not told runs into its time limit
}

// hear takes what a gateway tells.
func (r *Relay) hear(b []byte) {
	if n, ok := parseNote(b); ok {
		r.note(n)
	}
}

func (r *Relay) note(n note) {
	switch n.op {
	case noteLost:
		if m := r.meetings.find(n.token); m != nil {
			select {
			case m.lost <- struct{}{}:
			default:
			}
		}
	case noteAnswer:
		r.piece(n)
	case noteTunnel:
		r.noteTunnel(n)
	case noteDone, noteGone:
		r.mu.Lock()
		l := r.numbers[n.listener]
		r.mu.Unlock()
		if l != nil {
			l.done(n.id, n.op == noteGone)
		}
	}
}

// done tells a listener's gateway that the sender waits no more.
func (r *Relay) done(t taken) {
	r.tell(t.gateway, note{op: noteDone, listener: t.listener, id: t.id})
}

// gone tells it as well that the sender got no answer.
func (r *Relay) gone(t taken) {
	r.tell(t.gateway, note{op: noteGone, listener: t.listener, id: t.id})
}

func (l *listener) done(id string, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, waited := l.accepted[id]
	delete(l.accepted, id)
	if gone && waited && a.kind == kindRequest && l.cancels {
		l.cancel(id)
	}
}

package relay

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/outrelay/outrelay/schemas"
)

// An answer is what a listener has answered to a request on its control channel, on
// its way to the sender's gateway.
type answer struct {
	response response
	body     []byte
	held     int64 // bytes of the body that the budget counts
	// problem is what is wrong with the answer; nil if nothing is.
	problem *schemas.Problem
}

// responded takes the answer to an HTTP request, with its body. It is called by the
// control channel's reader. The error ends the channel.
func (l *listener) responded(text []byte) error {
	r, wrong := parseResponse(text)
	a := &answer{response: r}
	if wrong != nil {
		a.problem = errAnswer(wrong.Error())
	}
	id, to, waiting := l.waitsFor(r.id)
	if r.body {
		m, err := l.socket.message()
		if err != nil {
			return err
		}
		if waiting && a.problem == nil {
			err = l.gather(m, a)
		}
		if err == nil {
			err = m.skip()
		}
		if err != nil {
			l.relay.bodies.give(a.held)
			return err
		}
	}
	// While the body came the sender may have gone.
	if !waiting || !l.settle(id) {
		l.relay.bodies.give(a.held)
		return nil
	}
	l.relay.deliver(to, a, text)
	return nil
}

// waitsFor finds the request that an answer is for. A listener may leave out the
// suffix that tells requests apart which came with the same id.
func (l *listener) waitsFor(id string) (string, accepted, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.accepted[id]; ok {
		return id, a, a.kind == kindRequest
	}
	found, count := "", 0
	if id != "" {
		for long, a := range l.accepted {
			if a.kind == kindRequest && strings.HasPrefix(long, id+"_") {
				found = long
				count++
			}
		}
	}
	return found, l.accepted[found], count == 1
}

// settle forgets a request that is answered; false if it is not waited for.
func (l *listener) settle(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.accepted[id]
	delete(l.accepted, id)
	return ok
}

// gather reads a body within the limits. What is too much is left unread and makes
// the answer a problem.
func (l *listener) gather(m *message, a *answer) error {
	limit := l.relay.limits.RelayInlineBytes
	reserve := limit
	if m.whole {
		reserve = int(min(m.left, uint64(limit)))
	}
	if !l.relay.bodies.take(int64(reserve)) {
		a.problem = errFull("answers that are on their way")
		return nil
	}
	a.held = int64(reserve)
	body, err := m.all(limit)
	if errors.Is(err, errLong) {
		a.problem = errAnswer(inlineTooLong)
		err = nil
	}
	l.relay.bodies.give(int64(reserve - len(body)))
	a.held, a.body = int64(len(body)), body
	return err
}

const inlineTooLong = "its body on the control channel is longer than the limit; a listener opens the request's address for a long one"

// errAnswer says what is wrong with a listener's answer.
func errAnswer(what string) *schemas.Problem {
	return schemas.Problemf("listener-failed", "The listener answered with what can't be passed on: %s.", what)
}

// deliver hands an answer to the sender's gateway. text is the answer as the listener
// has put it.
func (r *Relay) deliver(to accepted, a *answer, text []byte) {
	if to.gateway == r.rendezvous.Gateway() {
		if !r.meetings.answer(to.token, a) {
			r.bodies.give(a.held)
		}
		return
	}
	defer r.bodies.give(a.held)
	if a.problem != nil {
		r.tell(to.gateway, note{op: noteAnswer, token: to.token, flags: pieceFirst | pieceLast | pieceProblem, data: []byte(a.problem.Name + "\n" + a.problem.Detail)})
		return
	}
	n := note{op: noteAnswer, token: to.token, flags: pieceFirst, data: text}
	if len(a.body) == 0 {
		n.flags |= pieceLast
	}
	r.tell(to.gateway, n)
	for piece := range slices.Chunk(a.body, pieceBytes) {
		n.number++
		if n.flags, n.data = 0, piece; &piece[len(piece)-1] == &a.body[len(a.body)-1] {
			n.flags = pieceLast
		}
		r.tell(to.gateway, n)
	}
}

// Answers travel between gateways in pieces: first the listener's words, then the body.
const (
	pieceBytes = 256 << 10

	pieceFirst   = 1 << 0
	pieceLast    = 1 << 1
	pieceProblem = 1 << 2 // in place of the listener's words a problem's name and detail
)

// pieces are those of an answer that have arrived from another gateway.
type pieces struct {
	mu     sync.Mutex // guards what follows
	answer *answer    // nil before the first
	next   uint64     // the number of the next piece
	over   bool       // no piece fits any more
}

// piece takes the next piece of an answer from another gateway.
func (r *Relay) piece(n note) {
	m := r.meetings.find(n.token)
	if m == nil || m.kind != kindRequest {
		return
	}
	p := &m.pieces
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.answer == nil
	if p.over || n.number != p.next || first != (n.flags&pieceFirst != 0) {
		return // one is missing: the sender's time runs out
	}
	p.next++
	if first {
		p.answer = &answer{}
		p.answer.read(n)
	} else {
		r.extend(p.answer, n.data)
	}
	if n.flags&pieceLast != 0 {
		p.over = true
		if !r.meetings.answer(n.token, p.answer) {
			r.bodies.give(p.answer.held)
		}
	}
}

// extend adds to the body of an answer, within the limits.
func (r *Relay) extend(a *answer, data []byte) {
	if a.problem != nil {
		return
	}
	switch size := int64(len(data)); {
	case len(a.body)+len(data) > r.limits.RelayInlineBytes:
		a.problem = errAnswer(inlineTooLong)
	case !r.bodies.take(size):
		a.problem = errFull("answers that are on their way")
	default:
		a.held += size
		a.body = append(a.body, data...)
	}
}

// forget gives back what an answer holds that nobody waits for any more. The meeting
// has been closed.
func (r *Relay) forget(m *meeting) {
	select {
	case a := <-m.answers:
		r.bodies.give(a.held)
	default:
	}
	p := &m.pieces
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && p.answer != nil {
		r.bodies.give(p.answer.held)
	}
	p.over = true
}

// read takes the first piece.
func (a *answer) read(n note) {
	if n.flags&pieceProblem != 0 {
		name, detail, _ := strings.Cut(string(n.data), "\n")
		a.problem = &schemas.Problem{Name: name, Detail: detail}
		return
	}
	var wrong error
	if a.response, wrong = parseResponse(n.data); wrong != nil {
		a.problem = errAnswer(wrong.Error())
	}
}

// answer hands a meeting its answer; false if nobody waits for one any more.
func (m *meetings) answer(token string, a *answer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.waiting[token]
	if t == nil || t.kind != kindRequest {
		return false
	}
	select {
	case t.answers <- a:
		return true
	default:
		return false
	}
}

// appendPiece writes what a note of a piece has.
func (n note) appendPiece(b []byte) []byte {
	b = append(b, n.token...)
	b = append(b, n.flags)
	return append(binary.AppendUvarint(b, n.number), n.data...)
}

// parsePiece reads it. It shares b's memory.
func (n *note) parsePiece(b []byte) bool {
	if len(b) < tokenLength+1 {
		return false
	}
	n.token, n.flags = string(b[:tokenLength]), b[tokenLength]
	number, size := binary.Uvarint(b[tokenLength+1:])
	if size <= 0 {
		return false
	}
	n.number, n.data = number, b[tokenLength+1+size:]
	return true
}

package relay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
)

// What a listener is asked for.
const (
	kindAccept  = 'a' // a WebSocket
	kindRequest = 'r' // the answer to an HTTP request
)

// A meeting is a sender that waits for its listener. The address that the listener is
// given has its token.
type meeting struct {
	kind   byte
	entity entity
	token  string
	// extensions are what the sender offered.
	extensions []string

	// joined takes the listener's connection, from who found it to who waits.
	joined chan arrival
	// answers takes the answer to a request that came over the control channel.
	answers chan *answer
	// pieces is the answer as far as another gateway has sent it.
	pieces pieces
	// lost is told that the listener's control channel is gone.
	lost chan struct{}
	// over is closed once nobody waits any more.
	over chan struct{}
}

// An arrival is the listener at the meeting.
type arrival struct {
	hijacked
	scheme     string   // by which the listener has reached us, and
	host       string   // the host
	refused    *refusal // it declines the sender; there is no connection
	protocol   string
	extensions string
}

// meetings are those that wait on this gateway.
type meetings struct {
	gateway string
	most    int
	key     [32]byte

	mu      sync.Mutex
	waiting map[string]*meeting // by token
}

func (m *meetings) init(gateway string, most int) {
	m.gateway, m.most, m.waiting = gateway, most, map[string]*meeting{}
	rand.Read(m.key[:])
}

// Lengths of a token's parts in hexadecimal digits: the gateway at which the sender
// waits, what nobody can guess, and the proof that it was made there.
const (
	tokenGateway = 16
	tokenSecret  = 32
	tokenProof   = 16
	tokenLength  = tokenGateway + tokenSecret + tokenProof
)

// open makes a meeting. Close it after use.
func (m *meetings) open(kind byte, e entity) (*meeting, error) {
	var secret [tokenSecret / 2]byte
	rand.Read(secret[:])
	token := m.gateway + hex.EncodeToString(secret[:])
	t := &meeting{
		kind: kind, entity: e, token: token + m.proof(kind, e.namespace, token),
		joined: make(chan arrival), answers: make(chan *answer, 1), lost: make(chan struct{}, 1), over: make(chan struct{}),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) >= m.most {
		return nil, errFull("senders that wait")
	}
	m.waiting[t.token] = t
	return t, nil
}

// close ends a meeting: its address is worth nothing any more, and a listener that is
// just arriving is turned away.
func (m *meetings) close(t *meeting) {
	m.mu.Lock()
	delete(m.waiting, t.token)
	m.mu.Unlock()
	close(t.over)
}

// proof shows that a token was made here, for this kind of meeting in this namespace.
func (m *meetings) proof(kind byte, namespace, token string) string {
	mac := hmac.New(sha256.New, m.key[:])
	mac.Write([]byte{kind})
	mac.Write([]byte(token))
	mac.Write([]byte(namespace))
	return hex.EncodeToString(mac.Sum(nil)[:tokenProof/2])
}

// take finds the meeting of an address, whose path begins with one of the names, and
// uses the address up. genuine says that the address was one, though it may be stale.
func (m *meetings) take(kind byte, namespace string, names []string, token string) (t *meeting, genuine bool) {
	m.mu.Lock()
	t = m.waiting[token]
	if t != nil && t.kind == kind && t.entity.namespace == namespace && slices.Contains(names, t.entity.name) {
		delete(m.waiting, token)
		m.mu.Unlock()
		return t, true
	}
	m.mu.Unlock()
	if len(token) != tokenLength || !strings.HasPrefix(token, m.gateway) {
		return nil, false
	}
	made, proof := token[:tokenLength-tokenProof], token[tokenLength-tokenProof:]
	return nil, hmac.Equal([]byte(proof), []byte(m.proof(kind, namespace, made)))
}

// count is how many senders wait.
func (m *meetings) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// find is the meeting of a token that a gateway was given, whether or not the address
// was used.
func (m *meetings) find(token string) *meeting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting[token]
}

package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// A world is a relay on a broker, both real, behind net/http.
type world struct {
	*relay.Relay
	broker *broker.Broker
	policy *access.Policy
	server *httptest.Server
	host   string // host:port
	stop   func()
	pairs  atomic.Int64 // joined made so many
}

// start runs a relay that lets everybody listen and send on any name; change alters
// that.
func start(t testing.TB, change func(*relay.Config, *access.Config)) *world {
	t.Helper()
	w := &world{broker: runBroker(t, broker.Config{Dir: t.TempDir(), Log: broker.LogConfig{Flush: "1m"}})}
	w.serve(t, change)
	return w
}

// runBroker runs a broker until the test is over.
func runBroker(t testing.TB, c broker.Config) *broker.Broker {
	t.Helper()
	b, err := broker.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Errorf("broker.Run() = %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		done.Wait()
	})
	select {
	case <-b.Ready():
	case <-time.After(patience):
		t.Fatal("the broker was not ready in time")
	}
	return b
}

// serve runs a relay on w's broker.
func (w *world) serve(t testing.TB, change func(*relay.Config, *access.Config)) {
	t.Helper()
	ac := access.Config{Namespaces: map[string]access.Namespace{"default": {Dev: true}}}
	rc := relay.Config{Broker: w.broker, Rules: map[string][]relay.Rule{"default": {{Name: "**"}}}}
	if os.Getenv("RELAY_LOG") != "" {
		rc.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&rc, &ac)
	}
	var err error
	if w.policy, err = access.New(ac); err != nil {
		t.Fatal(err)
	}
	rc.Access = w.policy
	if w.Relay, err = relay.New(rc); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("relay.Run() = %v", err)
		}
	})
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		name := ""
		if ns, bound, ok := w.Bound(strings.Split(q.Host, ":")[0]); ok && ns == "default" {
			name = bound
		}
		w.Serve(rw, q, "default", name)
	}))
	w.host = w.server.Listener.Addr().String()
	w.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
		w.server.CloseClientConnections()
		w.server.Close()
	})
	t.Cleanup(w.stop)
}

// A peer is the client's end of a WebSocket, frame by frame.
type peer struct {
	t      testing.TB
	conn   net.Conn
	in     *bufio.Reader
	answer *http.Response // to the handshake
}

const testKey = "dGhlIHNhbXBsZSBub25jZQ=="

// handshake sends one and reads the answer. The address has no scheme.
func handshake(t testing.TB, address string, headers ...string) *peer {
	t.Helper()
	// From an address of its own, so that no test's failures hold another's up.
	return handshakeFrom(t, net.IPv4(127, byte(1+rand.IntN(250)), byte(rand.IntN(256)), byte(1+rand.IntN(250))), address, headers...)
}

// handshakeFrom is handshake from a loopback address.
func handshakeFrom(t testing.TB, from net.IP, address string, headers ...string) *peer {
	t.Helper()
	p := beginFrom(t, from, address, headers...)
	p.answered()
	return p
}

// begin sends a handshake and does not wait for the answer.
func begin(t testing.TB, address string, headers ...string) *peer {
	t.Helper()
	return beginFrom(t, net.IPv4(127, 0, 0, 1), address, headers...)
}

func beginFrom(t testing.TB, from net.IP, address string, headers ...string) *peer {
	t.Helper()
	host, path, _ := strings.Cut(address, "/")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: patience}
	c, err := d.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := &peer{t: t, conn: c, in: bufio.NewReader(c)}
	var b strings.Builder
	fmt.Fprintf(&b, "GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", path, host, testKey)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	p.raw([]byte(b.String() + "\r\n"))
	return p
}

func base64url(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// answered reads the answer to a handshake.
func (p *peer) answered() {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(40 * time.Second))
	var err error
	if p.answer, err = http.ReadResponse(p.in, &http.Request{Method: "GET"}); err != nil {
		p.t.Fatalf("the answer to the handshake: %v", err)
	}
	if p.answer.StatusCode != 101 {
		b, err := io.ReadAll(p.answer.Body)
		if err != nil {
			p.t.Fatalf("the body of status %d: %v", p.answer.StatusCode, err)
		}
		p.answer.Body = io.NopCloser(bytes.NewReader(b))
		p.conn.Close()
	}
}

// dial is handshake, which must succeed.
func dial(t testing.TB, address string, headers ...string) *peer {
	t.Helper()
	p := handshake(t, address, headers...)
	if p.answer.StatusCode != 101 {
		b, _ := io.ReadAll(p.answer.Body)
		t.Fatalf("GET %s: %s %s", address, p.answer.Status, b)
	}
	return p
}

func (p *peer) raw(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

var mask = [4]byte{0x12, 0x34, 0x56, 0x78}

// clientFrame is a masked frame.
func clientFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i&3])
	}
	return b
}

func (p *peer) send(first byte, payload string) {
	p.t.Helper()
	p.raw(clientFrame(first, []byte(payload)))
}

func (p *peer) text(s string)   { p.t.Helper(); p.send(0x81, s) }
func (p *peer) binary(s string) { p.t.Helper(); p.send(0x82, s) }

func (p *peer) close(code int, reason string) {
	p.t.Helper()
	p.send(0x88, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// frame reads a frame, whose first byte and payload it returns.
func (p *peer) frame() (first byte, payload []byte, err error) {
	return p.frameBy(time.Now().Add(patience))
}

// frameBy is frame with a deadline of its own.
func (p *peer) frameBy(deadline time.Time) (first byte, payload []byte, err error) {
	p.conn.SetReadDeadline(deadline)
	var h [2]byte
	if _, err := io.ReadFull(p.in, h[:]); err != nil {
		return 0, nil, err
	}
	if h[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a server's frame is masked")
	}
	n := uint64(h[1])
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(p.in, b[:]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(p.in, b[:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(p.in, payload)
	return h[0], payload, err
}

// expect reads frames until one that is no ping of the relay's.
func (p *peer) expect(first byte, payload string) {
	p.t.Helper()
	f, b := p.next()
	if f != first || string(b) != payload {
		p.t.Fatalf("got frame %#x %.200q, want %#x %.200q", f, b, first, payload)
	}
}

// next reads the next frame that is no ping, and answers pings.
func (p *peer) next() (first byte, payload []byte) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		f, b, err := p.frame()
		if err == nil && time.Now().After(deadline) {
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			p.t.Fatalf("no frame: %v", err)
		}
		if f == 0x89 && time.Now().After(deadline) {
			p.t.Fatal("nothing but pings")
		}
		if f != 0x89 {
			return f, b
		}
		p.raw(clientFrame(0x8A, b))
	}
}

// expectClose reads a Close frame.
func (p *peer) expectClose(code int, reason string) {
	p.t.Helper()
	f, b := p.next()
	if f != 0x88 {
		p.t.Fatalf("got frame %#x %.200q, want a Close frame", f, b)
	}
	got := 0
	if len(b) >= 2 {
		got, b = int(binary.BigEndian.Uint16(b)), b[2:]
	}
	if got != code || !strings.HasPrefix(string(b), reason) {
		p.t.Fatalf("closed with %d %q, want %d %q", got, b, code, reason)
	}
}

// expectEnd reads until the connection ends without another data frame.
func (p *peer) expectEnd() {
	p.t.Helper()
	for {
		f, b, err := p.frame()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				p.t.Fatal("the connection stays open")
			}
			return
		}
		if f != 0x89 && f != 0x8A {
			p.t.Fatalf("got frame %#x %.200q, want the end", f, b)
		}
	}
}

// A message of the relay on a control channel.
type message struct {
	Accept  *offer
	Request *offer
}

type offer struct {
	Address        string
	ID             string
	ConnectHeaders map[string]string
	RemoteEndpoint struct {
		Address string
		Port    int
	}
	RequestTarget  *string
	Method         *string
	RequestHeaders map[string]string
	Body           *bool
}

// message reads the next JSON message.
func (p *peer) message() message {
	p.t.Helper()
	f, b := p.next()
	if f != 0x81 {
		p.t.Fatalf("got frame %#x %.200q, want a JSON message", f, b)
	}
	m, err := parseMessage(b)
	if err != nil {
		p.t.Fatalf("message %s: %v", b, err)
	}
	return m
}

func parseMessage(b []byte) (m message, err error) {
	err = json.Unmarshal(b, &m)
	return m, err
}

// answerOffer dials an offer's address, without a test.
func answerOffer(o *offer) (net.Conn, error) {
	u, err := url.Parse(o.Address)
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout("tcp", u.Host, patience)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", u.RequestURI(), u.Host, testKey)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && answer.StatusCode != 101 {
		err = fmt.Errorf("the answer to the listener is %s", answer.Status)
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// dialed is the address of an offer as handshake takes it.
func (o *offer) dialed(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(o.Address)
	if err != nil {
		t.Fatalf("address %q: %v", o.Address, err)
	}
	return strings.TrimPrefix(o.Address, u.Scheme+"://")
}

// listen opens a control channel.
func (w *world) listen(t testing.TB, name string, more ...string) *peer {
	t.Helper()
	return dial(t, w.host+"/$hc/"+name+"?sb-hc-action=listen"+strings.Join(more, ""))
}

// A pending handshake is one whose answer is still to come.
func (w *world) connecting(t testing.TB, path string, headers ...string) chan *peer {
	t.Helper()
	c := make(chan *peer, 1)
	go func() { c <- handshake(t, w.host+"/$hc/"+path, headers...) }()
	return c
}

// pair joins a sender and a listener on a name that has the control channel.
func (w *world) pair(t testing.TB, control *peer, name string) (sender, listener *peer) {
	t.Helper()
	waiting := w.connecting(t, name+"?sb-hc-action=connect")
	m := control.message()
	if m.Accept == nil {
		t.Fatal("got no accept message")
	}
	listener = dial(t, m.Accept.dialed(t))
	sender = <-waiting
	if sender.answer.StatusCode != 101 {
		t.Fatalf("the sender got %s", sender.answer.Status)
	}
	return sender, listener
}

// traced is how Azure's reason phrases end.
var traced = regexp.MustCompile(`\. TrackingId:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}_G0, SystemTracker:sb://[^ ,]+/[^ ,]*, Timestamp:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$`)

// checkProblem checks the body of a refusal: a problem of the contract, and Azure's own
// member with the text of the reason phrase.
func checkProblem(t testing.TB, body []byte, status int, line string) {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		Error               struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("the body %q: %v", body, err)
	}
	codes := map[int]string{401: "TokenMissingOrInvalid", 403: "Forbidden", 404: "EndpointNotFound", 504: "GatewayTimeout", 500: "InternalServerError"}
	if want := codes[status]; want != "" && p.Error.Code != want {
		t.Errorf("error.code is %q with status %d, want %q", p.Error.Code, status, want)
	}
	if p.Status != status || !strings.HasPrefix(p.Type, "https://outrelay.dev/problems/") || p.Title == "" {
		t.Errorf("the body is no problem with status %d: %s", status, body)
	}
	if p.Error.Message == "" || !strings.HasSuffix(line, p.Error.Message) || p.Detail != p.Error.Message {
		t.Errorf("error.message is %q, detail %q, the status %q", p.Error.Message, p.Detail, line)
	}
}

package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
)

// foreignOrigin is an origin that no gateway lets in: .invalid is nobody's (RFC 6761).
const foreignOrigin = "https://outrelay-check.invalid"

// checkWebSocket opens a session, and measures with it.
func (r *run) checkWebSocket() {
	if r.skip(StepWebSocket, StepName, StepProxy, StepTCP, StepTLS, StepGateway) {
		r.skip(StepPing, StepWebSocket)
		r.skip(StepThroughput, StepWebSocket)
		return
	}
	result := Result{Step: StepWebSocket}
	began := time.Now()
	conn, err := r.session()
	var p *schemas.Problem
	switch {
	case err == nil:
		defer conn.CloseNow() //nolint:errcheck // nothing is on it that matters
		result.Status, result.Detail = OK, "a WebSocket opens, and its messages come through"
		result.Milliseconds = milliseconds(time.Since(began))
	case errors.As(err, &p) && (p.Name == schemas.ErrUnauthorized.Name || p.Name == schemas.ErrForbidden.Name):
		r.withoutRight(&result)
	default:
		r.noWebSocket(&result, err)
	}
	r.say(result)
	if result.Status == Failed {
		r.skip(StepPing, StepWebSocket)
		r.skip(StepThroughput, StepWebSocket)
		return
	}
	r.ping(conn)
	r.throughput(conn != nil)
}

// noWebSocket says why none opens.
func (r *run) noWebSocket(result *Result, err error) {
	result.Status, result.Cause = Failed, Network
	result.Tell = fmt.Sprintf("tell the owner of the firewall or proxy to pass the headers Upgrade: websocket and Connection: Upgrade to %s, and to keep the connection open", r.address(r.port))
	var p *schemas.Problem
	var other *otherAnswer
	switch {
	case errors.As(err, &p) && p.Name == schemas.ErrUpgrade.Name:
		result.Detail = "the gateway gets the request without its header Upgrade: websocket; a proxy on the way takes it off"
	case errors.As(err, &p):
		result.Detail = "the gateway opens no WebSocket: " + clean(p.Error())
		result.Tell = "tell whoever runs the gateway"
	case errors.As(err, &other):
		result.Detail = fmt.Sprintf("somebody between here and the gateway answers the WebSocket's handshake with HTTP %d", other.status)
	case errors.Is(err, errSilent):
		result.Detail = fmt.Sprintf("a WebSocket opens, but in %v no message comes through it; something on the way holds it back", r.Timeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		result.Detail = "the connection is cut at the WebSocket's handshake"
	default:
		result.Detail = "no WebSocket opens: " + network(err)
	}
}

// withoutRight says what is known of WebSockets though the gateway opens none, for want
// of a right: to a handshake from a foreign page it gives another refusal (protocol
// section 7), and so tells whether it knows the request for one.
func (r *run) withoutRight(result *Result) {
	ctx, cancel := r.limited()
	defer cancel()
	h := http.Header{"Sec-Websocket-Protocol": {schemas.SubprotocolSession}, "Origin": {foreignOrigin}}
	upgrading(h)
	a, err := r.ask(ctx, http.MethodGet, "/connect", h, "")
	if err != nil {
		r.noWebSocket(result, err)
		return
	}
	switch p := a.problem(); {
	case p == nil:
		r.noWebSocket(result, &otherAnswer{a.status})
	case p.Name == schemas.ErrForbidden.Name:
		result.Status = OK
		result.Detail = "the request for a WebSocket reaches the gateway, which opens none without a right"
		result.Tell = "to see a WebSocket open, give a token with a right"
	case p.Name == schemas.ErrUnauthorized.Name:
		r.noWebSocket(result, schemas.ErrUpgrade)
	default:
		r.noWebSocket(result, p)
	}
}

// upgrading makes a header that of a WebSocket's handshake that will be refused.
func upgrading(h http.Header) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", "b3V0cmVsYXkgY2hlY2sgLg==")
}

// An otherAnswer is one to a handshake that is not the gateway's.
type otherAnswer struct{ status int }

func (a *otherAnswer) Error() string { return fmt.Sprintf("HTTP %d", a.status) }

// errSilent is a WebSocket without messages.
var errSilent = errors.New("check: no message")

// session opens a session and waits for its first message.
func (r *run) session() (*websocket.Conn, error) {
	ctx, cancel := r.limited()
	defer cancel()
	header := http.Header{"User-Agent": {userAgent}}
	if err := r.bear(ctx, header); err != nil {
		return nil, err
	}
	conn, resp, err := websocket.Dial(ctx, r.base+"/connect", &websocket.DialOptions{
		HTTPClient: r.client, HTTPHeader: header, Subprotocols: []string{schemas.SubprotocolSession},
	})
	if err != nil {
		if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, err
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxDocument)) // what came will do
		a := &answer{status: resp.StatusCode, header: resp.Header, body: body}
		if p := a.problem(); p != nil {
			return nil, p
		}
		return nil, &otherAnswer{a.status}
	}
	conn.SetReadLimit(schemas.MaxSessionMessage)
	if m, err := read(ctx, conn); err != nil || m.Op != schemas.OpWelcome {
		_ = conn.CloseNow()
		return nil, errSilent
	}
	return conn, nil
}

func read(ctx context.Context, conn *websocket.Conn) (m schemas.SessionMessage, err error) {
	_, b, err := conn.Read(ctx)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// pings is how many round trips are made; the shortest counts.
const pings = 3

// ping measures a round trip: of a ping in the session, or of a request where there is
// none.
func (r *run) ping(conn *websocket.Conn) {
	result := Result{Step: StepPing, Status: OK}
	ctx, cancel := r.limited()
	defer cancel()
	what, once := "a ping in the session", func() error {
		if err := conn.Write(ctx, websocket.MessageText, []byte(`{"op":"ping","id":"p"}`)); err != nil {
			return err
		}
		for {
			if m, err := read(ctx, conn); err != nil || m.Op == schemas.OpPong {
				return err
			}
		}
	}
	if conn == nil {
		what, once = "a request", func() error {
			_, err := r.ask(ctx, http.MethodGet, "/healthz", nil, "")
			return err
		}
		_ = once() // opens the connection that the others go over
	}
	var least time.Duration
	for i := range pings {
		began := time.Now()
		if err := once(); err != nil {
			result.Status, result.Cause = Failed, Network
			result.Detail = fmt.Sprintf("%s fails: %s", what, network(err))
			result.Tell = fmt.Sprintf("tell the owner of the firewall or proxy to keep connections to %s open", r.address(r.port))
			r.say(result)
			return
		}
		if took := time.Since(began); i == 0 || took < least {
			least = took
		}
	}
	result.Milliseconds = milliseconds(least)
	result.Detail = fmt.Sprintf("the round trip of %s takes %v", what, least.Round(10*time.Microsecond))
	r.say(result)
}

const (
	// upSize is the size of a message that measures the way up, in bytes: the gateway
	// ignores what it does not know in it.
	upSize = 8 << 10
)

// throughput sends pings for half of the time in large messages, whose answers say how
// much has arrived, and for the other half in small ones with an id as long as may be,
// of which as much comes back.
func (r *run) throughput(open bool) {
	result := Result{Step: StepThroughput}
	defer func() { r.say(result) }()
	if !open {
		result.Status, result.Detail = Skipped, "not measured, because that takes a session, and the gateway opens none without a right"
		return
	}
	large := `{"op":"ping","id":"t","padding":"` + strings.Repeat("x", upSize) + `"}`
	small := `{"op":"ping","id":"` + strings.Repeat("x", schemas.MaxRequestID) + `"}`
	up, _, err := r.flood(large)
	var down int64
	if err == nil {
		_, down, err = r.flood(small)
	}
	if err != nil {
		result.Status, result.Cause = Failed, Network
		result.Detail = "the connection does not carry what is sent: " + network(err)
		result.Tell = fmt.Sprintf("tell the owner of the firewall or proxy that WebSockets to %s are cut or held back", r.address(r.port))
		return
	}
	result.Status, result.Up, result.Down = OK, up, down
	result.Detail = fmt.Sprintf("pings in a session carry %s a second up, and %s a second both ways at once", bytes(up), bytes(down))
}

func bytes(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}

// flood sends a ping over and over in a session of its own for half of the measure, and
// returns how many bytes a second were answered, and how many came back.
func (r *run) flood(ping string) (up, down int64, err error) {
	conn, err := r.session()
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.Measure/2+r.Timeout)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer conn.CloseNow() //nolint:errcheck // what is on the way is of no use
	defer cancel()
	began := time.Now()
	sending.Go(func() {
		for conn.Write(ctx, websocket.MessageText, []byte(ping)) == nil { // until ctx ends
		}
	})
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return 0, 0, err
		}
		up, down = up+int64(len(ping)), down+int64(len(b))
		if took := time.Since(began); took >= r.Measure/2 {
			return perSecond(up, took), perSecond(down, took), nil
		}
	}
}

func perSecond(n int64, took time.Duration) int64 {
	return int64(float64(n) / took.Seconds())
}

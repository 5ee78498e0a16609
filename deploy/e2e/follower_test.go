package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// errContract is what a gateway never may do, whatever happens to connections.
var errContract = errors.New("against the contract")

func contractError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errContract, fmt.Sprintf(format, args...))
}

// An arrival is what a stream brings at once: an event, a notice, or a place alone.
type arrival struct {
	ID, Source, Type, RelayCursor string

	Data struct {
		Cursor           string // of the notices open and position
		Reason           string // of a gap
		ReconnectAfterMS *int   // of draining
	}

	cursor string // where to resume after it, "" where it does not say
	retry  string // of server-sent events
	empty  bool   // a place alone, as server-sent events have it
}

func (a arrival) notice() bool { return a.Source == "/outrelay" }

// parse reads an event's text.
func (a *arrival) parse(text []byte) error {
	if err := json.Unmarshal(text, a); err != nil {
		var mistyped *json.UnmarshalTypeError // other data than what the tests look at
		if !errors.As(err, &mistyped) {
			return contractError("a message is no JSON (%v): %q", err, text)
		}
	}
	switch {
	case !a.notice():
		a.cursor = a.RelayCursor
	case a.RelayCursor != "":
		return contractError("a notice has a cursor of its own: %s", text)
	case a.Type == "dev.outrelay.open" || a.Type == "dev.outrelay.position":
		a.cursor = a.Data.Cursor
	}
	return nil
}

// A connection is one open stream, of either kind.
type connection interface {
	// next waits for what comes next. Once it has failed, close is all that is left.
	next() (arrival, error)
	close()
}

// An endpoint is where a subscriber finds its stream, and by which way.
type endpoint struct {
	name    string // for people
	address string // with the query, http or https
	sse     bool   // else a WebSocket
	http2   bool   // what the answer must be
	client  *http.Client
}

// A refusal is a handshake's answer that opens no stream.
type refusal struct {
	status int
	body   string
}

func (r refusal) Error() string { return fmt.Sprintf("refused with %d %s", r.status, r.body) }

// open opens the stream, after the cursor if there is one. ctx ends the connection too.
func (e endpoint) open(ctx context.Context, cursor string) (connection, error) {
	if e.sse {
		return e.openSSE(ctx, cursor)
	}
	u, err := url.Parse(e.address)
	if err != nil {
		return nil, err
	}
	if cursor != "" {
		q := u.Query()
		q.Set("after", cursor)
		u.RawQuery = q.Encode()
	}
	conn, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient: e.client, Subprotocols: []string{"cloudevents.json"},
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			b, _ := io.ReadAll(resp.Body) // the status says enough
			return nil, refusal{resp.StatusCode, string(b)}
		}
		return nil, err
	}
	conn.SetReadLimit(4 << 20)
	return &socket{ctx, conn}, nil
}

func (e endpoint) openSSE(ctx context.Context, cursor string) (connection, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if cursor != "" {
		req.Header.Set("Last-Event-ID", cursor)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body) // the status says enough
		resp.Body.Close()
		return nil, refusal{resp.StatusCode, string(b)}
	}
	if (resp.ProtoMajor == 2) != e.http2 || resp.Header.Get("Content-Type") != "text/event-stream" {
		resp.Body.Close()
		return nil, contractError("the answer is %s with %s", resp.Proto, resp.Header.Get("Content-Type"))
	}
	return &eventStream{body: resp.Body, lines: bufio.NewReader(resp.Body)}, nil
}

// A socket is a connection over a WebSocket.
type socket struct {
	ctx  context.Context
	conn *websocket.Conn
}

func (s *socket) next() (arrival, error) {
	kind, b, err := s.conn.Read(s.ctx)
	if err != nil {
		return arrival{}, err
	}
	if kind != websocket.MessageText {
		return arrival{}, contractError("a %v message", kind)
	}
	var a arrival
	return a, a.parse(b)
}

func (s *socket) close() { _ = s.conn.CloseNow() }

// An eventStream is a connection with server-sent events. What has not come to its
// empty line counts for nothing, as the HTML Standard has it.
type eventStream struct {
	body  io.ReadCloser
	lines *bufio.Reader
}

func (s *eventStream) next() (arrival, error) {
	var a arrival
	var data [][]byte
	id, given := "", false
	for {
		line, err := s.lines.ReadBytes('\n')
		if err != nil {
			return arrival{}, err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			if given || len(data) > 0 {
				break
			}
			continue // after a comment
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			data = append(data, value)
		case "id":
			id, given = string(value), true
		case "retry":
			a.retry = string(value)
		case "": // a comment
		default:
			return arrival{}, contractError("the line %q", line)
		}
	}
	if a.empty = len(data) == 0; !a.empty {
		if err := a.parse(bytes.Join(data, []byte("\n"))); err != nil {
			return arrival{}, err
		}
		if id != a.RelayCursor {
			return arrival{}, contractError("id: %q on an event with the cursor %q", id, a.RelayCursor)
		}
	}
	a.cursor = id
	return a, nil
}

func (s *eventStream) close() { s.body.Close() }

// retryPause is between two attempts to reach a gateway that is away.
const retryPause = 20 * time.Millisecond

// pause waits for the next attempt.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retryPause):
		return nil
	}
}

// A follower is a subscriber that connects again whenever its stream has ended, after
// the last that it saw.
type follower struct {
	endpoint
	cursor string // of the last that it saw
	opened int    // streams that were
	ids    []string
	seen   map[string]bool
	// each, if not nil, is called with everything that comes; false ends the stream,
	// and the follower connects again. An error ends the follower.
	each func(arrival) (bool, error)
	// ended, if not nil, is told why each stream has.
	ended func(error) error
}

// follow takes events until the one with the id last. A gap is an error, and so is an
// event that comes twice.
func (f *follower) follow(ctx context.Context, last string) error {
	for {
		conn, err := f.open(ctx, f.cursor)
		if err != nil {
			var refused refusal
			if ctx.Err() != nil || errors.Is(err, errContract) || errors.As(err, &refused) && refused.status != http.StatusServiceUnavailable {
				return f.fault(err)
			}
			if err := pause(ctx); err != nil {
				return f.fault(err)
			}
			continue
		}
		f.opened++
		err = f.take(conn, last)
		conn.close()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errContract) {
			return f.fault(err)
		}
		if f.ended != nil && !errors.Is(err, errLeft) {
			if err := f.ended(err); err != nil {
				return f.fault(err)
			}
		}
	}
}

func (f *follower) fault(err error) error {
	tail := f.ids[max(0, len(f.ids)-3):]
	return fmt.Errorf("%s: after %d events, the last %s, on connection %d: %w", f.name, len(f.ids), strings.Join(tail, " "), f.opened, err)
}

// errLeft ends a stream that the follower itself leaves.
var errLeft = errors.New("left")

// take takes what a stream brings until it ends, or the last event has come.
func (f *follower) take(conn connection, last string) error {
	for {
		a, err := conn.next()
		if err != nil {
			return err
		}
		if a.cursor != "" {
			f.cursor = a.cursor
		}
		switch {
		case a.Type == "dev.outrelay.gap":
			return contractError("a gap, %s", a.Data.Reason)
		case a.notice() || a.empty:
		case a.RelayCursor == "":
			return contractError("the event %s has no cursor", a.ID)
		case f.seen[a.ID]:
			return contractError("the event %s comes again", a.ID)
		default:
			if f.seen == nil {
				f.seen = map[string]bool{}
			}
			f.seen[a.ID] = true
			f.ids = append(f.ids, a.ID)
		}
		if f.each != nil {
			more, err := f.each(a)
			switch {
			case err != nil:
				return fmt.Errorf("%w: %w", errContract, err)
			case !more && a.ID != last:
				return errLeft
			}
		}
		if a.ID == last {
			return nil
		}
	}
}

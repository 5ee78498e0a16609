package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/outrelay/outrelay/schemas"
	"github.com/outrelay/outrelay/subscriber"
)

// A notebook is a server that writes down what is published to it, by HTTP and by
// WebSocket, and refuses what a test says. It judges as a gateway does: a batch is
// all or nothing, the first fault is named.
type notebook struct {
	t      *testing.T
	refuse map[string]*schemas.Problem // by id
	broken string                      // the id of an event that makes it hang up

	mu     sync.Mutex
	calls  []string
	known  map[string]bool
	events int // in the largest call
	bytes  int // of the largest call
}

// start serves it over pipes, so that the clock may stand still, and returns a
// client of it.
func (n *notebook) start(t *testing.T) *subscriber.Client {
	n.t, n.known = t, map[string]bool{}
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: n}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	c, err := subscriber.New(subscriber.Config{
		Gateway: "http://notebook.test", DialContext: l.dial, PublishRetry: -1,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		server.Close()
		serving.Wait()
	})
	return c
}

func (n *notebook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	topic := strings.TrimPrefix(r.URL.Path, "/topics/")
	if r.Header.Get("Upgrade") != "" {
		n.socket(w, r, topic)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Error(err)
	}
	batch := r.Header.Get("Content-Type") == schemas.MediaTypeBatch
	var events []*schemas.Event
	if batch {
		events, err = schemas.ParseBatch(body)
	} else {
		var e *schemas.Event
		e, err = schemas.ParseEvent(body)
		events = []*schemas.Event{e}
	}
	for i, e := range events {
		if err != nil {
			break
		}
		if e.ID() == n.broken {
			panic(http.ErrAbortHandler)
		}
		if p := n.refuse[e.ID()]; p != nil {
			if err = p; batch {
				err = p.At(i)
			}
		}
	}
	var p *schemas.Problem
	if errors.As(err, &p) {
		w.Header().Set("Content-Type", schemas.MediaTypeProblem)
		w.WriteHeader(p.Status())
		_ = json.NewEncoder(w).Encode(p)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events, n.bytes = max(n.events, len(events)), max(n.bytes, len(body))
	duplicates := []int{}
	call := topic + ":"
	for i, e := range events {
		if call += e.ID(); n.known[topic+" "+e.ID()] {
			duplicates = append(duplicates, i)
		}
		n.known[topic+" "+e.ID()] = true
	}
	if batch {
		call = "batch " + call
	}
	n.calls = append(n.calls, call)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"accepted": len(events), "duplicates": duplicates, "cursor": "after-" + events[len(events)-1].ID(),
	})
}

// socket takes events one by one and sends them back, or a notice of those that are
// refused, as late as the next one.
func (n *notebook) socket(w http.ResponseWriter, r *http.Request, topic string) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{schemas.SubprotocolCloudEvents}})
	if err != nil {
		n.t.Error(err)
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(schemas.MaxStreamMessage)
	write := func(b []byte) { _ = c.Write(context.Background(), websocket.MessageText, b) }
	notice := func(kind string, data any) {
		b, _ := json.Marshal(map[string]any{"specversion": "1.0", "id": "n", "source": schemas.NoticeSource, "type": kind, "data": data})
		write(b)
	}
	notice(schemas.NoticeOpen, map[string]string{"cursor": schemas.Cursor{Log: 1}.String()})
	for sequence := uint64(1); ; sequence++ {
		_, raw, err := c.Read(context.Background())
		if err != nil {
			return
		}
		e, err := schemas.ParseEvent(raw)
		if err != nil {
			n.t.Errorf("%s was sent: %v", raw, err)
			return
		}
		if p := n.refuse[e.ID()]; p != nil {
			named := *p
			named.EventID = e.ID()
			notice(schemas.NoticeRejected, &named)
			continue
		}
		cursor := schemas.Cursor{Log: 1, Sequence: sequence}
		write(schemas.AppendDelivered(nil, raw, schemas.Topic(topic), &cursor))
	}
}

// pipes is a network without sockets.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	}
}

func one(id, net string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/s","type":"t","data":{"net":%q}}`, id, net)
}

func run(t *testing.T, to *notebook, in io.Reader, o Options) (Summary, error) {
	t.Helper()
	o.Topic = "t"
	return Run(t.Context(), in, to.start(t), o)
}

func TestRunJoinsWhatWaits(t *testing.T) {
	from, err := ParsePath("data.net")
	if err != nil {
		t.Fatal(err)
	}
	lines := one("1", "x") + "\n" + one("2", "x") + "\n" + one("3", "y") + "\n" + one("1", "x") + "\n"
	batch := "[" + one("5", "x") + "," + one("6", "y") + "]"
	for _, tt := range []struct {
		name, in string
		from     *Path
		want     []string
		summary  Summary
	}{
		{"lines", lines, nil, []string{"batch t:1231"}, Summary{4, 1, "after-1"}},
		{"topics", lines, &from, []string{"batch t/x:12", "t/y:3", "t/x:1"}, Summary{4, 1, "after-1"}},
		{"a batch", batch, nil, []string{"batch t:56"}, Summary{2, 0, "after-6"}},
		{"a batch among lines", one("1", "x") + "\n" + batch + "\n" + one("2", "x"), nil, []string{"t:1", "batch t:56", "t:2"}, Summary{4, 0, "after-2"}},
		{"a batch by topics", batch, &from, []string{"t/x:5", "t/y:6"}, Summary{2, 0, "after-6"}},
		{"nothing", "", nil, nil, Summary{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var to notebook
			got, err := run(t, &to, strings.NewReader(tt.in), Options{From: tt.from})
			if err != nil || got != tt.summary || !slices.Equal(to.calls, tt.want) {
				t.Errorf("got %+v, %v, calls %q; want %+v, %q", got, err, to.calls, tt.summary, tt.want)
			}
		})
	}
}

func TestRunMakesNoBatchTooLarge(t *testing.T) {
	var in strings.Builder
	for i := range 2500 {
		in.WriteString(one(fmt.Sprint(i), "x") + "\n")
	}
	large := one("x", strings.Repeat("x", schemas.MaxEvent/2))
	for range 40 {
		in.WriteString(large + "\n")
	}
	var to notebook
	got, err := run(t, &to, strings.NewReader(in.String()), Options{})
	if err != nil || got.Accepted != 2540 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if to.events > schemas.MaxBatchEvents || to.bytes > schemas.MaxBatch {
		t.Errorf("the largest batches have %d events, %d bytes", to.events, to.bytes)
	}
	if to.events < 500 {
		t.Errorf("the largest batch of lines that all wait has %d events", to.events)
	}
}

func TestRunStopsAtTheFirstRefusal(t *testing.T) {
	from, err := ParsePath("data.net")
	if err != nil {
		t.Fatal(err)
	}
	bad := `{"specversion":"1.0","id":"bad","source":"/s"}`
	refuse := map[string]*schemas.Problem{"no": {Name: "forbidden", Detail: "No."}}
	for _, tt := range []struct {
		name, in string
		from     *Path
		accepted int
		want     string
		is       error
	}{
		{"in the middle", one("1", "x") + "\n\n" + one("2", "x") + "\n" + bad + "\n" + one("3", "x"), nil, 2, "line 4", schemas.ErrEvent},
		{"two of them", one("1", "x") + "\n" + bad + "\n" + bad, nil, 1, "line 2", schemas.ErrEvent},
		{"at the beginning", bad + "\n" + one("1", "x"), nil, 0, "line 1", schemas.ErrEvent},
		{"no JSON", one("1", "x") + "\nhello\n" + one("2", "x"), nil, 1, "line 2", schemas.ErrEvent},
		{"cut short", one("1", "x") + "\n{\"id\":", nil, 1, "line 2", schemas.ErrEvent},
		{"of an array", "\n[" + one("1", "x") + ",\n" + one("2", "x") + ",\n" + bad + "]", nil, 0, "line 4", schemas.ErrEvent},
		{"by its right", one("1", "x") + "\n" + one("no", "x") + "\n" + one("2", "x"), nil, 1, "line 2", schemas.ErrForbidden},
		{"by its topic", one("1", "x") + "\n" + one("2", "a b") + "\n" + one("3", "x"), &from, 1, "line 2", schemas.ErrName},
		{"an event with a topic", one("1", "x") + "\n" + bad, &from, 1, "line 2", schemas.ErrEvent},
		{"too long", one("1", "x") + "\n{" + strings.Repeat(" ", schemas.MaxBatch), nil, 1, "line 2", schemas.ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := notebook{refuse: refuse}
			got, err := run(t, &to, strings.NewReader(tt.in), Options{From: tt.from})
			if got.Accepted != tt.accepted || !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), tt.want+":") {
				t.Errorf("got %+v, %v; want %d accepted and %s", got, err, tt.accepted, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "event 1") {
				t.Errorf("%q tells a place in a batch that the user never made", err)
			}
		})
	}
}

func TestRunEndsAtAFault(t *testing.T) {
	to := notebook{broken: "2"}
	got, err := run(t, &to, strings.NewReader("["+one("1", "x")+"]\n"+one("2", "x")), Options{})
	var network *url.Error
	if got.Accepted != 1 || !errors.As(err, &network) || strings.Contains(err.Error(), "line") {
		t.Errorf("got %+v, %v; want 1 accepted and the fault without a line", got, err)
	}
}

// A line that comes alone is published at once, though the input goes on.
func TestRunHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		to := &notebook{}
		client := to.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := Run(ctx, in, client, Options{Topic: "t"})
			done <- err
		}()
		for i := range 3 {
			fmt.Fprintln(out, one(fmt.Sprint(i), "x"))
			synctest.Wait()
			if len(to.calls) != i+1 {
				t.Errorf("after-line %d: %d calls", i+1, len(to.calls))
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v, want the end of its context", err)
		}
		out.Close()
	})
}

func TestRunKeepsItsRate(t *testing.T) {
	for _, tt := range []struct {
		rate   float64
		events int
		want   time.Duration
	}{
		{0.5, 4, 6 * time.Second}, // the first goes at once
		{10, 31, 3 * time.Second},
		{1000, 3050, 3 * time.Second},
	} {
		t.Run(fmt.Sprint(tt.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var in strings.Builder
				for i := range tt.events {
					in.WriteString(one(fmt.Sprint(i), "x") + "\n")
				}
				var to notebook
				began := time.Now()
				told := 0
				got, err := run(t, &to, strings.NewReader(in.String()), Options{Rate: tt.rate, Progress: func(n int) { told = n }})
				if err != nil || got.Accepted != tt.events || told != tt.events {
					t.Fatalf("got %+v, %v, told of %d", got, err, told)
				}
				if took := time.Since(began); took < tt.want-time.Millisecond || took > tt.want+50*time.Millisecond {
					t.Errorf("%d events at %v a second took %v, want %v", tt.events, tt.rate, took, tt.want)
				}
			})
		})
	}
}

func TestRunSocketTellsTheLine(t *testing.T) {
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(one(fmt.Sprint(i+1), "x") + "\n")
		}
		return b.String()
	}
	for _, tt := range []struct {
		name, in, refuse string
		accepted         int
		want             string
	}{
		{"all taken", lines(3000), "", 3000, ""},
		{"an array", "[" + one("1", "x") + ",\n" + one("2", "x") + "]", "", 2, ""},
		{"rejected", lines(3), "3", 2, "line 3:"},
		{"no event", lines(2) + "{}\n" + lines(1), "", 2, "line 3:"},
		{"rejected before what is no event", lines(2) + "{}\n", "2", 1, "line 2:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := notebook{refuse: map[string]*schemas.Problem{tt.refuse: {Name: "forbidden", Detail: "No."}}}
			socket, err := to.start(t).OpenSocket(t.Context(), "t")
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			got, err := RunSocket(t.Context(), strings.NewReader(tt.in), socket, Options{Topic: "t"})
			if got.Accepted != tt.accepted || (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %+v, %v; want %d accepted and %q", got, err, tt.accepted, tt.want)
			}
		})
	}
}

// Of many events the one that is rejected is told, though others are on their way.
func TestRunSocketTellsTheLineAmongMany(t *testing.T) {
	var in strings.Builder
	for i := range 5000 {
		in.WriteString(one(fmt.Sprint(i+1), "x") + "\n")
	}
	to := notebook{refuse: map[string]*schemas.Problem{"4000": {Name: "forbidden", Detail: "No."}}}
	socket, err := to.start(t).OpenSocket(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	got, err := RunSocket(t.Context(), strings.NewReader(in.String()), socket, Options{Topic: "t"})
	if got.Accepted < 3999 || got.Accepted > 4999 || !errors.Is(err, schemas.ErrForbidden) || !strings.HasPrefix(err.Error(), "line 4000:") {
		t.Errorf("got %+v, %v; want line 4000", got, err)
	}
}

package relay_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// A listener with an open rendezvous hears by Close 1001 that the sender has gone.
func TestSenderGoneAtRendezvous(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	t.Run("before the answer", func(t *testing.T) {
		s, q := w.relayed(t, control, "GET", "/app")
		p := dial(t, q.dialed(t))
		s.conn.Close()
		p.expectClose(1001, "sender-gone")
	})
	t.Run("in the answer", func(t *testing.T) {
		s, q := w.relayed(t, control, "GET", "/app")
		p := dial(t, q.dialed(t))
		p.text(answerText(q.ID, `"statusCode":200,"body":true`))
		p.send(0x02, "some")
		s.head("GET")
		s.conn.Close()
		p.expectClose(1001, "sender-gone")
	})
	t.Run("in the request", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Transfer-Encoding: chunked")+"3\r\nabc\r\n")
		p := dial(t, control.request().dialed(t))
		p.request()
		p.expect(0x02, "abc")
		s.conn.Close()
		p.expectClose(1001, "sender-gone")
	})
	t.Run("before the pointer is followed", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Transfer-Encoding: chunked")+"3\r\nabc\r\n")
		address := control.request().dialed(t)
		s.conn.Close()
		// Not refused: hyco-https would not survive it.
		p := dial(t, address)
		for {
			first, _ := p.next()
			if first == 0x88 {
				break
			}
		}
	})
}

// A listener that has asked for it hears on the control channel too that a sender has
// gone; others hear nothing that Azure's protocol does not have.
func TestSenderGoneOnControlChannel(t *testing.T) {
	w := start(t, nil)
	asked := w.listen(t, "asked", "&sb-hc-cancels=true")
	plain := w.listen(t, "plain")
	for _, control := range []*peer{asked, plain} {
		path := "/asked"
		if control == plain {
			path = "/plain"
		}
		s, q := w.relayed(t, control, "GET", path)
		s.conn.Close()
		if control == asked {
			control.expect(0x81, `{"cancel":{"id":"`+q.ID+`"}}`)
		}
		// An answered one is no news, on whichever way.
		s, q = w.relayed(t, control, "GET", path)
		control.reply(q.ID, `"statusCode":200,"body":false`)
		s.answer("GET")
		s.conn.Close()
		s, q = w.relayed(t, control, "GET", path)
		dial(t, q.dialed(t)).reply(q.ID, `"statusCode":200,"body":true`, "x")
		s.answer("GET")
		s.conn.Close()
		s, q = w.relayed(t, control, "GET", path)
		control.reply(q.ID, `"statusCode":200,"body":true`, "still there")
		if _, body := s.answer("GET"); body != "still there" {
			t.Errorf("got %q", body)
		}
	}
}

// An answer may come before the request's body is complete; the rest of it is not
// waited for.
func TestEarlyAnswer(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s := w.sender(t, w.http("POST", "/app", "Transfer-Encoding: chunked")+"3\r\nabc\r\n")
	p := dial(t, control.request().dialed(t))
	q := p.request()
	p.expect(0x02, "abc")
	p.reply(q.ID, `"statusCode":403,"statusDescription":"Not You","body":true`, "no")
	if r, body := s.answer("POST"); r.StatusCode != 403 || body != "no" {
		t.Errorf("got %s %q", r.Status, body)
	}
	p.expectClose(1000, "")
}

// Both bodies may be under way at once.
func TestBothBodiesAtOnce(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s := w.sender(t, w.http("POST", "/app", "Transfer-Encoding: chunked")+"1\r\na\r\n")
	p := dial(t, control.request().dialed(t))
	q := p.request()
	p.expect(0x02, "a")
	p.text(answerText(q.ID, `"statusCode":200,"body":true`))
	r := s.head("POST")
	one := make([]byte, 1)
	first := byte(0x02)
	for _, c := range "bcd" {
		p.send(first, string(c))
		first = 0
		if _, err := io.ReadFull(r.Body, one); err != nil || rune(one[0]) != c {
			t.Fatalf("got %q (%v), want %q", one, err, c)
		}
		s.send("1\r\n" + string(c) + "\r\n")
		p.expect(0x00, string(c))
	}
	s.send("0\r\n\r\n")
	p.expect(0x80, "")
	p.send(0x80, "")
	if rest, err := io.ReadAll(r.Body); err != nil || len(rest) > 0 {
		t.Errorf("got %q (%v)", rest, err)
	}
	// And the connection goes on.
	s.send(w.http("GET", "/app"))
	q = control.request()
	control.reply(q.ID, `"statusCode":200,"body":true`, "next")
	if _, body := s.answer("GET"); body != "next" {
		t.Errorf("got %q", body)
	}
}

// Who does not read is not read from on the other side.
func TestRequestBackPressure(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	const much = 64 << 20 // far more than all buffers in between
	piece := strings.Repeat("x", 64<<10)
	// stuck writes until nothing is taken for a while and says how much was.
	stuck := func(write func() error, clear func(time.Time) error) (total int) {
		for total < much {
			if err := clear(time.Now().Add(500 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if write() != nil {
				return total
			}
			total += len(piece)
		}
		return total
	}
	t.Run("answer", func(t *testing.T) {
		s, q := w.relayed(t, control, "GET", "/app")
		p := dial(t, q.dialed(t))
		p.text(answerText(q.ID, `"statusCode":200,"body":true`))
		p.send(0x02, "x")
		s.head("GET")
		frame := clientFrame(0x00, []byte(piece))
		if total := stuck(func() error { _, err := p.conn.Write(frame); return err }, p.conn.SetWriteDeadline); total >= much {
			t.Errorf("the relay took %d bytes that the sender does not read", total)
		}
		s.conn.Close()
	})
	t.Run("request", func(t *testing.T) {
		s := w.sender(t, w.http("POST", "/app", "Content-Length: 1000000000"))
		p := dial(t, control.request().dialed(t))
		p.request()
		if total := stuck(func() error { _, err := io.WriteString(s.conn, piece); return err }, s.conn.SetWriteDeadline); total >= much {
			t.Errorf("the relay took %d bytes that the listener does not read", total)
		}
		s.conn.Close()
	})
}

// A drain lets requests that are under way end, and takes no new ones.
func TestDrainAndRequests(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	s, q := w.relayed(t, control, "GET", "/app")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	drained := make(chan struct{})
	go func() {
		w.Drain(ctx)
		close(drained)
	}()
	within(t, "a request during the drain gets 503", func() bool {
		r := await(t, w.asking(t, "GET", "/nobody", ""))
		return r.StatusCode == 503
	})
	control.reply(q.ID, `"statusCode":200,"body":true`, "done")
	if _, body := s.answer("GET"); body != "done" {
		t.Errorf("got %q", body)
	}
	control.expectClose(1001, "drain")
	control.close(1001, "")
	select {
	case <-drained:
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
}

// What is under way when the relay stops is cut off.
func TestStopCutsRequests(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "app")
	waiting := w.asking(t, "POST", "/app", "")
	control.request()
	streaming := w.asking(t, "POST", "/app", "")
	q := control.request()
	p := dial(t, q.dialed(t))
	p.text(answerText(q.ID, `"statusCode":200,"body":true`))
	stopped := make(chan struct{})
	go func() {
		w.stop()
		close(stopped)
	}()
	for _, c := range []chan reply{waiting, streaming} {
		select {
		case r := <-c:
			if r.err == nil && r.StatusCode < 500 {
				t.Errorf("got a whole answer: %s %q", r.Status, r.body)
			}
		case <-time.After(patience):
			t.Fatal("a request goes on")
		}
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("the relay does not stop")
	}
}

// What goes on is counted.
func TestRequestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Metrics = registry })
	control := w.listen(t, "app")
	w.exchange(t, control, "GET", `"statusCode":200,"body":true`, "hello")
	replies := w.asking(t, "POST", "/app", strings.Repeat("x", 70_000))
	p := dial(t, control.request().dialed(t))
	q := p.request()
	p.whole()
	p.text(answerText(q.ID, `"statusCode":200,"body":true`))
	p.send(0x02, "some")
	p.conn.Close()
	awaitCut(t, replies)
	s, _ := w.relayed(t, control, "GET", "/app")
	within(t, "a request is under way", func() bool { return metric(t, registry, "outrelay_relay_requests") == 1 })
	s.conn.Close()
	within(t, "none is", func() bool { return metric(t, registry, "outrelay_relay_requests") == 0 })
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "outrelay_relay_answers_total", []string{"namespace", "default", "way", "control"}},
		{1, "outrelay_relay_answers_total", []string{"namespace", "default", "way", "rendezvous"}},
		{1, "outrelay_relay_answers_cut_total", []string{"namespace", "default"}},
		{70_000, "outrelay_relay_body_bytes_total", []string{"namespace", "default", "direction", "to_listener"}},
		{9, "outrelay_relay_body_bytes_total", []string{"namespace", "default", "direction", "to_sender"}},
		{0, "outrelay_relay_held_bytes", nil},
		{0, "outrelay_relay_tunnels", nil},
	} {
		if got := metric(t, registry, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %v is %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
}

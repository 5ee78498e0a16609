package relay_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// gateways runs two gateways that meet on a NATS of their own.
func gateways(t testing.TB, change func(*relay.Config, *access.Config)) (one, two *world) {
	t.Helper()
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	if !nats.ReadyForConnections(patience) {
		t.Fatal("NATS was not ready in time")
	}
	worlds := [2]*world{}
	for i := range worlds {
		worlds[i] = &world{broker: runBroker(t, broker.Config{NATS: broker.NATSConfig{URL: nats.ClientURL()}})}
		worlds[i].serve(t, change)
	}
	return worlds[0], worlds[1]
}

// A request finds a listener on another gateway, and its answer on the control channel
// comes back: in pieces, if it is long.
func TestRequestToAnotherGateway(t *testing.T) {
	one, two := gateways(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayInlineBytes = 1 << 20 })
	control := two.listen(t, "app")
	for _, n := range []int{0, 1, 65536, 256 << 10, 256<<10 + 1, 1 << 20} {
		body := strings.Repeat("x", min(n, 65536))
		replies := one.asking(t, "POST", "/app", body)
		q := control.request()
		if n > 0 {
			control.expect(0x82, body)
		}
		answer := strings.Repeat("y", n)
		control.reply(q.ID, `"statusCode":201,"responseHeaders":{"X-A":"b"},"body":true`, answer)
		if r := await(t, replies); r.StatusCode != 201 || r.body != answer || r.Header.Get("X-A") != "b" {
			t.Errorf("%d bytes: got %s with %d", n, r.Status, len(r.body))
		}
	}
	replies := one.asking(t, "POST", "/app", "")
	q := control.request()
	control.reply(q.ID, `"statusCode":200,"body":true`, strings.Repeat("y", 1<<20+1))
	r := await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "longer than the limit")

	replies = one.asking(t, "POST", "/app", "")
	q = control.request()
	control.text(answerText(q.ID, `"statusCode":"what","body":false`))
	r = await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "status")

	// The listener is lost: known at once there too.
	replies = one.asking(t, "POST", "/app", "")
	control.request()
	control.conn.Close()
	r = await(t, replies)
	refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "lost")
}

// A sender that goes away is told to a listener of another gateway that has asked for it.
func TestSenderGoneAtAnotherGateway(t *testing.T) {
	one, two := gateways(t, nil)
	control := two.listen(t, "app", "&sb-hc-cancels=true")
	s := one.sender(t, one.http("GET", "/app"))
	q := control.request()
	s.conn.Close()
	control.expect(0x81, `{"cancel":{"id":"`+q.ID+`"}}`)
}

// A listener's rendezvous that lands on another gateway than its sender's is carried
// there: a WebSocket, and the bodies of HTTP requests.
func TestRendezvousAtAnotherGateway(t *testing.T) {
	one, two := gateways(t, nil)
	control := two.listen(t, "app")
	t.Run("WebSocket", func(t *testing.T) {
		waiting := one.connecting(t, "app?sb-hc-action=connect", "Sec-WebSocket-Protocol: a, b")
		m := control.message()
		listener := dial(t, m.Accept.dialed(t), "Sec-WebSocket-Protocol: b")
		sender := <-waiting
		if sender.answer.StatusCode != 101 || sender.answer.Header.Get("Sec-WebSocket-Protocol") != "b" {
			t.Fatalf("the sender got %s %v", sender.answer.Status, sender.answer.Header)
		}
		listener.text("first")
		sender.expect(0x81, "first")
		long := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB, more than the window
		go sender.binary(long)
		listener.joinedMessage(long)
		go listener.binary(long)
		sender.joinedMessage(long)
		sender.close(4001, "bye")
		listener.expectClose(4001, "bye")
		listener.text("still here")
		sender.expect(0x81, "still here")
		listener.close(4002, "bye too")
		sender.expectClose(4002, "bye too")
		sender.expectEnd()
		listener.expectEnd()
	})
	t.Run("decline", func(t *testing.T) {
		waiting := one.connecting(t, "app?sb-hc-action=connect")
		m := control.message()
		if p := handshake(t, m.Accept.dialed(t)+"&sb-hc-statusCode=451&sb-hc-statusDescription=Not+here"); p.answer.StatusCode != 410 {
			t.Errorf("the listener got %s, want 410", p.answer.Status)
		}
		if s := <-waiting; s.answer.Status != "451 Not here" {
			t.Errorf("the sender got %s", s.answer.Status)
		}
	})
	t.Run("request", func(t *testing.T) {
		body := strings.Repeat("x", 1<<20)
		replies := one.asking(t, "POST", "/app", body)
		p := dial(t, control.request().dialed(t))
		q := p.request()
		if got := p.whole(); got != body {
			t.Errorf("got %d bytes", len(got))
		}
		p.reply(q.ID, `"statusCode":200,"body":true`, body)
		if r := await(t, replies); r.body != body {
			t.Errorf("got %s with %d bytes", r.Status, len(r.body))
		}
		p.expectClose(1000, "")
		// Used up, and still not refused.
		dial(t, strings.TrimPrefix(q.Address, "ws://")).expectClose(1001, "sender-gone")
	})
	t.Run("sender gone", func(t *testing.T) {
		s := one.sender(t, one.http("GET", "/app"))
		q := control.request()
		p := dial(t, q.dialed(t))
		p.text(answerText(q.ID, `"statusCode":200,"body":true`))
		p.send(0x02, "some")
		s.head("GET")
		s.conn.Close()
		p.expectClose(1001, "sender-gone")
	})
	t.Run("listener gone", func(t *testing.T) {
		replies := one.asking(t, "POST", "/app", "")
		q := control.request()
		p := dial(t, q.dialed(t))
		p.conn.Close()
		r := await(t, replies)
		refused(t, r.Response, r.body, 502, "listener-failed", "BadGateway", "The listener")
	})
	t.Run("made up", func(t *testing.T) {
		waiting := one.connecting(t, "app?sb-hc-action=connect")
		address := control.message().Accept.dialed(t)
		at := strings.Index(address, "sb-hc-rendezvous=") + len("sb-hc-rendezvous=")
		wrong := []byte(address)
		for i := at + 20; i < at+30; i++ {
			wrong[i] = '0'
		}
		if p := handshake(t, string(wrong)); p.answer.StatusCode != 403 {
			t.Errorf("a made-up address got %s, want 403", p.answer.Status)
		}
		dial(t, address)
		if s := <-waiting; s.answer.StatusCode != 101 {
			t.Errorf("the sender got %s", s.answer.Status)
		}
		if p := handshake(t, address); p.answer.StatusCode != 403 {
			t.Errorf("a used address got %s, want 403", p.answer.Status)
		}
	})
}

// joinedMessage reads a message in any number of frames.
func (p *peer) joinedMessage(want string) {
	p.t.Helper()
	got := ""
	for {
		first, b := p.next()
		if got += string(b); first&0x80 != 0 {
			break
		}
	}
	if got != want {
		p.t.Fatalf("got a message of %d bytes, want %d", len(got), len(want))
	}
}

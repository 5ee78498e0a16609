package relay_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

// ping makes sure that the relay has read all that was sent before, and that it has
// nothing else to say.
func (p *peer) ping(payload string) {
	p.t.Helper()
	p.send(0x89, payload)
	p.expect(0x8A, payload)
}

// joins checks that a sender comes through to the control channel's listener.
func (w *world) joins(t testing.TB, control *peer, name string) {
	t.Helper()
	sender, listener := w.pair(t, control, name)
	sender.text("hello")
	listener.expect(0x81, "hello")
	sender.conn.Close()
	listener.conn.Close()
}

// 101 means registered: no further message comes, no extension is agreed on, and a
// subprotocol that is offered is taken.
func TestListenIsRegisteredWithThe101(t *testing.T) {
	w := start(t, nil)
	control := dial(t, w.host+"/$hc/name?sb-hc-action=listen", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
	if got := control.answer.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("the answer agrees on %q", got)
	}
	if got := control.answer.Header.Get("Sec-WebSocket-Protocol"); got != "" {
		t.Errorf("the answer names the subprotocol %q, which nobody offered", got)
	}
	if got := control.answer.Header.Get("TrackingId"); !strings.HasSuffix(got, "_G0") {
		t.Errorf("the header TrackingId is %q", got)
	}
	if control.answer.Status != "101 Switching Protocols" || control.answer.ProtoMinor != 1 {
		t.Errorf("the status line is %s %s; .NET wants HTTP/1.1 101", control.answer.Proto, control.answer.Status)
	}
	control.ping("first thing")
	w.joins(t, control, "name")

	id := "0b7a4ad4-2ef7-4c5c-a48d-2f5a3b6c7d8e"
	with := dial(t, w.host+"/$hc/name?sb-hc-action=listen&sb-hc-id="+id, "Sec-WebSocket-Protocol: one, two")
	if got := with.answer.Header.Get("Sec-WebSocket-Protocol"); got != "one" {
		t.Errorf("offered one and two, the answer takes %q", got)
	}
	if got := with.answer.Header.Get("TrackingId"); got != id+"_G0" {
		t.Errorf("the header TrackingId is %q for the id %s", got, id)
	}
}

// A handshake that is none is refused with a problem.
func TestBadHandshakesAreRefused(t *testing.T) {
	w := start(t, nil)
	for _, action := range []string{"listen", "connect", "accept"} {
		for name, change := range map[string]func(http.Header){
			"version":  func(h http.Header) { h.Set("Sec-WebSocket-Version", "8") },
			"no key":   func(h http.Header) { h.Del("Sec-WebSocket-Key") },
			"bad key":  func(h http.Header) { h.Set("Sec-WebSocket-Key", "?") },
			"two keys": func(h http.Header) { h.Add("Sec-WebSocket-Key", testKey) },
		} {
			q, err := http.NewRequest("GET", "http://"+w.host+"/$hc/name?sb-hc-action="+action, nil)
			if err != nil {
				t.Fatal(err)
			}
			q.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testKey}}
			change(q.Header)
			answer, err := http.DefaultTransport.RoundTrip(q)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != 426 {
				t.Errorf("%s with %s: %s, want 426", action, name, answer.Status)
			}
		}
	}
}

// Up to 25 listeners have a name; one more is refused with 403, and gets in once one has
// left.
func TestListenersPerName(t *testing.T) {
	w := start(t, nil)
	var all []*peer
	for range 25 {
		all = append(all, w.listen(t, "name"))
	}
	handshake(t, w.host+"/$hc/Name?sb-hc-action=listen").refused(403, "QuotaExceeded")
	w.listen(t, "other")
	all[7].close(1000, "")
	all[7].expectClose(1000, "")
	within(t, "a place is free", func() bool {
		return handshake(t, w.host+"/$hc/name?sb-hc-action=listen").answer.StatusCode == 101
	})
}

// within waits for a condition.
func within(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

// One program may register twice, even with the same id: the listeners are two.
func TestListenerIDsMayRepeat(t *testing.T) {
	w := start(t, nil)
	const id = "&sb-hc-id=0b7a4ad4-2ef7-4c5c-a48d-2f5a3b6c7d8e"
	first, second := w.listen(t, "name", id), w.listen(t, "name", id)
	first.close(1000, "")
	first.expectClose(1000, "")
	first.expectEnd()
	w.joins(t, second, "name")
}

// Listeners share their senders at random and about evenly, and one that is gone is not
// chosen again.
func TestListenersShareEvenly(t *testing.T) {
	w := start(t, nil)
	const senders = 60
	served := make(chan int, senders)
	for i := range 3 {
		control := w.listen(t, "name")
		if i == 0 {
			control.close(1000, "")
			control.expectClose(1000, "")
			continue
		}
		done := make(chan struct{})
		t.Cleanup(func() { control.conn.Close(); <-done })
		go func() { // the listener; ends with its control channel
			defer close(done)
			for {
				control.conn.SetReadDeadline(time.Now().Add(patience))
				f, b, err := control.frame()
				if err != nil {
					return
				}
				if f == 0x81 {
					served <- i
					if m, err := parseMessage(b); err == nil {
						answerOffer(m.Accept)
					}
				}
			}
		}()
	}
	counts := map[int]int{}
	for range senders {
		p := dial(t, w.host+"/$hc/name?sb-hc-action=connect")
		p.conn.Close()
		counts[<-served]++
	}
	// fewer than 10 of 60 tosses of a coin: once in ten million
	if counts[0] != 0 || counts[1] < 10 || counts[2] < 10 {
		t.Errorf("the listeners served %v", counts)
	}
}

// What a listener says that is none of the messages is ignored, with its body: unknown
// objects, other JSON, no JSON, stray binary messages, late answers.
func TestControlChannelIgnoresOtherWords(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for _, text := range []string{
		`{"future":{"x":1}}`, `{}`, `[]`, `null`, `"text"`, `not JSON`, ``, `{"renewToken":null}`, `{"renewToken":7}`,
		`{"response":{"requestId":"unknown","statusCode":200,"body":true}}`,
	} {
		control.text(text)
		control.binary("a body that belongs to nothing")
	}
	control.send(0x02, "in ") // fragments, with a ping between
	control.ping("between")
	control.send(0x00, "two ")
	control.send(0x80, "and more")
	control.send(0x8A, "a pong that nobody asked for")
	control.ping("still here")
	w.joins(t, control, "name")
}

// The service pings, and answers pings; .NET and azbridge send pongs, which count as
// life.
func TestControlChannelIsPinged(t *testing.T) {
	const interval = 100 * time.Millisecond
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayPing = interval })
	control := w.listen(t, "name")
	for range 5 { // answers keep it alive
		f, b, err := control.frame()
		if err != nil || f != 0x89 {
			t.Fatalf("got frame %#x %q (%v), want a ping", f, b, err)
		}
		control.raw(clientFrame(0x8A, b))
	}
	for range 5 { // and so do pongs of its own
		if f, _, err := control.frame(); err != nil || f != 0x89 {
			t.Fatalf("got frame %#x (%v), want a ping", f, err)
		}
		control.send(0x8A, "unsolicited")
	}
}

// A listener that shows no sign of life for two and a half pings is closed with 1011,
// and not chosen any more.
func TestSilentListenerIsCut(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayPing = 100 * time.Millisecond })
	control := w.listen(t, "name")
	for {
		f, b, err := control.frame()
		if err != nil {
			t.Fatalf("the connection ended (%v) without a Close frame", err)
		}
		if f == 0x88 {
			if got := string(b[2:]); b[0] != 1011>>8 || b[1] != 1011&0xff || got != "silent" {
				t.Errorf("closed with %x %q, want 1011 silent", b[:2], got)
			}
			break
		}
	}
	handshake(t, w.host+"/$hc/name?sb-hc-action=connect").refused(404, "There are no listeners connected for the endpoint")
}

// A frame that breaks the protocol ends the control channel with 1002, a JSON message
// beyond the limit with 1009.
func TestControlChannelFaults(t *testing.T) {
	w := start(t, nil)
	for name, tt := range map[string]struct {
		bytes []byte
		code  int
	}{
		"unmasked":             {[]byte{0x81, 1, 'x'}, 1002},
		"reserved bit":         {clientFrame(0xC1, nil), 1002},
		"unknown opcode":       {clientFrame(0x83, nil), 1002},
		"continuation of none": {clientFrame(0x80, nil), 1002},
		"long ping":            {clientFrame(0x89, make([]byte, 126)), 1002},
		"long message":         {clientFrame(0x81, make([]byte, 200<<10)), 1009},
	} {
		t.Run(name, func(t *testing.T) {
			control := w.listen(t, "name")
			control.raw(tt.bytes)
			control.expectClose(tt.code, "")
			control.expectEnd()
		})
	}
}

// The listener closes with 1000, which is answered, and what is joined stays.
func TestListenerCloses(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	sender, listener := w.pair(t, control, "name")
	control.close(1000, "bye")
	control.expectClose(1000, "")
	control.expectEnd()
	handshake(t, w.host+"/$hc/name?sb-hc-action=connect").refused(404, "There are no listeners connected for the endpoint")
	sender.text("outlives")
	listener.expect(0x81, "outlives")
}

// A listener that vanishes without a word is forgotten at once.
func TestListenerVanishes(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	control.conn.(*net.TCPConn).SetLinger(0)
	control.conn.Close()
	within(t, "404", func() bool {
		return handshake(t, w.host+"/$hc/name?sb-hc-action=connect").answer.StatusCode == 404
	})
}

func listenToken(life time.Duration) string {
	return sign("http%3A%2F%2F127.0.0.1%2Fshop%2Fprinter", "root", rootKey, time.Now().Add(life))
}

func renewal(token string) string { return `{"renewToken":{"token":"` + token + `"}}` }

// renewToken with a good token has no answer, and the control channel outlives the first
// one, also with another key that may listen.
func TestRenewToken(t *testing.T) {
	t.Parallel()
	w := start(t, closedNamespace)
	control := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+listenToken(2*time.Second))
	lapsing := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+listenToken(2*time.Second))
	waiting := w.connecting(t, "shop/printer?sb-hc-action=connect", "ServiceBusAuthorization: "+tokenFor("shop/printer", "root", rootKey))
	var m message
	within(t, "one of the listeners is asked", func() bool {
		var ok bool
		if m, ok = control.offered(); !ok {
			m, ok = lapsing.offered()
		}
		return ok
	})
	listener := dial(t, m.Accept.dialed(t))
	sender := <-waiting

	control.text(renewal(tokenFor("shop/printer", "listen", listenKey)))
	control.ping("no answer to the renewal")
	// the one that renews nothing is closed at its token's end and grace
	lapsing.expectClose(1008, "token-expired")
	control.ping("still here")
	w.joinsWith(t, control)
	sender.text("established connections outlive the token")
	listener.expect(0x81, "established connections outlive the token")
}

// offered reads the next message if the relay has sent one before its answer to a ping.
func (p *peer) offered() (message, bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for n := 0; time.Now().Before(deadline); n++ {
		p.send(0x89, "offered?")
		f, b := p.next()
		if f == 0x81 {
			m, err := parseMessage(b)
			if err != nil {
				p.t.Fatalf("message %s: %v", b, err)
			}
			p.expect(0x8A, "offered?")
			return m, true
		}
		if n == 200 {
			return message{}, false
		}
	}
	return message{}, false
}

func (w *world) joinsWith(t testing.TB, control *peer) {
	t.Helper()
	waiting := w.connecting(t, "shop/printer?sb-hc-action=connect", "ServiceBusAuthorization: "+tokenFor("shop/printer", "root", rootKey))
	dial(t, control.message().Accept.dialed(t))
	if p := <-waiting; p.answer.StatusCode != 101 {
		t.Fatalf("the sender got %s", p.answer.Status)
	}
}

// A renewal that is refused closes the control channel with 1008.
func TestRefusedRenewalCloses(t *testing.T) {
	w := start(t, closedNamespace)
	for name, token := range map[string]string{
		"malformed":     "nonsense",
		"empty":         "",
		"expired":       listenToken(-time.Minute),
		"another path":  tokenFor("shop/other", "root", rootKey),
		"bad signature": tokenFor("shop/printer", "root", "some other key that is long"),
		"send only":     tokenFor("shop/printer", "send", sendKey),
	} {
		t.Run(name, func(t *testing.T) {
			control := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("shop/printer", "root", rootKey))
			control.text(renewal(token))
			control.expectClose(1008, "token-expired")
			control.expectEnd()
		})
	}
}

// A control channel whose hybrid connection the config no longer knows is closed with
// 1001, one whose key is gone with 1008.
func TestReloadClosesListeners(t *testing.T) {
	w := start(t, closedNamespace)
	token := "ServiceBusAuthorization: " + tokenFor("", "root", rootKey)
	printer := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", token)
	open := dial(t, w.host+"/$hc/open?sb-hc-action=listen", token)
	own := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("shop/printer", "own", entityKey))
	if err := w.Reload(map[string][]relay.Rule{"default": {{Name: "shop/printer"}}}); err != nil {
		t.Fatal(err)
	}
	open.expectClose(1001, "deleted")
	open.expectEnd()
	printer.ping("still here")
	if err := w.policy.Reload(access.Config{Namespaces: map[string]access.Namespace{"default": {
		Hosts: []string{"127.0.0.1"},
		Keys:  []access.Key{{Name: "root", Primary: rootKey, Rights: []string{"send", "listen", "manage"}}},
	}}}); err != nil {
		t.Fatal(err)
	}
	own.expectClose(1008, "right-lost")
	own.expectEnd()
	printer.ping("still here")
}

// A listener that was told of its end is found by nobody, though it has not answered.
func TestClosedListenerIsNotFound(t *testing.T) {
	w := start(t, closedNamespace)
	own := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+tokenFor("shop/printer", "own", entityKey))
	if err := w.policy.Reload(access.Config{Namespaces: map[string]access.Namespace{"default": {
		Hosts: []string{"127.0.0.1"},
		Keys:  []access.Key{{Name: "root", Primary: rootKey, Rights: []string{"send", "listen", "manage"}}},
	}}}); err != nil {
		t.Fatal(err)
	}
	own.expectClose(1008, "right-lost")
	handshake(t, w.host+"/$hc/shop/printer?sb-hc-action=connect", "ServiceBusAuthorization: "+tokenFor("shop/printer", "root", rootKey)).
		refused(404, "There are no listeners connected for the endpoint")
}

// A drain closes control channels with 1001, refuses new ones with 503, and leaves
// joined pairs until its end.
func TestDrainClosesListeners(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	sender, listener := w.pair(t, control, "name")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drained := make(chan struct{})
	go func() { defer close(drained); w.Drain(ctx) }()
	control.expectClose(1001, "drain")
	control.conn.Close()
	handshake(t, w.host+"/$hc/name?sb-hc-action=listen").refused(503, "")
	sender.text("goes on")
	listener.expect(0x81, "goes on")
	sender.close(1000, "")
	listener.expectClose(1000, "")
	listener.close(1000, "")
	sender.expectClose(1000, "")
	<-drained
}

// More listeners than the gateway takes are refused, and so is what can't be a name.
func TestListenLimits(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayListeners = 2 })
	w.listen(t, "one")
	w.listen(t, "two")
	p := handshake(t, w.host+"/$hc/three?sb-hc-action=listen")
	p.refused(429, "")
	if p.answer.Header.Get("Retry-After") == "" {
		t.Error("the refusal has no Retry-After")
	}
	for _, name := range []string{"", "a//b", "a%2Fb", strings.Repeat("a/", 14) + "a", strings.Repeat("a", 65), "a*b", url.PathEscape("ü")} {
		handshake(t, w.host+"/$hc/"+name+"?sb-hc-action=listen").refused(400, "")
	}
}

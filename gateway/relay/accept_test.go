package relay_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// The listener has its 101 first, then the sender; both name the subprotocol of the
// listener's handshake, or none.
func TestSubprotocols(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for _, tt := range []struct {
		offered, chosen string
	}{
		{"one, two", "two"}, {"one, two", "one"}, {"one, two", ""}, {"", ""}, {"one", "one, two"},
	} {
		header := func(value string) []string {
			if value == "" {
				return nil
			}
			return []string{"Sec-WebSocket-Protocol: " + value}
		}
		waiting := w.connecting(t, "name", header(tt.offered)...)
		o := control.message().Accept
		if got := o.ConnectHeaders["Sec-WebSocket-Protocol"]; got != tt.offered {
			t.Errorf("the listener is offered %q, want %q", got, tt.offered)
		}
		select {
		case p := <-waiting:
			t.Fatalf("the sender is answered %s before the listener", p.answer.Status)
		default:
		}
		listener := dial(t, o.dialed(t), header(tt.chosen)...)
		sender := <-waiting
		for name, p := range map[string]*peer{"listener": listener, "sender": sender} {
			if got := p.answer.Header.Get("Sec-WebSocket-Protocol"); got != tt.chosen {
				t.Errorf("%q chosen of %q: the %s's answer has %q", tt.chosen, tt.offered, name, got)
			}
			if got := p.answer.Header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Errorf("the %s's answer has the key %q", name, got)
			}
		}
	}
}

// An extension that the listener chose of the sender's offer is copied to both answers
// and its frames pass; one that nobody agreed on is never invented, hyco-ws's header
// named "0" is ignored, and reserved bits are faults.
func TestExtensions(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for _, tt := range []struct{ offered, chosen, agreed string }{
		{"permessage-deflate; client_max_window_bits", "permessage-deflate", "permessage-deflate"},
		{"x-own, permessage-deflate", "x-own; a=1", "x-own; a=1"},
		{"permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits", ""}, // another offer
		{"", "permessage-deflate", ""},
		{"x-other", "permessage-deflate", ""},
		{"permessage-deflate", "", ""},
	} {
		var offer, choice []string
		if tt.offered != "" {
			offer = []string{"Sec-WebSocket-Extensions: " + tt.offered}
		}
		if choice = []string{"0: Sec-WebSocket-Extensions: permessage-deflate"}; tt.chosen != "" {
			choice = append(choice, "Sec-WebSocket-Extensions: "+tt.chosen)
		}
		waiting := w.connecting(t, "name", offer...)
		o := control.message().Accept
		if got := o.ConnectHeaders["Sec-WebSocket-Extensions"]; got != tt.offered {
			t.Errorf("the listener is offered %q, want %q", got, tt.offered)
		}
		listener := dial(t, o.dialed(t), choice...)
		sender := <-waiting
		for _, p := range []*peer{listener, sender} {
			if got := p.answer.Header.Get("Sec-WebSocket-Extensions"); got != tt.agreed {
				t.Errorf("%q chosen of %q: an answer has %q, want %q", tt.chosen, tt.offered, got, tt.agreed)
			}
		}
		sender.send(0xC1, "a reserved bit")
		if tt.agreed != "" {
			listener.expect(0xC1, "a reserved bit")
		} else {
			sender.expectClose(1002, "protocol")
			listener.expectClose(1011, "peer-lost")
		}
	}
}

// What either side says right behind its handshake is kept, in order.
func TestEarlyData(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	sender := begin(t, w.host+"/$hc/name")
	var early []byte // in the handshake's packet or the next
	for n := range 100 {
		early = append(early, clientFrame(0x81, fmt.Appendf(nil, "sender %d", n))...)
	}
	sender.raw(early)
	o := control.message().Accept
	listener := begin(t, o.dialed(t))
	listener.text("listener 0")
	listener.answered()
	listener.text("listener 1")
	sender.answered()
	if listener.answer.StatusCode != 101 || sender.answer.StatusCode != 101 {
		t.Fatalf("answers: %s and %s", listener.answer.Status, sender.answer.Status)
	}
	sender.expect(0x81, "listener 0")
	sender.expect(0x81, "listener 1")
	for n := range 100 {
		listener.expect(0x81, fmt.Sprintf("sender %d", n))
	}
}

// A listener rejects by status and description: it gets 410 Gone, the sender the status
// and the description as its reason phrase.
func TestReject(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for _, tt := range []struct {
		query, status string
	}{
		{"&sb-hc-statusCode=400&sb-hc-statusDescription=Rejected+by+user+code", "400 Rejected by user code"}, // .NET's default
		{"&sb-hc-statusCode=502&sb-hc-statusDescription=100%25+%26+more", "502 100% & more"},
		{"&SB-HC-STATUSCODE=404&sb-hc-statusdescription=Not%20here", "404 Not here"},
		{"&sb-hc-statusCode=404", "404 Not Found"},
		{"&sb-hc-statusCode=999&sb-hc-statusDescription=own", "999 own"},
		{"&sb-hc-statusCode=101", "502 Bad Gateway"}, // which is no end of a handshake
		{"&sb-hc-statusCode=403&sb-hc-statusDescription=a%0D%0AInjected:+b", "403 a  Injected: b"},
	} {
		waiting := w.connecting(t, "name")
		o := control.message().Accept
		listener := handshake(t, o.dialed(t)+tt.query)
		if listener.answer.Status != "410 Gone" {
			t.Errorf("%s: the listener gets %s, want 410 Gone", tt.query, listener.answer.Status)
		}
		sender := <-waiting
		if sender.answer.Status != tt.status {
			t.Errorf("%s: the sender gets %q, want %q", tt.query, sender.answer.Status, tt.status)
		}
		if sender.answer.Header.Get("Injected") != "" {
			t.Error("a header was injected")
		}
		handshake(t, o.dialed(t)).refused(403, "") // used
	}
}

// A rejection whose status is none is 400 for the listener, and the address stays good.
func TestRejectWithABadStatus(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	waiting := w.connecting(t, "name")
	o := control.message().Accept
	for _, status := range []string{"", "99", "1000", "abc", "-1", "4e2", "101x"} {
		handshake(t, o.dialed(t)+"&sb-hc-statusCode="+status).refused(400, "sb-hc-statusCode")
	}
	dial(t, o.dialed(t)).text("taken")
	(<-waiting).expect(0x81, "taken")
}

// A status of the 100s would end no handshake: the sender gets 502 with the description.
func TestRejectWithInformation(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	sender := begin(t, w.host+"/$hc/name")
	o := control.message().Accept
	if p := handshake(t, o.dialed(t)+"&sb-hc-statusCode=101&sb-hc-statusDescription=x"); p.answer.StatusCode != 410 {
		t.Errorf("the listener gets %s, want 410", p.answer.Status)
	}
	sender.answered()
	if sender.answer.Status != "502 x" {
		t.Fatalf("the sender gets %s", sender.answer.Status)
	}
}

// hyco-websocket rejects with statusCode instead of sb-hc-statusCode, which is no
// parameter of the protocol: it accepts.
func TestStatusCodeWithoutPrefixAccepts(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	waiting := w.connecting(t, "name")
	o := control.message().Accept
	dial(t, o.dialed(t)+"&statusCode=404&statusDescription=x")
	if p := <-waiting; p.answer.StatusCode != 101 {
		t.Fatalf("the sender gets %s", p.answer.Status)
	}
}

// An address is good once, for its own hybrid connection and action; whoever comes later,
// or with another, is refused and joins nobody.
func TestAddressIsGoodOnce(t *testing.T) {
	w := start(t, nil)
	control, other := w.listen(t, "name"), w.listen(t, "other")
	waiting, theirs := w.connecting(t, "name"), w.connecting(t, "other")
	o, p := control.message().Accept, other.message().Accept
	address := o.dialed(t)
	for what, wrong := range map[string]string{
		"another name":      strings.Replace(address, "/name?", "/other?", 1),
		"another action":    strings.Replace(address, "=accept", "=request", 1),
		"no secret":         address[:strings.LastIndex(address, "=")+1],
		"a shorter secret":  address[:len(address)-1],
		"a changed secret":  address[:len(address)-1] + string("0123456789abcdef0"[strings.IndexByte("0123456789abcdef", address[len(address)-1])+1]),
		"upper-case secret": strings.ToUpper(address[strings.LastIndex(address, "=")+1:]),
	} {
		if what == "upper-case secret" {
			wrong = address[:strings.LastIndex(address, "=")+1] + wrong
			if wrong == address {
				continue
			}
		}
		handshake(t, wrong).refused(403, "")
	}
	handshake(t, address+"&sb-hc-rendezvous="+url.QueryEscape(p.Address)) // the first of two counts
	if got := <-waiting; got.answer.StatusCode != 101 {
		t.Fatalf("the sender gets %s", got.answer.Status)
	}
	handshake(t, address).refused(403, "")
	dial(t, p.dialed(t))
	<-theirs
	handshake(t, p.dialed(t)).refused(403, "")
}

// Two that dial the same address at the same time: exactly one is joined.
func TestAddressIsGoodOnceAtATime(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for range 20 {
		waiting := w.connecting(t, "name")
		o := control.message().Accept
		var all sync.WaitGroup
		won := make(chan *peer, 8)
		for range cap(won) {
			all.Go(func() {
				if p := handshake(t, o.dialed(t)); p.answer.StatusCode == 101 {
					won <- p
				}
			})
		}
		all.Wait()
		close(won)
		if len(won) != 1 {
			t.Fatalf("%d listeners were joined", len(won))
		}
		sender := <-waiting
		(<-won).text("only me")
		sender.expect(0x81, "only me")
	}
}

// Of many random, stale and replayed addresses none joins, and the senders that wait
// meanwhile are joined by their own listener's answer only. Small in short form; the
// full count is 10,000.
func TestWrongAddressesJoinNothing(t *testing.T) {
	count := 1000
	if os.Getenv("OUTRELAY_SOAK") != "" {
		count = 10_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d addresses, seed %d", count, seed)
	w := start(t, nil)
	control := w.listen(t, "name")
	var used []string // addresses that were good once
	for range 20 {
		waiting := w.connecting(t, "name")
		address := control.message().Accept.dialed(t)
		used = append(used, address)
		dial(t, address).conn.Close()
		(<-waiting).conn.Close()
	}
	var pending []chan *peer
	var good []string
	for range 20 {
		pending = append(pending, w.connecting(t, "name"))
		good = append(good, control.message().Accept.dialed(t))
	}
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			for range count / 8 {
				address := wrongAddress(r, used, good)
				if p := handshake(t, address); p.answer.StatusCode == 101 {
					// Only one whose sender's time was up for an HTTP answer is ever let
					// in, to be told so.
					t.Errorf("%s was let in", address)
				}
			}
		})
	}
	workers.Wait()
	for i, address := range good {
		listener := dial(t, address)
		sender := <-pending[i]
		if sender.answer.StatusCode != 101 {
			t.Fatalf("the sender gets %s", sender.answer.Status)
		}
		listener.text(address)
		sender.expect(0x81, address)
	}
}

// wrongAddress makes an address that is none, of some that were good and some that are.
func wrongAddress(r *rand.Rand, used, good []string) string {
	address := good[r.IntN(len(good))]
	at := strings.LastIndex(address, "=") + 1
	secret := []byte(address[at:])
	switch r.IntN(7) {
	case 0: // replayed
		return used[r.IntN(len(used))]
	case 1: // random, of the right gateway and length
		for i := 16; i < len(secret); i++ {
			secret[i] = "0123456789abcdef"[r.IntN(16)]
		}
	case 2: // one digit off
		i := r.IntN(len(secret))
		secret[i] = "123456789abcdef0"[strings.IndexByte("0123456789abcdef", secret[i])]
	case 3: // half of one, half of another
		other := used[r.IntN(len(used))]
		copy(secret[24:], other[strings.LastIndex(other, "=")+1:][24:])
	case 4: // cut
		secret = secret[:r.IntN(len(secret))]
	case 5: // of the other kind
		return strings.Replace(address, "sb-hc-action=accept", "sb-hc-action=request", 1)
	case 6: // of another hybrid connection
		return strings.Replace(address, "/name?", "/other?", 1)
	}
	return address[:at] + string(secret)
}

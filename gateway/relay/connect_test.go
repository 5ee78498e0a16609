package relay_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/gateway/access"
	"github.com/outrelay/outrelay/gateway/relay"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// offer connects a sender and returns what the listener is told; the sender is let go.
func (w *world) offer(t testing.TB, control *peer, path string, headers ...string) *offer {
	t.Helper()
	waiting := w.connecting(t, path, headers...)
	m := control.message()
	if m.Accept == nil {
		t.Fatal("got no accept message")
	}
	listener := dial(t, m.Accept.dialed(t))
	if sender := <-waiting; sender.answer.StatusCode != 101 {
		t.Fatalf("the sender got %s", sender.answer.Status)
	} else {
		sender.conn.Close()
	}
	listener.conn.Close()
	return m.Accept
}

// The accept message has one member at top level, with an id in which Java finds a UUID,
// headers that are strings, and the sender's address, which Java insists on.
func TestAcceptMessage(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	waiting := w.connecting(t, "name?sb-hc-action=connect", "X-Twice: one", "X-Twice: two", "Cookie: a=1", "Cookie: b=2",
		"User-Agent: \"quoted\" \\ and Latin-1 \xe9", "Sec-WebSocket-Protocol: one, two", "ServiceBusAuthorization: "+tokenFor("name", "root", rootKey)+"x")
	p := <-waiting // a token that is given is checked
	p.refused(401, "")
	waiting = w.connecting(t, "name?sb-hc-action=connect", "X-Twice: one", "X-Twice: two", "Cookie: a=1", "Cookie: b=2",
		"User-Agent: \"quoted\" \\ and Latin-1 \xe9", "Sec-WebSocket-Protocol: one, two")
	f, b := control.next()
	if f != 0x81 {
		t.Fatalf("got frame %#x, want text", f)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(b, &top); err != nil || len(top) != 1 || top["accept"] == nil {
		t.Fatalf("the message %s (%v) has not the one member accept", b, err)
	}
	var accept map[string]json.RawMessage
	var headers map[string]string
	var remote struct {
		Address string
		Port    int
	}
	if err := json.Unmarshal(top["accept"], &accept); err != nil || len(accept) != 4 {
		t.Errorf("accept has %d members (%v): %s", len(accept), err, top["accept"])
	}
	if err := json.Unmarshal(accept["connectHeaders"], &headers); err != nil {
		t.Fatalf("connectHeaders are not all strings: %v", err)
	}
	for name, want := range map[string]string{
		"Host": w.host, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": testKey, "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Protocol": "one, two", "X-Twice": "one, two", "Cookie": "a=1; b=2", "User-Agent": "\"quoted\" \\ and Latin-1 é",
	} {
		if headers[name] != want {
			t.Errorf("connectHeaders has %s: %q, want %q", name, headers[name], want)
		}
	}
	if err := json.Unmarshal(accept["remoteEndpoint"], &remote); err != nil || !strings.HasPrefix(remote.Address, "127.") || remote.Port == 0 {
		t.Errorf("remoteEndpoint is %s (%v)", accept["remoteEndpoint"], err)
	}
	var id string
	if err := json.Unmarshal(accept["id"], &id); err != nil || len(id) < 36 || !uuid.MatchString(id[:36]) {
		t.Errorf("the id is %s, which does not begin with a UUID", accept["id"])
	}
	m, err := parseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	dial(t, m.Accept.dialed(t), "Sec-WebSocket-Protocol: one")
	<-waiting
}

// The address is used as it is: the host that the listener has reached the relay by, the
// sender's path and query, and parameters in which Java finds no second "=".
func TestAcceptAddress(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "shop/printer")
	o := w.offer(t, control, "Shop/Printer/tray%20one//2/?x=1&y=%3D%26&sb-hc-action=connect&empty=&&null&z")
	u, err := url.Parse(o.Address)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme != "ws" || u.Host != w.host {
		t.Errorf("the address is on %s://%s", u.Scheme, u.Host)
	}
	if got := u.EscapedPath(); got != "/$hc/Shop/Printer/tray%20one//2/" {
		t.Errorf("the path is %q", got)
	}
	own, ours, found := strings.Cut(u.RawQuery, "&sb-hc-action=")
	if own != "x=1&y=%3D%26&empty=&&null&z" || !found {
		t.Errorf("the sender's own query is %q", own)
	}
	ours = "sb-hc-action=" + ours
	decoded, err := url.QueryUnescape(ours)
	if err != nil || decoded != ours {
		t.Errorf("parameters of ours are percent-encoded: %s", ours)
	}
	parameters := map[string]string{}
	for part := range strings.SplitSeq(decoded, "&") {
		if strings.Count(part, "=") != 1 {
			t.Errorf("the part %q has not one \"=\"", part)
		}
		name, value, _ := strings.Cut(part, "=")
		parameters[name] = value
	}
	if parameters["sb-hc-action"] != "accept" || parameters["sb-hc-id"] != o.ID {
		t.Errorf("the parameters are %v, the id %s", parameters, o.ID)
	}
	if len(o.Address) > 2000 {
		t.Errorf("the address has %d bytes", len(o.Address))
	}
}

// Behind a proxy that ends TLS the listener is sent back to wss.
func TestAcceptAddressBehindProxy(t *testing.T) {
	w := start(t, nil)
	control := dial(t, w.host+"/$hc/name?sb-hc-action=listen", "X-Forwarded-Proto: https")
	waiting := w.connecting(t, "name?sb-hc-action=connect")
	o := control.message().Accept
	if !strings.HasPrefix(o.Address, "wss://"+w.host+"/$hc/name?") {
		t.Errorf("the address is %s", o.Address)
	}
	dial(t, o.dialed(t))
	<-waiting
}

// What of the query is passed on: parts whose name begins "sb-hc-", compared without case
// and decoded, go, if they have a "="; all else stays byte for byte and in order.
func TestQueryFilter(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for given, want := range map[string]string{
		"":                                        "",
		"a=1&b=2":                                 "a=1&b=2",
		"b=2&a=1&b=2":                             "b=2&a=1&b=2",
		"sb-hc-action=connect":                    "",
		"SB-HC-Action=connect&a=1":                "a=1",
		"a=1&sb-hc-action=connect":                "a=1",
		"%73b-hc-action=connect&a=1":              "a=1",
		"sb%2Dhc%2dfuture=x&a=1":                  "a=1",
		"sb-hc-x":                                 "sb-hc-x",
		"sb-hc-x=":                                "",
		"a=%41+%2f&sb-hc-action=connect&c=%zz":    "a=%41+%2f&c=%zz",
		"&&a&&sb-hc-action=connect&":              "&&a&&",
		"null&sb-hc-action=connect":               "null",
		"x=sb-hc-action=connect":                  "x=sb-hc-action=connect",
		"xsb-hc-action=1":                         "xsb-hc-action=1",
		"sb-hc-action=connect&sb-hc-future=1&y=%": "y=%",
	} {
		o := w.offer(t, control, "name?"+given)
		_, query, _ := strings.Cut(o.Address, "?")
		got, _, _ := strings.Cut(query, "sb-hc-action=accept&")
		got = strings.TrimSuffix(got, "&") // what joins the two
		if got != want {
			t.Errorf("of the query %q the listener gets %q, want %q (%s)", given, got, want, o.Address)
		}
	}
}

// An absent action means connect; its name and the parameter's are compared as the facts
// have it; any other is 400.
func TestActions(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	for _, query := range []string{"", "?sb-hc-action=connect", "?SB-HC-ACTION=connect", "?sb-hc%2Daction=conn%65ct"} {
		w.offer(t, control, "name"+query)
	}
	for _, action := range []string{"dance", "", "listen2"} {
		handshake(t, w.host+"/$hc/name?sb-hc-action="+action).refused(400, "sb-hc-action")
	}
}

// A request to /$hc that is no WebSocket handshake gets 400, whatever its method.
func TestHCIsForWebSocketsOnly(t *testing.T) {
	w := start(t, nil)
	w.listen(t, "name")
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		for _, query := range []string{"", "?sb-hc-action=listen", "?sb-hc-action=connect", "?sb-hc-action=accept&sb-hc-id=1"} {
			q, err := http.NewRequest(method, "http://"+w.host+"/$hc/name"+query, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultTransport.RoundTrip(q)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != 400 || !strings.Contains(answer.Status, "web sockets only") {
				t.Errorf("%s %s: %s", method, query, answer.Status)
			}
		}
	}
}

// The name is compared without case, and the longest that is known is taken; what follows
// is the suffix, which belongs to the application.
func TestLongestName(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Rules["default"] = []relay.Rule{{Name: "shop/away"}, {Name: "**"}}
	})
	shop, printer := w.listen(t, "shop"), w.listen(t, "SHOP/Printer/")
	for path, control := range map[string]*peer{
		"shop": shop, "Shop/": shop, "shop/scanner": shop, "shop/printers": shop, "shop/print/er": shop, "shop//printer": shop,
		"shop/printer": printer, "SHOP/PRINTER/": printer, "shop/printer/tray/2": printer, "shop/printer/*": printer,
	} {
		o := w.offer(t, control, path)
		if !strings.Contains(o.Address, "/$hc/"+path+"?") {
			t.Errorf("%s: the address is %s", path, o.Address)
		}
	}
	// a name of the rules keeps its senders while its listener is away
	handshake(t, w.host+"/$hc/shop/away/x?sb-hc-action=connect").refused(404, "There are no listeners connected for the endpoint")
	// an encoded slash is no separator
	o := w.offer(t, shop, "shop/a%2Fb")
	if !strings.Contains(o.Address, "/$hc/shop/a%2Fb?") {
		t.Errorf("the address is %s", o.Address)
	}
}

// Some clients send the "?" escaped, the token behind it too.
func TestEscapedQuestionMark(t *testing.T) {
	w := start(t, closedNamespace)
	token := url.QueryEscape(tokenFor("shop/printer", "root", rootKey))
	control := dial(t, w.host+"/$hc/shop/printer%3Fsb-hc-action=listen&sb-hc-token="+token)
	waiting := w.connecting(t, "shop/printer%3fSB-HC-action=connect&sb-hc-token="+token+"&x=1")
	o := control.message().Accept
	if !strings.Contains(o.Address, "/$hc/shop/printer?x=1&sb-hc-action=accept&") || strings.Contains(o.Address, "Signature") {
		t.Errorf("the address is %s", o.Address)
	}
	dial(t, o.dialed(t))
	if p := <-waiting; p.answer.StatusCode != 101 {
		t.Fatalf("the sender got %s", p.answer.Status)
	}
}

// A WebSocket on the plain address needs neither /$hc nor parameters; the listener is
// offered it as any other.
func TestPlainAddress(t *testing.T) {
	w := start(t, closedNamespace)
	token := tokenFor("shop/printer", "root", rootKey)
	control := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+token)
	for path, headers := range map[string][]string{
		"shop/printer/tray?x=1": {"Authorization: " + token},
		"Shop/Printer/tray?x=1&sb-hc-token=" + url.QueryEscape(token): nil,
	} {
		waiting := make(chan *peer, 1)
		go func() { waiting <- handshake(t, w.host+"/"+path, headers...) }()
		o := control.message().Accept
		if !regexp.MustCompile(`^ws://` + w.host + `/\$hc/[Ss]hop/[Pp]rinter/tray\?x=1&sb-hc-action=accept&`).MatchString(o.Address) {
			t.Errorf("the address is %s", o.Address)
		}
		if o.ConnectHeaders["Authorization"] != "" {
			t.Error("the listener got the token")
		}
		listener := dial(t, o.dialed(t))
		sender := <-waiting
		if sender.answer.StatusCode != 101 {
			t.Fatalf("the sender got %s", sender.answer.Status)
		}
		sender.text("hello")
		listener.expect(0x81, "hello")
	}
	handshake(t, w.host+"/shop/printer").refused(401, "")
	// actions are for /$hc: on a plain address the word is not looked at
	w.offer(t, control, "shop/printer?sb-hc-action=connect", "ServiceBusAuthorization: "+token)
	waiting := make(chan *peer, 1)
	go func() {
		waiting <- handshake(t, w.host+"/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+token)
	}()
	dial(t, control.message().Accept.dialed(t))
	if p := <-waiting; p.answer.StatusCode != 101 {
		t.Errorf("the sender got %s", p.answer.Status)
	}
}

// The sender's tracking id is the listener's too, in answers and offers; one that can't
// stand in them is replaced. Senders may repeat an id, and both are told apart.
func TestSenderIDs(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	const id = "0B7A4AD4-2ef7-4c5c-a48d-2f5a3b6c7d8e"
	o := w.offer(t, control, "name?sb-hc-id="+id)
	if !strings.HasPrefix(o.ID, id) {
		t.Errorf("the sender's id %s is %s at the listener", id, o.ID)
	}
	for _, bad := range []string{"", "a%26b", "a%3Db", "%22", strings.Repeat("a", 129), "a%20b", "%0d%0aX:%20y"} {
		if o := w.offer(t, control, "name?sb-hc-id="+bad); len(o.ID) < 36 || !uuid.MatchString(o.ID[:36]) {
			t.Errorf("for the id %q the listener gets %q", bad, o.ID)
		}
	}

	first, second := w.connecting(t, "name?sb-hc-id="+id), w.connecting(t, "name?sb-hc-id="+id)
	a, b := control.message().Accept, control.message().Accept
	if a.ID == b.ID || a.Address == b.Address {
		t.Fatalf("two senders have the id %s and the address %s", a.ID, a.Address)
	}
	if !strings.HasPrefix(a.ID, id) || !strings.HasPrefix(b.ID, id) {
		t.Errorf("the ids are %s and %s", a.ID, b.ID)
	}
	for _, o := range []*offer{b, a} { // answered in the other order
		l := dial(t, o.dialed(t))
		l.text(o.ID)
	}
	one, two := <-first, <-second
	got := map[string]bool{}
	for _, p := range []*peer{one, two} {
		f, payload := p.next()
		if f != 0x81 || !strings.HasPrefix(p.answer.Header.Get("TrackingId"), id) {
			t.Errorf("a sender got frame %#x, tracking id %s", f, p.answer.Header.Get("TrackingId"))
		}
		got[string(payload)] = true
	}
	if !got[a.ID] || !got[b.ID] {
		t.Errorf("the senders got %v", got)
	}
}

// The tokens of the sender never reach the listener; what belongs to the application
// does.
func TestTokensStayBehind(t *testing.T) {
	w := start(t, closedNamespace)
	token := tokenFor("shop/printer", "root", rootKey)
	control := dial(t, w.host+"/$hc/shop/printer?sb-hc-action=listen", "ServiceBusAuthorization: "+token)
	for name, headers := range map[string][]string{
		"ServiceBusAuthorization": {"ServiceBusAuthorization: " + token, "Authorization: Basic Zm9v"},
		"Authorization":           {"Authorization: " + token},
		"subprotocol":             {"Sec-WebSocket-Protocol: mine, outrelay.bearer." + base64url(token)},
		"query":                   nil,
	} {
		path := "shop/printer?access_token=theirs&sb-hc-action=connect"
		if headers == nil {
			path += "&sb-hc-token=" + url.QueryEscape(token)
		}
		o := w.offer(t, control, path, headers...)
		all, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"SharedAccessSignature", "outrelay.bearer", base64url(token)} {
			if strings.Contains(string(all), secret) {
				t.Errorf("%s: the listener gets %s", name, all)
			}
		}
		if !strings.Contains(o.Address, "?access_token=theirs&") {
			t.Errorf("%s: the address is %s", name, o.Address)
		}
		switch name {
		case "ServiceBusAuthorization":
			if got := o.ConnectHeaders["Authorization"]; got != "Basic Zm9v" {
				t.Errorf("the application's Authorization is %q", got)
			}
		case "subprotocol":
			if got := o.ConnectHeaders["Sec-WebSocket-Protocol"]; got != "mine" {
				t.Errorf("the listener is offered %q", got)
			}
		}
	}
}

// A hybrid connection for HTTP only refuses WebSockets: hyco-https dies on an accept
// message.
func TestHTTPOnlyRefusesWebSockets(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Rules["default"] = []relay.Rule{{Name: "http", NoWebSocket: true}}
	})
	control := w.listen(t, "http")
	handshake(t, w.host+"/$hc/http?sb-hc-action=connect").refused(400, "HTTP requests only")
	handshake(t, w.host+"/http").refused(400, "HTTP requests only")
	control.ping("nothing came")
}

// More joined pairs or waiting senders than the gateway takes are refused with 429.
func TestConnectLimits(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) {
		rc.Limits.RelayConnections, rc.Limits.RelayWaiting = 1, 2
	})
	control := w.listen(t, "name")
	first, second := w.connecting(t, "name"), w.connecting(t, "name")
	one := control.message().Accept
	control.message()
	handshake(t, w.host+"/$hc/name").refused(429, "senders that wait")
	dial(t, one.dialed(t))
	var joined *peer
	select {
	case joined = <-first:
	case joined = <-second:
	}
	p := handshake(t, w.host+"/$hc/name")
	p.refused(429, "joined connections")
	if p.answer.Header.Get("Retry-After") == "" {
		t.Error("the refusal has no Retry-After")
	}
	joined.conn.Close()
	control.conn.Close()
	select { // the other waits for a listener that is gone
	case p = <-first:
	case p = <-second:
	}
	p.refused(502, "")
}

// A sender that nobody answers in time gets 504; its address is worth nothing then.
func TestAcceptWindow(t *testing.T) {
	w := start(t, func(rc *relay.Config, _ *access.Config) { rc.Limits.RelayAccept = 200 * time.Millisecond })
	control := w.listen(t, "name")
	waiting := w.connecting(t, "name")
	o := control.message().Accept
	(<-waiting).refused(504, "None of the connected listeners accepted the connection")
	handshake(t, o.dialed(t)).refused(403, "")
}

// A listener whose control channel is lost before it answers costs its senders a 502 at
// once; one that is dialing already is still joined.
func TestListenerLostBeforeItAnswers(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	waiting := w.connecting(t, "name")
	control.message()
	began := time.Now()
	control.conn.Close()
	(<-waiting).refused(502, "lost")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the sender heard of it after %v", took)
	}
	control = w.listen(t, "name")
	waiting = w.connecting(t, "name")
	o := control.message().Accept
	control.conn.Close()
	dial(t, o.dialed(t)).text("made it")
	(<-waiting).expect(0x81, "made it")
}

// A sender that goes away is forgotten: its address is refused.
func TestSenderGoesAway(t *testing.T) {
	w := start(t, nil)
	control := w.listen(t, "name")
	sender := begin(t, w.host+"/$hc/name?sb-hc-action=connect")
	o := control.message().Accept
	sender.conn.Close()
	within(t, "the address is refused", func() bool {
		p := handshake(t, o.dialed(t)+"&x=1")
		if p.answer.StatusCode == 101 { // it was early, and hears of it
			if f, b := p.next(); f != 0x88 || string(b[2:]) != "sender-gone" && string(b[2:]) != "peer-lost" {
				t.Errorf("got frame %#x %q, want a Close frame", f, b)
			}
			return true
		}
		return p.answer.StatusCode == 403
	})
	w.joins(t, control, "name")
}
